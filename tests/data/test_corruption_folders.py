"""ImageNet-C and Tiny-ImageNet-C as they are unpacked."""

import pytest
import torch
from PIL import Image
from torch import nn

from freqrob.data import Preprocessing
from freqrob.data.corruption_folders import load_corruption_folders
from freqrob.data.corruptions import SEVERITIES
from freqrob.data.photographs import imagenet_wnids
from freqrob.evaluation.corruptions import ALEXNET, CorruptionAccuracy, evaluate_corruptions
from freqrob.models.front_ends import FrontEnded
from tests.support.command_line import run

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
    assert evaluate_corruptions(MODEL, found, images=2).accuracies["fog"] == (1, 1, 0.5, 0.5, 0.5)
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
    with pytest.raises(ValueError, match=".*imagenet.*, got cifar10"):
        CorruptionAccuracy("cifar10", "natural", 10, None, False, alexnet).mce_to_alexnet()


def test_by_the_command_line(imagenet_c, tmp_path, monkeypatch):
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_, **__: MODEL)
    given = ["--dataset", "imagenet", "--data", imagenet_c, "--no-cache", "--out", tmp_path / "c.csv"]
    result = run("corruptions", "timm:any", *given)
    assert result.exit_code == 0, result.output
    assert "gaussian_noise" in (tmp_path / "c.csv").read_text()
    result = run("corruptions", "timm:any", *given, "--baseline", "alexnet")
    assert result.exit_code == 2 and "the published mCE is over 15 types" in result.output.replace("\n", " ")
