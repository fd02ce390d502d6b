"""What `import freqrob` costs, what the distribution carries, and that it builds as people will build it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import freqrob

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, **env: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    # Not from ROOT: the current folder would come before PYTHONPATH.
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_freqrob_imports_nothing_heavy_and_compiles_nothing(tmp_path):
    code = """
import sys, time
import torch
before, start = set(sys.modules), time.process_time()
import freqrob
seconds = time.process_time() - start
print(seconds, *sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
assert "torch.utils.cpp_extension" not in sys.modules
"""
    seconds, *added = python(code, FREQROB_CACHE=str(tmp_path / "cache")).split()
    assert float(seconds) < 0.3
    heavy = {"torchvision", "matplotlib", "lightning", "lightning_fabric", "typer", "rich", "jinja2", "robustbench"}
    assert not heavy & set(added)
    assert not (tmp_path / "cache").exists()


def test_the_public_names_are_what_all_says():
    assert set(freqrob.__all__) == {"__version__", *freqrob._HOMES}
    assert set(freqrob.__all__) <= set(dir(freqrob))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        freqrob.nonsense  # noqa: B018


@pytest.mark.parametrize("name", sorted(freqrob._HOMES))
def test_a_public_name_is_its_function_whatever_was_imported_before(name):
    """`freqrob.spectral.bass` is a module, `freqrob.bass` a function; neither may take the other's place."""
    home = freqrob._HOMES[name]
    if (
        not (ROOT / home.replace(".", "/")).with_suffix(".py").exists()
        and not (ROOT / home.replace(".", "/") / "__init__.py").exists()
    ):
        pytest.skip(f"{home} is not there yet")
    for first in (f"import {home}", "import freqrob"):
        assert python(f"{first}\nimport freqrob\nprint(callable(freqrob.{name}), freqrob.{name}.__name__)").split() == [
            "True",
            name,
        ]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what git tracks, so that build folders do not end up in it."""
    target = tmp_path_factory.mktemp("checkout") / "freqrob"
    for file in tracked("."):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target / file)
    return target


def build_wheel(checkout: Path, folder: Path, *options: str, **env: str) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), *options, "."]
    run = subprocess.run(command, cwd=checkout, env=os.environ | env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.mark.slow
def test_a_plain_wheel_is_pure_and_carries_sources_and_weights(checkout, tmp_path):
    """pip builds it in an environment of its own, which has no torch."""
    wheel = build_wheel(checkout, tmp_path)
    assert wheel.filename.endswith("py3-none-any.whl")
    held = {Path(name) for name in wheel.namelist()}
    expected = {"freqrob" / file for file in tracked("csrc") if file.suffix in {".cpp", ".h", ".cu", ".cuh"}}
    expected |= {file for file in tracked("freqrob") if file.suffix != ".md"}
    assert expected <= held, sorted(expected - held)
    assert {path.parts[0] for path in held if ".dist-info" not in path.parts[0]} == {"freqrob", *plugins()}
    assert not any(path.suffix == ".so" for path in held)


def plugins() -> set[str]:
    """Import names of the packages in `plugins/`."""
    return {f"freqrob_{file.parts[1]}" for file in tracked("plugins") if file.name == "__init__.py"}


def tracked(folder: str) -> list[Path]:
    """The files of `folder` that git knows, from ROOT."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.slow
def test_a_wheel_built_ahead_of_time_needs_no_compiler(checkout, tmp_path):
    wheel = build_wheel(checkout, tmp_path, "--no-build-isolation", FREQROB_AOT="1")
    assert "cp310-abi3-linux" in wheel.filename
    installed = tmp_path / "installed"
    wheel.extractall(installed)
    code = """
import json, freqrob
from freqrob.spectral import native
loaded, found = native.load(), native.status()
print(json.dumps([freqrob.__file__, loaded, found.kind, str(found.path)]))
"""
    env = {"PYTHONPATH": str(installed), "FREQROB_CACHE": str(tmp_path / "cache"), "CXX": "/nowhere/c++"}
    file, loaded, kind, path = json.loads(python(code, **env))
    assert file.startswith(str(installed)) and loaded and kind == "aot" and path.startswith(str(installed))
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_an_installed_wheel_builds_its_own_sources_on_first_use(checkout, tmp_path):
    build_wheel(checkout, tmp_path).extractall(tmp_path / "installed")
    code = """
import resource
from freqrob.spectral import native
loaded, used = native.load(), resource.getrusage(resource.RUSAGE_CHILDREN)
import freqrob, torch
logits = freqrob.load_model("bass_pgd_at_rn20")(torch.rand(2, 3, 32, 32))
print(native.source_folder(), loaded, used.ru_utime + used.ru_stime, len(logits))
"""
    env = {"PYTHONPATH": str(tmp_path / "installed"), "FREQROB_CACHE": str(tmp_path / "cache")}
    folder, loaded, seconds, classified = python(code, FREQROB_NATIVE="require", **env).split()
    assert folder == str(tmp_path / "installed" / "freqrob" / "csrc") and loaded == "True" and classified == "2"
    assert float(seconds) < 30  # of CPU time: less than 20 s on two cores that are not busy otherwise
