"""Filters and colours of image batches, with the arithmetic of the libraries that made the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, exp

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def pixels(images: Tensor) -> Tensor:
    """uint8 as float64 in [0, 1]."""
    return images.double() / 255


def to_bytes(x: Tensor) -> Tensor:
    """Clip to [0, 1] and convert to uint8, truncating as in the benchmark's arrays."""
    return (x.clamp(0, 1) * 255).to(torch.uint8)


def gaussian(x: Tensor, sigma: float, *, reflect: bool = False, truncate: float = 4) -> Tensor:
    """Gaussian blur of the last two axes; outside pixels repeat the border, or mirror the image (edge repeated).

    Equals ``scipy.ndimage.gaussian_filter`` to the last bit, by the same order of additions.
    """
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return x
    weights = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    *outer, centre = (weights / weights.sum())[: radius + 1].tolist()
    for axis in (-2, -1):
        size = x.shape[axis]
        at = _reflected(size, radius) if reflect else torch.arange(-radius, size + radius).clamp(0, size - 1)
        padded = x.index_select(axis, at.to(x.device))
        blurred = x * centre
        for i, weight in enumerate(outer):
            pair = padded.narrow(axis, i, size) + padded.narrow(axis, 2 * radius - i, size)
            blurred += pair.mul_(weight)
        x = blurred
    return x


def _reflected(size: int, radius: int) -> Tensor:
    """Where a pixel comes from if the image is mirrored at its outer edges, … 1 0 | 0 1 2 …."""
    at = torch.arange(-radius, size + radius) % (2 * size)
    return torch.minimum(at, 2 * size - 1 - at)


def correlate(x: Tensor, kernel: Tensor, border: str = "reflect") -> Tensor:
    """Correlate x (N, C, H, W) with an odd kernel (K, K); mirrored at border pixels, or ``border="replicate"``."""
    radius = len(kernel) // 2
    padded = F.pad(x, [radius] * 4, mode=border)
    total = torch.zeros_like(x)
    for row, column in kernel.nonzero().tolist():
        window = padded[..., row : row + x.shape[-2], column : column + x.shape[-1]]
        total += window * kernel[row, column].item()
    return total


def zoomed(x: Tensor, factor: float) -> Tensor:
    """The centre of x (…, H, W), enlarged bilinearly to the full size: ``scipy.ndimage.zoom`` of order 1, cropped."""
    down, across = (_zoom_matrix(size, factor).to(x) for size in x.shape[-2:])
    return down @ x @ across.T


@lru_cache(maxsize=64)
def _zoom_matrix(size: int, factor: float) -> Tensor:
    """(size, size) float64: two weights per row."""
    kept = ceil(size / factor)
    made = round(kept * factor)
    at = (torch.arange(size) + (made - size) // 2).double() * ((kept - 1) / (made - 1))
    left = at.long().clamp(max=kept - 1)
    weights = torch.zeros(size, size, dtype=torch.float64)
    rows, first = torch.arange(size), (size - kept) // 2
    weights[rows, first + left] += 1 - (at - left)
    weights[rows, first + (left + 1).clamp(max=kept - 1)] += at - left
    return weights


def motion_blur(images: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur each image (N, C, H, W) uint8 along a line at its angle (N,): ImageMagick's ``MotionBlurImage``.

    Half a Gaussian of 2·radius + 1 taps: x'(p) = Σ_i w_i x(p + o_i), where o_i is the pixel nearest to i steps along
    the line; pixels outside the image repeat its border. The sum is rounded to 16 bits and cut to its upper 8 bits.
    """
    count, channels, height, width = images.shape
    source = images.float().flatten(2)
    blurred = torch.zeros_like(source)
    for weight, down, right in _taps(radius, sigma, degrees):
        rows = (down + torch.arange(height, device=images.device)).clamp(0, height - 1)
        columns = (right + torch.arange(width, device=images.device)).clamp(0, width - 1)
        at = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1)
        blurred += weight * source.gather(2, at.expand(-1, channels, -1))
    sixteen_bits = (257 * blurred + 0.5).int()
    return (sixteen_bits // 257).to(torch.uint8).view(images.shape)


def _taps(radius: int, sigma: float, degrees: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The weight of each tap, and each image's offset down and across, (N, 1) each."""
    weights = [exp(-i * i / (2 * sigma * sigma)) for i in range(2 * radius + 1)]
    sin, cos = (part[:, None] for part in (degrees.deg2rad().sin(), degrees.deg2rad().cos()))
    for i, weight in enumerate(weights):
        down, across = ((i * part - 0.5).ceil().long() for part in (sin, cos))
        yield weight / sum(weights), down, across


def decompose(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a colour x into ``lack`` (N, 3, H, W), saturation S and value V (N, 1, H, W), without its hue.

    x = V (1 − S·lack): ``lack`` is 0 in the strongest channel and 1 in the weakest; grey counts as red.
    """
    value, weakest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    red = x.new_tensor([0, 1, 1])[:, None, None]
    lack = torch.where(value > weakest, (value - x) / (value - weakest), red)
    saturation = torch.where(value > 0, (value - weakest) / value, 0)
    return lack, saturation, value


def compose(lack: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colour x (N, 3, H, W): the inverse of ``decompose``."""
    return value * (1 - saturation * lack)
