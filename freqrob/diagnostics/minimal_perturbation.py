"""Sizes and spectrum of the smallest perturbations that change the predicted class, from boundary attacks and PGD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, isinf, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks.balls import Norm
from freqrob.attacks.brendel_bethge import BrendelBethge
from freqrob.attacks.minimal_perturbation import MinimalPerturbations, MinimalPerturbationSearch, closest
from freqrob.attacks.smallest_pgd import SmallestPGD
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
    shared_limits,
    shares_upward,
    styled,
)
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.runtime.parameters import Natural, checked, stable_repr
from freqrob.runtime.progress import Progress, no_progress
from freqrob.spectral.perturbation import CORNER, GRID, PerturbationSpectrum, analyze_spectrum
from freqrob.spectral.rings import RingMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


WHITE_NOISE = 0.396  # f_0.5 in cycles/pixel on the grid of Li et al., for images of 32 × 32


@dataclass(frozen=True)
class MinimalPerturbationSpectrum(Measurement):
    """Sizes and spectrum of the smallest perturbations towards another image's label.

    ``of`` takes results of ``MinimalPerturbationSearch`` with any attack, including Foolbox's.

    Attributes:
        distances: (N,) in ``norm``; infinite if no perturbation was found.
        success: (N,) mask of the images with a perturbation.
        by_pgd: (N,) mask of the images whose smallest perturbation was found by PGD.
        power: (H, W) mean |DFT|² over the successes and channels, DC at [0, 0] and set to 0.
        frequencies: (rings,) lower edge of each ring.
        profile: (rings,) mean of ``power`` over each ring.
        radii: (25,) radii from 0 to √½.
        cumulative: (25,) the share of the power within each of ``radii``.
        half_power_frequency: f_0.5, where ``cumulative`` crosses one half; white noise of 32×32 pixels has 0.396.
        half_power_low, half_power_high: its 95 % bootstrap interval over the images.
        exact_half_power_frequency: the smallest coefficient radius that contains half of the power; white noise has
            0.400.
        attack, norm, steps, pgd_steps, repeats, seed: settings of the search.
        images: N. The spectrum and f_0.5 are NaN if no perturbation was found, or only changes of the mean.
    """

    kind = "minimal_perturbation"
    settings = ("images", "norm", "steps", "pgd_steps", "repeats", "seed")

    distances: Annotated[Tensor, Quantity("images", unit="pixels of [0, 1]")]
    success: Annotated[Tensor, Quantity("images", dtype=torch.bool)]
    by_pgd: Annotated[Tensor, Quantity("images", dtype=torch.bool)]
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
    pgd_steps: int
    repeats: int
    seed: int
    images: int

    @classmethod
    def of(
        cls,
        result: MinimalPerturbations,
        spectrum: PerturbationSpectrum,
        search: MinimalPerturbationSearch,
        pgd: tuple[SmallestPGD, Tensor] | None = None,
    ) -> MinimalPerturbationSpectrum:
        """Create a measurement from the results of a search and the spectrum of its successes.

        ``pgd`` is PGD, if it gave candidates too, with the mask (N,) of the images whose smallest perturbation is
        PGD's.
        """
        of_spectrum = {name: value for name, value in vars(spectrum).items() if name in cls.__annotations__}
        low, high = spectrum.half_power_interval
        return cls(
            **{**of_spectrum, "images": len(result.success)},
            distances=result.distances,
            success=result.success,
            half_power_low=low,
            half_power_high=high,
            by_pgd=torch.zeros_like(result.success) if pgd is None else pgd[1],
            attack=stable_repr(search.attack) + (f" and {pgd[0].name}" if pgd else ""),
            norm=search.minimal_attack.norm,
            steps=search.attack.steps,  # pyright: ignore[reportAttributeAccessIssue]  # a field of those used here
            pgd_steps=pgd[0].steps if pgd else 0,
            repeats=search.repeats,
            seed=search.seed,
        )

    @property
    def mean(self) -> float:
        """Mean distance of the perturbations found, Li et al.'s robustness of a model; NaN if none was found."""
        return self.distances[self.success].double().mean().item()

    @property
    def deviation(self) -> float:
        """Standard deviation of the distances of the perturbations found; NaN for fewer than two."""
        distances = self.distances[self.success].double()
        return distances.std().item() if len(distances) > 1 else nan

    def success_rate(self, budgets: Tensor) -> Tensor:
        """Share of all images with a perturbation of at most each of ``budgets``: Li et al., Fig. 2b."""
        return (self.distances <= budgets[..., None].to(self.distances)).double().mean(-1)

    @property
    def half_success(self) -> float:
        """The smallest budget at which at least half of all images have a perturbation; infinite if there is none."""
        return self.distances.sort().values[(len(self.distances) - 1) // 2].item()


@checked
def minimal_perturbation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "Linf",
    steps: int = 1000,
    pgd_steps: Natural = 40,
    repeats: int = 3,
    seed: int = 0,
    batch_size: int = 20,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> MinimalPerturbationSpectrum:
    """Find the smallest targeted perturbations and measure their spectrum.

    The attacks are Brendel–Bethge, started from PGD at ε = 0.5, and PGD in balls of several radii (``SmallestPGD``);
    their targets are a fixed derangement of the labels. The smallest candidate of both attacks and all repeats is kept.
    For rn20 on CIFAR-10, 50 steps give distances within 3 %, and f_0.5 within 0.003, of those of 1,000 steps.

    Args:
        norm: "Linf" or "L2".
        steps: steps of each boundary attack.
        pgd_steps: steps of PGD in each ball; 0 for boundary attacks alone.
        repeats: runs of each attack, from different starts.
        seed: seed of targets, starts and the bootstrap.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``; no class may have
            more than half of the images.

    Raises:
        ValueError: an unknown norm, a count below 1, or invalid images or labels.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 2, 4 and 6: L∞, 1,000 images, 1,000 steps, several repeats.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> found = minimal_perturbation(model, samples.images, samples.labels, steps=3, pgd_steps=2, repeats=1)
    >>> found.distances.shape
    torch.Size([4])
    """
    attack = BrendelBethge(norm, steps=steps)
    search = MinimalPerturbationSearch(attack, repeats=repeats, seed=seed, batch_size=batch_size)
    common = {"cache": cache, "cache_key": cache_key, "progress": progress}
    smallest, by_pgd = search(model, images, labels, **common), None
    if pgd_steps:
        attack, by_boundary = SmallestPGD(norm, steps=pgd_steps), smallest
        smallest = closest([by_boundary, replace(search, attack=attack)(model, images, labels, **common)])
        by_pgd = attack, smallest.distances < by_boundary.distances
    spectrum = _spectrum(smallest.perturbed[smallest.success], to_pixels(images).cpu()[smallest.success], seed)
    return MinimalPerturbationSpectrum.of(smallest, spectrum, search, by_pgd)


def _spectrum(perturbed: Tensor, images: Tensor, seed: int) -> PerturbationSpectrum:
    """``analyze_spectrum``; NaN if there is power only at DC."""
    try:
        return analyze_spectrum(perturbed, images, seed=seed)
    except ValueError:  # no images, or perturbed ones that are images plus a constant
        size, rings = images.shape[-2:], RingMap.of(images)
        power, profile, cumulative = (torch.full(shape, nan).double() for shape in (size, (rings.rings,), (GRID,)))
        radii = torch.linspace(0, CORNER, GRID, dtype=torch.float64)
        return PerturbationSpectrum(power, rings.radii, profile, radii, cumulative, nan, (nan, nan), nan, len(images))


def in_words(value: float, measured: MinimalPerturbationSpectrum, deviation: float | None = None) -> str:
    """Format a size like Li et al.: "1.25/255" or, with a deviation, "(1.34 ± 0.70)/255"; in L2 without /255."""
    if not measured.success.any():
        return "none found"
    if isinf(value):
        return "not reached"
    scale, unit = (255, "/255") if measured.norm == "Linf" else (1, f" in {measured.norm}")
    number = f"{scale * value:.2f}" if scale > 1 else f"{value:.3f}"
    spread = f"{scale * deviation:.2f}" if deviation is not None and scale > 1 else f"{deviation or nan:.3f}"
    return (number if deviation is None else f"({number} ± {spread})") + unit


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
    spectrum_map = perturbation_map(measured)
    return draw_map(axes, spectrum_map, logarithmic(limits or shared_limits([spectrum_map]), clip=True))


def plot_perturbation_profiles(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> Axes:
    """Draw the share of the power of minimal perturbations within each radius, with f_0.5 as a vertical line.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 2d and 4b.
    """
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    for name, measured, style in styled(models, styles):
        axes.plot(measured.radii.numpy(), measured.cumulative.numpy(), label=name, **style)
        axes.axvline(measured.half_power_frequency, color=style["color"], linestyle=":", linewidth=1.2)
    shares_upward(axes)
    axes.set(xlabel=FREQUENCY, ylabel="share of power below")
    return axes


def plot_success_rates(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> Axes:
    """Draw the success rate of targeted attacks against the perturbation budget, with the size at 50 % as a tick.

    Budgets in L∞ are in grey levels of 255. Raises ValueError for models of different norms. Source: Li et al., PLoS
    Comput. Biol. 2023, Fig. 2b.
    """
    distances = torch.cat([measured_model.distances[measured_model.success] for measured_model in models.values()])
    budgets = torch.linspace(0, 1.05 * distances.max().item() if len(distances) else 1, 201, dtype=torch.float64)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    for name, measured, style in styled(models, styles):
        scale = _scale(measured)
        rate = measured.success_rate(budgets).numpy()
        axes.plot((scale * budgets).numpy(), rate, label=name, **{**style, "marker": "none"})
        if isfinite(measured.half_success):
            axes.plot(scale * measured.half_success, 0.5, style["marker"], color=style["color"], markersize=7)
    shares_upward(axes)
    axes.set(xlabel=name_of_size(models.values()).replace("distance", "budget"), ylabel="success rate")
    axes.set_xlim(left=0)
    return axes


def plot_perturbation_sizes(
    axes: Axes, models: Mapping[str, MinimalPerturbationSpectrum], styles: Styles | None = None
) -> Axes:
    """Draw the mean size of minimal perturbations, with its standard error, against f_0.5 and its bootstrap interval.

    The dashed line is white noise's f_0.5. Sizes in L∞ are in grey levels of 255, in L2 with white as 1. Raises
    ValueError for models of different norms. Source: Li et al., PLoS Comput. Biol. 2023, Fig. 4c.
    """
    for name, measured, style in styled(models, styles):
        half, low, high = (getattr(measured, f"half_power_{field}") for field in ("frequency", "low", "high"))
        across = np.abs([[low - half], [high - half]])  # bootstrap percentiles may exclude the estimate
        scale, error = _scale(measured), measured.deviation / int(measured.success.sum()) ** 0.5
        axes.errorbar(
            half, scale * measured.mean, yerr=None if isnan(error) else scale * error, xerr=across, label=name,
            capsize=3, **{**style, "linestyle": "none", "markersize": 7},
        )  # fmt: skip
    axes.axvline(WHITE_NOISE, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="half-power frequency (cycles/pixel)", ylabel=name_of_size(models.values()))
    axes.set_ylim(bottom=0)
    return axes


def _scale(measured: MinimalPerturbationSpectrum) -> int:
    """Grey levels of 255 in L∞."""
    return 255 if measured.norm == "Linf" else 1


def name_of_size(spectra: Iterable[MinimalPerturbationSpectrum]) -> str:
    """Axis label of sizes. Raises ValueError for sizes in several norms."""
    norms = sorted({spectrum.norm for spectrum in spectra})
    if len(norms) > 1:
        raise ValueError(f"models: expected sizes in one norm, got {' and '.join(norms)}")
    return "L∞ distance (grey levels of 255)" if norms == ["Linf"] else f"{norms[0]} distance"


def _success_in_words(measured: MinimalPerturbationSpectrum) -> str:
    """The number of images with a perturbation, if some have none."""
    is_partial = measured.success.any() and not measured.success.all()
    return f", found for {measured.success.sum()} of {len(measured.success)}" if is_partial else ""


def twenty_of_224(height: int, width: int) -> int:
    """Images per batch: 20 as in Li et al., fewer above 224×224, where gradients need more memory."""
    return max(1, min(20, 20 * 224 * 224 // (height * width)))


@register_diagnostic("minimal_perturbation")
class SmallestPerturbations(Diagnostic):
    """``minimal_perturbation`` as a diagnostic."""

    measure = staticmethod(minimal_perturbation)
    measurement = MinimalPerturbationSpectrum
    help = "spectrum of the smallest targeted perturbations, and f_0.5 (Li et al.)."
    presets = {
        "quick": {"images": 20, "steps": 50, "pgd_steps": 10, "repeats": 1, "batch_size": twenty_of_224},
        "full": {"images": 1000, "batch_size": twenty_of_224},
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
            "smallest targeted perturbation, mean ± s.d.",
            text=lambda measured: in_words(measured.mean, measured, measured.deviation) + _success_in_words(measured),
        ),
        Column("perturbation size with 50 % success", text=lambda measured: in_words(measured.half_success, measured)),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        pgd = SmallestPGD().searches * (settings["pgd_steps"] + 1) if settings["pgd_steps"] else 0
        return settings["repeats"] * (200 + settings["steps"] + pgd)  # 200 for the starts

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
        by_norm: dict[str, dict[str, Any]] = {}  # sizes in different norms are not comparable
        for name, measured in models.items():
            by_norm.setdefault(measured.norm, {})[name] = measured
        of_sizes = [
            Panel(title, partial(draw, models=group, styles=styles))
            for title, draw in (("success rate against budget", plot_success_rates),
                                ("mean size against half-power frequency", plot_perturbation_sizes))
            for group in by_norm.values()
        ]  # fmt: skip
        yield Picture(
            "perturbations", "Cumulative radial profiles of minimal perturbations, success rates, and mean sizes.",
            [Panel("radial profiles", partial(plot_perturbation_profiles, models=models, styles=styles)), *of_sizes],
            legend=styles, section=section,
            caption=measurements.caption(
                "minimal_perturbation",
                "Share of the power below each frequency, half of it below f<sub>0.5</sub> (dotted); success rate of "
                "targeted attacks against the perturbation budget; mean size of the perturbations found, with its "
                "standard error, against f<sub>0.5</sub> with its bootstrap 95 % interval, and white noise (dashed). "
                "The smallest of all candidates of {repeats} run(s) of each attack (Li et al., Fig. 4b, 2b and 4c).",
            ),
            compared=[["minimal_perturbation"]],
        )  # fmt: skip
