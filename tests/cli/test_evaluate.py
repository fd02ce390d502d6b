"""`freqrob evaluate`, through Typer's runner."""

import csv
import json
import shutil
import sys
from importlib.util import find_spec

import pytest

from freqrob.evaluation import PROTOCOLS, evaluate
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.runtime.launched import Launch
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


def test_evaluate_shows_all_protocols_and_writes_both_formats(few_images, model_dir, tmp_path):
    outputs = ["--out", tmp_path / "r.json", "--out", tmp_path / "r.csv"]
    options = ["--model-dir", model_dir, "--images", 3, "--eps", "4/255", *outputs]
    options += ["--attack", "clean", "--attack", "fgsm", "--attack", "pgd-2"]
    result = run("evaluate", "standard_tiny", "bassmix_standard_tiny", *options)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in (*PROTOCOLS, "FGSM at ε 4/255", "PGD-2 at ε 4/255", "3 images"))
    found = json.loads((tmp_path / "r.json").read_text())
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert len(found["results"]) == len(rows) == 2 * 3 * 3
    assert [str(row["accuracy"]) for row in found["results"]] == [row["accuracy"] for row in rows]
    assert {row["images"] for row in rows} == {"3"} and {float(row["eps"]) for row in rows} == {0, 4 / 255}
    assert found["command"].startswith("freqrob evaluate standard_tiny bassmix_standard_tiny ")
    assert [row["step_size"] for row in found["results"][:3] if "step_size" in row] == [4 / 255, 1 / 255]
    hashes = {row["model"]: row["model_hash"] for row in found["results"]}
    assert len(set(hashes.values())) == 2 and {row["data_hash"] for row in rows} == {found["data_hash"]}


def test_evaluate_takes_one_protocol(few_images, model_dir):
    result = run("evaluate", "standard_tiny", "--model-dir", model_dir, "--protocol", "bass")
    assert result.exit_code == 0 and "natural" not in result.output


def test_evaluate_writes_each_image(few_images, model_dir, tmp_path):
    options = ["--model-dir", model_dir, "--protocol", "natural", "--attack", "clean", "--attack", "pgd-2"]
    written = ["--samples", tmp_path / "s.csv", "--out", tmp_path / "r.json"]
    assert run("evaluate", "standard_tiny", *options, *written).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert list(rows[0]) == ["model", "protocol", "attack", "index", "label", "correct"]
    assert [(row["attack"], row["index"], row["label"]) for row in rows] == [
        (attack, str(index), str(index)) for attack in ("clean", "PGD-2") for index in range(4)
    ]
    for result in json.loads((tmp_path / "r.json").read_text())["results"]:
        correct = [int(row["correct"]) for row in rows if row["attack"] == result["attack"]]
        assert sum(correct) / 4 == result["accuracy"]


def test_a_home_folder_that_the_shell_left_in_an_option_is_found(few_images, model_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ["--model-dir", model_dir, "--protocol", "natural", "--attack", "clean"]
    result = run("evaluate", "standard_tiny", *options, "--out=~/a/r.json", "--samples=~/s.csv", "--cache=~/c")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "s.csv"]
    error = error_of("evaluate", "standard_tiny", *options, "--out=~nobody-has-this-name/r.json")
    assert "out: ~nobody-has-this-name/r.json begins with an unknown home folder" in " ".join(error.split())


def test_evaluate_measures_nothing_twice(few_images, model_dir, monkeypatch, own_cache):
    options = ["--model-dir", model_dir, "--protocol", "natural", "--attack", "fgsm"]
    first = run("evaluate", "standard_tiny", *options)
    assert len(list((own_cache / "results").glob("*.safetensors"))) == 2, "clean and FGSM"
    measured_again = run("evaluate", "standard_tiny", *options, "--no-cache")
    more = run("evaluate", "standard_tiny", *options, "--attack", "pgd-1", "--out", own_cache / "r.json")
    assert "standard_tiny: natural FGSM from earlier runs, cached in" in more.stderr
    rows = json.loads((own_cache / "r.json").read_text())["results"]
    assert {row["attack"]: row["from_cache"] for row in rows} == {"FGSM": True, "PGD-1": False}
    monkeypatch.setattr("torch.nn.functional.linear", lambda *_: pytest.fail("the model was called"))
    again = run("evaluate", "standard_tiny", *options)
    assert first.exit_code == again.exit_code == 0 and first.stdout == again.stdout == measured_again.stdout
    said = f"standard_tiny: all results from earlier runs, cached in {own_cache / 'results'}; --no-cache measures again"
    assert said in again.stderr and "earlier runs" not in first.stderr + measured_again.stderr


