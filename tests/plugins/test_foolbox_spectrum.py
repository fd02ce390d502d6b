"""The spectrum of perturbations: its anchors, perturbations of known frequency, and an independent transcription."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from freqrob_foolbox import analyze_spectrum

ep = pytest.importorskip("eagerpy")


def white_noise(count=400, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    return images + 0.01 * torch.randn(images.shape, generator=generator, dtype=torch.float64), images


def wave(cycles, size=32):
    """A perturbation of one frequency along x, in each channel."""
    return torch.cos(2 * math.pi * cycles * torch.arange(size) / size).double().expand(1, 3, size, size)


def transcribed(raw, inputs):
    """f_0.5 as facts on Li et al.'s code have it, one image and channel at a time."""
    n, c, h, w = raw.shape
    total = np.zeros((h, w))
    for image in range(n):
        for channel in range(c):
            delta = raw[image, channel] - inputs[image, channel]
            total += np.abs(np.fft.fft2(delta - delta.mean())) ** 2 / (n * c)
    total[0, 0] = 0
    radii, shares = np.linspace(0, math.sqrt(0.5), 25), []
    for radius in radii:
        inside = sum(
            total[y, x]
            for y in range(h)
            for x in range(w)
            if math.hypot(np.fft.fftfreq(h)[y], np.fft.fftfreq(w)[x]) <= radius + 1e-12
        )
        shares.append(inside / total.sum())
    return total, np.array(shares), np.interp(0.5, shares, radii)


def test_white_noise_has_its_known_half_power_frequency():
    found = analyze_spectrum(*white_noise())
    assert found.half_power_frequency == pytest.approx(0.396, abs=0.001)
    assert found.exact_half_power_frequency == pytest.approx(0.400, abs=0.0015)
    assert found.images == 400


def test_agrees_with_a_transcription():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 3, 12, 16, generator=generator)
    raw = (images + 0.1 * torch.randn(images.shape, generator=generator).cumsum(-1)).clamp(0, 1)
    found = analyze_spectrum(raw, images)
    power, shares, frequency = transcribed(raw.double().numpy(), images.double().numpy())
    np.testing.assert_allclose(found.power.numpy(), power, rtol=1e-9)
    np.testing.assert_allclose(found.cumulative.numpy(), shares, rtol=1e-9, atol=1e-12)
    assert found.half_power_frequency == pytest.approx(frequency)


@pytest.mark.parametrize("cycles", [1, 3, 8, 16])
def test_a_wave_has_its_own_frequency(cycles):
    found = analyze_spectrum(0.5 + 0.1 * wave(cycles), torch.full((1, 3, 32, 32), 0.5).double())
    assert found.exact_half_power_frequency == pytest.approx(cycles / 32)
    assert abs(found.half_power_frequency - cycles / 32) <= math.sqrt(0.5) / 24
    assert found.profile.argmax() == cycles
    assert found.frequencies[cycles] == cycles / 32
    assert found.power[0, cycles] == pytest.approx((0.1 * 512) ** 2 * (4 if cycles == 16 else 1))


def test_the_corner_of_the_spectrum_is_within_the_largest_radius():
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16).expand(1, 3, 32, 32).double()
    found = analyze_spectrum(0.5 + 0.1 * checkers, torch.full((1, 3, 32, 32), 0.5).double())
    assert found.cumulative[-1] == pytest.approx(1)
    assert found.exact_half_power_frequency == pytest.approx(math.sqrt(0.5))


def test_a_constant_of_a_channel_changes_nothing():
    raw, images = white_noise(4)
    shifted = raw + torch.tensor([0.1, -0.2, 0.3]).double()[None, :, None, None]
    assert torch.allclose(analyze_spectrum(shifted, images).power, analyze_spectrum(raw, images).power)


def test_powers_are_averaged_before_shares_are_taken():
    """A perturbation ten times as large has a hundred times the weight."""
    images = torch.full((2, 3, 32, 32), 0.5).double()
    raw = images + torch.cat([0.1 * wave(2), 0.01 * wave(12)])
    assert analyze_spectrum(raw, images).exact_half_power_frequency == 2 / 32
    assert analyze_spectrum(raw, images).cumulative[12] == pytest.approx(100 / 101)


@pytest.mark.parametrize("kind", ["numpy", "float32", "eagerpy", "eagerpy of numpy", "strided", "requires grad"])
def test_takes_any_kind_of_array(kind):
    raw, images = (x[:, :, :16, :16] if kind == "strided" else x for x in white_noise(6))
    as_kind = {
        "numpy": lambda x: x.numpy(),
        "float32": lambda x: x.float(),
        "eagerpy": ep.astensor,
        "eagerpy of numpy": lambda x: ep.astensor(x.numpy()),
        "strided": lambda x: x,
        "requires grad": lambda x: x.clone().requires_grad_(),
    }[kind]
    found = analyze_spectrum(as_kind(raw), as_kind(images))
    assert torch.allclose(found.power, analyze_spectrum(raw.contiguous(), images.contiguous()).power, rtol=1e-4)
    assert not found.power.requires_grad


