"""Fixtures that every test file may use."""

import os
from pathlib import Path

import pytest

# Before torch is imported: small tensors on several threads crawl where another process wants a core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
