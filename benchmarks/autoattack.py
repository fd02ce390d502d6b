"""AutoAttack on the same images through three packages: freqrob, RobustBench's benchmark, and pyautoattack.

    python -m benchmarks.autoattack --data DIR [--model NAME] [--images 200] [--out FILE] [--quick]

All images are one batch, because the random numbers depend on it. RobustBench takes its seed from the clock, the others
use 0. FILE is written after each package, so an interrupted run resumes with the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from freqrob_robustbench import register
from torch import Tensor, nn

from benchmarks.script import load_images, make_parser, parse, run
from freqrob.attacks import AutoAttack, Clean
from freqrob.evaluation import evaluate
from freqrob.models import load_model
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance

EPS = 8 / 255
Accuracies = tuple[float, float]  # clean and robust


def by_freqrob(model: nn.Module, images: Tensor, labels: Tensor, _data: Path) -> Accuracies:
    attacks = [Clean(), AutoAttack(eps=EPS)]
    results = evaluate(model, images, labels, protocols=["natural"], attacks=attacks, batch_size=len(images), seed=0)
    return results[0].accuracy, results[1].accuracy


def by_robustbench(model: nn.Module, images: Tensor, _labels: Tensor, data: Path) -> Accuracies:
    register()
    import robustbench

    return robustbench.benchmark(
        model, len(images), dataset="cifar10", threat_model="Linf", eps=EPS, batch_size=len(images), data_dir=str(data)
    )


def by_hand(model: nn.Module, images: Tensor, labels: Tensor, _data: Path) -> Accuracies:
    from pyautoattack import AutoAttack as Theirs

    pixels = images.float() / 255
    adversary = Theirs(model, norm="Linf", eps=EPS, seed=0, version="standard")
    found = adversary.run_standard_evaluation(pixels, labels, batch_size=len(images))
    found = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        clean, robust = ((model(x).argmax(1) == labels).double().mean().item() for x in (pixels, found))
    return clean, robust


PACKAGES: dict[str, Callable[[nn.Module, Tensor, Tensor, Path], Accuracies]] = {
    "freqrob": by_freqrob,
    "robustbench": by_robustbench,
    "pyautoattack": by_hand,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "autoattack.json", data=True)
    parser.add_argument("--model", default="pgd_at_rn20")
    parser.add_argument("--images", type=int, default=200)
    arguments = parse(parser, given)
    if arguments.quick:
        arguments.model, arguments.images = "standard_rn20", 4
    test = load_images(arguments)[: arguments.images]
    model = load_model(arguments.model)
    command = f"python -m benchmarks.autoattack --data DIR --model {arguments.model} --images {arguments.images}"
    subject = {"model": arguments.model, "images": len(test), "source": "cifar10 test", "eps": EPS, "norm": "Linf"}
    done = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    packages = done.get("packages", {}) if done.get("command") == command else {}
    for name, run_package in PACKAGES.items():
        if name in packages or (run_package is by_robustbench and not arguments.data):  # it loads the images itself
            continue
        start = time.perf_counter()
        clean, robust = run_package(model, test.images, test.labels, arguments.data)
        packages[name] = {"clean": clean, "robust": robust, "seconds": round(time.perf_counter() - start, 1)}
        write_json(arguments.out, {**provenance(command), **subject, "attack": "AutoAttack", "packages": packages})
        print(name, packages[name], flush=True)


if __name__ == "__main__":
    run(main)
