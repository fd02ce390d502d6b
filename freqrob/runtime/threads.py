"""Threads of a command: as many as usable CPUs, with little busy waiting.

libgomp and MKL read the environment when torch is imported, so call ``set_defaults`` before.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

SPINS = 1000  # tens of microseconds; libgomp's own 300,000 are milliseconds
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def set_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set ``GOMP_SPINCOUNT`` and, under a CPU quota, ``OMP_NUM_THREADS``, unless the user has set them.

    By default, OpenMP's threads spin for milliseconds while they wait for each other. On a busy machine they may wait
    for a thread that is not running, and a command can take several times longer than its share of the CPUs requires.
    Threads that never spin (``OMP_WAIT_POLICY=PASSIVE``) take 1.7 times as long on an idle machine:
    ``results/load_cpu.json``.
    """
    if not any(name in environment for name in WAIT_SETTINGS):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    if (quota := cpu_quota()) is not None:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, min(math.ceil(quota), usable_cpus()))))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU quota of this process from its cgroups (Docker's ``--cpus``); None if there is none.

    It is the smallest quota of the process's cgroup and the cgroup's ancestors, in cgroups v2 and v1.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not on Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu") or "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("" if controllers == "" else "cpu")
            group = mount / path.lstrip("/")
            quotas += [_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """CPU quota of one cgroup: ``cpu.max`` in version 2, ``cpu.cfs_*_us`` in version 1."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no such cgroup here, or "max"
        return None


def usable_cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
