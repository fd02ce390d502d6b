"""Files of accuracies, which ``freqrob.report`` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from torch import Tensor

from freqrob.evaluation.accuracy import Result
from freqrob.evaluation.corruptions import CorruptionAccuracy
from freqrob.evaluation.masking import MaskingCheck
from freqrob.runtime import files
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.provenance import Provenance
from freqrob.runtime.reading import Count, Label, Share

Size = Annotated[float, Meta(ge=0, le=1e9)]


class EvaluationRow(Struct, kw_only=True):
    """An accuracy, in a file of ``freqrob evaluate`` or on a card; the attack's other parameters are further keys."""

    model: Label
    protocol: Label
    attack: Label
    images: Count
    seed: int
    accuracy: Share
    norm: Label = "Linf"
    eps: Size = 0.0
    step_size: Size | None = None
    model_hash: Label = ""
    data_hash: Label = ""
    from_cache: bool = False


class MaskingRow(Struct, kw_only=True):
    """A check for gradient masking."""

    masking_suspected: bool = False
    level: Share | None = None
    from_cache: bool = False
    white_box: dict[str, Any] = {}
    comparisons: list[dict[str, Any]] = []


class EvaluationFile(Provenance, kw_only=True):
    """A file of ``freqrob evaluate``; ``masking`` is by model."""

    source: Label = ""
    data_hash: Label = ""
    results: list[EvaluationRow]
    masking: dict[Label, MaskingRow] = {}


class CorruptionRow(Struct, kw_only=True):
    """Accuracies of a model on corruptions by type, each at severity 1 to 5."""

    model: Label
    dataset: Label
    protocol: Label
    images: Count
    bass: Label | None
    generated: bool
    accuracies: Annotated[dict[Label, tuple[Share, Share, Share, Share, Share]], Meta(min_length=1)]
    standard_errors: dict[str, float] = {}
    from_cache: dict[str, tuple[bool, ...]] = {}
    means: dict[str, Share] = {}
    baseline: Label = ""
    mce: Annotated[float, Meta(ge=0)] | None = None


class CorruptionFile(Provenance, kw_only=True):
    """A file of ``freqrob corruptions``."""

    source: Label = ""
    results: list[CorruptionRow]


EVALUATION = FileFormat("evaluation", EvaluationFile)
CORRUPTION_RESULTS = FileFormat("corruptions", CorruptionFile)


@dataclass(frozen=True)
class Evaluation:
    """Results of one model, with its name and hash, and the check for gradient masking, if any."""

    name: str
    model_hash: str
    results: Sequence[Result]
    masking: MaskingCheck | None = None


def write_results(path: Path, evaluations: Sequence[Evaluation], about: Mapping[str, Any]) -> None:
    """Write accuracies as JSON with ``about``, or as CSV, by the suffix of ``path``. Raises OSError.

    ``about`` is the result of ``freqrob.runtime.provenance.provenance``, with ``source`` and ``data_hash``.
    """
    rows = [
        {
            "model": model.name, **result.as_dict(), "model_hash": model.model_hash, "data_hash": about["data_hash"],
            "from_cache": result.from_cache,
        }
        for model in evaluations
        for result in model.results
    ]  # fmt: skip
    if path.suffix == ".csv":
        files.write_csv(path, rows, list(dict.fromkeys(key for row in rows for key in row)))
    else:
        masking = {model.name: model.masking.as_dict() for model in evaluations if model.masking is not None}
        EVALUATION.write(path, {**about, "results": rows, "masking": masking})


def write_samples(path: Path, evaluations: Sequence[Evaluation], labels: Tensor) -> None:
    """Write a CSV file with one row per image: whether it stays correctly classified. Raises OSError."""
    rows = [
        {
            "model": model.name, "protocol": result.protocol, "attack": result.attack.name, "index": index,
            "label": label, "correct": int(correct),
        }
        for model in evaluations
        for result in model.results
        for index, (label, correct) in enumerate(zip(labels.tolist(), result.correct.tolist(), strict=True))
    ]  # fmt: skip
    files.write_csv(path, rows, ["model", "protocol", "attack", "index", "label", "correct"])


def write_corruption_results(
    path: Path,
    models: Mapping[str, CorruptionAccuracy],
    about: Mapping[str, Any],
    baseline: str | None = None,
    mce: Mapping[str, float] | None = None,
) -> None:
    """Write accuracies on corruptions as JSON with ``about`` and ``mce``, or as CSV. Raises OSError."""
    if path.suffix == ".csv":
        rows = [
            {
                "model": name, "protocol": accuracy.protocol, "images": accuracy.images, "type": kind,
                "severity": severity, "accuracy": share, "from_cache": accuracy.from_cache[kind][severity - 1],
            }
            for name, accuracy in models.items()
            for kind, shares in accuracy.accuracies.items()
            for severity, share in enumerate(shares, 1)
        ]  # fmt: skip
        files.write_csv(path, rows, list(rows[0]))
    else:
        results = [
            {"model": name, **accuracy.as_dict(), **({"baseline": baseline, "mce": mce[name]} if mce else {})}
            for name, accuracy in models.items()
        ]
        CORRUPTION_RESULTS.write(path, {**about, "results": results})
