"""Time of a Fourier heat map: all waves of 32×32 on CIFAR-10's test images.

    python -m benchmarks.fourier_heatmap --data DIR [--model pgd_at_rn20] [--images 250] [--threads 2] [--out FILE]
                                         [--quick]

Runs once in each precision, in batches of 250. Writes JSON with the seconds for 1,000 images, extrapolated from the
measured ones, and the difference of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from benchmarks.script import load_images, make_parser, parse, run
from benchmarks.timing import sample
from freqrob.diagnostics import fourier_heatmap
from freqrob.diagnostics.fourier_heatmap import Precision, fourier_frequencies
from freqrob.models import load_model
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance

IMAGES = 1000


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "fourier_heatmap_cpu.json", data=True)
    parser.add_argument("--model", default="pgd_at_rn20")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parse(parser, given)
    every = 1
    if arguments.quick:
        arguments.images, every = 4, 16
    torch.set_num_threads(arguments.threads)
    model, test = load_model(arguments.model), load_images(arguments)[: arguments.images]
    seconds, maps, undisturbed = {}, {}, True
    for precision in get_args(Precision):
        fourier_heatmap(model, test.images[:8], test.labels[:8], every=16, precision=precision)

        def timed(precision: Precision = precision) -> None:
            maps[precision] = fourier_heatmap(model, test.images, test.labels, every=every, precision=precision).change

        taken, quiet = sample(timed, 1)
        seconds[precision], undisturbed = round(taken * IMAGES / len(test), 1), undisturbed and quiet
        print(f"{precision}: {seconds[precision]:.0f} s for {IMAGES:,} images", flush=True)
    difference = (maps["bfloat16"] - maps["float32"]).abs()
    command = f"python -m benchmarks.fourier_heatmap --data DIR --model {arguments.model} --images {len(test)}"
    record = {
        **provenance(command), "source": "cifar10 test", "model": arguments.model, "threads": arguments.threads,
        "waves": len(fourier_frequencies(*test.images.shape[-2:], every)), "images": len(test),
        "extrapolated_to": IMAGES, "seconds": seconds, "undisturbed": undisturbed,
        "mean_difference": difference.mean().item(), "largest_difference": difference.max().item(),
    }  # fmt: skip
    write_json(arguments.out, record)
    print(f"error rates differ by {100 * difference.mean():.2f} % on average, {100 * difference.max():.1f} % at most")


if __name__ == "__main__":
    run(main)
