"""Spectral ops on the CPU or a GPU against the ways to write them in PyTorch, Triton and NumPy.

    python -m benchmarks.spectral [--device cuda] [--full | --quick]

Candidates of a row are timed in turn, so that other load on the machine affects all of them. Times are medians for a
whole batch of images of 3 channels; ratios are relative to ``freqrob`` in the same row; the results of every candidate
are compared with freqrob's. ``copy`` moves as many bytes as the op has to read and write, ``FFT alone`` is torch's FFT
of the same planes. The head of the JSON has the rate of a float32 matrix product, for comparison with the transforms'
5/2·N·log₂N flops.

On the CPU a sample is discarded if other processes used a noticeable share of the machine. glibc may map every large
buffer again, page by page, so BaSS is also measured with ``out=``, and its middle batches also with freed memory kept
(memory "kept") instead of the default ("fresh"). One image of bytes is what a DataLoader's worker balances: there rows
have the public function ``freqrob.bass`` with all its checks, and ``RandomBaSS`` beside torchvision's ``v2.Identity``.

On a GPU ``ms`` is measured with CUDA events around consecutive calls from Python, and includes launches where they take
longer; ``graph_ms`` is the time of a call in a replayed CUDA graph. Inputs rotate through enough sets to fill four
times the L2 cache with their results, but at most 64 sets: small batches stay in the L2 cache, those of ``copy`` too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2
from torchvision.transforms import v2

import freqrob
from benchmarks.peers import OPS, WHITE, Op, Rings, bass_numpy
from benchmarks.script import make_parser, parse, run
from benchmarks.timing import Rotation, captured, event_seconds, product_rate, quiet_sample, sample
from freqrob.data.transforms import RandomBaSS
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.spectral import native, ops
from freqrob.spectral.rings import RingMap

LADDER = {32: (1, 16, 256, 4096, 8192), 64: (1, 16, 64, 1024, 8192), 224: (1, 4, 16, 64, 1024, 8192)}  # images
MIDDLE = {32: 256, 64: 64, 224: 16}
LARGE = {32: 4096, 64: 1024, 224: 64}
OTHER = {256: (1, 16), 299: (1, 16), 384: (1, 8), 512: (1, 4)}  # images of sizes that networks for ImageNet also take
PATIENCE = 6.0  # seconds to wait for quiet samples of a candidate
MAX_SETS, MAX_NUMPY_PLANES = 64, 24
NOT_BASS = ("copy", "FFT alone", "v2.Identity")  # candidates that compute something else
LONG = 2e-3  # seconds per call, above which its launch does not matter


@dataclass(frozen=True)
class Workload:
    """An op on a number of images of 3 channels."""

    op: Op
    images: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.op.name} {self.images}×3×{self.size}²"

    @property
    def is_middle(self) -> bool:
        """Whether it is BaSS of a middle batch, which is compared with more."""
        return self == Workload(OPS["bass"], MIDDLE.get(self.size, 0), self.size)

    @property
    def flops(self) -> float:
        """Of the real transforms, by the usual count."""
        pixels = self.size**2
        return 3 * self.images * self.op.transforms * 2.5 * pixels * log2(pixels)


@dataclass(frozen=True)
class Candidate:
    """A version of an op and its sets of inputs; ``part``: the share of the batch that one call computes."""

    call: Callable[..., object]
    inputs: list[tuple[object, ...]]
    part: float = 1.0


# Which workloads


def few(device: str) -> Iterator[Workload]:
    """A run of minutes: BaSS of one image, a middle and a large batch, the rest in a large one; more on a GPU."""
    gpu = device == "cuda"
    for size, ladder in LADDER.items():
        for images in ladder if gpu else (1, MIDDLE[size], LARGE[size]):
            yield Workload(OPS["bass"], images, size)
    for size, ladder in OTHER.items():
        for images in ladder:
            yield Workload(OPS["bass"], images, size)
    for size in () if gpu else LADDER:
        yield Workload(OPS["bass uint8"], 1, size)
    for name, op in OPS.items():
        for size in LADDER if name != "bass" and (gpu or name != "bass bfloat16") else ():  # no bfloat16 kernel there
            yield Workload(op, LARGE[size], size)


def every() -> Iterator[Workload]:
    for op in OPS.values():
        for size, ladder in {**LADDER, **OTHER}.items():
            for images in ladder:
                yield Workload(op, images, size)


def tiny() -> Iterator[Workload]:
    """A smoke test of seconds."""
    for op in OPS.values():
        yield Workload(op, 2, 32)
    yield Workload(OPS["bass uint8"], 1, 32)
    yield Workload(OPS["bass"], 1, 64)
    yield Workload(OPS["bass"], 1, 224)


def fits(workload: Workload, device: str) -> bool:
    """Whether memory suffices for the inputs, two results of each candidate, and temporary spectra."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_memory()
    return 20 * 4 * 3 * workload.images * workload.size**2 < 0.8 * free


