"""`freqrob reproduce`, through Typer's runner."""

import json
import re
from importlib import import_module

import pytest

from freqrob.data.samples import sample_images
from freqrob.reproduction import SCALES, Lab, get_experiment, list_experiments
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("wide_terminal", "own_cache")


@pytest.fixture
def few(monkeypatch):
    """Twenty images as CIFAR-10's test set."""
    monkeypatch.setattr("freqrob.reproduction.lab.load_dataset", lambda *_arguments, **_options: sample_images())


def test_without_a_name_every_experiment_is_listed(table1, tmp_path):
    result = run("reproduce", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in list_experiments())
    assert "2 of 2" in result.output and "0 of 3" in result.output and "2 not measured" in result.output


def test_a_dry_run_without_a_name_adds_hours_of_training(table1, tmp_path, monkeypatch):
    module = import_module("freqrob.reproduction.experiment")  # its package has a function of this name
    table4, lab = get_experiment("chan2022:table4"), Lab(SCALES["rn20"], model_dir=tmp_path)
    monkeypatch.setattr(module, "all_experiments", lambda: iter([table4]))
    monkeypatch.setattr("freqrob.reproduction.lab.Lab.training_hours", lambda _lab, _subject: 1.25)
    missing = sum(not lab.has_model(subject) for subject in table4.subjects_at(lab.scale))
    result = run("reproduce", "--dry-run", "--out", tmp_path, "--model-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "hours to train" in result.output and f" {1.25 * missing:.2g} " in result.output


def test_a_damaged_record_does_not_stop_the_list(table1, tmp_path):
    record = tmp_path / "doe2026/table1/rn20/result.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    result = run("reproduce", "--out", tmp_path)
    assert result.exit_code == 0 and "lin2023:table1" in result.output
    assert "result.json" in result.output and "doe2026:table1 counts as not measured" in result.output
    assert str(record) in error_of("reproduce", "doe2026:table1", "--out", tmp_path).replace("\n", "")


def test_an_experiment_prints_numbers_beside_the_papers_and_writes_them(table1, few, tmp_path):
    result = run("reproduce", "doe2026:table1", "--out", tmp_path / "out", "--model-dir", tmp_path, "--images", 10)
    assert result.exit_code == 0, result.output
    assert "/ 83.5" in result.output and "PGD-AT is more robust" in result.output
    assert "- images_at_most: 10\n" in result.output, "the conditions of the numbers"
    record = json.loads((tmp_path / "out/doe2026/table1/rn20/result.json").read_text())
    assert record["command"] == "freqrob reproduce doe2026:table1 --scale rn20 --images 10 --seed 0"
    assert {row["conditions"]["images_at_most"] for row in record["rows"]} == {10}
    assert "PGD-AT is more robust" in (tmp_path / "out/summary.md").read_text()
    assert f"Wrote {tmp_path / 'out/summary.md'}" in result.output.replace("\n", "")


def test_a_dry_run_shows_the_plan_and_writes_nothing(table1, tmp_path, monkeypatch):
    monkeypatch.setattr("freqrob.reproduction.lab.Lab.training_hours", lambda _lab, _subject: 1.25)
    options = ["--scale", "paper", "--dry-run", "--out", tmp_path / "out", "--model-dir", tmp_path]
    result = run("reproduce", "doe2026:table1", *options, "--data", "my data", "--images", 20)
    assert result.exit_code == 0, result.output
    assert "freqrob train pgd_at_wrn34" in result.output and "About 3.75 hours of training" in result.output
    assert "--data 'my data'" in result.output and "images at most: 20" in result.output
    assert not (tmp_path / "out").exists()


def test_a_kind_of_measurement_takes_its_own_number_of_images(tmp_path):
    options = ["--images", "autoattack=7", "--images", "pgd-50-10=9", "--images", "50"]
    result = run("reproduce", "chan2022:table7", "--dry-run", "--no-train", *options, "--model-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(r"images: CW 9, AutoAttack 7\b", result.output), result.output
    assert "images at most: 50" in result.output


def test_rows_whose_data_are_missing_are_named(table1, tmp_path):
    result = run("reproduce", "doe2026:table1", "--out", tmp_path / "out", "--data", tmp_path / "nowhere")
    assert result.exit_code == 0, result.output
    assert "not measured: PGD-AT, ResNet-18" in result.output and "nowhere" in result.output


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["doe2026:table2"], "doe2026:table1"),
        (["doe2026:table1", "--scale", "large"], "paper"),
        (["doe2026:table1", "--images", "0"], "images"),
        (["doe2026:table1", "--images", "autoatack=9"], "autoattack"),
        (["doe2026:table1", "--images", "autoattack=x"], "autoattack=x"),
        (["doe2026:table1", "--seed", "-1"], "seed"),
        (["doe2026:table1", "--models", "standard_rn20"], "ROW=MODEL"),
    ],
)
def test_wrong_arguments_are_named(table1, few, tmp_path, arguments, words):
    assert words in error_of("reproduce", *arguments, "--out", tmp_path)
