"""What photographs go through before models of torchvision, timm and RobustBench."""

import pytest
import torch
from PIL import Image
from torch import nn

from freqrob.data.preprocessing import Preprocessing
from freqrob.models.front_ends import FrontEnded
from freqrob.models.preprocessing import preprocessing_of


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    pixels = torch.randint(256, (300, 410, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((820, 600))


def in_grey_levels(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * 255).round().byte()


@pytest.mark.parametrize("model, weights", [("resnet50", "IMAGENET1K_V2"), ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")])
def test_torchvisions_is_that_of_its_weights(photograph, model, weights):
    from torchvision import models

    preset = models.get_model_weights(model)[weights].transforms()
    found = Preprocessing.from_preset(preset)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    assert torch.equal(found(photograph), in_grey_levels(preset(photograph) * std + mean))


@pytest.mark.parametrize(
    "changes, shown",
    [
        ({"crop_pct": 0.95, "interpolation": "bicubic"}, "resize 235 (bicubic), center crop 224"),
        ({"crop_pct": 0.875, "interpolation": "bilinear"}, "resize 256 (bilinear), center crop 224"),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, "resize 224×224 (bicubic), center crop 224"),
    ],
)
def test_timms_is_that_of_its_transform(photograph, changes, shown):
    timm = pytest.importorskip("timm")

    settings = timm.models.PretrainedCfg(input_size=(3, 224, 224), **changes)
    found = Preprocessing.from_timm(settings)
    options = {"input_size": (3, 224, 224), "interpolation": settings.interpolation, "crop_pct": settings.crop_pct}
    transform = timm.data.create_transform(**options, crop_mode=settings.crop_mode, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(found(photograph), in_grey_levels(transform(photograph)))
    assert str(found) == shown


def test_timms_borders_and_other_shapes_are_not_guessed():
    timm = pytest.importorskip("timm")

    assert Preprocessing.from_timm(timm.models.PretrainedCfg(crop_mode="border")) is None
    assert Preprocessing.from_timm(timm.models.PretrainedCfg(input_size=(3, 224, 112))) is None


def test_transforms_that_change_no_pixel_are_none():
    from torchvision import transforms

    assert Preprocessing.from_transforms([transforms.ToTensor()]) is None


def test_a_grey_photograph_has_three_channels(photograph):
    found = Preprocessing(crop=(20, 30))(photograph.convert("L"))
    assert found.shape == (3, 20, 30) and torch.equal(found[0], found[2])


def test_it_is_found_in_wrappers():
    found = Preprocessing(256, 224)
    model = FrontEnded([], nn.DataParallel(FrontEnded([], nn.Identity(), found)))
    assert preprocessing_of(model) is preprocessing_of(nn.DataParallel(model)) is found
    assert preprocessing_of(FrontEnded([], nn.Identity())) is preprocessing_of(nn.Identity()) is None
    assert str(Preprocessing()) == "none"
