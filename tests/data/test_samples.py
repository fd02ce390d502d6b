"""The sample images of the demo."""

from pathlib import Path

import numpy as np
import pytest
import torch

from freqrob.data import samples
from freqrob.runtime.reading import read_image


def test_samples_are_the_first_test_images():
    found = samples.sample_images()
    assert found.images.shape == (20, 3, 32, 32) and found.images.dtype == torch.uint8
    # The labels of CIFAR-10's first twenty test images.
    assert found.labels.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6]
    assert [found.classes[label] for label in found.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    assert found.images[0, :, 0, 0].tolist() == [158, 112, 49]


def test_samples_are_those_that_foolbox_brings_too():
    folder = Path(pytest.importorskip("foolbox").__file__).parent / "data"
    paths = sorted(folder.glob("cifar10_*.png"))
    theirs = torch.stack([torch.from_numpy(np.array(read_image(path))).movedim(-1, 0) for path in paths])
    assert torch.equal(samples.sample_images().images, theirs)
