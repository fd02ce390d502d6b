"""The spectral ops in Triton, as a good peer would write them.

Two ways: torch's FFT with one kernel for the ring sums and one for the filter, for any size; and for BaSS of small
planes all in one kernel, the Fourier transform as matrix products. That one takes the cas transform T = (C+S) X (C+S),
whose arithmetic is real: a gain that is even along both axes filters T as it filters F.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor, view_as_real
from torch.fft import irfft2, rfft2

from benchmarks.peers import WHITE, Rings

PLANES = 16  # of a program, as many as a matrix product wants rows
TILE = 32  # coefficients of a step
PRODUCT: tl.constexpr = tl.constexpr("tf32x3")  # float32's precision on the matrix units


@triton.jit
def one_hot(ring, weight, rings: tl.constexpr):
    """(coefficients, rings): the weight of each on its ring."""
    return tl.where(ring[:, None] == tl.arange(0, rings)[None, :], weight[:, None], 0.0)


@triton.jit
def sum_kernel(
    x, y, ring, weight, sums, planes, coefficients, chunk, white,
    kind: tl.constexpr, rings: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Adds a chunk's weighted |F| (kind 1), |F|² (2) or Re F·conj G (3) to the ring sums of 16 planes."""
    plane = tl.program_id(0) * block + tl.arange(0, block)
    inside = plane[:, None] < planes
    total = tl.zeros((block, rings), tl.float32)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, coefficients), tile):
        k = start + tl.arange(0, tile)
        here = k < coefficients
        at = 2 * (plane[:, None].to(tl.int64) * coefficients + k[None, :])
        mask = inside & here[None, :]
        re, im = tl.load(x + at, mask, 0.0), tl.load(x + at + 1, mask, 0.0)
        if kind == 3:
            value = re * tl.load(y + at, mask, 0.0) + im * tl.load(y + at + 1, mask, 0.0)
        else:
            value = re * re + im * im
        if kind == 1:
            value = tl.sqrt(value)
        on = one_hot(tl.load(ring + k, here, -1), tl.load(weight + k, here, 0.0) * white, rings)
        total += tl.dot(value, on, input_precision=PRODUCT)
    target = sums + plane[:, None] * rings + tl.arange(0, rings)[None, :]
    tl.atomic_add(target, total, mask=inside & (total != 0))


