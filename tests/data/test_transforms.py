"""RandomBaSS as torchvision's transforms are used."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from freqrob.data.samples import sample_images
from freqrob.data.transforms import RandomBaSS
from freqrob.spectral.balance import bass


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_p_is_the_share_of_balanced_images():
    x = noise(400, 1, 8, 8)
    y = RandomBaSS(0.3, generator=torch.Generator().manual_seed(1))(x)
    balanced = (y != x).flatten(1).any(1)
    assert 0.2 < balanced.float().mean() < 0.4
    assert torch.equal(y[balanced], bass(x[balanced]))


@pytest.mark.parametrize("p", [0, 1])
def test_never_and_always(p):
    x = noise(4, 3, 16, 16)
    assert torch.equal(RandomBaSS(p)(x), bass(x) if p else x)


def test_one_image_and_grey_levels():
    x = (noise(3, 32, 32) * 255).to(torch.uint8)
    y = RandomBaSS(1.0)(x)
    assert y.dtype == torch.uint8 and torch.equal(y, bass(x))


def test_input_is_left_alone():
    x = noise(4, 3, 16, 16)
    before = x.clone()
    RandomBaSS(1.0)(x)
    assert torch.equal(x, before)


def test_empty_batch():
    assert RandomBaSS(0.5)(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_bad_probability(p):
    with pytest.raises(ValueError, match="p"):
        RandomBaSS(p)


def test_bad_shape():
    with pytest.raises(ValueError, match="images"):
        RandomBaSS()(torch.zeros(8, 8))


def test_labels_and_targets_pass_through():
    image, label, target = noise(3, 16, 16), 7, {"box": torch.ones(4)}
    found = RandomBaSS(1.0)(image, label, target)
    assert torch.equal(found[0], bass(image)) and found[1] == 7 and torch.equal(found[2]["box"], torch.ones(4))


def test_images_of_torchvision_stay_what_they_are():
    image = tv_tensors.Image((noise(3, 16, 16) * 255).to(torch.uint8))
    labels = torch.arange(3)
    found, same = RandomBaSS(1.0)(image, labels)
    assert type(found) is tv_tensors.Image and torch.equal(found, bass(image.as_subclass(torch.Tensor)))
    assert same is labels


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pil_images(mode):
    image = Image.fromarray(sample_images().images[0].movedim(0, -1).numpy()).convert(mode)
    found = RandomBaSS(1.0)(image)
    pixels = torch.from_numpy(np.array(image)).reshape(32, 32, -1).movedim(-1, 0)
    assert found.mode == mode and found.size == (32, 32)
    expected = bass(pixels).movedim(0, -1).numpy().reshape(np.array(image).shape)
    assert (np.array(found) == expected).all() and (np.array(found) != np.array(image)).any()


def test_images_of_one_sample_are_drawn_together():
    pair = [tv_tensors.Image(noise(3, 16, 16)), tv_tensors.Image(1 - noise(3, 16, 16))]
    draws = set()
    for seed in range(20):
        found = RandomBaSS(0.5, generator=torch.Generator().manual_seed(seed))(pair)
        draws.add(tuple(not torch.equal(new, old) for new, old in zip(found, pair, strict=True)))
    assert draws == {(True, True), (False, False)}


def test_works_in_a_composition():
    transform = v2.Compose([v2.RandomHorizontalFlip(p=0.0), RandomBaSS(1.0), v2.ToDtype(torch.float32, scale=True)])
    image = (noise(3, 16, 16) * 255).to(torch.uint8)
    torch.testing.assert_close(transform(image), bass(image).float() / 255)
    assert "p=1.0" in repr(transform)


@pytest.mark.parametrize("mode", ["P", "1", "LA", "RGBA", "CMYK", "I;16"])
def test_pil_images_whose_values_are_not_brightness_are_refused(mode):
    with pytest.raises(ValueError, match=f"^images: expected a PIL image of mode L or RGB, got {mode}; use convert"):
        RandomBaSS(1.0)(Image.new(mode, (8, 8)))
    assert RandomBaSS(1.0)(Image.new("L", (8, 8), 3)).mode == "L"
