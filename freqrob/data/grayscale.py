"""Grey levels of colour images, and the names of data sets in grey levels."""

from __future__ import annotations

import torch
from torch import Tensor

from freqrob.runtime.parameters import Count, checked

SUFFIX = "_grayscale"
RED, GREEN, BLUE = 19595, 38470, 7471  # / 65536: .299, .587 and .114, rounded as in PIL
CHUNK = 5000  # images at a time
LUMA = (0.299, 0.587, 0.114)


@checked
def grayscale_name(dataset: str) -> str:
    """The name of a data set in grey levels; accepted wherever a data set is named.

    >>> grayscale_name("cifar10")
    'cifar10_grayscale'
    """
    return dataset if dataset.endswith(SUFFIX) else dataset + SUFFIX


def colour_name(dataset: str) -> str:
    """The name of the data set whose images a data set in grey levels has; other names are unchanged.

    >>> colour_name("cifar10_grayscale"), colour_name("svhn")
    ('cifar10', 'svhn')
    """
    return dataset.removesuffix(SUFFIX)


@checked
def to_grayscale(images: Tensor, *, batch_size: Count = CHUNK) -> Tensor:
    """The luma of ITU-R BT.601, .299 R + .587 G + .114 B, rounded as PIL's ``convert("L")`` rounds it.

    It is what torchvision's ``Grayscale`` gives for PIL images. Images that are already gray are returned unchanged.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W) uint8.
        batch_size: images at a time.

    Returns:
        (N, 1, H, W) uint8, in memory, also for memory-mapped images.

    Raises:
        ValueError: images of another dtype or shape.

    >>> import torch
    >>> to_grayscale(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
    76
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: expected (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    if images.shape[1] == 1:
        return images
    gray = images.new_empty((len(images), 1, *images.shape[2:]))
    for colours, out in zip(images.split(batch_size), gray.split(batch_size), strict=True):
        red, green, blue = colours.int().unbind(1)
        out.copy_(((RED * red + GREEN * green + BLUE * blue + 0x8000) >> 16)[:, None])
    return gray
