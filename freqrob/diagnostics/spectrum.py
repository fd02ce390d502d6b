"""Spectrum of a set of images, such as natural, balanced or corrupted ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated

import torch
from torch import Tensor

from freqrob.data.datasets import to_pixels
from freqrob.data.streams import Images, ImageStream
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.runtime.parameters import checked
from freqrob.runtime.pixels import check_scale
from freqrob.runtime.tensors import check_values
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.longtail import AT_ONCE, mean_power, power_law_of, profile_of, split_of, total_spectral_entropy
from freqrob.spectral.ops import check_images, mean_amplitude
from freqrob.spectral.rings import RingMap

CHUNK = 100  # images of a stream that are read together


@dataclass(frozen=True)
class Spectrum(Measurement):
    """Mean radial spectrum of images, its power law, 80/20 boundary, entropy and ln B_low.

    Attributes:
        frequencies: (rings,) lower edge of each ring; ring 0 is DC.
        power: (rings,) mean |F|² over the ring's coefficients, images and channels.
        share: (rings,) π_i, the share of each ring in the power without DC.
        cumulative: (rings,) the share of the power within each ring's outer radius.
        amplitude: (H, W//2+1) mean |rfft2| over images and channels, DC at [0, 0].
        images: number of images.
        boundary: the last ring of the low frequencies (LFC), the smallest disc with at least 80 % of the power;
            ``boundary_share`` is the disc's share.
        boundary_radius: upper edge of that ring.
        boundary_fraction: ``boundary_radius`` as a share of the largest radius.
        alpha, scale, r_squared: the power law power ≈ scale · f^(−alpha), fitted to logarithms, and its R².
        entropy, largest_entropy: entropy of ``share``, and its value for equal shares.
        log_b_low: ln B_low of ``amplitude``; larger if low frequencies dominate; 3.53 for white noise at 32×32.
    """

    kind = "spectrum"

    frequencies: Annotated[Tensor, Quantity("rings", unit="cycles/pixel")]
    power: Annotated[Tensor, Quantity("rings", unit="pixels² of [0, 1]")]
    share: Annotated[Tensor, Quantity("rings")]
    cumulative: Annotated[Tensor, Quantity("rings")]
    amplitude: Annotated[Tensor, Quantity("height columns", unit="pixels of [0, 1]")]
    images: int
    boundary: int
    boundary_radius: Annotated[float, Quantity(unit="cycles/pixel")]
    boundary_fraction: float
    boundary_share: float
    alpha: float
    scale: float
    r_squared: float
    entropy: Annotated[float, Quantity(unit="nats")]
    largest_entropy: Annotated[float, Quantity(unit="nats")]
    log_b_low: float


@checked
def spectrum(images: Images) -> Spectrum:
    """Measure the mean spectrum of images; each channel counts as an image.

    Args:
        images: (N, C, H, W), N ≥ 1, uint8 or float in [0, 1], or their differences; a tensor on any device, or a
            stream.

    Raises:
        TypeError: ``images`` is not a dense tensor of floats or uint8, or is on the meta device.
        ValueError: another shape, such as (N, H, W, C), no images, floats in 0–255 (only the first channel is checked),
            or images that are constant or not finite.

    Source: Lin et al., NeurIPS 2023, Eq. 1 and 2 and Theorem 1; Chan et al., IJCAI 2022, B_low.

    >>> from freqrob.data.samples import sample_images
    >>> measured = spectrum(sample_images().images)
    >>> measured.images, f"{measured.alpha:.1f}"
    (20, '2.7')
    """
    if isinstance(images, ImageStream):
        power, amplitude = _of_stream(images)
    else:
        check_image_set(images)
        power, amplitude = mean_power(images).cpu(), total_amplitude(images) / len(images)
    rings = RingMap(images.shape[-2], images.shape[-1])
    share = profile_of(power, rings)
    parts, law = split_of(share, rings), power_law_of(power, rings)
    return Spectrum(
        frequencies=rings.radii,
        power=power,
        share=share,
        cumulative=share.cumsum(0),
        amplitude=amplitude.float(),
        images=len(images),
        boundary=parts.boundary,
        boundary_radius=parts.radius,
        boundary_fraction=parts.radius_fraction,
        boundary_share=parts.share,
        alpha=law.alpha,
        scale=law.scale,
        r_squared=law.r_squared,
        entropy=total_spectral_entropy(share).item(),
        largest_entropy=log(len(share) - 1),
        log_b_low=log_b_low(amplitude).item(),
    )


def _of_stream(images: ImageStream) -> tuple[Tensor, Tensor]:
    """Mean power of each ring, and mean amplitude (H, W//2+1), in one pass over the images."""
    powers, amplitudes = [], []
    for chunk in images.split(CHUNK):
        check_image_set(chunk)
        powers.append(len(chunk) * mean_power(chunk))
        amplitudes.append(total_amplitude(chunk))
    return torch.stack(powers).sum(0) / len(images), torch.stack(amplitudes).sum(0) / len(images)


def check_image_set(images: Tensor, name: str = "images") -> None:
    """Raise ValueError unless images are (N, C, H, W), N ≥ 1, and the first channel is not in 0–255; TypeError."""
    check_values(images, name)
    check_images(images, name)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{name}: expected (N, C, H, W) with N ≥ 1, got shape {tuple(images.shape)}")
    check_scale(images[:1].cpu(), name)


def total_amplitude(images: Tensor) -> Tensor:
    """Sum over images (N, C, H, W) of |rfft2| averaged over channels: (H, W//2+1) float64 on the CPU."""
    chunks = images.split(max(1, AT_ONCE // images[0].numel()))
    return torch.stack([len(chunk) * mean_amplitude(to_pixels(chunk)).double().cpu() for chunk in chunks]).sum(0)
