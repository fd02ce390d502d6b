"""Process-wide state that a measurement changes and restores."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the block, this is the default dtype of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def hashed_seed(*key: int) -> int:
    """A seed of 32 bits from one or more integers of any size."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the global random generators of PyTorch (all devices), NumPy and Python.

    Accepts any integer ≥ 0. NumPy refuses seeds of more than 32 bits, and PyTorch's CPU generator ignores their upper
    bits, so such seeds are hashed to 32 bits.
    """
    number = seed if seed < 2**32 else hashed_seed(seed)
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@contextmanager
def random_state(*seed: int) -> Iterator[None]:
    """Restore the global random generators of PyTorch, NumPy and Python on exit; seed them first if ``seed`` is given.

    Models that draw random numbers then draw the same ones in every run, and the caller's generators do not advance.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(gpus):
        try:
            if seed:
                seed_everything(hashed_seed(*seed))
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
