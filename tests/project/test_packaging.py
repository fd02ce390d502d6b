"""What `import freqrob` costs, what the distribution carries, and that it builds as people will build it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import freqrob

ROOT = Path(__file__).resolve().parents[2]
HOMES = {name: module for module, names in freqrob._NAMES.items() for name in names}
# The one that builds, and the oldest on PyPI of the same CUDA major version.
TORCHES = [f"torch=={version('torch').partition('+')[0]}", "torch==2.11.0"]


def python(code: str, **env: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    # Not from ROOT: the current folder would come before PYTHONPATH.
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_freqrob_imports_nothing_heavy_and_compiles_nothing(tmp_path):
    code = """
import sys
import torch
before = set(sys.modules)
import freqrob
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
assert "torch.utils.cpp_extension" not in sys.modules
"""
    added = python(code, FREQROB_CACHE=str(tmp_path / "cache")).split()
    heavy = {
        "torchvision", "matplotlib", "scipy", "lightning", "lightning_fabric", "typer", "rich", "jinja2", "foolbox",
        "numba", "pandas", "timm", "robustbench",
    }  # fmt: skip
    assert not heavy.intersection(added)
    assert not (tmp_path / "cache").exists()


def test_the_public_names_are_what_all_says():
    assert set(freqrob.__all__) == {"__version__", *HOMES}
    assert set(freqrob.__all__) <= set(dir(freqrob))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        freqrob.nonsense  # noqa: B018


@pytest.fixture(scope="module")
def public_names() -> list[str]:
    """A line for each name and each module imported first, from processes that have only torch in common."""
    return python(f"""
