"""Fixtures that every test file may use."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Before torch is imported: small tensors on several threads crawl where another process wants a core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test asks for several, none spins while another waits

# The same examples in every run; the sanitizers' run takes fewer.
settings.register_profile("freqrob", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("sanitized", settings.get_profile("freqrob"), max_examples=30)
settings.load_profile("freqrob")

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data that lies beside the checkout; a test that needs it is skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden_bass() -> dict[str, np.ndarray]:
    """What the authors' BaSS code gives: 60 CIFAR-10 test images, a constant, a ramp and two noise images."""
    return dict(np.load(GOLDEN / "bass_official_cifar10.npz"))


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
def table1(monkeypatch):
    """The experiment ``doe2026:table1``, registered for one test."""
    from freqrob.reproduction.experiment import EXPERIMENTS, experiment
    from tests.support.doe2026 import Table1

    monkeypatch.setattr(Table1, "measured", 0)
    experiment("doe2026:table1")(Table1)
    yield EXPERIMENTS["doe2026:table1"]
    del EXPERIMENTS["doe2026:table1"]


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A folder with CIFAR-10 of few images in its own format, which torchvision accepts."""
    from torchvision.datasets import CIFAR10

    from tests.support.image_sets import write_cifar10

    folder = write_cifar10(tmp_path / "data" / CIFAR10.base_folder)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in sorted(md5) if name.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    return tmp_path / "data"


@pytest.fixture
def few():
    """Six labelled images."""
    import torch

    from freqrob.data import ImageSet

    images = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.tensor([3, 1, 4, 1, 5, 9]), tuple("abcdefghij"))


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()
