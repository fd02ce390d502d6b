"""The diagnostics' figures: what is drawn is what was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from freqrob.diagnostics import BandAccuracy, FourierHeatmap, HybridReliance, LossLandscape, Sensitivity
from freqrob.report import plots

FREQUENCIES = torch.linspace(0, 0.5, 6, dtype=torch.float64)
HYBRID = HybridReliance(
    FREQUENCIES, torch.rand(2, 6).double(), torch.rand(2, 6).double(), torch.tensor([0.2, torch.nan]), 10, [0, 1]
)
BANDS = BandAccuracy(torch.arange(23) / 32, torch.rand(23), torch.rand(23), torch.rand(23), 0.9, 5, 10)
SENSITIVITY = Sensitivity(
    torch.rand(544).sort(descending=True).values.double(), [0, 9], 0.3 + 0.02 * torch.randn(200, 2), 5 / 32,
    torch.rand(200), 200,
)  # fmt: skip
HEATMAP = FourierHeatmap(torch.rand(32, 32).double(), 0.1, 4.0, "gatheluck", "", 10, 0)
LANDSCAPE = LossLandscape(
    torch.linspace(-1, 1, 5).double(), torch.rand(5, 5).double() + 0.1, torch.rand(5, 5).double(), 0.1, 0.2, 10, 0
)


@pytest.fixture
def axes():
    return Figure().subplots()


def line(axes, label):
    return next(one for one in axes.get_lines() if one.get_label() == label).get_xydata()


def test_hybrid(axes):
    plots.plot_hybrid(axes, {"one": HYBRID})
    (drawn,) = axes.containers
    expected = np.stack([FREQUENCIES.numpy(), (HYBRID.low - HYBRID.high).mean(0).numpy()], 1)
    assert np.allclose(drawn.lines[0].get_xydata(), expected)
    assert [0.2, 0] in np.concatenate([one.get_xydata() for one in axes.get_lines()]).round(6).tolist()


@pytest.mark.parametrize("kind", ["low", "high", "band"])
def test_bands(axes, kind):
    plots.plot_bands(axes, {"one": BANDS, "two": BANDS}, kind)
    assert np.allclose(line(axes, "two")[:, 1], getattr(BANDS, kind))


def test_bands_of_another_kind(axes):
    with pytest.raises(ValueError, match="kind: expected one of low, high, band, got 'middle'"):
        plots.plot_bands(axes, {"one": BANDS}, "middle")


def test_sensitivity_by_rank(axes):
    plots.plot_sensitivity(axes, {"one": SENSITIVITY})
    drawn = line(axes, "one")
    assert drawn[0, 0] == 1 and np.allclose(drawn[:, 1].mean(), 1)


def test_the_density_of_radii_is_one_and_peaks_where_they_are(axes):
    plots.plot_sensitive_radii(axes, {"one": SENSITIVITY}, rank=9)
    x, density = line(axes, "one").T
    assert np.trapezoid(density, x) == pytest.approx(1, abs=0.01)
    assert x[density.argmax()] == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="rank: one has 0, 9, got 3"):
        plots.plot_sensitive_radii(axes, {"one": SENSITIVITY}, rank=3)


def test_heat_maps_share_a_scale(axes):
    image = plots.plot_heatmap(axes, HEATMAP, largest=0.5)
    assert np.array_equal(image.get_array(), HEATMAP.change) and image.get_clim() == (0, 0.5)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (-0.5 - 0.5 / 32, 0.5 - 0.5 / 32) and (bottom, top) == (right, left)


def test_a_landscape_has_its_model_in_the_middle(axes):
    contours = plots.plot_landscape(axes, LANDSCAPE)
    assert len(contours.levels) == 12 and axes.get_lines()[0].get_xydata().tolist() == [[0, 0]]


def test_seven_models_can_be_told_apart():
    styles = [(style["color"], style["marker"]) for _, _, style in plots._styled(dict.fromkeys(range(7)))]
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 7
