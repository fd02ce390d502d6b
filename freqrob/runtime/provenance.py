"""Provenance of numbers: commit, versions and machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import Struct

from freqrob import __version__
from freqrob.runtime.threads import usable_cpus


class Provenance(Struct, kw_only=True):
    """The entries that ``provenance`` writes; another program's file may lack them."""

    command: str = ""
    commit: str = ""
    versions: dict[str, str] = {}
    machine: str = ""
    date: str = ""


def commit() -> str:
    """The commit of the source checkout of this package, with ``+`` if files were changed; "" if not in a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    installed = {"python": platform.python_version(), "freqrob": __version__}
    for package in ("torch", "torchvision", "numpy"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def provenance(command: str = "") -> dict[str, Any]:
    """Command, commit, versions, machine and date, recorded in JSON files of numbers."""
    return {
        "command": command,
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def machine() -> str:
    """The processor, number of usable cores, and system; no host name."""
    return f"{_processor()}, {usable_cpus()} cores, {platform.system()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
