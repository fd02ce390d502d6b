"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer: `python tests/project/sanitized.py`.

The library is built as ever, by a compiler that adds the sanitizers, and the tests in RUNS use it: whatever those
tests compile with CXX is watched too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "avx512": ["tests/spectral/test_ops_properties.py", "-k", "native"],
    "avx2": ["tests/spectral/test_ops_properties.py", "-k", "native"],
    "baseline": ["tests/spectral/test_ops_properties.py", "-k", "native"],
    "": ["tests/spectral/test_cuda_emulation.py"],
}
JOBS = 2

# The fused kernels go without the checks of integers: with them g++ 12 takes the wrong element of (a ? b : c)[i].
# Calls instead of inline code, and little optimisation, compile in a quarter of the time.
COMPILER = """#!/bin/sh
unset LD_PRELOAD
for argument; do
  shift
  case $argument in
    -Wl,--strip-all) continue ;;
    */cpu/kernels_*) integers=-fno-sanitize=shift,signed-integer-overflow,integer-divide-by-zero ;;
  esac
  set -- "$@" "$argument"
done
exec {compiler} "$@" -Og -g1 --param asan-instrumentation-with-call-threshold=0 \
    -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all $integers
"""


def libraries(compiler: str) -> list[str] | None:
    """What has to be loaded before Python is; None where the compiler has no AddressSanitizer."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):  # libasan looks for what throws exceptions when it starts
        command = [*shlex.split(compiler), f"-print-file-name={name}"]
        file = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        if not file.is_file() or file.read_bytes()[:4] != b"\x7fELF":
            return None
        found.append(str(file))
    return found


def main() -> int:
    compiler = os.environ.get("CXX", "c++")
    preloaded = libraries(compiler)
    if preloaded is None:
        print(f"native code not sanitized: {compiler} has no libasan")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        wrapper = Path(folder) / "c++"
        wrapper.write_text(COMPILER.format(compiler=compiler))
        wrapper.chmod(0o755)
        environment = os.environ | {
            "CXX": str(wrapper),
            "CUDA_HOME": "/nowhere",
            "FREQROB_CACHE": f"{folder}/cache",
            "FREQROB_NATIVE": "require",
            "LD_PRELOAD": ":".join(preloaded),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        with ThreadPoolExecutor(JOBS) as pool:
            codes = list(pool.map(lambda run: sanitized(*run, environment), RUNS.items()))
        (library,) = Path(folder).glob("cache/native/*/freqrob.so")
        assert b"__asan_store" in library.read_bytes() and b"__ubsan_handle" in library.read_bytes()
    return 1 if any(codes) else 0


def sanitized(isa: str, tests: list[str], environment: dict[str, str]) -> int:
    # -s: a sanitizer ends the process, and what pytest has captured with it.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "--hypothesis-profile=sanitized",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, *tests],
        cwd=ROOT,
        env=environment | {"FREQROB_ISA": isa},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lacking = "which this CPU or build does not have" in done.stdout
    lines = done.stdout.rstrip().splitlines()
    told = ["this CPU does not have it"] if lacking else lines[-1:] if done.returncode == 0 else lines
    print(isa or "any instruction set", *tests[:1], *told, sep="\n" if len(told) > 1 else ": ", flush=True)
    return 0 if lacking else done.returncode


if __name__ == "__main__":
    sys.exit(main())