import os, torch
for name, home in {HOMES!r}.items():
    for first in (home, "freqrob"):
        child = os.fork()
        if child == 0:
            __import__(first)
            import freqrob
            value = getattr(freqrob, name)
            print(first, callable(value), value.__name__, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
""").splitlines()


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_is_its_function_whatever_was_imported_before(name, public_names):
    """`freqrob.spectral.balance` is a module, `freqrob.bass` a function; neither may take the other's place."""
    for first in (HOMES[name], "freqrob"):
        assert f"{first} True {name}" in public_names


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what git tracks, so that build folders do not end up in it."""
    target = tmp_path_factory.mktemp("checkout") / "freqrob"
    for file in tracked("."):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target / file)
    return target


def build_wheel(checkout: Path, folder: Path, *options: str, **env: str) -> Path:
    command = [sys.executable, "-m", "build", "--outdir", str(folder), *options, str(checkout)]
    run = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def plain_wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, in an environment of its own, which has no torch."""
    return build_wheel(checkout, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def native_wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("native"), "--wheel", "--no-isolation", FREQROB_AOT="1")


def test_the_source_distribution_has_what_builds_the_package_and_no_more(checkout, tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        held = {Path(*Path(file.name).parts[1:]) for file in opened if file.isfile()}
    packages = ("freqrob", "csrc", "plugins/foolbox/freqrob_foolbox", "plugins/robustbench/freqrob_robustbench")
    sources = {file for folder in packages for file in tracked(folder) if file.suffix != ".md"}
    root = {Path(name) for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md")}
    assert sources | root <= held, sorted((sources | root) - held)
    folders = {path.parts[0] for path in held if len(path.parts) > 1}
    assert folders == {"freqrob", "csrc", "plugins", "freqrob.egg-info"}


@pytest.mark.slow
def test_a_plain_wheel_is_pure_and_carries_sources_and_weights(plain_wheel):
    assert plain_wheel.name.endswith("py3-none-any.whl")
    held = {Path(name) for name in zipfile.ZipFile(plain_wheel).namelist()}
    expected = {"freqrob" / file for file in tracked("csrc") if file.suffix in {".cpp", ".h", ".cu", ".cuh"}}
    expected |= {file for file in tracked("freqrob") if file.suffix != ".md"}
    expected |= {Path(name, "py.typed") for name in plugins()}
    assert expected <= held, sorted(expected - held)
    assert {path.parts[0] for path in held if ".dist-info" not in path.parts[0]} == {"freqrob", *plugins()}
    assert not any(path.suffix == ".so" for path in held)


@pytest.mark.slow
def test_the_index_takes_the_distributions(plain_wheel):
    files = [*plain_wheel.parent.iterdir()]
    assert len(files) == 2
    run = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_packages_say_that_they_are_typed():
    for name in ("freqrob", *sorted(plugins())):
        assert Path(*import_module(name).__path__, "py.typed").is_file(), name


def plugins() -> set[str]:
    """Import names of the packages in `plugins/`."""
    return {f"freqrob_{file.parts[1]}" for file in tracked("plugins") if file.name == "__init__.py"}


def tracked(folder: str) -> list[Path]:
    """The files of `folder` that git knows, from ROOT."""
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.mark.slow
def test_a_wheel_built_ahead_of_time_says_where_it_runs(native_wheel):
    assert "-cp310-abi3-linux" in native_wheel.name


@pytest.mark.slow
def test_building_ahead_of_time_without_torch_says_what_is_missing(checkout, tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(checkout)]
    run = subprocess.run(command, env=os.environ | {"FREQROB_AOT": "1"}, capture_output=True, text=True)
    assert run.returncode != 0 and "FREQROB_AOT=1 needs torch" in run.stdout + run.stderr


@pytest.fixture(scope="module", params=TORCHES)
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The programs of a clean environment and its torch; it takes 5 GB while it is there."""
    folder = tmp_path_factory.mktemp("environment")
    if shutil.disk_usage(folder).free < 12e9:
        pytest.skip("needs 12 GB of disk")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # A constraint of every later command too, so that pip does not take a newer torchvision's torch.
    (folder / "constraints.txt").write_text(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONSTRAINT", str(folder / "constraints.txt"))
        subprocess.run([folder / "bin/pip", "install", "--quiet", request.param], check=True)
        yield folder / "bin", request.param
    shutil.rmtree(folder)


RUN = """
import json, resource, sys
import freqrob, torch
from freqrob.spectral import build, native, ops, reference
from freqrob.spectral.rings import RingMap

native.load()
used, found = resource.getrusage(resource.RUSAGE_CHILDREN), native.status()
x = torch.rand(1, 3, 32, 32)
error = (ops.balance(x) - reference.balance(x.double(), RingMap(32, 32))).abs().max().item()
logits = freqrob.load_model("bass_pgd_at_rn20")(x)
print(json.dumps({
    "at home": freqrob.__file__.startswith(sys.prefix) and str(build.source_folder()).startswith(sys.prefix),
    "torch": "torch==" + torch.__version__.partition("+")[0],
    "kind": found.kind,
    "path": str(found.path),
    "seconds": used.ru_utime + used.ru_stime,
    "right": error < 1e-5 and logits.shape == (1, 10) and bool(logits.isfinite().all()),
}))
"""


@pytest.mark.slow
def test_both_wheels_run_in_a_clean_environment(elsewhere, plain_wheel, native_wheel, tmp_path):
    programs, torch = elsewhere
    cache = tmp_path / "cache"

    def installed(wheel: Path, *options: str, **env: str) -> dict:
        """What RUN says of the wheel."""
        subprocess.run([programs / "pip", "install", "--quiet", *options, wheel], check=True)
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("FREQROB", "PYTHON"))}
        env = outer | {"FREQROB_NATIVE": "require", "FREQROB_CACHE": str(cache)} | env
        run = subprocess.run([programs / "python", "-c", RUN], env=env, cwd="/", capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)
        assert found["torch"] == torch and found["at home"] and found["right"], found
        return found

    built_first = installed(plain_wheel)
    assert built_first["kind"] == "jit" and built_first["path"].startswith(str(cache)), built_first
    assert built_first["seconds"] < 40, built_first  # of CPU time
    shutil.rmtree(cache)
    ahead = installed(native_wheel, "--no-deps", "--force-reinstall", CXX="/nowhere/c++")
    assert ahead["kind"] == "aot" and not cache.exists(), ahead
