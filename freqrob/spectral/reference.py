"""Every spectral op in plain PyTorch: the reference of the tests, and the fallback without a native kernel.

Names, shapes and definitions are those of ``freqrob.spectral.ops``. The functions take any floating dtype of
``torch.fft`` and are differentiable to any order. Half precision is computed in float32: sums come back in float32,
images in their own dtype.

Unlike the native kernels, these functions do not guarantee that a plane's result is independent of its batch: that
depends on ``torch.fft``. Measured with MKL 2024.2 (AVX-512, AVX2 and SSE4.2), batches of 1 to 3000 planes, 20 sizes,
float32 and float64: with the same number of threads, a plane gets the same bits in all batches of two or more planes,
but MKL rounds a single plane differently. Therefore a single plane is transformed together with a copy. ``irfft2`` also
rounds differently with one thread and with several. Gradients may differ in the last bit for sizes such as 12×9, where
PyTorch computes the last elements of a tensor with scalar instead of vector instructions. cuFFT has not been measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi
from typing import Literal

import torch
from torch import Tensor

from freqrob.spectral.rings import RingMap

Weighting = Literal["amplitude", "power"]  # of BaSS

HALF_PRECISION = (torch.float16, torch.bfloat16)


def _amplitude(spectrum: Tensor) -> Tensor:
    """|F| with gradient 0 at F = 0; the second derivative of ``abs`` is NaN there."""
    power = spectrum.real.square() + spectrum.imag.square()
    empty = power == 0
    return torch.where(empty, 0, torch.where(empty, 1, power).sqrt())


def _sum_rings(values: Tensor, ring_map: RingMap) -> Tensor:
    """Σ over each ring of a real half spectrum (..., H, W//2+1), mirrored half included: (..., rings)."""
    ring = ring_map.half_on(values.device).flatten().long()
    values = (values * ring_map.multiplicity.to(values)).flatten(-2)
    return values.new_zeros(*values.shape[:-1], ring_map.rings).index_add(-1, ring, values)


def widen(x: Tensor) -> Tensor:
    """Convert half precision to float32: torch.fft does not support it on the CPU, and ring sums would overflow."""
    return x.float() if x.dtype in HALF_PRECISION else x


def rfft2(x: Tensor) -> Tensor:
    """``torch.fft.rfft2``, also for half precision and for an empty batch, which MKL refuses before torch 2.15."""
    x = widen(x)
    return _of_two(torch.fft.rfft2, x) if x.numel() else x[..., : x.shape[-1] // 2 + 1] + 0j


def irfft2(spectrum: Tensor, s: Sequence[int]) -> Tensor:
    """``torch.fft.irfft2``, also for an empty batch."""
    if spectrum.numel():
        return _of_two(lambda planes: torch.fft.irfft2(planes, s=s), spectrum)
    return spectrum.real.new_zeros(*spectrum.shape[:-2], *s) + spectrum.real.sum()


def _of_two(transform: Callable[[Tensor], Tensor], planes: Tensor) -> Tensor:
    """Transform a single plane together with a copy of itself, because MKL rounds it differently on its own."""
    if planes.device.type == "cpu" and planes.shape[:-2].numel() == 1:
        return transform(torch.stack([planes, planes]))[0]
    return transform(planes)


def ring_sum(x: Tensor, ring_map: RingMap, of: str = "power") -> Tensor:
    """``freqrob.spectral.ops.ring_sum`` with PyTorch's FFT."""
    spectrum = rfft2(x)
    if of == "amplitude":
        return _sum_rings(_amplitude(spectrum), ring_map)
    return _sum_rings(spectrum.real.square() + spectrum.imag.square(), ring_map)


def ring_filter(x: Tensor, weights: Tensor, ring_map: RingMap) -> Tensor:
    """``freqrob.spectral.ops.ring_filter`` with PyTorch's FFT."""
    ring = ring_map.half_on(x.device)
    # The gradient of index_select is summed in the order of the indices, independent of the number of threads.
    gain = weights.index_select(-1, ring.flatten()).unflatten(-1, ring.shape)
    return irfft2(rfft2(x) * gain, s=x.shape[-2:]).to(x.dtype)


def ring_dot(x: Tensor, y: Tensor, ring_map: RingMap) -> Tensor:
    """``freqrob.spectral.ops.ring_dot`` with PyTorch's FFT."""
    a, b = rfft2(x), rfft2(y)
    product = a.real * b.real + a.imag * b.imag  # a lazy conj() would be wrong under torch.compile
    return _sum_rings(product, ring_map) / (x.shape[-2] * x.shape[-1])


def mean_amplitude(x: Tensor) -> Tensor:
    """``freqrob.spectral.ops.mean_amplitude`` with PyTorch's FFT."""
    return _amplitude(rfft2(x)).flatten(0, -3).mean(0)


def bass_profile(v: Tensor, ring_map: RingMap, weighting: str, ring_sum: Callable[..., Tensor] = ring_sum) -> Tensor:
    """a_i (..., rings): the mean of |F| over ring i (``amplitude``), or 2π times the mean of |F|² (``power``).

    With ``power`` it is the azimuthal integral AI(r_i) of Lin et al., NeurIPS 2023, Eq. 1: ∫ |F|² dφ over [0, 2π].
    """
    mean = ring_sum(v, ring_map, weighting) / ring_map.counts.to(v.device).clamp(min=1)
    return 2 * pi * mean if weighting == "power" else mean


def bass_weights(profile: Tensor, *, empty_rings: str = "keep") -> Tensor:
    """w_i = [ln a_i / Σ_j ln a_j] / [a_i / Σ_j a_j] from a profile a (..., rings); 1 for a ring that is not weighed.

    Not weighed are ring 0 (DC), the outermost ring (the corner) and, unless ``empty_rings="as_published"``, rings with
    a_i ≤ 1, whose share of the logarithms is not positive.
    """
    is_weighed = torch.zeros_like(profile, dtype=torch.bool)
    is_weighed[..., 1:-1] = True
    if empty_rings == "as_published":
        profile = profile + 1e-8
    else:
        is_weighed &= ~(profile <= 1)  # a NaN is weighed, so that it is visible in the result
    a = torch.where(is_weighed, profile, 1)
    log_share = a.log() / a.log().sum(-1, keepdim=True)
    share = a / torch.where(is_weighed, profile, 0).sum(-1, keepdim=True)
    return torch.where(is_weighed, log_share / share, 1)


def balance(
    x: Tensor, ring_map: RingMap, *, weighting: str = "amplitude", pixel_scale: float = 255.0, empty_rings: str = "keep"
) -> Tensor:
    """``freqrob.spectral.ops.balance`` with PyTorch's FFT; ``empty_rings`` as for ``freqrob.bass``."""
    quantised = x.dtype == torch.uint8
    scale = pixel_scale / (255 if quantised else 1)
    v = (x.double() if quantised else widen(x)) * scale
    weights = bass_weights(bass_profile(v, ring_map, weighting), empty_rings=empty_rings)
    gain = weights if weighting == "amplitude" else weights.sqrt()
    y = ring_filter(v, gain, ring_map).clamp(0, pixel_scale) / scale
    is_unchanged = (weights == 1).all(-1)[..., None, None]  # rounding must not change such an image
    return torch.where(is_unchanged, x, y.to(x.dtype))
