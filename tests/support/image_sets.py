"""A data set of noise."""

import torch

from freqrob.data import ImageSet


def images(number: int, size: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(number) % 10, tuple("abcdefghij"))
