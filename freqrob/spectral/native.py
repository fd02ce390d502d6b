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
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["BuildParameters", "Status", "build_parameters", "cache_folder", "doctor", "load", "source_folder", "status"]

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARY = "freqrob.so"
POLICIES = ("auto", "require", "off")
LOCK_SECONDS = 900
OLDEST_COMPILER = {"g++": 11, "clang": 14}
# Ampere and Hopper run as compiled, anything newer from the PTX: what to build where no GPU is visible.
DEFAULT_ARCHS = "8.0;9.0+PTX"
COMPILER_ADVICE = (
    "install g++ 11 or newer (Debian, Ubuntu: apt install g++; conda: conda install -c conda-forge gxx) "
    "or set CXX to a C++20 compiler"
)


class NativeError(RuntimeError):
    """Why there is no native library. `lasting` says that trying again with the same key would fail again."""

    def __init__(self, cause: str, advice: str = "", log: Path | None = None, lasting: bool = False):
        super().__init__(cause)
        self.cause, self.advice, self.log, self.lasting = cause, advice, log, lasting


@dataclass(frozen=True)
class BuildParameters:
    """What a build of `csrc/` needs, for the build on first use and for `setup.py` alike."""

    sources: tuple[str, ...]
    include: tuple[str, ...]
    cflags: tuple[str, ...]
    cuda_flags: tuple[str, ...]
    ldflags: tuple[str, ...]
    cuda: bool


@dataclass(frozen=True)
class Tool:
    """A compiler or a CUDA toolkit: its command or root folder, and its version."""

    path: str
    version: str


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
class _Plan:
    parameters: BuildParameters
    compiler: Tool | None
    toolkit: Tool | None
    base: str  # digest of all that a library must agree with to be usable here
    key: str  # base and what compiled it
    notes: tuple[str, ...]


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


# What to build


def source_folder() -> Path:
    """The C++ and CUDA sources: `freqrob/csrc` when installed, `csrc` beside the package in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if any(folder.rglob("*.cpp")):
            return folder
    raise NativeError(f"no native sources in {PACKAGE / 'csrc'}", "reinstall freqrob", lasting=True)


def build_parameters(toolkit: Tool | None = None) -> BuildParameters:
    """Sources and flags of the native library; `csrc/cuda/*.cu` is left out where `toolkit` is None.

    There is no -march=native: the library picks AVX-512, AVX2 or baseline when it runs, so machines may share a cache.
    """
    folder = source_folder()
    target = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the stable ABI of torch 2.10
    cpp = [*sorted(folder.glob("*.cpp")), *sorted((folder / "cpu").glob("*.cpp"))]
    cuda = sorted((folder / "cuda").glob("*.cu")) if toolkit else []
    return BuildParameters(
        sources=tuple(map(str, [*cpp, *cuda])),
        include=(str(folder),),
        cflags=("-O3", "-std=c++20", target, "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
        cuda_flags=(
            "-O3",
            "-std=c++20",
            "-DUSE_CUDA",
            target,
            "-Xcompiler=-fvisibility=hidden",
            *_gencode(cuda),
            *_host(),
        ),
        ldflags=("-Wl,--as-needed", "-Wl,--strip-all") if sys.platform == "linux" else (),
        cuda=bool(cuda),
    )


def _gencode(cuda_sources: list[Path]) -> list[str]:
    """nvcc's flags for this machine's GPUs, or for DEFAULT_ARCHS; none where torch will read TORCH_CUDA_ARCH_LIST."""
    if not cuda_sources or os.environ.get("TORCH_CUDA_ARCH_LIST", "native") not in ("", "native"):
        return []
    seen = ";".join(f"{major}.{minor}" for major, minor in _capabilities())
    flags = []
    for arch in (f"{seen}+PTX" if seen else DEFAULT_ARCHS).split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _host() -> list[str]:
    """The compiler behind nvcc must be the one of the C++ sources: conda's, say, and no gcc on PATH."""
    named = os.environ.get("CXX", "")
    return [f"-ccbin={named}"] if named and " " not in named else []


