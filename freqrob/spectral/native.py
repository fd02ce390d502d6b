"""Find, build and load the native kernels of `csrc/`.

The library was either built into the package (`FREQROB_AOT=1 pip install …`), or it is built on first use, into a cache
that only the user can write to. If that fails, the cause is kept as one line, and plain PyTorch is used unless
`FREQROB_NATIVE=require`.
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
from typing import Any, BinaryIO, Literal

import torch

from freqrob.runtime.cache import REMEDY, cache_folder, usable_folder
from freqrob.runtime.files import sha256_of, write_text
from freqrob.runtime.private import NotPrivateError, open_private, private_folder
from freqrob.runtime.warning import warn
from freqrob.spectral import build
from freqrob.spectral.build import LIBRARY, PACKAGE, NativeError, Plan, source_digest

__all__ = ["NativeError", "Status", "doctor", "load", "source_digest", "status"]

POLICIES = ("auto", "require", "off")
LOCK_SECONDS = 900
LARGEST_RECORD = 1 << 16  # bytes
DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    path: Path | None = None
    kind: Literal["aot", "jit"] | None = None
    build_seconds: float | None = None
    error: NativeError | None = None
    notes: tuple[str, ...] = ()  # what is missing although the library is loaded, such as the CUDA kernels


@dataclass(frozen=True, kw_only=True)
class Status(_Outcome):
    """The state of the native kernels, and the tools that a build here would use."""

    policy: str
    compiler: str | None
    cuda_toolkit: str | None
    isa: str | None
    cache: Path

    @property
    def loaded(self) -> bool:
        return self.path is not None

    @property
    def reason(self) -> str | None:
        """Why the kernels are not loaded."""
        if self.loaded or self.error:
            return self.error.cause if self.error else None
        return "FREQROB_NATIVE=off" if self.policy == "off" else "not asked for yet"

    @property
    def advice(self) -> str | None:
        """What to install or set."""
        return self.error.advice if self.error else None

    @property
    def log(self) -> Path | None:
        """The compiler's output, if a build failed."""
        return self.error.log if self.error else None


_guard = threading.RLock()
_outcome: _Outcome | None = None
_warned = False


# Load


def load(rebuild: bool = False) -> bool:
    """Load the native kernels and return whether they are available; the first call in a process builds them if needed.

    The environment variable FREQROB_NATIVE determines what a failure does: `auto` (default) warns once and uses plain
    PyTorch, `require` raises NativeError with the cause and the log's path; `off` never loads the kernels. A failure is
    remembered in the process, and on disk for the same sources, flags and tools.

    Args:
        rebuild: forget an earlier failure and build again. A library that is already loaded stays in use until the
            process ends.

    Raises:
        ValueError: FREQROB_NATIVE has another value.
        NativeError: there are no kernels, under `require`.
    """
    global _outcome, _warned  # noqa: PLW0603 - one library a process
    policy = _policy()
    if policy == "off":
        return False
    outcome = _outcome
    if rebuild or outcome is None:
        with _guard:
            if rebuild or _outcome is None:
                _outcome = _attempt(policy, rebuild, _outcome)
            outcome = _outcome
    error = outcome.error
    if error is None:
        return True
    parts = (error.cause, *outcome.notes, error.advice, error.log and f"log: {error.log}")
    message = f"freqrob's native kernels are not available: {'; '.join(str(part) for part in parts if part)}"
    if policy == "require":
        raise NativeError(message) from error
    if not _warned:
        _warned = True
        warn(
            f"{message}. Plain PyTorch is used instead, which is slower (`freqrob doctor` gives details, "
            "FREQROB_NATIVE=off turns this warning off).",
            RuntimeWarning,
        )
    return False


