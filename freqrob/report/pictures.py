"""The figures of a report: accuracies on corrupted images, the images' spectra, and the diagnostics' figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from markupsafe import Markup

from freqrob.diagnostics.drawing import Panel, Picture, Section, folded, styles
from freqrob.diagnostics.hybrid import HYBRID
from freqrob.diagnostics.registry import all_diagnostics
from freqrob.diagnostics.spectrum import Spectrum
from freqrob.report import plots
from freqrob.report.records import Records
from freqrob.runtime.figures import drawing

CORRUPTIONS = Section("corruptions", "Corrupted images", "accuracy on corrupted images", 0)
SPECTRA = Section("spectra", "The images’ long tail", "the images’ spectra", 1)


def pictures(records: Records) -> dict[str, Picture]:
    """The figures by name, in the order of the page; a model has the same style in all. Warns if drawing fails."""
    measurements = records.measurements()
    drawers: dict[str, Callable[[], Iterable[Picture]]] = {
        "corruptions": partial(_corruptions, records), "spectra": partial(_spectra, records),
        **{name: partial(diagnostic.figures, measurements) for name, diagnostic in all_diagnostics().items()},
        "reliance": partial(_reliance, records),
    }  # fmt: skip
    drawn: list[Picture] = []
    for name, draw in drawers.items():
        with drawing(name):
            drawn += draw()
    return {picture.name: picture for picture in sorted(drawn, key=lambda picture: picture.section.order)}


def _spectra(records: Records) -> Iterator[Picture]:
    sets = {name: found for name, one in records.spectra.items() if isinstance(found := one.measurement, Spectrum)}
    if sets:
        drawn_as = styles(sets)
        yield Picture(
            "spectra", "The images' mean power by frequency, and the share of it within a radius.",
            [Panel("power of a coefficient", partial(plots.plot_power, spectra=sets, styles=drawn_as)),
             Panel("share within a radius", partial(plots.plot_cumulative, spectra=sets, styles=drawn_as))],
            legend=drawn_as, section=SPECTRA,
        )  # fmt: skip


def _corruptions(records: Records) -> Iterator[Picture]:
    accuracies = {model.name: model.corrupted.accuracy for model in records.models if model.corrupted}
    models = {
        name if accuracy.protocol == "natural" else f"{name}, {accuracy.protocol}": accuracy
        for name, accuracy in accuracies.items()
    }
    if models:
        types = max(len(accuracy.accuracies) for accuracy in models.values())
        names = [folded(name, plots.LABEL).split("\n") for name in models]
        column = max(0.55, 0.3 * max(map(len, names)))  # slanted names take more than the height of a line
        longest = max(len(line) for lines in names for line in lines)
        size = max(4.6, 2.2 + column * len(models)), max(1.6, 0.6 + 0.055 * longest) + 0.24 * types
        panel = Panel("accuracy (%) by type", partial(plots.plot_corruptions, models=models))
        yield Picture("corruptions", "Accuracy by type of corruption.", [panel], size, section=CORRUPTIONS)


def _reliance(records: Records) -> Iterator[Picture]:
    measurements = records.measurements()
    models = {
        model.name: (measurements["hybrid"][model.name], model.corrupted.accuracy)
        for model in records.models
        if model.corrupted and model.name in measurements["hybrid"]
        and not measurements["hybrid"][model.name].reversal.isnan().all()
    }  # fmt: skip
    if models:
        drawn_as = {name: measurements.styles[name] for name in models}
        yield Picture(
            "reliance", "Accuracy on corrupted images against the reversal frequency on hybrid images.",
            [Panel("corruptions against hybrid images", partial(plots.plot_reliance, models=models, styles=drawn_as))],
            (6.4, 3.8), drawn_as, section=HYBRID, compared=[["hybrid"]],
            caption=Markup(
                "Mean accuracy over types and severities of corruptions against f<sub>rev</sub> in units of Nyquist, "
                "bars from the lowest to the highest of the seeds (Li et al., PLoS Comput. Biol. 2023, Fig. 5b)."
            ),
        )  # fmt: skip
