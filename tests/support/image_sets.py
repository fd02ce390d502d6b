"""Small data sets: noise, and CIFAR-10's files of few images."""

import pickle
from pathlib import Path

import numpy as np
import torch

from freqrob.data import ImageSet

CIFAR10_COUNT = 30  # images in each file of the small CIFAR-10


def images(number: int, size: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(number) % 10, tuple("abcdefghij"))


def write_cifar10(folder: Path) -> Path:
    """CIFAR-10 of few images, in the original's format."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        smooth = np.kron(random.integers(30, 220, (CIFAR10_COUNT * 3, 8, 8)), np.ones((4, 4)))
        pixels = (smooth + random.integers(0, 20, smooth.shape)).astype(np.uint8).reshape(CIFAR10_COUNT, 3072)
        batch = {"batch_label": name, "labels": random.integers(0, 10, CIFAR10_COUNT).tolist(), "data": pixels}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=4))
    return folder
