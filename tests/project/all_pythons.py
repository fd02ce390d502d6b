"""Run `make test` on each supported Python that this machine has: `python tests/project/all_pythons.py`.

The supported versions are the classifiers in pyproject.toml. Each gets its own virtual environment, such as .venv-3.13.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def supported() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is new in 3.11
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def find(version: str) -> str | None:
    """Path of an interpreter that starts, on PATH or among pyenv's versions; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [*os.get_exec_path(), *map(str, pyenv.glob(f"versions/{version}.*/bin"))]
    for folder in folders:
        path = shutil.which(f"python{version}", path=folder)
        # pyenv's shims are on PATH for versions that are not selected too; those fail.
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def run_tests(version: str, path: str) -> tuple[bool, str]:
    """Whether `make test` passed, and its last line, which is pytest's summary. The output is passed on."""
    command = ["make", "test", f"PYTHON={path}", f"VENV=.venv-{version}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    last = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            last = line.strip("= \n") or last
    return run.returncode == 0, last


def main() -> int:
    found = {version: find(version) for version in supported()}
    results = {version: run_tests(version, path) for version, path in found.items() if path}
    for version, path in found.items():
        passed, last = results.get(version, (None, ""))
        outcome = {True: "passed", False: "FAILED", None: "not found"}[passed]
        print(f"Python {version}: {outcome}" + (f" ({path}: {last})" if path else ""))
    return 0 if results and all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
