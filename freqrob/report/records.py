"""Measurements of each model, and the files that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from freqrob.diagnostics.conditions import Conditions
from freqrob.diagnostics.drawing import styles
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.registry import Measurements
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.models.cards import Card
from freqrob.runtime.statistics import wilson_interval


@dataclass(frozen=True)
class Origin:
    """File that numbers come from, with its provenance: command, commit, versions, date.

    ``path`` is None for a model's card.
    """

    path: Path | None
    about: Mapping[str, Any] = field(repr=False)

    @property
    def source(self) -> str:
        """The images, in words: "cifar10 test"."""
        return str(self.about.get("source", ""))


@dataclass(frozen=True)
class Accuracy:
    """Accuracy under an attack, with everything that it depends on."""

    protocol: str
    attack: str
    norm: str
    eps: float
    step_size: float | None
    images: int
    seed: int
    accuracy: float
    origin: Origin

    @property
    def setting(self) -> tuple[str, str, str, float]:
        """Protocol, attack, norm and ε, for which accuracies are comparable; clean accuracies have no norm and ε."""
        clean = self.attack == "clean"
        return self.protocol, self.attack, "" if clean else self.norm, 0.0 if clean else round(self.eps, 6)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson_interval(self.accuracy, self.images)


@dataclass(frozen=True)
class Corrupted:
    """Accuracy on corruptions, and ``mce`` if it was measured against a ``baseline``."""

    accuracy: CorruptionAccuracy
    baseline: str
    mce: float | None
    origin: Origin

    @property
    def conditions(self) -> str:
        measured = self.accuracy
        balanced = f", balanced ({measured.bass})" if measured.bass else ""
        made = "made by freqrob" if measured.generated else "as published"
        images = f"{measured.images:,} images of {measured.dataset} a severity"
        return f"{images}, {made}{balanced}, protocol {measured.protocol}"


@dataclass(frozen=True)
class MeasurementRecord:
    """A diagnostic's measurement."""

    measurement: Measurement
    origin: Origin

    @property
    def conditions(self) -> Conditions:
        """Its settings and the source of its images."""
        return {"source": self.origin.source, **self.measurement.conditions}

    def same_values(self, other: MeasurementRecord) -> bool:
        """Whether another measurement of this kind has the same numbers."""
        if repr(self.measurement.scalars()) != repr(other.measurement.scalars()):  # in a repr NaN equals NaN
            return False
        ours, theirs = self.measurement.tensors(), other.measurement.tensors()
        return all(np.array_equal(tensor, theirs[name], equal_nan=True) for name, tensor in ours.items())


@dataclass(eq=False)
class ModelRecord:
    """All measurements of a model in the runs: diagnostics by name, accuracies, and its card."""

    name: str
    card: Card | None = None
    measurements: dict[str, MeasurementRecord] = field(default_factory=dict)
    accuracies: list[Accuracy] = field(default_factory=list)
    corruptions: list[Corrupted] = field(default_factory=list)
    masking: str = ""
    hashes: set[str] = field(default_factory=set)

    @property
    def corrupted(self) -> Corrupted | None:
        """The accuracies on corruptions to show: ``natural`` before others, then on most images, then the last."""
        return max(
            reversed(self.corruptions),
            key=lambda each: (each.accuracy.protocol == "natural", each.accuracy.images), default=None,
        )  # fmt: skip

    def best(self, setting: tuple[str, str, str, float]) -> Accuracy | None:
        """The accuracy in this setting on the most images, the last on ties."""
        fitting = [accuracy for accuracy in self.accuracies if accuracy.setting == setting]
        return max(reversed(fitting), key=lambda accuracy: accuracy.images, default=None)


@dataclass(frozen=True)
class Records:
    """The contents of all runs.

    Attributes:
        models: the records of the models.
        spectra: spectra of images, by the name of the set.
        notes: omitted input, with reasons.
    """

    models: list[ModelRecord]
    spectra: dict[str, MeasurementRecord]
    notes: list[str]

    def measurements(self) -> Measurements:
        """The diagnostics' measurements, for their figures and findings."""
        measured: dict[str, dict[str, MeasurementRecord]] = {}
        for model in self.models:
            for name, item in model.measurements.items():
                measured.setdefault(name, {})[model.name] = item
        return Measurements(
            {name: {model: item.measurement for model, item in items.items()} for name, items in measured.items()},
            {name: {model: item.origin.source for model, item in items.items()} for name, items in measured.items()},
            styles(model.name for model in self.models),
        )


def origins(records: Records) -> Iterator[tuple[str, str, Origin]]:
    """Subject, kind and origin of all measurements."""
    for name, measured in records.spectra.items():
        yield name, "spectrum", measured.origin
    for model in records.models:
        for diagnostic, measured in model.measurements.items():
            yield model.name, diagnostic, measured.origin
        for origin in {id(accuracy.origin): accuracy.origin for accuracy in model.accuracies}.values():
            yield model.name, "accuracy" if origin.path else "card", origin
        if model.corrupted is not None:
            yield model.name, "corruptions", model.corrupted.origin
