"""Runs in, one record a model out: what was measured, and the file that says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from freqrob.diagnostics.conditions import Conditions, unlike
from freqrob.diagnostics.corruption_spectrum import CorruptionSpectrum
from freqrob.diagnostics.drawing import styles
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.registry import Measurements, all_diagnostics
from freqrob.diagnostics.spectrum import Spectrum
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.loading import check_names, load_card
from freqrob.models.registry import DEFENSE_NAMES, VARIANTS, ModelName
from freqrob.runtime.reading import Count, Label, Share, brief, fitted, printable, read_json
from freqrob.runtime.statistics import wilson_interval

EXPECTED = (
    "expected a folder that `freqrob diagnose --out` wrote, or a JSON file of `freqrob evaluate --out` or "
    "`freqrob corruptions --out`"
)
MOST_EPS = 1e9


class _About(Struct):
    """What is read of the file of a measurement, beside the measurement; others are shown as they are."""

    model: Label = ""
    model_hash: Label = ""
    source: Label = ""


class _Row(Struct):
    """An accuracy, in a file of ``freqrob evaluate`` or on a card."""

    model: Label
    protocol: Label
    attack: Label
    images: Count
    seed: int
    accuracy: Share
    norm: Label = "Linf"
    eps: Annotated[float, Meta(ge=0, le=MOST_EPS)] = 0.0
    step_size: Annotated[float, Meta(ge=0, le=MOST_EPS)] | None = None
    model_hash: Label = ""


class _Masking(Struct):
    masking_suspected: bool = False


class _Evaluation(Struct):
    """What is read of a file of ``freqrob evaluate``."""

    results: list[_Row]
    masking: dict[Label, _Masking] = {}
    source: Label = ""


class _CorruptionRow(Struct):
    model: Label
    dataset: Label
    protocol: Label
    images: Count
    bass: Label | None
    generated: bool
    accuracies: Annotated[dict[Label, tuple[Share, Share, Share, Share, Share]], Meta(min_length=1)]
    standard_errors: dict[str, float] = {}
    from_cache: dict[str, Any] = {}
    baseline: Label = ""
    mce: Annotated[float, Meta(ge=0)] | None = None


class _Corruptions(Struct):
    """What is read of a file of ``freqrob corruptions``."""

    results: list[_CorruptionRow]
    source: Label = ""


OF_IMAGES = {kind.kind: kind for kind in (CorruptionSpectrum, Spectrum)}


def kinds() -> dict[str, type[Measurement]]:
    """The classes of measurements by kind, in alphabetical order: of images, and of models by the diagnostics."""
    of_models = {one.measurement.kind: one.measurement for one in all_diagnostics().values()}
    return dict(sorted((OF_IMAGES | of_models).items()))


@dataclass(frozen=True)
class Origin:
    """Where numbers come from: a file, and what it says of itself, such as command, commit, versions and date.

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
    """A share of images that were classified correctly under an attack, with all that it depends on."""

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
        """What makes accuracies comparable: protocol, attack, norm and ε. Clean ones have no ball."""
        clean = self.attack == "clean"
        return self.protocol, self.attack, "" if clean else self.norm, 0.0 if clean else round(self.eps, 6)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson_interval(self.accuracy, self.images)


@dataclass(frozen=True)
class Corrupted:
    """Accuracy on corruptions; ``mce`` where it was measured against a ``baseline``."""

    accuracy: CorruptionAccuracy
    baseline: str
    mce: float | None
    origin: Origin

    @property
    def conditions(self) -> str:
        found = self.accuracy
        balanced = f", balanced ({found.bass})" if found.bass else ""
        made = "made by freqrob" if found.generated else "as published"
        return f"{found.images:,} images of {found.dataset} a severity, {made}{balanced}, protocol {found.protocol}"


@dataclass(frozen=True)
class Measured:
    """A diagnostic's measurement."""

    of: Measurement
    origin: Origin

    @property
    def conditions(self) -> Conditions:
        """All that it was measured under, the images' source among it."""
        return {"source": self.origin.source, **self.of.conditions}

    def same_values(self, other: Measured) -> bool:
        """Whether another measurement of the kind has the same numbers."""
        mine, theirs = self.of.tensors(), other.of.tensors()
        same = repr(self.of.scalars()) == repr(other.of.scalars())  # NaN is NaN
        return same and all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)


