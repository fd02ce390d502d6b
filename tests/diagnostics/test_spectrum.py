"""Spectra of images and of corruptions: white noise, waves, and independent transcriptions on real images."""

import math
import sys

import numpy as np
import pytest
import torch

from freqrob.data.corruptions import SEVERITIES, corrupt
from freqrob.data.samples import sample_images
from freqrob.diagnostics import CorruptionSpectrum, Spectrum, corruption_spectrum, spectrum


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_white_noise():
    found = spectrum(noise(1000, 3, 32, 32))
    assert found.log_b_low == pytest.approx(math.log(34), abs=0.01)
    assert found.alpha == pytest.approx(0, abs=0.01)
    assert torch.allclose(found.power / 1024, torch.ones(23).double(), atol=0.08)


def test_the_scale_of_images_does_not_count():
    whole, part = spectrum(noise(50, 3, 32, 32)), spectrum(noise(50, 3, 32, 32) / 255)
    assert part.log_b_low == pytest.approx(whole.log_b_low, abs=0.003)
    assert (part.boundary, part.alpha) == (whole.boundary, pytest.approx(whole.alpha, abs=1e-4))


def test_one_wave_has_one_ring():
    images = 0.5 + 0.2 * torch.cos(2 * torch.pi * 5 * torch.arange(32) / 32).expand(3, 2, 32, 32)
    found = spectrum(images + 1e-4 * noise(3, 2, 32, 32))
    assert found.share[5] > 0.999 and found.boundary == 5 and found.boundary_radius == 6 / 32
    assert found.entropy < 0.01 and found.largest_entropy == math.log(22)


def test_a_transcription_on_real_images():
    images = sample_images().images
    pixels = images.numpy().astype(np.float64) / 255
    found, spectra = spectrum(images), np.fft.fft2(pixels)
    radius = (np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)) * 32 + 1e-9).astype(int)
    mean = (np.abs(spectra) ** 2).mean((0, 1))
    of_ring = np.array([mean[radius == ring].mean() for ring in range(23)])
    total = np.array([0, *(mean[radius == ring].sum() for ring in range(1, 23))])
    assert found.power.numpy() == pytest.approx(of_ring, rel=1e-4)
    assert found.share.numpy() == pytest.approx(total / total.sum(), rel=1e-4)
    assert found.cumulative[found.boundary - 1] < 0.8 <= found.cumulative[found.boundary] == found.boundary_share
    quadrant = np.abs(spectra).mean((0, 1))[:17, :17] + 1e-5
    alpha = np.linspace(1, -1, 17) + 1e-5
    rows, columns = (quadrant**alpha).prod(1), (quadrant ** alpha[:, None]).prod(0)
    assert found.log_b_low == pytest.approx(np.log(rows.sum() + columns.sum()), abs=1e-3)


def test_many_images_are_taken_some_at_a_time(monkeypatch):
    images = sample_images().images
    whole = spectrum(images)
    monkeypatch.setattr("freqrob.spectral.longtail.AT_ONCE", 7 * 1024)
    monkeypatch.setattr(sys.modules["freqrob.diagnostics.spectrum"], "AT_ONCE", 2 * 3072)
    parts = spectrum(images)
    assert parts.scalars() == pytest.approx(whole.scalars(), rel=1e-6)
    assert torch.allclose(parts.amplitude, whole.amplitude)


@pytest.mark.parametrize("shape", [(2, 1, 31, 33), (1, 3, 64, 64), (1, 3, 224, 200)])
def test_saved_and_loaded_at_any_size(shape, tmp_path):
    found = spectrum(torch.rand(shape))
    found.save(tmp_path)
    again = Spectrum.load(tmp_path)
    assert again.scalars() == found.scalars() and again.amplitude.shape == (shape[2], shape[3] // 2 + 1)


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.rand(0, 3, 32, 32), r"expected \(N, C, H, W\) with N ≥ 1"),
        (torch.rand(3, 32, 32), r"expected \(N, C, H, W\)"),
        (torch.full((2, 3, 32, 32), 0.5), "constant or non-finite"),
        (torch.full((2, 3, 32, 32), torch.nan), "constant or non-finite"),
    ],
)
def test_images_without_a_spectrum_are_an_error(images, message):
    with pytest.raises(ValueError, match=message):
        spectrum(images)


# What corruptions add


def test_white_noise_added_to_images():
    images = torch.full((600, 3, 32, 32), 0.5)
    found = corruption_spectrum(images, [images + 0.05 * noise(600, 3, 32, 32), images + 0.1 * noise(600, 3, 32, 32)])
    assert found.log_b_low.tolist() == pytest.approx([math.log(34)] * 2, abs=0.015)
    assert found.mean_log_b_low == pytest.approx(found.log_b_low.mean().item())
    assert found.log_b_low_of_all == pytest.approx(math.log(34), abs=0.015) and found.images == 600


@pytest.mark.parametrize("name, of_white_noise", [("gaussian_noise", True), ("contrast", False)])
def test_a_corruption_transcribed_on_real_images(name, of_white_noise, monkeypatch):
    """The published code's steps: pixels in [0, 1], |rfft2| of the difference, its mean, powers and products."""
    monkeypatch.setattr(sys.modules["freqrob.diagnostics.corruption_spectrum"], "AT_ONCE", 7 * 3072)
    images = sample_images().images
    corrupted = [corrupt(images, name, severity) for severity in SEVERITIES]
    found = corruption_spectrum(images, iter(corrupted))
    alpha = np.linspace(1, -1, 17) + 1e-5
    for severity, other in enumerate(corrupted):
        change = np.abs(np.fft.rfft2((other.double() - images.double()).numpy() / 255)).mean((0, 1))
        assert found.amplitude[severity].numpy() == pytest.approx(change, rel=1e-3, abs=1e-4)
        m = change[:17] + 1e-5
        b_low = (m**alpha).prod(1).sum() + (m ** alpha[:, None]).prod(0).sum()
        assert found.log_b_low[severity].item() == pytest.approx(np.log(b_low), abs=2e-3)
    assert (found.mean_log_b_low < 4.5) == of_white_noise


def test_a_corruption_saved_and_loaded(tmp_path):
    images = torch.rand(2, 3, 31, 33)
    found = corruption_spectrum(images, [images**2, images.sqrt()])
    found.save(tmp_path, "gamma")
    again = CorruptionSpectrum.load(tmp_path, "gamma")
    assert again.scalars() == found.scalars() and again.amplitude.shape == (2, 31, 17)


@pytest.mark.parametrize(
    "corrupted, message",
    [
        ([], "corrupted: expected a tensor for each severity"),
        ([torch.rand(3, 3, 32, 32)], r"corrupted: expected \(2, 3, 32, 32\) like images"),
        ([torch.full((2, 3, 32, 32), torch.nan)], "expected finite pixels"),
    ],
)
def test_what_is_no_corruption_of_the_images_is_an_error(corrupted, message):
    with pytest.raises(ValueError, match=message):
        corruption_spectrum(torch.rand(2, 3, 32, 32), corrupted)
