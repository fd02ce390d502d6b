"""The Python parts of `benchmarks/gpu.sh`: name the device, build, run every op once, gather the numbers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.script import run
from benchmarks.spectral import require_kernels
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.spectral import native, ops, reference
from freqrob.spectral.rings import RingMap

SHORT_SIZES = ((32, 32), (64, 64), (224, 224), (30, 18))


def device_name(device: str) -> str:
    """``H200`` of an NVIDIA H200."""
    return torch.cuda.get_device_name().removeprefix("NVIDIA ") if device == "cuda" else "CPU"


def build(device: str) -> None:
    print(native.doctor())
    require_kernels(device)


def calls(x: Tensor, weights: Tensor, rings: RingMap) -> dict[str, Callable[[ModuleType], Tensor]]:
    """Every op, of ``ops`` or ``reference``."""
    return {
        "ring_sum": lambda of: of.ring_sum(x, rings),
        "ring_sum of |F|": lambda of: of.ring_sum(x, rings, "amplitude"),
        "ring_filter": lambda of: of.ring_filter(x, weights, rings),
        "ring_dot": lambda of: of.ring_dot(x, x.flip(0), rings),
        "mean_amplitude": lambda of: of.mean_amplitude(x),
        "bass": lambda of: of.balance(x, rings),
        "bass of power": lambda of: of.balance(x, rings, weighting="power"),
    }


def short(device: str) -> None:
    """Compare each op on a few planes with float64. Raises ValueError for a large difference."""
    generator = torch.Generator().manual_seed(0)
    for height, width in SHORT_SIZES:
        rings = RingMap(height, width)
        x = torch.rand(5, height, width, generator=generator, dtype=torch.float64)
        weights = torch.rand(5, rings.rings, generator=generator, dtype=torch.float64)
        exact = calls(x, weights, rings)
        for name, call in calls(x.float().to(device), weights.float().to(device), rings).items():
            expected = exact[name](reference)
            far = ((call(ops).cpu().double() - expected).abs().max() / expected.abs().max()).item()
            if not far < 1e-5:
                raise ValueError(f"{name} of {height}×{width}: {far:.2g} from float64")
        in_bytes = (255 * x).round().to(torch.uint8)
        levels = ops.balance(in_bytes.to(device), rings).cpu().int() - ops.balance(in_bytes, rings).int()
        if levels.abs().max() > 1:
            raise ValueError(f"bass of uint8 {height}×{width}: more than a grey level from the CPU's")
    print(f"every op at {', '.join(f'{h}×{w}' for h, w in SHORT_SIZES)}: as float64")


def record(work: Path, device: str, out: Path) -> Path:
    """Gather the stages and the benchmarks of a run from ``work``."""
    stages = {}
    for line in (work / "stages.tsv").read_text().splitlines():
        stage, result, seconds = line.split("\t")
        stages[stage] = {"result": result, "seconds": int(seconds)}
    gathered = {**provenance("benchmarks/gpu.sh"), "name": device_name(device), "stages": stages}
    if (work / "spectral.json").is_file():
        gathered["spectral"] = json.loads((work / "spectral.json").read_text())
    gathered["training"] = [json.loads(path.read_text()) for path in sorted(work.glob("training_*.json"))]
    slug = device_name(device).lower().replace(" ", "_")
    path = out / (f"gpu_{slug}.json" if device == "cuda" else "dry_run.json")
    write_json(path, gathered)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("name", "build", "short", "record"))
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch")
    if given.what == "name":
        print(device_name(given.device))
    elif given.what == "build":
        build(given.device)
    elif given.what == "short":
        short(given.device)
    else:
        print(f"written to {record(given.work, given.device, given.out)}")


if __name__ == "__main__":
    run(main)
