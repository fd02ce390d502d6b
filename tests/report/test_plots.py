"""The report's figures of accuracy and of data: what is drawn is what was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from freqrob.diagnostics import spectrum
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report import plots
from tests.support.figures import line
from tests.support.measurements import HYBRID

SPECTRUM = spectrum(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


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


def test_corruptions_by_type_and_model(axes):
    fog = CorruptionAccuracy("cifar10", "natural", 10, None, True, {"fog": (0.9, 0.8, 0.7, 0.6, 0.5)})
    both = CorruptionAccuracy("cifar10", "natural", 10, None, True, {"snow": (0.2,) * 5, "fog": (0.4,) * 5})
    image = plots.plot_corruptions(axes, {"one": fog, "two": both})
    assert np.allclose(image.get_array().filled(-1), [[-1, 20], [70, 40]])
    assert [text.get_text() for text in axes.texts] == ["–", "20", "70", "40"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["snow", "fog"]


def test_corruptions_against_the_reversal_frequency(axes):
    far = replace(HYBRID, reversal=torch.tensor([0.2, 0.3]))
    corrupted = CorruptionAccuracy("cifar10", "natural", 10, None, True, {"fog": (0.5,) * 5, "snow": (0.7,) * 5})
    plots.plot_reliance(axes, {"one": (HYBRID, corrupted), "far": (far, corrupted)})
    one, far = axes.containers
    assert np.allclose(one.lines[0].get_xydata(), [[0.4, 60]]) and np.allclose(far.lines[0].get_xydata(), [[0.5, 60]])
    assert np.allclose(far.lines[2][0].get_segments(), [[[0.4, 60], [0.6, 60]]])
    never = replace(HYBRID, reversal=HYBRID.reversal * torch.nan)
    with pytest.raises(ValueError, match="models: one has no reversal frequency for any seed"):
        plots.plot_reliance(axes, {"one": (never, corrupted)})
