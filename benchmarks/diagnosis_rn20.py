"""Diagnose the small CIFAR-10 models, into `results/diagnosis_rn20.json`.

    python -m benchmarks.diagnosis_rn20 --data DIR [--model-dir DIR] [--cache DIR] [--out FILE] [--quick] [MODEL …]

Gradients, loss landscapes, hybrid images and minimal perturbations on the first images of the test set; `SETTINGS` has
their numbers. About two minutes per model. Without MODEL, all models in --model-dir are measured, by default the
shipped ones. Results with the same weights and settings are not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor, nn

from benchmarks.cifar10_rn20 import SHIPPED
from benchmarks.records import measured
from benchmarks.script import load_images, make_parser, parse, run
from freqrob.data.datasets import ImageSet
from freqrob.diagnostics import hybrid_reliance, loss_landscape, minimal_perturbation, sensitivity
from freqrob.diagnostics.loss_landscape import Component, component
from freqrob.models import list_models, load_model
from freqrob.models.loading import checkpoint_path
from freqrob.runtime.files import sha256_of, write_json
from freqrob.runtime.provenance import provenance

SETTINGS: dict[str, dict[str, Any]] = {
    "sensitivity": {"images": 1000},
    "hybrid": {"images": 500, "seeds": [0, 1, 2, 3]},
    "minimal_perturbation": {"images": 100, "steps": 100, "repeats": 1},
    "loss_landscape_low": {"images": 200, "points": 9, "seeds": [0]},
    "loss_landscape_high": {"images": 200, "points": 9, "seeds": [0, 1, 2, 3]},
}
QUICK = {
    "sensitivity": {"images": 4},
    "hybrid": {"images": 20, "seeds": [0, 1]},
    "minimal_perturbation": {"images": 4, "steps": 2, "repeats": 1},
    "loss_landscape_low": {"images": 4, "points": 5, "seeds": [0]},
    "loss_landscape_high": {"images": 4, "points": 5, "seeds": [0, 1]},
}


def _sensitivity(*given: Any, **settings: Any) -> dict[str, Any]:
    found = sensitivity(*given, **settings)
    return {
        "high_share_of_gradient": found.mean_high_share,
        "median_radius_of_largest_coefficient": found.radii[~found.high_share.isnan(), 0].median().item(),
    }


def _hybrid(*given: Any, **settings: Any) -> dict[str, Any]:
    reversals = hybrid_reliance(*given, **settings).reversal
    return {"reversal_frequency": reversals.nanmean().item(), "reversal_frequencies": reversals.tolist()}


def _minimal_perturbation(*given: Any, **settings: Any) -> dict[str, Any]:
    found = minimal_perturbation(*given, **settings)
    return {
        "minimal_distance": found.distances[found.success].median().item(),
        "half_power_frequency": found.half_power_frequency,
        "half_power_interval": [found.half_power_low, found.half_power_high],
    }


def _landscape(
    half: Component,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seeds: Sequence[int],
    **settings: Any,
) -> dict[str, Any]:
    """The loss, and its variation: mean and standard error over one pair of random directions per seed."""
    half_of_them = component(images, half)
    found = [loss_landscape(model, half_of_them, labels, seed=seed, **settings) for seed in seeds]
    middle, each = len(found[0].steps) // 2, [one.variation for one in found]
    numbers = {f"loss_on_{half}": found[0].loss[middle, middle].item(), f"variation_on_{half}": fmean(each)}
    return numbers if len(each) == 1 else {**numbers, f"variation_error_on_{half}": stdev(each) / len(each) ** 0.5}


DIAGNOSTICS: dict[str, Callable[..., dict[str, Any]]] = {
    "sensitivity": _sensitivity, "hybrid": _hybrid, "minimal_perturbation": _minimal_perturbation,
    "loss_landscape_low": partial(_landscape, "low"),
    "loss_landscape_high": partial(_landscape, "high"),
}  # fmt: skip


def measure(
    name: str, what: str, settings: dict[str, Any], model_dir: Path, test: ImageSet, cache: Path | None
) -> dict[str, Any]:
    """The record of a model and one diagnostic."""
    print(f"{name}: {what}", flush=True)
    its = dict(settings)
    chosen = test[: its.pop("images")]
    found = DIAGNOSTICS[what](load_model(name, model_dir), chosen.images, chosen.labels, cache=cache, **its)
    command = provenance(f"python -m benchmarks.diagnosis_rn20 --data DIR {name}")
    return {**command, "source": "cifar10 test", "settings": settings, **found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "diagnosis_rn20.json", data=True)
    parser.add_argument("--model-dir", type=Path, default=SHIPPED)
    parser.add_argument("--cache", type=Path, help="cache directory, so that an interrupted run resumes")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    given = parse(parser, arguments)
    test = load_images(given)
    for name in given.models or list_models("*_rn20", "cifar10", "Linf", given.model_dir):
        sha256 = sha256_of(checkpoint_path(name, given.model_dir, "cifar10", "Linf"))
        for what, settings in (QUICK if given.quick else SETTINGS).items():
            record = measured(given.out)
            known = record.get(name, {})
            if known.get("sha256") != sha256:
                known = {"sha256": sha256}
            if known.get(what, {}).get("settings") != settings:
                known[what] = measure(name, what, settings, given.model_dir, test, given.cache)
                write_json(given.out, dict(sorted({**record, name: known}.items())))


if __name__ == "__main__":
    run(main)
