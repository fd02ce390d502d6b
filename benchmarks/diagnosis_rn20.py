"""Diagnose the small CIFAR-10 models, into `results/diagnosis_rn20.json`.

    python -m benchmarks.diagnosis_rn20 --data DIR [--model-dir DIR] [--cache DIR] [MODEL …]

Gradients, loss landscapes, hybrid images and minimal perturbations on the first images of the test set, as many as
`SETTINGS` says; about two minutes a model. Without MODEL, every one in --model-dir, by default the package's. What was
measured with the same weights and settings is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.cifar10_rn20 import SHIPPED
from benchmarks.records import RESULTS, measured
from freqrob.data import load_dataset
from freqrob.data.datasets import ImageSet
from freqrob.diagnostics import hybrid_reliance, minimal_perturbation, sensitivity
from freqrob.diagnostics.run import high_landscape, low_landscape
from freqrob.files import sha256_of, write_json
from freqrob.models import list_models, load_model
from freqrob.models.loading import checkpoint_path
from freqrob.provenance import provenance

RECORD = RESULTS / "diagnosis_rn20.json"
DIAGNOSTICS = {
    "sensitivity": sensitivity, "hybrid": hybrid_reliance, "minimal_perturbation": minimal_perturbation,
    "loss_landscape_low": low_landscape, "loss_landscape_high": high_landscape,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "sensitivity": {"images": 1000},
    "hybrid": {"images": 500, "seeds": [0, 1, 2, 3]},
    "minimal_perturbation": {"images": 100, "steps": 100, "repeats": 1},
    "loss_landscape_low": {"images": 200, "points": 9},
    "loss_landscape_high": {"images": 200, "points": 9},
}


def measure(name: str, model_dir: Path, test: ImageSet, cache: Path | None) -> dict[str, Any]:
    """What the record says of a model."""
    model, found = load_model(name, model_dir), {}
    for what, diagnostic in DIAGNOSTICS.items():
        print(f"{name}: {what}", flush=True)
        settings = dict(SETTINGS[what])
        chosen = test[: settings.pop("images")]
        found[what] = diagnostic(model, chosen.images, chosen.labels, cache=cache, **settings)
    reversals = found["hybrid"].reversal
    smallest = found["minimal_perturbation"]
    middle = len(found["loss_landscape_low"].steps) // 2
    return {
        **provenance(f"python -m benchmarks.diagnosis_rn20 --data DIR {name}"),
        "sha256": sha256_of(checkpoint_path(name, model_dir, "cifar10", "Linf")),
        "source": "cifar10 test",
        "settings": SETTINGS,
        "high_share_of_gradient": found["sensitivity"].high_share.mean().item(),
        "median_radius_of_largest_coefficient": found["sensitivity"].radii[:, 0].median().item(),
        "reversal_frequency": reversals.nanmean().item(),
        "reversal_frequencies": reversals.tolist(),
        "minimal_distance": smallest.distances[smallest.success].median().item(),
        "half_power_frequency": smallest.half_power_frequency,
        "half_power_interval": [smallest.half_power_low, smallest.half_power_high],
        **{
            f"{value}_on_{half}": of(found[f"loss_landscape_{half}"])
            for half in ("low", "high")
            for value, of in {"loss": lambda at: at.loss[middle, middle].item(), "rise": lambda at: at.rise}.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds cifar-10-batches-py/")
    parser.add_argument("--model-dir", type=Path, default=SHIPPED)
    parser.add_argument("--cache", type=Path, help="where what is done is kept, so that a run that was stopped goes on")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    given = parser.parse_args()
    test = load_dataset("cifar10", "test", given.data)
    for name in given.models or list_models("*_rn20", "cifar10", "Linf", given.model_dir):
        weights, known = checkpoint_path(name, given.model_dir, "cifar10", "Linf"), measured(RECORD.name).get(name, {})
        if (known.get("sha256"), known.get("settings")) != (sha256_of(weights), SETTINGS):
            found = measure(name, given.model_dir, test, given.cache)
            write_json(RECORD, dict(sorted({**measured(RECORD.name), name: found}.items())))


if __name__ == "__main__":
    main()
