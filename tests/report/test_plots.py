"""The report's figures of accuracy and of data: what is drawn is what was measured."""

import numpy as np
import pytest
import torch

from freqrob.diagnostics import spectrum
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report import plots
from tests.support.figures import line

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
