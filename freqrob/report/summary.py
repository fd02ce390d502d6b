"""The summary: one number per model and measurement, with its conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan

from freqrob.diagnostics.conditions import ball, described, images_of, pixels
from freqrob.diagnostics.registry import Column, all_diagnostics
from freqrob.evaluation import PROTOCOLS
from freqrob.report.records import Accuracy, MeasurementRecord, ModelRecord
from freqrob.runtime.figures import drawing

STRENGTH = ("AutoAttack", "APGD", "Square", "PGD", "FGSM")  # prefixes of attacks' names; the strongest first
GROUPS = ("noise", "blur", "weather", "digital", "15 types", "19 types")
Setting = tuple[str, str, str, float]


@dataclass(frozen=True)
class Entry:
    """A number, None if the measurement has none, and its conditions in words: "10,000 images, seed 0"."""

    value: float | None
    conditions: str


@dataclass(frozen=True)
class SummaryColumn(Column):
    """A column of the summary.

    Attributes:
        entries: one per model, in the models' order; None if not measured.
        is_accuracy: whether values are shares of images.
    """

    entries: tuple[Entry | None, ...] = ()
    is_accuracy: bool = False

    @property
    def conditions(self) -> str:
        """The most common conditions of the entries."""
        return Counter(entry.conditions for entry in self.entries if entry).most_common(1)[0][0]

    def comparable(self, models: Sequence[ModelRecord]) -> dict[str, float]:
        """The numbers that were measured under ``conditions``, by model, in the order of ``entries``."""
        return {
            model.name: entry.value
            for model, entry in zip(models, self.entries, strict=True)
            if entry and entry.value is not None and entry.conditions == self.conditions
        }

    @property
    def has_none(self) -> bool:
        """Whether any measurement lacks a number."""
        return any(entry and entry.value is None for entry in self.entries)

    def written(self, value: float) -> str:
        """A value as shown in the table, without its unit."""
        return f"{100 * value if self.unit == '%' else value:.{self.digits}f}"


def columns(models: Sequence[ModelRecord]) -> list[SummaryColumn]:
    """The quantities that at least one model has: accuracies by protocol, corruptions, diagnostics."""
    candidates = [*_accuracies(models), *_corruptions(models), *_diagnostics(models)]
    return [column for column in candidates if any(column.entries)]


def settings(models: Sequence[ModelRecord]) -> list[Setting]:
    """All settings with an accuracy: protocols in order, clean first, attacks by strength."""

    def order(setting: Setting) -> tuple:
        protocol, attack, norm, eps = setting
        known = PROTOCOLS.index(protocol) if protocol in PROTOCOLS else len(PROTOCOLS)
        return known, protocol, attack != "clean", norm, eps, -_strength(attack), attack

    return sorted({accuracy.setting for model in models for accuracy in model.accuracies}, key=order)


def headline(models: Sequence[ModelRecord], protocol: str = "natural") -> Setting | None:
    """The attack of a protocol under which most models were evaluated; the strongest on ties."""
    attacked = [setting for setting in settings(models) if setting[0] == protocol and setting[1] != "clean"]
    return max(attacked, key=lambda setting: (_count(models, setting), -_strength(setting[1])), default=None)


def title_of(setting: Setting) -> str:
    """An attack and its ball: "PGD-20, L∞, ε = 8/255"."""
    _, attack, norm, eps = setting
    return attack if attack == "clean" else f"{attack}, {ball(norm, eps)}"


def conditions_of(accuracy: Accuracy) -> str:
    """The images, seed and step of an accuracy, in words."""
    step = f", step {pixels(accuracy.step_size)}" if accuracy.step_size and accuracy.attack.startswith("PGD") else ""
    return f"{images_of(accuracy.images, accuracy.origin.source)}, seed {accuracy.seed}{step}"


def _accuracies(models: Sequence[ModelRecord]) -> Iterator[SummaryColumn]:
    """Clean accuracy and the headline attack of each protocol."""
    chosen = [headline(models, protocol) for protocol in dict.fromkeys(setting[0] for setting in settings(models))]
    for setting in settings(models):
        if setting[1] != "clean" and setting not in chosen:
            continue
        protocol, attack, *_ = setting
        accuracies = [model.best(setting) for model in models]
        entries = tuple(best and Entry(best.accuracy, conditions_of(best)) for best in accuracies)
        description = "Accuracy" if attack == "clean" else f"Accuracy under {title_of(setting)}"
        yield SummaryColumn(
            title=title_of(setting), key=f"{protocol} {attack}", group=f"protocol {protocol}", unit="%", digits=1,
            help=f"{description}, protocol {protocol}.", is_compared=False, entries=entries, is_accuracy=True,
        )  # fmt: skip


def _corruptions(models: Sequence[ModelRecord]) -> Iterator[SummaryColumn]:
    column = SummaryColumn(group="corruptions", unit="%", digits=1, is_compared=False)
    for group in GROUPS:
        yield replace(
            column, title=group, key=f"corruptions {group}", is_accuracy=True,
            help=f"Mean accuracy on corrupted images over severities and types ({group}).",
            entries=tuple(_corruption_entry(model, group) for model in models),
        )  # fmt: skip
    entries = tuple(
        Entry(model.corrupted.mce, f"{model.corrupted.conditions}, baseline {model.corrupted.baseline}")
        if model.corrupted and model.corrupted.mce is not None
        else None
        for model in models
    )
    help = "Mean corruption error, relative to the baseline's."
    yield replace(column, title="mCE", key="mce", help=help, entries=entries)


def _corruption_entry(model: ModelRecord, group: str) -> Entry | None:
    if (corrupted := model.corrupted) is None:
        return None
    means = corrupted.accuracy.means()
    return Entry(means[group], corrupted.conditions) if group in means else None


def _diagnostics(models: Sequence[ModelRecord]) -> Iterator[SummaryColumn]:
    titled = [(name, column) for name, kind in all_diagnostics().items() for column in kind.columns if column.title]
    for name, column in sorted(titled, key=lambda pair: pair[1].order):
        with drawing(f"column {column.key} of {name}"):
            entries = tuple(_diagnostic_entry(column, model.measurements.get(name)) for model in models)
            yield SummaryColumn(**vars(column), entries=entries)


def _diagnostic_entry(column: Column, measured: MeasurementRecord | None) -> Entry | None:
    if measured is None:
        return None
    if column.value is None:
        raise TypeError("a column with a title needs a value")
    value = column.value(measured.measurement)
    known = not isnan(value)
    part = column.part(measured.measurement) if known else ""
    conditions = ", ".join(filter(None, (described(measured.conditions, measured.measurement.words), part)))
    return Entry(value if known else None, conditions)


def _count(models: Sequence[ModelRecord], setting: Setting) -> int:
    return sum(model.best(setting) is not None for model in models)


def _strength(attack: str) -> int:
    """The rank of an attack by its name; smaller is stronger."""
    return next((index for index, name in enumerate(STRENGTH) if attack.startswith(name)), len(STRENGTH))
