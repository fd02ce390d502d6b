"""The command line, through Typer's runner."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from inspect import signature

import pytest
import torch
from typer.testing import CliRunner

from freqrob import __version__, cli
from freqrob.attacks import PGD, parse_attack
from freqrob.cli import progress
from freqrob.cli.evaluate import ATTACKS
from freqrob.cli.evaluate import PROTOCOLS as OFFERED
from freqrob.data import samples
from freqrob.data.datasets import ImageSet
from freqrob.evaluation import PROTOCOLS, evaluate
from freqrob.models import create_network, list_models
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.runtime.parameters import read_setting
from freqrob.training import Recipe, recipe_for, train

pytestmark = pytest.mark.usefixtures("tiny")
COMMANDS = (
    "demo", "train", "recipes", "evaluate", "corruptions", "diagnose", "report", "models", "export",
    "dataset corrupt", "dataset bass", "doctor",
)  # fmt: skip


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Evaluations neither read nor leave results in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("freqrob.runtime.cache.usable_folder", lambda name: (folder / name, []))
    return folder


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(*arguments):
    """The one line that a user sees."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def model_dir(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("standard_tiny", "bassmix_standard_tiny"):
        torch.manual_seed(len(name))
        results = [{"protocol": "natural", "attack": "clean", "images": 10000, "seed": 0, "accuracy": 0.9123}]
        save(
            folder / "cifar10" / "Linf" / f"{name}.safetensors",
            create_network("tiny").state_dict(),
            Card(name, "tiny", results=results if name == "standard_tiny" else []),
        )
    return folder


@pytest.fixture
def few_images(monkeypatch):
    """Four random images in place of CIFAR-10 and of Foolbox's samples."""
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = ImageSet(images, torch.tensor([0, 1, 2, 3]), samples.CIFAR10_CLASSES)
    monkeypatch.setattr("freqrob.data.load_dataset", lambda name, split, data, **_: found)
    monkeypatch.setattr("freqrob.data.samples.sample_images", lambda: found)
    return found


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"freqrob {__version__}\n")


