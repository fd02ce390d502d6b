"""The spectrum of adversarial perturbations, and their half-power frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freqrob.runtime.parameters import Count, Natural, checked, is_number, shown
from freqrob.runtime.pixels import has_channels_last
from freqrob.runtime.tensors import check_values
from freqrob.spectral.rings import RingMap, frequency_radius

DataFormat = Literal["channels_first", "channels_last"]
GRID = 25  # radii at which Li et al. compute the cumulative power
CORNER = 0.5**0.5  # cycles/pixel, the highest frequency
NUMPY_FLOATS = tuple(map(np.dtype, (np.float16, np.float32, np.float64)))
ROUNDING = 1e-9  # radii that differ by less count as equal
CHUNK = 64  # images at a time


@dataclass(frozen=True)
class PerturbationSpectrum:
    """Result of ``analyze_spectrum``; tensors are float64 on the CPU, frequencies in cycles/pixel.

    Attributes:
        power: (H, W) mean |DFT|² over images and channels, DC at [0, 0] and set to 0.
        frequencies: (rings,) radius of each ring of ``RingMap(H, W)``.
        profile: (rings,) mean of ``power`` over each ring; 0 for DC and for a ring without coefficients.
        radii: (25,) radii from 0 to √½.
        cumulative: (25,) the share of the power within each of ``radii``.
        half_power_frequency: f_0.5, where ``cumulative`` crosses one half, interpolated linearly as in Li et al. White
            noise of 32 × 32 pixels has 0.396.
        half_power_interval: bootstrap confidence interval of f_0.5 over the images.
        exact_half_power_frequency: the smallest coefficient radius that contains half of the power; white noise has
            0.400.
        images: number of images.
    """

    power: Tensor
    frequencies: Tensor
    profile: Tensor
    radii: Tensor
    cumulative: Tensor
    half_power_frequency: float
    half_power_interval: tuple[float, float]
    exact_half_power_frequency: float
    images: int


@checked
def analyze_spectrum(
    raw: Any,
    inputs: Any,
    *,
    data_format: DataFormat = "channels_first",
    resamples: Count = 1000,
    confidence: float = 0.95,
    seed: Natural = 0,
) -> PerturbationSpectrum:
    """Measure the mean power spectrum of the perturbations ``raw − inputs``.

    |DFT|² is averaged over images and channels, so a large perturbation has more weight than a small one. DC, the mean
    of each channel, is excluded.

    Args:
        raw: perturbed images, (N, C, H, W), as an attack returned them for one ε: a NumPy array, or a tensor of
            PyTorch, JAX, TensorFlow or EagerPy.
        inputs: the original images, of the same shape and type.
        data_format: "channels_last" for (N, H, W, C), as Foolbox names it.
        resamples: number of bootstrap samples, drawn from the images with replacement.
        confidence: level of the interval, in (0, 1).
        seed: random seed of the bootstrap.

    Raises:
        TypeError: ``raw`` or ``inputs`` is not an array or dense tensor of floats, has masked values, is not in the
            machine's byte order, or is on the meta device.
        ValueError: different shapes, a shape that looks like the other ``data_format``, no images, values that are not
            finite, perturbations that are constant or zero in every image, or options out of range.

    Source: Li et al., PLoS Computational Biology 2023.

    >>> import torch
    >>> images = torch.rand(4, 3, 32, 32)
    >>> noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> round(analyze_spectrum(images + 0.01 * noise, images, resamples=10).half_power_frequency, 2)
    0.4
    """
    if not (is_number(confidence) and 0 < confidence < 1):
        raise ValueError(f"confidence: expected a number between 0 and 1, got {shown(confidence)}")
    power = _powers(_perturbations(raw, inputs, data_format))  # (N, H, W)
    total = power.mean(0)
    radius, share = frequency_radius(*total.shape), total / total.sum()
    radii = torch.linspace(0, CORNER, GRID, dtype=torch.float64)
    within = (radius <= radii[:, None, None] + ROUNDING).flatten(1).double()  # (25, H·W)
    each = power.flatten(1) @ within.T  # (N, 25)
    generator = torch.Generator().manual_seed(int(seed))
    drawn = torch.randint(len(each), (resamples, len(each)), generator=generator)
    resampled = torch.stack([each[indices].mean(0) for indices in drawn])  # (resamples, 25)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(_half_way(radii, resampled), tails)
    rings = RingMap.of(total)
    sums = total.new_zeros(rings.rings).index_add(0, rings.full.flatten().long(), total.flatten())
    return PerturbationSpectrum(
        power=total,
        frequencies=rings.radii,
        profile=sums / rings.counts.clamp(min=1),
        radii=radii,
        cumulative=within @ share.flatten(),
        half_power_frequency=_half_way(radii, each.mean(0)).item(),
        half_power_interval=(low.item(), high.item()),
        exact_half_power_frequency=_exact(radius.flatten(), share.flatten()),
        images=len(power),
    )


def _perturbations(raw: Any, inputs: Any, data_format: str) -> Tensor:
    """raw − inputs, (N, C, H, W) float64 on the CPU."""
    perturbed, images = (_as_torch(value, name) for value, name in ((raw, "raw"), (inputs, "inputs")))
    if perturbed.shape != images.shape or images.ndim != 4 or 0 in images.shape:
        got = f"{tuple(perturbed.shape)} and {tuple(images.shape)}"
        raise ValueError(f"raw, inputs: expected one shape (N, C, H, W), none of them 0, got {got}")
    channels_first = data_format == "channels_first"
    if has_channels_last((images if channels_first else images.movedim(1, -1)).shape):
        other = "channels_last" if channels_first else "channels_first"
        raise ValueError(f"data_format: got {data_format!r}, but the shape {tuple(images.shape)} looks like {other!r}")
    delta = perturbed.double() - images.double()
    finite = delta.isfinite().flatten(1).all(1)
    if not finite.all():
        others = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"raw, inputs: expected finite values, got others in images {others}")
    return delta if channels_first else delta.movedim(-1, 1)


def _as_torch(value: Any, name: str) -> Tensor:
    value = getattr(value, "raw", value)  # of an EagerPy tensor
    if not isinstance(value, Tensor):
        if not hasattr(value, "__array__"):
            kind = type(value).__name__
            hint = "; a list of ε gives a list of images: pass one of them" if isinstance(value, list | tuple) else ""
            raise TypeError(f"{name}: expected a NumPy array or a tensor, got {kind}{hint}")
        value = torch.from_numpy(_as_numpy(value, name))
    check_values(value, name)
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floats, got {value.dtype}")
    return value.detach().cpu()


def _as_numpy(value: Any, name: str) -> NDArray:
    """A copy as an array that PyTorch takes. Raises TypeError for other dtypes, byte orders and masks."""
    if np.ma.is_masked(value):
        raise TypeError(f"{name}: expected an array without a mask, got masked values; use {name}.filled()")
    try:
        array = np.array(value)
    except (TypeError, ValueError, RuntimeError) as error:  # of another package, such as for arrays on a GPU
        raise TypeError(
            f"{name}: expected an array that NumPy can read, got {type(value).__name__}: {error}"
        ) from error
    if array.dtype not in NUMPY_FLOATS:
        expected = "floats of 16, 32 or 64 bits in the machine's byte order"
        remedy = f"; use {name}.astype(float)" if array.dtype.kind == "f" else ""
        raise TypeError(f"{name}: expected {expected}, got {array.dtype}{remedy}")
    return array


def _powers(delta: Tensor) -> Tensor:
    """The mean over channels of each image's |DFT|², without DC: (N, H, W)."""
    power = torch.cat([torch.fft.fft2(chunk).abs().square().mean(1) for chunk in delta.split(CHUNK)])
    power[:, 0, 0] = 0
    if not power.sum() > (1e-12 * delta.abs().max() * delta[0, 0].numel()) ** 2:  # rounding noise of a constant
        raise ValueError("raw: expected perturbed images, got inputs plus a constant in every image")
    return power


def _half_way(radii: Tensor, cumulative: Tensor) -> Tensor:
    """The radius (…) at which cumulative power (…, 25) reaches half of its last value; NaN without power."""
    half = cumulative[..., -1:] / 2
    after = (cumulative >= half).double().argmax(-1, keepdim=True).clamp(min=1)  # the first; DC has no power
    above, below = (cumulative.gather(-1, after - step) for step in (0, 1))
    fraction = (half - below) / (above - below)
    return (radii[after - 1] + fraction * (radii[after] - radii[after - 1])).squeeze(-1)


def _exact(radius: Tensor, share: Tensor) -> float:
    """The smallest radius that contains half of the power; coefficients of equal radius count together."""
    order = radius.argsort(stable=True)
    reached = share[order].cumsum(0) >= 0.5 - ROUNDING
    return radius[order][reached.double().argmax()].item()