@dataclass(eq=False)
class ModelRecord:
    """All that is known of a model: measurements by the diagnostic's name, accuracies, and what its card says."""

    name: str
    card: Card | None = None
    measurements: dict[str, Measured] = field(default_factory=dict)
    accuracies: list[Accuracy] = field(default_factory=list)
    corruptions: list[Corrupted] = field(default_factory=list)
    masking: str = ""
    hashes: set[str] = field(default_factory=set)

    @property
    def corrupted(self) -> Corrupted | None:
        """The accuracies on corruptions that are shown: natural ones first, then on more images, then the last."""
        return max(
            reversed(self.corruptions),
            key=lambda found: (found.accuracy.protocol == "natural", found.accuracy.images), default=None,
        )  # fmt: skip

    def best(self, setting: tuple[str, str, str, float]) -> Accuracy | None:
        """Of the accuracies in a setting the one on the most images; of equals the last."""
        fitting = [found for found in self.accuracies if found.setting == setting]
        return max(reversed(fitting), key=lambda found: found.images, default=None)


@dataclass(frozen=True)
class Records:
    """What all runs hold.

    Attributes:
        models: what was measured of each model.
        spectra: of images, by the name of the set.
        notes: on what was left out and why.
        kinds: the classes of the measurements that can be read.
    """

    models: list[ModelRecord]
    spectra: dict[str, Measured]
    notes: list[str]
    kinds: Mapping[str, type[Measurement]] = field(default_factory=kinds, repr=False)

    def named(self, start: str) -> list[str]:
        """The names of diagnostics that start so, in alphabetical order."""
        return sorted({name for model in self.models for name in model.measurements if name.startswith(start)})

    def kind_of(self, name: str) -> str:
        """What the measurements of that name are of; a layer's heat maps are of a kind of their own."""
        return next(iter(self.measured(name).values())).of.file_name

    def measured(self, name: str) -> dict[str, Measured]:
        """The measurements of that name, by model."""
        return {model.name: model.measurements[name] for model in self.models if name in model.measurements}

    def unlike(self, *names: str) -> dict[str, list[str]]:
        """The models whose measurements of some names, of one kind, were not measured alike, by what differs."""
        of = {name: self.measured(name) for name in names}
        every = {
            model if len(of) == 1 else f"{model} ({name.rpartition('_')[2]})": measured
            for name, models in of.items() for model, measured in models.items()
        }  # fmt: skip
        words = next(iter(every.values())).of.words if every else {}
        return unlike({name: measured.conditions for name, measured in every.items()}, words)

    def measurements(self) -> Measurements:
        """What the diagnostics measured, for their figures and findings."""
        found = {name: self.measured(name) for name in self.named("")}
        return Measurements(
            {name: {model: one.of for model, one in its.items()} for name, its in found.items()},
            {name: {model: one.origin.source for model, one in its.items()} for name, its in found.items()},
            styles(model.name for model in self.models),
        )


