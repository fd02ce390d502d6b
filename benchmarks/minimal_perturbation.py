"""Minimal perturbations by the Brendel–Bethge attacks of Foolbox and freqrob, and by Foolbox's FMN.

    python -m benchmarks.minimal_perturbation --data DIR [--model NAME] [--steps N] [--device cuda] [--quick]

All attacks use the same correctly classified images and number of steps, all images at once. The Brendel–Bethge attacks
have the same starting points; FMN starts at the images. Numba's compilation, which Foolbox's attacks need once per
process, is timed separately. freqrob's attack gets channels_last images, the others contiguous ones, because they would
convert them. It stops on images that come no closer; with a large `patience` it makes all steps, as Foolbox's does.
`passes` is the number of times that the network saw an image, `cpu_s` the CPU time of this process, `undisturbed`
whether other processes used few CPU seconds.
"""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from foolbox import PyTorchModel, attacks
from foolbox.attacks.base import MinimizationAttack
from freqrob_foolbox.brendel_bethge import L2BrendelBethgeAttack, LinfinityBrendelBethgeAttack
from torch import Tensor, nn

from benchmarks.script import load_images, make_parser, parse, run
from benchmarks.timing import sample
from freqrob.data import ImageSet
from freqrob.models import load_model
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance

ATTACKS: dict[str, dict[str, Callable[..., MinimizationAttack]]] = {
    "Linf": {
        "foolbox": attacks.LinfinityBrendelBethgeAttack,
        "freqrob": LinfinityBrendelBethgeAttack,
        "freqrob, all steps": partial(LinfinityBrendelBethgeAttack, patience=10**9),
        "fmn": attacks.LInfFMNAttack,
    },
    "L2": {
        "foolbox": attacks.L2BrendelBethgeAttack,
        "freqrob": L2BrendelBethgeAttack,
        "freqrob, all steps": partial(L2BrendelBethgeAttack, patience=10**9),
        "fmn": attacks.L2FMNAttack,
    },
}


def correct_images(model: nn.Module, dataset: ImageSet, count: int, device: str) -> tuple[Tensor, Tensor]:
    """The first ``count`` images that the model classifies correctly, and their labels."""
    taken = slice(0, 4 * count)
    images, labels = dataset.images[taken].to(device).float() / 255, dataset.labels[taken].to(device)
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).nonzero().flatten()[:count]
    return images[right], labels[right]


def compile_seconds(
    attack: MinimizationAttack, model: PyTorchModel, images: Tensor, labels: Tensor, **starts: Tensor
) -> float:
    """Seconds of the first run minus those of the second."""
    seconds = [sample(lambda: attack(model, images, labels, epsilons=None, **starts), 1)[0] for _ in range(2)]
    return seconds[0] - seconds[1]


def measured(
    attack: MinimizationAttack,
    network: nn.Module,
    model: PyTorchModel,
    images: Tensor,
    labels: Tensor,
    **starts: Tensor,
) -> dict[str, Any]:
    """One run on all images: its time, the network's passes per image, and the distances."""
    results: list[tuple[Tensor, Tensor]] = []
    seen: list[int] = []

    def run() -> None:
        raw, _, success = attack(model, images, labels, epsilons=None, **starts)
        results.append((attack.distance(images, raw), success.sum().item()))

    counter = network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))

    cpu = time.process_time()
    seconds, quiet = sample(run, 1)
    cpu = time.process_time() - cpu
    counter.remove()
    distances, successes = results[0]
    return {
        "seconds": round(seconds, 3),
        "cpu_s": round(cpu, 3),
        "images_per_s": round(len(images) / seconds, 4),
        "passes": round(sum(seen) / len(images), 1),
        "median_distance": round(distances.median().item(), 6),
        "mean_distance": round(distances.mean().item(), 6),
        "successes": successes,
        "undisturbed": quiet,
    }


def rows(
    network: nn.Module, images: Tensor, labels: Tensor, steps: int, norms: list[str], left_out: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each attack of each norm; times are relative to the first one, Foolbox's Brendel–Bethge attack."""
    model = PyTorchModel(network, bounds=(0, 1), device=images.device)
    torch.manual_seed(0)
    starts = attacks.LinearSearchBlendedUniformNoiseAttack(steps=100).run(model, images, labels)
    for norm in norms:
        base: dict[str, Any] = {}
        for name, kind in ATTACKS[norm].items():
            if name in left_out:
                continue
            row: dict[str, Any] = {"norm": norm, "attack": name}
            begin = {} if name == "fmn" else {"starting_points": starts}
            begin_two = {key: value[:2] for key, value in begin.items()}
            if name == "foolbox":
                row["compile_s"] = round(compile_seconds(kind(steps=1), model, images[:2], labels[:2], **begin_two), 1)
            given = images.contiguous(memory_format=torch.channels_last) if name.startswith("freqrob") else images
            kind(steps=1)(model, given[:2], labels[:2], epsilons=None, **begin_two)
            row |= measured(kind(steps=steps), network, model, given, labels, **begin)
            base = base or row
            row["times_as_fast"] = round(base["seconds"] / row["seconds"], 2)
            row["times_less_cpu"] = round(base["cpu_s"] / row["cpu_s"], 2)
            yield row


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "minimal_perturbation_cpu.json", data=True)
    parser.add_argument("--model", default="pgd_at_rn20")
    parser.add_argument("--model-dir", type=Path, default=Path("models"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--norms", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parse(parser, arguments)
    left_out = []
    if given.quick:
        given.images, given.steps, left_out = 4, 5, ["foolbox"]  # whose compilation takes minutes
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message="At the first initialisation")
    network = load_model(given.model, model_dir=given.model_dir).to(given.device)
    images, labels = correct_images(network, load_images(given), given.images, given.device)
    circumstances = {
        "model": given.model, "dataset": "CIFAR-10 test" if given.data else "Foolbox's samples", "images": len(images),
        "steps": given.steps, "threads": given.threads, "device": given.device,
    }  # fmt: skip
    if given.device == "cuda":
        circumstances["gpu"] = torch.cuda.get_device_name()
    typed = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "benchmarks.minimal_perturbation", *map(str, typed)])
    found: list[dict[str, Any]] = []
    for row in rows(network, images, labels, given.steps, given.norms, left_out):
        found.append(row)
        write_json(given.out, {**provenance(command), **circumstances, "rows": found})
        print(row, flush=True)


if __name__ == "__main__":
    run(main)
