"""Process groups: joining, exchanging results, and ending together.

Library functions use the ``torch.distributed`` group that their caller has initialised, if any. Only
``process_group``, which the command line uses, creates one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from freqrob.runtime.launched import Launch, launched
from freqrob.runtime.lifeline import Lifeline

TIMEOUT = timedelta(minutes=10)  # for joining and for the collectives of a training step; NCCL's default
# Other processes may work for hours. One that ends is detected at once, by its closed connections.
UNLIMITED = timedelta(days=365)
TELLING = timedelta(seconds=20)
ENDED = "another process of the group ended before its work was done"


class ProcessFailure(OSError):
    """Another process of the group failed, or ended."""


@contextmanager
def process_group(*, gpus: bool = False) -> Iterator[None]:
    """Join the processes that were launched with this one, and end together with them.

    If a process fails or is killed, the others end within half a minute, even while they compute. Does nothing in a
    process that was launched alone or is already in a group.

    Args:
        gpus: use NCCL for tensors on GPUs, with one GPU per process, and gloo for tensors on the CPU.

    Raises:
        ValueError: the environment variables contradict each other.
        ProcessFailure: another process did not join, failed, or ended.
    """
    launch = launched()
    if launch is None or dist.is_initialized():
        yield
        return
    try:
        _join(launch, gpus)
        lifeline = Lifeline()
    except RuntimeError as error:
        raise ProcessFailure(f"could not join the {launch.world_size} processes of WORLD_SIZE: {error}") from error
    try:
        _control_group()
        yield
        with propagate_failure():
            pass  # a barrier: no process leaves while another can still fail
    except RuntimeError as error:  # from a collective, when another process has ended
        if (type(error) is RuntimeError or isinstance(error, dist.DistError)) and lifeline.is_cut():
            raise ProcessFailure(ENDED) from error
        raise
    finally:
        lifeline.close()
        # After a failure, the end of the process destroys the group, because NCCL may wait for ended processes
    dist.destroy_process_group()


def _join(launch: Launch, gpus: bool) -> None:
    if launch.is_slurm:
        from lightning_fabric.plugins.environments import SLURMEnvironment

        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
        job, step = (int(os.environ.get(f"SLURM_{name}", "0")) for name in ("JOB_ID", "STEP_ID"))
        os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        os.environ.setdefault("MASTER_PORT", str(15_000 + (job + step) % 10_000))
    nccl = gpus and torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, rank=launch.rank, world_size=launch.world_size)


def rank_and_world() -> tuple[int, int]:
    """The rank of this process in the initialised group, and the number of processes; (0, 1) without a group."""
    return (dist.get_rank(), dist.get_world_size()) if _in_a_group() else (0, 1)


@contextmanager
def propagate_failure() -> Iterator[None]:
    """Wait for all processes at the end of the block; if one of them raised, all raise.

    The block must not call collectives. A process that raises waits up to 20 seconds for the others, then raises its
    error; the others raise at the end of the block.

    Raises:
        ProcessFailure: another process raised an exception in the block, or ended.
    """
    if not _in_a_group():
        yield
        return
    try:
        yield
    except Exception:
        with suppress(RuntimeError):  # the others are busy for longer, or have ended
            dist.all_reduce(torch.ones(1), group=_control_group(), async_op=True).wait(TELLING)
        raise
    if _all_reduce(torch.zeros(1), dist.ReduceOp.MAX).item():
        raise ProcessFailure("another process of the group failed; its message gives the reason")


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, which can use the files that the first one wrote.

    The others wait without a time limit. If the first process fails, they do not run the block.

    Raises:
        ProcessFailure: as ``propagate_failure``.
    """
    rank, _ = rank_and_world()
    with propagate_failure():
        if rank == 0:
            yield
    with propagate_failure():
        if rank > 0:
            yield


def merged(masks: Sequence[Tensor]) -> list[Tensor]:
    """Logical or of the processes' masks, which must have the same shapes; all processes must call it.

    Raises:
        ProcessFailure: another process ended.
    """
    if not _in_a_group() or not masks:
        return list(masks)
    together = torch.stack(list(masks)).to("cpu", torch.uint8)
    return list(_all_reduce(together, dist.ReduceOp.MAX).bool())


def _in_a_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_reduce(tensor: Tensor, operation: Any) -> Tensor:
    try:
        dist.all_reduce(tensor, operation, group=_control_group())
    except RuntimeError as error:
        raise ProcessFailure(ENDED) from error
    return tensor


_control: tuple[Any, Any] | None = None  # the initialised group, and freqrob's group of the same processes


def _control_group() -> Any:
    """A gloo group of all processes, in which they wait for each other without a time limit."""
    global _control  # noqa: PLW0603 - one group a process
    if _control is None or _control[0] is not dist.group.WORLD:
        dist.barrier()  # raises if a process has ended; new_group would wait for it
        _control = dist.group.WORLD, dist.new_group(backend="gloo", timeout=UNLIMITED)
    return _control[1]
