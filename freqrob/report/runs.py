"""Read the files of runs into one record per model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from freqrob.diagnostics.conditions import group_by_condition
from freqrob.diagnostics.corruption_spectrum import CorruptionSpectrum
from freqrob.diagnostics.measurement import MEASUREMENT, Measurement
from freqrob.diagnostics.registry import all_diagnostics
from freqrob.diagnostics.spectrum import Spectrum
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.evaluation.files import CORRUPTION_RESULTS, EVALUATION, EvaluationRow
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.loading import check_names, load_card
from freqrob.models.registry import DEFENSES, VARIANTS, ModelName
from freqrob.report.records import Accuracy, Corrupted, MeasurementRecord, ModelRecord, Origin, Records
from freqrob.runtime.file_formats import VERSION
from freqrob.runtime.reading import Label, brief, fitted, printable, read_json

EXPECTED = (
    "expected a folder that `freqrob diagnose --out` wrote, or a JSON file of `freqrob evaluate --out` or "
    "`freqrob corruptions --out`"
)
OF_IMAGES = {kind.kind: kind for kind in (CorruptionSpectrum, Spectrum)}


def read_runs(
    runs: Sequence[str | Path],
    *,
    cards: bool = True,
    model_dir: str | Path = "./models",
    dataset: str = "cifar10",
    threat_model: str = "Linf",
) -> Records:
    """Read runs and match models between them by name.

    Of several measurements of one kind, the one on the most images is kept, the last on ties; for corruptions, first
    those under the protocol ``natural``. Omitted measurements and damaged files in folders are noted.

    Args:
        runs: folders that ``freqrob diagnose`` wrote, for all models or for one; JSON files of ``freqrob evaluate`` and
            ``freqrob corruptions``, or folders of those.
        cards: whether accuracies on models' cards are added.
        model_dir, dataset, threat_model: where the cards are, as for ``load_card``.

    Raises:
        FileNotFoundError: a run does not exist.
        ValueError: a file or folder that is not a run, a damaged JSON file, or runs without anything to report; an
            unknown ``dataset`` or ``threat_model``.
    """
    check_names(dataset, threat_model)
    records = Records([], {}, [])
    for run in map(Path, runs):
        _read_run(run, records)
    if not records.models and not records.spectra:
        raise ValueError("runs: there is nothing to report" + "".join(f"\n{note}" for note in records.notes))
    for model in records.models:
        if cards:
            _add_card(model, records, model_dir, dataset, threat_model)
        records.notes.extend(_notes_on(model))
    records.models.sort(key=lambda model: _family(model.name))
    return records


def _read_run(run: Path, records: Records) -> None:
    """Add the content of a file or folder. Raises ValueError if it is not a run."""
    inside = sorted(run.glob("*.json")) + sorted(run.glob("*/*.json"))
    paths = list(filter(Path.is_file, inside)) if run.is_dir() else [run]
    data = run / "data" if (run / "index.html").is_file() else None  # of a report
    if not sum(_read_file(path, records, strict=path == run) for path in paths if path.parent != data):
        reason = f"is a report, its runs are in {data}" if data and data.is_dir() else f"is not a run, {EXPECTED}"
        raise ValueError(f"runs: {run} {reason}")


def _read_file(path: Path, records: Records, strict: bool) -> bool:
    """Add a file's content. Returns whether it is a run's. Damaged files raise if ``strict``, else are noted."""
    try:
        content = _content(path)
        read = _reader(content)
        if read is not None:
            fitted([path.name, path.absolute().parent.name], list[Label], f"{path}: its name and its folder's")
            read(path, content, records)
        return read is not None
    except (ValueError, OSError) as error:
        if strict:
            raise
        records.notes.append(printable(f"left out because it is damaged: {error}"))
        return True


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"runs: {path} does not exist, {EXPECTED}") from None
    except ValueError as error:
        raise ValueError(f"{error}, {EXPECTED}") from error


def _reader(content: Any) -> Callable[[Path, dict[str, Any], Records], None] | None:
    """The function that reads a file with these keys; None if it is not a run's file."""
    match content:
        case {"kind": _, "values": _}:
            return _read_measurement
        case {"results": [{"model": _, "accuracies": _}, *_]}:
            return _read_corruptions
        case {"results": [{"model": _, "attack": _, "accuracy": _}, *_]}:
            return _read_evaluation
    return None


