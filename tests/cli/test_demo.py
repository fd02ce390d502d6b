"""`freqrob demo`, through Typer's runner."""

import json
import shutil

import pytest

from freqrob.models import list_models
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


def test_demo_writes_the_report_and_its_numbers(few_images, model_dir, tmp_path, monkeypatch):
    shipped = ["bass_pgd_at_rn20", "standard_rn20"]  # two of them: each takes a second
    listed = list_models
    monkeypatch.setattr(
        "freqrob.models.list_models",
        lambda **given: [name for name in listed(**given) if name in shipped or name.endswith("tiny")],
    )
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
    assert set(shipped) < set(models), "the shipped ones too"
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
