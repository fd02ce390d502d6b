"""Parts of figures: styles, shared limits, folded names, spectra in JaFR's layout."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from freqrob.diagnostics.drawing import draw_quadrant, folded, logarithmic, shared_limits, styles


def test_a_map_that_is_not_finite_spoils_no_other():
    broken, sound = torch.full((4, 4), torch.nan), torch.arange(1.0, 17).view(4, 4)
    assert shared_limits([broken, sound]) == shared_limits([sound, broken]) == (1, 16)
    assert shared_limits([broken * torch.inf, sound, sound / 0]) == (1, 16)


def test_21_models_can_be_told_apart_in_black_and_white_too():
    drawn = list(styles(map(str, range(21))).values())
    assert len({(style["marker"], style["linestyle"]) for style in drawn}) == 21
    assert len({(style["color"], style["marker"]) for style in drawn}) == 21
    assert len({style["color"] for style in drawn[:7]}) == 7


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


def test_a_quadrant_has_dc_at_the_top_left_and_no_negative_frequencies():
    half = torch.arange(1.0, 32 * 17 + 1).view(32, 17)
    axes = Figure().subplots()
    image = draw_quadrant(axes, half, logarithmic((1, 600)))
    assert np.array_equal(image.get_array(), half[:17].numpy())
    left, right, bottom, top = image.get_extent()
    assert left < 0 < right and top < 0 < bottom, "DC is at the top left, and rows go down"
    assert (left + right) / 2 == pytest.approx(0.25) and right - left == pytest.approx(17 / 32)
