"""Timing on a machine with other load, and on a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

FOREIGN_SHARE = 0.1  # of one core, above which a sample does not count


def busy_seconds() -> float | None:
    """CPU seconds that all processes of the machine have used; None without /proc."""
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split(maxsplit=11)[1:11])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def sample(call: Callable[[], object], calls: int) -> tuple[float, bool]:
    """Seconds per call, and whether other processes used little of the machine meanwhile."""
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


class Rotation:
    """Calls a function on one set of inputs after another and keeps as many results.

    If the sets and their results are together larger than a cache, no call finds its data in the cache.
    """

    def __init__(self, call: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> None:
        self.call, self.inputs, self.results, self.turn = call, inputs, [None] * len(inputs), 0

    def __call__(self) -> None:
        turn, self.turn = self.turn, (self.turn + 1) % len(self.inputs)
        self.results[turn] = None  # its memory is for the new one
        self.results[turn] = self.call(*self.inputs[turn])


def event_seconds(call: Callable[[], object], calls: int, event: Callable[[], Any] | None = None) -> float:
    """Seconds per call of ``calls`` consecutive ones, from CUDA events; launches count where they take longer."""
    event = event or partial(torch.cuda.Event, enable_timing=True)
    begin, end = event(), event()
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def captured(call: Callable[[], object], calls: int) -> Callable[[], None]:
    """A CUDA graph of ``calls`` consecutive calls, which were warmed up before; calling the result replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def product_rate(device: str, dtype: torch.dtype, size: int, repeats: int = 15) -> float:
    """Flop/s of a square matrix product of random numbers: the best of ``repeats``, because it serves as a ceiling."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)

    for _ in range(3):
        product()
    seconds = (event_seconds(product, 3) if device == "cuda" else sample(product, 1)[0] for _ in range(repeats))
    return 2 * size**3 / min(seconds)
