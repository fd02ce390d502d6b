"""Which processes train together, and how they are asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn


def launch(precision: str, accelerator: str = "auto") -> Fabric:
    """Fabric on one device, or as a rank of the processes that torchrun or SLURM started (DDP, one device each)."""
    world_size, nodes = _started_by()
    try:
        fabric = Fabric(
            accelerator=accelerator,
            # The trainer keeps the ranks' batch statistics equal, also for the attacks before DDP's forward pass
            strategy=DDPStrategy(broadcast_buffers=False) if world_size > 1 else "auto",
            devices=world_size // nodes,
            num_nodes=nodes,
            precision=precision,
        )
        fabric.launch()
    except (RuntimeError, MisconfigurationException) as error:  # Lightning's messages say what SLURM wants
        raise ValueError(
            f"accelerator: cannot start {world_size} processes on {nodes} nodes with {accelerator!r}: {error}"
        ) from error
    torch.backends.cudnn.benchmark = True
    return fabric


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the batch statistics of the first one."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(flat, 0)
    for buffer, shared in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(shared.view_as(buffer))


@contextmanager
def failing_together(fabric: Fabric) -> Iterator[None]:
    """What one process raises stops all of them, which would wait for it for ever; the others raise OSError."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failures = fabric.all_reduce(torch.tensor(int(failure is not None), device=fabric.device), reduce_op="sum")
    if failure:
        raise failure
    if failures:
        raise OSError("another of the processes that train together failed, and says why")


def _started_by() -> tuple[int, int]:
    """Processes and nodes."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        world_size = int(os.environ["WORLD_SIZE"])
        return world_size, world_size // int(os.environ["LOCAL_WORLD_SIZE"])
    if SLURMEnvironment.detect():
        return int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", 1))
    return 1, 1


@contextmanager
def stop_asked_for() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (SIGINT) or SIGTERM sets; a second one interrupts at once.

    Outside the main thread, where Python takes no signals, it is never set.
    """
    asked = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
