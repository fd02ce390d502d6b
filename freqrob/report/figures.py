"""Figures for the page, panel by panel, and as files with all panels."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from torch import Tensor

from freqrob.diagnostics.drawing import COLOURS, GREY, Picture, Scale, folded
from freqrob.runtime.figures import FORMATS, save_figure

INK, MUTED, LINES = "#1b1f24", "#5b6470", "#d9dde3"
# On the page these colours are CSS variables, set for light and dark mode.
VARIABLES = {INK: "ink", MUTED: "muted", LINES: "line", to_hex(GREY): "grey"} | {
    colour: f"series-{index}" for index, colour in enumerate(COLOURS)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "freqrob",
    "text.parse_math": False,  # names of models are arbitrary
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINES,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
COLUMNS = 4  # most panels in a row of a file
LEGEND = 3  # inches per column of names; the line takes 0.7
LETTERS = 10  # per inch of a name


def inline(picture: Picture) -> list[tuple[str, Markup]]:
    """Each panel's title, and the panel as an SVG element that takes its colours from the page."""
    elements = []
    for index, panel in enumerate(picture.panels):
        with rc_context(STYLE):
            figure = Figure(figsize=picture.size, layout="constrained")
            axes = figure.add_subplot()
            panel.draw(axes)
            _strip(picture, axes)
            elements.append((panel.title, _element(figure, f"{picture.name}-{index}")))
    return elements


def inline_scale(picture: Picture) -> Markup:
    """The colour bar as an SVG element, or nothing."""
    if picture.scale is None:
        return Markup()
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 0.62))
        _colour_bar(figure, picture.scale, cax=figure.add_axes((0.04, 0.72, 0.92, 0.2)))
        return _element(figure, f"{picture.name}-scale")


def save(picture: Picture, folder: Path) -> None:
    """Write the figure with all panels, the legend and the colour bar, in each of ``FORMATS``. Raises OSError."""
    with rc_context(STYLE):
        figure = draw_all(picture)
        for kind in FORMATS:
            save_figure(figure, folder / f"{picture.name}.{kind}")


def draw_all(picture: Picture) -> Figure:
    """Draw all panels, the legend and the colour bar; call it with ``STYLE``'s parameters in effect."""
    columns = min(len(picture.panels), COLUMNS if picture.size[0] < 4 else 2)
    rows = math.ceil(len(picture.panels) / columns)
    titles = [folded(panel.title, int(picture.size[0] * LETTERS)) for panel in picture.panels]
    height = picture.size[1] + 0.15 * max(title.count("\n") for title in titles)
    size = max(columns * picture.size[0], 5), rows * height + (0.7 if picture.scale else 0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel, title in zip(grid, picture.panels, titles, strict=False):
        panel.draw(axes)
        axes.set_title(title)
        _strip(picture, axes)
    for axes in grid[len(picture.panels) :]:
        axes.remove()
    if picture.labels:
        figure.supxlabel(picture.labels[0], fontsize="medium")
        figure.supylabel(picture.labels[1], fontsize="medium")
    if picture.scale:
        panels = list(grid[: len(picture.panels)])
        _colour_bar(figure, picture.scale, ax=panels, location="top", aspect=50, shrink=0.6)
    if picture.legend:
        _legend(figure, picture.legend)
    return figure


def _strip(picture: Picture, axes: Axes) -> None:
    if picture.labels:
        axes.set(xlabel="", ylabel="")


def swatch(style: Mapping[str, Any]) -> Markup:
    """A line with its marker, as in a legend: an SVG element in the page's colours."""
    dash = style["linestyle"]
    dashes = "" if isinstance(dash, str) else " ".join(str(2 * length) for length in dash[1])
    marker = MarkerStyle(style["marker"])
    outline = np.asarray(marker.get_path().transformed(marker.get_transform()).to_polygons()[0])
    points = " ".join(f"{18 + 10 * x:.1f},{8 - 10 * y:.1f}" for x, y in outline)
    colour = f"var(--{VARIABLES[style['color']]})"
    return Markup(
        '<svg class="swatch" viewBox="0 0 36 16" aria-hidden="true"><line x1="0" x2="36" y1="8" y2="8" '
        'stroke="{0}" stroke-width="2.5" stroke-dasharray="{1}"/><polygon points="{2}" fill="{0}"/></svg>'
    ).format(colour, dashes, points)


def png_uri(image: Tensor) -> str:
    """A (3, H, W) uint8 image as ``data:image/png;base64,…``."""
    from PIL import Image  # torchvision brings it

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Add a legend below the panels and enlarge the figure for it."""
    width, height = figure.get_size_inches()
    columns = int(width // LEGEND)
    handles = [
        Line2D([], [], label=folded(name, int((LEGEND - 0.7) * LETTERS)), **style) for name, style in styles.items()
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.set_figheight(height + legend.get_window_extent().height / figure.dpi)


def _colour_bar(figure: Figure, scale: Scale, **where: Any) -> None:
    bar = figure.colorbar(
        ScalarMappable(scale.norm, "viridis"), label=scale.label, **{"orientation": "horizontal", **where}
    )
    low, high = scale.norm.vmin, scale.norm.vmax
    if isinstance(scale.norm, LogNorm) and low is not None and high is not None:
        ticks = _logarithmic_ticks(low, high)
        bar.ax.xaxis.set_major_locator(FixedLocator(ticks))
        bar.ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:.10g}" for tick in ticks]))
        bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; for less than three decades also 2 and 5 times these; equal steps if these are too few."""
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    if len(ticks) > 1:
        return ticks
    return [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def _svg(figure: Figure) -> bytes:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue().encode()


def _element(figure: Figure, prefix: str) -> Markup:
    """The figure as an SVG element with the page's colours and unique ids, without metadata and fixed size."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = _svg(figure).decode()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"""(url\(|href=["'])#""", rf"\1#{prefix}-", text)
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px; font-family: inherit", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(re.sub(r"\n\s*", "\n", text))
