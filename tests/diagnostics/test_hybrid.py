"""The reliance on halves of hybrid images: models with a known answer, and the authors' steps transcribed."""

import numpy as np
import pytest
import torch

from freqrob.data.hybrid import MIXING_FREQUENCIES, partners
from freqrob.diagnostics.hybrid import hybrid_reliance, plot_hybrid, rises_through_zero
from tests.support.measurements import FREQUENCIES, HYBRID
from tests.support.waves import SIZE, Linear, of_waves, wave


@pytest.mark.parametrize("cycles", [2, 5, 11])
def test_a_model_that_sees_one_frequency_turns_where_it_changes_sides(cycles):
    images, labels = of_waves(cycles)
    frequencies = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
    found = hybrid_reliance(Linear(wave(cycles)), images, labels, frequencies=frequencies, seeds=(0, 1))
    above = next(f for f in frequencies if f >= cycles / SIZE)
    below = max(f for f in frequencies if f < cycles / SIZE)
    assert torch.equal(found.low[0], (torch.tensor(frequencies) >= cycles / SIZE).double())
    assert torch.equal(found.high, 1 - found.low) and found.images == 12
    assert torch.allclose(found.reversal, torch.tensor((above + below) / 2).double())


def test_a_low_pass_model_turns_where_half_of_what_it_sees_is_low():
    """A matched filter of a template without frequencies above 0.3: the half with more of its power decides."""
    radius = torch.from_numpy(np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)))
    noise = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    template = torch.fft.irfft2(torch.fft.rfft2(noise) * ((radius > 0) & (radius <= 0.3)), s=(SIZE, SIZE))
    labels = torch.arange(8) % 2
    images = 0.5 + 0.1 * (2 * labels - 1)[:, None, None, None] * template
    assert images.min() > 0 and images.max() < 1, "nothing is clipped"
    power = torch.from_numpy(np.abs(np.fft.fft2(template.numpy())) ** 2).sum(0).flatten()
    order = torch.from_numpy(np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)).flatten())
    frequencies = [0.01 * step for step in range(41)]
    below = [power[order <= f].sum() / power.sum() for f in frequencies]
    half = next(f for f, share in zip(frequencies, below, strict=True) if share > 0.5)
    found = hybrid_reliance(Linear(template), images, labels, frequencies=frequencies, seeds=(0,))
    assert 0.15 < half < 0.25 and found.reversal.item() == pytest.approx(half - 0.005)
    assert (found.low[0, 30:] == 1).all() and (found.high[0, :1] == 1).all()


def test_hybrids_of_real_images_transcribed(real):
    """The authors' steps in NumPy: masks of the shifted plane's radius, clipped, shares of both labels."""
    model, images, labels = real
    found = hybrid_reliance(model, images, labels, frequencies=MIXING_FREQUENCIES[::4], seeds=(3,))
    pixels, other = images.double().numpy() / 255, partners(labels, 3)
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE))
    spectra = np.fft.fft2(pixels)
    for number, alpha in enumerate((0, 6, 13, 22, 57)):
        assert found.frequencies[number].item() == pytest.approx(alpha / 100 * 0.5)
        mask = radius <= alpha / 100 * 0.5
        mixed = np.clip(np.fft.ifft2(spectra * mask + spectra[other] * ~mask).real, 0, 1)
        seen = model(torch.from_numpy(mixed).float()).argmax(1)
        assert found.low[0, number] == (seen == labels).double().mean()
        assert found.high[0, number] == (seen == labels[other]).double().mean()


def test_where_a_curve_rises_through_zero():
    x = torch.tensor([0.0, 1, 2, 3])
    assert rises_through_zero(x, torch.tensor([-1.0, -0.5, 1.5, 1])) == 1.25
    assert rises_through_zero(x, torch.tensor([-1.0, 0, 1, -1])) == 1
    assert rises_through_zero(x, torch.tensor([1.0, 2, 3, 4])).isnan()
    assert rises_through_zero(x, torch.tensor([-1.0, -2, -3, -4])).isnan()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=()), "frequencies: expected at least one"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=(0.2, 0.1)), "frequencies: .* ascending"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=(0.2, 1)), "frequencies: .* 0.707 .*, got 1"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, seeds=(-1,)), "seeds.*: expected an integer .*, got -1"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, seeds=("0",)), "seeds.*: expected .*, got '0'"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


def test_hybrid(axes):
    plot_hybrid(axes, {"one": HYBRID})
    (drawn,) = axes.containers
    expected = np.stack([2 * FREQUENCIES.numpy(), (HYBRID.low - HYBRID.high).mean(0).numpy()], 1)
    assert np.allclose(drawn.lines[0].get_xydata(), expected), "in units of Nyquist"
    assert [0.4, 0] in np.concatenate([one.get_xydata() for one in axes.get_lines()]).round(6).tolist()
    known = 2 * HYBRID.reversal[~HYBRID.reversal.isnan()]
    spread = axes.collections[-1].get_segments()[0]
    assert np.allclose(spread, [[known.min(), 0], [known.max(), 0]])