@triton.jit
def filter_kernel(
    x, ring, weights, planes, coefficients, chunk, outermost,
    balance: tl.constexpr, rings: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Multiplies a chunk of 16 planes' spectra, in place, by ring weights, or by BaSS's of the ring means given."""
    plane = tl.program_id(0) * block + tl.arange(0, block)
    inside = plane[:, None] < planes
    r = tl.arange(0, rings)
    weight = tl.load(weights + plane[:, None] * rings + r[None, :], inside, 1.0)
    if balance:
        weight = balanced(weight, (r > 0) & (r < outermost))
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, coefficients), tile):
        k = start + tl.arange(0, tile)
        here = k < coefficients
        on = one_hot(tl.load(ring + k, here, -1), tl.full((tile,), 1.0, tl.float32), rings)
        gain = tl.dot(weight, tl.trans(on), input_precision=PRODUCT)
        at = 2 * (plane[:, None].to(tl.int64) * coefficients + k[None, :])
        mask = inside & here[None, :]
        tl.store(x + at, tl.load(x + at, mask) * gain, mask)
        tl.store(x + at + 1, tl.load(x + at + 1, mask) * gain, mask)


@triton.jit
def balanced(mean, takes_part):
    """The authors' weights of ring means (planes, rings)."""
    takes_part = takes_part[None, :] & (mean > 0)
    a = tl.where(takes_part, mean, 1.0)
    log = tl.log(a)
    ratio = tl.sum(tl.where(takes_part, a, 0.0), 1) / tl.sum(log, 1)
    return tl.where(takes_part, log / a * ratio[:, None], 1.0)


@triton.jit
def fused_kernel(x, out, cosine, sine, ring, inverse_counts, outermost, size: tl.constexpr):
    """BaSS of a plane, from load to store."""
    row, column = tl.arange(0, size)[:, None], tl.arange(0, size)[None, :]
    square = row * size + column
    at = tl.program_id(0).to(tl.int64) * size * size + square
    pixels = tl.load(x + at)
    c, s, of = tl.load(cosine + square), tl.load(sine + square), tl.load(ring + square)
    xc, xs = tl.dot(pixels, c, input_precision=PRODUCT), tl.dot(pixels, s, input_precision=PRODUCT)
    cc, ss = tl.dot(c, xc, input_precision=PRODUCT), tl.dot(s, xs, input_precision=PRODUCT)
    cs, sc = tl.dot(c, xs, input_precision=PRODUCT), tl.dot(s, xc, input_precision=PRODUCT)
    re, im = cc - ss, cs + sc
    amplitude, cas = tl.sqrt(re * re + im * im), cc + ss + cs + sc
    gain = tl.full((size, size), 0.0, tl.float32)
    all_a, all_log = 0.0, 0.0
    for r in range(1, outermost):
        a = tl.sum(tl.where(of == r, amplitude, 0.0)) * tl.load(inverse_counts + r)  # times the value of white
        log = tl.log(a)
        all_a += a
        all_log += log
        gain = tl.where(of == r, log / a, gain)
    gain = tl.where((of > 0) & (of < outermost), gain * (all_a / all_log), 1.0)
    filtered = tl.dot(c + s, cas * gain, input_precision=PRODUCT)
    y = tl.dot(filtered, c + s, input_precision=PRODUCT) / (size * size)
    tl.store(out + at, tl.minimum(tl.maximum(y, 0.0), 1.0))


# On the host


def grid(planes: int, coefficients: int) -> tuple[tuple[int, int], int]:
    """Programs, and how many coefficients one takes: enough programs for any GPU, if there is that much to do."""
    blocks = triton.cdiv(planes, PLANES)
    chunks = min(triton.cdiv(coefficients, 4 * TILE), triton.cdiv(1024, blocks))
    chunk = TILE * triton.cdiv(coefficients, TILE * chunks)
    return (blocks, triton.cdiv(coefficients, chunk)), chunk


@lru_cache(maxsize=16)
def small(rings: Rings) -> tuple[Tensor, Tensor]:
    """Of each coefficient of the half spectrum: its ring as int32, and its share in the ring's mean."""
    return rings.half.int(), rings.multiplicity / rings.counts[rings.half]


def padded(rings: Rings) -> int:
    return max(16, triton.next_power_of_2(len(rings.counts)))


def sums(x: Tensor, y: Tensor, rings: Rings, kind: int, weight: Tensor, white: float) -> Tensor:
    """Ring sums (planes, rings padded to a power of two) of spectra."""
    planes, coefficients = len(x), x.shape[-2] * x.shape[-1]
    found = torch.zeros(planes, padded(rings), device=x.device)
    programs, chunk = grid(planes, coefficients)
    sum_kernel[programs](
        view_as_real(x), view_as_real(y), small(rings)[0], weight, found, planes, coefficients, chunk, white,
        kind=kind, rings=padded(rings), block=PLANES, tile=TILE,
    )  # fmt: skip
    return found


def filter_(x: Tensor, weights: Tensor, rings: Rings, balance: bool) -> Tensor:
    """A spectrum times weights (planes, padded rings), in place."""
    planes, coefficients = len(x), x.shape[-2] * x.shape[-1]
    programs, chunk = grid(planes, coefficients)
    filter_kernel[programs](
        view_as_real(x), small(rings)[0], weights, planes, coefficients, chunk, len(rings.counts) - 1,
        balance=balance, rings=padded(rings), block=PLANES, tile=TILE,
    )  # fmt: skip
    return x


def bass(x: Tensor, rings: Rings) -> Tensor:
    spectrum = rfft2(x)
    means = sums(spectrum, spectrum, rings, 1, small(rings)[1], WHITE)
    return irfft2(filter_(spectrum, means, rings, True), s=x.shape[-2:]).clamp_(0, 1)


def ring_power(x: Tensor, rings: Rings) -> Tensor:
    spectrum = rfft2(x)
    return sums(spectrum, spectrum, rings, 2, rings.multiplicity, 1.0)[:, : len(rings.counts)]


def ring_amplitude(x: Tensor, rings: Rings) -> Tensor:
    spectrum = rfft2(x)
    return sums(spectrum, spectrum, rings, 1, rings.multiplicity, 1.0)[:, : len(rings.counts)]


def ring_filter(x: Tensor, weights: Tensor, rings: Rings) -> Tensor:
    wide = torch.nn.functional.pad(weights, (0, padded(rings) - weights.shape[-1]))
    return irfft2(filter_(rfft2(x), wide, rings, False), s=x.shape[-2:])


def ring_dot(x: Tensor, y: Tensor, rings: Rings) -> Tensor:
    scale = 1 / (x.shape[-2] * x.shape[-1])
    return sums(rfft2(x), rfft2(y), rings, 3, rings.multiplicity, scale)[:, : len(rings.counts)]


@lru_cache(maxsize=16)
def constants(rings: Rings) -> tuple[Tensor, ...]:
    """Cosines, sines, each coefficient's ring, and what makes a mean in grey levels of a ring's sum."""
    size, device = rings.ring_map.height, rings.full.device
    index = torch.arange(size, dtype=torch.float64)
    angle = 2 * torch.pi / size * (index[:, None] * index % size)
    found = (angle.cos().float(), angle.sin().float(), rings.full.int(), WHITE / rings.counts)
    return tuple(tensor.to(device) for tensor in found)


def bass_fused(x: Tensor, rings: Rings) -> Tensor:
    """Of square planes of 32 or 64 pixels a side."""
    size, out = x.shape[-1], torch.empty_like(x)
    warps = 2 if size == 32 else 8
    fused_kernel[(len(x),)](x, out, *constants(rings), len(rings.counts) - 1, size=size, num_warps=warps)
    return out


VERSIONS = {
    "bass": {"Triton: rfft2, ring passes": bass},
    "ring_sum": {"Triton: rfft2, ring pass": ring_power},
    "ring_sum of |F|": {"Triton: rfft2, ring pass": ring_amplitude},
    "ring_filter": {"Triton: rfft2, ring pass": ring_filter},
    "ring_dot": {"Triton: rfft2, ring pass": ring_dot},
}


def versions(op: str, size: int) -> dict[str, object]:
    """What there is in Triton of an op, for planes of a size."""
    fused = {"Triton: one kernel, DFT by tf32×3 products": bass_fused} if op == "bass" and size in (32, 64) else {}
    return {**fused, **VERSIONS.get(op, {})}
