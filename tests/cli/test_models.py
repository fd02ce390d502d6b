"""`freqrob models` and `freqrob doctor`, through Typer's runner."""

import pytest

from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


def test_models_lists_cards(model_dir):
    result = run("models", "--model-dir", model_dir)
    assert result.exit_code == 0
    assert "clean 91.2" in result.output and "10,000" in result.output and "tiny, cifar10, Linf" in result.output
    found = run("models", "bassmix*", "--model-dir", model_dir).output
    assert "bassmix_standard_tiny" in found and "│ standard_tiny" not in found


def test_models_without_a_match_says_how_to_get_one(model_dir):
    assert "freqrob train" in error_of("models", "nothing*", "--model-dir", model_dir)


def test_doctor_prints_what_it_found(monkeypatch):
    monkeypatch.setattr("freqrob.spectral.native.doctor", lambda rebuild: f"native kernels  rebuilt: {rebuild}")
    assert run("doctor", "--rebuild").output == "native kernels  rebuilt: True\n"
