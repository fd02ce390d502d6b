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

ROUNDING = 1e-12  # of DC's power: what the transform of a constant float32 image leaves elsewhere
AT_ONCE = 1 << 24  # pixels whose spectra are taken together


def radial_power(images: Tensor, *, rule: Rule = "trunc", pixel_scale: float = 1.0, mean: bool = False) -> Tensor:
    """Power of each ring of each channel: Σ |F|² over the ring, or its mean.

    Args:
        images: (..., H, W), float in [0, 1] or uint8; usually (N, C, H, W).
        rule: which ring a coefficient lies on, see ``RingMap``.
        pixel_scale: the value of white in which the spectrum is taken.
        mean: the mean over the ring's coefficients instead of their sum; 0 for an empty ring.

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
    """|F|² of the coefficients of each ring, its mean over the ring and over all planes, some planes at a time.

    Args:
        images: (..., H, W), float in [0, 1] or uint8, at least one; on the device they are on.
        rule: which ring a coefficient lies on.

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
    """π_i: the share of ring i in the power of the images, DC left out, so that Σ π_i = 1.

    Args:
        images: (N, C, H, W), float in [0, 1] or uint8, at least one; the power is averaged over images and channels.
        rule: which ring a coefficient lies on.

    Returns:
        (rings,) float64, π_0 = 0; all zero for images that are constant.

    Raises:
        TypeError, ValueError: as ``mean_power``; TypeError for images on the meta device.

    Source: Lin et al., NeurIPS 2023, Eq. 1.
    """
    check_values(images, "images")
    return profile_of(mean_power(images, rule=rule), RingMap.of(images, rule))


def profile_of(power: Tensor, rings: RingMap) -> Tensor:
    """``power_profile`` of images whose ``mean_power`` is known."""
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
        share: the share of the power, DC left out, that the LFC holds.
    """

    rings: RingMap
    boundary: int
    share: float

    @property
    def radius(self) -> float:
        """The boundary's radius in cycles/pixel: where its ring ends."""
        end = self.boundary + (1 if self.rings.rule == "trunc" else 0.5)
        return end / max(self.rings.height, self.rings.width)

    @property
    def radius_fraction(self) -> float:
        """The boundary's radius as a share of the largest one, the corner's."""
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
        """The HFC of float images (..., H, W), around 0. ``low_pass + high_pass`` is the image."""
        return self._filter(images, torch.arange(self.rings.rings) > self.boundary)

    def _filter(self, images: Tensor, kept: Tensor) -> Tensor:
        check_planes(images, "images")
        if images.shape[-2:] != (self.rings.height, self.rings.width):
            raise ValueError(
                f"images: expected {self.rings.height}×{self.rings.width} pixels, got shape {tuple(images.shape)}"
            )
        weights = kept.to(images).expand(*images.shape[:-2], -1)
        return ops.ring_filter(images, weights, self.rings)


@checked
def split(images: Tensor, *, share: float = 0.8, rule: Rule = "trunc") -> Split:
    """The smallest disc of rings that holds ``share`` of the images' power, DC left out: the 80/20 split.

    Raises:
        TypeError, ValueError: as ``power_profile``.
        ValueError: ``share`` outside (0, 1], or constant ones, which have no power to split.

    Source: Lin et al., NeurIPS 2023, Eq. 2.
    """
    if not is_number(share) or not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1], got {shown(share)}")
    return split_of(power_profile(images, rule=rule), RingMap.of(images, rule), share)


def split_of(profile: Tensor, rings: RingMap, share: float = 0.8) -> Split:
    """``split`` of images whose ``power_profile`` is known."""
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

    The rings between DC and Nyquist (0.5 cycles/pixel) count, each once and at the frequency where it begins; the
    corners beyond do not, nor empty rings. For power that is exactly f^(−α) the rings' width makes α come out up to
    5 % low at 32×32.

    Raises:
        TypeError, ValueError: as ``power_profile``; ValueError for fewer than two rings with power.
    """
    check_values(images, "images")
    return power_law_of(mean_power(images, rule=rule), RingMap.of(images, rule))


def power_law_of(power: Tensor, rings: RingMap) -> PowerLaw:
    """``fit_power_law`` to images whose ``mean_power`` is known."""
    power = power.cpu()
    fitted = (rings.radii > 0) & (rings.radii < 0.5) & (power > 0)
    if fitted.sum() < 2:
        raise ValueError(f"images: expected power on at least two rings, got it on {int(fitted.sum())}")
    x, y = rings.radii[fitted].log(), power[fitted].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    residual = (y - y.mean() - slope * (x - x.mean())).square().sum()
    total = (y - y.mean()).square().sum()
    return PowerLaw(
        alpha=-slope.item(),
        scale=(y.mean() - slope * x.mean()).exp().item(),
        r_squared=1 - (residual / total).item() if total > 0 else 1.0,
    )


@checked
def spectral_entropy(profile: Tensor, k: int | None = None) -> Tensor:
    """H_k = −Σ_{i ≤ k} π_i ln π_i in nats, π renormalised over the rings 1 to k (0 ln 0 = 0).

    Args:
        profile: (..., rings) non-negative, DC first, as ``power_profile`` or ``radial_power`` give it.
        k: the last ring that counts; all of them by default.

    Returns:
        (...) in [0, ln k]: ln k where power is spread evenly; 0 where one ring has it all, or there is none.

    Raises:
        TypeError: ``profile`` is not a dense tensor with values.
        ValueError: a ``k`` without a ring, or negative power.

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