def source_digest() -> str:
    """sha256 of what the library is built from, file names included."""
    digest, folder = hashlib.sha256(), source_folder()
    files = [file for part in ("", "cpu", "cuda") for file in sorted((folder / part).glob("*"))]
    for file in (file for file in files if file.suffix in {".h", ".cpp", ".cuh", ".cu"}):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _plan(policy: str, cuda: bool = True) -> _Plan:
    compiler = _compiler()
    toolkit, notes = usable_toolkit(policy) if cuda and _is_gpu_wanted() else (None, ())
    parameters = build_parameters(toolkit)
    flags = [*parameters.cflags, *(parameters.cuda_flags if parameters.cuda else ()), *parameters.ldflags]
    base = _digest(source_digest(), *flags, torch.__version__, torch.version.cuda, platform.machine(), parameters.cuda)
    made_by = _digest(compiler, toolkit, os.environ.get("TORCH_CUDA_ARCH_LIST") if toolkit else None)
    return _Plan(parameters, compiler, toolkit, base, f"{base}-{made_by}", notes)


def _is_gpu_wanted() -> bool:
    """Whether a build on first use has CUDA kernels: compiling them where there is no GPU takes minutes for nothing.
    TORCH_CUDA_ARCH_LIST asks for them all the same."""
    return bool(_capabilities()) or os.environ.get("TORCH_CUDA_ARCH_LIST", "native") not in ("", "native")


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


# What to build it with


def _compiler() -> Tool | None:
    """The C++ compiler (CXX, else c++), or None where there is none; its version is the first line of --version."""
    command = os.environ.get("CXX", "c++")
    try:
        text = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: a quote that is not closed
        return None
    return Tool(command, text.partition("\n")[0])


def _check_compiler(compiler: Tool | None) -> None:
    if compiler is None:
        raise NativeError(f"no C++ compiler: {os.environ.get('CXX', 'c++')!r} is not on PATH", COMPILER_ADVICE)
    name = "clang" if "clang" in compiler.version else "g++"
    found = re.search(r"(\d+)\.\d+", re.sub(r"\([^)]*\)", "", compiler.version))
    if found is None or int(found[1]) < OLDEST_COMPILER[name]:
        what = f"{compiler.path!r} is {compiler.version!r}"
        raise NativeError(f"{what}, C++20 needs {name} {OLDEST_COMPILER[name]} or newer", COMPILER_ADVICE)


def cuda_toolkit() -> Tool | None:
    """The CUDA toolkit's root folder and version, or None where there is no nvcc."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc")
    guesses = [named] if named else [nvcc and Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    for root in map(Path, filter(None, guesses)):
        # An nvcc on PATH may be a wrapper script: only a folder with the headers is a toolkit.
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return Tool(str(root), _nvcc_version(root))
    return None


def _nvcc_version(root: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):  # an order faster than running nvcc
        return json.loads((root / "version.json").read_text())["cuda"]["version"]
    try:
        text = subprocess.run([root / "bin/nvcc", "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else "unknown"


def usable_toolkit(policy: str) -> tuple[Tool | None, tuple[str, ...]]:
    """The toolkit to compile CUDA sources with, if there are any, and what to tell the user about it.

    Under the policy `require`, one whose major version is not torch's raises; otherwise CPU sources are built alone.
    """
    if torch.version.cuda is None or not any(source_folder().glob("cuda/*.cu")):
        return None, ()
    toolkit = cuda_toolkit()
    if toolkit is None:
        return None, (f"no CUDA kernels: nvcc {torch.version.cuda} was not found (set CUDA_HOME)",)
    versions = f"nvcc is CUDA {toolkit.version}, torch was built with CUDA {torch.version.cuda}"
    if toolkit.version.split(".")[0] != torch.version.cuda.split(".")[0]:
        if policy == "require":
            raise NativeError(f"{versions}: the major versions differ", f"install CUDA {torch.version.cuda}'s nvcc")
        return None, (f"no CUDA kernels: {versions}, and the major versions differ",)
    if toolkit.version.split(".")[:2] != torch.version.cuda.split(".")[:2]:
        return toolkit, (f"{versions}: the minor versions differ, which usually works",)
    return toolkit, ()


def _capabilities() -> list[tuple[int, int]]:
    """Compute capabilities of this machine's GPUs, from NVML: CUDA, once asked, would not survive a later fork."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    count, major, minor, handle = ctypes.c_uint(), ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found = set()
    for index in range(count.value):
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0:
            found.add((major.value, minor.value))
    nvml.nvmlShutdown()
    return sorted(found)


# Where to keep it


