"""How this process was launched: alone, or with others by torchrun, by srun or manually. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """This process among those that were launched together.

    Attributes:
        rank, world_size: its index among all processes, and their number.
        local_rank, local_world_size: the same on this machine.
        is_slurm: whether SLURM's ``srun`` launched them.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    is_slurm: bool = False


def launched() -> Launch | None:
    """How this process was launched with others; None for a process that was launched alone.

    ``RANK`` and ``WORLD_SIZE`` are set by torchrun or, with ``MASTER_ADDR`` and ``MASTER_PORT``, by a user who starts
    each process; ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE`` default to the values for one machine. SLURM's variables are
    used only in a step of ``srun``, because they are also set in a batch script, which is one process.

    Raises:
        ValueError: a variable is not an integer, or ``RANK`` is not below ``WORLD_SIZE``.
    """
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        rank, world_size = _integer("RANK"), _integer("WORLD_SIZE")
        launch = Launch(rank, world_size, _integer("LOCAL_RANK", rank), _integer("LOCAL_WORLD_SIZE", world_size))
    elif {"SLURM_NTASKS", "SLURM_PROCID"} <= os.environ.keys() and _in_a_step():
        world_size = _integer("SLURM_NTASKS")
        local_world_size = max(1, world_size // max(1, _integer("SLURM_NNODES", 1)))
        launch = Launch(_integer("SLURM_PROCID"), world_size, _integer("SLURM_LOCALID", 0), local_world_size, True)
    else:
        return None
    if not 0 <= launch.rank < launch.world_size:
        raise ValueError(f"RANK: expected 0 to {launch.world_size - 1} (WORLD_SIZE - 1), got {launch.rank}")
    return launch if launch.world_size > 1 else None


def _in_a_step() -> bool:
    """Whether ``srun`` started this process, except as an interactive shell."""
    step = {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys()
    return bool(step) and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def _integer(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ValueError(f"{name}: expected an integer in this environment variable, got {text!r}") from None
