"""The gradient's spectrum, sorted, against NumPy's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from freqrob.attacks import input_gradient
from freqrob.diagnostics.drawing import styles
from freqrob.diagnostics.run import diagnose
from freqrob.diagnostics.sensitivity import Sensitivity, plot_sensitive_radii, plot_sensitivity, sensitivity
from freqrob.models import load_model
from tests.support.figures import line
from tests.support.waves import SIZE, Linear, of_waves, wave

SENSITIVITY = Sensitivity(
    torch.rand(544).sort(descending=True).values.double(), [0, 9], 0.3 + 0.02 * torch.randn(200, 2), 5 / 32,
    torch.rand(200), 200,
)  # fmt: skip


def test_the_gradient_of_a_linear_model_has_its_weights_spectrum():
    weight = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images, labels = of_waves(2)
    found = sensitivity(Linear(0.001 * weight), images, labels, ranks=(0, 3))
    spectrum = np.abs(np.fft.rfft2(weight.mean(0).numpy()))
    order = np.argsort(-spectrum.flatten())
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)).flatten()
    sorted_spectrum = torch.from_numpy(spectrum.flatten()[order]).double()
    assert torch.allclose(found.magnitude / found.magnitude[0], sorted_spectrum / sorted_spectrum[0], atol=1e-5)
    assert torch.allclose(found.radii, torch.from_numpy(radius[order[[0, 3]]]).expand(12, 2))
    power = np.abs(np.fft.fft2(weight.mean(0).numpy())) ** 2
    distance = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) * SIZE
    assert found.high_share.mean().item() == pytest.approx(power[distance >= 5].sum() / power.sum(), rel=1e-5)
    assert found.boundary == 5 / SIZE


def test_sensitivity_is_the_mean_over_images_of_sorted_magnitudes():
    model = load_model("pgd_at_rn20")
    images, labels = torch.rand(4, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 3])
    found = sensitivity(model, images, labels, batch_size=3)
    gradient = input_gradient(model, images, labels).mean(1)
    rows = [np.sort(np.abs(np.fft.rfft2(one)).flatten())[::-1] for one in gradient.numpy()]
    assert torch.allclose(found.magnitude, torch.from_numpy(np.mean(rows, 0)).double(), rtol=1e-3)


@pytest.mark.parametrize("size", [3, 4, 8])
def test_tiny_images_have_the_ranks_that_there_are(size):
    images, labels = torch.rand(4, 3, size, size), torch.arange(4) % 2
    found = diagnose(Linear(wave(1, size)), images, labels, only=["sensitivity"])["sensitivity"]
    assert found.ranks == [rank for rank in (0, 9, 99) if rank < size * (size // 2 + 1)]


def test_the_share_of_high_frequencies_does_not_depend_on_the_gradients_size():
    one, other = (sensitivity(Linear(scale * wave(3)), *of_waves(3)).high_share for scale in (1e-3, 1e-25))
    assert one.max() < 1e-6
    torch.testing.assert_close(other, one)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: sensitivity(Linear(wave(3)), *data, boundary_ring=23), "boundary_ring: expected 1 to 22"),
        (lambda data: sensitivity(Linear(wave(3)), *data, ranks=(544,)), "ranks: expected some of 0 to 543"),
        (lambda data: sensitivity(Linear(wave(3)), *data, boundary_ring=5.0), "boundary_ring: .* 1 to 22, got 5.0"),
        (lambda data: sensitivity(Linear(wave(3)), *data, ranks="0"), "ranks: expected some of 0 to 543, got '0'"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


def test_sensitivity_by_rank(axes):
    plot_sensitivity(axes, {"one": SENSITIVITY})
    drawn = line(axes, "one")
    assert drawn[0, 0] == 1 and np.allclose(drawn[:, 1].mean(), 1)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_model_without_gradient_leaves_the_others_their_panel(axes, value):
    flat = replace(SENSITIVITY, magnitude=torch.full_like(SENSITIVITY.magnitude, value))
    plot_sensitivity(axes, {"flat": flat, "one": SENSITIVITY})
    axes.figure.canvas.draw()
    assert axes.get_legend_handles_labels()[1] == ["one"]


def test_the_density_of_radii_is_one_and_peaks_where_they_are(axes):
    plot_sensitive_radii(axes, {"one": SENSITIVITY}, rank=9)
    x, density = line(axes, "one").T
    assert trapezoid(density, x) == pytest.approx(1, abs=0.01)
    assert x[density.argmax()] == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="rank: one has 0, 9, got 3"):
        plot_sensitive_radii(axes, {"one": SENSITIVITY}, rank=3)


def test_images_without_a_gradient_have_no_place_in_the_spectrum(axes):
    some = replace(SENSITIVITY, high_share=torch.full_like(SENSITIVITY.high_share, torch.nan))
    plot_sensitive_radii(axes, {"none": some}, rank=SENSITIVITY.ranks[0])
    assert not axes.get_lines()


def test_a_model_keeps_its_style_where_others_are_missing(axes):
    chosen = styles(["one", "two", "three"])
    plot_sensitivity(axes, {"three": SENSITIVITY}, chosen)
    (drawn,) = axes.get_lines()
    assert (drawn.get_color(), drawn.get_marker()) == (chosen["three"]["color"], chosen["three"]["marker"])
