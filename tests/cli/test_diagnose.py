"""`freqrob diagnose`, through Typer's runner and in two processes."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from freqrob import cli
from freqrob.cli.diagnose import _check_folders, _table, diagnostics_in_words
from freqrob.data.samples import CIFAR10_CLASSES, sample_images
from freqrob.diagnostics import (
    BandAccuracy,
    FourierHeatmap,
    HybridReliance,
    JacobianSpectrum,
    LossLandscape,
    MinimalPerturbationSpectrum,
    Sensitivity,
    get_diagnostic,
    list_diagnostics,
)
from freqrob.diagnostics.fourier_heatmap import under_a_wave
from freqrob.diagnostics.hybrid import reversal_in_words
from freqrob.diagnostics.minimal_perturbation import in_words
from freqrob.diagnostics.registry import number
from tests.support.measurements import PERTURBATIONS

NETWORK = """
import torch
from torch import nn

class Constant(nn.Module):
    def forward(self, images):
        return images.new_zeros(len(images), 10)

def net(outputs=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, outputs)).eval() if outputs else Constant()
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A wide terminal, an own cache, Foolbox's images for CIFAR-10, and a network in the working directory."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("freqrob.runtime.cache.usable_folder", lambda name: (tmp_path / "cache" / name, []))
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: sample_images())
    (tmp_path / "diagnosed_nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(cli.app, ["diagnose", *map(str, arguments)])


def test_measures_saves_and_shows(tmp_path):
    result = run("diagnosed_nets:net", "fgsm_rn20", "--only", "jacobian", "--only", "hybrid", "--out", "found")
    assert result.exit_code == 0, result.output
    assert "ln B_low" in result.output and "reversal frequency" in result.output and "minutes" in result.stderr
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"diagnosed_nets_net", "fgsm_rn20"}
    folder = tmp_path / "found" / "fgsm_rn20"
    jacobian, hybrid = JacobianSpectrum.load(folder), HybridReliance.load(folder)
    assert f"{jacobian.log_b_low:.2f}" in result.output and hybrid.images == len(sample_images())
    about = json.loads((folder / "jacobian.json").read_text())
    assert about["model"] == "fgsm_rn20" and about["source"] == "cifar10 test"
    assert about["command"].startswith("freqrob diagnose fgsm_rn20") and about["commit"] is not None
    assert f"jacobian: {jacobian.images} images, batch {jacobian.batch}\n" in result.output


def test_fewer_images():
    result = run("fgsm_rn20", "--only", "band_accuracy", "--images", 3, "--set", "band_accuracy.steps=1")
    assert result.exit_code == 0, result.output
    assert "band_accuracy: 3 images, width 5, ε = 8/255, steps 1, attacked 3\n" in result.output
    about = json.loads(Path("diagnosis/fgsm_rn20/band_accuracy.json").read_text())
    assert "--images 3" in about["command"]
    assert "images: expected an integer ≥ 1, got 0" in run("fgsm_rn20", "--images", 0).stderr


def test_no_model_takes_another_models_folder(tmp_path):
    result = run("a/b=w.pt", "a_b=w.pt", "--out", "found")
    assert result.exit_code == 2 and "a/b=w.pt and a_b=w.pt would both be written to found/a_b=w.pt" in result.output
    (tmp_path / "found" / "fgsm_rn20").mkdir(parents=True)
    for file, content in (("wandb.json", '{"model": {}}'), ("a.json", "{}"), ("b.json", '{"model": "fgsm/rn20"}')):
        (tmp_path / "found" / "fgsm_rn20" / file).write_text(content)
    (tmp_path / "found" / "fgsm_rn20" / "a.npz").write_text("")
    _check_folders({"fgsm_rn20": tmp_path / "found" / "fgsm_rn20"})  # none of them is of a measurement
    (tmp_path / "found" / "fgsm_rn20" / "b.npz").write_text("")
    result = run("fgsm_rn20", "--only", "jacobian", "--out", "found")
    assert result.exit_code == 2 and "fgsm_rn20 and fgsm/rn20 would both be written to found/fgsm_rn20" in result.output


def test_settings_of_one_diagnostic_are_taken_and_recorded():
    given = ["--only", "fourier_heatmap", "--set", "fourier_heatmap.images=6", "--set", "fourier_heatmap.every=16"]
    given += ["--set", "fourier_heatmap.layer=0"]
    result = run("diagnosed_nets:net", *given)
    assert result.exit_code == 0, result.output
    found = FourierHeatmap.load("diagnosis/diagnosed_nets_net", "fourier_heatmap_0")
    assert (found.images, found.every, found.layer) == (6, 16, "0")
    about = json.loads(Path("diagnosis/diagnosed_nets_net/fourier_heatmap_0.json").read_text())
    assert "--set fourier_heatmap.images=6 --set fourier_heatmap.every=16" in about["command"]


