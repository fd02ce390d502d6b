"""Two processes that work together, for real, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

WORLD, SECONDS = 2, 900


def join_pair(folder):
    """Called in each of the two: meet in a file, where no other process could take a port."""
    store, patience = f"file://{folder}/store", timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", store, rank=int(os.environ["RANK"]), world_size=WORLD, timeout=patience)


def leave_with(results, folder):
    """Called in each of the two, at its end: ``run_pair`` returns the results."""
    torch.save(results, folder / f"results{os.environ['RANK']}.pt")
    dist.barrier()
    os._exit(0)  # gloo's end has been seen to abort


def run_pair(folder, arguments, **environment):
    """Start two Pythons with ``arguments``, end them together, and give the results of each."""
    children = []
    try:
        for rank in range(WORLD):
            own = {**environment, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": os.pathsep.join(sys.path)}
            with open(folder / f"output{rank}", "w") as output:
                command = [sys.executable, *map(str, arguments)]
                environ = {**os.environ, **{key: str(value) for key, value in own.items()}}
                children.append(subprocess.Popen(command, env=environ, stdout=output, stderr=output))
        end = time.monotonic() + SECONDS
        while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
            assert time.monotonic() < end, "the pair takes too long"
            time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    outputs = "\n".join((folder / f"output{rank}").read_text() for rank in range(WORLD))
    assert [child.returncode for child in children] == [0, 0], outputs
    return [torch.load(folder / f"results{rank}.pt", weights_only=False) for rank in range(WORLD)]


class Attempt:
    """What many tests need and what may fail: then the test that calls ``check`` fails, and the others are skipped."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._error, self._result = None, None
        try:
            self._result = make()
        except Exception as error:
            self._error = error

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    @property
    def result(self) -> Any:
        if self._error is not None:
            pytest.skip(f"what this test is about failed, as another test shows: {type(self._error).__name__}")
        return self._result
