"""Small photographs that networks learn to tell apart in a few steps, and a small size for ImageNet's."""

from dataclasses import replace

import numpy as np
from PIL import Image
from torch import nn

from freqrob.data import DATASETS
from freqrob.models import registry

SIZE = 32


def write_photographs(folder, count, classes=("blue", "red"), seed=0):
    """Red or blue noise of several sizes, in a sub-folder for each class."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        label = number % len(classes)
        pixels = rng.integers(0, 120, (36 + number % 5, 40 - number % 3, 3), dtype=np.uint8)
        pixels[..., 2 * (label % 2)] += 100
        (folder / classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / classes[label] / f"ILSVRC2012_{number:08}.JPEG", quality=95)
    return folder


def small_photographs(patch):
    """Make ImageNet's images small, and register ``small``, a network for them."""

    def small(num_classes):
        """Without batch norm, whose statistics each process computes for its share."""
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(512, num_classes))

    patch.setitem(DATASETS, "imagenet", replace(DATASETS["imagenet"], size=SIZE))
    patch.setitem(registry._ARCHITECTURES, "small", small)
    return patch
