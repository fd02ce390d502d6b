"""Which figures a report has: each diagnostic that models have, in the form of its paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite
from typing import Any

from matplotlib.colors import LogNorm, Normalize

from freqrob.report import plots
from freqrob.report.figures import Panel, Picture, Scale
from freqrob.report.records import Records
from freqrob.runtime.figures import drawing

MAP = (2.2, 2.2)
AXES = (f"horizontal {plots.FREQUENCY}", f"vertical {plots.FREQUENCY}")
HALVES = {"loss_landscape_low": "LFC", "loss_landscape_high": "HFC"}


def pictures(records: Records) -> dict[str, Picture]:
    """By name, in the order of the page; a model looks the same in all of them. Warns of what cannot be drawn."""
    drawers = (_corruptions, _spectra, _jacobian, _sensitivity, _landscapes, _perturbations, _hybrid, _heatmaps, _bands)
    styles = plots.styles(model.name for model in records.models)
    found: dict[str, Picture] = {}
    for draw in drawers:
        with drawing(draw.__name__.strip("_")):
            found |= {picture.name: picture for picture in draw(records, styles)}
    return found


def _spectra(records: Records, _styles: plots.Styles) -> Iterator[Picture]:
    sets = {name: one.of for name, one in records.spectra.items() if one.of.kind == "spectrum"}
    if sets:
        styles = plots.styles(sets)
        yield Picture(
            "spectra", "The images' mean power by frequency, and the share of it within a radius.",
            [Panel("power of a coefficient", partial(plots.plot_power, spectra=sets, styles=styles)),
             Panel("share within a radius", partial(plots.plot_cumulative, spectra=sets, styles=styles))],
            legend=styles,
        )  # fmt: skip


def _jacobian(records: Records, _styles: plots.Styles) -> Iterator[Picture]:
    models = {name: found for name, found in records.having("jacobian").items() if isfinite(found.log_b_low)}
    if models:
        limits = plots.shared_limits([plots.jacobian_map(measured) for measured in models.values()])
        panels = [
            Panel(name, partial(plots.plot_jacobian, measured=measured, limits=limits))
            for name, measured in models.items()
        ]
        scale = Scale(LogNorm(*limits), "mean |DFT| of the gradient ÷ its mean over the map")
        about = "Spectra of input gradients as maps."
        yield Picture("jacobian", about, panels, MAP, scale=scale, labels=AXES, downward=True)


def _sensitivity(records: Records, styles: plots.Styles) -> Iterator[Picture]:
    models = records.having("sensitivity")
    if models:
        ranks = [rank for rank in next(iter(models.values())).ranks if all(rank in m.ranks for m in models.values())]
        densities = [
            Panel(f"where the coefficient of rank {rank + 1} lies",
                  partial(plots.plot_sensitive_radii, models=models, rank=rank, styles=styles))
            for rank in ranks
        ]  # fmt: skip
        by_rank = Panel("magnitude by rank", partial(plots.plot_sensitivity, models=models, styles=styles))
        about = "Magnitudes of the gradient's coefficients by rank, and at which frequency they lie."
        yield Picture("sensitivity", about, [by_rank, *densities], legend=_only(styles, models))


def _landscapes(records: Records, _styles: plots.Styles) -> Iterator[Picture]:
    found = {half: records.having(half) for half in HALVES}
    every = [measured for models in found.values() for measured in models.values()]
    if every:
        limits = plots.landscape_limits(every)
        panels = [
            Panel(f"{model.name}, {HALVES[half]}",
                  partial(plots.plot_landscape, measured=found[half][model.name], limits=limits))
            for model in records.models for half in HALVES if model.name in found[half]
        ]  # fmt: skip
        scale = Scale(LogNorm(*limits), "loss (nats)")
        labels = "b (filter norms)", "a (filter norms)"
        about = "The loss around the weights, on the low and on the high frequencies of the images."
        yield Picture("loss_landscapes", about, panels, MAP, scale=scale, labels=labels)


def _perturbations(records: Records, styles: plots.Styles) -> Iterator[Picture]:
    models = {
        name: found for name, found in records.having("minimal_perturbation").items()
        if isfinite(found.half_power_frequency)
    }  # fmt: skip
    if models:
        limits = plots.shared_limits([plots.perturbation_map(measured) for measured in models.values()], span=1e4)
        panels = [
            Panel(name, partial(plots.plot_perturbation_spectrum, measured=measured, limits=limits))
            for name, measured in models.items()
        ]
        scale = Scale(LogNorm(*limits), "mean |DFT|² ÷ its mean over the map")
        about = "Spectra of minimal adversarial perturbations as maps."
        yield Picture("perturbation_spectra", about, panels, MAP, scale=scale, labels=AXES, downward=True)
        profiles = partial(plots.plot_perturbation_profiles, models=models, styles=styles)
        panels = [Panel("radial profiles", profiles)]
        for some in _by_norm(models, lambda found: found.norm):
            sizes = partial(plots.plot_perturbation_sizes, models=some, styles=styles)
            panels.append(Panel("size against half-power frequency", sizes))
        about = "Radial profiles of minimal perturbations, and their size against f_0.5."
        yield Picture("perturbations", about, panels, legend=_only(styles, models))


def _hybrid(records: Records, styles: plots.Styles) -> Iterator[Picture]:
    models, smallest = records.having("hybrid"), records.having("minimal_perturbation")
    if models:
        panel = Panel("hybrid images", partial(plots.plot_hybrid, models=models, styles=styles))
        about = "How much more often hybrid images are seen as their low than as their high frequencies' image."
        yield Picture("hybrid", about, [panel], (6.4, 3.8), legend=_only(styles, models))
    both = {
        name: (found, smallest[name]) for name, found in models.items()
        if name in smallest and smallest[name].success.any() and not found.reversal.isnan().all()
    }  # fmt: skip
    if both:
        panels = [
            Panel("size against reversal frequency", partial(plots.plot_reversal, models=some, styles=styles))
            for some in _by_norm(both, lambda found: found[1].norm)
        ]
        about = "The size of minimal perturbations against the reversal frequency on hybrid images."
        yield Picture("reversal", about, panels, (6.4, 3.8), legend=_only(styles, both))


def _heatmaps(records: Records, _styles: plots.Styles) -> Iterator[Picture]:
    for key in records.named("fourier_heatmap"):
        models = records.having(key)
        layer = next(iter(models.values())).layer
        largest = plots.heatmap_limit(models.values())
        panels = [
            Panel(name, partial(plots.plot_heatmap, measured=measured, largest=largest))
            for name, measured in models.items()
        ]
        what = f"move of the features of {layer}" if layer else "error rate"
        scale, about = Scale(Normalize(0, largest), f"{what} under a wave"), f"By single waves: {what}."
        yield Picture(key, about, panels, MAP, scale=scale, labels=AXES, downward=True)


def _bands(records: Records, styles: plots.Styles) -> Iterator[Picture]:
    models = records.having("band_accuracy")
    if models:
        titles = {"low": "low-passed", "high": "high-passed", "band": "band-passed"}
        panels = [
            Panel(title, partial(plots.plot_bands, models=models, kind=kind, styles=styles))
            for kind, title in titles.items()
        ]
        attacked = {name: found for name, found in models.items() if len(found.robust)}
        if attacked:
            draw = partial(plots.plot_robust_bands, models=attacked, styles=styles)
            panels.append(Panel("PGD confined to a band", draw))
        about = "Accuracy on filtered images, and under attacks confined to a band."
        yield Picture("band_accuracy", about, panels, legend=_only(styles, models))


def _corruptions(records: Records, _styles: plots.Styles) -> Iterator[Picture]:
    found = {model.name: model.corrupted.accuracy for model in records.models if model.corrupted}
    models = {
        name if accuracy.protocol == "natural" else f"{name}, {accuracy.protocol}": accuracy
        for name, accuracy in found.items()
    }
    if models:
        types = max(len(found.accuracies) for found in models.values())
        names = [plots.folded(name, plots.LABEL).split("\n") for name in models]
        column = max(0.55, 0.3 * max(map(len, names)))  # names slant, so that a line of them takes more than its height
        longest = max(len(line) for lines in names for line in lines)
        size = max(4.6, 2.2 + column * len(models)), max(1.6, 0.6 + 0.055 * longest) + 0.24 * types
        panel = Panel("accuracy (%) by type", partial(plots.plot_corruptions, models=models))
        yield Picture("corruptions", "Accuracy by type of corruption.", [panel], size)


def _by_norm(models: dict[str, Any], norm_of: Callable[[Any], str]) -> list[dict[str, Any]]:
    """The models apart by norm, as lengths in one do not compare with those in another."""
    norms = dict.fromkeys(map(norm_of, models.values()))
    return [{name: found for name, found in models.items() if norm_of(found) == norm} for norm in norms]


def _only(styles: plots.Styles, models: dict) -> plots.Styles:
    return {name: styles[name] for name in models}