def test_numpy_arrays_need_no_torch_input_and_no_foolbox():
    code = (
        "import sys, numpy as np, freqrob_foolbox as f; x = np.zeros((2, 3, 8, 8), np.float32); y = x.copy(); "
        "y[..., ::2] = .1; f.analyze_spectrum(y, x); sys.exit('foolbox' in sys.modules)"
    )
    folders = [path for path in sys.path if path]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path += {folders!r}; {code}"], check=True)


def test_channels_may_come_last():
    raw, images = white_noise(6, size=16)
    last = analyze_spectrum(raw.movedim(1, -1), images.movedim(1, -1), data_format="channels_last")
    assert torch.allclose(last.power, analyze_spectrum(raw, images).power)


def test_the_interval_is_seeded_and_holds_the_estimate():
    raw, images = white_noise(50)
    one, same, other = (analyze_spectrum(raw, images, seed=seed).half_power_interval for seed in (0, 0, 1))
    assert one == same != other
    assert one[0] < analyze_spectrum(raw, images).half_power_frequency < one[1]
    narrow = analyze_spectrum(raw, images, confidence=0.5).half_power_interval
    assert one[0] < narrow[0] < narrow[1] < one[1]


def test_the_interval_is_as_wide_as_estimates_of_new_images_scatter():
    draws = (white_noise(40, size=16, seed=seed) for seed in range(60))
    estimates = [analyze_spectrum(*draw, resamples=1).half_power_frequency for draw in draws]
    scatter = np.percentile(estimates, 97.5) - np.percentile(estimates, 2.5)
    low, high = analyze_spectrum(*white_noise(40, size=16)).half_power_interval
    assert 0.6 < (high - low) / scatter < 1.6


def test_images_without_a_perturbation_count_as_none():
    raw, images = white_noise(6)
    raw[1:5] = images[1:5]
    found = analyze_spectrum(raw, images)
    assert torch.allclose(found.power * 6, analyze_spectrum(raw[[0, 5]], images[[0, 5]]).power * 2)
    assert all(0.3 < end < 0.5 for end in found.half_power_interval), "resamples of zeros alone are left out"


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x: {"raw": [x, x]}, TypeError, "raw: expected a NumPy array or a tensor, got list; a list of ε"),
        (lambda x: {"raw": (255 * x).byte()}, TypeError, "raw: expected floats, got torch.uint8"),
        (lambda x: {"raw": x[:1]}, ValueError, "one shape"),
        (lambda x: {"raw": x[:0], "inputs": x[:0]}, ValueError, "none of them 0"),
        (lambda x: {"raw": x[0], "inputs": x[0]}, ValueError, "one shape"),
        (lambda x: {"raw": x}, ValueError, "plus a constant in every image"),
        (lambda x: {"raw": x + 0.1}, ValueError, "plus a constant in every image"),
        (lambda x: {"raw": x.index_fill(0, torch.tensor(2), math.nan)}, ValueError, r"others in images \[2\]"),
        (lambda x: {"data_format": "NHWC"}, ValueError, "data_format: expected"),
        (lambda x: {"resamples": 0}, ValueError, "resamples: expected an integer ≥ 1"),
        (lambda x: {"confidence": 95}, ValueError, "confidence: expected"),
    ],
)
def test_what_cannot_be_analysed_is_refused_by_name(change, error, message):
    raw, images = white_noise(3, size=8)
    with pytest.raises(error, match=message):
        analyze_spectrum(**{"raw": raw, "inputs": images, **change(images)})


class Unreadable:
    """An array of another package, which NumPy cannot read, such as one of CuPy."""

    def __array__(self, *_args, **_options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


@pytest.mark.parametrize("name", ["raw", "inputs"])
@pytest.mark.parametrize(
    "change, got",
    [
        (lambda x: x.astype(x.dtype.newbyteorder()), r"[<>]f8; use \w+.astype\(float\)"),
        (lambda x: x.astype(np.longdouble), rf"{np.dtype(np.longdouble)}; use \w+.astype\(float\)"),
        (lambda x: np.ma.masked_array(x, x > 0.5), r"masked values; use \w+.filled\(\)"),
        (lambda x: x.astype(np.uint16), "uint16$"),
        (lambda x: x.astype(object), "object$"),
        (lambda x: x + 0j, "complex128$"),
        (lambda _: Unreadable(), "Unreadable: Implicit conversion"),
    ],
)
def test_odd_arrays_are_refused_by_name(change, got, name):
    arrays = dict(zip(("raw", "inputs"), (x.numpy() for x in white_noise(3, size=8)), strict=True))
    with pytest.raises(TypeError, match=f"^{name}: expected .*, got {got}"):
        analyze_spectrum(**{**arrays, name: change(arrays[name])})
