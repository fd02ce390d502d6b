"""Profiles, the 80/20 split, the power law and the entropy: on images made to order and on real ones."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.spectral.longtail import fit_power_law, power_profile, radial_power, spectral_entropy, split
from freqrob.spectral.rings import RingMap


def power_law_images(alpha: float, size: int = 64, count: int = 4) -> torch.Tensor:
    """Images whose coefficients have power |f|^-alpha exactly, with random phases."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.rand(count, 1, size, size, generator=generator, dtype=torch.float64))
    fy, fx = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    radius = torch.hypot(fy[:, None], fx[None]).double()
    radius[0, 0] = 1
    return torch.fft.irfft2(spectrum / spectrum.abs() * radius ** (-alpha / 2)) + 0.5


def test_radial_power_obeys_parseval():
    x = torch.rand(3, 2, 31, 33, dtype=torch.float64)
    power = radial_power(x)
    assert power.shape == (3, 2, RingMap(31, 33).rings)
    assert torch.allclose(power.sum(-1), x.square().sum((-1, -2)) * 31 * 33)
    counts = RingMap(31, 33).counts
    assert torch.allclose(radial_power(x, mean=True) * counts, power)


def test_radial_power_of_one_wave():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    power = radial_power(wave.double())[0, 0]
    assert power[5] == pytest.approx(2 * 512**2)
    assert power.sum() - power[5] < 1e-6 * power[5]


def test_pixel_scale_and_grey_levels_agree():
    grey = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(radial_power(grey, pixel_scale=255), radial_power(grey.float()), rtol=1e-4)


def test_profile_leaves_dc_out():
    profile = power_profile(torch.rand(4, 3, 32, 32) + 10)
    assert profile[0] == 0
    assert profile.sum() == pytest.approx(1)
    assert (power_profile(torch.ones(1, 3, 8, 8)) == 0).all()
    assert (power_profile(torch.full((2, 3, 31, 33), 0.3)) == 0).all(), "rounding is no power"


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_power_law_is_found(alpha):
    fitted = fit_power_law(power_law_images(alpha))
    assert fitted.alpha == pytest.approx(alpha, abs=0.15)  # rings have a width
    assert fitted.r_squared > 0.99


def test_split_masks_and_images():
    x = power_law_images(2.0)
    parts = split(x)
    assert torch.equal(parts.low_mask, parts.rings.full <= parts.boundary)
    assert torch.equal(parts.high_mask, ~parts.low_mask)
    assert torch.allclose(parts.low_pass(x) + parts.high_pass(x), x)
    assert parts.share >= 0.8 > power_profile(x)[: parts.boundary].sum()
    low = radial_power(parts.low_pass(x))
    assert low[..., parts.boundary + 1 :].max() < 1e-12 * low.max()
    assert torch.allclose(parts.high_pass(x).mean((-1, -2)), torch.zeros(4, 1, dtype=torch.float64), atol=1e-9)


def test_split_units():
    wave = torch.cos(2 * math.pi * 4 * torch.arange(32) / 32).expand(1, 1, 32, 32).double()
    parts = split(wave)
    assert parts.boundary == 4
    assert parts.radius == 5 / 32
    assert parts.radius_fraction == pytest.approx(5 / math.hypot(16, 16))
    assert split(wave, rule="round").radius == 4.5 / 32


def test_the_whole_spectrum_ends_at_the_largest_radius():
    assert split(torch.rand(2, 3, 32, 32), share=1.0).radius_fraction == 1


def test_entropy():
    assert spectral_entropy(torch.tensor([9.0, 1, 1, 1, 1])) == pytest.approx(math.log(4))
    assert spectral_entropy(torch.tensor([9.0, 0, 5, 0])) == 0
    assert spectral_entropy(torch.zeros(3)) == 0
    assert spectral_entropy(torch.tensor([9.0, 1, 1, 8, 8]), k=2) == pytest.approx(math.log(2))
    assert spectral_entropy(torch.rand(5, 3, 23)).shape == (5, 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_profile(torch.zeros(0, 3, 8, 8)), "images"),
        (lambda: split(torch.ones(1, 1, 8, 8)), "images"),
        (lambda: split(torch.full((1, 1, 8, 8), math.nan)), "images"),
        (lambda: split(torch.rand(1, 1, 8, 8), share=0), "share"),
        (lambda: split(torch.rand(1, 1, 8, 8)).low_pass(torch.rand(1, 1, 9, 8)), "images"),
        (lambda: fit_power_law(torch.rand(1, 1, 1, 1)), "images"),
        (lambda: spectral_entropy(torch.rand(5), k=5), "k"),
        (lambda: spectral_entropy(-torch.rand(5)), "profile"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def natural_images(shared, golden_bass):
    """Real images at three resolutions, (N, 3, S, S) uint8 by S."""
    golden = golden_bass["images"][:60]
    tiny = sorted((shared / "data" / "tiny_imagenet_val").glob("*/*.JPEG"))[::5]
    large = sorted((shared / "data" / "imagenet_sample").glob("*.png"))
    return {32: _stack(golden), 64: _stack(map(_open, tiny)), 224: _stack(map(_open, large))}


def _open(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _stack(arrays):
    return torch.from_numpy(np.stack(list(arrays))).permute(0, 3, 1, 2)


def test_natural_images_have_a_long_tail(natural_images):
    """A power law near 2 to 3, and 80 % of the power inside the boundary that the authors draw at radius 4.98 of 32."""
    laws = {size: fit_power_law(images) for size, images in natural_images.items()}
    assert all(2 < law.alpha < 3.2 and law.r_squared > 0.95 for law in laws.values())
    fractions = {size: split(images).radius_fraction for size, images in natural_images.items()}
    assert split(natural_images[32]).boundary == 4
    assert fractions[32] == pytest.approx(0.22, abs=0.05)
    assert fractions[64] == pytest.approx(0.20, abs=0.05)
    assert fractions[224] < 0.12, "the paper's 20 % does not hold at ImageNet's resolution"
