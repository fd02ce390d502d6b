"""Profiles, the 80/20 split, the power law and the entropy: on images made to order and on real ones."""

import doctest
import math

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.spectral import longtail
from freqrob.spectral.balance import bass
from freqrob.spectral.longtail import (
    fit_power_law,
    power_law_entropy,
    power_law_normalizer,
    power_profile,
    radial_power,
    spectral_entropy,
    split,
    total_spectral_entropy,
)
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


def test_entropy_of_each_band():
    """Against Sec. 3.3.1 of Lin et al., H_k = −π_k log π_k, transcribed."""
    profile = torch.rand(5, 3, 23, dtype=torch.float64)
    found = spectral_entropy(profile)
    assert found.shape == (5, 3, 23) and (found[..., 0] == 0).all()
    pi = profile[2, 1, 1:] / profile[2, 1, 1:].sum()
    assert torch.allclose(found[2, 1, 1:], -pi * pi.log())
    assert spectral_entropy(torch.tensor([9.0, 1, 1, 8, 8]))[1].item() == pytest.approx(math.log(18) / 18)
    assert (spectral_entropy(torch.tensor([9.0, 0, 5, 0])) == 0).all()
    assert (spectral_entropy(torch.zeros(3)) == 0).all()
    assert not spectral_entropy(torch.tensor([math.nan, 1, 1])).isnan().any(), "DC takes no part"


def test_total_entropy():
    assert total_spectral_entropy(torch.tensor([9.0, 1, 1, 1, 1])) == pytest.approx(math.log(4))
    assert total_spectral_entropy(torch.tensor([9.0, 0, 5, 0])) == 0
    assert total_spectral_entropy(torch.rand(5, 3, 23)).shape == (5, 3)


INTERVALS = [(0.5, 1, 22), (1.0, 1, 22), (1.5, 1, 45), (2.75, 1, 22), (2.75, 2, 158), (3.2, 0.3, 9)]


@pytest.mark.parametrize("alpha, low, high", INTERVALS)
def test_theorem_1_as_printed(alpha, low, high):
    """H_k = (α A_α log k + H(A(α))) · k^−α, transcribed, and −p log p of a density that integrates to 1."""
    k = torch.linspace(low, high, 200_001, dtype=torch.float64)
    a = 1 / math.log(high / low) if alpha == 1 else (1 - alpha) * (high ** (1 - alpha) - low ** (1 - alpha)) ** -1
    printed = (alpha * a * torch.log(k) + -a * math.log(a)) * k**-alpha
    density = power_law_normalizer(alpha, low, high) * k**-alpha
    found = power_law_entropy(k, alpha, low, high)
    assert power_law_normalizer(alpha, low, high) == pytest.approx(a)
    assert torch.allclose(found, printed)
    assert torch.allclose(found, -density * density.log())
    assert torch.trapezoid(density, k).item() == pytest.approx(1, abs=1e-6)
    assert found.max() <= 1 / math.e + 1e-12


def test_the_normalizer_is_continuous_at_one():
    assert power_law_normalizer(1.0, 2, 30) == pytest.approx(power_law_normalizer(1 + 1e-7, 2, 30), rel=1e-5)


@pytest.mark.parametrize("alpha, low, high", INTERVALS)
def test_limits_of_theorem_1(alpha, low, high):
    """H_k → 0 for k → ∞; for k → 0 it tends to −∞, where the paper prints +∞."""
    large = power_law_entropy(10.0 ** torch.arange(10, 91, 10).double(), alpha, low, high)
    assert (large > 0).all() and (large.diff() < 0).all() and large[-1] < 1e-40
    small = power_law_entropy(10.0 ** -torch.arange(4, 90, 10).double(), alpha, low, high)
    assert (small < 0).all() and (small.diff() < 0).all() and small[-1] < -1e20
    top = (math.e * power_law_normalizer(alpha, low, high)) ** (1 / alpha)
    around = power_law_entropy(torch.tensor([0.9, 1, 1.1]).double() * top, alpha, low, high)
    assert around[1].item() == pytest.approx(1 / math.e)
    assert around[0] < around[1] > around[2]


def test_limits_at_zero_for_other_signs():
    near_zero = torch.tensor([1e-200], dtype=torch.float64)
    assert power_law_entropy(near_zero, -1.0).item() == pytest.approx(0, abs=1e-150)
    a = 1 / 21
    assert power_law_entropy(near_zero, 0.0).item() == pytest.approx(-a * math.log(a))


def test_examples_in_docstrings():
    found = doctest.testmod(longtail, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0 < found.attempted


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_profile(torch.zeros(0, 3, 8, 8)), "images"),
        (lambda: split(torch.ones(1, 1, 8, 8)), "images"),
        (lambda: split(torch.full((1, 1, 8, 8), math.nan)), "images"),
        (lambda: split(torch.rand(1, 1, 8, 8), share=0), "share"),
        (lambda: split(torch.rand(1, 1, 8, 8)).low_pass(torch.rand(1, 1, 9, 8)), "images"),
        (lambda: fit_power_law(torch.rand(1, 1, 1, 1)), "images"),
        (lambda: spectral_entropy(torch.rand(1)), "profile"),
        (lambda: spectral_entropy(-torch.rand(5)), "profile"),
        (lambda: power_law_entropy(torch.tensor([0.0]), 2.0), "bands"),
        (lambda: power_law_entropy(torch.tensor([math.nan]), 2.0), "bands"),
        (lambda: power_law_normalizer(math.inf, 1, 2), "alpha"),
        (lambda: power_law_normalizer(2.0, 2, 2), "lowest, highest"),
        (lambda: power_law_normalizer(2.0, 0, 2), "lowest, highest"),
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


def test_entropy_of_natural_images_decreases_and_rises_by_bass(natural_images):
    """Sec. 3.3.1: bands of the head have more entropy than those of the tail; 3.3.2: balanced spectra have more."""
    for size, images in natural_images.items():
        entropies, boundary = spectral_entropy(power_profile(images)), split(images).boundary
        assert entropies[1 : boundary + 1].min() > entropies[boundary + 1 :].max(), size
        assert entropies[1:].argmax() == 0
        total = [total_spectral_entropy(power_profile(x)) for x in (images, bass(images))]
        assert total[1] > total[0] + 1
