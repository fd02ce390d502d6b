"""The report's figures: as files, in the page, and with long names."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.colors import LogNorm
from PIL import Image

from freqrob.diagnostics.drawing import Panel, Picture, Scale, styles
from freqrob.report.figures import VARIABLES, inline_scale
from tests.support.reports import LONG, as_in_a_file


def test_every_figure_is_a_file_too(page, out):
    shown = re.findall(r'<figure class="picture" id="figure-([\w.]+)"', page)
    assert shown == [
        "corruptions", "spectra", "jacobian", "sensitivity", "loss_landscapes", "hybrid", "reliance", "fourier_heatmap",
        "fourier_heatmap_block.0", "band_accuracy",
    ]  # fmt: skip
    for name in shown:
        assert ElementTree.parse(out / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 300
        printed = (out / "figures" / f"{name}.pdf").read_bytes()
        assert printed.startswith(b"%PDF") and b"/Type3" not in printed, "publishers refuse Type 3 fonts"
    drawn = (out / "figures" / "hybrid.svg").read_text()
    assert "pgd_at_tiny" in drawn and r"&lt;script&gt;alert($\frac$)" in drawn, "the legend"


@pytest.mark.parametrize(
    "low, high, ticks",
    [
        (2.31, 4.7, ["2.5", "3", "3.5", "4", "4.5"]),
        (2.31, 2.36, ["2.31", "2.32", "2.33", "2.34", "2.35", "2.36"]),
        (4.0, 9.0, ["4", "5", "6", "7", "8", "9"]),
        (0.3, 4.0, ["0.5", "1", "2"]),
        (0.02, 90.0, ["0.1", "1", "10"]),
    ],
)
def test_a_logarithmic_colour_bar_has_numbers_in_every_range(low, high, ticks):
    drawn = inline_scale(Picture("bar", "", [], scale=Scale(LogNorm(low, high), "loss")))
    assert re.findall(r">([\d.]+)</text>", drawn) == ticks


def test_figures_follow_the_page_from_light_to_dark(page):
    style, _, body = page.partition("</style>")
    assert "prefers-color-scheme: dark" in style
    assert all(f"--{variable}:" in style for variable in VARIABLES.values())
    assert not re.search("|".join(VARIABLES), body)
    assert "var(--series-0)" in body and "var(--ink)" in body


def test_long_names_neither_overlap_nor_move_their_panels():
    panels = [Panel(name, lambda axes: axes.imshow([[0]])) for name in LONG]
    figure = as_in_a_file(Picture("maps", "", panels, (2.2, 2.2), labels=("x", "y")))
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in combinations(titles, 2))
    assert all(0 <= title.x0 and title.x1 <= figure.bbox.width and title.y1 <= figure.bbox.height for title in titles)
    assert len({round(axes.get_position().y0, 6) for axes in figure.axes}) == 2, "two rows"
    assert ["".join(axes.get_title().split("\n")) for axes in figure.axes] == list(LONG)


def test_a_legend_of_long_names_is_whole():
    panel, chosen = Panel("one", lambda axes: axes.plot([0, 1])), styles(LONG)
    for picture in (Picture("two", "", [panel, panel], legend=chosen), Picture("one", "", [panel], (6.4, 3.8), chosen)):
        figure = as_in_a_file(picture)
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width
        assert min(axes.get_window_extent().height for axes in figure.axes) > 200, "panels keep their size"