def read_runs(
    runs: Sequence[str | Path],
    *,
    cards: bool = True,
    model_dir: str | Path = "./models",
    dataset: str = "cifar10",
    threat_model: str = "Linf",
) -> Records:
    """Read runs and match models over them by name.

    Of two measurements of a kind the one on more images is kept, of equals the last; of accuracies on corruptions those
    under the protocol ``natural``, with a note on the others. What is damaged in a folder is left out, with a note.

    Args:
        runs: folders that ``freqrob diagnose`` wrote, with a folder a model or one model's own; JSON files of
            ``freqrob evaluate`` and ``freqrob corruptions``, or folders of those.
        cards: whether accuracies on models' cards are added.
        model_dir, dataset, threat_model: where the cards are, as for ``load_card``.

    Raises:
        FileNotFoundError: a run that is not there.
        ValueError: one that is no run, a JSON file given by name that is damaged, or runs without anything to report;
            an unknown ``dataset`` or ``threat_model``.
    """
    check_names(dataset, threat_model)
    found = Records([], {}, [])
    for run in map(Path, runs):
        inside = sorted(run.glob("*.json")) + sorted(run.glob("*/*.json"))
        paths = list(filter(Path.is_file, inside)) if run.is_dir() else [run]
        data = run / "data" if (run / "index.html").is_file() else None  # of a report
        if not sum(_read(path, found, alone=path == run) for path in paths if path.parent != data):
            reason = f"is a report, its runs are in {data}" if data and data.is_dir() else f"is no run, {EXPECTED}"
            raise ValueError(f"runs: {run} {reason}")
    if not found.models and not found.spectra:
        raise ValueError("runs: there is nothing to report" + "".join(f"\n{note}" for note in found.notes))
    for model in found.models:
        if cards:
            _add_card(model, found, model_dir, dataset, threat_model)
        shown = model.corrupted
        for conditions in sorted({one.conditions for one in model.corruptions}):
            if shown is not None and conditions != shown.conditions:
                found.notes.append(f"{model.name}: accuracies on corruptions are left out: {conditions}")
        if len(model.hashes) > 1:
            networks = f"{len(model.hashes)} networks of this name, which differ in weights, attributes or code"
            found.notes.append(f"{model.name}: the runs measured {networks}")
    found.models.sort(key=lambda model: _family(model.name))
    return found


def _read(path: Path, found: Records, alone: bool) -> bool:
    """Add what a file holds; whether it is of a run. A damaged one is an error ``alone``, otherwise a note."""
    try:
        content = _content(path)
        read = next((read for fits, read in _READERS if fits(content)), None)
        if read is not None:
            fitted([path.name, path.absolute().parent.name], list[Label], f"{path}: its name and its folder's")
            read(path, content, found)
        return read is not None
    except (ValueError, OSError) as error:
        if alone:
            raise
        found.notes.append(printable(f"left out, as it is damaged: {error}"))
        return True


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"runs: there is no {path}, {EXPECTED}") from None
    except ValueError as error:
        raise ValueError(f"{error}, {EXPECTED}") from error


def _rows(content: Any) -> list[dict[str, Any]]:
    rows = content.get("results") if isinstance(content, dict) else None
    return rows if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) else []


def _is_measurement(content: Any) -> bool:
    return isinstance(content, dict) and {"kind", "values"} <= content.keys()


def _is_corruptions(content: Any) -> bool:
    return bool(_rows(content)) and all({"model", "accuracies"} <= row.keys() for row in _rows(content))


def _is_evaluation(content: Any) -> bool:
    return bool(_rows(content)) and all({"model", "attack", "accuracy"} <= row.keys() for row in _rows(content))


def _read_measurement(path: Path, content: dict[str, Any], found: Records) -> None:
    kind = found.kinds.get(content["kind"]) if isinstance(content["kind"], str) else None
    if kind is None:
        raise ValueError(
            f"{path}: of kind {brief(repr(content['kind']), 40)}, expected one of {', '.join(found.kinds)}"
        )
    said = fitted(content, _About, path)
    measurement = kind.load(path.parent, path.stem)
    about = {key: value for key, value in content.items() if key not in ("kind", "units", "values")}
    measured = Measured(measurement, Origin(path, about))
    if kind.kind in OF_IMAGES:
        kept, name, subject = found.spectra, path.stem if path.stem != kind.kind else path.parent.name, path.parent.name
        if name in kept and kept[name].origin.source != measured.origin.source:  # fog of one data set and of another
            name = f"{name} ({measured.origin.source})"
    else:
        model = _model(found, said.model or path.parent.name)
        model.hashes |= {said.model_hash} if said.model_hash else set()
        has_suffix = kind.suffix is not Measurement.suffix  # and it tells them apart, whatever the file is called
        kept, name, subject = model.measurements, measurement.file_name if has_suffix else path.stem, model.name
    before = kept.setdefault(name, measured)
    if measurement.images >= before.of.images:
        kept[name] = measured
    if not measured.same_values(before):
        shown, other = (measured, before) if kept[name] is measured else (before, measured)
        differing = " and not ".join(unlike({"shown": shown.conditions, "left out": other.conditions}, kind.words))
        what = f"{differing or 'measured alike'}, from {shown.origin.path}"
        found.notes.append(f"{subject}: of several measurements of {name} one is shown: {what}")


