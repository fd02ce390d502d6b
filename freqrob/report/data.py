"""The report's numbers as files: results.json, results.csv, and copies of the input files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct
from torch import Tensor

from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report.records import Accuracy, MeasurementRecord, ModelRecord, Origin, Records, origins
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import plain, write_bytes
from freqrob.runtime.provenance import Provenance
from freqrob.runtime.reading import Count, Label, Share

COLUMNS = (
    "subject", "from", "measurement", "quantity", "value", "unit", "frequency", "index",
    "protocol", "attack", "norm", "eps", "step_size", "images", "seed", "source",
)  # fmt: skip
Links = Mapping[Path, list[str]]
Sources = str | list[str]
"""``"card"``, or the files' paths, relative to the report."""


class ReportAccuracy(Struct, kw_only=True):
    """An accuracy and its Wilson interval."""

    files: Sources = msgspec.field(name="from")
    protocol: Label
    attack: Label
    norm: Label
    eps: float
    step_size: float | None = None
    images: Count
    seed: int
    accuracy: Share
    interval_95: tuple[float, float]


class ReportMeasurement(Struct, kw_only=True):
    """A diagnostic's measurement; further keys are its provenance, numbers and curves."""

    files: Sources = msgspec.field(name="from")
    kind: Label
    units: dict[str, str] = {}


class ReportCorruptions(Struct, kw_only=True):
    """Accuracies on corruptions, as in a file of ``freqrob corruptions``."""

    files: Sources = msgspec.field(name="from")
    dataset: Label
    protocol: Label
    images: Count
    accuracies: dict[Label, list[Share]]
    means: dict[str, Share] = {}


class ReportModel(Struct, kw_only=True):
    """The measurements of a model, by name; ``card`` has the model's identifying entries."""

    name: Label
    card: dict[str, Any] | None = None
    accuracies: list[ReportAccuracy] = []
    masking: str = ""
    corruptions: ReportCorruptions | None = None
    measurements: dict[str, ReportMeasurement] = {}


class ReportFile(Provenance, kw_only=True):
    """The ``results.json`` of a report: the numbers of the page."""

    findings: list[str]
    figures: list[str]
    models: list[ReportModel]
    spectra: dict[str, ReportMeasurement]
    notes: list[str]


REPORT = FileFormat("report", ReportFile)


def copy_data(records: Records, out: Path) -> dict[Path, list[str]]:
    """Copy the input files, both files of a measurement, to ``out/data`` unless they are there.

    Returns their paths relative to ``out``. Raises OSError.
    """
    links: dict[Path, list[str]] = {}
    out = out.resolve()
    paths = dict.fromkeys(origin.path for *_, origin in origins(records) if origin.path)
    taken = {path.resolve() for path in paths}
    for path in paths:
        files = [file for file in (path, path.with_suffix(".npz")) if file.is_file()]
        target = path.resolve()
        if not target.is_relative_to(out / "data"):
            target = _free(out / "data" / _folder(path, records) / path.name, taken)
            for file in files:
                write_bytes(target.with_suffix(file.suffix), file.read_bytes())
        taken.add(target)
        links[path] = [quote(target.relative_to(out).with_suffix(file.suffix).as_posix()) for file in files]
    return links


def _folder(path: Path, records: Records) -> str:
    """The folder of a measurement's model, as ``freqrob diagnose`` named it; "" for accuracies."""
    items = [item for model in records.models for item in model.measurements.values()] + [*records.spectra.values()]
    return path.resolve().parent.name if any(item.origin.path == path for item in items) else ""


def _free(path: Path, taken: set[Path]) -> Path:
    """The path, with a number appended if another file of this report has it."""
    candidates = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2, len(taken) + 3))
    return next(candidate for candidate in (path, *candidates) if candidate not in taken)


def as_dict(records: Records, links: Links) -> dict[str, Any]:
    """All numbers for JSON, except maps, which are in the NPZ files."""
    return {
        "models": [_model(model, links) for model in records.models],
        "spectra": {name: _measured(measured, links) for name, measured in records.spectra.items()},
        "notes": records.notes,
    }


