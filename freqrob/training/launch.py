"""Processes that train together: devices, shared buffers, and a graceful stop."""

# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false
# Fabric declares them as properties.

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqrob.runtime.launched import launched
from freqrob.runtime.processes import rank_and_world


def launch(precision: str, accelerator: str = "auto") -> Fabric:
    """Create Fabric for one device, or for one device per process of the initialised ``torch.distributed`` group (DDP).

    Raises:
        ValueError: an accelerator that is not available, or several processes without a group.
    """
    started, (_, world_size) = launched(), rank_and_world()
    if started is not None and not dist.is_initialized():
        raise ValueError(
            f"process group: this is one of {started.world_size} processes that were launched together, and "
            "torch.distributed is not initialized; call torch.distributed.init_process_group() first, or use the "
            "command `freqrob train`"
        )
    local_world_size = min(started.local_world_size if started else world_size, world_size)
    nodes = world_size // local_world_size
    try:
        fabric = Fabric(
            accelerator=accelerator,
            # The trainer synchronises batch statistics itself, because attacks run before DDP's forward pass
            strategy=DDPStrategy(cluster_environment=_Group(), **_no_buffers()) if world_size > 1 else "auto",
            devices=local_world_size,
            num_nodes=nodes,
            precision=precision,  # pyright: ignore[reportArgumentType]
        )
        fabric.launch()
    except (RuntimeError, MisconfigurationException) as error:
        raise ValueError(
            f"accelerator: cannot start {world_size} processes on {nodes} nodes with {accelerator!r}: {error}"
        ) from error
    torch.backends.cudnn.benchmark = True
    return fabric


def _no_buffers() -> dict[str, Any]:
    """The argument that keeps DDP's forward passes from changing buffers; torch 2.13 has another name for it."""
    known = signature(DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


class _Group(ClusterEnvironment):
    """The initialised process group as a cluster environment of Fabric."""

    creates_processes_externally = True
    main_address, main_port = "", 0  # not used: the group is already initialised

    @staticmethod
    def detect() -> bool:
        return dist.is_initialized()

    def world_size(self) -> int:
        return dist.get_world_size()

    def global_rank(self) -> int:
        return dist.get_rank()

    def local_rank(self) -> int:
        started = launched()
        return started.local_rank if started else dist.get_rank()

    def node_rank(self) -> int:
        started = launched()
        return dist.get_rank() // started.local_world_size if started else 0

    def set_world_size(self, size: int) -> None:
        """Do nothing: the process group determines it."""

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the process group determines it."""


def share_buffers(model: nn.Module) -> None:
    """Copy the batch statistics of rank 0 to all ranks."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(flat, 0)
    for buffer, shared in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(shared.view_as(buffer))


@contextmanager
def graceful_shutdown() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C (SIGINT) or SIGTERM sets; a second one interrupts at once.

    Outside the main thread it is never set, because Python handles signals in the main thread only.
    """
    requested = threading.Event()

    def request(_signal: int, _frame: object) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
