"""Hybrid images: what each frequency is taken from, the pairs of images that they mix, and their file."""

import numpy as np
import pytest
import torch

from freqrob.data.hybrid import MIXING_FREQUENCIES, derange, hybrid_images, partners, write_hybrids
from tests.support.waves import SIZE


def test_a_hybrid_has_the_spectra_of_its_halves():
    low, high = 0.3 + 0.4 * torch.rand(2, 4, 3, SIZE, SIZE)
    mixed = torch.fft.fft2(hybrid_images(low, high, 0.2))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    inside = torch.from_numpy(radius <= 0.2)
    unclipped = torch.fft.ifft2(torch.where(inside, torch.fft.fft2(low), torch.fft.fft2(high))).real
    kept = ((unclipped > 0) & (unclipped < 1)).flatten(1).all(1)
    expected = torch.where(inside, torch.fft.fft2(low), torch.fft.fft2(high))
    assert kept.any() and (mixed - expected)[kept].abs().max() < 1e-3


def test_at_nyquist_the_corners_still_come_from_the_high_image():
    """Facts of the authors' masks: 229 of 1,024 coefficients lie beyond."""
    low, high = torch.rand(2, 1, 3, SIZE, SIZE)
    assert not torch.equal(hybrid_images(low, high, 0.5), low)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    assert (radius > 0.5).sum() == 229 and MIXING_FREQUENCIES[-1] == 0.5
    assert torch.allclose(hybrid_images(low, high, 0.71), low, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1, 2], [1] * 5 + [0] * 3 + [4] * 2, list(range(10)) * 7])
def test_a_derangement_keeps_no_label_and_all_of_them(labels):
    labels = torch.tensor(labels)
    for seed in range(20):
        targets = derange(labels, seed)
        assert (targets != labels).all() and torch.equal(targets.sort().values, labels.sort().values)
        assert torch.equal(labels[partners(labels, seed)], targets)
    assert torch.equal(derange(labels, 3), derange(labels, 3))


def test_no_derangement_of_mostly_one_label():
    with pytest.raises(ValueError, match="labels: more than half"):
        derange(torch.tensor([0, 0, 0, 1]))


def test_hybrid_images_of_bytes_are_rounded_and_whole_or_absent(few, tmp_path, monkeypatch):
    path = write_hybrids(few, tmp_path / "a", frequencies=(0.2,))
    with np.load(path) as file:
        images = torch.from_numpy(file["images"])
    assert images.dtype == torch.uint8 and not (tmp_path / "a" / "hybrid.png").exists()
    floats = few.images / 255
    expected = hybrid_images(floats, floats[partners(few.labels)], 0.2)
    assert (images[0] / 255 - expected).abs().max() <= 0.5001 / 255
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        write_hybrids(few, tmp_path / "a", frequencies=(0.1,))
    assert path.read_bytes() == before and len(list((tmp_path / "a").iterdir())) == 2
    with pytest.raises(ValueError, match="frequencies: expected at least one"):
        write_hybrids(few, tmp_path, frequencies=())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"frequencies": (0.1, -1)}, "frequencies: expected numbers from 0 to 0.707 .*, got -1"),
        ({"frequencies": (5,)}, "frequencies: expected numbers from 0 to 0.707 cycles.pixel, .* got 5"),
        ({"frequencies": (float("nan"),)}, "frequencies: expected numbers .*, got nan"),
        ({"frequencies": ("0.1",)}, "frequencies: expected numbers .*, got '0.1'"),
        ({"seed": -1}, "seed: expected an integer ≥ 0, got -1"),
    ],
)
def test_hybrid_images_that_cannot_be_mixed_are_refused_before_anything_is_written(few, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write_hybrids(few, tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("frequency", [-0.1, 1.01, 16, float("nan")])
def test_a_frequency_in_other_units_is_refused(frequency):
    """16 cycles/image would be all of the low image."""
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match="^frequency: expected cycles/pixel from 0 to 1 .cycles/image divided by size"):
        hybrid_images(images, images.flip(0), frequency)