def _model(model: ModelRecord, links: Links) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": model.name}
    if model.card is not None:
        card = model.card
        entry["card"] = {"architecture": card.architecture, "sha256": card.sha256, "created": card.created,
                         "commit": card.commit, "recipe": card.recipe}  # fmt: skip
    entry["accuracies"] = [
        {"from": _from(accuracy.origin, links), **_accuracy(accuracy)} for accuracy in model.accuracies
    ]
    if model.masking:
        entry["masking"] = model.masking
    if model.corrupted is not None:
        corrupted = model.corrupted
        mce = {} if corrupted.mce is None else {"baseline": corrupted.baseline, "mce": corrupted.mce}
        entry["corruptions"] = {"from": _from(corrupted.origin, links), **corrupted.accuracy.as_dict(), **mce}
    entry["measurements"] = {name: _measured(item, links) for name, item in model.measurements.items()}
    return entry


def _measured(measured: MeasurementRecord, links: Links) -> dict[str, Any]:
    measurement = measured.measurement
    curves = {name: plain(tensor.tolist()) for name, tensor, _ in _curves(measurement)}
    return {
        "from": _from(measured.origin, links), "kind": measurement.kind, **dict(measured.origin.about),
        "units": measurement.units, **{name: plain(value) for name, value in measurement.scalars().items()}, **curves,
    }  # fmt: skip


def _from(origin: Origin, links: Links) -> str | list[str]:
    return "card" if origin.path is None else links[origin.path]


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    values = {key: value for key, value in vars(accuracy).items() if key != "origin" and value is not None}
    return {**values, "interval_95": list(accuracy.interval)}


def tidy_rows(records: Records) -> Iterator[dict[str, Any]]:
    """One row for each number (``COLUMNS``), without the maps."""
    for name, measured in records.spectra.items():
        yield from _measurement_rows(name, "spectrum", measured)
    for model in records.models:
        for accuracy in model.accuracies:
            origin = "card" if accuracy.origin.path is None else "measured"
            row = {"subject": model.name, "from": origin, "measurement": "accuracy", "quantity": "accuracy"}
            yield {**row, **_accuracy(accuracy), "value": accuracy.accuracy, "source": accuracy.origin.source}
        if model.corrupted is not None:
            yield from _corruption_rows(model.name, model.corrupted.accuracy)
        for name, measured in model.measurements.items():
            yield from _measurement_rows(model.name, name, measured)


def _corruption_rows(subject: str, accuracy: CorruptionAccuracy) -> Iterator[dict[str, Any]]:
    """Rows by type and severity (``index``), then means by group (without ``index``)."""
    row = {"subject": subject, "from": "measured", "measurement": "corruptions", "protocol": accuracy.protocol,
           "images": accuracy.images, "source": accuracy.dataset}  # fmt: skip
    for kind, shares in accuracy.accuracies.items():
        for severity, share in enumerate(shares, 1):
            yield {**row, "quantity": kind, "value": share, "index": severity}
    for group, share in accuracy.means().items():
        yield {**row, "quantity": f"mean {group}", "value": share}


def _measurement_rows(subject: str, name: str, measured: MeasurementRecord) -> Iterator[dict[str, Any]]:
    """Rows of numbers, then of curves over ``frequencies``; ``index`` numbers several curves, such as seeds'."""
    measurement = measured.measurement
    row = {"subject": subject, "from": "measured", "measurement": name, "images": measurement.images,
           "source": measured.origin.source}  # fmt: skip
    for quantity, value in measurement.scalars().items():
        if isinstance(value, int | float) and quantity != "images":
            yield {**row, "quantity": quantity, "value": value, "unit": measurement.units.get(quantity, "")}
    for quantity, tensor, over in _curves(measurement):
        curves = tensor.reshape(-1, tensor.shape[-1]).tolist()
        for number, curve in enumerate(curves):
            for position, value in enumerate(curve):
                place = {"frequency": over[position].item()} if over is not None else {"index": position}
                curve_index = {"index": number} if len(curves) > 1 else {}
                unit = measurement.units.get(quantity, "")
                yield {**row, "quantity": quantity, "value": value, "unit": unit, **place, **curve_index}


def _curves(measurement: Measurement) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """A measurement's tensors with their frequencies, except maps and tensors with one number per image."""
    tensors = measurement.tensors()
    for name, tensor in tensors.items():
        places = [
            tensors[candidate]
            for candidate in (f"{name}_frequencies", "frequencies")
            if candidate in tensors and candidate != name
        ]
        over = next((candidate for candidate in places if candidate.shape == tensor.shape[-1:]), None)
        is_curve = tensor.ndim == 1 or (tensor.ndim == 2 and over is not None)
        dimensions = measurement.quantities().get(name, Quantity()).dimensions.split()
        if is_curve and tensor.numel() and "images" not in dimensions:
            yield name, tensor, over
