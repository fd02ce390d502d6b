"""The page's numbers as rows of a table."""

from __future__ import annotations

from typing import Any

from freqrob.report.measure import DemoMeasurements, SpectrumSummary

COLUMNS = (
    "subject", "from", "quantity", "value", "unit", "frequency",
    "protocol", "attack", "eps", "step_size", "images", "seed",
)  # fmt: skip


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
            "value": model.jacobian.log_b_low, "images": model.jacobian.images,
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
