"""Twenty CIFAR-10 images, for use without the data set."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import torch

from freqrob.data.datasets import ImageSet
from freqrob.runtime.reading import read_image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LABELS = (3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6)


def sample_images() -> ImageSet:
    """The first 20 images of CIFAR-10's test set, (20, 3, 32, 32) uint8, with their labels.

    The package includes them. Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    column = torch.from_numpy(np.array(read_image(Path(str(resources.files("freqrob.data") / "cifar10_samples.png")))))
    images = column.unflatten(0, (len(LABELS), 32)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(LABELS), CIFAR10_CLASSES)
