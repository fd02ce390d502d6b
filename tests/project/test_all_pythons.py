"""Which interpreters `make test-all-pythons` finds, and what it makes of their results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.project import all_pythons

MAKEFILE = """
test:
	@echo "=== 7 passed in 1.0s with $(VENV) ==="
	@case $(PYTHON) in *3.98) exit 1; esac
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Run in a folder with a Makefile, with PATH=bin first, versions that no machine has, and no pyenv."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(all_pythons, "supported", lambda: ["3.97", "3.98", "3.99"])
    return tmp_path


def install(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"python{version}"
    path.symlink_to(sys.executable)
    return path


def test_supported_versions_begin_with_the_oldest_that_pip_accepts():
    oldest, *newer = all_pythons.supported()
    assert f'requires-python = ">={oldest}"' in (all_pythons.ROOT / "pyproject.toml").read_text()
    assert newer == [f"3.{minor}" for minor in range(11, 11 + len(newer))]


def test_a_shim_that_fails_is_passed_over_for_the_version_of_pyenv(machine):
    shim = machine / "bin" / "python3.98"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert all_pythons.find("3.98") is None
    kept = install(machine / "pyenv" / "versions" / "3.98.1" / "bin", "3.98")
    assert all_pythons.find("3.98") == str(kept)


def test_each_version_has_its_result_and_a_failure_is_the_exit_status(machine, capfd):
    failing, passing = (install(machine / "bin", version) for version in ("3.98", "3.99"))
    assert all_pythons.main() == 1
    assert capfd.readouterr().out.splitlines()[-3:] == [
        "Python 3.97: not found",
        f"Python 3.98: FAILED ({failing}: 7 passed in 1.0s with .venv-3.98)",
        f"Python 3.99: passed ({passing}: 7 passed in 1.0s with .venv-3.99)",
    ]
    failing.unlink()
    assert all_pythons.main() == 0


def test_no_interpreter_at_all_is_a_failure(machine, capfd):
    assert all_pythons.main() == 1
    assert capfd.readouterr().out.count("not found") == 3
