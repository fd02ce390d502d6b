"""Blur corruptions: defocus, frosted glass, motion, zoom, Gaussian."""

from __future__ import annotations

from math import exp

import numpy as np
import torch
from torch import Tensor

from freqrob.data.corruptions import filters
from freqrob.data.corruptions.filters import correlate, gaussian, pixels, to_bytes, zoomed
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams


@register_corruption("blur", "medium", radius=(0.3, 0.4, 0.5, 1, 1.5), sigma=(0.4, 0.5, 0.6, 0.2, 0.1))
def defocus_blur(images: Tensor, _random: Streams, radius: float, sigma: float) -> Tensor:
    """Blur by a disc with an edge smoothed by 3 × 3 taps of a Gaussian."""
    return to_bytes(correlate(pixels(images), _disc(radius, sigma)))


def _disc(radius: float, sigma: float) -> Tensor:
    """Disc kernel, float32 as in OpenCV: its sum is slightly below 1, so flat regions lose a grey level."""
    at = torch.arange(-2, 3)
    disc = (at[:, None] ** 2 + at**2 <= radius**2).float()
    edge = exp(-1 / (2 * sigma**2))
    smooth = torch.tensor([edge, 1, edge], dtype=torch.float64).div(1 + 2 * edge).float()
    return correlate((disc / disc.sum())[None, None], smooth[:, None] * smooth, border="constant")[0, 0]


@register_corruption("blur", "medium", sigma=(0.05, 0.25, 0.4, 0.25, 0.4), rounds=(1, 1, 1, 2, 2))
def glass_blur(images: Tensor, random: Streams, sigma: float, rounds: int) -> Tensor:
    """Blur, shuffle pixels locally, and blur again.

    A round scans from the lower right to the upper left and is meant to swap each pixel with itself or its neighbour
    above, to the left, or both. The published generator swaps views of one array, which copies the neighbour instead.
    The scan has not reached that neighbour yet, so a round is one gather from the earlier pixels.
    """
    height, width = images.shape[-2:]
    shuffled = to_bytes(gaussian(pixels(images), sigma))
    for _ in range(rounds):
        back = random.integers(0, 2, 2, height, width)
        back[:, :, :2] = back[:, :, :, :2] = 0  # the scan ends there
        rows = torch.arange(height, device=images.device)[:, None] - back[:, 0]
        at = rows * width + torch.arange(width, device=images.device) - back[:, 1]
        shuffled = shuffled.flatten(2).gather(2, at.flatten(1)[:, None].expand(-1, 3, -1)).view(images.shape)
    return to_bytes(gaussian(pixels(shuffled), sigma))


@register_corruption("blur", "medium", radius=(6, 6, 6, 8, 9), sigma=(1, 1.5, 2, 2, 2.5))
def motion_blur(images: Tensor, random: Streams, radius: int, sigma: float) -> Tensor:
    """Blur along a line at a random angle between −45° and 45°."""
    return filters.motion_blur(images, radius, sigma, random.uniform(-45, 45))


@register_corruption("blur", "medium", end=(1.06, 1.11, 1.16, 1.21, 1.26))
def zoom_blur(images: Tensor, _random: Streams, end: float) -> Tensor:
    """The mean of the image and its zooms by 1, 1.01, 1.02, …, summed in single precision.

    The factors end before ``end``, but rounding makes ``arange`` include 1.06 and 1.11, as in the benchmark.
    """
    x = pixels(images).float()
    factors = np.arange(1, end, 0.01).tolist()
    total = torch.zeros_like(x)
    for factor in factors:
        total += zoomed(x.double(), factor).float()
    return to_bytes((x + total) / (len(factors) + 1))


@register_corruption("blur", extra=True, sigma=(0.4, 0.6, 0.7, 0.8, 1))
def gaussian_blur(images: Tensor, _random: Streams, sigma: float) -> Tensor:
    """Gaussian blur with σ in pixels."""
    return to_bytes(gaussian(pixels(images), sigma))
