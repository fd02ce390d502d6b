"""Which of the processes that evaluate together this is, and what all of them found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(days=7)  # AutoAttack on one batch may take hours, while the others wait


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are: torch.distributed's, begun with gloo where torchrun started us."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def merged(masks: Sequence[Tensor]) -> list[Tensor]:
    """Masks of the same shape, true where any process has true; every process has to call it."""
    if not dist.is_initialized() or not masks:
        return list(masks)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    together = torch.stack(list(masks)).to(device, torch.uint8)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return list(together.bool().cpu())
