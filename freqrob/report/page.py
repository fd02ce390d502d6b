"""The page: measurements drawn into one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from freqrob.evaluation import PROTOCOLS
from freqrob.files import write_csv, write_json, write_text
from freqrob.report import figures
from freqrob.report.measure import ATTACKS, DemoMeasurements, ModelMeasurements
from freqrob.report.records import COLUMNS, tidy_rows


def write_report(measurements: DemoMeasurements, out: str | Path) -> Path:
    """Write ``index.html``, ``results.json`` and ``results.csv`` into the folder ``out``.

    Each file is complete before it replaces an earlier one. Returns the path of the page. Raises OSError when the
    folder cannot be written.
    """
    out = Path(out)
    write_json(out / "results.json", measurements.as_dict())
    write_csv(out / "results.csv", tidy_rows(measurements), COLUMNS)
    write_text(out / "index.html", render(measurements))
    return out / "index.html"


def render(measurements: DemoMeasurements) -> str:
    """The page as text: no file, font, script or image outside it."""
    templates = Environment(
        loader=PackageLoader("freqrob.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.filters["percent"] = lambda share: f"{100 * share:.1f}"
    width = measurements.gallery.images.shape[-1]
    spectra = [model.jacobian.amplitude for model in measurements.models]
    limits = figures.gradient_limits(spectra, width) if spectra else (0.5, 2.0)
    return templates.get_template("demo.html").render(
        m=measurements,
        attacks=[attack.name for attack in ATTACKS],
        protocols=PROTOCOLS,
        pairs=_pairs(measurements),
        margin=widest_margin(measurements.images),
        power=Markup(figures.power_figure(measurements.natural, measurements.balanced)),
        cumulative=Markup(figures.cumulative_figure(measurements.natural, measurements.balanced)),
        rows={model.name: _rows(model, measurements.images) for model in measurements.models},
        gradients=[_gradient(model, width, limits) for model in measurements.models],
    )


def widest_margin(images: int) -> float:
    """Half the width of Wilson's 95 % interval of an accuracy of one half measured on so many images."""
    z = 1.96
    return z * sqrt(1 / (4 * images) + z**2 / (4 * images**2)) / (1 + z**2 / images)


@dataclass(frozen=True)
class Row:
    """A line of the table of models; ``cells`` are accuracies by protocol and attack, None where there is none."""

    origin: str
    cells: list[float | None]


def _rows(model: ModelMeasurements, images: int) -> list[Row]:
    measured = [result.as_dict() for result in model.measured]
    return [
        Row(f"here, {images:,} images", _cells(measured)),
        Row(f"card, {_count_on_card(model)}", _cells(model.card.results)),
    ]


def _count_on_card(model: ModelMeasurements) -> str:
    counts = sorted({result.get("images", 0) for result in model.card.results})
    return " or ".join(f"{count:,}" for count in counts) + " images" if counts else "no figures"


def _cells(results: list[dict[str, Any]]) -> list[float | None]:
    """The accuracies of the table's columns out of results; of several for a column, that on the most images."""
    return [_accuracy(results, protocol, attack.name, attack.eps) for protocol in PROTOCOLS for attack in ATTACKS]


def _accuracy(results: list[dict[str, Any]], protocol: str, attack: str, eps: float) -> float | None:
    fitting = [
        result
        for result in results
        if (result.get("protocol"), result.get("attack")) == (protocol, attack)
        and (attack == "clean" or abs(result.get("eps", 0) - eps) < 1e-6)
    ]
    return max(fitting, key=lambda result: result.get("images", 0))["accuracy"] if fitting else None


def _pairs(measurements: DemoMeasurements) -> list[dict[str, str]]:
    natural, balanced = measurements.gallery, measurements.balanced_gallery
    return [
        {"label": natural.classes[label], "natural": figures.png_uri(image), "bass": figures.png_uri(twin)}
        for image, twin, label in zip(natural.images, balanced.images, natural.labels.tolist(), strict=True)
    ]


def _gradient(model: ModelMeasurements, width: int, limits: tuple[float, float]) -> dict[str, Any]:
    spectrum = model.jacobian.amplitude
    return {
        "model": model.name,
        "svg": Markup(figures.gradient_figure(spectrum, width, limits, f"gradient-{model.name}")),
        "log_b_low": model.jacobian.log_b_low,
        "mean": figures.shifted_map(spectrum, width).mean().item(),
    }