def available_memory() -> int:
    """Bytes of available memory; half of all memory if the system does not report it."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


# Candidates


def natural(planes: int, size: int, device: str) -> Tensor:
    """Planes in [0, 1] whose amplitude falls as 1/f, as in photographs; at most 192 different ones."""
    generator = torch.Generator(device).manual_seed(0)
    frequency = torch.fft.fftfreq(size)[:, None].hypot(torch.fft.rfftfreq(size)) + 1 / size
    noise = torch.randn(min(planes, 192), size, size, generator=generator, device=device)
    x = irfft2(rfft2(noise) / frequency.to(device), s=(size, size))
    x = (0.5 + 0.2 * x / x.std()).clamp(0, 1)
    return x.repeat(ceil(planes / len(x)), 1, 1)[:planes]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def sets_for(moved: int, device: str) -> int:
    if device != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(MAX_SETS, max(2, ceil(4 * cache / moved)))


def candidates(workload: Workload, device: str, compile: bool) -> tuple[dict[str, Candidate], int]:
    """All available versions of the workload's op, and the bytes that it has to move."""
    op, size = workload.op, workload.size
    rings = Rings.of(RingMap(size, size), device)
    given = op.inputs(natural(3 * workload.images, size, device), rings)
    moved = bytes_of((*given, op.ours(*given, rings)))
    inputs = [given, *(tuple(t.clone() for t in given) for _ in range(sets_for(moved, device) - 1))]
    found: dict[str, Candidate] = {}

    def add(name: str, call: Callable[..., object]) -> None:
        found[name] = Candidate(lambda *some: call(*some, rings), inputs)

    add("freqrob", op.ours)
    if op.name.startswith("bass"):
        with_out = [(*some, torch.empty_like(some[0])) for some in inputs]
        found["freqrob, out="] = Candidate(lambda x, out: ops.balance(x, rings.ring_map, out=out), with_out)
    for name, call in op.eager.items():
        add(name, call)
    for name, call in op.compiled.items() if compile else ():
        for some in inputs:
            torch._dynamo.maybe_mark_dynamic(some[0], 0)  # one compilation for all batch sizes, where possible
        add(name, torch.compile(call))
    if device == "cuda":
        for name, call in triton_versions(op.name, size).items():
            add(name, call)
    if workload.is_middle and device == "cpu":
        numbers = (WHITE * given[0][:MAX_NUMPY_PLANES].double()).numpy()
        found["NumPy loop"] = Candidate(bass_numpy, [(numbers,)], len(numbers) / len(given[0]))
    if workload == Workload(OPS["bass uint8"], 1, size) and device == "cpu":
        public = {"freqrob.bass": freqrob.bass, "RandomBaSS": RandomBaSS(p=1.0), "v2.Identity": v2.Identity()}
        found |= {name: Candidate(call, inputs) for name, call in public.items()}
    source = [torch.randint(256, (2, moved // 2), dtype=torch.uint8, device=device).unbind() for _ in inputs]
    found["copy"] = Candidate(lambda a, b: a.copy_(b), source)
    found["FFT alone"] = Candidate(lambda *some: transforms(op, *some), inputs)
    return found, moved


def transforms(op: Op, x: Tensor, *others: Tensor) -> object:
    """torch's FFTs of as many planes as the op transforms."""
    x = x if x.dtype == torch.float32 else x.float()
    spectrum = rfft2(x)
    if op.transforms == 1:
        return spectrum
    return (spectrum, rfft2(others[0])) if op.name == "ring_dot" else irfft2(spectrum, s=x.shape[-2:])


def triton_versions(op: str, size: int) -> dict[str, Callable[..., Tensor]]:
    try:
        from benchmarks import triton_peer
    except ImportError:
        return {}
    return triton_peer.versions(op, size)


def difference(workload: Workload, result: Tensor, expected: Tensor) -> float:
    """Largest difference to freqrob's result: for BaSS relative to white, else to the largest number of the ring."""
    far = (result.float() - expected.float()).abs()
    if workload.op.name.startswith("bass"):
        return far.max().item() / (WHITE if expected.dtype == torch.uint8 else 1)
    scale = expected.abs() if workload.op.name == "mean_amplitude" else expected.abs().amax(0)
    return (far / scale).max().item()


def check(workload: Workload, found: dict[str, Candidate]) -> tuple[dict[str, float], list[str]]:
    """The difference of every candidate, and the reasons why some, removed from ``found``, fail or differ too much."""
    expected = found["freqrob"].call(*found["freqrob"].inputs[0])
    far, failures = {}, []
    for name, candidate in [*found.items()]:
        if name in ("freqrob", *NOT_BASS):
            continue
        try:
            result = candidate.call(*candidate.inputs[0])
            if name == "NumPy loop":
                far[name] = difference(workload, torch.from_numpy(result) / WHITE, expected[: len(result)])
            else:
                far[name] = difference(workload, result, expected)
            failure = "" if far[name] <= workload.op.tolerance else f"differs by {far[name]:.2g} from freqrob"
        except Exception as error:  # a failure in another package must not end the run
            failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if failure:
            failures.append(f"{workload.name}, {name}: {failure}")
            del found[name]
    return far, failures


# Timing


def keep_freed_memory() -> None:
    """Let glibc reuse large buffers instead of mapping each again; no effect with another C library."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 1 << 30)


Sampler = Callable[[], tuple[float, bool]]


def cpu_samplers(candidate: Candidate, seconds: float, patience: float) -> dict[str, Sampler]:
    """Functions that take one sample of a call's time: seconds, and whether it was undisturbed."""
    call = Rotation(candidate.call, candidate.inputs)
    took = min(sample(call, 1)[0] for _ in range(3))
    calls = max(1, round(seconds / took))
    return {"ms": lambda: quiet_sample(call, calls, time.monotonic() + patience)}


def cuda_samplers(candidate: Candidate, seconds: float, _patience: float) -> dict[str, Sampler]:
    """The same with CUDA events, and for replays of a CUDA graph."""
    call, sets = Rotation(candidate.call, candidate.inputs), len(candidate.inputs)
    took = min(event_seconds(call, max(2, sets)) for _ in range(2))
    calls = sets * max(1, round(seconds / took / sets))
    samplers = {"ms": lambda: (event_seconds(call, calls), True)}
    if took < LONG:
        try:
            replay = captured(Rotation(candidate.call, candidate.inputs), sets)
        except RuntimeError:  # something in it cannot be captured
            return samplers
        replays = max(1, round(seconds / event_seconds(replay, 2)))
        samplers["graph_ms"] = lambda: (event_seconds(replay, replays) / sets, True)
    return samplers


def measure(
    workload: Workload, device: str, memory: str, *, compile: bool, seconds: float, repeats: int, patience: float
) -> tuple[list[dict[str, object]], list[str]]:
    """A row for each candidate, and the failures of the others."""
    found, moved = candidates(workload, device, compile)
    far, failures = check(workload, found)
    samplers_of = cuda_samplers if device == "cuda" else cpu_samplers
    samplers = {name: samplers_of(candidate, seconds, patience / repeats) for name, candidate in found.items()}
    samples = {name: {what: [] for what in takes} for name, takes in samplers.items()}
    for _ in range(repeats):
        for name, takes in samplers.items():
            for what, take in takes.items():
                samples[name][what].append(take())
    rows = []
    for name, taken in samples.items():
        times = {what: [1e3 * s / found[name].part for s, _ in some] for what, some in taken.items()}
        rows.append({
            "workload": workload.name, "op": workload.op.name, "images": workload.images, "size": workload.size,
            "memory": memory, "candidate": name,
            **{what: float(f"{statistics.median(some):.4g}") for what, some in times.items()},
            "spread": round((max(times["ms"]) - min(times["ms"])) / statistics.median(times["ms"]), 3),
            "undisturbed": f"{sum(quiet for _, quiet in taken['ms'])}/{repeats}",
            "difference": far.get(name),
        })  # fmt: skip
    ours = rows[0]
    for row in rows:
        row["ratio"] = round(row["ms"] / ours["ms"], 2)
        if "graph_ms" in row and "graph_ms" in ours:
            row["graph_ratio"] = round(row["graph_ms"] / ours["graph_ms"], 2)
    ours.update(bytes=moved, flops=round(workload.flops))
    return rows, failures


def launch() -> dict[str, float]:
    """Microseconds of a minimal kernel: launched from Python, and in a CUDA graph."""
    one = torch.zeros(1, device="cuda")

    def least() -> None:
        one.add_(1)

    least()
    replay = captured(least, 100)
    return {
        "launch_us": 1e6 * statistics.median(event_seconds(least, 1000) for _ in range(9)),
        "launch_graph_us": 1e4 * statistics.median(event_seconds(replay, 10) for _ in range(9)),
    }


# Report


def table(rows: list[dict[str, object]]) -> str:
    """The rows of one workload; ``of copy``: how near a candidate comes to the copy of the bytes."""
    what = "graph_ms" if all("graph_ms" in row for row in rows) else "ms"
    copy = next(row[what] for row in rows if row["candidate"] == "copy")
    lines = [f"{rows[0]['workload'] + ', ' + rows[0]['memory']:46}{'ms':>10}{'graph ms':>10}   ratio of copy  spread"]
    for row in rows:
        graph = f"{row['graph_ms']:10.4f}" if "graph_ms" in row else 10 * " "
        numbers = f"{row['ms']:10.4f}{graph}{row['ratio']:8.2f}{copy / row[what]:8.0%}{row['spread']:8.0%}"
        lines.append(f"  {row['candidate']:44}{numbers}  {row['undisturbed']}")
    return "\n".join(lines)


def circumstances(device: str, quick: bool) -> dict[str, object]:
    """The conditions of the measurement, and the machine's rate of a matrix product."""
    size = 256 if quick else 8192 if device == "cuda" else 1024
    found = {"threads": torch.get_num_threads(), "device": device, "isa": torch.ops.freqrob.isa()}
    found["product_tflops"] = round(product_rate(device, torch.float32, size) / 1e12, 4)
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"gpu": about.name, "cuda": torch.version.cuda, "l2_mb": round(about.L2_cache_size / 1e6)}
        found |= {key: round(value, 2) for key, value in launch().items()}
    return found


def require_kernels(device: str) -> None:
    if not native.load():
        sys.exit(f"no native kernels to measure: {native.status().reason}")
    if device == "cuda" and not torch.ops.freqrob.bass.default.has_kernel_for_dispatch_key("CUDA"):
        sys.exit(f"no CUDA kernels to measure: {'; '.join(native.status().notes) or 'the library has none'}")


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "spectral_cpu.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--minutes", type=float, help="start no other workload after that (default: 4; --full: none)")
    parser.add_argument("--only", nargs="+", choices=OPS, default=list(OPS), metavar="OP", help=", ".join(OPS))
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--full", action="store_true", help="every op at every batch that fits")
    given = parse(parser, arguments)
    if given.full and given.quick:
        parser.error("--full and --quick exclude each other")
    require_kernels(given.device)
    torch.set_num_threads(given.threads)
    torch._dynamo.config.automatic_dynamic_shapes = False  # a second size would be compiled for every size
    torch._dynamo.config.recompile_limit = 64
    workloads = [*(tiny() if given.quick else every() if given.full else few(given.device))]
    deadline = time.monotonic() + 60 * (given.minutes or (float("inf") if given.full else 4))
    how = {
        "compile": not (given.no_compile or given.quick),
        "seconds": 0.0 if given.quick else 0.01 if given.device == "cuda" else 0.06,
        "repeats": 1 if given.quick else given.repeats,
        "patience": 0.0 if given.quick else PATIENCE,
    }
    command = shlex.join(["python", "-m", "benchmarks.spectral", *(sys.argv[1:] if arguments is None else arguments)])
    rows, left_out, failures = [], [], []
    with torch.no_grad():
        head = {**provenance(command), **circumstances(given.device, given.quick)}
        for memory in ("fresh", "kept") if given.device == "cpu" else ("fresh",):
            if memory == "kept":
                keep_freed_memory()
            for workload in workloads:
                again = memory == "fresh" or workload.is_middle
                if workload.op.name not in given.only or not again:
                    continue
                if time.monotonic() > deadline or not fits(workload, given.device):
                    left_out.append(f"{workload.name}, {memory}: not enough time or memory")
                    continue
                try:
                    found, failed = measure(workload, given.device, memory, **how)
                except RuntimeError as error:  # the other workloads can still be measured
                    found, failed = [], [f"{workload.name}: {error}"]
                failures += failed
                if found:
                    rows += found
                    write_json(given.out, {**head, "left_out": left_out + failures, "rows": rows})
                    print(table(found), flush=True)
                if given.device == "cuda":
                    torch.cuda.empty_cache()
    write_json(given.out, {**head, "left_out": left_out + failures, "rows": rows})
    print("\n".join([*(f"left out: {what}" for what in left_out + failures), f"written to {given.out}"]))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
