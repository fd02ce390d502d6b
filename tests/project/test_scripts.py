"""Every script runs, on an ASCII terminal: a small run of each, whose output is checked."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from benchmarks import readme, records
from freqrob.data.samples import sample_images
from freqrob.models import load_model
from freqrob.spectral import native
from freqrob.training import run_images
from tests.support.two_colours import two_colours_split

pytestmark = pytest.mark.usefixtures("tiny")
ROOT = Path(__file__).parents[2]
QUICK = ("--quick", "--out", "out.json")
ONE_THREAD = (*QUICK, "--threads", "1")
# The Makefile runs these.
DRIVERS = {f"tests/project/{name}.py" for name in ("sanitized", "cuda_compiles", "all_pythons")}


def rows_of(count):
    """Checks that ``out.json`` has so many rows and says where it comes from."""

    def check():
        found = json.loads(Path("out.json").read_text())
        assert len(found["rows"]) == count and found["command"].startswith("python -m benchmarks.")

    return check


def packages():
    found = json.loads(Path("out.json").read_text())["packages"]
    assert found.keys() == {"freqrob", "pyautoattack"}
    assert {(one["clean"], one["robust"]) for one in found.values()} == {(1.0, 0.0)}


def heat_maps():
    found = json.loads(Path("out.json").read_text())
    assert found["seconds"].keys() == {"float32", "bfloat16"} and found["images"] == 4


def gpu_record():
    found = json.loads(Path("gpu/dry_run.json").read_text())
    assert found["name"] == "CPU" and found["stages"] == {"build": {"result": "passed", "seconds": 3}}


def trained():
    assert b"standard_tiny" in Path("pieces/models.tar.00").read_bytes()
    with safe_open("new/cifar10/Linf/standard_tiny.safetensors", "pt") as file:
        assert list(file.keys())


def figure():
    files = {path.name for path in Path("spectrum").iterdir()}
    assert files == {"cache", *(f"boundary_spectrum.{kind}" for kind in ("csv", "json", "pdf", "png", "svg"))}
    found = json.loads(Path("spectrum/boundary_spectrum.json").read_text())
    assert [model["model"] for model in found["models"]] == ["standard_rn20", "pgd_at_rn20"]
    assert len(Path("spectrum/boundary_spectrum.csv").read_text().splitlines()) == 3


def nothing():
    pass


# By script: arguments, and what is asserted of the files that it leaves in the working directory
RUNS = {
    "benchmarks/attack_precision.py": [(QUICK, rows_of(6))],
    "benchmarks/autoattack.py": [(QUICK, packages)],
    "benchmarks/corruptions.py": [((*ONE_THREAD, "--frost", "frost"), rows_of(19))],
    "benchmarks/fourier_heatmap.py": [(ONE_THREAD, heat_maps)],
    "benchmarks/gpu.py": [
        (("name", "--device", "cpu"), nothing),
        (("build", "--device", "cpu"), nothing),
        (("short", "--device", "cpu"), nothing),
        (("record", "--device", "cpu", "--work", "work", "--out", "gpu"), gpu_record),
    ],
    "benchmarks/load.py": [(QUICK, rows_of(1))],
    "benchmarks/minimal_perturbation.py": [(ONE_THREAD, rows_of(6))],
    "benchmarks/readme.py": [(("--check",), nothing)],
    "benchmarks/spectral.py": [((*ONE_THREAD, "--only", "ring_sum"), lambda: json.loads(Path("out.json").read_text()))],
    "benchmarks/train_for.py": [
        (("standard_tiny", "--minutes", "9", "--data", "none", "--model-dir", "new", "--out", "pieces",
          "--set", "epochs=1", "--set", "batch_size=16", "--set", "precision=32-true"), trained),
    ],
    "benchmarks/training.py": [(ONE_THREAD, rows_of(2))],
    "plugins/foolbox/boundary_spectrum.py": [
        (("standard_rn20", "pgd_at_rn20", "--attack", "fmn", "--images", "4", "--steps", "5", "--out", "spectrum"),
         figure),
    ],
}  # fmt: skip
RUN_ELSEWHERE = {"benchmarks/gpu.sh", "freqrob/formats.py"}  # test_benchmarks.py, test_formats.py
NEED_KERNELS = {"benchmarks/gpu.py", "benchmarks/spectral.py"}


def is_script(path):
    return path.suffix == ".sh" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")


def test_every_script_has_a_run():
    folders = [ROOT / name for name in ("benchmarks", "plugins", "freqrob", "tests")]
    paths = [path for folder in folders for kind in ("py", "sh") for path in folder.rglob(f"*.{kind}")]
    found = {path.relative_to(ROOT).as_posix() for path in paths if is_script(path)}
    tests = {name for name in found if name.startswith("tests/") and "/test_" in name}  # they run as processes too
    assert found - tests - DRIVERS == RUNS.keys() | RUN_ELSEWHERE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with photographs of ice and what a run on a GPU leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_images, "load_dataset", lambda name, split, *_, **__: two_colours_split(split))
    Path("frost").mkdir()
    for number in range(1, 6):
        ice = np.random.default_rng(number).integers(256, size=(200, 200, 3), dtype=np.uint8)
        Image.fromarray(ice).save(f"frost/frost{number}.png")
    Path("work").mkdir()
    Path("work/stages.tsv").write_text("build\tpassed\t3\n")
    return tmp_path


@pytest.fixture
def ascii_terminal(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


@pytest.fixture
def as_before():
    """What scripts set for their own process."""
    threads, dynamo = torch.get_num_threads(), torch._dynamo.config
    settings = {name: getattr(dynamo, name) for name in ("automatic_dynamic_shapes", "recompile_limit")}
    with warnings.catch_warnings(), dynamo.patch(settings):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("script", RUNS)
def test_a_script_runs(script, folder, ascii_terminal, as_before, monkeypatch):
    pytest.importorskip("foolbox")
    if script in NEED_KERNELS and not native.load():
        pytest.skip("no native kernels")
    before = {path: path.read_bytes() for path in records.RESULTS.rglob("*") if path.is_file()}
    for arguments, check in RUNS[script]:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert not done.value.code
        check()
    assert before == {path: path.read_bytes() for path in records.RESULTS.rglob("*") if path.is_file()}


@pytest.mark.parametrize("script", [name for name in RUNS if RUNS[name][0][0][:1] == ("--quick",)])
def test_a_script_refuses_what_it_cannot_write_before_it_measures(script, folder, monkeypatch, capsys):
    pytest.importorskip("foolbox")
    for arguments, message in (
        (("--quick",), "--quick needs --out, so that it replaces no record"),
        (("--quick", "--out", "work"), "error: out: work is a folder, expected a file"),
        (("--quick", "--out", "/proc/new/out.json"), "error: out: /proc/new cannot be used"),
    ):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert done.value.code == 2 and message in capsys.readouterr().err


def test_the_tables_are_written_where_they_belong(tmp_path, monkeypatch):
    text = readme.README.read_text()
    emptied = re.sub(r"(<!-- some models -->\n).*?(<!-- /some models -->)", r"\1\2", text, flags=re.DOTALL)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "refresh", lambda _folder: None)
    readme.README.write_text(emptied)
    assert [readme.main(arguments) for arguments in (["--check"], [], ["--check"])] == [1, 0, 0]
    assert readme.README.read_text() == text != emptied


@pytest.mark.slow  # Numba compiles Foolbox's attack
def test_minimal_perturbations_are_compared_with_foolbox_s():
    pytest.importorskip("foolbox")
    from benchmarks.minimal_perturbation import correct_images, rows

    network = load_model("pgd_at_rn20")
    images, labels = correct_images(network, sample_images(), 3, "cpu")
    found = list(rows(network, images, labels, 2, ["Linf"]))
    assert [row["attack"] for row in found] == ["foolbox", "freqrob", "freqrob, all steps", "fmn"]
    assert found[0]["compile_s"] > 0 and found[0]["times_as_fast"] == 1


def test_a_script_is_called_from_any_folder(tmp_path):
    """As a module and by its path, in a process of its own, with a pipe that nobody reads."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    reader, writer = os.pipe()
    os.close(reader)
    for command in (["-m", "benchmarks.readme", "--help"], [ROOT / "plugins/foolbox/boundary_spectrum.py", "-h"]):
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=environment, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE
        )
        assert (done.returncode, done.stderr) == (1, b"")
    os.close(writer)
