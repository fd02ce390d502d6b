"""Numbers on disk: JSON and CSV, whole or absent."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqrob.models.files import temporary_beside, write_synced
from freqrob.report.measure import DemoMeasurements, SpectrumSummary

COLUMNS = (
    "subject", "from", "quantity", "value", "unit", "frequency",
    "protocol", "attack", "eps", "step_size", "images", "seed",
)  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete before it replaces an earlier one. Raises OSError."""
    with temporary_beside(path) as new:
        write_synced(new, text.encode())
        os.replace(new, path)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON. Raises OSError, or ValueError for a NaN."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under a header of ``columns``; what a row lacks stays empty. Raises OSError."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def tidy_rows(measurements: DemoMeasurements) -> list[dict[str, Any]]:
    """One row for each number (``COLUMNS``), without the maps of gradients, which the JSON has."""
    rows = [*_spectrum_rows("natural", measurements.natural), *_spectrum_rows("bass", measurements.balanced)]
    for model in measurements.models:
        found = [("measured", result.as_dict()) for result in model.measured]
        found += [("card", result) for result in model.card.results]
        rows += [
            {"subject": model.name, "from": origin, "quantity": "accuracy", "value": result.get("accuracy"), **result}
            for origin, result in found
        ]
        rows.append({
            "subject": model.name, "from": "measured", "quantity": "log_b_low",
            "value": model.diagnosis.log_b_low, "images": model.diagnosis.images,
        })  # fmt: skip
    return rows


def _spectrum_rows(subject: str, summary: SpectrumSummary) -> list[dict[str, Any]]:
    units = {"boundary_cycles_per_pixel": "cycles/pixel", "entropy_nats": "nats", "largest_entropy_nats": "nats"}
    common = {"subject": subject, "from": "measured", "images": summary.images}
    scalars = {key: value for key, value in summary.as_dict().items() if key not in ("images", "profile")}
    rows = [{**common, "quantity": key, "value": value, "unit": units.get(key, "")} for key, value in scalars.items()]
    for quantity, values in (("mean_power", summary.power), ("cumulative_share", summary.cumulative)):
        rows += [
            {**common, "quantity": quantity, "value": value, "frequency": frequency}
            for frequency, value in zip(summary.frequencies.tolist(), values.tolist(), strict=True)
        ]
    return rows