def _read_measurement(path: Path, content: dict[str, Any], records: Records) -> None:
    kind = _kind(path, content["kind"])
    read = MEASUREMENT.fit(content, path)
    about = {key: value for key, value in content.items() if key not in (VERSION, "kind", "units", "values")}
    measured = MeasurementRecord(kind.load(path.parent, path.stem), Origin(path, about))
    if kind.kind in OF_IMAGES:
        kept, subject = records.spectra, path.parent.name
        name = path.stem if path.stem != kind.kind else path.parent.name
        if name in kept and kept[name].origin.source != measured.origin.source:  # such as fog on two data sets
            name = f"{name} ({measured.origin.source})"
    else:
        model = _model(records, read.model or path.parent.name, read.model_hash)
        kept, subject = model.measurements, model.name
        has_suffix = kind.suffix is not Measurement.suffix  # the suffix distinguishes them, not the file's name
        name = measured.measurement.file_name if has_suffix else path.stem
    before = kept.setdefault(name, measured)
    if measured.measurement.images >= before.measurement.images:
        kept[name] = measured
    if not measured.same_values(before):
        shown, other = (measured, before) if kept[name] is measured else (before, measured)
        conditions = {"shown": shown.conditions, "left out": other.conditions}
        differing = " and not ".join(group_by_condition(conditions, kind.words)) or "same conditions"
        records.notes.append(
            f"{subject}: one of several measurements of {name} is shown: {differing}, from {shown.origin.path}"
        )


def _kind(path: Path, name: Any) -> type[Measurement]:
    """Class of the measurements of that name: spectra of images, or a diagnostic's."""
    of_models = {diagnostic.measurement.kind: diagnostic.measurement for diagnostic in all_diagnostics().values()}
    kinds = dict(sorted((OF_IMAGES | of_models).items()))
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{path}: of kind {brief(repr(name), 40)}, expected one of {', '.join(kinds)}")
    return kinds[name]


def _read_evaluation(path: Path, content: dict[str, Any], records: Records) -> None:
    read, origin = EVALUATION.fit(content, path), _origin(path, content)
    for row in read.results:
        _model(records, row.model, row.model_hash).accuracies.append(_accuracy(row, origin))
    for name, check in read.masking.items():
        _model(records, name).masking = "suspected" if check.masking_suspected else "no sign of it"


def _read_corruptions(path: Path, content: dict[str, Any], records: Records) -> None:
    read, origin = CORRUPTION_RESULTS.fit(content, path), _origin(path, content)
    for row in read.results:
        accuracy = CorruptionAccuracy(**{field.name: getattr(row, field.name) for field in fields(CorruptionAccuracy)})
        _model(records, row.model).corruptions.append(Corrupted(accuracy, row.baseline, row.mce, origin))


def _origin(path: Path, content: Mapping[str, Any]) -> Origin:
    return Origin(path, {key: value for key, value in content.items() if key not in (VERSION, "results", "masking")})


def _accuracy(row: EvaluationRow, origin: Origin) -> Accuracy:
    values = {field.name: getattr(row, field.name) for field in fields(Accuracy) if field.name != "origin"}
    return Accuracy(**values, origin=origin)


def _model(records: Records, name: str, model_hash: str = "") -> ModelRecord:
    """The record of a model, created if there is none, with the hash of another file added."""
    model = next((model for model in records.models if model.name == name), None)
    if model is None:
        model = ModelRecord(name)
        records.models.append(model)
    model.hashes |= {model_hash} if model_hash else set()
    return model


def _notes_on(model: ModelRecord) -> Iterator[str]:
    """Accuracies that are not shown, and hashes that differ."""
    shown = model.corrupted
    for conditions in sorted({corrupted.conditions for corrupted in model.corruptions}):
        if shown is not None and conditions != shown.conditions:
            yield f"{model.name}: accuracies on corruptions are left out: {conditions}"
    if len(model.hashes) > 1:
        networks = f"{len(model.hashes)} networks of this name, which differ in weights, attributes or code"
        yield f"{model.name}: the runs measured {networks}"


def _add_card(model: ModelRecord, records: Records, model_dir: str | Path, dataset: str, threat_model: str) -> None:
    """Put the accuracies on a model's card before those of the runs, which are preferred on equally many images."""
    try:
        model.card = load_card(model.name, model_dir, dataset, threat_model)
    except (CheckpointError, PermissionError) as error:
        records.notes.append(f"a card was left out: {error}")
        return
    except (FileNotFoundError, ValueError):  # no card, or another package's model
        return
    try:
        model.accuracies[:0] = _of_card(model.card, threat_model)
    except ValueError as error:
        records.notes.append(f"accuracies were left out: {error}")


def _of_card(card: Card, threat_model: str) -> list[Accuracy]:
    """The accuracies on a card. Raises ValueError for an accuracy without its setting."""
    origin = Origin(None, {"source": f"{card.dataset} test", "commit": card.commit})
    about = {"model": card.name, "norm": "L2" if threat_model == "L2" else "Linf"}
    rows = fitted([{**about, **row} for row in card.results], list[EvaluationRow], f"{card.name}'s card")
    return [_accuracy(row, origin) for row in rows]


def _family(name: str) -> tuple[int, str, int, str]:
    """Sort key: undefended models first, and models that differ only in BaSS side by side."""
    try:
        parts = ModelName.parse(name)
    except ValueError:
        return len(DEFENSES), "", 0, ""
    return [*DEFENSES].index(parts.defense), parts.architecture, (None, *VARIANTS).index(parts.variant), name
