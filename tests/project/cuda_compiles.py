"""Compile the CUDA sources as a build would, for every architecture: a warning or a register spill is a failure.

`python tests/project/cuda_compiles.py [SOURCE …]`, csrc/cuda/*.cu by default. It needs nvcc and torch's
headers, and no GPU.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from freqrob.spectral import build

ARCHITECTURES = ("80", "90", "100")
JOBS = 2
PTXAS = re.compile(
    r"for '(?P<arch>sm_\w+)'"
    r"|Function properties for (?P<name>\w+)"
    r"|(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"|Used (?P<registers>\d+) registers"
)


@dataclass
class Result:
    """What the compiler made of one source."""

    failure: str = ""  # its output, where it failed
    kernels: int = 0  # on all architectures together
    registers: int = 0  # the most that one kernel uses
    spills: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not (self.failure or self.spills)

    def __str__(self) -> str:
        summary = f"{self.kernels} kernels, at most {self.registers} registers, neither a warning nor a spill"
        return self.failure or "; ".join(self.spills) or summary


def compile_command(toolkit: build.Tool, source: Path, architectures: tuple[str, ...]) -> list[str]:
    """What torch's builder would run on `source`, but for these architectures, and stricter."""
    logging.disable(logging.WARNING)  # importing the builder remarks on a GPU that is not there
    from torch.utils import cpp_extension

    logging.disable(logging.NOTSET)
    parameters = build.build_parameters(toolkit)
    return [
        f"{toolkit.path}/bin/nvcc",
        "-c",
        str(source),
        *(f"-I{folder}" for folder in parameters.include),
        *(f"-isystem={folder}" for folder in cpp_extension.include_paths("cpu")),
        *cpp_extension.COMMON_NVCC_FLAGS,
        *(flag for flag in parameters.cuda_flags if not flag.startswith("-gencode")),
        *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures),
        "-Xcompiler=-fPIC",
        "-Werror=all-warnings",
        "-Xptxas=-v",
    ]


def compile_source(toolkit: build.Tool, source: Path, architectures: tuple[str, ...] = ARCHITECTURES) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        command = [*compile_command(toolkit, source, architectures), "-o", f"{folder}/object.o"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result_of(run.stdout) if run.returncode == 0 else Result(failure=run.stdout)


def result_of(output: str) -> Result:
    """Reads what `ptxas -v` says of each function of each architecture."""
    registers, spills, arch, name = [], [], "", ""
    for found in PTXAS.finditer(output):
        arch, name = found["arch"] or arch, found["name"] or name
        if found["registers"]:
            registers.append(int(found["registers"]))
        if found["stores"] and (found["stores"], found["loads"]) != ("0", "0"):
            spills.append(f"{name} spills on {arch}: {found['stores']} bytes stored, {found['loads']} loaded")
    return Result(kernels=len(registers), registers=max(registers, default=0), spills=tuple(spills))


def known_architectures(toolkit: build.Tool) -> tuple[str, ...]:
    """Those that this nvcc compiles for."""
    command = [f"{toolkit.path}/bin/nvcc", "--list-gpu-code"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return tuple(arch for arch in ARCHITECTURES if f"sm_{arch}" in known)


def main(sources: list[str]) -> int:
    toolkit = build.cuda_toolkit()
    files = [Path(source) for source in sources] or sorted(build.source_folder().glob("cuda/*.cu"))
    if toolkit is None or not files:
        print("CUDA sources not compiled:", "there are none" if toolkit else "no nvcc (set CUDA_HOME)")
        return 0
    architectures = known_architectures(toolkit)
    print(f"nvcc {toolkit.version}:", *(f"sm_{arch}" for arch in architectures))
    with ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(lambda file: compile_source(toolkit, file, architectures), files))
    for file, result in zip(files, results, strict=True):
        print(f"{file.name}: {result}")
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
