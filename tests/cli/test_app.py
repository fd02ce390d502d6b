"""The command line as a whole: its help, its defaults, its errors."""

import re
import subprocess
import sys
from dataclasses import fields
from inspect import signature

import pytest

from freqrob import __version__, cli
from freqrob.attacks import PGD, parse_attack
from freqrob.cli.evaluate import ATTACKS
from freqrob.cli.evaluate import PROTOCOLS as OFFERED
from freqrob.evaluation import PROTOCOLS, evaluate
from freqrob.training import Recipe, train
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")
COMMANDS = (
    "demo", "train", "recipes", "evaluate", "corruptions", "diagnose", "report", "models", "export",
    "dataset corrupt", "dataset bass", "doctor",
)  # fmt: skip


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


@pytest.mark.parametrize(
    "error, shown",
    [
        (MemoryError("Unable to allocate 2.06 GiB for an array"), "Error: Unable to allocate 2.06 GiB for an array"),
        (MemoryError(), "Error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "Error: DefaultCPUAllocator: can't allo"),
    ],
)
def test_too_little_memory_is_an_error_without_a_traceback(monkeypatch, error, shown):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("freqrob.data.load_dataset", fail)
    assert error_of("dataset", "spectrum").startswith(shown)
    assert run("--debug", "dataset", "spectrum").exception is error


def test_help_is_shown_without_docstrings():
    command = [sys.executable, "-OO", "-m", "freqrob", "diagnose", "--help"]
    assert "--preset" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_debug_shows_where_an_error_came_from(model_dir, tmp_path):
    result = run("--debug", "evaluate", "standard_tiny", "--model-dir", model_dir, "--data", tmp_path)
    assert isinstance(result.exception, FileNotFoundError)
