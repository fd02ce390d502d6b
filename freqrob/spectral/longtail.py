"""The long tail of natural images' spectra: profiles, the 80/20 split, the power law, the entropy."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, inf, isfinite, log

import torch
from torch import Tensor

from freqrob.runtime.parameters import checked, is_number, shown, to_python
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
        rule: rounding rule of the rings, see ``RingMap``.
        pixel_scale: the value of white; pixels are multiplied by it.
        mean: return the mean over each ring instead of the sum; 0 for an empty ring.

    Returns:
        (..., rings) float; ring 0 is DC.

    Raises:
        TypeError: ``images`` is not a tensor of floats or uint8.
        ValueError: fewer than two dimensions, an image without pixels, images that look like (N, H, W, C), a
            ``pixel_scale`` that is not positive. ``freqrob.spectral.ops.ring_sum`` takes planes of any shape.

    >>> import torch
    >>> radial_power(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 23])
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
    """Mean |F|² of each ring's coefficients over all planes; memory does not grow with the number of planes.

    Args:
        images: (..., H, W), float in [0, 1] or uint8, at least one, on any device.
        rule: as for ``radial_power``.

    Returns:
        (rings,) float64; ring 0 is DC; 0 for an empty ring.

    Raises:
        TypeError, ValueError: as ``radial_power``; ValueError for no images.

    >>> import torch
    >>> mean_power(torch.rand(4, 3, 32, 32)).shape
    torch.Size([23])
    """
    check_images(images)
    if images.numel() == 0:
        raise ValueError(f"images: expected at least one, got shape {tuple(images.shape)}")
    planes = images.reshape(-1, 1, *images.shape[-2:])
    total = torch.zeros(RingMap.of(images, rule).rings, dtype=torch.float64, device=images.device)
    for chunk in planes.split(max(1, AT_ONCE // planes[0].numel())):
        total += radial_power(chunk, rule=rule, mean=True).double().sum((0, 1))
    return total / len(planes)


@checked
def power_profile(images: Tensor, *, rule: Rule = "trunc") -> Tensor:
    """π_i: the share of ring i in the power of the images without DC, so that Σ π_i = 1.

    The power of a ring is the sum over its coefficients, not Eq. 1's integral over the angle (2π times their mean),
    because Sec. 2.2 and Eq. 2 use proportions of the spectrum's total power, and only sums add up to the total. DC is
    left out because it holds most of the power of natural images; with it, the 80/20 boundary would be at DC.

    Args:
        images: (N, C, H, W), float in [0, 1] or uint8, at least one; the power is averaged over images and channels.
        rule: as for ``radial_power``.

    Returns:
        (rings,) float64, π_0 = 0; all zero for constant images.

    Raises:
        TypeError, ValueError: as ``mean_power``; TypeError for images on the meta device.

    Source: Lin et al., NeurIPS 2023, Sec. 2.2.

    >>> import torch
    >>> profile = power_profile(torch.rand(4, 3, 32, 32))
    >>> profile.shape, round(profile.sum().item(), 6)
    (torch.Size([23]), 1.0)
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
        """The boundary ring's outer radius in cycles/pixel."""
        end = self.boundary + (1 if self.rings.rule == "trunc" else 0.5)
        return end / max(self.rings.height, self.rings.width)

    @property
    def radius_fraction(self) -> float:
        """``radius`` as a share of the largest radius, the corner's."""
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

    By Eq. 2 as printed, the ring at which the sum crosses 80 % belongs to the high frequencies (if its min over n,
    which is 0, is read as max). Here it belongs to the low frequencies, as in the authors' figures: their boundary for
    CIFAR-10 is radius 4.98, and the sum crosses 80 % at ring 4. The shares are those of ``power_profile``.

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
    cumulative = profile.cumsum(0)
    if not cumulative[-1] > 0:
        raise ValueError("images: expected power besides DC, got constant or non-finite images")
    boundary = int((cumulative >= share * cumulative[-1]).nonzero()[0])
    return Split(rings, boundary, float(cumulative[boundary]))


@dataclass(frozen=True)
class PowerLaw:
    """power(f) ≈ ``scale`` · f^(−``alpha``), f in cycles/pixel; ``r_squared`` is R² of the fit to logarithms.

    A larger ``alpha`` means that the power falls faster, so that the tail holds a smaller share of it. Lin et al. (Sec.
    3.3.1) say of the same parameter that "its smaller value indicates a more significant long-tailed effect". By their
    density p(ξ = k) ∝ k^(−α) the opposite holds, if the effect is the imbalance of head and tail in their Sec. 2.2: for
    α = 0 all bands are equal. Their sentence holds for a heavy tail in the sense of probability theory, which a small α
    means. Therefore the balance of a spectrum is judged here by its entropy, ``total_spectral_entropy``, which is
    largest for a flat spectrum in both interpretations.
    """

    alpha: float
    scale: float
    r_squared: float