def test_evaluate_keeps_results_where_it_is_told(few_images, model_dir, tmp_path, own_cache):
    options = ["--model-dir", model_dir, "--protocol", "natural", "--attack", "clean"]
    assert run("evaluate", "standard_tiny", *options, "--cache", tmp_path / "here").exit_code == 0
    assert len(list((tmp_path / "here").glob("clean-*.safetensors"))) == 1 and not list(own_cache.iterdir())


def test_interrupted_evaluation_says_how_to_go_on(few_images, model_dir, monkeypatch, own_cache):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["freqrob", "evaluate", "standard_tiny"])
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("freqrob.evaluation.evaluate", interrupted)
        result = run("evaluate", "standard_tiny", "--model-dir", model_dir)
    assert result.exit_code == 130 and "Nothing is kept; to start over, run the same command" in result.output
    assert run("evaluate", "standard_tiny", "--model-dir", model_dir, "--attack", "clean").exit_code == 0
    monkeypatch.setattr("freqrob.evaluation.evaluate", interrupted)
    result = run("evaluate", "standard_tiny", "--model-dir", model_dir)
    assert result.exit_code == 130
    assert f"Finished batches are cached in {own_cache / 'results'}; to resume" in result.output
    assert result.output.splitlines()[-1] == "  freqrob evaluate standard_tiny"


def test_interrupted_evaluation_shows_the_models_before(few_images, model_dir, monkeypatch):
    def interrupted_at_the_second(*arguments, **options):
        if measured:
            raise KeyboardInterrupt
        measured.append(evaluate(*arguments, **options))
        return measured[0]

    measured = []
    monkeypatch.setattr("freqrob.evaluation.evaluate", interrupted_at_the_second)
    result = run(
        "evaluate", "standard_tiny", "bassmix_standard_tiny", "--model-dir", model_dir, "--attack", "clean",
        "--protocol", "natural", "--no-cache",
    )  # fmt: skip
    assert result.exit_code == 130
    assert f"│ standard_tiny │ {100 * measured[0][0].accuracy:.1f}" in result.stdout
    assert "Nothing is kept; to start over, run the same command" in result.stderr


def test_evaluate_takes_the_norm_of_the_threat_model(few_images, model_dir, tmp_path):
    shutil.copytree(model_dir / "cifar10" / "Linf", tmp_path / "cifar10" / "L2")
    for path in (tmp_path / "cifar10" / "L2").glob("*.json"):
        path.write_text(path.read_text().replace('"Linf"', '"L2"'))
    options = ["--threat-model", "L2", "--protocol", "natural", "--attack", "pgd-2", "--out", tmp_path / "r.json"]
    result = run("evaluate", "standard_tiny", "--model-dir", tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert "PGD-2 at ε 0.5 in L2" in result.output
    (row,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert (row["norm"], row["eps"], row["step_size"]) == ("L2", 0.5, 0.125)


@pytest.mark.skipif(find_spec("pyautoattack") is None, reason="pyautoattack, which has Square, is not installed")
@pytest.mark.parametrize("p_value, shown", [(0.001, "gradient masking is suspected: "), (0.5, "no sign of gradient")])
def test_evaluate_checks_front_ends_for_masking(few_images, tiny, tmp_path, monkeypatch, p_value, shown):
    monkeypatch.setattr("freqrob.evaluation.masking.sign_test", lambda *_: p_value)
    card = Card("blur_standard_tiny", "tiny", front_ends=[{"name": "blur", "sigma": 1.0}])
    save(tmp_path / "cifar10" / "Linf" / "blur_standard_tiny.safetensors", create_network("tiny").state_dict(), card)
    options = ["--model-dir", tmp_path, "--attack", "clean", "--protocol", "natural", "--images", 3]
    options += ["--masking-queries", 4, "--masking-images", 2, "--out", tmp_path / "r.json"]
    result = run("evaluate", "blur_standard_tiny", *options)
    assert result.exit_code == 0, result.output
    assert f"blur_standard_tiny: {shown}" in result.output
    found = json.loads((tmp_path / "r.json").read_text())["masking"]["blur_standard_tiny"]
    assert found["masking_suspected"] == (p_value < 0.005) and found["white_box"]["images"] == 2
    assert [one["attack"] for one in found["comparisons"]] == ["Square-4", "transferred PGD-20"]
    assert shown not in run("evaluate", "blur_standard_tiny", *options, "--masking-images", 0).output


def test_evaluate_names_the_model_in_a_warning(few_images, model_dir, monkeypatch):
    from torch import nn

    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(1))
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_: network)
    result = run("evaluate", "my.zoo:net", "--protocol", "natural")
    assert result.exit_code == 0, result.output
    assert result.output.count("my.zoo:net: model: it returns probabilities") == 1


