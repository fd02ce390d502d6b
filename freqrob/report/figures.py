"""Figures as SVG that takes its colours from the page, and images as PNG data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter
from torch import Tensor

from freqrob.report.measure import SpectrumSummary

# Colours that no figure uses otherwise stand for the page's variables, which know of light and dark.
INK, MUTED, LINES, NATURAL, BALANCED = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "ink", MUTED: "muted", LINES: "line", NATURAL: "natural", BALANCED: "bass"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "freqrob",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINES,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_FREQUENCIES = (0.03, 0.05, 0.1, 0.2, 0.5)


def power_figure(natural: SpectrumSummary, balanced: SpectrumSummary) -> str:
    """Mean power of a coefficient against its frequency, both logarithmic, with the fitted power laws."""
    with rc_context(_STYLE):
        figure, axes = _figure(5.6, 4.2)
        for summary, colour, name, marker in _both(natural, balanced):
            frequency, power = summary.frequencies[1:].numpy(), summary.power[1:].numpy()
            axes.plot(frequency, power, marker, color=colour, markersize=5, label=name)
            fitted = frequency[frequency < 0.5]
            law = summary.power_law.scale * fitted**-summary.power_law.alpha
            axes.plot(fitted, law, color=colour, linewidth=1.4, label=f"power law, α = {summary.power_law.alpha:.2f}")
            axes.axvline(summary.split.radius, color=colour, linestyle=_dash(name), linewidth=1.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylabel("mean |F|² of a coefficient (white = 1)")
        _frequency_axis(axes)
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "power")


def cumulative_figure(natural: SpectrumSummary, balanced: SpectrumSummary) -> str:
    """The share of the power within a radius, with the discs that hold 80 % of it."""
    with rc_context(_STYLE):
        figure, axes = _figure(5.6, 4.2)
        axes.axhline(0.8, color=MUTED, linewidth=1)
        for summary, colour, name, marker in _both(natural, balanced):
            ends, share = summary.frequencies + summary.frequencies[1], summary.cumulative
            axes.plot(ends[1:].numpy(), share[1:].numpy(), marker + "-", color=colour, markersize=4, label=name)
            axes.axvline(
                summary.split.radius, color=colour, linestyle=_dash(name), linewidth=1.8,
                label=f"LFC | HFC at {summary.split.radius:.3f}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("share of the power within the radius")
        _frequency_axis(axes)
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "cumulative")


def gradient_figure(spectrum: Tensor, width: int, limits: tuple[float, float], name: str) -> str:
    """A gradient's spectrum as a map with DC in the middle, in multiples of its mean, on the scale ``limits``.

    ``spectrum`` is (H, W//2+1) of images ``width`` pixels wide; ``name`` makes the figure's ids its own.
    """
    whole = shifted_map(spectrum, width)
    with rc_context({**_STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure, axes = _figure(4.9, 3.9)
        extent = (*_edges(width), *reversed(_edges(whole.shape[0])))
        norm = LogNorm(*limits, clip=True)
        axes.imshow((whole / whole.mean()).numpy(), norm=norm, cmap="viridis", extent=extent, interpolation="none")
        for axis, label in ((axes.xaxis, "horizontal"), (axes.yaxis, "vertical")):
            axis.set_major_locator(FixedLocator([-0.5, -0.25, 0, 0.25]))
            axis.set_major_formatter(FixedFormatter(["−0.5", "−0.25", "0", "0.25"]))
            axis.set_label_text(f"{label} frequency (cycles/pixel)")
        bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label="mean |DFT| ÷ its mean over the map")
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if limits[0] <= tick <= limits[1]]
        bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
        bar.ax.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        return _svg(figure, name)


def gradient_limits(spectra: Sequence[Tensor], width: int) -> tuple[float, float]:
    """The smallest and largest value of several maps, each in multiples of its mean: one colour scale for all."""
    maps = [whole / whole.mean() for whole in (shifted_map(spectrum, width) for spectrum in spectra)]
    smallest, largest = min(m.min().item() for m in maps), max(m.max().item() for m in maps)
    return (max(smallest, largest / 1e3), largest) if smallest < largest else (0.5, 2.0)


def shifted_map(half: Tensor, width: int) -> Tensor:
    """|rfft2| (H, W//2+1) as the whole map (H, W) with DC at (H//2, W//2), through |F(−k)| = |F(k)|."""
    mirrored_rows = -torch.arange(half.shape[0]) % half.shape[0]
    mirrored = half[mirrored_rows, 1 : (width + 1) // 2].flip(-1)
    return torch.fft.fftshift(torch.cat([half, mirrored], -1))


def png_uri(image: Tensor) -> str:
    """A (3, H, W) uint8 image as ``data:image/png;base64,…``."""
    from PIL import Image  # torchvision brings it

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _edges(size: int) -> tuple[float, float]:
    """Where the first pixel of a shifted spectrum begins and the last one ends, in cycles/pixel."""
    return (-(size // 2) - 0.5) / size, (size - size // 2 - 0.5) / size


def _both(natural: SpectrumSummary, balanced: SpectrumSummary) -> list[tuple[SpectrumSummary, str, str, str]]:
    return [(natural, NATURAL, "natural", "o"), (balanced, BALANCED, "BaSS", "s")]


def _dash(name: str) -> str | tuple:
    return "--" if name == "natural" else (0, (1, 1.5))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _frequency_axis(axes: Axes) -> None:
    axes.set_xlabel("frequency (cycles/pixel)")
    axes.xaxis.set_major_locator(FixedLocator(_FREQUENCIES))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{f:g}" for f in _FREQUENCIES]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element for a page: page colours, ids of its own, no metadata, no fixed size."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"""(url\(|href=["'])#""", rf"\1#{prefix}-", text)
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px; font-family: inherit", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
