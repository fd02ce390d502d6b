"""Measure small CIFAR-10 models: accuracies by protocol and ln B_low, into `results/cifar10_rn20.json` and their cards.

    python -m benchmarks.cifar10_rn20 --data DIR [--model-dir DIR] [--device cuda] [--out FILE] [--quick] [MODEL …]

Clean, FGSM and PGD-20 accuracy at 8/255 on all 10,000 test images under each protocol; ln B_low of the Jacobian on the
same images, natural and balanced. Without MODEL, all models in --model-dir are measured, by default the shipped ones. A
model whose weights have not changed is not measured again, so an interrupted run resumes; several runs may share the
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

import freqrob.models
from benchmarks.records import measured
from benchmarks.script import load_images, make_parser, parse, run
from freqrob.attacks import FGSM, PGD, Clean
from freqrob.data import ImageSet, balance
from freqrob.diagnostics import jacobian_spectrum
from freqrob.evaluation import evaluate
from freqrob.models import list_models, load_model
from freqrob.models.checkpoints import add_results
from freqrob.models.loading import checkpoint_path
from freqrob.runtime.files import sha256_of, write_json
from freqrob.runtime.provenance import provenance

SHIPPED = Path(freqrob.models.__file__).parent / "weights"
ATTACKS = (Clean(), FGSM(), PGD(steps=20))


def measure(name: str, model_dir: Path, test: ImageSet, device: str) -> dict[str, Any]:
    """The record of a model."""
    weights = checkpoint_path(name, model_dir, "cifar10", "Linf")
    model = load_model(name, model_dir).to(device)

    def track(items, what, *_):
        print(f"{name}: {what}", flush=True)
        return items

    results = evaluate(model, test.images, test.labels, attacks=ATTACKS, seed=0, track=track)
    balanced = balance(test)
    return {
        **provenance(f"python -m benchmarks.cifar10_rn20 --data DIR {name}"),
        "sha256": sha256_of(weights),
        "source": "cifar10 test",
        "results": [result.as_dict() for result in results],
        "log_b_low": {
            "natural": jacobian_spectrum(model, test.images.to(device), test.labels.to(device)).log_b_low,
            "balanced": jacobian_spectrum(model, balanced.images.to(device), balanced.labels.to(device)).log_b_low,
            "images": len(test),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "cifar10_rn20.json", data=True)
    parser.add_argument("--model-dir", type=Path, default=SHIPPED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    given = parse(parser, arguments)
    for name in given.models or list_models("*_rn20", "cifar10", "Linf", given.model_dir):
        weights = checkpoint_path(name, given.model_dir, "cifar10", "Linf")
        if measured(given.out).get(name, {}).get("sha256") == sha256_of(weights):
            continue
        found = measure(name, given.model_dir, load_images(given), given.device)
        if not given.quick:
            add_results(weights, found["results"])
        with FileLock(f"{given.out}.lock"):
            write_json(given.out, dict(sorted({**measured(given.out), name: found}.items())))


if __name__ == "__main__":
    run(main)
