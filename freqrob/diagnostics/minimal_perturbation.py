"""Spectrum of the smallest perturbations that change the predicted class, by a boundary attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks.balls import Norm
from freqrob.attacks.brendel_bethge import BrendelBethge
from freqrob.attacks.minimal_perturbation import MinimalPerturbation, MinimalPerturbations
from freqrob.data.datasets import to_pixels
from freqrob.diagnostics.drawing import (
    FREQUENCY,
    GREY,
    Panel,
    Picture,
    Scale,
    Section,
    Styles,
    draw_map,
    logarithmic,
    picture_of_maps,
    plain_ticks,
    shared_limits,
    styled,
)
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.runtime.parameters import checked, stable_repr
from freqrob.runtime.progress import Track, untracked
from freqrob.spectral.perturbation import CORNER, GRID, PerturbationSpectrum, analyze_spectrum
from freqrob.spectral.rings import RingMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike


WHITE_NOISE = 0.396  # f_0.5 in cycles/pixel on the grid of Li et al., for images of 32 × 32


@dataclass(frozen=True)
class MinimalPerturbationSpectrum(Measurement):
    """Sizes and spectrum of the smallest perturbations towards another image's label.

    ``of`` takes results of ``MinimalPerturbation`` with any attack, including Foolbox's.

    Attributes:
        distances: (N,) in ``norm``; infinite if no perturbation was found.
        success: (N,) mask of the images with a perturbation.
        power: (H, W) mean |DFT|² over the successes and channels, DC at [0, 0] and set to 0.
        frequencies: (rings,) lower edge of each ring.
        profile: (rings,) mean of ``power`` over each ring.
        radii: (25,) from 0 to √½.
        cumulative: (25,) the share of the power within each of ``radii``.
        half_power_frequency: f_0.5, where ``cumulative`` crosses one half; white noise of 32×32 pixels has 0.396.
        half_power_low, half_power_high: its 95 % bootstrap interval over the images.
        exact_half_power_frequency: the smallest coefficient radius that contains half of the power; white noise has
            0.400.
        attack, norm, steps, repeats, seed: settings of the search.
        images: N. If no perturbation was found, or none that changes more than the mean, the spectrum and f_0.5 are
            NaN.
    """

    kind = "minimal_perturbation"
    settings = ("images", "norm", "steps", "repeats", "seed")

    distances: Annotated[Tensor, Quantity("images", unit="pixels of [0, 1]")]
    success: Annotated[Tensor, Quantity("images", dtype=torch.bool)]
    power: Annotated[Tensor, Quantity("height width", unit="pixels² of [0, 1]")]
    frequencies: Annotated[Tensor, Quantity("rings", unit="cycles/pixel")]
    profile: Annotated[Tensor, Quantity("rings", unit="pixels² of [0, 1]")]
    radii: Annotated[Tensor, Quantity("radii", unit="cycles/pixel")]
    cumulative: Annotated[Tensor, Quantity("radii")]
    half_power_frequency: Annotated[float, Quantity(unit="cycles/pixel")]
    half_power_low: Annotated[float, Quantity(unit="cycles/pixel")]
    half_power_high: Annotated[float, Quantity(unit="cycles/pixel")]
    exact_half_power_frequency: Annotated[float, Quantity(unit="cycles/pixel")]
    attack: str
    norm: str
    steps: int
    repeats: int
    seed: int
    images: int

    @classmethod
    def of(
        cls, found: MinimalPerturbations, spectrum: PerturbationSpectrum, search: MinimalPerturbation
    ) -> MinimalPerturbationSpectrum:
        """Measurement from the results of a search and the spectrum of its successes."""
        of_spectrum = {name: value for name, value in vars(spectrum).items() if name in cls.__annotations__}
        low, high = spectrum.half_power_interval
        return cls(
            **{**of_spectrum, "images": len(found.success)},
            distances=found.distances,
            success=found.success,
            half_power_low=low,
            half_power_high=high,
            attack=stable_repr(search.attack),
            norm=search.minimal_attack.norm,
            steps=search.attack.steps,  # pyright: ignore[reportAttributeAccessIssue]  # a field of those used here
            repeats=search.repeats,
            seed=search.seed,
        )

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Quartiles of the distances of the perturbations found; NaN without any."""
        found = self.distances[self.success].double()
        lower, median, upper = (found.quantile(share).item() if len(found) else nan for share in (0.25, 0.5, 0.75))
        return lower, median, upper


