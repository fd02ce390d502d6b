"""The long tail of natural images' spectra: profiles, the 80/20 split, the power law, the entropy."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import torch
from torch import Tensor

from freqrob.runtime.parameters import check_integers, checked, is_number, shown, to_python
from freqrob.runtime.tensors import check_values
from freqrob.spectral import ops
from freqrob.spectral.ops import check_images, check_pixel_scale, check_planes
from freqrob.spectral.rings import RingMap, Rule

ROUNDING = 1e-12  # relative to DC's power: rounding noise of the transform of a constant float32 image
AT_ONCE = 1 << 24  # pixels that are transformed together


def radial_power(images: Tensor, *, rule: Rule = "trunc", pixel_scale: float = 1.0, mean: bool = False) -> Tensor:
    """Power of each ring of each channel: Σ |F|² over the ring, or its mean.

    Args:
        images: (..., H, W), float in [0, 1] or uint8; usually (N, C, H, W).
        rule: of the rings, see ``RingMap``.
        pixel_scale: the value of white; pixels are multiplied by it.
        mean: return the mean over each ring instead of the sum; 0 for an empty ring.

    Returns:
        (..., rings) float; ring 0 is DC.

    Raises:
        TypeError: ``images`` is not a tensor of floats or uint8.
        ValueError: fewer than two dimensions, an image without pixels, images that look like (N, H, W, C), a
            ``pixel_scale`` that is not positive. ``freqrob.spectral.ops.ring_sum`` takes planes of any shape.
    """
    check_images(images)
    pixel_scale = to_python(pixel_scale, float)
    check_pixel_scale(pixel_scale)
    if not isinstance(mean, bool):
        raise ValueError(f"mean: expected true or false, got {shown(mean)}")
    rings = RingMap.of(images, rule)
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    power = ops.ring_sum(pixels * pixel_scale, rings, of="power")
    return power / rings.counts.to(power).clamp(min=1) if mean else power


@checked
def mean_power(images: Tensor, *, rule: Rule = "trunc") -> Tensor:
    """Mean |F|² of a coefficient of each ring, over the ring and all planes; memory does not grow with their number.

    Args:
        images: (..., H, W), float in [0, 1] or uint8, at least one, on any device.
        rule: of the rings.

    Returns:
        (rings,) float64; ring 0 is DC; 0 for an empty ring.

    Raises:
        TypeError, ValueError: as ``radial_power``; ValueError for no images.
    """
    check_images(images)
    if images.numel() == 0:
        raise ValueError(f"images: expected at least one, got shape {tuple(images.shape)}")
    planes = images.reshape(-1, 1, *images.shape[-2:])
    chunks = planes.split(max(1, AT_ONCE // planes[0].numel()))
    total = torch.zeros(RingMap.of(images, rule).rings, dtype=torch.float64, device=images.device)
    for chunk in chunks:
        total += radial_power(chunk, rule=rule, mean=True).double().sum((0, 1))
    return total / len(planes)


@checked
def power_profile(images: Tensor, *, rule: Rule = "trunc") -> Tensor:
    """π_i: the share of ring i in the power of the images without DC, so that Σ π_i = 1.

    Args:
        images: (N, C, H, W), float in [0, 1] or uint8, at least one; the power is averaged over images and channels.
        rule: of the rings.

    Returns:
        (rings,) float64, π_0 = 0; all zero for constant images.

    Raises:
        TypeError, ValueError: as ``mean_power``; TypeError for images on the meta device.

    Source: Lin et al., NeurIPS 2023, Eq. 1.
    """
    check_values(images, "images")
    return profile_of(mean_power(images, rule=rule), RingMap.of(images, rule))


def profile_of(power: Tensor, rings: RingMap) -> Tensor:
    """``power_profile`` from the ``mean_power`` of images."""
    power = power * rings.counts.to(power)
    dc, power[0] = power[0].item(), 0
    if power.sum() <= ROUNDING * dc:
        return torch.zeros_like(power)
    return power / power.sum()


@dataclass(frozen=True)
class Split:
    """The low-frequency component (LFC) and the high-frequency component (HFC) of images of one size.

    Attributes:
        rings: the ring map.
        boundary: the last ring of the LFC.
        share: the share of the LFC in the power without DC.
    """

    rings: RingMap
    boundary: int
    share: float

    @property
    def radius(self) -> float:
        """The outer radius of the boundary ring in cycles/pixel."""
        end = self.boundary + (1 if self.rings.rule == "trunc" else 0.5)
        return end / max(self.rings.height, self.rings.width)

    @property
    def radius_fraction(self) -> float:
        """``radius`` relative to the largest one, the corner's."""
        height, width = self.rings.height, self.rings.width
        corner = hypot((height // 2) / height, (width // 2) / width)
        return min(self.radius / corner, 1.0)

    @property
    def low_mask(self) -> Tensor:
        """(H, W) bool, unshifted: the coefficients of the LFC, DC included."""
        return self.rings.full <= self.boundary

    @property
    def high_mask(self) -> Tensor:
        """(H, W) bool, unshifted: the coefficients of the HFC."""
        return ~self.low_mask

    def low_pass(self, images: Tensor) -> Tensor:
        """The LFC of float images (..., H, W), not clipped. Raises ValueError for images of another size."""
        return self._filter(images, torch.arange(self.rings.rings) <= self.boundary)

    def high_pass(self, images: Tensor) -> Tensor:
        """The HFC of float images (..., H, W), with mean 0. ``low_pass + high_pass`` is the image."""
        return self._filter(images, torch.arange(self.rings.rings) > self.boundary)

    def _filter(self, images: Tensor, kept: Tensor) -> Tensor:
        check_planes(images, "images")
        height, width = self.rings.height, self.rings.width
        if images.shape[-2:] != (height, width):
            raise ValueError(f"images: expected {height}×{width} pixels, got shape {tuple(images.shape)}")
        return ops.ring_filter(images, kept.to(images), self.rings)


@checked
def split(images: Tensor, *, share: float = 0.8, rule: Rule = "trunc") -> Split:
    """The smallest disc of rings that holds ``share`` of the images' power without DC: the 80/20 split.

    Raises:
        TypeError, ValueError: as ``power_profile``.
        ValueError: ``share`` outside (0, 1], or constant images, which have no power to split.

    Source: Lin et al., NeurIPS 2023, Eq. 2.
    """
    if not is_number(share) or not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {shown(share)}")
    return split_of(power_profile(images, rule=rule), RingMap.of(images, rule), share)


def split_of(profile: Tensor, rings: RingMap, share: float = 0.8) -> Split:
    """``split`` from the ``power_profile`` of images."""
    held = profile.cumsum(0)
    if not held[-1] > 0:
        raise ValueError("images: constant or not finite, there is no power to split")
    boundary = int((held >= share * held[-1]).nonzero()[0])
    return Split(rings, boundary, float(held[boundary]))


@dataclass(frozen=True)
class PowerLaw:
    """power(f) ≈ ``scale`` · f^(−``alpha``), f in cycles/pixel; ``r_squared`` of the fit in logarithms."""

    alpha: float
    scale: float
    r_squared: float


@checked
def fit_power_law(images: Tensor, *, rule: Rule = "trunc") -> PowerLaw:
    """Fit the mean power of a coefficient against its frequency, by least squares in logarithms.

    The fit uses the rings between DC and Nyquist (0.5 cycles/pixel) that are not empty, with equal weights and at the
    frequency where each begins. Because rings have a width, α is up to 5 % too low at 32×32 for power that is exactly
    f^(−α).

    Raises:
        TypeError, ValueError: as ``power_profile``; ValueError for fewer than two rings with power.
    """
    check_values(images, "images")
    return power_law_of(mean_power(images, rule=rule), RingMap.of(images, rule))


def power_law_of(power: Tensor, rings: RingMap) -> PowerLaw:
    """``fit_power_law`` from the ``mean_power`` of images."""
    power = power.cpu()
    fitted = (rings.radii > 0) & (rings.radii < 0.5) & (power > 0)
    if fitted.sum() < 2:
        raise ValueError(f"images: expected power on at least two rings, got it on {int(fitted.sum())}")
    log_radius, log_power = rings.radii[fitted].log(), power[fitted].log()
    x, y = log_radius - log_radius.mean(), log_power - log_power.mean()
    slope = (x * y).sum() / x.square().sum()
    residual, total = (y - slope * x).square().sum(), y.square().sum()
    return PowerLaw(
        alpha=-slope.item(),
        scale=(log_power.mean() - slope * log_radius.mean()).exp().item(),
        r_squared=1 - (residual / total).item() if total > 0 else 1.0,
    )


@checked
def spectral_entropy(profile: Tensor, k: int | None = None) -> Tensor:
    """H_k = −Σ_{i ≤ k} π_i ln π_i in nats, π renormalised over the rings 1 to k (0 ln 0 = 0).

    Args:
        profile: (..., rings) non-negative, DC first, as ``power_profile`` or ``radial_power`` give it.
        k: the last ring to include; all of them by default.

    Returns:
        (...) in [0, ln k]: ln k if all rings have equal power; 0 if one ring has all power, or without power.

    Raises:
        TypeError: ``profile`` is not a dense tensor with values.
        ValueError: ``k`` is not a ring, or negative power.

    Source: Lin et al., NeurIPS 2023, Theorem 1.
    """
    check_values(profile, "profile")
    if profile.ndim < 1 or profile.shape[-1] < 2:
        raise ValueError(f"profile: expected (..., rings) with two rings or more, got shape {tuple(profile.shape)}")
    last = profile.shape[-1] - 1
    k = last if k is None else k
    check_integers(1, last, k=k)
    if (profile < 0).any():
        raise ValueError("profile: expected powers, got negative numbers")
    counted = profile[..., 1 : k + 1]
    total = counted.sum(-1, keepdim=True)
    share = counted / torch.where(total > 0, total, 1)
    return torch.special.entr(share).sum(-1)
