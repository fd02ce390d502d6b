"""Parts of the diagnostics' figures: panels, colours, maps of a spectrum. matplotlib is only imported to draw.

Functions that draw several models take a mapping from names to measurements. Each model gets a marker, a dash pattern
and a colour of Okabe and Ito's palette, which is safe for colour-blind readers; ``styles`` has 21 different ones. Pass
the same ``styles`` to several figures, so that a model looks the same in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
FREQUENCY = "frequency (cycles/pixel)"
GREY = "0.55"
MAP = (2.2, 2.2)  # inches

Measured = TypeVar("Measured")
Styles = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """A section of the report's page.

    Attributes:
        id: its address on the page.
        title: its heading, which may have markup.
        contents: its entry in the list at the top of the page, which may have markup.
        order: position among the sections, ascending.
    """

    id: str
    title: str
    contents: str
    order: int = 100


@dataclass(frozen=True)
class Panel:
    """A part of a figure with its own Axes: its title and the function that draws it."""

    title: str
    draw: Callable[[Axes], Any]


@dataclass(frozen=True)
class Scale:
    """The colours that all panels share."""

    norm: Normalize
    label: str


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: name of its files.
        about: description for screen readers.
        panels: panels, side by side.
        size: size of a panel in inches.
        legend: style of each model, from ``styles``.
        scale: colours that all panels share.
        labels: labels of both axes, if all panels share them.
        downward: whether the vertical axis points down.
        section: section of the page; by default the section of all figures that have none.
        caption: text below it, which may have markup.
        compared: groups of diagnostics' names, by default the figure's; the caption says which models were measured
            under other conditions than the others of a group.
    """

    name: str
    about: str
    panels: Sequence[Panel]
    size: tuple[float, float] = (4.6, 3.2)
    legend: Styles | None = None
    scale: Scale | None = None
    labels: tuple[str, str] | None = None
    downward: bool = False
    section: Section = Section("figures", "Figures", "figures")
    caption: str = ""
    compared: Sequence[Sequence[str]] = ()

    @property
    def drawn_by(self) -> str:
        """Names of the functions that draw the panels, for drawing on your own Axes."""
        names = [getattr(getattr(panel.draw, "func", panel.draw), "__name__", "") for panel in self.panels]
        return ", ".join(dict.fromkeys(name for name in names if name.startswith("plot_")))


def picture_of_maps(
    name: str, about: str, models: Mapping[str, Any], draw: Callable[..., Any], scale: Scale, **more: Any
) -> Picture:
    """A figure with one map per model, drawn by ``draw(axes, measured)``; ``more`` are fields of ``Picture``."""
    panels = [Panel(model, partial(draw, measured=measured)) for model, measured in models.items()]
    labels = f"horizontal {FREQUENCY}", f"vertical {FREQUENCY}"
    return Picture(name, about, panels, MAP, scale=scale, labels=labels, downward=True, **more)


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Arguments of ``Axes.plot`` for each name, distinguishable in black and white."""
    by_name = {}
    for index, name in enumerate(dict.fromkeys(names)):
        turn, hue = divmod(index, len(COLOURS))
        marker, dash = MARKERS[(hue + turn) % len(MARKERS)], DASHES[turn % len(DASHES)]
        by_name[name] = {"color": COLOURS[hue], "marker": marker, "linestyle": dash, "markersize": 4, "linewidth": 1.5}
    return by_name


def styled(models: Mapping[str, Measured], chosen: Styles | None) -> Iterator[tuple[str, Measured, dict[str, Any]]]:
    """Each model's name, measurement and style."""
    chosen = chosen or styles(models)
    for name, measured in models.items():
        yield name, measured, dict(chosen[name])


def folded(name: str, width: int) -> str:
    """Wrap a name at ``width`` characters, after a symbol or a space if possible."""
    lines = re.findall(rf".{{1,{width}}}(?:(?<=[\W_])|\Z)|.{{{width}}}", name, re.DOTALL)
    return "\n".join(line.strip() for line in lines)


def shared_limits(maps: Sequence[Tensor], span: float = 1e3) -> tuple[float, float]:
    """Limits of a logarithmic scale for several maps, down to 1/``span`` of the largest value."""
    known = [m[(m > 0) & m.isfinite()] for m in maps]
    smallest = min((m.min().item() for m in known if len(m)), default=0.5)
    largest = max((m.max().item() for m in known if len(m)), default=2.0)
    return (max(smallest, largest / span), largest) if smallest < largest else (0.5, 2.0)


def logarithmic(limits: tuple[float, float], clip: bool = False) -> Normalize:
    """Logarithmic colour scale."""
    from matplotlib.colors import LogNorm

    return LogNorm(*limits, clip=clip)


def draw_map(axes: Axes, values: Tensor, norm: Normalize, frequencies: Sequence[Tensor] = ()) -> AxesImage:
    """Draw a spectrum, DC in the middle; ``frequencies`` are those of rows and columns, by default a DFT's."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    places = frequencies or [torch.fft.fftshift(torch.fft.fftfreq(n)) for n in values.shape]
    image = _draw_spectrum(axes, values, norm, *places)
    for axis, direction in ((axes.xaxis, "horizontal"), (axes.yaxis, "vertical")):
        axis.set_major_locator(FixedLocator([-0.4, 0, 0.4]))
        axis.set_major_formatter(FixedFormatter(["−0.4", "0", "0.4"]))
        axis.set_label_text(f"{direction} {FREQUENCY}")
    return image


def draw_quadrant(axes: Axes, amplitude: Tensor, norm: Normalize) -> AxesImage:
    """Draw the quadrant of non-negative frequencies of |rfft2| (H, W//2+1), DC at the top left, as in JaFR's figures.

    Vertical frequencies rise downwards, horizontal ones to the right. Source: Chan et al., IJCAI 2022, Fig. 1.
    """
    quarter = quadrant(amplitude)
    image = _draw_spectrum(axes, quarter, norm, *(torch.linspace(0, 0.5, count) for count in quarter.shape))
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel("horizontal frequency →", fontsize="small")
    axes.set_ylabel("← vertical frequency", fontsize="small")
    return image


def _draw_spectrum(axes: Axes, values: Tensor, norm: Normalize, rows: Tensor, columns: Tensor) -> AxesImage:
    (top, bottom), (left, right) = _edges(rows), _edges(columns)
    axes.grid(False)
    extent = left, right, bottom, top
    return axes.imshow(values.numpy(), norm=norm, cmap="viridis", extent=extent, interpolation="none")


def quadrant(amplitude: Tensor) -> Tensor:
    """The rows 0 to H//2 of |rfft2| (H, W//2+1): non-negative frequencies, DC at [0, 0].

    >>> quadrant(torch.zeros(32, 17)).shape
    torch.Size([17, 17])
    """
    return amplitude[: amplitude.shape[0] // 2 + 1]


def _edges(frequencies: Tensor) -> tuple[float, float]:
    """Lower edge of a map's first row and upper edge of its last."""
    half = (frequencies[1] - frequencies[0]).item() / 2 if len(frequencies) > 1 else 0.5
    return frequencies[0].item() - half, frequencies[-1].item() + half


def plain_ticks(*logarithmic: Axis) -> None:
    """Label ticks at powers of ten as plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in logarithmic:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def shares_upward(axes: Axes) -> None:
    """Set the vertical axis to 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
