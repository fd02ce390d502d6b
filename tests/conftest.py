"""Fixtures that every test file may use."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: small tensors on several threads crawl where another process wants a core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run; the sanitizers' run takes fewer.
settings.register_profile("freqrob", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("sanitized", settings.get_profile("freqrob"), max_examples=30)
settings.load_profile("freqrob")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Facts, golden arrays and data that lie beside the checkout; a test that needs them is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="module")
def tiny():
    """Registers "tiny", an architecture for 32×32 images that takes no time."""
    from torch import nn

    from freqrob.models import registry

    def build(num_classes):
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, num_classes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ARCHITECTURES, "tiny", build)
        yield


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
