"""Find, build and load the native kernels of `csrc/`.

A library was either built ahead of time into the package (`FREQROB_AOT=1 pip install …`), or it is built on first use
into a cache that the user alone can write to. Whatever goes wrong, the cause is kept in one line, and plain PyTorch
takes over unless `FREQROB_NATIVE=require`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from freqrob.runtime.cache import REMEDY, cache_folder, usable_folder
from freqrob.runtime.files import write_text
from freqrob.runtime.private import NotPrivateError, open_private, private_folder
from freqrob.spectral.build import (
    COMPILER_ADVICE,
    LIBRARY,
    PACKAGE,
    NativeError,
    Plan,
    Tool,
    build_parameters,
    check_compiler,
    compile_library,
    cuda_toolkit,
    find_compiler,
    library_digest,
    plan_build,
    source_digest,
    source_folder,
    usable_toolkit,
)

__all__ = [
    "NativeError",
    "Status",
    "Tool",
    "build_parameters",
    "cuda_toolkit",
    "doctor",
    "load",
    "source_folder",
    "status",
    "usable_toolkit",
]

POLICIES = ("auto", "require", "off")
LOCK_SECONDS = 900
LARGEST_RECORD = 1 << 16  # bytes
DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True)
class Status:
    """What `freqrob doctor` prints: see `status`."""

    policy: str
    loaded: bool
    kind: str | None  # "aot", "jit"
    path: Path | None
    reason: str | None  # why native kernels are not loaded
    advice: str | None  # what to install or set
    notes: tuple[str, ...]  # what is missing though the library is loaded, e.g. the CUDA kernels
    log: Path | None
    build_seconds: float | None
    compiler: str | None
    torch: str
    torch_cuda: str | None
    cuda_toolkit: str | None
    isa: str | None
    cache: Path


@dataclass(frozen=True)
class _Outcome:
    path: Path | None = None
    kind: str | None = None
    seconds: float | None = None
    error: NativeError | None = None
    notes: tuple[str, ...] = ()


_guard = threading.RLock()
_outcome: _Outcome | None = None
_warned = False


# Where to keep it


def _entries(plan: Plan, refused: list[str]) -> list[Path]:
    """Folders of the cache that may hold the library of `plan`. Without a compiler any one that was built from the same
    sources will do: a cluster's compute nodes often have none, and share a home with one that has."""
    pattern, entries = plan.key if plan.compiler else f"{plan.base}-*", []
    with contextlib.suppress(OSError):  # a cache that is refused: `_writable_entry` says so
        for name in sorted(entry.name for entry in private_folder(cache_folder(), "native").glob(pattern)):
            try:
                entries.append(private_folder(cache_folder(), "native", name))
            except NotPrivateError as error:
                refused.append(f"not used: {error}")
    return entries


def _writable_entry(key: str, refused: list[str]) -> Path:
    """`key` in the cache, created if missing, or in the temporary folder where the cache is refused or read-only."""
    try:
        entry, reasons = usable_folder("native", key, for_code=True)
    except OSError as error:
        raise NativeError(str(error), REMEDY) from error
    if reasons:
        refused.append(f"the kernels are kept in {entry.parent}, because {'; '.join(reasons)}; {REMEDY}")
    return entry


def _record(file: Path, refused: list[str], like: Path | None = None, **fields: Any) -> dict[str, Any] | None:
    """A JSON object that has the `fields`, by type; None if it is missing, refused or anything else."""
    try:
        with open_private(file, like) as opened:
            record = json.loads(opened.read(LARGEST_RECORD))
    except NotPrivateError as error:
        refused.append(f"not used: {error}")
        return None
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in fields.items())
    return record if good else None


def _write(file: Path, text: str) -> None:
    write_text(file, text)
    file.chmod(0o600)  # whatever the umask


# Build


