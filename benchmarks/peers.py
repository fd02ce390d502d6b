"""The spectral ops in PyTorch and NumPy, for comparison with freqrob.

All functions take planes (n, H, W), float32 unless named otherwise, then other arguments of the op, then ``Rings``.
BaSS's weights follow the authors' formula, without the treatment of empty rings, which natural images do not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, view_as_complex, view_as_real
from torch.fft import fft2, ifft2, irfft2, rfft2

from freqrob.spectral import ops
from freqrob.spectral.rings import RingMap

WHITE = 255.0


@dataclass(frozen=True)
class Rings:
    """What a PyTorch programmer would precompute."""

    ring_map: RingMap
    half: Tensor  # (H·(W//2+1),) ring of each coefficient
    full: Tensor  # (H·W,)
    mean: Tensor  # (H·(W//2+1), rings): multiplicity / count on the coefficient's ring
    total: Tensor  # (H·(W//2+1), rings): multiplicity on the coefficient's ring
    spread: Tensor  # (rings, H·(W//2+1)): 1 on the coefficient's ring
    multiplicity: Tensor  # (H·(W//2+1),)
    counts: Tensor  # (rings,)

    @classmethod
    def of(cls, ring_map: RingMap, device: str) -> Rings:
        half, counts = ring_map.half.flatten().long(), ring_map.counts.float()
        one_hot = torch.nn.functional.one_hot(half, ring_map.rings).float()
        multiplicity = ring_map.multiplicity.float().repeat(ring_map.height)
        total = one_hot * multiplicity[:, None]
        tensors = (half, ring_map.full.flatten().long(), total / counts, total, one_hot.T, multiplicity, counts)
        return cls(ring_map, *(tensor.contiguous().to(device) for tensor in tensors))


# BaSS


def weights_of(means: Tensor) -> Tensor:
    """The authors' weights from ring means (..., rings)."""
    a = means[..., 1:-1]
    logs = a.log()
    weights = torch.ones_like(means)
    weights[..., 1:-1] = logs / a * (a.sum(-1, keepdim=True) / logs.sum(-1, keepdim=True))
    return weights


def bass_matmul(x: Tensor, rings: Rings) -> Tensor:
    """rfft2, one-hot matrix products, irfft2: the fastest plain PyTorch."""
    spectrum = rfft2(x)
    means = spectrum.abs().flatten(-2) @ rings.mean * WHITE
    gain = (weights_of(means) @ rings.spread).view(spectrum.shape)
    return irfft2(spectrum * gain, s=x.shape[-2:]).clamp_(0, 1)


def bass_scatter(x: Tensor, rings: Rings) -> Tensor:
    """rfft2, index_add, gather, irfft2, on real numbers: what torch.compile fuses best on a CPU."""
    spectrum = view_as_real(rfft2(x))
    means = summed(power(spectrum).sqrt(), rings) / rings.counts * WHITE
    gain = weights_of(means)[..., rings.half].view(spectrum.shape[:-1])
    return irfft2(view_as_complex(spectrum * gain[..., None]), s=x.shape[-2:]).clamp(0, 1)


def bass_real_matmul(x: Tensor, rings: Rings) -> Tensor:
    """The same with matrix products instead of scattering, for torch.compile where atomics are slow."""
    spectrum = view_as_real(rfft2(x))
    means = power(spectrum).sqrt().flatten(-2) @ rings.mean * WHITE
    gain = weights_of(means)[..., rings.half].view(spectrum.shape[:-1])
    return irfft2(view_as_complex(spectrum * gain[..., None]), s=x.shape[-2:]).clamp(0, 1)


def bass_plain(x: Tensor, rings: Rings) -> Tensor:
    """fft2, scatter, ifft2: as one would write it first."""
    spectrum = fft2(x)
    sums = scattered(spectrum.abs(), rings)
    gain = weights_of(sums / rings.counts * WHITE)[..., rings.full].view(spectrum.shape)
    return ifft2(spectrum * gain).real.clamp(0, 1)


