"""The diagnostics as figures: each function draws on the Axes that it is given, in the form of its paper.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines differ in their markers too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.image import AxesImage
from matplotlib.ticker import PercentFormatter

from freqrob.diagnostics.band_accuracy import BandAccuracy
from freqrob.diagnostics.fourier_heatmap import FourierHeatmap
from freqrob.diagnostics.hybrid import HybridReliance
from freqrob.diagnostics.loss_landscape import LossLandscape
from freqrob.diagnostics.sensitivity import Sensitivity

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
FREQUENCY = "frequency (cycles/pixel)"

Measured = TypeVar("Measured")


def plot_hybrid(axes: Axes, models: Mapping[str, HybridReliance]) -> None:
    """How much more often a hybrid image is seen as its low than as its high frequencies' image, by where they meet.

    Means over the seeds, a bar from the least to the most; the reversal frequency as a tick on the line of zero.
    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 5.
    """
    axes.axhline(0, color="0.6", linewidth=1)
    for name, measured, style in _styled(models):
        gap = (measured.low - measured.high).numpy()
        mean = gap.mean(0)
        spread = np.abs(np.stack([gap.min(0), gap.max(0)]) - mean)
        axes.errorbar(measured.frequencies.numpy(), mean, spread, label=name, **style)
        reversal = measured.reversal[~measured.reversal.isnan()]
        if len(reversal):
            axes.plot(reversal.mean(), 0, "|", color=style["color"], markersize=16, markeredgewidth=2)
    axes.set(xlabel="mixing " + FREQUENCY, ylabel="p(low) − p(high)", ylim=(-1.02, 1.02))


def plot_bands(axes: Axes, models: Mapping[str, BandAccuracy], kind: str = "low") -> None:
    """Accuracy on images of which a filter leaves the rings up to (``low``), from (``high``) or around (``band``) one.

    Raises ValueError for another kind.
    """
    words = {"low": "highest {} left", "high": "lowest {} left, beside the mean", "band": "{} of the band left"}
    if kind not in words:
        raise ValueError(f"kind: expected one of {', '.join(words)}, got {kind!r}")
    for name, measured, style in _styled(models):
        axes.plot(measured.frequencies.numpy(), getattr(measured, kind).numpy(), label=name, **style)
        axes.axhline(measured.accuracy, color=style["color"], linewidth=0.8, linestyle=":")
    axes.set(xlabel=words[kind].format(FREQUENCY), ylabel="accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def plot_sensitivity(axes: Axes, models: Mapping[str, Sensitivity]) -> None:
    """Magnitude of a gradient's coefficients, the largest first, in multiples of their mean.

    Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    for name, measured, style in _styled(models):
        magnitude = (measured.magnitude / measured.magnitude.mean()).numpy()
        axes.plot(np.arange(1, len(magnitude) + 1), magnitude, label=name, color=style["color"])
    axes.set(xlabel="rank of the coefficient", ylabel="magnitude ÷ mean", xscale="log", yscale="log")


def plot_sensitive_radii(axes: Axes, models: Mapping[str, Sensitivity], rank: int = 0) -> None:
    """Density over the images of the frequency of a gradient's coefficient of a rank (from 0, the largest).

    A Gaussian kernel of Scott's width. The grey line is where the high frequencies begin. Raises ValueError for a rank
    that was not kept. Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    for name, measured, style in _styled(models):
        if rank not in measured.ranks:
            raise ValueError(f"rank: {name} has {', '.join(map(str, measured.ranks))}, got {rank}")
        radii = measured.radii[:, measured.ranks.index(rank)].double()
        width = max(radii.std(unbiased=False).item() * len(radii) ** -0.2, 0.005)
        at = torch.linspace(0, 0.75, 300, dtype=torch.float64)
        kernels = torch.exp(-0.5 * ((at[:, None] - radii) / width).square()) / (width * (2 * torch.pi) ** 0.5)
        axes.plot(at.numpy(), kernels.mean(1).numpy(), label=name, color=style["color"])
        axes.axvline(measured.boundary, color="0.6", linewidth=1)
    axes.set(xlabel=f"{FREQUENCY} of coefficient {rank + 1}", ylabel="density")
    axes.set_ylim(bottom=0)


def plot_heatmap(axes: Axes, measured: FourierHeatmap, largest: float | None = None) -> AxesImage:
    """The Fourier heat map, DC in the middle; on a scale up to ``largest``, so that models can be compared.

    Returns the image, for a colour bar. Source: Yin et al., NeurIPS 2019, Fig. 3.
    """
    height, width = measured.change.shape
    extent = [(-(width // 2) - 0.5) / width, (width - width // 2 - 0.5) / width]
    extent += [(height - height // 2 - 0.5) / height, (-(height // 2) - 0.5) / height]
    largest = measured.change.max().item() if largest is None else largest
    image = axes.imshow(measured.change.numpy(), vmin=0, vmax=largest, cmap="viridis", extent=extent)
    axes.set(xlabel=f"horizontal {FREQUENCY}", ylabel=f"vertical {FREQUENCY}")
    return image


def plot_landscape(axes: Axes, measured: LossLandscape, levels: int = 12) -> QuadContourSet:
    """Contours of the loss around the weights, where a cross stands; returns them, for a colour bar.

    Source: Lin et al., NeurIPS 2023, Fig. 1 and 4; Li et al., NeurIPS 2018.
    """
    steps, loss = measured.steps.numpy(), measured.loss.clamp(max=1e3).numpy()
    at = np.geomspace(max(loss.min(), 1e-3), max(loss.max(), 2e-3), levels)
    contours = axes.contour(steps, steps, loss, levels=at, cmap="viridis")
    axes.plot(0, 0, "x", color="#d55e00", markersize=9, markeredgewidth=2)
    axes.set(xlabel="b (filter norms)", ylabel="a (filter norms)", aspect="equal")
    return contours


def _styled(models: Mapping[str, Measured]) -> Iterator[tuple[str, Measured, dict]]:
    """Each model with its colour and marker."""
    for index, (name, measured) in enumerate(models.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        yield name, measured, {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5}
