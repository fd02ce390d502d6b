"""Build parameters of `csrc/`, and the build itself; used by `setup.py` and by the build on first use."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARY = "freqrob.so"
OLDEST_COMPILER = {"g++": 11, "clang": 14}
# Built where no GPU is visible: code for Ampere and Hopper, and PTX for anything newer.
DEFAULT_ARCHS = "8.0;9.0+PTX"
COMPILER_ADVICE = (
    "install g++ 11 or newer (Debian, Ubuntu: apt install g++; conda: conda install -c conda-forge gxx) "
    "or set CXX to a C++20 compiler"
)


class NativeError(RuntimeError):
    """There is no native library, and why. `lasting`: another attempt with the same key would fail too."""

    def __init__(self, cause: str, advice: str = "", log: Path | None = None, lasting: bool = False):
        super().__init__(cause)
        self.cause, self.advice, self.log, self.lasting = cause, advice, log, lasting


@dataclass(frozen=True)
class BuildParameters:
    """Sources and flags of the native library."""

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
class Plan:
    """A build on first use, and its place in the cache."""

    parameters: BuildParameters
    compiler: Tool | None
    toolkit: Tool | None
    base: str  # digest of everything that decides whether a library can be used here
    key: str  # base, and a digest of the compilers
    notes: tuple[str, ...]


# What to build


def source_folder() -> Path:
    """The C++ and CUDA sources: `freqrob/csrc` when installed, `csrc` beside the package in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if any(folder.rglob("*.cpp")):
            return folder
    raise NativeError(f"no native sources in {PACKAGE / 'csrc'}", "reinstall freqrob", lasting=True)


def build_parameters(toolkit: Tool | None = None) -> BuildParameters:
    """Sources and flags of the native library; without a `toolkit`, `csrc/cuda/*.cu` is left out.

    There is no -march=native: the library selects AVX-512, AVX2 or baseline at run time, so machines may share a cache.
    """
    folder = source_folder()
    common = ("-O3", "-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000")  # the stable ABI of torch 2.10
    cpp = [*sorted(folder.glob("*.cpp")), *sorted((folder / "cpu").glob("*.cpp"))]
    cuda = sorted((folder / "cuda").glob("*.cu")) if toolkit else []
    return BuildParameters(
        sources=tuple(map(str, [*cpp, *cuda])),
        include=(str(folder),),
        cflags=(*common, "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
        cuda_flags=(*common, "-DUSE_CUDA", "-Xcompiler=-fvisibility=hidden", *_gencode(cuda), *_host_compiler()),
        ldflags=("-Wl,--as-needed", "-Wl,--strip-all") if sys.platform == "linux" else (),
        cuda=bool(cuda),
    )


def _gencode(cuda_sources: list[Path]) -> list[str]:
    """nvcc's flags for this machine's GPUs, or else for DEFAULT_ARCHS; none if torch reads TORCH_CUDA_ARCH_LIST."""
    if not cuda_sources or _architectures_are_given():
        return []
    capabilities = ";".join(f"{major}.{minor}" for major, minor in _capabilities())
    flags = []
    for arch in (f"{capabilities}+PTX" if capabilities else DEFAULT_ARCHS).split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _architectures_are_given() -> bool:
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "native") not in ("", "native")


def _host_compiler() -> list[str]:
    """nvcc's flag to use the compiler of the C++ sources, such as conda's, because there may be no gcc on PATH."""
    compiler = os.environ.get("CXX", "")
    return [f"-ccbin={compiler}"] if compiler and " " not in compiler else []


def source_digest() -> str:
    """sha256 of the library's sources and their file names."""
    digest, folder = hashlib.sha256(), source_folder()
    files = [file for part in ("", "cpu", "cuda") for file in sorted((folder / part).glob("*"))]
    for file in (file for file in files if file.suffix in {".h", ".cpp", ".cuh", ".cu"}):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def plan_build(policy: str, cuda: bool = True) -> Plan:
    """Plan a build of the native library: its sources, compilers and flags."""
    compiler = find_compiler()
    # Compiling CUDA kernels takes minutes, which is wasted without a GPU, unless architectures are given.
    is_gpu_wanted = bool(_capabilities()) or _architectures_are_given()
    toolkit, notes = usable_toolkit(policy) if cuda and is_gpu_wanted else (None, ())
    parameters = build_parameters(toolkit)
    flags = [*parameters.cflags, *(parameters.cuda_flags if parameters.cuda else ()), *parameters.ldflags]
    base = _digest(source_digest(), *flags, torch.__version__, torch.version.cuda, platform.machine(), parameters.cuda)
    made_by = _digest(compiler, toolkit, os.environ.get("TORCH_CUDA_ARCH_LIST") if toolkit else None)
    return Plan(parameters, compiler, toolkit, base, f"{base}-{made_by}", notes)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


# What to build it with