@checked
def fit_power_law(images: Tensor, *, rule: Rule = "trunc") -> PowerLaw:
    """Fit a power law to the mean power of a coefficient by its frequency: least squares on logarithms.

    The fit uses the nonempty rings between DC and Nyquist (0.5 cycles/pixel), with equal weights, each at its lower
    edge. Because rings have a width, α is up to 5 % too low at 32×32 for power that is exactly f^(−α).

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
def spectral_entropy(profile: Tensor) -> Tensor:
    """H_k = −π_k ln π_k of every band k in nats, with π_k its share of the power without DC (0 ln 0 = 0).

    A band's entropy is at most 1/e, at π_k = 1/e.

    Args:
        profile: (..., rings) ≥ 0, DC first, the sum (not the mean) over each ring, as returned by ``power_profile`` or
            ``radial_power``; it need not be normalised.

    Returns:
        (..., rings) in [0, 1/e]; 0 for ring 0 (DC), for a band without power, and for one that has all of it.

    Raises:
        TypeError: ``profile`` is not a dense tensor, or is on the meta device.
        ValueError: fewer than two rings, or negative power.

    Source: Lin et al., NeurIPS 2023, Sec. 3.3.1.

    Examples:
        >>> import torch
        >>> from freqrob.spectral.longtail import spectral_entropy
        >>> spectral_entropy(torch.tensor([9.0, 3.0, 1.0, 0.0]))
        tensor([0.0000, 0.2158, 0.3466, 0.0000])
    """
    check_values(profile, "profile")
    if profile.ndim < 1 or profile.shape[-1] < 2:
        raise ValueError(f"profile: expected (..., rings) with two rings or more, got shape {tuple(profile.shape)}")
    if (profile < 0).any():
        raise ValueError("profile: expected powers, got negative numbers")
    power = torch.cat([torch.zeros_like(profile[..., :1]), profile[..., 1:]], -1)
    total = power.sum(-1, keepdim=True)
    return torch.special.entr(power / torch.where(total > 0, total, 1))


@checked
def total_spectral_entropy(profile: Tensor) -> Tensor:
    """Σ_k H_k in nats: the entropy of the whole spectrum, largest if all bands hold the same power.

    Args:
        profile: as for ``spectral_entropy``.

    Returns:
        (...) in [0, ln(rings − 1)]: ln(rings − 1) for a flat profile; 0 if one ring has all power, or without power.

    Raises:
        TypeError, ValueError: as ``spectral_entropy``.

    Source: Lin et al., NeurIPS 2023, Sec. 3.3.1 and Theorem 2.

    Examples:
        >>> import torch
        >>> from freqrob.spectral.longtail import total_spectral_entropy
        >>> total_spectral_entropy(torch.ones(23)).item()  # ln 22
        3.0910...
    """
    return spectral_entropy(profile).sum(-1)


def power_law_normalizer(alpha: float, lowest: float, highest: float) -> float:
    """A(α) = (1 − α) / (ξ_h^(1−α) − ξ_l^(1−α)), which makes p(k) = A(α) k^(−α) a density on [ξ_l, ξ_h].

    A(α) is positive for every α. For α = 1 it is the limit, 1 / ln(ξ_h / ξ_l).

    Args:
        alpha: exponent of the density, a finite number.
        lowest, highest: ξ_l and ξ_h, 0 < ξ_l < ξ_h.

    Raises:
        ValueError: an ``alpha`` that is not finite, or an interval that is empty or does not start above 0.

    Source: Lin et al., NeurIPS 2023, Sec. 3.3.1 and Theorem 1.

    Examples:
        >>> from freqrob.spectral.longtail import power_law_normalizer
        >>> power_law_normalizer(2.0, 1.0, 2.0)
        2.0
    """
    if not is_number(alpha) or not isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {shown(alpha)}")
    if not is_number(lowest) or not is_number(highest) or not 0 < lowest < highest < inf:
        raise ValueError(f"lowest, highest: expected 0 < lowest < highest, got {shown(lowest)} and {shown(highest)}")
    if alpha == 1:
        return 1 / log(highest / lowest)
    return (1 - alpha) / (highest ** (1 - alpha) - lowest ** (1 - alpha))


def power_law_entropy(bands: Tensor, alpha: float, lowest: float = 1.0, highest: float = 22.0) -> Tensor:
    """Theorem 1's closed form: H_k = (α A(α) ln k + H(A(α))) k^(−α), with H(A) = −A ln A.

    It is −p(k) ln p(k) for the density p(k) = A(α) k^(−α). For α > 0 it

    - tends to 0 for k → ∞, as the theorem says;
    - tends to **−∞** for k → 0, where the theorem says +∞. That is an error in the paper: α A(α) > 0 and ln k → −∞, so
      the bracket falls without bound while k^(−α) grows. +∞ is impossible for any α, because −p ln p is at most 1/e
      (for α < 0 the limit is 0, for α = 0 H_k is the constant H(A)).
    - increases up to k = (e A(α))^(1/α), where it is 1/e, and decreases from there. An image's bands start at k = 1;
      whether the entropy decreases over all of them depends on A(α).

    Args:
        bands: k > 0, any shape.
        alpha: exponent of the density.
        lowest, highest: ξ_l and ξ_h, the smallest and largest band; by default those of a 32×32 image.

    Returns:
        H_k in nats, in the shape of ``bands``, float64.

    Raises:
        TypeError: ``bands`` is not a dense tensor, or is on the meta device.
        ValueError: a band that is not positive, or as ``power_law_normalizer``.

    Source: Lin et al., NeurIPS 2023, Theorem 1.

    Examples:
        >>> import torch
        >>> from freqrob.spectral.longtail import power_law_entropy
        >>> [round(h, 3) for h in power_law_entropy(torch.tensor([0.1, 1.0, 2.0, 4.0, 1e9]), alpha=2.0).tolist()]
        [-487.32, -0.049, 0.351, 0.178, 0.0]
    """
    check_values(bands, "bands")
    if not (bands > 0).all():
        raise ValueError("bands: expected positive numbers, got zero, a negative number or NaN")
    a, k = power_law_normalizer(alpha, lowest, highest), bands.double()
    return (alpha * a * k.log() - a * log(a)) * k**-alpha