def bass_numpy(planes: np.ndarray) -> np.ndarray:
    """The authors' algorithm, plane by plane, on (n, H, W) in 0–255."""
    height, width = planes.shape[-2:]
    y, x = np.indices((height, width))
    radius = np.hypot(y - height // 2, x - width // 2).astype(int)
    inner = range(1, radius.max())
    out = np.empty_like(planes)
    for n, plane in enumerate(planes):
        spectrum = np.fft.fftshift(np.fft.fft2(plane))
        amplitude = np.abs(spectrum + 1e-8)
        means = np.array([amplitude[radius == ring].mean() for ring in inner])
        logs = np.log(means)
        for ring, weight in zip(inner, (logs / logs.sum()) / (means / means.sum()), strict=True):
            spectrum[radius == ring] *= weight
        out[n] = np.clip(np.fft.ifft2(np.fft.ifftshift(spectrum)).real, 0, 255)
    return out


# The other ops


def power(spectrum: Tensor) -> Tensor:
    """|F|² of real and imaginary parts (..., 2)."""
    return spectrum.square().sum(-1)


def summed(values: Tensor, rings: Rings) -> Tensor:
    """Σ over the rings of a half spectrum's values, mirrored half included."""
    values = values.flatten(-2) * rings.multiplicity
    return values.new_zeros(*values.shape[:-1], len(rings.counts)).index_add(-1, rings.half, values)


def scattered(values: Tensor, rings: Rings) -> Tensor:
    """Σ over the rings of a full spectrum's values."""
    values = values.flatten(-2)
    sums = values.new_zeros(*values.shape[:-1], len(rings.counts))
    return sums.scatter_add(-1, rings.full.expand(values.shape), values)


def power_matmul(x: Tensor, rings: Rings) -> Tensor:
    return rfft2(x).abs().square_().flatten(-2) @ rings.total


def amplitude_matmul(x: Tensor, rings: Rings) -> Tensor:
    return rfft2(x).abs().flatten(-2) @ rings.total


def power_real(x: Tensor, rings: Rings) -> Tensor:
    return power(view_as_real(rfft2(x))).flatten(-2) @ rings.total


def amplitude_real(x: Tensor, rings: Rings) -> Tensor:
    return power(view_as_real(rfft2(x))).sqrt().flatten(-2) @ rings.total


def power_plain(x: Tensor, rings: Rings) -> Tensor:
    return scattered(fft2(x).abs().square(), rings)


def amplitude_plain(x: Tensor, rings: Rings) -> Tensor:
    return scattered(fft2(x).abs(), rings)


def filter_matmul(x: Tensor, weights: Tensor, rings: Rings) -> Tensor:
    spectrum = rfft2(x)
    return irfft2(spectrum * (weights @ rings.spread).view(spectrum.shape), s=x.shape[-2:])


def filter_real(x: Tensor, weights: Tensor, rings: Rings) -> Tensor:
    spectrum = view_as_real(rfft2(x))
    gain = weights[..., rings.half].view(spectrum.shape[:-1])
    return irfft2(view_as_complex(spectrum * gain[..., None]), s=x.shape[-2:])


def filter_plain(x: Tensor, weights: Tensor, rings: Rings) -> Tensor:
    return ifft2(fft2(x) * weights[..., rings.full].view(x.shape)).real


def dot_matmul(x: Tensor, y: Tensor, rings: Rings) -> Tensor:
    product = (rfft2(x) * rfft2(y).conj()).real
    return product.flatten(-2) @ rings.total / (x.shape[-2] * x.shape[-1])


def dot_real(x: Tensor, y: Tensor, rings: Rings) -> Tensor:
    product = (view_as_real(rfft2(x)) * view_as_real(rfft2(y))).sum(-1)
    return product.flatten(-2) @ rings.total / (x.shape[-2] * x.shape[-1])


def dot_plain(x: Tensor, y: Tensor, rings: Rings) -> Tensor:
    return scattered((fft2(x) * fft2(y).conj()).real, rings) / (x.shape[-2] * x.shape[-1])


def mean_abs(x: Tensor, rings: Rings) -> Tensor:
    return rfft2(x).abs().mean(0)


def mean_real(x: Tensor, rings: Rings) -> Tensor:
    return power(view_as_real(rfft2(x))).sqrt().mean(0)


def mean_plain(x: Tensor, rings: Rings) -> Tensor:
    return fft2(x).abs().mean(0)[:, : x.shape[-1] // 2 + 1]


# What is measured

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Op:
    """An op: freqrob's version, the others by name, and the function that makes its inputs from planes.

    ``transforms`` counts the real 2-D FFTs per plane; ``tolerance`` is the largest difference to freqrob's result that
    is accepted: relative to white for BaSS, else relative.
    """

    name: str
    ours: Call
    eager: dict[str, Call]
    compiled: dict[str, Call]
    transforms: int
    inputs: Callable[[Tensor, Rings], tuple[Tensor, ...]] = lambda x, rings: (x,)
    tolerance: float = 1e-3


def in_bytes(call: Call) -> Call:
    return lambda x, rings: (255 * call(x / 255, rings)).round().to(torch.uint8)


def in_bfloat16(call: Call) -> Call:
    return lambda x, rings: call(x.float(), rings).bfloat16()


def bass(name: str, adapt: Callable[[Call], Call] = lambda call: call, **more: object) -> Op:
    """BaSS of float32, or of another dtype that the others' versions convert from and to."""
    return Op(
        name,
        lambda x, rings: ops.balance(x, rings.ring_map),
        {"torch: rfft2, one-hot matmul": adapt(bass_matmul), "torch: fft2, scatter": adapt(bass_plain)},
        {
            "torch.compile: rfft2, scatter": adapt(bass_scatter),
            "torch.compile: rfft2, one-hot matmul": adapt(bass_real_matmul),
        },
        transforms=2,
        **{"tolerance": 1e-5, **more},
    )


def random_weights(x: Tensor, rings: Rings) -> tuple[Tensor, Tensor]:
    return x, 0.5 + torch.rand(len(x), len(rings.counts), device=x.device)


OPS = {
    op.name: op
    for op in (
        bass("bass"),
        bass("bass uint8", in_bytes, inputs=lambda x, _: ((255 * x).round().to(torch.uint8),), tolerance=1.01 / 255),
        bass("bass bfloat16", in_bfloat16, inputs=lambda x, _: (x.bfloat16(),), tolerance=1.01 / 128),
        Op(
            "ring_sum",
            lambda x, rings: ops.ring_sum(x, rings.ring_map),
            {"torch: rfft2, one-hot matmul": power_matmul, "torch: fft2, scatter": power_plain},
            {"torch.compile: rfft2, one-hot matmul": power_real},
            transforms=1,
        ),
        Op(
            "ring_sum of |F|",
            lambda x, rings: ops.ring_sum(x, rings.ring_map, "amplitude"),
            {"torch: rfft2, one-hot matmul": amplitude_matmul, "torch: fft2, scatter": amplitude_plain},
            {"torch.compile: rfft2, one-hot matmul": amplitude_real},
            transforms=1,
        ),
        Op(
            "ring_filter",
            lambda x, weights, rings: ops.ring_filter(x, weights, rings.ring_map),
            {"torch: rfft2, one-hot matmul": filter_matmul, "torch: fft2, gather": filter_plain},
            {"torch.compile: rfft2, gather": filter_real},
            transforms=2,
            inputs=random_weights,
        ),
        Op(
            "ring_dot",
            lambda x, y, rings: ops.ring_dot(x, y, rings.ring_map),
            {"torch: rfft2, one-hot matmul": dot_matmul, "torch: fft2, scatter": dot_plain},
            {"torch.compile: rfft2, one-hot matmul": dot_real},
            transforms=2,
            inputs=lambda x, _: (x, x.flip(0)),
        ),
        Op(
            "mean_amplitude",
            lambda x, rings: ops.mean_amplitude(x),
            {"torch: rfft2, mean": mean_abs, "torch: fft2, mean": mean_plain},
            {"torch.compile: rfft2, mean": mean_real},
            transforms=1,
        ),
    )
}