def _build(plan: Plan, entry: Path) -> dict[str, Any]:
    """Build the library of `plan` into `entry`, whose lock is held; its record. A failure that will last is kept."""
    check_compiler(plan.compiler)
    for leftover in entry.glob("build-*"):  # of a builder that was killed, torch's own lock file among it
        shutil.rmtree(leftover, ignore_errors=True)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=entry, ignore_cleanup_errors=True) as folder:
            library = compile_library(plan, Path(folder))
            library.chmod(0o600)
            compiler = plan.compiler.version if plan.compiler else ""
            record: dict[str, Any] = {"sha256": library_digest(library), "compiler": compiler}
            record["seconds"] = round(time.monotonic() - start, 2)
            os.replace(library, entry / LIBRARY)
        _write(entry / "built.json", json.dumps(record))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise _explained(error, entry) from error
    (entry / "failed.json").unlink(missing_ok=True)
    return record


def _explained(error: BaseException, entry: Path) -> NativeError:
    """`error` as one line of cause, its whole text in `entry`'s log, remembered there if it will happen again."""
    text, log = str(error), entry / "build.log"
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text
    killed = "Killed" in text
    if full:
        cause, advice = f"the disk is full at {entry} or {tempfile.gettempdir()}", "free some space"
    elif killed:
        cause, advice = "the compiler was killed, most likely for want of memory", "set MAX_JOBS=1"
    else:
        cause, advice = _first_error(text), "read the log, then `freqrob doctor --rebuild`"
    kept = NativeError(cause, advice, log, lasting=not (full or killed))
    try:
        _write(log, text)
        if kept.lasting:
            _write(entry / "failed.json", json.dumps({"cause": cause, "advice": advice}))
    except (OSError, ValueError):  # ValueError: what the compiler printed is not text
        kept.log = None
    return kept


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b(error|fatal|cannot find|not found)\b", line)]
    return (telling or lines or ["the build failed"])[0][:300]


# Load


def load(rebuild: bool = False) -> bool:
    """Load the native kernels, building them if need be, once a process; whether they are there.

    The environment variable FREQROB_NATIVE says what a failure means: `auto` (default) warns once and leaves the work
    to plain PyTorch, `require` raises RuntimeError with the cause and the log's path, `off` never loads. Any other
    value raises ValueError. A failure is remembered, in the process and for the same sources, flags and tools on disk;
    `rebuild=True` forgets it and builds again (a library already loaded stays in use until the process ends).
    """
    global _outcome, _warned
    policy = _policy()
    if policy == "off":
        return False
    with _guard:
        if rebuild or _outcome is None:
            _outcome = _attempt(policy, rebuild, _outcome)
    error = _outcome.error
    if error is None:
        return True
    message = f"freqrob's native kernels are not available: {error.cause}"
    parts = (*_outcome.notes, error.advice, error.log and f"log: {error.log}")
    message += "".join(f"; {part}" for part in parts if part)
    if policy == "require":
        raise NativeError(message) from error
    if not _warned:
        _warned = True
        warnings.warn(
            f"{message}. Plain PyTorch is used instead, which is slower (`freqrob doctor` says more, "
            "FREQROB_NATIVE=off silences this).",
            RuntimeWarning,
            stacklevel=2,
        )
    return False


