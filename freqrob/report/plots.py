"""The diagnostics as figures: each function draws on the Axes that it is given, in the form of its paper.

Where a function takes several models, they are a mapping from names to measurements, and each gets a colour of Okabe
and Ito's, which the colour-blind can tell apart, a marker and a dash: ``styles`` has enough for 21. Pass the same
``styles`` to several figures, so that a model looks the same in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator, PercentFormatter
from torch import Tensor

from freqrob.data.corruptions import CORRUPTIONS
from freqrob.data.hybrid import CORNER

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from freqrob.diagnostics.band_accuracy import BandAccuracy
    from freqrob.diagnostics.fourier_heatmap import FourierHeatmap
    from freqrob.diagnostics.hybrid import HybridReliance
    from freqrob.diagnostics.jacobian import JacobianSpectrum
    from freqrob.diagnostics.loss_landscape import LossLandscape
    from freqrob.diagnostics.minimal_perturbation import MinimalPerturbationSpectrum
    from freqrob.diagnostics.sensitivity import Sensitivity
    from freqrob.diagnostics.spectrum import Spectrum
    from freqrob.evaluation.corruptions import CorruptionAccuracy

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
FREQUENCY = "frequency (cycles/pixel)"
GREY = "0.55"
LABEL = 28  # characters of a name in a line beside a table
WHITE_NOISE = 0.396  # f_0.5 in cycles/pixel on the grid of Li et al., for images of 32 × 32

Measured = TypeVar("Measured")
Styles = Mapping[str, Mapping[str, Any]]


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For each name the arguments of ``Axes.plot`` that tell it from the others, in black and white too."""
    found = {}
    for index, name in enumerate(dict.fromkeys(names)):
        turn, at = divmod(index, len(COLOURS))
        marker, dash = MARKERS[(at + turn) % len(MARKERS)], DASHES[turn % len(DASHES)]
        found[name] = {"color": COLOURS[at], "marker": marker, "linestyle": dash, "markersize": 4, "linewidth": 1.5}
    return found


def folded(name: str, width: int) -> str:
    """A name in lines of at most ``width`` characters, which end after a sign or a space where they can."""
    lines = re.findall(rf".{{1,{width}}}(?:(?<=[\W_])|\Z)|.{{{width}}}", name, re.DOTALL)
    return "\n".join(line.strip() for line in lines)


def plot_power(axes: Axes, spectra: Mapping[str, Spectrum], styles: Styles | None = None) -> None:
    """Mean power of a coefficient against its frequency, both logarithmic, with the power law fitted below Nyquist.

    A vertical line is where the high frequencies of that set begin. Source: Lin et al., NeurIPS 2023, Eq. 1 and 2.
    """
    for name, measured, style in _styled(spectra, styles):
        frequency, power = measured.frequencies[1:].numpy(), measured.power[1:].numpy()
        axes.plot(frequency, power, label=name, **{**style, "linestyle": "none"})
        fitted = frequency[frequency < 0.5]
        axes.plot(fitted, measured.scale * fitted**-measured.alpha, color=style["color"], linewidth=1.2)
        axes.axvline(measured.boundary_radius, color=style["color"], linestyle="--", linewidth=1.2)
    axes.set(yscale="log", ylabel="mean |F|² of a coefficient (white = 1)")
    _plain(axes.yaxis)
    _logarithmic_frequency(axes)


def plot_cumulative(axes: Axes, spectra: Mapping[str, Spectrum], styles: Styles | None = None) -> None:
    """The share of the power within a radius; a vertical line is the smallest disc that holds 80 % of it.

    Source: Lin et al., NeurIPS 2023, Eq. 2.
    """
    axes.axhline(0.8, color=GREY, linewidth=1)
    for name, measured, style in _styled(spectra, styles):
        ends = measured.frequencies + measured.frequencies[1]
        axes.plot(ends[1:].numpy(), measured.cumulative[1:].numpy(), label=name, **style)
        axes.axvline(measured.boundary_radius, color=style["color"], linestyle="--", linewidth=1.2)
    axes.set(ylim=(0, 1.02), ylabel="share of the power within")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _logarithmic_frequency(axes)