@checked
def minimal_perturbation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "Linf",
    steps: int = 1000,
    repeats: int = 3,
    seed: int = 0,
    batch_size: int = 20,
    cache: Path | None = None,
    cache_key: str | None = None,
    track: Track = untracked,
) -> MinimalPerturbationSpectrum:
    """Find the smallest targeted perturbations and measure their spectrum.

    The attacks are Brendel–Bethge's, targeted at a fixed derangement of the labels and started from PGD; the smallest
    perturbation of the repeats is kept. For rn20 on CIFAR-10, 50 steps give distances within 3 % and f_0.5 within 0.003
    of those of 1,000 steps.

    Args:
        norm: "Linf" or "L2".
        steps: steps of each attack.
        repeats: number of attacks, from different starts.
        seed: seed of targets, starts and the bootstrap.
        model, images, labels, batch_size, cache, cache_key, track: as for ``per_sample``; no class may have more than
            half of the images.

    Raises:
        ValueError: an unknown norm, a count below 1, or images and labels that do not fit.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 2, 4 and 6: L∞, 1,000 images, 1,000 steps, several repeats.
    """
    search = MinimalPerturbation(BrendelBethge(norm, steps=steps), repeats=repeats, seed=seed, batch_size=batch_size)
    found = search(model, images, labels, cache=cache, cache_key=cache_key, track=track)
    spectrum = _spectrum(found.perturbed[found.success], to_pixels(images).cpu()[found.success], seed)
    return MinimalPerturbationSpectrum.of(found, spectrum, search)


def _spectrum(perturbed: Tensor, images: Tensor, seed: int) -> PerturbationSpectrum:
    """``analyze_spectrum``; NaN if there is no power except at DC."""
    try:
        return analyze_spectrum(perturbed, images, seed=seed)
    except ValueError:  # no images, or perturbed ones that are images plus a constant
        size, rings = images.shape[-2:], RingMap.of(images)
        power, profile, cumulative = (torch.full(shape, nan).double() for shape in (size, (rings.rings,), (GRID,)))
        radii = torch.linspace(0, CORNER, GRID, dtype=torch.float64)
        return PerturbationSpectrum(power, rings.radii, profile, radii, cumulative, nan, (nan, nan), nan, len(images))


def distance(value: float, norm: str, success: Tensor) -> str:
    """Format a distance as "18.6/255", with the number of successes if some images have none."""
    if not success.any():
        return "none found"
    some = "" if success.all() else f" (found for {success.sum()} of {len(success)})"
    return (f"{255 * value:.1f}/255" if norm == "Linf" else f"{value:.3f} in {norm}") + some


def perturbation_map(measured: MinimalPerturbationSpectrum) -> Tensor:
    """Mean |DFT|² of perturbations divided by its mean: (H, W), with DC (0) at (H//2, W//2)."""
    return torch.fft.fftshift(measured.power / measured.power.mean())


def plot_perturbation_spectrum(
    axes: Axes, measured: MinimalPerturbationSpectrum, limits: tuple[float, float] | None = None
) -> AxesImage:
    """Draw the mean |DFT|² of minimal perturbations divided by its mean, DC in the middle, logarithmic.

    Returns the image, for a colour bar; ``shared_limits`` makes models comparable. Source: Li et al., PLoS Comput.
    Biol. 2023, Fig. 4a.
    """
    whole = perturbation_map(measured)
    return draw_map(axes, whole, logarithmic(limits or shared_limits([whole]), clip=True))


