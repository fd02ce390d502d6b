"""Spectral ops on the CPU against the ways to write them in PyTorch and NumPy.

Candidates of a row are timed in turn, so that whatever else the machine does meets them all; a sample during which
other processes took a noticeable share of the CPU is thrown away. Times are medians; ratios are to ``freqrob`` in the
same row. Allocation matters at these sizes: glibc may map every large buffer anew, page by page. So there is a row with
``out=``, and all is measured twice, as the process finds it (memory "fresh") and with freed memory kept ("kept").
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.fft import fft2, ifft2, irfft2, rfft2

from benchmarks.timing import quiet_sample, sample
from freqrob.files import write_json
from freqrob.provenance import provenance
from freqrob.spectral import native, ops
from freqrob.spectral.rings import RingMap

SAMPLE_SECONDS = 0.06
PATIENCE = 12.0  # seconds to wait for a quiet sample
WHITE = 255.0


@dataclass(frozen=True)
class Workload:
    """What is computed on which batch, by whom; a candidate does ``images[name]`` of its images."""

    name: str
    images: int
    candidates: dict[str, Callable[[], object]]
    partial: dict[str, int]
    differences: dict[str, float]


# Peers. Their weights are those of the authors' formula, which every ring of these images has a share in.


@dataclass(frozen=True)
class Rings:
    """What a PyTorch programmer would precompute."""

    half: Tensor  # (H·(W//2+1),) ring of each coefficient
    full: Tensor  # (H·W,)
    mean: Tensor  # (H·(W//2+1), rings): multiplicity / count on the coefficient's ring
    total: Tensor  # (H·(W//2+1), rings): multiplicity on the coefficient's ring
    spread: Tensor  # (rings, H·(W//2+1)): 1 on the coefficient's ring
    multiplicity: Tensor
    counts: Tensor

    @classmethod
    def of(cls, ring_map: RingMap) -> Rings:
        half, counts = ring_map.half.flatten().long(), ring_map.counts.float()
        one_hot = torch.nn.functional.one_hot(half, ring_map.rings).float()
        multiplicity = ring_map.multiplicity.float().repeat(ring_map.height)
        total = one_hot * multiplicity[:, None]
        full = ring_map.full.flatten().long()
        return cls(half, full, total / counts, total, one_hot.T.contiguous(), multiplicity, counts)


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


def bass_rfft_scatter(x: Tensor, rings: Rings) -> Tensor:
    """rfft2, index_add, gather, irfft2: what torch.compile is given."""
    spectrum = rfft2(x)
    amplitude = spectrum.abs().flatten(-2) * rings.multiplicity
    sums = amplitude.new_zeros(*x.shape[:-2], len(rings.counts)).index_add(-1, rings.half, amplitude)
    gain = weights_of(sums / rings.counts * WHITE)[..., rings.half].view(spectrum.shape)
    return irfft2(spectrum * gain, s=x.shape[-2:]).clamp(0, 1)


def bass_fft_scatter(x: Tensor, rings: Rings) -> Tensor:
    """fft2, scatter, ifft2: as one would write it first."""
    spectrum = fft2(x)
    amplitude = spectrum.abs().flatten(-2)
    index = rings.full.expand(amplitude.shape)
    sums = amplitude.new_zeros(*x.shape[:-2], len(rings.counts)).scatter_add(-1, index, amplitude)
    gain = weights_of(sums / rings.counts * WHITE)[..., rings.full].view(spectrum.shape)
    return ifft2(spectrum * gain).real.clamp(0, 1)


def bass_numpy(images: np.ndarray) -> np.ndarray:
    """The authors' algorithm, image by image and channel by channel, on (N, C, H, W) in 0–255."""
    height, width = images.shape[-2:]
    y, x = np.indices((height, width))
    radius = np.hypot(y - height // 2, x - width // 2).astype(int)
    inner = range(1, radius.max())
    out = np.empty_like(images)
    for n, image in enumerate(images):
        for c, channel in enumerate(image):
            spectrum = np.fft.fftshift(np.fft.fft2(channel))
            amplitude = np.abs(spectrum + 1e-8)
            means = np.array([amplitude[radius == ring].mean() for ring in inner])
            logs = np.log(means)
            for ring, weight in zip(inner, (logs / logs.sum()) / (means / means.sum()), strict=True):
                spectrum[radius == ring] *= weight
            out[n, c] = np.clip(np.fft.ifft2(np.fft.ifftshift(spectrum)).real, 0, 255)
    return out


def ring_sum_matmul(x: Tensor, rings: Rings) -> Tensor:
    spectrum = rfft2(x)
    power = spectrum.real.square() + spectrum.imag.square()
    return power.flatten(-2) @ rings.total


def ring_sum_scatter(x: Tensor, rings: Rings) -> Tensor:
    power = fft2(x).abs().square().flatten(-2)
    sums = power.new_zeros(*x.shape[:-2], len(rings.counts))
    return sums.scatter_add(-1, rings.full.expand(power.shape), power)


# Workloads


def natural(*shape: int) -> Tensor:
    """Random images in [0, 1] whose amplitude falls as 1/f, as that of photographs does."""
    height, width = shape[-2:]
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(height)[:, None].hypot(torch.fft.rfftfreq(width)) + 1 / max(height, width)
    x = irfft2(rfft2(torch.randn(shape, generator=generator)) / frequency, s=(height, width))
    return (0.5 + 0.2 * x / x.std()).clamp(0, 1)


def bass_workload(images: int, size: int) -> Workload:
    x, ring_map = natural(images, 3, size, size), RingMap(size, size)
    rings, out, few = Rings.of(ring_map), torch.empty_like(x), 8 if size < 100 else 1
    in_bytes = (255 * x).round().to(torch.uint8)
    bytes_out = torch.empty_like(in_bytes)
    numbers = (255 * x[:few].double()).numpy()
    compiled = torch.compile(bass_rfft_scatter, dynamic=False)
    candidates = {
        "freqrob": lambda: ops.bass(x, ring_map),
        "freqrob, out=": lambda: ops.bass(x, ring_map, out=out),
        "freqrob, uint8, out=": lambda: ops.bass(in_bytes, ring_map, out=bytes_out),
        "torch: rfft2, one-hot matmul": lambda: bass_matmul(x, rings),
        "torch.compile: rfft2, scatter": lambda: compiled(x, rings),
        "torch: fft2, scatter": lambda: bass_fft_scatter(x, rings),
        "NumPy loop": lambda: bass_numpy(numbers),
    }
    expected = candidates["freqrob"]()
    differences = {name: (candidates[name]() - expected).abs().max().item() for name in candidates if "torch" in name}
    loop = torch.from_numpy(candidates["NumPy loop"]()) / 255
    differences["NumPy loop"] = (loop - expected[:few]).abs().max().item()
    return Workload(f"bass {images}×3×{size}²", images, candidates, {"NumPy loop": few}, differences)


def ring_sum_workload(images: int, size: int) -> Workload:
    x, ring_map = natural(images, 3, size, size), RingMap(size, size)
    rings = Rings.of(ring_map)
    candidates = {
        "freqrob": lambda: ops.ring_sum(x, ring_map),
        "torch: rfft2, one-hot matmul": lambda: ring_sum_matmul(x, rings),
        "torch: fft2, scatter": lambda: ring_sum_scatter(x, rings),
    }
    expected = candidates["freqrob"]()
    relative = {name: ((candidates[name]() - expected).abs().max() / expected.max()).item() for name in candidates}
    return Workload(f"ring_sum {images}×3×{size}²", images, candidates, {}, relative)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "bass32": lambda: bass_workload(256, 32),
    "bass64": lambda: bass_workload(64, 64),
    "bass224": lambda: bass_workload(16, 224),
    "sum32": lambda: ring_sum_workload(256, 32),
}


