"""Figures of the images' spectra and of accuracies on corrupted images, on given Axes.

The functions that draw a diagnostic's figures are in its module, such as
``freqrob.diagnostics.hybrid.plot_hybrid(axes, models)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter

from freqrob.data.corruptions import CORRUPTIONS
from freqrob.diagnostics.drawing import FREQUENCY, GREY, Styles, folded, plain_ticks, styled

if TYPE_CHECKING:
    from freqrob.diagnostics.hybrid import HybridReliance
    from freqrob.diagnostics.spectrum import Spectrum
    from freqrob.evaluation.corruptions import CorruptionAccuracy

LABEL = 28  # characters of a name in a line beside a table


def plot_power(axes: Axes, spectra: Mapping[str, Spectrum], styles: Styles | None = None) -> Axes:
    """Draw the mean power of a coefficient against frequency, both logarithmic, with the fitted power law.

    A vertical line marks the lowest of each set's high frequencies. Source: Lin et al., NeurIPS 2023, Eq. 1 and 2.
    """
    for name, measured, style in styled(spectra, styles):
        frequency, power = measured.frequencies[1:].numpy(), measured.power[1:].numpy()
        axes.plot(frequency, power, label=name, **{**style, "linestyle": "none"})
        fitted = frequency[frequency < 0.5]
        axes.plot(fitted, measured.scale * fitted**-measured.alpha, color=style["color"], linewidth=1.2)
        axes.axvline(measured.boundary_radius, color=style["color"], linestyle="--", linewidth=1.2)
    axes.set(yscale="log", ylabel="mean |F|² of a coefficient (white = 1)")
    plain_ticks(axes.yaxis)
    _logarithmic_frequency(axes)
    return axes


def plot_cumulative(axes: Axes, spectra: Mapping[str, Spectrum], styles: Styles | None = None) -> Axes:
    """Draw the share of the power within a radius; a vertical line marks the smallest disc with 80 % of the power.

    Source: Lin et al., NeurIPS 2023, Eq. 2.
    """
    axes.axhline(0.8, color=GREY, linewidth=1)
    for name, measured, style in styled(spectra, styles):
        ends = measured.frequencies + measured.frequencies[1]
        axes.plot(ends[1:].numpy(), measured.cumulative[1:].numpy(), label=name, **style)
        axes.axvline(measured.boundary_radius, color=style["color"], linestyle="--", linewidth=1.2)
    axes.set(ylim=(0, 1.02), ylabel="share of the power within")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _logarithmic_frequency(axes)
    return axes


def plot_corruptions(axes: Axes, models: Mapping[str, CorruptionAccuracy]) -> AxesImage:
    """Draw mean accuracy (%) over severities, with a row per type of corruption and a column per model.

    Returns the image, for a colour bar.
    """
    types = [name for name in CORRUPTIONS if any(name in measured.accuracies for measured in models.values())]
    table = np.array([[m.of_type(kind) if kind in m.accuracies else np.nan for m in models.values()] for kind in types])
    image = axes.imshow(100 * table, norm=Normalize(0, 100), cmap="viridis", aspect="auto", interpolation="none")
    for (row, column), share in np.ndenumerate(table):
        text = "–" if np.isnan(share) else f"{100 * share:.0f}"
        colour = GREY if np.isnan(share) else "#010101" if share > 0.5 else "#fefefe"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    names = [folded(name, LABEL) for name in models]
    axes.set_xticks(range(len(models)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(types)), [kind.replace("_", " ") for kind in types])
    axes.grid(False)
    return image


def plot_reliance(
    axes: Axes, models: Mapping[str, tuple[HybridReliance, CorruptionAccuracy]], styles: Styles | None = None
) -> Axes:
    """Draw the accuracy on corrupted images against the reversal frequency f_rev, with f_rev's range over seeds.

    The accuracy is the mean over all severities and the benchmark's 15 types, or over all measured types if some of
    these are missing. f_rev is in units of Nyquist. Raises ValueError for a model that has no f_rev for any seed.
    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 5b.
    """
    for name, (hybrid, corruptions), style in styled(models, styles):
        known = hybrid.reversal_nyquist[~hybrid.reversal.isnan()].numpy()
        if not len(known):
            raise ValueError(f"models: {name} has no reversal frequency for any seed; leave it out")
        across = [[known.mean() - known.min()], [known.max() - known.mean()]]
        means = corruptions.means()
        axes.errorbar(
            known.mean(), 100 * means.get("15 types", means["all"]), xerr=across, label=name, capsize=3,
            **{**style, "linestyle": "none", "markersize": 7},
        )  # fmt: skip
    axes.set(xlabel="reversal frequency ÷ Nyquist", ylabel="accuracy on corruptions (%)")
    return axes


def _logarithmic_frequency(axes: Axes) -> None:
    ticks = (0.03, 0.05, 0.1, 0.2, 0.5)
    axes.set(xscale="log", xlabel=FREQUENCY)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