def find_compiler() -> Tool | None:
    """The C++ compiler (CXX, else c++) and the first line of its --version; None if it does not run."""
    command = os.environ.get("CXX", "c++")
    try:
        text = subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: a quote that is not closed
        return None
    return Tool(command, text.partition("\n")[0])


def check_compiler(compiler: Tool | None) -> None:
    """Raise NativeError unless the compiler knows C++20."""
    if compiler is None:
        raise NativeError(f"no C++ compiler: {os.environ.get('CXX', 'c++')!r} is not on PATH", COMPILER_ADVICE)
    name = "clang" if "clang" in compiler.version else "g++"
    version = re.search(r"(\d+)\.\d+", re.sub(r"\([^)]*\)", "", compiler.version))
    if version is None or int(version[1]) < OLDEST_COMPILER[name]:
        given = f"{compiler.path!r} is {compiler.version!r}"
        raise NativeError(f"{given}, C++20 needs {name} {OLDEST_COMPILER[name]} or newer", COMPILER_ADVICE)


def cuda_toolkit() -> Tool | None:
    """The CUDA toolkit's root folder and version; None without nvcc."""
    home, nvcc = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"), shutil.which("nvcc")
    candidates = [home] if home else [nvcc and Path(nvcc).resolve().parents[1], "/usr/local/cuda"]
    for root in map(Path, filter(None, candidates)):
        # An nvcc on PATH may be a wrapper script: only a folder with the headers is a toolkit.
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return Tool(str(root), _nvcc_version(root))
    return None


def _nvcc_version(root: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):  # ten times faster than running nvcc
        return json.loads((root / "version.json").read_text())["cuda"]["version"]
    try:
        text = subprocess.run(
            [root / "bin/nvcc", "--version"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    release = re.search(r"release (\d+\.\d+)", text)
    return release[1] if release else "unknown"


def usable_toolkit(policy: str) -> tuple[Tool | None, tuple[str, ...]]:
    """The toolkit to compile CUDA sources with, if there are any, and notes for the user.

    If its major version is not torch's, the policy `require` raises NativeError; otherwise the toolkit is not used.
    """
    wanted = torch.version.cuda
    if wanted is None or not any(source_folder().glob("cuda/*.cu")):
        return None, ()
    toolkit = cuda_toolkit()
    if toolkit is None:
        return None, (f"no CUDA kernels: nvcc {wanted} was not found (set CUDA_HOME)",)
    versions = f"nvcc is CUDA {toolkit.version}, torch was built with CUDA {wanted}"
    if toolkit.version.split(".")[0] != wanted.split(".")[0]:
        if policy == "require":
            raise NativeError(f"{versions}: the major versions differ", f"install CUDA {wanted}'s nvcc")
        return None, (f"no CUDA kernels: {versions}, and the major versions differ",)
    if toolkit.version.split(".")[:2] != wanted.split(".")[:2]:
        return toolkit, (f"{versions}: the minor versions differ, which usually works",)
    return toolkit, ()


def _capabilities() -> list[tuple[int, int]]:
    """Compute capabilities of this machine's GPUs, from NVML, because after a CUDA call this process could not fork."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    count, major, minor, handle = ctypes.c_uint(), ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    capabilities = set()
    for index in range(count.value):
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0:
            capabilities.add((major.value, minor.value))
    nvml.nvmlShutdown()
    return sorted(capabilities)


# Build


def compile_library(plan: Plan, folder: Path) -> Path:
    """Compile the library of `plan` in `folder`; returns its path."""
    parameters = plan.parameters
    with _build_environment(plan, folder) as cpp_extension:
        # "Standalone" makes torch build without loading; a library is loaded only from its final place.
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
def _build_environment(plan: Plan, folder: Path) -> Iterator[ModuleType]:
    """torch's builder with CUDA_HOME from `plan`, and ninja on PATH (a venv that is not activated is not on PATH).

    If CXX has several words, such as `ccache g++`, a script in `folder` runs them, because torch accepts one word.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the import warns if there is no GPU
    from torch.utils import cpp_extension

    logging.disable(level)
    path, compiler, cuda_home = os.environ.get("PATH"), os.environ.get("CXX", ""), cpp_extension.CUDA_HOME
    if len(words := shlex.split(compiler)) > 1:
        script = folder / "c++"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o700)
        os.environ["CXX"] = str(script)
    with contextlib.suppress(ImportError):
        import ninja

        os.environ["PATH"] = os.pathsep.join(filter(None, [ninja.BIN_DIR, path]))
    if plan.toolkit:
        cpp_extension.CUDA_HOME = plan.toolkit.path
    try:
        yield cpp_extension
    finally:
        cpp_extension.CUDA_HOME = cuda_home
        if compiler:
            os.environ["CXX"] = compiler
        os.environ.pop("PATH", None)
        if path is not None:
            os.environ["PATH"] = path
