"""The report's numbers as files: results.json, results.csv, and copies of the input files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.report.records import Accuracy, Measured, ModelRecord, Origin, Records, origins
from freqrob.runtime.files import write_bytes

COLUMNS = (
    "subject", "from", "measurement", "quantity", "value", "unit", "frequency", "index",
    "protocol", "attack", "norm", "eps", "step_size", "images", "seed", "source",
)  # fmt: skip
Links = Mapping[Path, list[str]]


def copy_data(records: Records, out: Path) -> dict[Path, list[str]]:
    """Copy the input files to ``out/data``, unless they are there; both files of a measurement.

    Returns their addresses relative to ``out``. Raises OSError.
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
        inside = target.relative_to(out)
        links[path] = [quote(inside.with_suffix(file.suffix).as_posix()) for file in files]
    return links


def _folder(path: Path, records: Records) -> str:
    """The folder of a measurement's model, as ``freqrob diagnose`` named it; "" for accuracies."""
    measured = [one for model in records.models for one in model.measurements.values()] + [*records.spectra.values()]
    return path.resolve().parent.name if any(one.origin.path == path for one in measured) else ""


def _free(path: Path, taken: set[Path]) -> Path:
    """The path, numbered if another file of this report has it."""
    candidates = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2, len(taken) + 3))
    return next(one for one in (path, *candidates) if one not in taken)


def as_dict(records: Records, links: Links) -> dict[str, Any]:
    """All numbers except maps, which are in the NPZ files, for JSON."""
    return {
        "models": [_model(model, links) for model in records.models],
        "spectra": {name: _measured(one, links) for name, one in records.spectra.items()},
        "notes": records.notes,
    }


def _model(model: ModelRecord, links: Links) -> dict[str, Any]:
    found: dict[str, Any] = {"name": model.name}
    if model.card is not None:
        card = model.card
        found["card"] = {"architecture": card.architecture, "sha256": card.sha256, "created": card.created,
                         "commit": card.commit, "recipe": card.recipe}  # fmt: skip
    found["accuracies"] = [{"from": _from(one.origin, links), **_accuracy(one)} for one in model.accuracies]
    if model.masking:
        found["masking"] = model.masking
    if model.corrupted is not None:
        one = model.corrupted
        mce = {} if one.mce is None else {"baseline": one.baseline, "mce": one.mce}
        found["corruptions"] = {"from": _from(one.origin, links), **one.accuracy.as_dict(), **mce}
    found["measurements"] = {name: _measured(one, links) for name, one in model.measurements.items()}
    return found


def _measured(one: Measured, links: Links) -> dict[str, Any]:
    curves = {name: _plain(tensor.tolist()) for name, tensor, _ in _curves(one.of)}
    return {
        "from": _from(one.origin, links), "kind": one.of.kind, **dict(one.origin.about), "units": one.of.units,
        **{name: _plain(value) for name, value in one.of.scalars().items()}, **curves,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Numbers and lists of them for JSON, with null for non-finite numbers."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _from(origin: Origin, links: Links) -> str | list[str]:
    return "card" if origin.path is None else links[origin.path]


def _accuracy(one: Accuracy) -> dict[str, Any]:
    values = {key: value for key, value in vars(one).items() if key != "origin" and value is not None}
    return {**values, "interval_95": list(one.interval)}


def tidy_rows(records: Records) -> Iterator[dict[str, Any]]:
    """One row for each number (``COLUMNS``), without the maps."""
    for name, measured in records.spectra.items():
        yield from _measurement_rows(name, "spectrum", measured)
    for model in records.models:
        for one in model.accuracies:
            origin = "card" if one.origin.path is None else "measured"
            row = {"subject": model.name, "from": origin, "measurement": "accuracy", "quantity": "accuracy"}
            yield {**row, **_accuracy(one), "value": one.accuracy, "source": one.origin.source}
        if model.corrupted is not None:
            yield from _corruption_rows(model.name, model.corrupted.accuracy)
        for what, measured in model.measurements.items():
            yield from _measurement_rows(model.name, what, measured)


def _corruption_rows(subject: str, one: CorruptionAccuracy) -> Iterator[dict[str, Any]]:
    """Rows by type and severity (``index``), then means by group (without ``index``)."""
    row = {"subject": subject, "from": "measured", "measurement": "corruptions", "protocol": one.protocol,
           "images": one.images, "source": one.dataset}  # fmt: skip
    for kind, shares in one.accuracies.items():
        for severity, share in enumerate(shares, 1):
            yield {**row, "quantity": kind, "value": share, "index": severity}
    for group, share in one.means().items():
        yield {**row, "quantity": f"mean {group}", "value": share}


def _measurement_rows(subject: str, what: str, measured: Measured) -> Iterator[dict[str, Any]]:
    """Rows of numbers, then of curves over ``frequencies``; several curves, such as seeds', have an ``index``."""
    one = measured.of
    row = {"subject": subject, "from": "measured", "measurement": what, "images": one.images,
           "source": measured.origin.source}  # fmt: skip
    for quantity, value in one.scalars().items():
        if isinstance(value, int | float) and quantity != "images":
            yield {**row, "quantity": quantity, "value": value, "unit": one.units.get(quantity, "")}
    for quantity, tensor, over in _curves(one):
        curves = tensor.reshape(-1, tensor.shape[-1]).tolist()
        for number, curve in enumerate(curves):
            for position, value in enumerate(curve):
                place = {"frequency": over[position].item()} if over is not None else {"index": position}
                which = {"index": number} if len(curves) > 1 else {}
                unit = one.units.get(quantity, "")
                yield {**row, "quantity": quantity, "value": value, "unit": unit, **place, **which}


def _curves(one: Measurement) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """A measurement's tensors and their frequencies, except maps and tensors with a number for each image."""
    tensors = one.tensors()
    for name, tensor in tensors.items():
        places = [tensors[at] for at in (f"{name}_frequencies", "frequencies") if at in tensors and at != name]
        over = next((at for at in places if at.shape == tensor.shape[-1:]), None)
        is_curve = tensor.ndim == 1 or (tensor.ndim == 2 and over is not None)
        if is_curve and tensor.numel() and "images" not in one.quantities().get(name, Quantity()).dimensions.split():
            yield name, tensor, over