def test_a_second_rank_evaluates_in_silence(few_images, model_dir, monkeypatch, tmp_path):
    monkeypatch.setattr("freqrob.cli.printing.launched", lambda: Launch(1, 2, 1, 2))
    result = run(
        "evaluate", "standard_rn20", "--model-dir", model_dir, "--attack", "clean", "--out", tmp_path / "r.csv"
    )
    assert (result.exit_code, result.output) == (0, "") and not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize("variables", [{"RANK": "16"}, {"RANK": "high"}, {"SLURM_PROCID": "3"}, {"WORLD_SIZE": "2"}])
def test_variables_that_say_nothing_about_a_launch_change_nothing(
    few_images, model_dir, monkeypatch, tmp_path, variables
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = ["--model-dir", model_dir, "--protocol", "natural", "--attack", "clean", "--out", tmp_path / "r.csv"]
    result = run("evaluate", "standard_tiny", *options)
    assert result.exit_code == 0 and "Wrote" in result.output and (tmp_path / "r.csv").is_file()


def test_evaluate_says_when_a_model_is_the_one_that_was_shipped(few_images, model_dir):
    shown = run("evaluate", "standard_rn20", "standard_tiny", "--model-dir", model_dir, "--images", 1)
    assert shown.exit_code == 0, shown.output
    assert f"standard_rn20: not in {model_dir}; using the model shipped with freqrob" in shown.output
    assert "standard_tiny: none" not in shown.output


def test_evaluate_keeps_results_in_the_card(few_images, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "models")
    options = ["--model-dir", tmp_path / "models", "--attack", "clean", "--attack", "pgd-1", "--card"]
    for images in (2, 3, 3):
        assert run("evaluate", "standard_tiny", *options, "--images", images).exit_code == 0
    card = Card.read(tmp_path / "models" / "cifar10" / "Linf" / "standard_tiny.json")
    counts = [result["images"] for result in card.results if result["attack"] == "PGD-1"]
    assert counts == [2] * 3 + [3] * 3, "once for each protocol; a repetition replaces"
    clean = [result for result in card.results if result["attack"] == "clean"]
    assert len(clean) == 1 + 2 * 3, "of 10,000 images as before"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such_model"], "no_such_model"),
        (["standard_tiny", "--eps", "-8/255"], "eps: expected pixels in [0, 1]"),
        (["standard_tiny", "--norm", "L1"], "norm: expected one of Linf, L2"),
        (["standard_tiny", "--attack", "cw"], "attack: got 'cw', expected one such as clean, pgd-20"),
        (["standard_tiny", "--seed", "-1"], "seed: expected an integer ≥ 0"),
        (["standard_tiny", "--batch-size", "0"], "batch_size: expected an integer ≥ 1"),
        (["standard_tiny", "--cache", "here", "--no-cache"], "cache: expected --cache or --no-cache"),
        (["standard_tiny", "--samples", "samples.json"], "samples: expected a name ending in .csv"),
        (["timm:no_such_model"], "no_such_model"),
        (["standard_tiny", "--eps", "big"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "1e999999999"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "+1E999999999/255"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "8/0"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "nan"], "expected a number such as 8/255"),
        ([":five:"], ":five:"),
        (["standard_tiny", "--attack", "pgd-0"], "steps: expected an integer ≥ 1"),
        (["standard_tiny", "--images", "0"], "images: expected an integer ≥ 1, got 0"),
        (["standard_tiny", "--device", "abacus"], "device: cannot use 'abacus'"),
        (["standard_tiny", "--protocol", "autoattack"], "protocols: expected one of"),
        (["standard_tiny", "--out", "results.txt"], "ending in .json or .csv"),
    ],
)
def test_evaluate_refuses_bad_input(few_images, model_dir, arguments, message):
    assert message in error_of("evaluate", *arguments, "--model-dir", model_dir)


def test_evaluate_without_data_says_where_it_looked(model_dir, tmp_path):
    message = error_of("evaluate", "standard_tiny", "--model-dir", model_dir, "--data", tmp_path)
    assert "no intact CIFAR-10" in message and str(tmp_path) in message


def test_evaluate_names_a_damaged_checkpoint(few_images, model_dir, tmp_path):
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "standard_tiny.safetensors").write_bytes(b"cut short")
    assert "not an intact safetensors file" in error_of("evaluate", "standard_tiny", "--model-dir", tmp_path)