def _policy() -> str:
    policy = os.environ.get("FREQROB_NATIVE", "auto")
    if policy not in POLICIES:
        raise ValueError(f"FREQROB_NATIVE is {policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


def _attempt(policy: str, rebuild: bool, before: _Outcome | None) -> _Outcome:
    """The outcome of one attempt. The functions below append to `refused` the files that are not used, and why."""
    refused: list[str] = []
    if before and before.path:
        return _rebuilt_for_later(policy, before, refused)
    try:
        library, unusable = (None, None) if rebuild else _ahead_of_time(refused)
        if library:
            return _Outcome(path=library, kind="aot")
        outcome = _just_in_time(policy, rebuild, refused)
        note = (f"the library in the package is not used: {unusable}",) if unusable else ()
        return replace(outcome, notes=(*outcome.notes, *note))
    except NativeError as error:
        cause = error
    except (OSError, RuntimeError, ValueError) as error:  # an unreadable folder, for example
        cause = NativeError(f"{type(error).__name__}: {error}")
    return _Outcome(error=cause, notes=tuple(dict.fromkeys(refused)))


def _rebuilt_for_later(policy: str, before: _Outcome, refused: list[str]) -> _Outcome:
    """Build again for the next process; in this one the ops of `before` cannot be registered a second time."""
    try:
        plan = build.plan_build(policy)
        with _locked_entry(plan, refused) as entry:
            record = _build(plan, entry)
    except NativeError as error:
        return replace(before, notes=(*refused, f"the new build failed: {error.cause}"))
    notes = (*plan.notes, *refused, "the new build is for the next process")
    return replace(before, build_seconds=record["seconds"], notes=notes)


def _ahead_of_time(refused: list[str]) -> tuple[Path | None, str | None]:
    """Load the library built into the package: its path, or None and the reason why it cannot be used here.

    Users who can change this module may also change the library beside it.
    """
    module, no_cuda = Path(__file__), type(None)
    record = _record(PACKAGE / "_native.json", refused, module, sources=str, sha256=str, cuda=(str, no_cuda))
    if record is None:
        return None, None
    if record["sources"] != source_digest():
        return None, "it was built from other sources"
    if record["cuda"] and record["cuda"].split(".")[0] != (torch.version.cuda or "").split(".")[0]:
        return None, f"it was built for CUDA {record['cuda']}"
    for library in PACKAGE.glob("_native*.so"):
        try:
            if _load_intact(library, record["sha256"], module):
                return library, None
        except OSError as error:
            return None, f"it does not load ({error})"
    return None, "it is missing or damaged"


def _just_in_time(policy: str, rebuild: bool, refused: list[str]) -> _Outcome:
    """The library of all sources, or, under the policy `auto`, of the CPU sources alone if the CUDA build fails."""
    plan = build.plan_build(policy)
    try:
        outcome = _cached_or_built(plan, rebuild, refused)
    except NativeError as error:
        if policy == "require" or not plan.parameters.cuda:
            raise
        note = f"no CUDA kernels: {error.cause}" + (f" (log: {error.log})" if error.log else "")
        cpu_plan = replace(build.plan_build(policy, cuda=False), notes=(*plan.notes, note))
        outcome = _cached_or_built(cpu_plan, rebuild, refused)
    outcome = replace(outcome, notes=(*outcome.notes, *dict.fromkeys(refused)))
    for note in outcome.notes:
        warn(f"freqrob: {note}", RuntimeWarning)
    return outcome


def _cached_or_built(plan: Plan, rebuild: bool, refused: list[str]) -> _Outcome:
    for entry in [] if rebuild else _entries(plan, refused):
        if outcome := _loaded(entry, plan, refused):
            return outcome
    with _locked_entry(plan, refused) as entry:
        if not rebuild and (outcome := _loaded(entry, plan, refused)):  # built while this process waited for the lock
            return outcome
        record = _build(plan, entry)
        try:
            _load_intact(entry / LIBRARY, record["sha256"])
        except OSError as error:
            raise _explained(error, entry) from error
    return _Outcome(path=entry / LIBRARY, kind="jit", build_seconds=record["seconds"], notes=plan.notes)


def _loaded(entry: Path, plan: Plan, refused: list[str]) -> _Outcome | None:
    """Load the library in `entry`; None if it is missing, changed, refused, or cannot be linked here.

    Raises NativeError if the build of `plan` is known to fail.
    """
    record = _record(entry / "built.json", refused, sha256=str, seconds=float)
    try:
        if record and _load_intact(entry / LIBRARY, record["sha256"]):
            return _Outcome(path=entry / LIBRARY, kind="jit", build_seconds=record["seconds"], notes=plan.notes)
    except NotPrivateError as error:
        refused.append(f"not used: {error}")
    except OSError:  # linked against another glibc or torch, for example
        pass
    if plan.compiler and (failure := _record(entry / "failed.json", refused, cause=str, advice=str)):
        raise NativeError(failure["cause"], failure["advice"], entry / "build.log", lasting=True)
    return None


def _load_intact(library: Path, sha256: str, like: Path | None = None) -> bool:
    """Load a library if its hash is that of the build; a truncated one would kill the process.

    Hashing and loading use one file descriptor, so the hashed file is loaded even if the path is changed in between.
    `torch.ops.load_library` is not used, because it resolves a descriptor's name to a path.

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
    """Load from a descriptor, which stays open: glibc would mistake another library of the same name for this one."""
    descriptor = os.dup(file.fileno())
    name = str(DESCRIPTORS / str(descriptor))
    try:
        ctypes.CDLL(name)
    except OSError as error:
        os.close(descriptor)
        raise OSError(str(error).removeprefix(f"{name}: ")) from error


def _load_copy(content: bytes) -> None:
    """Load from a temporary folder, which is then removed: for systems without names of descriptors, such as macOS."""
    with tempfile.TemporaryDirectory() as folder:
        copy = private_folder(Path(folder).parent, Path(folder).name) / LIBRARY
        copy.write_bytes(content)
        ctypes.CDLL(str(copy))


# The cache


def _entries(plan: Plan, refused: list[str]) -> list[Path]:
    """Folders of the cache that may hold the library of `plan`.

    Without a compiler, any library built from the same sources is accepted: compute nodes of a cluster often have no
    compiler, but share a home folder with a node that has one.
    """
    pattern, entries = plan.key if plan.compiler else f"{plan.base}-*", []
    with contextlib.suppress(OSError):  # a cache that is refused: `_locked_entry` reports it
        for name in sorted(entry.name for entry in private_folder(cache_folder(), "native").glob(pattern)):
            try:
                entries.append(private_folder(cache_folder(), "native", name))
            except NotPrivateError as error:
                refused.append(f"not used: {error}")
    return entries


@contextlib.contextmanager
def _locked_entry(plan: Plan, refused: list[str]) -> Iterator[Path]:
    """The folder for the library of `plan`, created if missing and locked; a temporary one if the cache is unusable."""
    from filelock import FileLock, Timeout

    try:
        entry, reasons = usable_folder("native", plan.key, for_code=True)
    except OSError as error:
        raise NativeError(str(error), REMEDY) from error
    if reasons:
        refused.append(f"the kernels are kept in {entry.parent}, because {'; '.join(reasons)}; {REMEDY}")
        # The operating system releases this lock when its process ends, so a remaining lock file is harmless.
    try:
        lock = FileLock(entry / "lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise NativeError(f"another process has held {entry / 'lock'} for {LOCK_SECONDS} s", "end it") from None
    except (OSError, NotImplementedError) as error:
        raise NativeError(f"{entry / 'lock'} cannot be locked: {error}", "set FREQROB_CACHE to a local disk") from error
    with lock:
        yield entry


def _record(file: Path, refused: list[str], like: Path | None = None, **fields: Any) -> dict[str, Any] | None:
    """A JSON object with `fields` of these types; None if the file is missing, refused or has other content."""
    try:
        with open_private(file, like) as opened:
            record = json.loads(opened.read(LARGEST_RECORD))
    except NotPrivateError as error:
        refused.append(f"not used: {error}")
        return None
    except (OSError, ValueError, RecursionError):
        return None
    is_valid = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in fields.items())
    return record if is_valid else None


def _write(file: Path, text: str) -> None:
    write_text(file, text)
    file.chmod(0o600)  # whatever the umask


# Build


def _build(plan: Plan, entry: Path) -> dict[str, Any]:
    """Build the library of `plan` into `entry`, whose lock is held; returns its record. Lasting failures are kept."""
    build.check_compiler(plan.compiler)
    for leftover in entry.glob("build-*"):  # left by a killed build, including torch's lock file
        shutil.rmtree(leftover, ignore_errors=True)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=entry, ignore_cleanup_errors=True) as folder:
            library = build.compile_library(plan, Path(folder))
            library.chmod(0o600)
            record: dict[str, Any] = {"sha256": sha256_of(library), "seconds": round(time.monotonic() - start, 2)}
            os.replace(library, entry / LIBRARY)
        _write(entry / "built.json", json.dumps(record))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise _explained(error, entry) from error
    (entry / "failed.json").unlink(missing_ok=True)
    return record


def _explained(error: BaseException, entry: Path) -> NativeError:
    """`error` with its cause in one line. The whole text is written to the log in `entry`, with a lasting failure."""
    text, log = str(error), entry / "build.log"
    is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text
    is_killed = "Killed" in text
    if is_full:
        cause, advice = f"the disk is full at {entry} or {tempfile.gettempdir()}", "free some space"
    elif is_killed:
        cause, advice = "the compiler was killed, most likely for lack of memory", "set MAX_JOBS=1"
    else:
        cause, advice = _first_error(text), "read the log, then `freqrob doctor --rebuild`"
    explained = NativeError(cause, advice, log, lasting=not (is_full or is_killed))
    try:
        _write(log, text)
        if explained.lasting:
            _write(entry / "failed.json", json.dumps({"cause": cause, "advice": advice}))
    except (OSError, ValueError):  # ValueError: the compiler's output is not text
        explained.log = None
    return explained


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b(error|fatal|cannot find|not found)\b", line)]
    return (telling or lines or ["the build failed"])[0][:300]


# Report


def status() -> Status:
    """The state of the kernels in this process; builds and loads nothing."""
    outcome = _outcome or _Outcome()
    compiler, toolkit = build.find_compiler(), build.cuda_toolkit() if torch.version.cuda else None
    return Status(
        **vars(outcome),
        policy=_policy(),
        compiler=compiler and f"{compiler.path}: {compiler.version}",
        cuda_toolkit=toolkit and f"{toolkit.path}: {toolkit.version}",
        isa=_isa() if outcome.path else None,
        cache=cache_folder(),
    )


def _isa() -> str | None:
    try:
        return str(torch.ops.freqrob.isa())
    except (AttributeError, RuntimeError):  # a library without that op
        return None


def doctor(rebuild: bool = False) -> str:
    """Try to load the kernels, and report the result in plain text, with the remedy if there are no kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with contextlib.suppress(RuntimeError):
            load(rebuild)
    state, cuda = status(), torch.version.cuda
    rows = [
        ("native kernels", f"loaded ({state.kind})" if state.loaded else f"not loaded: {state.reason}"),
        ("what to do", state.advice),
        ("log", state.log),
        *(("note", note) for note in state.notes),
        ("library", state.path),
        ("instruction set", state.isa),
        ("build time", state.build_seconds and f"{state.build_seconds:.1f} s"),
        ("policy", f"FREQROB_NATIVE={state.policy}"),
        ("cache", state.cache),
        ("C++ compiler", state.compiler or f"none ({build.COMPILER_ADVICE})"),
        ("torch", f"{torch.__version__}, {f'CUDA {cuda}' if cuda else 'CPU only'}"),
        ("CUDA toolkit", state.cuda_toolkit or "none"),
    ]
    return "\n".join(f"{name:16} {value}" for name, value in rows if value)