def plot_jacobian(axes: Axes, measured: JacobianSpectrum, limits: tuple[float, float] | None = None) -> AxesImage:
    """The Jacobian's mean spectrum in multiples of its mean, DC in the middle, on a logarithmic scale of ``limits``.

    Returns the image, for a colour bar; ``shared_limits`` makes models comparable. Source: Chan et al., IJCAI 2022.
    """
    whole = jacobian_map(measured)
    return _map(axes, whole, LogNorm(*(limits or shared_limits([whole])), clip=True))


def jacobian_map(measured: JacobianSpectrum) -> Tensor:
    """The mean |DFT| of the Jacobian in multiples of its mean (H, W), DC at (H//2, W//2)."""
    height, columns = measured.amplitude.shape
    whole = shifted_map(measured.amplitude, height if height // 2 + 1 == columns else 2 * (columns - 1))
    return whole / torch.where(whole.mean() > 0, whole.mean(), 1)


def perturbation_map(measured: MinimalPerturbationSpectrum) -> Tensor:
    """The mean |DFT|² of perturbations in multiples of its mean (H, W), DC, which is 0, at (H//2, W//2)."""
    return torch.fft.fftshift(measured.power / measured.power.mean())


def shared_limits(maps: Sequence[Tensor], span: float = 1e3) -> tuple[float, float]:
    """A logarithmic scale that holds several maps, down to a share of 1/``span`` of the largest value."""
    known = [m[(m > 0) & m.isfinite()] for m in maps]
    smallest = min((m.min().item() for m in known if len(m)), default=0.5)
    largest = max((m.max().item() for m in known if len(m)), default=2.0)
    return (max(smallest, largest / span), largest) if smallest < largest else (0.5, 2.0)


def shifted_map(half: Tensor, width: int) -> Tensor:
    """|rfft2| (H, W//2+1) as the whole map (H, W) with DC at (H//2, W//2), through |F(−k)| = |F(k)|."""
    mirrored_rows = -torch.arange(half.shape[0]) % half.shape[0]
    mirrored = half[mirrored_rows, 1 : (width + 1) // 2].flip(-1)
    return torch.fft.fftshift(torch.cat([half, mirrored], -1))


def plot_sensitivity(axes: Axes, models: Mapping[str, Sensitivity], styles: Styles | None = None) -> None:
    """Magnitude of a gradient's coefficients, the largest first, in multiples of their mean.

    Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    for name, measured, style in _styled(models, styles):
        if not measured.magnitude.mean() > 0:  # no gradient, or one that is not a number
            continue
        magnitude = (measured.magnitude / measured.magnitude.mean()).numpy()
        axes.plot(np.arange(1, len(magnitude) + 1), magnitude, label=name, **{**style, "markevery": 0.15})
    axes.set(xlabel="rank of the coefficient", ylabel="magnitude ÷ mean", xscale="log", yscale="log")
    _plain(axes.xaxis, axes.yaxis)


def plot_sensitive_radii(
    axes: Axes, models: Mapping[str, Sensitivity], rank: int = 0, styles: Styles | None = None
) -> None:
    """Density over the images of the frequency of a gradient's coefficient of a rank (from 0, the largest).

    A Gaussian kernel of Scott's width. The grey line is where the high frequencies begin. Raises ValueError for a rank
    that was not kept. Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    for name, measured, style in _styled(models, styles):
        if rank not in measured.ranks:
            raise ValueError(f"rank: {name} has {', '.join(map(str, measured.ranks))}, got {rank}")
        radii = measured.radii[~measured.high_share.isnan(), measured.ranks.index(rank)].double()  # with a gradient
        if not len(radii):
            continue
        width = max(radii.std(unbiased=False).item() * len(radii) ** -0.2, 0.005)
        at = torch.linspace(0, 0.75, 300, dtype=torch.float64)
        kernels = torch.exp(-0.5 * ((at[:, None] - radii) / width).square()) / (width * (2 * torch.pi) ** 0.5)
        axes.plot(at.numpy(), kernels.mean(1).numpy(), label=name, **{**style, "markevery": 0.15})
        axes.axvline(measured.boundary, color=GREY, linewidth=1)
    axes.set(xlabel=f"{FREQUENCY} of coefficient {rank + 1}", ylabel="density")
    axes.set_ylim(bottom=0)


def plot_landscape(
    axes: Axes, measured: LossLandscape, levels: int = 12, limits: tuple[float, float] | None = None
) -> QuadContourSet:
    """Contours of the loss around the weights, where a cross stands; returns them, for a colour bar.

    ``landscape_limits`` makes models comparable. Source: Lin et al., NeurIPS 2023, Fig. 1 and 4; Li et al., NeurIPS
    2018.
    """
    steps, loss = measured.steps.numpy(), measured.loss.nan_to_num(nan=1e3).clamp(max=1e3).numpy()
    low, high = limits or landscape_limits([measured])
    at = np.geomspace(low, high, levels)
    contours = axes.contourf(steps, steps, loss, levels=at, norm=LogNorm(low, high), cmap="viridis", extend="both")
    axes.plot(0, 0, "x", color="#d55e00", markersize=9, markeredgewidth=2)
    axes.set(xlabel="b (filter norms)", ylabel="a (filter norms)", aspect="equal")
    axes.locator_params(nbins=4)  # panels are small
    return contours


def landscape_limits(landscapes: Sequence[LossLandscape]) -> tuple[float, float]:
    """The smallest and the largest loss, between 0.001 and 1000 nats: one scale of colours for all."""
    losses = torch.cat([one.loss.nan_to_num(nan=1e3).flatten() for one in landscapes]).clamp(1e-3, 1e3)
    return losses.min().item(), max(losses.max().item(), 2 * losses.min().item())


def plot_hybrid(axes: Axes, models: Mapping[str, HybridReliance], styles: Styles | None = None) -> None:
    """How much more often a hybrid image is seen as its low than as its high frequencies' image, by where they meet.

    Means over the seeds, a bar from the least to the most; the reversal frequency as a tick on the line of zero, on a
    line from the lowest to the highest.
    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 5.
    """
    axes.axhline(0, color=GREY, linewidth=1)
    for name, measured, style in _styled(models, styles):
        gap = (measured.low - measured.high).numpy()
        mean = gap.mean(0)
        spread = np.abs(np.stack([gap.min(0), gap.max(0)]) - mean)
        axes.errorbar(measured.frequencies.numpy(), mean, spread, label=name, **style)
        reversal = measured.reversal[~measured.reversal.isnan()]
        if len(reversal):
            axes.plot(reversal.mean(), 0, "|", color=style["color"], markersize=16, markeredgewidth=2)
            axes.hlines(0, reversal.min(), reversal.max(), color=style["color"], linewidth=4)
    axes.set(xlabel="mixing " + FREQUENCY, ylabel="p(low) − p(high)", ylim=(-1.02, 1.02))


def plot_perturbation_spectrum(
    axes: Axes, measured: MinimalPerturbationSpectrum, limits: tuple[float, float] | None = None
) -> AxesImage:
    """The mean |DFT|² of minimal perturbations in multiples of its mean, DC in the middle, on a logarithmic scale.

    Returns the image, for a colour bar; ``shared_limits`` makes models comparable. Source: Li et al., PLoS Comput.
    Biol. 2023, Fig. 4a.
    """
    whole = perturbation_map(measured)
    return _map(axes, whole, LogNorm(*(limits or shared_limits([whole])), clip=True))


def plot_perturbation_profiles(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> None:
    """Mean power of a coefficient of minimal perturbations against its radius, with f_0.5 as a vertical line.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 4b.
    """
    for name, measured, style in _styled(models, styles):
        shown = measured.profile > 0
        profile = (measured.profile / measured.power.mean())[shown]
        axes.plot(measured.frequencies[shown].numpy(), profile.numpy(), label=name, **style)
        axes.axvline(measured.half_power_frequency, color=style["color"], linestyle=":", linewidth=1.2)
    axes.set(yscale="log", xlabel=FREQUENCY, ylabel="mean |DFT|² of a ring ÷ mean")
    _plain(axes.yaxis)


def plot_perturbation_sizes(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> None:
    """The median size of minimal perturbations, with quartiles, against f_0.5 with its bootstrap interval.

    The dashed line is white noise's f_0.5. Sizes in L∞ are in grey levels of 255, in L2 with white as 1. Raises
    ValueError for models of different norms. Source: Li et al., PLoS Comput. Biol. 2023, Fig. 4c.
    """
    for name, measured, style in _styled(models, styles):
        half, low, high = (getattr(measured, f"half_power_{what}") for what in ("frequency", "low", "high"))
        across = np.abs([[low - half], [high - half]])  # a bootstrap's percentiles may leave the estimate out
        _draw_size(axes, measured, half, across, name, style)
    axes.axvline(WHITE_NOISE, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="half-power frequency (cycles/pixel)", ylabel=_name_of_size(models.values()))
    axes.set_ylim(bottom=0)


def plot_reversal(
    axes: Axes,
    models: Mapping[str, tuple[HybridReliance, MinimalPerturbationSpectrum]],
    styles: Styles | None = None,
) -> None:
    """The median size of minimal perturbations, with quartiles, against f_rev with its range over the seeds.

    Raises ValueError for a model that has none at any seed, and for models of different norms. Source: Li et al., PLoS
    Comput. Biol. 2023, Fig. 5b.
    """
    for name, (hybrid, perturbation), style in _styled(models, styles):
        known = hybrid.reversal[~hybrid.reversal.isnan()].numpy()
        if not len(known):
            raise ValueError(f"models: {name} has no reversal frequency at any seed")
        across = [[known.mean() - known.min()], [known.max() - known.mean()]]
        _draw_size(axes, perturbation, known.mean(), across, name, style)
    sizes = _name_of_size([perturbation for _, perturbation in models.values()])
    axes.set(xlabel="reversal frequency (cycles/pixel)", ylabel=sizes)
    axes.set_ylim(bottom=0)


def _draw_size(
    axes: Axes, measured: MinimalPerturbationSpectrum, x: float, across: ArrayLike, name: str, style: dict[str, Any]
) -> None:
    scale = 255 if measured.norm == "Linf" else 1
    quarter, median, most = (scale * value for value in measured.quartiles)
    axes.errorbar(
        x, median, yerr=[[median - quarter], [most - median]], xerr=across, label=name, capsize=3,
        **{**style, "linestyle": "none", "markersize": 7},
    )  # fmt: skip


def _name_of_size(measured: Iterable[MinimalPerturbationSpectrum]) -> str:
    norms = sorted({one.norm for one in measured})
    if len(norms) > 1:
        raise ValueError(f"models: expected sizes in one norm, got {' and '.join(norms)}")
    return "L∞ distance (grey levels of 255)" if norms == ["Linf"] else f"{norms[0]} distance"


def plot_heatmap(axes: Axes, measured: FourierHeatmap, largest: float | None = None) -> AxesImage:
    """The Fourier heat map, DC in the middle; on a scale up to ``largest``, so that models can be compared.

    Returns the image, for a colour bar. Source: Yin et al., NeurIPS 2019, Fig. 3.
    """
    norm = Normalize(0, heatmap_limit([measured]) if largest is None else largest)
    return _map(axes, measured.change, norm, (measured.vertical, measured.horizontal))


def heatmap_limit(heatmaps: Iterable[FourierHeatmap]) -> float:
    """The largest change of all, which is the end of a scale; 1 where nothing changes."""
    return max((one.change.nan_to_num(0, 0, 0).max().item() for one in heatmaps), default=0.0) or 1.0


def plot_bands(axes: Axes, models: Mapping[str, BandAccuracy], kind: str = "low", styles: Styles | None = None) -> None:
    """Accuracy on images of which a filter leaves the rings up to (``low``), from (``high``) or around (``band``) one.

    The short line on the right is the accuracy on the images as they are. Raises ValueError for another kind.
    """
    words = {"low": "highest {} left", "high": "lowest {} left, beside the mean", "band": "{} of the band left"}
    if kind not in words:
        raise ValueError(f"kind: expected one of {', '.join(words)}, got {kind!r}")
    for name, measured, style in _styled(models, styles):
        axes.plot(measured.frequencies.numpy(), getattr(measured, kind).numpy(), label=name, **style)
        axes.axhline(measured.accuracy, 0.96, 1, color=style["color"], linewidth=2)
    axes.set(xlabel=words[kind].format(FREQUENCY), ylabel="accuracy")
    _shares(axes)


def plot_robust_bands(axes: Axes, models: Mapping[str, BandAccuracy], styles: Styles | None = None) -> None:
    """Robust accuracy where PGD's perturbation is confined to a band of rings, of which all models have the same."""
    for name, measured, style in _styled(models, styles):
        axes.plot(range(len(measured.robust)), measured.robust.numpy(), label=name, **style)
        ends = [*(f"{frequency:.4g}" for frequency in measured.robust_frequencies.tolist()), f"{CORNER:.2f}"]
        axes.set_xticks(range(len(measured.robust)), [f"{begin}–\n{end}" for begin, end in pairwise(ends)])
    axes.set(xlabel=f"{FREQUENCY} of the perturbation", ylabel="robust accuracy")
    _shares(axes)


def plot_corruptions(axes: Axes, models: Mapping[str, CorruptionAccuracy]) -> AxesImage:
    """Accuracy in percent by type of corruption, the mean over severities: types down, models across.

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


def _styled(models: Mapping[str, Measured], chosen: Styles | None) -> Iterator[tuple[str, Measured, dict[str, Any]]]:
    """Each model with how it is drawn."""
    chosen = chosen or styles(models)
    for name, measured in models.items():
        yield name, measured, dict(chosen[name])


def _map(axes: Axes, values: Tensor, norm: Normalize, at: Sequence[Tensor] = ()) -> AxesImage:
    """A spectrum with DC in the middle; ``at`` the frequencies of its rows and columns, of a whole DFT if none."""
    (top, bottom), (left, right) = map(_edges, at or [torch.fft.fftshift(torch.fft.fftfreq(n)) for n in values.shape])
    image = axes.imshow(
        values.numpy(), norm=norm, cmap="viridis", extent=(left, right, bottom, top), interpolation="none"
    )
    for axis, direction in ((axes.xaxis, "horizontal"), (axes.yaxis, "vertical")):
        axis.set_major_locator(FixedLocator([-0.4, 0, 0.4]))
        axis.set_major_formatter(FixedFormatter(["−0.4", "0", "0.4"]))
        axis.set_label_text(f"{direction} {FREQUENCY}")
    axes.grid(False)
    return image


def _edges(frequencies: Tensor) -> tuple[float, float]:
    """Where the first of a map's rows begins and the last one ends."""
    half = (frequencies[1] - frequencies[0]).item() / 2 if len(frequencies) > 1 else 0.5
    return frequencies[0].item() - half, frequencies[-1].item() + half


def _logarithmic_frequency(axes: Axes) -> None:
    ticks = (0.03, 0.05, 0.1, 0.2, 0.5)
    axes.set(xscale="log", xlabel=FREQUENCY)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _plain(*logarithmic: Axis) -> None:
    """Ticks at powers of ten, as numbers."""
    for axis in logarithmic:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