def test_a_second_run_finds_all_of_it_in_the_cache(monkeypatch):
    assert run("diagnosed_nets:net", "--only", "sensitivity").exit_code == 0
    monkeypatch.setattr(sys.modules["freqrob.diagnostics.sensitivity"], "input_gradient", None)
    result = run("diagnosed_nets:net", "--only", "sensitivity", "--out", "again")
    assert result.exit_code == 0, result.output
    assert Sensitivity.load("again/diagnosed_nets_net").images == len(sample_images())
    assert "diagnosed_nets:net: all results from earlier runs, cached in" in result.stderr


def test_without_the_cache_nothing_is_kept(tmp_path):
    assert run("diagnosed_nets:net", "--only", "sensitivity", "--no-cache").exit_code == 0
    assert not (tmp_path / "cache").exists()


def test_the_help_has_every_setting():
    described = {}
    for item in diagnostics_in_words().splitlines():
        described |= dict.fromkeys(re.findall(r"\*\*(\w+)\*\*", item), set(re.findall(r"`(\w+)`", item)))
    assert described == {
        name: get_diagnostic(name).hints.keys() - {"images", "batch_size"} for name in list_diagnostics()
    }
    shown = run("--help").output
    assert all(re.search(rf"\b{word}\b", shown) for word in set(described).union(*described.values()))


@pytest.mark.parametrize("measured", [0, 1])
def test_ctrl_c_says_how_to_go_on_and_where_from(monkeypatch, tmp_path, measured):
    for _ in range(measured):
        assert run("diagnosed_nets:net", "--only", "sensitivity").exit_code == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("freqrob.diagnostics.diagnose", stop)
    result = run("diagnosed_nets:net")
    assert result.exit_code == 130
    kept = f"Finished batches are cached in {tmp_path / 'cache' / 'results'}; to resume, run the same command"
    assert (kept if measured else "Stopped. Nothing is kept; to start over, run the same command") in result.stderr


def test_numbers_of_the_table():
    nan = float("nan")
    values = ([0.25, 0.5], [0.25, nan], [0.25], [nan, nan])
    assert [reversal_in_words(torch.tensor(each)) for each in values] == [
        "0.750 ± 0.354 (0.375)", "0.500 (0.250), 1 of 2 seeds", "0.500 (0.250)", "none",
    ]  # fmt: skip
    none = replace(PERTURBATIONS, success=PERTURBATIONS.success & False)
    shown = [column.shown(PERTURBATIONS) for column in get_diagnostic("minimal_perturbation").columns]
    assert shown == ["0.250", "(2.00 ± 1.00)/255, found for 3 of 4", "2.00/255"]
    l2 = replace(PERTURBATIONS, norm="L2")
    assert in_words(0.5, l2) == "0.500 in L2" and in_words(0.5, l2, 0.25) == "(0.500 ± 0.250) in L2"
    assert in_words(nan, none) == "none found" and in_words(float("inf"), l2) == "not reached"
    assert (number(0.25, ".0%"), number(0.25, ".2f"), number(nan, ".0%")) == ("25 %", "0.25", "none")
    shown = under_a_wave(torch.tensor(0.125), ""), under_a_wave(torch.tensor(2.5), "conv1")
    assert shown == ("12 % errors", "conv1 moves 2.5")


RINGS = torch.arange(23) / 32
MEASURED = {
    "jacobian": JacobianSpectrum(torch.ones(32, 17), 4.125, 128, 10),
    "hybrid": HybridReliance(RINGS, torch.rand(2, 23), torch.rand(2, 23), torch.tensor([0.25, 0.5]), 10, [0, 1]),
}


def shown(monkeypatch, capsys, columns, *names):
    monkeypatch.setenv("COLUMNS", str(columns))
    _table(dict.fromkeys(names, MEASURED))
    return capsys.readouterr().out


def test_a_narrow_terminal_loses_nothing_of_the_table(monkeypatch, capsys):
    names = ["standard_rn20", "robustbench:Rebuffi2021Fixing_70_16_cutmix_extra", "nets:wide?sizes=[4]", *"abc"]
    text = shown(monkeypatch, capsys, 80, *names, "Q" * 99)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert [text.count(name) for name in names[:3]] == [2] * 3, "a line a figure"
    assert text.count("4.12") == text.count("0.750 ± 0.354 (0.375)") == 7
    assert text.count("Q") == 2 * 99, "folded"


