"""Accuracy by band: models that see one frequency, and the filters transcribed."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from freqrob.diagnostics.band_accuracy import BandAccuracy, band_accuracy, octaves, plot_bands, plot_robust_bands
from freqrob.spectral.rings import RingMap
from tests.support.figures import line
from tests.support.waves import SIZE, Linear, of_waves, wave

BANDS = BandAccuracy(
    torch.arange(23) / 32, torch.rand(23), torch.rand(23), torch.rand(23), torch.rand(3), torch.tensor([0, 0.125, 0.5]),
    0.9, 5, 8 / 255, 20, 10, 10,
)  # fmt: skip


def test_a_model_that_sees_the_mean_does_not_care_for_bands():
    images = torch.cat([torch.full((6, 3, SIZE, SIZE), 0.4), torch.full((6, 3, SIZE, SIZE), 0.6)])
    images = (images + 0.1 * torch.rand(images.shape)).clamp(0, 1)
    mean = Linear(torch.ones(3, SIZE, SIZE), threshold=0.55 * 3 * SIZE * SIZE)
    found = band_accuracy(mean, images, torch.arange(12) // 6)
    assert found.accuracy == 1 and (torch.stack([found.low, found.high, found.band]) == 1).all()


def test_bands_of_real_images_transcribed(real):
    model, images, labels = real
    found = band_accuracy(model, images, labels, attacked=0)
    spectra = np.fft.fft2(images.double().numpy() / 255)
    ring = (np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) * SIZE + 1e-9).astype(int)
    for i in (0, 4, 9, 22):
        for name, mask in (("low", ring <= i), ("high", ring >= i), ("band", np.abs(ring - i) <= 2)):
            filtered = np.clip(np.fft.ifft2(spectra * (mask | (ring == 0))).real, 0, 1)
            right = (model(torch.from_numpy(filtered).float()).argmax(1) == labels).double().mean()
            assert getattr(found, name)[i] == right, (name, i)


def test_a_model_that_sees_one_frequency_needs_its_ring():
    images, labels = of_waves(7)
    found = band_accuracy(Linear(wave(7)), images, labels, width=3)
    ring = torch.arange(len(found.low))
    for accuracy, has in ((found.low, ring >= 7), (found.high, ring <= 7), (found.band, (ring - 7).abs() <= 1)):
        assert (accuracy[has] == 1).all() and (accuracy[~has] < 0.95).all()


@pytest.mark.parametrize("size, count", [((32, 32), 5), ((64, 64), 5), ((224, 224), 5), ((31, 33), 5), ((8, 8), 4)])
def test_octaves_are_all_of_the_spectrum_once(size, count):
    rings = RingMap(*size)
    bands = octaves(rings)
    assert len(bands) == count and [ring for band in bands for ring in band] == list(range(rings.rings))


@pytest.mark.parametrize("cycles, broken", [(1, 0), (3, 1), (7, 2), (12, 3), (16, 4)])
def test_a_model_that_sees_one_frequency_is_broken_in_its_band_alone(cycles, broken):
    images, labels = of_waves(cycles)
    images = 0.5 + 0.2 * (images - 0.5)  # the wave's amplitude is 0.02, below ε
    found = band_accuracy(Linear(0.01 * wave(cycles)), images, labels, steps=10)
    assert found.robust.tolist() == [float(band != broken) for band in range(5)] and found.accuracy == 1
    assert found.robust_frequencies.tolist() == [0, 2 / 32, 4 / 32, 8 / 32, 16 / 32] and found.attacked == 12
    weaker = band_accuracy(Linear(0.01 * wave(cycles)), images, labels, steps=10, eps=1 / 255)
    assert (weaker.robust == 1).all()


def test_only_as_many_images_are_attacked_as_asked_for():
    images, labels = of_waves(3)
    labels[4:] = 1 - labels[4:]  # the first four are classified correctly, the others not
    some, none = (band_accuracy(Linear(wave(3)), images, labels, steps=2, attacked=count) for count in (4, 0))
    assert some.attacked == 4 and some.images == none.images == 12 and none.attacked == 0
    assert none.robust.shape == none.robust_frequencies.shape == (0,)
    assert (some.robust == 1).all() and some.accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: band_accuracy(Linear(wave(3)), *data, width=4), "width: expected an odd number"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, width=5.0), "width: expected an odd number .*, got 5.0"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, attacked="3"), "attacked: expected an integer .*, got '3'"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, attacked=-1), "attacked: expected an integer ≥ 0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


@pytest.mark.parametrize("kind", ["low", "high", "band"])
def test_bands(axes, kind):
    plot_bands(axes, {"one": BANDS, "two": BANDS}, kind)
    assert np.allclose(line(axes, "two")[:, 1], getattr(BANDS, kind))


def test_bands_of_another_kind(axes):
    with pytest.raises(ValueError, match="kind: expected one of low, high, band, got 'middle'"):
        plot_bands(axes, {"one": BANDS}, "middle")


def test_bands_of_robust_accuracy_are_named_to_the_digit(axes):
    begins = torch.tensor([0, 0.0625, 0.125, 0.25, 0.5])
    plot_robust_bands(axes, {"one": replace(BANDS, robust=torch.rand(5), robust_frequencies=begins)})
    axes.figure.set_size_inches(4.6, 3.2)
    axes.figure.canvas.draw()
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == [
        "0–\n0.0625", "0.0625–\n0.125", "0.125–\n0.25", "0.25–\n0.5", "0.5–\n0.71",
    ]  # fmt: skip
    extents = [label.get_window_extent() for label in labels]
    assert all(one.x1 < other.x0 for one, other in pairwise(extents))


def test_robust_accuracy_by_band(axes):
    plot_robust_bands(axes, {"one": BANDS})
    assert np.allclose(line(axes, "one")[:, 1], BANDS.robust)
