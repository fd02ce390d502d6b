"""`freqrob models` and `freqrob doctor`, through Typer's runner."""

import pytest

from freqrob.cli.models import _card_results
from freqrob.models.cards import Card
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


def test_models_lists_cards(model_dir):
    result = run("models", "--model-dir", model_dir)
    assert result.exit_code == 0
    assert "clean 91.2" in result.output and "10,000" in result.output and "tiny, cifar10, Linf" in result.output
    found = run("models", "bassmix*", "--model-dir", model_dir).output
    assert "bassmix_standard_tiny" in found and "│ standard_tiny" not in found


def test_accuracies_under_attack_have_their_radius():
    line = next(line for line in run("models", "pgd_at_rn20").output.splitlines() if "FGSM" in line)
    assert [cell.strip() for cell in line.split("│")[2:4]] == ["natural", "8/255"]
    results = [
        {"protocol": "natural", "attack": name, "eps": eps, "accuracy": 0.5, "images": 10}
        for name, eps in (("clean", 0), ("FGSM", 4 / 255), ("FGSM", 8 / 255))
    ]
    assert _card_results(Card("few", "tiny", results=results)) == [
        ("natural", "4/255", "clean 50.0, FGSM 50.0", "10"), ("natural", "8/255", "FGSM 50.0", "10"),
    ]  # fmt: skip


def test_models_without_a_match_says_how_to_get_one(model_dir):
    assert "freqrob train" in error_of("models", "nothing*", "--model-dir", model_dir)


def test_doctor_prints_what_it_found(monkeypatch):
    monkeypatch.setattr("freqrob.spectral.native.doctor", lambda rebuild: f"native kernels  rebuilt: {rebuild}")
    assert run("doctor", "--rebuild").output == "native kernels  rebuilt: True\n"
