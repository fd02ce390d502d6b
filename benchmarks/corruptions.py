"""Time to corrupt images as CIFAR-10-C does.

    python -m benchmarks.corruptions --data DIR [--frost DIR] [--images 1000] [--threads 2] [--out FILE]
                                     [--quick]

Times every severity of every type on the first images of CIFAR-10's test set, with one sample each: the first one that
other processes do not disturb, or the last one after a minute. Writes JSON with each type's elapsed and CPU seconds for
10,000 images, extrapolated from the timed images, and their total over all sets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.script import load_images, make_parser, parse, run
from benchmarks.timing import quiet_sample
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, find_frost
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance

SET = 10_000
PATIENCE = 60  # seconds to wait for an undisturbed sample


def measure(images: Tensor, name: str, frost: Path | None, patience: float) -> dict:
    """Seconds for 10,000 images at each severity of a type."""
    row: dict = {"type": name, "seconds": [], "cpu_seconds": [], "undisturbed": True}
    for severity in SEVERITIES:
        call = partial(corrupt, images, name, severity, frost=frost)
        corrupt(images[:100], name, severity, frost=frost)
        cpu: list[float] = []

        def timed(call: partial = call, cpu: list[float] = cpu) -> None:
            start = time.process_time()
            call()
            cpu.append(time.process_time() - start)

        seconds, quiet = quiet_sample(timed, 1, time.monotonic() + patience)
        row["seconds"].append(round(seconds * SET / len(images), 3))
        row["cpu_seconds"].append(round(cpu[-1] * SET / len(images), 3))
        row["undisturbed"] &= quiet
    return row


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "corruptions_cpu.json", data=True)
    parser.add_argument("--frost", type=Path, metavar="DIR", help="photographs, where no package has them")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds to wait for a quiet machine")
    arguments = parse(parser, given)
    if arguments.quick:
        arguments.images, arguments.patience = 4, 0
    torch.set_num_threads(arguments.threads)
    find_frost(arguments.frost)
    images = load_images(arguments).images[: arguments.images]
    rows = []
    for name in CORRUPTIONS:
        rows.append(measure(images, name, arguments.frost, arguments.patience))
        print(f"{name:18} {sum(rows[-1]['seconds']):7.1f} s, {sum(rows[-1]['cpu_seconds']):7.1f} s of CPU", flush=True)
    totals = {f"total_{what}": round(sum(sum(row[what]) for row in rows), 1) for what in ("seconds", "cpu_seconds")}
    command = f"python -m benchmarks.corruptions --images {len(images)} --threads {arguments.threads}"
    record = {
        **provenance(command), "threads": arguments.threads, "images": len(images), "extrapolated_to": SET, **totals,
        "undisturbed": all(row["undisturbed"] for row in rows), "rows": rows,
    }  # fmt: skip
    write_json(arguments.out, record)
    print(f"{len(rows) * len(SEVERITIES)} sets of {SET:,} images: {totals['total_seconds'] / 60:.1f} minutes")


if __name__ == "__main__":
    run(main)
