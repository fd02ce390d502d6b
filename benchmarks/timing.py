"""Timing on a machine that may have other things to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

FOREIGN_SHARE = 0.1  # of one core, above which a sample does not count


def busy_seconds() -> float | None:
    """CPU seconds that all processes of the machine have used, or None where /proc does not tell."""
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split(maxsplit=11)[1:11])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def sample(call: Callable[[], object], calls: int) -> tuple[float, bool]:
    """Seconds a call, and whether other processes left the machine alone meanwhile."""
    before, own, start = busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    elapsed, own, after = time.perf_counter() - start, time.process_time() - own, busy_seconds()
    foreign = 0.0 if before is None or after is None else after - before - own
    tick = 2 / os.sysconf("SC_CLK_TCK")  # the counters' own error
    return elapsed / calls, foreign <= max(FOREIGN_SHARE * elapsed, tick)


def quiet_sample(call: Callable[[], object], calls: int, deadline: float) -> tuple[float, bool]:
    """The first undisturbed sample, or after the deadline a disturbed one."""
    while True:
        seconds, quiet = sample(call, calls)
        if quiet or time.monotonic() > deadline:
            return seconds, quiet
        time.sleep(0.05)
