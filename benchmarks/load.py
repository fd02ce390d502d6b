"""Time of `freqrob demo` on a quiet machine and with other busy processes, by OpenMP's wait policy.

    python -m benchmarks.load [--images 20] [--repeats 3] [--busy 0 1 2] [--out FILE] [--quick]

A busy process multiplies matrices on two threads. Beside k of them the fair share is 1 + k times the quiet seconds.
``short spin`` is what the command line sets by default, ``libgomp's`` what OpenMP does without it, ``passive`` no
spinning at all. Settings take turns; the figures are medians. Writes JSON after each number of busy processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from benchmarks.script import make_parser, parse, run
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.runtime.threads import WAIT_SETTINGS

SETTINGS = {
    "short spin": {},
    "libgomp's": {"GOMP_SPINCOUNT": "300000"},  # its default
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = """
import torch
torch.set_num_threads(2)
a = torch.randn(1000, 1000)
print("ready", flush=True)
while True:
    torch.mm(a, a)
"""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep ``count`` processes multiplying matrices during the block."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAIT_SETTINGS, "OMP_NUM_THREADS")}
    others = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, env=environment) for _ in range(count)
    ]
    try:
        for other in others:
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds_of(arguments: Sequence[str], setting: dict[str, str]) -> float:
    """Seconds that a command of freqrob takes in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAIT_SETTINGS, "OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "freqrob", *arguments]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment | setting, check=True, capture_output=True)
        return time.perf_counter() - start


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "load_cpu.json")
    parser.add_argument("--images", type=int, default=20, help="of the demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parse(parser, given)
    timed = ["demo", "--images", str(arguments.images)]
    if arguments.quick:
        timed, arguments.busy, arguments.repeats, arguments.settings = ["models"], [1], 1, ["short spin"]
    command = f"python -m benchmarks.load --images {arguments.images} --repeats {arguments.repeats}"
    rows = []
    for busy in arguments.busy:
        seconds: dict[str, list[float]] = {name: [] for name in arguments.settings}
        with busy_processes(busy):
            for _ in range(arguments.repeats):
                for name in arguments.settings:
                    seconds[name].append(round(seconds_of(timed, SETTINGS[name]), 1))
        for name, measured in seconds.items():
            rows.append({"busy": busy, "setting": name, "seconds": measured, "median": median(measured)})
            print(f"with {busy} busy processes, {name}: {median(measured)} s of {measured}", flush=True)
        write_json(arguments.out, {**provenance(command), "images": arguments.images, "rows": rows})


if __name__ == "__main__":
    run(main)