def cache_folder() -> Path:
    """FREQROB_CACHE, else XDG_CACHE_HOME/freqrob, else ~/.cache/freqrob. It need not exist."""
    if named := os.environ.get("FREQROB_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "freqrob"


def _trusted(folder: Path) -> bool:
    """Whether nobody but this user (and root) can have put a library into `folder`."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid in (0, os.geteuid()) and not info.st_mode & 0o022


def _writable_entry(key: str) -> Path:
    """`key` in the cache, made if need be, or in a temporary folder where the cache cannot be trusted or written to."""
    refusals = []
    for folder in (cache_folder() / "native", Path(tempfile.gettempdir()) / f"freqrob-{os.geteuid()}"):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / key).mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / key):
                pass
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror}")
            continue
        if _trusted(folder):
            return folder / key
        refusals.append(f"{folder}: others can write to it")
    raise NativeError(f"no folder for the library ({'; '.join(refusals)})", "set FREQROB_CACHE to a folder of your own")


def _entries(plan: _Plan) -> list[Path]:
    """Folders of the cache that may hold the library of `plan`. Without a compiler any one that was built from the same
    sources will do: a cluster's compute nodes often have none, and share a home with one that has."""
    folder = cache_folder() / "native"
    return sorted(folder.glob(plan.key if plan.compiler else f"{plan.base}-*")) if _trusted(folder) else []


def _record(file: Path) -> dict | None:
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _keep_record(file: Path, record: dict) -> None:
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(record))
    os.replace(partial, file)


def library_digest(library: Path) -> str | None:
    """sha256 of what was built; loading a truncated library would kill the process."""
    try:
        return hashlib.sha256(library.read_bytes()).hexdigest()
    except OSError:
        return None


def _intact(entry: Path) -> dict | None:
    """The record of the library in `entry`, or None if it is missing, truncated or otherwise not what was built."""
    record = _record(entry / "built.json")
    return record if record and record.get("sha256", "") == library_digest(entry / LIBRARY) else None


# Build


def _build(plan: _Plan, entry: Path) -> dict:
    """Build the library of `plan` into `entry`, whose lock is held; its record. A failure that will last is kept."""
    _check_compiler(plan.compiler)
    for leftover in entry.glob("build-*"):  # of a builder that was killed, torch's own lock file among it
        shutil.rmtree(leftover, ignore_errors=True)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=entry, ignore_cleanup_errors=True) as folder:
            library = _compile(plan, Path(folder))
            record = {"sha256": library_digest(library), "compiler": plan.compiler.version}
            record["seconds"] = round(time.monotonic() - start, 2)
            os.replace(library, entry / LIBRARY)
        _keep_record(entry / "built.json", record)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise _explained(error, entry) from error
    (entry / "failed.json").unlink(missing_ok=True)
    return record


def _compile(plan: _Plan, folder: Path) -> Path:
    parameters = plan.parameters
    with _build_environment(plan) as cpp_extension:
        # "Standalone" is torch's way to build without loading: only a library that is in its place is loaded.
        library = cpp_extension.load(
            LIBRARY,
            sources=list(parameters.sources),
            extra_include_paths=list(parameters.include),
            extra_cflags=list(parameters.cflags),
            extra_cuda_cflags=list(parameters.cuda_flags),
            extra_ldflags=["-shared", *parameters.ldflags],
            build_directory=str(folder),
            with_cuda=parameters.cuda,
            is_python_module=False,
            is_standalone=True,
        )
    return Path(library)  # torch adds _v1, _v2, … to the name when one process builds again


@contextlib.contextmanager
def _build_environment(plan: _Plan) -> Iterator[ModuleType]:
    """torch's builder, its CUDA_HOME put right, and ninja's folder on PATH (where an unactivated venv's is not)."""
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # importing it remarks on a GPU that is not there
    from torch.utils import cpp_extension

    logging.disable(quiet)
    path, cuda_home = os.environ.get("PATH"), cpp_extension.CUDA_HOME
    with contextlib.suppress(ImportError):
        import ninja

        os.environ["PATH"] = os.pathsep.join(filter(None, [ninja.BIN_DIR, path]))
    if plan.toolkit:
        cpp_extension.CUDA_HOME = plan.toolkit.path
    try:
        yield cpp_extension
    finally:
        cpp_extension.CUDA_HOME = cuda_home
        os.environ.pop("PATH", None)
        if path is not None:
            os.environ["PATH"] = path


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
        log.write_text(text)
        if kept.lasting:
            _keep_record(entry / "failed.json", {"cause": cause, "advice": advice})
    except OSError:
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
    `rebuild=True` forgets it and builds anew (a library already loaded stays in use until the process ends).
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
    message += "".join(f"; {part}" for part in (error.advice, error.log and f"log: {error.log}") if part)
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
    if before and before.path:
        return _rebuilt_for_later(policy, before)
    try:
        if os.name != "posix":
            raise NativeError("they are built on Linux and macOS only")
        library, unusable = (None, None) if rebuild else _ahead_of_time()
        if library:
            return _Outcome(library, "aot")
        outcome = _just_in_time(policy, rebuild)
        note = (f"the library in the package is passed over: {unusable}",) if unusable else ()
        return replace(outcome, notes=(*outcome.notes, *note))
    except NativeError as error:
        return _Outcome(error=error)
    except (OSError, RuntimeError, ValueError) as error:  # an unreadable folder, say
        return _Outcome(error=NativeError(f"{type(error).__name__}: {error}"))


