"""Fixtures of the tests of commands."""

import pytest
import torch

from freqrob.data import samples
from freqrob.data.datasets import ImageSet
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save


@pytest.fixture
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def own_cache(monkeypatch, tmp_path_factory):
    """Evaluations neither read nor leave results in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("freqrob.runtime.cache.usable_folder", lambda name: (folder / name, []))
    return folder


@pytest.fixture(scope="module")
def model_dir(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("standard_tiny", "bassmix_standard_tiny"):
        torch.manual_seed(len(name))
        results = [{"protocol": "natural", "attack": "clean", "images": 10000, "seed": 0, "accuracy": 0.9123}]
        save(
            folder / "cifar10" / "Linf" / f"{name}.safetensors",
            create_network("tiny").state_dict(),
            Card(name, "tiny", results=results if name == "standard_tiny" else []),
        )
    return folder


@pytest.fixture
def few_images(monkeypatch):
    """Four random images in place of CIFAR-10 and of Foolbox's samples."""
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = ImageSet(images, torch.tensor([0, 1, 2, 3]), samples.CIFAR10_CLASSES)
    monkeypatch.setattr("freqrob.data.load_dataset", lambda name, split, data, **_: found)
    monkeypatch.setattr("freqrob.data.samples.sample_images", lambda: found)
    return found
