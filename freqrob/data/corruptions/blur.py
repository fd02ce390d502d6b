"""Blur corruptions: defocus, frosted glass, motion, zoom, Gaussian."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from freqrob.data.corruptions import filters
from freqrob.data.corruptions.filters import correlate, gaussian, pixels, to_bytes, zoomed
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams


@register_corruption(
    "blur", "medium", radius=(0.3, 0.4, 0.5, 1, 1.5), sigma=(0.4, 0.5, 0.6, 0.2, 0.1),
    imagenet={"radius": (3, 4, 6, 8, 10), "sigma": (0.1, 0.5, 0.5, 0.5, 0.5)},
)  # fmt: skip
def defocus_blur(images: Tensor, _random: Streams, radius: float, sigma: float) -> Tensor:
    """Blur by a disc with an edge smoothed by a Gaussian."""
    return to_bytes(correlate(pixels(images), _disc(radius, sigma)))


def _disc(radius: float, sigma: float) -> Tensor:
    """Disc kernel, float32 as in OpenCV: its sum is slightly below 1, so flat regions lose a grey level.

    Up to a radius of 8 it has 17×17 taps and is smoothed by 3×3; above, it is as large as the disc, smoothed by 5×5.
    """
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    at = torch.arange(-reach, reach + 1)
    disc = (at[:, None] ** 2 + at**2 <= radius**2).float()
    smooth = torch.exp(-(torch.arange(-taps, taps + 1).double() ** 2) / (2 * sigma**2))
    smooth = smooth.div(smooth.sum()).float()
    return correlate((disc / disc.sum())[None, None], smooth[:, None] * smooth)[0, 0]


@register_corruption(
    "blur", "medium", sigma=(0.05, 0.25, 0.4, 0.25, 0.4), reach=(1, 1, 1, 1, 1), rounds=(1, 1, 1, 2, 2),
    imagenet={"sigma": (0.7, 0.9, 1, 1.1, 1.5), "reach": (1, 2, 2, 3, 4), "rounds": (2, 1, 3, 2, 2)},
)  # fmt: skip
def glass_blur(images: Tensor, random: Streams, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blur, shuffle pixels locally, and blur again.

    Each round scans from the lower right to the upper left. It is meant to swap each pixel with one at most ``reach``
    rows and columns before it, or fewer after it; the published generator swaps views of one array and so only copies.
    """
    height, width = images.shape[-2:]
    shuffled = to_bytes(gaussian(pixels(images), sigma))
    for _ in range(rounds):
        at = _copied_from(random.integers(1 - reach, reach + 1, 2, height, width), reach)
        shuffled = shuffled.flatten(2).gather(2, at[:, None].expand(-1, 3, -1)).view(images.shape)
    return to_bytes(gaussian(pixels(shuffled), sigma))


def _copied_from(back: Tensor, reach: int) -> Tensor:
    """(N, H·W): source index of each pixel, after a scan that copies from ``back`` (N, 2, H, W) rows and columns away.

    A source that the scan has already passed holds a copied value itself, so sources are followed to the original.
    """
    height, width = back.shape[-2:]
    for axis, size in ((-2, height), (-1, width)):  # the scan leaves a border
        at = torch.arange(size, device=back.device)
        outside = (at <= reach) | (at > size - reach)
        back = back.index_fill(axis, outside.nonzero().flatten(), 0)
    own = torch.arange(height * width, device=back.device)
    source = own - (back[:, 0] * width + back[:, 1]).flatten(1)
    is_passed = source > own
    while is_passed.any():
        is_passed, source = (
            is_passed & is_passed.gather(1, source), torch.where(is_passed, source.gather(1, source), source)
        )  # fmt: skip
    return source


@register_corruption(
    "blur", "medium", radius=(6, 6, 6, 8, 9), sigma=(1, 1.5, 2, 2, 2.5),
    imagenet={"radius": (10, 15, 15, 15, 20), "sigma": (3, 5, 8, 12, 15)},
)  # fmt: skip
def motion_blur(images: Tensor, random: Streams, radius: int, sigma: float) -> Tensor:
    """Blur along a line at a random angle between −45° and 45°."""
    return filters.motion_blur(images, radius, sigma, random.uniform(-45, 45))


@register_corruption(
    "blur", "medium", end=(1.06, 1.11, 1.16, 1.21, 1.26), step=(0.01, 0.01, 0.01, 0.01, 0.01),
    imagenet={"end": (1.11, 1.16, 1.21, 1.26, 1.31), "step": (0.01, 0.01, 0.02, 0.02, 0.03)},
)  # fmt: skip
def zoom_blur(images: Tensor, _random: Streams, end: float, step: float) -> Tensor:
    """The mean of the image and its zooms by 1, 1 + ``step``, …, summed in single precision.

    Factors are below ``end``; at some severities rounding makes ``arange`` include it, as in the benchmark.
    """
    x = pixels(images).float()
    factors = np.arange(1, end, step).tolist()
    total = torch.zeros_like(x)
    for factor in factors:
        total += zoomed(x.double(), factor).float()
    return to_bytes((x + total) / (len(factors) + 1))


@register_corruption("blur", extra=True, sigma=(0.4, 0.6, 0.7, 0.8, 1), imagenet={"sigma": (1, 2, 3, 4, 6)})
def gaussian_blur(images: Tensor, _random: Streams, sigma: float) -> Tensor:
    """Gaussian blur with σ in pixels."""
    return to_bytes(gaussian(pixels(images), sigma))