def _rebuilt_for_later(policy: str, before: _Outcome) -> _Outcome:
    """Build anew for the next process: the ops of `before` are registered here, and cannot be a second time."""
    try:
        plan = _plan(policy)
        entry = _writable_entry(plan.key)
        with _locked(entry):
            record = _build(plan, entry)
    except NativeError as error:
        return replace(before, notes=(f"the new build failed: {error.cause}",))
    return replace(before, seconds=record["seconds"], notes=(*plan.notes, "the new build is for the next process"))


def _ahead_of_time() -> tuple[Path | None, str | None]:
    """Load the library built into the package; else why there is one that cannot be used here."""
    record = _record(PACKAGE / "_native.json")
    if record is None:
        return None, None
    if record["sources"] != source_digest():
        return None, "it was built from other sources"
    if record["cuda"] and record["cuda"].split(".")[0] != (torch.version.cuda or "").split(".")[0]:
        return None, f"it was built for CUDA {record['cuda']}"
    for library in PACKAGE.glob("_native*.so"):
        if library_digest(library) == record.get("sha256", ""):
            try:
                torch.ops.load_library(library)
                return library, None
            except OSError as error:
                return None, f"it does not load ({error})"
    return None, "it is missing or damaged"


def _just_in_time(policy: str, rebuild: bool) -> _Outcome:
    """The library of all sources; under the policy `auto` that of the CPU sources alone where it cannot be had."""
    plan = _plan(policy)
    try:
        outcome = _found_or_built(plan, rebuild)
    except NativeError as error:
        if policy == "require" or not plan.parameters.cuda:
            raise
        note = f"no CUDA kernels: {error.cause}" + (f" (log: {error.log})" if error.log else "")
        outcome = _found_or_built(replace(_plan(policy, cuda=False), notes=(*plan.notes, note)), rebuild)
    for note in outcome.notes:
        warnings.warn(f"freqrob: {note}", RuntimeWarning, stacklevel=5)
    return outcome


def _found_or_built(plan: _Plan, rebuild: bool) -> _Outcome:
    refused = None
    for entry in [] if rebuild else _entries(plan):
        if record := _intact(entry):
            try:
                torch.ops.load_library(entry / LIBRARY)
                return _Outcome(entry / LIBRARY, "jit", record["seconds"], notes=plan.notes)
            except OSError:  # intact, but linked against another glibc or torch, say
                refused = record["sha256"]
        if plan.compiler:
            _raise_if_failed(entry)
    entry = _writable_entry(plan.key)
    with _locked(entry):
        record = _built_meanwhile(entry, rebuild, refused) or _build(plan, entry)
        try:
            torch.ops.load_library(entry / LIBRARY)
        except OSError as error:
            raise _explained(error.__cause__ or error, entry) from error
    return _Outcome(entry / LIBRARY, "jit", record["seconds"], notes=plan.notes)


def _built_meanwhile(entry: Path, rebuild: bool, refused: str | None) -> dict | None:
    """What another process did while this one waited for the lock: its library's record; its failure is raised."""
    if rebuild:
        return None
    record = _intact(entry)
    if record and record["sha256"] != refused:
        return record
    _raise_if_failed(entry)
    return None


def _raise_if_failed(entry: Path) -> None:
    if failure := _record(entry / "failed.json"):
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
    error, toolkit, compiler = outcome.error, cuda_toolkit() if torch.version.cuda else None, _compiler()
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