# Timing


def keep_freed_memory() -> None:
    """Have glibc reuse large buffers instead of mapping each anew; nothing happens with another C library."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 1 << 30)


def measure(workload: Workload, memory: str, repeats: int) -> list[dict[str, object]]:
    """A row for each candidate: median milliseconds for the whole batch, ratio to freqrob, undisturbed samples."""
    calls = {}
    for name, call in workload.candidates.items():
        for _ in range(3):
            seconds, _ = sample(call, 1)
        calls[name] = max(1, round(SAMPLE_SECONDS / seconds))
    times: dict[str, list[tuple[float, bool]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in workload.candidates.items():
            times[name].append(quiet_sample(call, calls[name], time.monotonic() + PATIENCE / repeats))
    medians = {}
    for name, samples in times.items():
        batches = workload.images / workload.partial.get(name, workload.images)
        medians[name] = 1e3 * batches * statistics.median(seconds for seconds, _ in samples)
    return [
        {
            "workload": workload.name,
            "memory": memory,
            "candidate": name,
            "ms": round(medians[name], 4),
            "ratio": round(medians[name] / medians["freqrob"], 2),
            "undisturbed": f"{sum(quiet for _, quiet in times[name])}/{repeats}",
            "difference": workload.differences.get(name),
        }
        for name in medians
    ]


# Report


def table(rows: list[dict[str, object]]) -> str:
    lines = [f"{'':22}{'memory':8}{'':32}{'ms':>9}{'ratio':>8}  undisturbed"]
    for row in rows:
        what = f"{row['workload']:22}{row['memory']:8}{row['candidate']:32}"
        text = f"{what}{row['ms']:9.3f}{row['ratio']:8.2f}  {row['undisturbed']}"
        lines.append(text)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("results/spectral_cpu.json"))
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    arguments = parser.parse_args()
    if not native.load():
        sys.exit(f"no native kernels to measure: {native.status().reason}")
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, object]] = []
    with torch.no_grad():
        workloads = [WORKLOADS[name]() for name in arguments.only]
        for memory in ("fresh", "kept"):
            if memory == "kept":
                keep_freed_memory()
            for workload in workloads:
                rows += measure(workload, memory, arguments.repeats)
    print(table(rows))
    command = shlex.join(["python", "-m", "benchmarks.spectral", *sys.argv[1:]])
    circumstances = {**provenance(command), "threads": arguments.threads, "isa": torch.ops.freqrob.isa()}
    write_json(arguments.out, {**circumstances, "rows": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
