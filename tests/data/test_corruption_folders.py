"""ImageNet-C and Tiny-ImageNet-C as they are unpacked."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from freqrob.data import Preprocessing, load_photographs
from freqrob.data.corruption_folders import load_corruption_folders
from freqrob.data.corruptions import SEVERITIES, corrupt
from freqrob.data.photographs import imagenet_wnids
from freqrob.diagnostics import Spectrum, spectrum
from freqrob.evaluation.corruptions import ALEXNET, CorruptionAccuracy, evaluate_corruptions
from freqrob.models.front_ends import FrontEnded
from freqrob.spectral import bass
from tests.support.command_line import error_of, run

WNIDS = imagenet_wnids()[3:5]


class Brightness(nn.Module):
    """Takes bright images for the class 3, dark ones for 4."""

    def forward(self, images):
        logits = torch.zeros(len(images), 1000)
        logits[:, 3] = images.mean((1, 2, 3)) - 0.5
        logits[:, 4] = -logits[:, 3]
        return logits


MODEL = FrontEnded([], Brightness(), Preprocessing(500, 3))  # which corrupted images do not go through


@pytest.fixture
def imagenet_c(tmp_path):
    """Fog, in a folder of weather, that makes a bright image darker, and noise that does not."""
    for name, darker in (("weather/fog", 40), ("gaussian_noise", 0)):
        for severity in SEVERITIES:
            for number, (wnid, grey) in enumerate([(WNIDS[0], 240), (WNIDS[1], 20), (WNIDS[0], 200)]):
                path = tmp_path / "ImageNet-C" / name / str(severity) / wnid / f"ILSVRC2012_val_{number:08}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24), (max(0, grey - severity * darker),) * 3).save(path)
    return tmp_path


def test_are_read_as_they_are(imagenet_c):
    found = load_corruption_folders(imagenet_c)
    assert set(found.types) == {"fog", "gaussian_noise"} and found.labels.tolist() == [3, 4, 3]
    pixels = found.images("fog", 2)[torch.arange(3)]
    assert pixels.shape == (3, 3, 24, 24) and (pixels[:, 0, 0, 0] - torch.tensor([160, 0, 120])).abs().max() <= 1
    accuracy = evaluate_corruptions(MODEL, found)
    assert accuracy.accuracies["gaussian_noise"] == (1,) * 5
    assert accuracy.accuracies["fog"] == pytest.approx((1, 2 / 3, 1 / 3, 1 / 3, 1 / 3))
    assert evaluate_corruptions(MODEL, found, n_images=2).accuracies["fog"] == (1, 1, 0.5, 0.5, 0.5)
    assert load_corruption_folders(imagenet_c, "imagenet_grayscale").images("fog", 1)[0].shape == (1, 24, 24)


def test_that_are_missing_are_named(imagenet_c):
    with pytest.raises(FileNotFoundError, match="has no snow: .*zenodo.org/records/2235448"):
        load_corruption_folders(imagenet_c, types=["fog", "snow"])
    with pytest.raises(FileNotFoundError, match="has no types of corruptions"):
        load_corruption_folders(imagenet_c / "none")
    with pytest.raises(ValueError, match="2 folders of classes, expected 200"):
        load_corruption_folders(imagenet_c / "ImageNet-C", "tiny_imagenet")
    (file,) = (imagenet_c / "ImageNet-C" / "gaussian_noise" / "3" / WNIDS[1]).iterdir()
    file.unlink()
    found = load_corruption_folders(imagenet_c)
    with pytest.raises(FileNotFoundError, match=f"noise/3 .*different images, first .*{file.name}"):
        found.images("gaussian_noise", 3)


def test_mce_relative_to_alexnet():
    of = CorruptionAccuracy("imagenet", "natural", 10, None, False, dict.fromkeys(ALEXNET, (0.5,) * 5))
    assert of.mce_to_alexnet() == pytest.approx(sum(0.5 / error for error in ALEXNET.values()) / 15)
    alexnet = {name: (1 - error,) * 5 for name, error in ALEXNET.items()}
    assert CorruptionAccuracy("imagenet", "natural", 10, None, False, alexnet).mce_to_alexnet() == pytest.approx(1)
    with pytest.raises(ValueError, match="not measured: gaussian_noise, "):
        CorruptionAccuracy("imagenet", "natural", 10, None, False, {"fog": (0.5,) * 5}).mce_to_alexnet()
    with pytest.raises(ValueError, match="not on generated"):
        CorruptionAccuracy("imagenet", "natural", 10, None, True, alexnet).mce_to_alexnet()
    with pytest.raises(ValueError, match=".*imagenet.*, got cifar10"):
        CorruptionAccuracy("cifar10", "natural", 10, None, False, alexnet).mce_to_alexnet()


def test_by_the_command_line(imagenet_c, tmp_path, monkeypatch):
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_, **__: MODEL)
    given = ["--dataset", "imagenet", "--data", imagenet_c, "--no-cache", "--out", tmp_path / "c.csv"]
    result = run("corruptions", "timm:any", *given)
    assert result.exit_code == 0, result.output
    assert "gaussian_noise" in (tmp_path / "c.csv").read_text()
    (tmp_path / "classes.txt").write_text(f"{WNIDS[1]}\n{imagenet_wnids()[7]}")
    chosen = run("corruptions", "timm:any", *given, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "d.csv")
    assert chosen.exit_code == 0 and ",1," in (tmp_path / "d.csv").read_text().splitlines()[1], chosen.output
    (tmp_path / "classes.txt").write_text("n00000001")
    wrong = run("corruptions", "timm:any", *given, "--classes", tmp_path / "classes.txt").output
    assert "classes: expected" in wrong and "n00000001" in wrong
    result = run("corruptions", "timm:any", *given, "--baseline", "alexnet")
    assert result.exit_code == 2 and "the published mCE is over 15 types" in result.output.replace("\n", " ")


@pytest.fixture
def photographs(tmp_path):
    """Three photographs of cats and dogs, of several sizes."""
    for name, width in (("dog/b", 50), ("cat/a", 60), ("cat/c", 64)):
        path = tmp_path / "photographs" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = torch.linspace(20 if "dog" in name else 120, 80 if "dog" in name else 220, width).byte()
        Image.fromarray(grey.expand(48, 3, -1).permute(0, 2, 1).numpy().copy()).save(path)
    return tmp_path / "photographs"


CORRUPT = ["dataset", "corrupt", "--dataset", "folder", "--resize", "36", "--crop", "32", "--type", "contrast"]


class Cats(nn.Module):
    """Takes bright images for cats."""

    def forward(self, images):
        bright = images.mean((1, 2, 3)) - 0.4
        return torch.stack([bright, -bright], 1)


class TestOfPhotographs:
    @pytest.fixture
    def made(self, photographs, tmp_path):
        result = run(*CORRUPT, "--data", photographs, "--out", tmp_path / "c", "--type", "gaussian_noise")
        assert result.exit_code == 0 and "Wrote 2 of 2 types" in result.output, result.output
        return tmp_path / "c"

    def test_files_have_the_corrupted_pixels(self, made, photographs):
        clean = load_photographs(photographs, preprocessing=Preprocessing(36, 32))
        found = load_corruption_folders(made, "folder")
        assert found.types == ("gaussian_noise", "contrast") and found.classes == ("cat", "dog")
        assert found.labels.tolist() == clean.labels.tolist() == [0, 0, 1]
        for severity in SEVERITIES:
            ours, expected = found.images("contrast", severity), corrupt(clean.tensor, "contrast", severity)
            assert (ours[torch.arange(3)].int() - expected.int()).abs().float().mean() < 3, "JPEG"
        assert json.loads((made / "generated.json").read_text())["types"]["contrast"]["severities"][0] == {"kept": 0.75}

    def test_a_stopped_run_goes_on(self, made, photographs, tmp_path):
        (lost,) = (made / "contrast" / "4" / "dog").iterdir()
        content = lost.read_bytes()
        lost.unlink()
        manifest = json.loads((made / "generated.json").read_text())
        del manifest["types"]["contrast"]
        (made / "generated.json").write_text(json.dumps(manifest))
        again = run(*CORRUPT, "--data", photographs, "--out", made, "--type", "gaussian_noise")
        assert "Wrote 1 of 2 types, 1 already there" in again.output.replace("\n", " ")
        assert lost.read_bytes() == content

    def test_other_corruptions_are_not_mixed_in(self, made, photographs, tmp_path):
        assert "holds corruptions of seed" in error_of(*CORRUPT, "--data", photographs, "--out", made, "--seed", "1")
        (tmp_path / "foreign" / "fog").mkdir(parents=True)
        foreign = error_of(*CORRUPT, "--data", photographs, "--out", tmp_path / "foreign")
        assert "fog, which freqrob did not make" in foreign.replace("\n", " ")

    def test_models_are_measured_on_them(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_, **__: Cats())
        given = ["corruptions", "timm:any", "--dataset", "folder", "--data", made, "--no-cache"]
        given += ["--type", "contrast", "--out", tmp_path / "c.json"]
        result = run(*given)
        assert result.exit_code == 0 and "made by freqrob" in result.output.replace("\n", " "), result.output
        (measured,) = json.loads((tmp_path / "c.json").read_text())["results"]
        assert measured["accuracies"]["contrast"] == [1] * 5 and measured["images"] == 3
        classes = tmp_path / "classes.txt"
        classes.write_text("cat\nwolf\n")  # as the model's logits
        assert run(*given, "--classes", classes).exit_code == 0
        (measured,) = json.loads((tmp_path / "c.json").read_text())["results"]
        assert measured["images"] == 2
        alexnet = error_of(*given, "--classes", classes, "--baseline", "alexnet")
        assert "published errors are those on all classes" in alexnet.replace("\n", " ")

    def test_what_is_only_for_arrays(self, tmp_path):
        assert "bass: only for" in error_of(*CORRUPT, "--data", tmp_path, "--out", tmp_path / "c", "--bass")


def test_the_spectra_of_photographs(photographs, tmp_path):
    given = ["--dataset", "folder", "--data", photographs, "--resize", "36", "--crop", "32", "--out", tmp_path / "s"]
    result = run("dataset", "spectrum", *given, "--bass")
    assert result.exit_code == 0, result.output
    clean = load_photographs(photographs, preprocessing=Preprocessing(36, 32))
    for name, images in (("natural", clean.tensor), ("bass", bass(clean.tensor))):
        found = Spectrum.load(tmp_path / "s", name)
        assert found.images == 3 and found.alpha == pytest.approx(spectrum(images).alpha)
    assert json.loads((tmp_path / "s" / "bass.json").read_text())["source"] == "folder photographs"
    assert "corruptions: only of arrays" in error_of("dataset", "spectrum", *given, "--corruptions", tmp_path)