def test_models_are_across_where_there_is_room(monkeypatch, capsys):
    text = shown(monkeypatch, capsys, 100, "one", "nets:wide?sizes=[4]")
    assert [text.count(word) for word in ("one", "nets:wide?sizes=[4]", "ln B_low", "4.12")] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    "outputs, message",
    [
        ("5", "diagnosed_nets:net?outputs=5: model: expected at least 10 classes, because labels go up to 9, got 5"),
        ("0", "diagnosed_nets:net?outputs=0: model: its logits have no gradient with respect to the images"),
    ],
)
def test_a_model_that_cannot_be_measured_is_named(outputs, message):
    result = run("fgsm_rn20", f"diagnosed_nets:net?outputs={outputs}", "--out", "found")
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


def test_a_model_of_other_classes_is_refused():
    result = run("diagnosed_nets:net?outputs=11", "--only", "hybrid")
    assert result.exit_code == 2
    said = "diagnosed_nets:net?outputs=11: model: expected 10 classes like the data set, got 11; wrap the model"
    assert said in result.output


@pytest.mark.parametrize("arguments", [["--only", "hibrid"], ["--set", "hybrid=1"]])
def test_names_are_checked_before_models_and_data_are_loaded(monkeypatch, arguments):
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: pytest.fail("it looked for the data"))
    result = run("no_such_model", *arguments)
    assert result.exit_code == 2 and result.output.startswith(("Error: only: got 'hibrid'", "Error: --set: expected"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "long"], "preset: expected one of quick, full, got 'long'"),
        (["--only", "hibrid"], "only: got 'hibrid'"),
        (["--only", "hibrid"], "Nearest: hybrid"),
        (["--set", "hybrid=1"], "--set: expected NAME.KEY=VALUE, such as hybrid.seeds=[0,1], got 'hybrid=1'"),
        (["--set", "hybrid.seeds"], "--set: expected NAME.KEY=VALUE, such as"),
        (["--set", "jacobian"], "--set: expected NAME.KEY=VALUE, such as"),
        (["--set", "loss_landscape_high.points=4"], "loss_landscape_high: points: expected an odd"),
        (["--cache", "here", "--no-cache"], "cache: expected --cache or --no-cache, got both"),
        (["--set", "hybrid.seeds=three"], "hybrid: seeds: expected"),
    ],
)
def test_bad_settings_are_one_line(arguments, message):
    result = run("diagnosed_nets:net", *arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    """Under torchrun, on a data set that a module of the working directory puts in CIFAR-10's place."""
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.save((images, torch.arange(40) % 10), tmp_path / "images.pt")
    (tmp_path / "diagnose_here.py").write_text(
        "import torch, freqrob.data\n"
        "from freqrob.data.datasets import ImageSet\n"
        f"found = ImageSet(*torch.load('images.pt', weights_only=True), {CIFAR10_CLASSES!r})\n"
        "freqrob.data.load_dataset = lambda *_, **__: found\n"
        "from freqrob.cli import main\n"
        "main()\n"
    )
    shorter = ("fourier_heatmap.every=8", "loss_landscape_low.points=5", "loss_landscape_high.points=5")
    options = [word for setting in shorter for word in ("--set", setting)]
    command = ["diagnosed_nets:net", *options, "--batch-size", "7", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])

    def start(launcher, name, *more):
        environment = {**os.environ, "FREQROB_CACHE": str(tmp_path / name), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*launcher, "diagnose_here.py", "diagnose", *command, f"out-{name}", *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    refused = start(torchrun, "pair", "--set", "hybrid.frequencies=[0.3,0.1]")
    assert refused.returncode != 0 and "hybrid: frequencies: expected them ascending" in refused.stderr
    assert not (tmp_path / "out-pair").exists()
    for launcher, name in ((torchrun, "pair"), ([sys.executable], "alone")):
        done = start(launcher, name)
        assert done.returncode == 0, done.stderr
    folders = [tmp_path / f"out-{name}" / "diagnosed_nets_net" for name in ("pair", "alone")]
    kinds = (JacobianSpectrum, Sensitivity, HybridReliance, MinimalPerturbationSpectrum, BandAccuracy, FourierHeatmap)
    found = {kind.kind: kind for kind in kinds}
    found |= {f"loss_landscape_{half}": LossLandscape for half in ("low", "high")}
    assert {path.stem for path in folders[0].glob("*.json")} == found.keys()
    for name, kind in found.items():
        pair, alone = (kind.load(folder, name) for folder in folders)
        assert pair.scalars() == alone.scalars(), name
        assert all(torch.equal(value, alone.tensors()[key]) for key, value in pair.tensors().items()), name
    assert [json.loads(path.read_text())["from_cache"] for path in folders[0].glob("*.json")] == [False] * len(found)
    for kept in (tmp_path / "pair" / "results").glob("sensitivity-*"):
        kept.unlink()
    done = start(torchrun, "pair")
    again = {path.stem: json.loads(path.read_text())["from_cache"] for path in folders[0].glob("*.json")}
    assert again == {**dict.fromkeys(found, True), "sensitivity": False} and "from earlier runs" not in done.stderr
