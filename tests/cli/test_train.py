"""`freqrob train` and `freqrob recipes`, through Typer's runner."""

import shutil
import sys

import pytest

from freqrob.runtime.launched import Launch
from freqrob.training import recipe_for
from freqrob.training.cost import StepCost
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


def test_train_hands_over_its_options_and_shows_its_log(monkeypatch, tmp_path):
    seen = {}

    def fake(recipe, data_dir, model_dir, *, progress, log, **options):
        seen.update(options, recipe=recipe, data_dir=data_dir, steps=list(progress(range(5, 8), "run", 8, 1024)))
        log("epoch 1  loss 2.3")
        return tmp_path / "weights"

    monkeypatch.setattr("freqrob.training.train", fake)
    options = ["--epochs", 2, "--lr", 0.05, "--seed", 7, "--gamma", 0.25, "--precision", "32-true", "--download"]
    options += ["--checkpoint-minutes", 3, "--tensorboard", "--workers", 3, "--from", "standard_tiny"]
    settings = ["--set", "steps=3", "--set", "eps=4/255", "--set", "schedule=cosine", "--set", "crop=null"]
    result = run("train", "bassmix_pgd_at_tiny", "--data", tmp_path, "--model-dir", tmp_path, *options, *settings)
    assert result.exit_code == 0, result.output
    assert seen["recipe"] == recipe_for(
        "bassmix_pgd_at_tiny", epochs=2, lr=0.05, seed=7, gamma=0.25, precision="32-true", schedule="cosine",
        crop=None, initial_weights="standard_tiny", defense={"steps": 3, "eps": 4 / 255},
    )  # fmt: skip
    assert (seen["recipe"].schedule, seen["recipe"].crop) == ("cosine", None)
    assert (seen["data_dir"], seen["download"], seen["steps"]) == (tmp_path, True, [5, 6, 7])
    assert (seen["data"], seen["workers"]) == (None, 3)
    assert (seen["checkpoint_minutes"], seen["tensorboard"], seen["compile"]) == (3, True, False)
    assert "epoch 1  loss 2.3" in result.output and str(tmp_path / "weights") in result.output


def test_a_second_rank_is_silent(monkeypatch, tmp_path):
    def fake(*_, progress, log, **__):
        log("epoch 1")
        return list(progress(range(3), "what", 3))

    monkeypatch.setattr("freqrob.training.train", fake)
    monkeypatch.setattr("freqrob.cli.printing.launched", lambda: Launch(1, 2, 1, 2))
    assert run("train", "standard_tiny").output.strip() == ""


def test_recipes_are_listed_with_their_source():
    shown = " ".join(run("recipes", "bass*").output.split())
    assert "bass_pgd_at_wrn34" in shown and "Lin et al. 2023" in shown and "jafr_prn18" not in shown
    one = " ".join(run("recipes", "bass_pgd_at_rn18").output.split())
    assert "defence step_size │ 2/255" in one and "milestones" in one and "Table 1" in one
    assert "no recipe matches" in error_of("recipes", "nothing*")
    assert "dataset: expected one of cifar10" in error_of("recipes", "--dataset", "mnist")


def test_recipes_without_a_preset_are_shown_too():
    shown = " ".join(run("recipes", "pgd_at_rn50", "--dataset", "svhn").output.split())
    assert "pgd_at_rn50 on svhn" in shown and "milestones │ [100, 105]" in shown and "defence steps │ 10" in shown
    assert "no paper or preset gives settings for pgd_at_rn50 on svhn; its defaults are those of pgd_at_rn18" in shown
    assert "Nearest: pgd_at_rn50" in error_of("recipes", "pgd_at_rn51")


def test_the_cost_of_a_recipe_is_estimated(monkeypatch):
    monkeypatch.setattr("freqrob.training.cost.step_cost", lambda *_: StepCost(2.0, None))
    shown = " ".join(run("recipes", "standard_rn20", "--cost").output.split())
    assert "has 3.1e+10 flops and takes 2 s on this" in shown and ": 4.33 h for 20 epochs" in shown
    a100 = float(shown.partition(" h on one A100")[0].split()[-1])
    assert a100 == pytest.approx(3.1e10 * 7800 / (0.3 * 312e12) / 3600, rel=0.01)
    assert "pattern: expected the name of one recipe for --cost, got 'bass*'" in error_of("recipes", "bass*", "--cost")


@pytest.fixture
def interrupted(monkeypatch):
    def fake(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("freqrob.training.train", fake)
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "program, shown",
    [
        ("/on/path/freqrob", "freqrob"),
        (".venv/bin/freqrob", ".venv/bin/freqrob"),
        ("/site-packages/freqrob/__main__.py", f"{sys.executable} -m freqrob"),
    ],
)
def test_interrupted_training_says_how_to_go_on(interrupted, monkeypatch, tmp_path, program, shown):
    monkeypatch.setattr(shutil, "which", lambda name: f"/on/path/{name}")
    monkeypatch.setattr(sys, "argv", [program, "train", "standard_tiny", "--data", "my data"])
    monkeypatch.chdir(tmp_path)
    result = run("train", "standard_tiny", "--data", "my data")
    assert result.exit_code == 130 and "Nothing is kept; to start over, run the same command:" in result.output
    checkpoint = tmp_path / "models" / "cifar10" / "Linf" / "standard_tiny" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    result = run("train", "standard_tiny", "--data", "my data")
    assert result.exit_code == 130 and "A checkpoint is kept; to resume, run the same command:" in result.output
    assert result.output.splitlines()[-1] == f"  {shown} train standard_tiny --data 'my data'"


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_interrupted_training_does_not_know_what_launched_it(interrupted, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    assert run("train", "standard_tiny").output.splitlines()[-1].endswith("to start over, run the same command.")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pgd_rn20"], "pgd_at_rn20"),
        (["pgd_at_tiny", "--set", "steps"], "--set: expected KEY=VALUE"),
        (["pgd_at_tiny", "--set", "temperature=2"], "pgd_at_tiny has no setting temperature, expected any of epochs,"),
        (["pgd_at_tiny", "--set", "step=2"], "Nearest: steps"),
        (["standard_tiny", "--set", "epoch=2"], "Nearest: epochs"),
        (["pgd_at_tiny", "--set", "dataset=svhn"], "--set: dataset has its own argument or option"),
        (
            ["pgd_at_tiny", "--batch-size", "8", "--set", "batch_size=9"],
            "--set: batch_size is also set by --batch-size",
        ),
        (["pgd_at_tiny", "--set", "flip=maybe"], "flip: expected true or false, got 'maybe'"),
        (["pgd_at_tiny", "--set", "lr=high"], "lr: expected a positive number, got 'high'"),
        (["pgd_at_tiny", "--dataset", "mnist"], "dataset: expected one of"),
        (["pgd_at_tiny", "--epochs", "0"], "epochs: expected an integer ≥ 1"),
        (["pgd_at_tiny", "--checkpoint-minutes", "-1"], "--checkpoint-minutes"),
        (["pgd_at_tiny", "--data", "/nonexistent"], "no intact CIFAR-10"),
    ],
)
def test_train_refuses_bad_input(arguments, message, tmp_path):
    assert message in error_of("train", *arguments, "--model-dir", tmp_path)
