"""A data set that networks learn in a few steps."""

import torch

from freqrob.data import ImageSet


def two_colours(count: int, seed: int, size: int = 32) -> ImageSet:
    """Red or blue noise: a task that a network learns in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), labels * 2] += 100
    return ImageSet(images, labels, ("red", "blue"))


def two_colours_split(split: str, size: int = 32) -> ImageSet:
    return two_colours({"train": 96, "val": 40}[split], seed=len(split), size=size)