def plot_perturbation_profiles(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> None:
    """Draw the mean power of minimal perturbations against the radius, with f_0.5 as a vertical line.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 4b.
    """
    for name, measured, style in styled(models, styles):
        shown = measured.profile > 0
        profile = (measured.profile / measured.power.mean())[shown]
        axes.plot(measured.frequencies[shown].numpy(), profile.numpy(), label=name, **style)
        axes.axvline(measured.half_power_frequency, color=style["color"], linestyle=":", linewidth=1.2)
    axes.set(yscale="log", xlabel=FREQUENCY, ylabel="mean |DFT|² of a ring ÷ mean")
    plain_ticks(axes.yaxis)


def plot_perturbation_sizes(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> None:
    """Draw the median size of minimal perturbations, with quartiles, against f_0.5 with its bootstrap interval.

    The dashed line is white noise's f_0.5. Sizes in L∞ are in grey levels of 255, in L2 with white as 1. Raises
    ValueError for models of different norms. Source: Li et al., PLoS Comput. Biol. 2023, Fig. 4c.
    """
    for name, measured, style in styled(models, styles):
        half, low, high = (getattr(measured, f"half_power_{what}") for what in ("frequency", "low", "high"))
        across = np.abs([[low - half], [high - half]])  # bootstrap percentiles may exclude the estimate
        draw_size(axes, measured, half, across, name, style)
    axes.axvline(WHITE_NOISE, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="half-power frequency (cycles/pixel)", ylabel=name_of_size(models.values()))
    axes.set_ylim(bottom=0)


def draw_size(
    axes: Axes, measured: MinimalPerturbationSpectrum, x: float, across: ArrayLike, name: str, style: dict[str, Any]
) -> None:
    """Draw the median size with quartiles at ``x``; ``across`` is the interval below and above ``x``."""
    scale = 255 if measured.norm == "Linf" else 1
    quarter, median, most = (scale * value for value in measured.quartiles)
    axes.errorbar(
        x, median, yerr=[[median - quarter], [most - median]], xerr=across, label=name, capsize=3,
        **{**style, "linestyle": "none", "markersize": 7},
    )  # fmt: skip


def name_of_size(measured: Iterable[MinimalPerturbationSpectrum]) -> str:
    """Axis label of sizes. Raises ValueError for sizes in several norms."""
    norms = sorted({one.norm for one in measured})
    if len(norms) > 1:
        raise ValueError(f"models: expected sizes in one norm, got {' and '.join(norms)}")
    return "L∞ distance (grey levels of 255)" if norms == ["Linf"] else f"{norms[0]} distance"


def by_norm(models: Mapping[str, Any], norm_of: Callable[[Any], str]) -> list[dict[str, Any]]:
    """The models grouped by norm, because sizes in different norms are not comparable."""
    norms = dict.fromkeys(map(norm_of, models.values()))
    return [{name: found for name, found in models.items() if norm_of(found) == norm} for norm in norms]


@register_diagnostic("minimal_perturbation")
class SmallestPerturbations(Diagnostic):
    """``minimal_perturbation`` as a diagnostic."""

    measure = staticmethod(minimal_perturbation)
    measurement = MinimalPerturbationSpectrum
    help = "spectrum of the smallest targeted perturbations, and f_0.5 (Li et al.)."
    presets = {
        "quick": {"images": 20, "steps": 50, "repeats": 1, "batch_size": 20},
        "full": {"images": 1000, "batch_size": 20},
    }
    needs_gradients = True
    order = 40
    columns = (
        Column(
            "half-power frequency f_0.5 (cycles/pixel)", lambda measured: measured.half_power_frequency,
            title=Markup("f<sub>0.5</sub>"), key="half_power_frequency", unit="cycles/pixel", digits=3,
            help="Half of the power of minimal perturbations lies below it (Li et al.); white noise has 0.396 "
            "cycles/pixel.",
            hint="lower if low frequencies dominate", none="no perturbation was found",
            part=lambda m: "" if m.success.all() else f"of the {m.success.sum()} with a perturbation", order=20,
        ),
        Column(
            "smallest targeted perturbation, median",
            text=lambda measured: distance(measured.quartiles[1], measured.norm, measured.success),
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return settings["repeats"] * (200 + settings["steps"])  # 200 for the starts

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models = {
            name: measured for name, measured in measurements["minimal_perturbation"].items()
            if isfinite(measured.half_power_frequency)
        }  # fmt: skip
        if not models:
            return
        section = Section("perturbations", "Minimal adversarial perturbations", "minimal perturbations", 40)
        limits = shared_limits([perturbation_map(measured) for measured in models.values()], span=1e4)
        yield picture_of_maps(
            "perturbation_spectra", "Spectra of minimal adversarial perturbations as maps.", models,
            partial(plot_perturbation_spectrum, limits=limits),
            Scale(logarithmic(limits), "mean |DFT|² ÷ its mean over the map"), section=section,
            caption=measurements.caption(
                "minimal_perturbation",
                "Mean power spectra of the smallest targeted perturbations found, without DC, each divided by its "
                "mean, all on one scale; {images} images of {source}; {attack} (Li et al., PLoS Comput. Biol. 2023, "
                "Fig. 4a).",
            ),
            compared=[["minimal_perturbation"]],
        )  # fmt: skip
        styles = {name: measurements.styles[name] for name in models}
        sizes = [
            Panel("size against half-power frequency", partial(plot_perturbation_sizes, models=some, styles=styles))
            for some in by_norm(models, lambda measured: measured.norm)
        ]
        yield Picture(
            "perturbations", "Radial profiles of minimal perturbations, and their size against f_0.5.",
            [Panel("radial profiles", partial(plot_perturbation_profiles, models=models, styles=styles)), *sizes],
            legend=styles, section=section,
            caption=measurements.caption(
                "minimal_perturbation",
                "Left: radial profiles; half of the power lies below f<sub>0.5</sub> (dotted). Right: median size "
                "with quartiles of the perturbations found, against f<sub>0.5</sub> with its bootstrap 95 % interval; "
                "the dashed line is white noise. The best of {repeats} run(s) (Li et al., Fig. 4b and 4c).",
            ),
            compared=[["minimal_perturbation"]],
        )  # fmt: skip