def _policy() -> str:
    policy = os.environ.get("FREQROB_NATIVE", "auto")
    if policy not in POLICIES:
        raise ValueError(f"FREQROB_NATIVE is {policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


def _attempt(policy: str, rebuild: bool, before: _Outcome | None) -> _Outcome:
    refused: list[str] = []
    if before and before.path:
        return _rebuilt_for_later(policy, before, refused)
    try:
        if os.name != "posix":
            raise NativeError("they are built on Linux and macOS only")
        library, unusable = (None, None) if rebuild else _ahead_of_time(refused)
        if library:
            return _Outcome(library, "aot")
        outcome = _just_in_time(policy, rebuild, refused)
        note = (f"the library in the package is passed over: {unusable}",) if unusable else ()
        return replace(outcome, notes=(*outcome.notes, *note))
    except NativeError as error:
        cause = error
    except (OSError, RuntimeError, ValueError) as error:  # an unreadable folder, say
        cause = NativeError(f"{type(error).__name__}: {error}")
    return _Outcome(error=cause, notes=tuple(dict.fromkeys(refused)))


def _rebuilt_for_later(policy: str, before: _Outcome, refused: list[str]) -> _Outcome:
    """Build again for the next process: the ops of `before` are registered here, and cannot be a second time."""
    try:
        plan = plan_build(policy)
        entry = _writable_entry(plan.key, refused)
        with _locked(entry):
            record = _build(plan, entry)
    except NativeError as error:
        return replace(before, notes=(*refused, f"the new build failed: {error.cause}"))
    notes = (*plan.notes, *refused, "the new build is for the next process")
    return replace(before, seconds=record["seconds"], notes=notes)


def _ahead_of_time(refused: list[str]) -> tuple[Path | None, str | None]:
    """Load the library built into the package; else why there is one that cannot be used here.

    Whoever can change this module is trusted with the library beside it.
    """
    here, no_cuda = Path(__file__), type(None)
    record = _record(PACKAGE / "_native.json", refused, here, sources=str, sha256=str, cuda=(str, no_cuda))
    if record is None:
        return None, None
    if record["sources"] != source_digest():
        return None, "it was built from other sources"
    if record["cuda"] and record["cuda"].split(".")[0] != (torch.version.cuda or "").split(".")[0]:
        return None, f"it was built for CUDA {record['cuda']}"
    for library in PACKAGE.glob("_native*.so"):
        try:
            if _load_intact(library, record["sha256"], here):
                return library, None
        except OSError as error:
            return None, f"it does not load ({error})"
    return None, "it is missing or damaged"


def _just_in_time(policy: str, rebuild: bool, refused: list[str]) -> _Outcome:
    """The library of all sources; under the policy `auto` that of the CPU sources alone where it cannot be had."""
    plan = plan_build(policy)
    try:
        outcome = _found_or_built(plan, rebuild, refused)
    except NativeError as error:
        if policy == "require" or not plan.parameters.cuda:
            raise
        note = f"no CUDA kernels: {error.cause}" + (f" (log: {error.log})" if error.log else "")
        outcome = _found_or_built(replace(plan_build(policy, cuda=False), notes=(*plan.notes, note)), rebuild, refused)
    outcome = replace(outcome, notes=(*outcome.notes, *dict.fromkeys(refused)))
    for note in outcome.notes:
        warnings.warn(f"freqrob: {note}", RuntimeWarning, stacklevel=5)
    return outcome


def _found_or_built(plan: Plan, rebuild: bool, refused: list[str]) -> _Outcome:
    for entry in [] if rebuild else _entries(plan, refused):
        if outcome := _loaded(entry, plan, refused):
            return outcome
        if plan.compiler:
            _raise_if_failed(entry, refused)
    entry = _writable_entry(plan.key, refused)
    with _locked(entry):
        if not rebuild:  # what another process did while this one waited for the lock
            if outcome := _loaded(entry, plan, refused):
                return outcome
            _raise_if_failed(entry, refused)
        record = _build(plan, entry)
        try:
            _load_intact(entry / LIBRARY, record["sha256"])
        except OSError as error:
            raise _explained(error, entry) from error
    return _Outcome(entry / LIBRARY, "jit", record["seconds"], notes=plan.notes)


def _loaded(entry: Path, plan: Plan, refused: list[str]) -> _Outcome | None:
    """The library in `entry`, loaded; None if it is missing, not what was built, refused, or cannot be linked here."""
    record = _record(entry / "built.json", refused, sha256=str, seconds=float)
    try:
        if record and _load_intact(entry / LIBRARY, record["sha256"]):
            return _Outcome(entry / LIBRARY, "jit", record["seconds"], notes=plan.notes)
    except NotPrivateError as error:
        refused.append(f"not used: {error}")
    except OSError:  # linked against another glibc or torch, say
        pass
    return None


def _load_intact(library: Path, sha256: str, like: Path | None = None) -> bool:
    """Load a library if it is what was built; a truncated one would kill the process.

    What is hashed is what is loaded, even if the path leads to another file by then: both go through one descriptor.
    So it is not `torch.ops.load_library`, which resolves a descriptor's name to a path.

    Raises NotPrivateError, or OSError if it is missing or cannot be linked here.
    """
    with open_private(library, like) as file:
        content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            return False
        try:
            if DESCRIPTORS.is_dir():
                _load_descriptor(file)
            else:
                _load_copy(content)
        except OSError as error:
            raise OSError(f"{library} cannot be loaded: {error}") from error
    torch.ops.loaded_libraries.add(str(library))
    return True


def _load_descriptor(file: BinaryIO) -> None:
    """The descriptor stays open: glibc would take another library under the same name for the one it has loaded."""
    descriptor = os.dup(file.fileno())
    name = str(DESCRIPTORS / str(descriptor))
    try:
        ctypes.CDLL(name)
    except OSError as error:
        os.close(descriptor)
        raise OSError(str(error).removeprefix(f"{name}: ")) from error


def _load_copy(content: bytes) -> None:
    """Where descriptors have no names, as on macOS: from a new folder, which is empty when this returns."""
    with tempfile.TemporaryDirectory() as folder:
        copy = private_folder(Path(folder).parent, Path(folder).name) / LIBRARY
        copy.write_bytes(content)
        ctypes.CDLL(str(copy))


def _raise_if_failed(entry: Path, refused: list[str]) -> None:
    if failure := _record(entry / "failed.json", refused, cause=str, advice=str):
        raise NativeError(failure["cause"], failure["advice"], entry / "build.log", lasting=True)


@contextlib.contextmanager
def _locked(entry: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    # The kernel drops this lock when its holder dies, so a lock file left behind is harmless.
    try:
        lock = FileLock(entry / "lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise NativeError(f"another process has held {entry / 'lock'} for {LOCK_SECONDS} s", "end it") from None
    except (OSError, NotImplementedError) as error:
        raise NativeError(f"{entry / 'lock'} cannot be locked: {error}", "set FREQROB_CACHE to a local disk") from error
    with lock:
        yield


# Tell


def status() -> Status:
    """What is loaded and what a build here would use; it neither builds nor loads anything."""
    policy, outcome = _policy(), _outcome or _Outcome()
    error, toolkit, compiler = outcome.error, cuda_toolkit() if torch.version.cuda else None, find_compiler()
    reason = error.cause if error else None
    if outcome.path is None and reason is None:
        reason = "FREQROB_NATIVE=off" if policy == "off" else "not asked for yet"
    return Status(
        policy=policy,
        loaded=outcome.path is not None,
        kind=outcome.kind,
        path=outcome.path,
        reason=reason,
        advice=error.advice if error else None,
        notes=outcome.notes,
        log=error.log if error else None,
        build_seconds=outcome.seconds,
        compiler=f"{compiler.path}: {compiler.version}" if compiler else None,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        cuda_toolkit=f"{toolkit.path}: {toolkit.version}" if toolkit else None,
        isa=_isa() if outcome.path else None,
        cache=cache_folder(),
    )


def _isa() -> str | None:
    try:
        return str(torch.ops.freqrob.isa())
    except (AttributeError, RuntimeError):  # a library without that op
        return None


def doctor(rebuild: bool = False) -> str:
    """Try to load the kernels, and say in plain text what was found, and what to do where they are missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with contextlib.suppress(RuntimeError):
            load(rebuild)
    found = status()
    rows = [
        ("native kernels", f"loaded ({found.kind})" if found.loaded else f"not loaded: {found.reason}"),
        ("what to do", found.advice),
        ("log", found.log),
        *(("note", note) for note in found.notes),
        ("library", found.path),
        ("instruction set", found.isa),
        ("build time", found.build_seconds and f"{found.build_seconds:.1f} s"),
        ("policy", f"FREQROB_NATIVE={found.policy}"),
        ("cache", found.cache),
        ("C++ compiler", found.compiler or f"none ({COMPILER_ADVICE})"),
        ("torch", f"{found.torch}, {f'CUDA {found.torch_cuda}' if found.torch_cuda else 'CPU only'}"),
        ("CUDA toolkit", found.cuda_toolkit or "none"),
    ]
    return "\n".join(f"{name:16} {value}" for name, value in rows if value)
