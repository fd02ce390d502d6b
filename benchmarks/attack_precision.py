"""Attacks on the model itself, on its twin in float32, and on its twin in bfloat16: robust accuracy and CPU time.

    python -m benchmarks.attack_precision --data DIR [--models NAME…] [--images 1000] [--ensemble 30] [--out FILE]

PGD-20 on all images, and the two strongest attacks of AutoAttack on the first ``--ensemble`` ones. The CPU time of the
process on one thread is measured, which other programs on the machine hardly change. FILE is written after each run, so
an interrupted benchmark resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.script import load_images, make_parser, parse, run
from freqrob.attacks import Attack, parse_attack
from freqrob.data.datasets import to_pixels
from freqrob.models import load_model
from freqrob.models.state import channels_last
from freqrob.models.twins import COMPARED, fast_gradients, in_bfloat16
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance

ENSEMBLE = "autoattack:apgd-ce,apgd-t"
BATCH = 250


def robust_accuracy(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, way: str) -> float:
    """Accuracy under an attack on the images that are still correctly classified, as in ``evaluate``."""
    robust = torch.zeros(len(images), dtype=torch.bool)
    with channels_last(model), torch.no_grad():
        twins = WAYS[way](model, to_pixels(images[:COMPARED]))
        for index in torch.arange(len(images)).split(BATCH):
            left = index[model(to_pixels(images[index])).argmax(1) == labels[index]]
            for stage in attack.stages:
                if len(left):
                    part = to_pixels(images[left]), labels[left]
                    left = left[stage.robust_mask(model, *part, indices=left, twins=twins)]
            robust[left] = True
    return robust.double().mean().item()


def with_bfloat16(model: nn.Module, images: Tensor) -> tuple[nn.Module, ...]:
    twin = fast_gradients(model, images)
    return in_bfloat16(twin), twin


WAYS: dict[str, Callable[[nn.Module, Tensor], tuple[nn.Module, ...]]] = {
    "model": lambda _model, _images: (),
    "float32": lambda model, images: (fast_gradients(model, images),),
    "bfloat16": with_bfloat16,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "attack_precision.json", data=True)
    parser.add_argument("--models", nargs="+", default=["pgd_at_rn20", "trades_rn20", "fgsm_rn20"], metavar="NAME")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--ensemble", type=int, default=30, metavar="N")
    arguments = parse(parser, given)
    if arguments.quick:
        arguments.models, arguments.images, arguments.ensemble = ["pgd_at_rn20"], 4, 1
    torch.set_num_threads(1)
    test = load_images(arguments)
    counts = {"pgd-20": arguments.images, ENSEMBLE: arguments.ensemble}
    options = f"--models {' '.join(arguments.models)} --images {arguments.images} --ensemble {arguments.ensemble}"
    command = f"python -m benchmarks.attack_precision --data DIR {options}"
    done = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    rows = done["rows"] if done.get("command") == command else []
    for text, count in counts.items():
        for name in arguments.models:
            for way in WAYS:
                if any((row["attack"], row["model"], row["attacked"]) == (text, name, way) for row in rows):
                    continue
                part = test[:count]
                attack, model = parse_attack(text), load_model(name)
                start = time.process_time()
                accuracy = robust_accuracy(attack, model.eval(), part.images, part.labels, way)
                seconds = round(time.process_time() - start, 1)
                rows.append({
                    "attack": text, "model": name, "images": len(part), "attacked": way, "robust": accuracy,
                    "cpu_seconds": seconds,
                })  # fmt: skip
                write_json(arguments.out, {**provenance(command), "threads": 1, "rows": rows})
                print(rows[-1], flush=True)


if __name__ == "__main__":
    run(main)