def _read_evaluation(path: Path, content: dict[str, Any], found: Records) -> None:
    said, origin = fitted(content, _Evaluation, path), _origin(path, content)
    for row in said.results:
        model = _model(found, row.model)
        model.accuracies.append(_accuracy(row, origin))
        model.hashes |= {row.model_hash} if row.model_hash else set()
    for name, check in said.masking.items():
        _model(found, name).masking = "suspected" if check.masking_suspected else "no sign of it"


def _read_corruptions(path: Path, content: dict[str, Any], found: Records) -> None:
    said, origin = fitted(content, _Corruptions, path), _origin(path, content)
    for row in said.results:
        accuracy = CorruptionAccuracy(**{one.name: getattr(row, one.name) for one in fields(CorruptionAccuracy)})
        _model(found, row.model).corruptions.append(Corrupted(accuracy, row.baseline, row.mce, origin))


_READERS = (
    (_is_measurement, _read_measurement),
    (_is_corruptions, _read_corruptions),
    (_is_evaluation, _read_evaluation),
)


def _origin(path: Path, content: Mapping[str, Any]) -> Origin:
    return Origin(path, {key: value for key, value in content.items() if key not in ("results", "masking")})


def _accuracy(row: _Row, origin: Origin) -> Accuracy:
    values = {one.name: getattr(row, one.name) for one in fields(Accuracy) if one.name != "origin"}
    return Accuracy(**values, origin=origin)


def _model(found: Records, name: str) -> ModelRecord:
    """The record of a model, a new one if there is none."""
    for model in found.models:
        if model.name == name:
            return model
    found.models.append(ModelRecord(name))
    return found.models[-1]


def _add_card(model: ModelRecord, found: Records, model_dir: str | Path, dataset: str, threat_model: str) -> None:
    """Put what a model's card says before what the runs say, which wins where both are on as many images."""
    try:
        model.card = load_card(model.name, model_dir, dataset, threat_model)
    except (CheckpointError, PermissionError) as error:
        found.notes.append(f"a card was left out: {error}")
        return
    except (FileNotFoundError, ValueError):  # none, or the model is of another package
        return
    try:
        model.accuracies[:0] = _of_card(model.card, threat_model)
    except ValueError as error:
        found.notes.append(f"accuracies were left out: {error}")


def _of_card(card: Card, threat_model: str) -> list[Accuracy]:
    """The accuracies on a card. Raises ValueError for one without its setting."""
    origin = Origin(None, {"source": f"{card.dataset} test", "commit": card.commit})
    about = {"model": card.name, "norm": "L2" if threat_model == "L2" else "Linf"}
    rows = fitted([{**about, **row} for row in card.results], list[_Row], f"{card.name}'s card")
    return [_accuracy(row, origin) for row in rows]


def _family(name: str) -> tuple[int, str, int, str]:
    """Sorts a model beside those that differ from it by BaSS alone, undefended ones first."""
    try:
        parts = ModelName.parse(name)
    except ValueError:
        return len(DEFENSE_NAMES), "", 0, ""
    return DEFENSE_NAMES.index(parts.defense), parts.architecture, (None, *VARIANTS).index(parts.variant), name


def origins(records: Records) -> Iterator[tuple[str, str, Origin]]:
    """What was measured of what, and the file that says so."""
    for name, measured in records.spectra.items():
        yield name, "spectrum", measured.origin
    for model in records.models:
        for what, measured in model.measurements.items():
            yield model.name, what, measured.origin
        seen: Iterable[Origin] = {id(found.origin): found.origin for found in model.accuracies}.values()
        for origin in seen:
            yield model.name, "accuracy" if origin.path else "card", origin
        if model.corrupted is not None:
            yield model.name, "corruptions", model.corrupted.origin
