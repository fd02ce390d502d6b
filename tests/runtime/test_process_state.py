"""Random state of the process."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning_fabric import seed_everything as fabrics

from freqrob.runtime.process_state import random_state, seed_everything


def drawn() -> tuple[float, ...]:
    return torch.rand(()).item(), np.random.rand(), random.random()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_seeds_as_fabric_does(seed, monkeypatch):
    """Runs that earlier versions started with Fabric's function have these random numbers."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # which Fabric changes
    with random_state():
        fabrics(seed, verbose=False)
        expected = drawn()
        seed_everything(seed)
        assert drawn() == expected


@pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
def test_takes_every_seed_of_a_recipe(seed):
    with random_state():
        seed_everything(seed)
        first = drawn()
        seed_everything(seed)
        assert drawn() == first
        seed_everything(seed % 2**32)
        assert not set(drawn()) & set(first), "not those of the low 32 bits"
