"""`freqrob dataset`, through Typer's runner."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data import balance, corruption_arrays, load_dataset
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, photographs
from freqrob.data.hybrid import hybrid_images, partners
from freqrob.diagnostics import CorruptionSpectrum, Spectrum, corruption_spectrum, spectrum

ABOUT = {"dataset": "cifar10", "bass": None}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(photographs, "PACKAGES", ())


def run(*arguments):
    return CliRunner().invoke(cli.app, ["dataset", *map(str, arguments)])


def error_of(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.output


class TestCorruptCommand:
    def test_writes_what_reading_finds(self, cifar, tmp_path):
        options = ["--data", cifar, "--out", tmp_path / "c", "--type", "fog", "--type", "saturate", "--seed", 2]
        result = run("corrupt", *options)
        assert result.exit_code == 0, result.output
        assert f"Wrote 2 of 2 types: {tmp_path / 'c'}" in result.output
        test, found = load_dataset("cifar10", "test", cifar), load_corruptions(tmp_path / "c")
        assert torch.equal(found.images("fog", 4), corrupt(test.images, "fog", 4, seed=2))
        assert torch.equal(found.labels, test.labels)
        expected = "freqrob dataset corrupt --dataset cifar10 --type fog --type saturate --seed 2"
        assert found.generated["command"] == expected
        assert "Wrote 0 of 2 types, 2 already there" in run("corrupt", *options).output

    def test_of_balanced_images(self, cifar, tmp_path):
        result = run("corrupt", "--data", cifar, "--out", tmp_path / "c", "--type", "contrast", "--bass")
        assert result.exit_code == 0, result.output
        found = load_corruptions(tmp_path / "c")
        balanced = balance(load_dataset("cifar10", "test", cifar)).images
        assert torch.equal(found.images("contrast", 1), corrupt(balanced, "contrast", 1))
        assert found.generated["bass"] == "amplitude" and found.generated["command"].startswith(
            "freqrob dataset corrupt --bass"
        )  # fmt: skip

    def test_leaves_frost_out_where_it_cannot_be_made_and_says_so(self, cifar, tmp_path, monkeypatch):
        two = {name: CORRUPTIONS[name] for name in ("frost", "contrast")}
        for module in ("corruptions", "corruption_arrays"):
            monkeypatch.setattr(f"freqrob.data.{module}.CORRUPTIONS", two)
        result = run("corrupt", "--data", cifar, "--out", tmp_path / "c")
        assert result.exit_code == 0, result.output
        assert "Left out: frost: needs photographs" in result.output and "over 1 of 2" in result.output
        assert load_corruptions(tmp_path / "c").types == ("contrast",)
        assert "--frost DIR" in error_of("corrupt", "--data", cifar, "--out", tmp_path / "d", "--type", "frost")
        assert "not all five" in error_of("corrupt", "--data", cifar, "--out", tmp_path / "d", "--frost", tmp_path)

    def test_stopped_says_how_to_go_on(self, cifar, tmp_path, monkeypatch):
        def stopped(images, name, *given, **how):
            if name == "fog":
                raise KeyboardInterrupt
            return corrupt(images, name, *given, **how)

        monkeypatch.setattr(corruption_arrays, "corrupt", stopped)
        command = ["corrupt", "--data", cifar, "--out", tmp_path / "c"]
        result = run(*command, "--type", "fog")
        assert result.exit_code == 130 and "Nothing is kept; to start over, run the same command" in result.output
        result = run(*command, "--type", "contrast", "--type", "fog")
        assert result.exit_code == 130 and f"are in {tmp_path / 'c'}; to resume, run the same command" in result.output

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--type", "rain"], "types: expected one of gaussian_noise"),
            (["--dataset", "svhn"], "dataset: expected one of cifar10, cifar100, imagenet, folder, got 'svhn'"),
            (["--seed", "-1"], "seed: expected an integer ≥ 0"),
            (["--type", "fog", "--device", "abacus"], "device: cannot use 'abacus'"),
            (["--type", "fog", "--data", "/nonexistent"], "no intact CIFAR-10"),
        ],
    )
    def test_refuses_bad_input(self, cifar, tmp_path, arguments, message):
        data = [] if "--data" in arguments else ["--data", cifar]
        assert message in error_of("corrupt", "--out", tmp_path / "c", *data, *arguments)

    @pytest.mark.parametrize("name", ["corrupt", "bass"])
    def test_help_teaches_by_example(self, name):
        shown = run(name, "--help")
        assert shown.exit_code == 0 and f"• freqrob dataset {name}" in shown.output


# CIFAR-B


def test_the_command_says_where_it_is(cifar, tmp_path):
    result = run("bass", "--data", cifar, "--out", tmp_path / "b", "--weighting", "power")
    assert result.exit_code == 0, result.output
    assert f"Wrote {tmp_path / 'b' / 'cifar-10-batches-py'}" in result.output
    record = json.loads((tmp_path / "b" / "cifar-10-batches-py" / "cifar_b.json").read_text())
    assert (record["weighting"], record["dataset"]) == ("power", "cifar10")
    assert record["command"] == "freqrob dataset bass --dataset cifar10 --weighting power"
    assert "already exists" in error_of("bass", "--data", cifar, "--out", tmp_path / "b")


# Hybrid images


def test_hybrid_images_are_those_that_models_are_measured_on(cifar, tmp_path):
    out = tmp_path / "hybrid"
    command = ["dataset", "hybrid", "--data", str(cifar), "--out", str(out), "--frequency", "0.1", "--frequency", "0.3"]
    result = CliRunner().invoke(cli.app, [*command, "--images", "20", "--seed", "3", "--png", "4", "--float"])
    assert result.exit_code == 0, result.output
    test = load_dataset("cifar10", "test", cifar)[:20]
    with np.load(out / "hybrid.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    other = partners(test.labels, 3)
    assert found["frequencies"].tolist() == [0.1, 0.3] and torch.equal(found["partners"], other)
    assert torch.equal(found["low_labels"], test.labels) and torch.equal(found["high_labels"], test.labels[other])
    assert (found["low_labels"] != found["high_labels"]).all()
    pixels = test.images / 255
    assert torch.equal(found["images"][1], hybrid_images(pixels, pixels[other], 0.3))
    about = json.loads((out / "hybrid.json").read_text())
    assert (about["images"], about["seed"], about["dtype"], about["dataset"]) == (20, 3, "float32", "cifar10")
    sheet = torch.from_numpy(np.array(Image.open(out / "hybrid.png"))).permute(2, 0, 1)
    assert sheet.shape == (3, 4 * 66 + 2, 4 * 66 + 2)
    assert (sheet[:, 2:66:2, 2:66:2].float() - test.images[0]).abs().max() <= 1, "the first is the low image"
    assert (sheet[:, 2:66:2, 200:264:2].float() - test.images[other[0]]).abs().max() <= 1, "the last is its partner"


def test_mixing_frequencies_are_written_as_fractions_too_up_to_the_corner(cifar, tmp_path):
    given = ["--frequency", "1/8", "--frequency", "0", "--frequency", str(0.5**0.5)]
    result = run("hybrid", "--data", cifar, "--out", tmp_path / "a", "--images", 10, "--float", *given)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "a" / "hybrid.npz") as file:
        assert file["frequencies"].tolist() == [0.125, 0, 0.5**0.5]
        assert np.allclose(file["images"][2], load_dataset("cifar10", "test", cifar)[:10].images / 255, atol=1e-6)
    assert "images: expected at most" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--images", 99999)
    assert "got 'low'" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--frequency", "low")
    assert "frequencies: expected" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--frequency", "1")


# Spectra


def test_the_spectra_of_a_data_set_and_its_corruptions(cifar, tmp_path):
    test = load_dataset("cifar10", "test", cifar)
    write_corruptions(test[:20], tmp_path / "c", ["contrast", "gaussian_noise"], about=ABOUT)
    command = ["dataset", "spectrum", "--data", str(cifar), "--bass", "--corruptions", str(tmp_path / "c")]
    result = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = {name: Spectrum.load(tmp_path / "out", name) for name in ("natural", "bass", "contrast", "gaussian_noise")}
    assert [one.images for one in found.values()] == [30, 30, 100, 100]
    assert found["natural"].log_b_low == spectrum(test.images).log_b_low
    assert found["bass"].log_b_low == spectrum(balance(test).images).log_b_low
    noise = CorruptionSpectrum.load(tmp_path / "out", "gaussian_noise_change")
    assert noise.images == 20 and noise.log_b_low.shape == (5,)
    assert f"{noise.mean_log_b_low:.2f}" in result.output and f"{found['bass'].alpha:.2f}" in result.output
    about = json.loads((tmp_path / "out" / "contrast.json").read_text())
    assert about["set"] == "contrast" and about["source"] == "cifar10 test" and "--bass" in about["command"]


def test_what_was_added_to_balanced_images_is_measured_against_them(cifar, tmp_path):
    test = load_dataset("cifar10", "test", cifar)
    write_corruptions(balance(test), tmp_path / "c", ["contrast"], about={**ABOUT, "bass": "amplitude"})
    command = ["dataset", "spectrum", "--data", str(cifar), "--corruptions", str(tmp_path / "c")]
    assert CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")]).exit_code == 0
    found = CorruptionSpectrum.load(tmp_path / "out", "contrast_change")
    arrays = load_corruptions(tmp_path / "c")
    twins = (arrays.images("contrast", severity) for severity in SEVERITIES)
    assert found.mean_log_b_low == corruption_spectrum(balance(test).images, twins).mean_log_b_low


def test_corruptions_of_other_images_are_an_error(cifar, few, tmp_path):
    write_corruptions(few, tmp_path / "c", ["contrast"], about=ABOUT)
    command = ["dataset", "spectrum", "--data", str(cifar), "--corruptions", str(tmp_path / "c")]
    result = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "are not corruptions of cifar10's test set" in result.output
