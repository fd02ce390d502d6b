"""Pixelwise noise."""

from __future__ import annotations

from torch import Tensor

from freqrob.data.corruptions.filters import pixels, to_bytes
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams


@register_corruption(
    "noise", "high", sigma=(0.04, 0.06, 0.08, 0.09, 0.10), imagenet={"sigma": (0.08, 0.12, 0.18, 0.26, 0.38)}
)
def gaussian_noise(images: Tensor, random: Streams, sigma: float) -> Tensor:
    """x + N(0, σ²)."""
    return to_bytes(pixels(images) + sigma * random.normal(*images.shape[1:]))


@register_corruption("noise", "high", photons=(500, 250, 100, 75, 50), imagenet={"photons": (60, 25, 12, 5, 3)})
def shot_noise(images: Tensor, random: Streams, photons: int) -> Tensor:
    """Poisson(c·x) / c, where c is the photon count of white."""
    return to_bytes(random.poisson(pixels(images) * photons) / photons)


@register_corruption(
    "noise", "high", share=(0.01, 0.02, 0.03, 0.05, 0.07), imagenet={"share": (0.03, 0.06, 0.09, 0.17, 0.27)}
)
def impulse_noise(images: Tensor, random: Streams, share: float) -> Tensor:
    """Salt and pepper: a share of all values becomes 255 or 0 with equal probability."""
    drawn = random.uniform(0, 1, *images.shape[1:])
    return images.masked_fill(drawn < share, 255).masked_fill(drawn < share / 2, 0)


@register_corruption(
    "noise", extra=True, sigma=(0.06, 0.10, 0.12, 0.16, 0.20), imagenet={"sigma": (0.15, 0.2, 0.35, 0.45, 0.6)}
)
def speckle_noise(images: Tensor, random: Streams, sigma: float) -> Tensor:
    """x + x·N(0, σ²)."""
    x = pixels(images)
    return to_bytes(x + sigma * x * random.normal(*images.shape[1:]))
