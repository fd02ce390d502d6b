"""The diagnostics' figures: what is drawn is what was measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from freqrob.diagnostics import (
    BandAccuracy,
    FourierHeatmap,
    JacobianSpectrum,
    LossLandscape,
    Sensitivity,
    spectrum,
)
from freqrob.diagnostics.band_accuracy import plot_bands, plot_robust_bands
from freqrob.diagnostics.drawing import draw_quadrant, folded, logarithmic, shared_limits, styles
from freqrob.diagnostics.fourier_heatmap import heatmap_limit, plot_heatmap
from freqrob.diagnostics.hybrid import plot_hybrid, plot_reversal
from freqrob.diagnostics.jacobian import jacobian_map, plot_jacobian, shifted_map
from freqrob.diagnostics.loss_landscape import landscape_limits, plot_landscape
from freqrob.diagnostics.minimal_perturbation import (
    perturbation_map,
    plot_perturbation_profiles,
    plot_perturbation_sizes,
    plot_perturbation_spectrum,
)
from freqrob.diagnostics.sensitivity import plot_sensitive_radii, plot_sensitivity
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report import plots
from tests.support.measurements import FREQUENCIES, HYBRID, PERTURBATIONS, POWER

BANDS = BandAccuracy(
    torch.arange(23) / 32, torch.rand(23), torch.rand(23), torch.rand(23), torch.rand(3), torch.tensor([0, 0.125, 0.5]),
    0.9, 5, 8 / 255, 20, 10, 10,
)  # fmt: skip
SENSITIVITY = Sensitivity(
    torch.rand(544).sort(descending=True).values.double(), [0, 9], 0.3 + 0.02 * torch.randn(200, 2), 5 / 32,
    torch.rand(200), 200,
)  # fmt: skip
PLACES = torch.arange(-16, 16) / 32
HEATMAP = FourierHeatmap(torch.rand(32, 32).double(), PLACES, PLACES, 0.1, 4.0, "cosine", 1, "", 10, 0)
LANDSCAPE = LossLandscape(
    torch.linspace(-1, 1, 5).double(), torch.rand(5, 5).double() + 0.1, torch.rand(5, 5).double(), 0.1, 0.2, 10, 0
)

SPECTRUM = spectrum(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def axes():
    return Figure().subplots()


def line(axes, label):
    return next(one for one in axes.get_lines() if one.get_label() == label).get_xydata()


def test_hybrid(axes):
    plot_hybrid(axes, {"one": HYBRID})
    (drawn,) = axes.containers
    expected = np.stack([FREQUENCIES.numpy(), (HYBRID.low - HYBRID.high).mean(0).numpy()], 1)
    assert np.allclose(drawn.lines[0].get_xydata(), expected)
    assert [0.2, 0] in np.concatenate([one.get_xydata() for one in axes.get_lines()]).round(6).tolist()
    known = HYBRID.reversal[~HYBRID.reversal.isnan()]
    spread = axes.collections[-1].get_segments()[0]
    assert np.allclose(spread, [[known.min(), 0], [known.max(), 0]])


def test_reversal(axes):
    far = replace(HYBRID, reversal=torch.tensor([0.2, 0.3]))
    plot_reversal(axes, {"one": (HYBRID, PERTURBATIONS), "far": (far, PERTURBATIONS)})
    one, far = axes.containers
    assert np.allclose(one.lines[0].get_xydata(), [[0.2, 2]]) and np.allclose(far.lines[0].get_xydata(), [[0.25, 2]])
    across, _ = far.lines[2]
    assert np.allclose(across.get_segments(), [[[0.2, 2], [0.3, 2]]])
    assert axes.get_ylabel() == "L∞ distance (grey levels of 255)"


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
    assert np.trapezoid(density, x) == pytest.approx(1, abs=0.01)
    assert x[density.argmax()] == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="rank: one has 0, 9, got 3"):
        plot_sensitive_radii(axes, {"one": SENSITIVITY}, rank=3)


def test_heat_maps_share_a_scale(axes):
    image = plot_heatmap(axes, HEATMAP, largest=0.5)
    assert np.array_equal(image.get_array(), HEATMAP.change) and image.get_clim() == (0, 0.5)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (-0.5 - 0.5 / 32, 0.5 - 0.5 / 32) and (bottom, top) == (right, left)


def test_a_coarse_heat_map_has_its_frequencies(axes):
    every = slice(0, 32, 4)
    coarse = replace(HEATMAP, change=torch.rand(8, 8), vertical=PLACES[every], horizontal=PLACES[every], every=4)
    assert plot_heatmap(axes, coarse).get_extent() == [-0.5625, 0.4375, 0.4375, -0.5625]


def test_perturbations_as_a_map_with_dc_in_the_middle(axes):
    whole = perturbation_map(PERTURBATIONS)
    limits = shared_limits([whole])
    image = plot_perturbation_spectrum(axes, PERTURBATIONS, limits)
    assert whole[16, 16] == 0 and whole.mean() == pytest.approx(1) and image.get_clim() == limits
    assert image.get_array()[16, 17] == POWER[0, 1] / POWER.mean()


def test_profiles_of_perturbations_leave_dc_out(axes):
    plot_perturbation_profiles(axes, {"one": PERTURBATIONS})
    assert np.allclose(line(axes, "one")[:, 1], PERTURBATIONS.profile[1:] / POWER.mean())
    assert axes.get_lines()[1].get_xdata()[0] == 0.25


def test_sizes_of_perturbations_are_those_of_the_successes(axes):
    plot_perturbation_sizes(axes, {"one": PERTURBATIONS})
    point, _, (across, up) = axes.containers[0]
    assert point.get_xydata().tolist() == [[0.25, pytest.approx(2)]]
    assert np.allclose(across.get_segments()[0][:, 0], [0.2, 0.35])
    assert np.allclose(up.get_segments()[0][:, 1], [1.5, 2.5])
    assert axes.get_ylabel() == "L∞ distance (grey levels of 255)"


def test_a_map_that_is_not_finite_spoils_no_other():
    broken, sound = torch.full((4, 4), torch.nan), torch.arange(1.0, 17).view(4, 4)
    assert shared_limits([broken, sound]) == shared_limits([sound, broken]) == (1, 16)
    assert shared_limits([broken * torch.inf, sound, sound / 0]) == (1, 16)
    change = [replace(HEATMAP, change=one) for one in (broken, sound)]
    assert heatmap_limit(change) == heatmap_limit(change[::-1]) == 16
    assert heatmap_limit([replace(HEATMAP, change=0 * sound)]) == 1, "no scale of nothing"


def test_images_without_a_gradient_have_no_place_in_the_spectrum(axes):
    some = replace(SENSITIVITY, high_share=torch.full_like(SENSITIVITY.high_share, torch.nan))
    plot_sensitive_radii(axes, {"none": some}, rank=SENSITIVITY.ranks[0])
    assert not axes.get_lines()


def test_sizes_in_two_norms_share_no_axis(axes):
    models = {"one": PERTURBATIONS, "l2": replace(PERTURBATIONS, norm="L2")}
    with pytest.raises(ValueError, match="models: expected sizes in one norm, got L2 and Linf"):
        plot_perturbation_sizes(axes, models)
    with pytest.raises(ValueError, match="models: expected sizes in one norm"):
        plot_reversal(axes, {name: (HYBRID, found) for name, found in models.items()})
    never = replace(HYBRID, reversal=HYBRID.reversal * torch.nan)
    with pytest.raises(ValueError, match="models: one has no reversal frequency at any seed"):
        plot_reversal(axes, {"one": (never, PERTURBATIONS)})


def test_a_landscape_has_its_model_in_the_middle(axes):
    contours = plot_landscape(axes, LANDSCAPE)
    assert len(contours.levels) == 12 and axes.get_lines()[0].get_xydata().tolist() == [[0, 0]]


def test_21_models_can_be_told_apart_in_black_and_white_too():
    drawn = list(styles(map(str, range(21))).values())
    assert len({(style["marker"], style["linestyle"]) for style in drawn}) == 21
    assert len({(style["color"], style["marker"]) for style in drawn}) == 21
    assert len({style["color"] for style in drawn[:7]}) == 7


def test_a_model_keeps_its_style_where_others_are_missing(axes):
    chosen = styles(["one", "two", "three"])
    plot_sensitivity(axes, {"three": SENSITIVITY}, chosen)
    (drawn,) = axes.get_lines()
    assert (drawn.get_color(), drawn.get_marker()) == (chosen["three"]["color"], chosen["three"]["marker"])


@pytest.mark.parametrize(
    "name, lines",
    [
        ("pgd_at_rn20", ["pgd_at_rn20"]),
        ("robustbench:Carmon2019Unlabeled", ["robustbench:", "Carmon2019Unlabeled"]),
        ("mine.nets:wide?width=4, LFC", ["mine.nets:wide?width=4,", "LFC"]),
        ("averylongnamewithoutanysignofanend", ["averylongnamewithoutany", "signofanend"]),
        ("", [""]),
    ],
)
def test_names_are_folded_after_signs_where_they_can_be(name, lines):
    assert folded(name, 23).split("\n") == lines


def test_power_and_its_law(axes):
    plots.plot_power(axes, {"white": SPECTRUM})
    points, law, boundary = (one.get_xydata() for one in axes.get_lines())
    assert np.allclose(points, np.stack([SPECTRUM.frequencies[1:], SPECTRUM.power[1:]], 1))
    assert np.allclose(law[:, 1], SPECTRUM.scale * law[:, 0] ** -SPECTRUM.alpha) and law[-1, 0] < 0.5
    assert boundary[0, 0] == SPECTRUM.boundary_radius


def test_cumulative_power_reaches_80_percent_at_the_boundary(axes):
    plots.plot_cumulative(axes, {"white": SPECTRUM})
    ends, share = line(axes, "white").T
    at = np.isclose(ends, SPECTRUM.boundary_radius)
    assert share[at] == pytest.approx(SPECTRUM.boundary_share) and share[-1] == pytest.approx(1)


@pytest.mark.parametrize("height, width", [(32, 32), (8, 6), (5, 7), (6, 5)])
def test_shifted_map_is_the_whole_spectrum(height, width):
    image = torch.randn(height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.fft.fftshift(torch.fft.fft2(image)).abs()
    torch.testing.assert_close(shifted_map(torch.fft.rfft2(image).abs(), width), expected)


def test_jacobians_share_a_scale_that_holds_them(axes):
    steep = torch.ones(8, 5)
    steep[0, 0] = 100
    flat, steep = (JacobianSpectrum(amplitude, 3.5, 128, 10) for amplitude in (torch.ones(8, 5), steep))
    limits = shared_limits([jacobian_map(one) for one in (flat, steep)])
    image = plot_jacobian(axes, steep, limits)
    assert image.get_clim() == limits and image.get_array().max() == pytest.approx(limits[1])
    assert image.get_array()[4, 4] == image.get_array().max(), "DC in the middle"


def test_a_dead_gradient_is_drawn(axes):
    assert (plot_jacobian(axes, JacobianSpectrum(torch.zeros(32, 17), 0.0, 128, 10)).get_array() == 0).all()


def test_landscapes_share_a_scale_and_survive_losses_that_are_not_finite(axes):
    loss = torch.tensor([[1.0, torch.nan, torch.inf], [0.5, 0.1, 2], [1, 1, 1]]).double()
    wild = LossLandscape(torch.linspace(-1, 1, 3).double(), loss, loss, 0.1, 0.2, 10, 0)
    low, high = landscape_limits([wild, LANDSCAPE])
    assert (low, high) == (pytest.approx(0.1), 1000)
    assert plot_landscape(axes, wild, limits=(low, high)).levels[[0, -1]] == pytest.approx([low, high])


def test_corruptions_by_type_and_model(axes):
    fog = CorruptionAccuracy("cifar10", "natural", 10, None, True, {"fog": (0.9, 0.8, 0.7, 0.6, 0.5)})
    both = CorruptionAccuracy("cifar10", "natural", 10, None, True, {"snow": (0.2,) * 5, "fog": (0.4,) * 5})
    image = plots.plot_corruptions(axes, {"one": fog, "two": both})
    assert np.allclose(image.get_array().filled(-1), [[-1, 20], [70, 40]])
    assert [text.get_text() for text in axes.texts] == ["–", "20", "70", "40"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["snow", "fog"]


def test_a_quadrant_has_dc_at_the_top_left_and_no_negative_frequencies():
    half = torch.arange(1.0, 32 * 17 + 1).view(32, 17)
    axes = Figure().subplots()
    image = draw_quadrant(axes, half, logarithmic((1, 600)))
    assert np.array_equal(image.get_array(), half[:17].numpy())
    left, right, bottom, top = image.get_extent()
    assert left < 0 < right and top < 0 < bottom, "DC is at the top left, and rows go down"
    assert (left + right) / 2 == pytest.approx(0.25) and right - left == pytest.approx(17 / 32)