def test_help_names_every_command():
    result = run("--help")
    assert result.exit_code == 0
    assert all(re.search(rf"│ {command.split()[0]} ", result.output) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches_by_example(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert re.search(rf"• freqrob {command}", result.output)


def test_help_does_not_wait_for_torch():
    code = "import sys, freqrob.cli; print({'torch', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_defaults_are_those_of_what_is_called():
    offered, training = signature(cli.train).parameters, signature(train).parameters
    recipe = {field.name for field in fields(Recipe)}
    assert all(offered[name].default is None for name in recipe & set(offered) - {"dataset", "threat_model"})
    for name in ("download", "accelerator", "compile", "checkpoint_minutes", "tensorboard"):
        assert offered[name].default == training[name].default, name
    given, measuring = signature(cli.evaluate).parameters, signature(evaluate).parameters
    assert all(given[name].default == measuring[name].default for name in ("batch_size", "seed"))
    assert OFFERED == PROTOCOLS and parse_attack(ATTACKS[-1]) == PGD()


def test_demo_writes_the_report_and_its_numbers(few_images, model_dir, tmp_path):
    result = run("demo", "--out", tmp_path / "report", "--model-dir", model_dir, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert "bassmix_standard_tiny" in result.output and "PGD-20 at ε 8/255" in result.output
    folder = tmp_path / "report"
    names = ["data", "figures", "index.html", "results.csv", "results.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    found = json.loads((folder / "results.json").read_text())
    assert found["command"] == f"freqrob demo --seed 5 --model-dir {model_dir}"
    models = {model["name"]: model for model in found["models"]}
    assert [name for name in models if name.endswith("_tiny")] == ["standard_tiny", "bassmix_standard_tiny"]
    assert set(list_models(dataset="cifar10", threat_model="Linf")) < set(models), "the shipped ones too"
    for model in models.values():
        assert set(model["measurements"]) == {
            "jacobian", "sensitivity", "hybrid", "band_accuracy", "fourier_heatmap",
        }  # fmt: skip
        here = [one for one in model["accuracies"] if one["from"] == ["data/accuracy.json"]]
        assert {(one["images"], one["seed"]) for one in here} == {(4, 5)} and len(here) == 6
    assert [one["accuracy"] for one in models["standard_tiny"]["accuracies"] if one["from"] == "card"] == [0.9123]
    page = (folder / "index.html").read_text()
    assert page.count("natural image") >= 4 and "on 4 CIFAR-10 images" in page


def test_demo_measures_the_real_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("freqrob.models.list_models", lambda **_: [])
    result = run("demo", "--out", tmp_path / "report")
    assert result.exit_code == 0 and "No model is installed" in result.output, result.output
    spectra = json.loads((tmp_path / "report" / "results.json").read_text())["spectra"]
    assert spectra["natural"]["alpha"] == pytest.approx(2.7, abs=0.05) and spectra["BaSS"]["alpha"] < 1
    assert "No model was measured" in (tmp_path / "report" / "index.html").read_text()


def test_demo_refuses_bad_input(few_images, model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in error_of("demo", "--out", tmp_path / "file" / "report")
    out = ["--out", tmp_path / "report"]
    assert "no folder" in error_of("demo", *out, "--model-dir", tmp_path / "none")
    assert "images: expected 1 to 4" in error_of("demo", *out, "--model-dir", model_dir, "--images", 0)


def test_demo_opens_all_models_before_it_measures_the_first(few_images, model_dir, tmp_path, monkeypatch):
    shutil.copytree(model_dir, tmp_path / "models")
    last = tmp_path / "models" / "cifar10" / "Linf" / "bassmix_standard_tiny.safetensors"
    last.write_bytes(b"cut short")
    monkeypatch.setattr("freqrob.diagnostics.jacobian_spectrum", lambda *_, **__: pytest.fail("a model was measured"))
    assert str(last) in error_of("demo", "--out", tmp_path / "report", "--model-dir", tmp_path / "models")


def test_demo_without_its_data_says_where_it_looked(tmp_path):
    assert "no intact CIFAR-10" in error_of("demo", "--out", tmp_path / "r", "--data", tmp_path / "none")


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


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A network of the user's own in the working directory, whose ``forward`` calls another module."""
    (tmp_path / "cached_nets.py").write_text(
        "import cached_helpers\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n    def forward(self, images):\n"
        "        return cached_helpers.prepare(super().forward(images.flatten(1)))\n\n\n"
        "def net(classes=10):\n    net = Net(3072, classes)\n    net.load_state_dict("
        "{name: weight.new_zeros(weight.shape) for name, weight in net.state_dict().items()})\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "cached_nets:net"
    forget_own_module()


def forget_own_module():
    for name in ("cached_nets", "cached_helpers"):
        sys.modules.pop(name, None)


def write_helpers(favourite):
    """Let the network answer with one class, as a process that is started after this has it."""
    with open("cached_helpers.py", "w") as file:
        file.write(f"def prepare(logits):\n    logits[:, {favourite}] += 2\n    return logits\n")
    forget_own_module()


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_of_a_users_own_code_nothing_is_cached_without_a_key(few_images, own_module, own_cache, command):
    asked = ["--protocol", "natural", "--attack", "clean"] if command == "evaluate" else ["--only", "hybrid"]
    for favourite in (0, 9):  # the labels are 0 to 3
        write_helpers(favourite)
        result = run(command, own_module, *asked)
        assert result.exit_code == 0, result.output
        reason = "because a change of the code could not be noticed (Net is a cached_nets.Net)"
        assert result.stderr.count(f"cached_nets:net: cache: nothing is cached, {reason}") == 1
        assert "--cache-key" in result.stderr and not list(own_cache.rglob("*.safetensors"))
        assert command == "diagnose" or ("25.0" if favourite == 0 else "0.0") in result.stdout
    for number in range(2):
        result = run(command, own_module, *asked, "--cache-key", "9")
        assert result.exit_code == 0 and "nothing is cached" not in result.output
        assert ("earlier runs" in result.stderr) == (number == 1)


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


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "no_such_model", "--out", "new/results.json"),
        ("diagnose", "standard_tiny", "no_such_model", "--out", "new/diagnosis"),
        ("export", "no_such_model", "--out", "new"),
        ("report", "no_such_run", "--out", "new/report"),
        ("demo", "--images", "0", "--out", "new"),
        ("dataset", "hybrid", "--frequency", "1", "--out", "new"),
    ],
)
def test_what_fails_leaves_no_folders(few_images, model_dir, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    models = ["--model-dir", model_dir] if command[0] in ("evaluate", "diagnose") else []
    assert run(*command, *models).exit_code == 2
    assert not list(tmp_path.iterdir())


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
    monkeypatch.setenv("RANK", "1")
    result = run(
        "evaluate", "standard_rn20", "--model-dir", model_dir, "--attack", "clean", "--out", tmp_path / "r.csv"
    )
    assert (result.exit_code, result.output) == (0, "") and not (tmp_path / "r.csv").exists()


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
        (["standard_tiny", "--seed", "-1"], "seed: expected an integer from 0 on"),
        (["standard_tiny", "--batch-size", "0"], "batch_size: expected an integer from 1 on"),
        (["standard_tiny", "--cache", "here", "--no-cache"], "cache: expected --cache or --no-cache"),
        (["standard_tiny", "--samples", "samples.json"], "samples: expected a name ending in .csv"),
        (["timm:no_such_model"], "no_such_model"),
        (["standard_tiny", "--eps", "big"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "1e999999999"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "+1E999999999/255"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "8/0"], "expected a number such as 8/255"),
        (["standard_tiny", "--eps", "nan"], "expected a number such as 8/255"),
        ([":five:"], ":five:"),
        (["standard_tiny", "--attack", "pgd-0"], "steps: expected an integer from 1 on"),
        (["standard_tiny", "--images", "0"], "images: expected an integer from 1 on, got 0"),
        (["standard_tiny", "--device", "abacus"], "device: cannot use 'abacus'"),
        (["standard_tiny", "--protocol", "autoattack"], "protocols: expected some of"),
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


def test_debug_shows_where_an_error_came_from(model_dir, tmp_path):
    result = run("--debug", "evaluate", "standard_tiny", "--model-dir", model_dir, "--data", tmp_path)
    assert isinstance(result.exception, FileNotFoundError)


def test_models_lists_cards(model_dir):
    result = run("models", "--model-dir", model_dir)
    assert result.exit_code == 0
    assert "clean 91.2" in result.output and "10,000" in result.output and "tiny, cifar10, Linf" in result.output
    found = run("models", "bassmix*", "--model-dir", model_dir).output
    assert "bassmix_standard_tiny" in found and "│ standard_tiny" not in found


def test_models_without_a_match_says_how_to_get_one(model_dir):
    assert "freqrob train" in error_of("models", "nothing*", "--model-dir", model_dir)


def test_train_hands_over_its_options_and_shows_its_log(monkeypatch, tmp_path):
    seen = {}

    def fake(recipe, data, model_dir, *, track, log, **options):
        seen.update(options, recipe=recipe, data=data, steps=list(track(range(5, 8), "pgd_at_tiny", 8, 128)))
        log("epoch 1  loss 2.3")
        return tmp_path / "weights"

    monkeypatch.setattr("freqrob.training.train", fake)
    options = ["--epochs", 2, "--lr", 0.05, "--seed", 7, "--gamma", 0.25, "--precision", "32-true", "--download"]
    options += ["--checkpoint-minutes", 3, "--tensorboard"]
    settings = ["--set", "steps=3", "--set", "eps=4/255", "--set", "schedule=cosine", "--set", "crop=null"]
    result = run("train", "bassmix_pgd_at_tiny", "--data", tmp_path, "--model-dir", tmp_path, *options, *settings)
    assert result.exit_code == 0, result.output
    assert seen["recipe"] == recipe_for(
        "bassmix_pgd_at_tiny", epochs=2, lr=0.05, seed=7, gamma=0.25, precision="32-true", schedule="cosine",
        crop=None, defense={"steps": 3, "eps": 4 / 255},
    )  # fmt: skip
    assert (seen["recipe"].schedule, seen["recipe"].crop) == ("cosine", None)
    assert (seen["data"], seen["download"], seen["steps"]) == (tmp_path, True, [5, 6, 7])
    assert (seen["checkpoint_minutes"], seen["tensorboard"], seen["compile"]) == (3, True, False)
    assert "epoch 1  loss 2.3" in result.output and str(tmp_path / "weights") in result.output


def test_a_second_rank_is_silent(monkeypatch, tmp_path):
    def fake(*_, track, log, **__):
        log("epoch 1")
        return list(track(range(3), "what", 3))

    monkeypatch.setattr("freqrob.training.train", fake)
    monkeypatch.setenv("RANK", "1")
    assert run("train", "standard_tiny").output.strip() == ""


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    def lines(seconds, quiet=False):
        monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
        with progress.progress_bars(quiet) as (track, log):
            for _ in track(range(5, 8), "pgd_at_tiny", 8, 128):
                pass
            log("epoch 1")
        return capsys.readouterr().err.splitlines()

    *steps, epoch = lines(0)
    assert [re.match(r"pgd_at_tiny (\d)/8 ", line)[1] for line in steps] == ["6", "7", "8"]
    assert re.fullmatch(r"pgd_at_tiny 8/8 [\d,]+ images/s 0:00:\d\d left 0:00:00", steps[-1])
    assert lines(3600) == [epoch] == ["epoch 1"] and lines(0, quiet=True) == []


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
    assert "No preset has this name" in shown
    assert "Nearest: pgd_at_rn50" in error_of("recipes", "pgd_at_rn51")


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
        (["pgd_at_tiny", "--set", "dataset=svhn"], "--set: dataset is an argument or option"),
        (["pgd_at_tiny", "--set", "flip=maybe"], "flip: expected true or false, got 'maybe'"),
        (["pgd_at_tiny", "--set", "lr=high"], "lr: expected a number, got 'high'"),
        (["pgd_at_tiny", "--dataset", "mnist"], "dataset: expected one of"),
        (["pgd_at_tiny", "--epochs", "0"], "epochs: expected an integer from 1 on"),
        (["pgd_at_tiny", "--checkpoint-minutes", "-1"], "--checkpoint-minutes"),
        (["pgd_at_tiny", "--data", "/nonexistent"], "no intact CIFAR-10"),
    ],
)
def test_train_refuses_bad_input(arguments, message, tmp_path):
    assert message in error_of("train", *arguments, "--model-dir", tmp_path)


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=3", 3),
        ("a=8/255", 8 / 255),
        ("a=kl", "kl"),
        ("a=true", True),
        ("a=False", False),
        ("a=None", None),
        ("a=1/0", "1/0"),
    ],
)
def test_settings_are_read_as_people_write_them(text, value):
    assert read_setting(text) == ("a", value)


def test_doctor_prints_what_it_found(monkeypatch):
    monkeypatch.setattr("freqrob.spectral.native.doctor", lambda rebuild: f"native kernels  rebuilt: {rebuild}")
    assert run("doctor", "--rebuild").output == "native kernels  rebuilt: True\n"
