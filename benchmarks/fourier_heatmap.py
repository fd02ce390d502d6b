"""How long a Fourier heat map takes: all waves of 32×32 on CIFAR-10's test images.

    python -m benchmarks.fourier_heatmap --data DIR [--model pgd_at_rn20] [--images 250] [--threads 2] [--out FILE]

One run in each precision, in batches of 250; writes JSON with the seconds for 1,000 images, extrapolated from those
that were measured, and how far the maps differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from benchmarks.timing import sample
from freqrob.data import load_dataset
from freqrob.diagnostics import fourier_heatmap
from freqrob.diagnostics.fourier_heatmap import Precision, fourier_frequencies
from freqrob.files import write_json
from freqrob.models import load_model
from freqrob.provenance import provenance

IMAGES = 1000


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR-10's folder")
    parser.add_argument("--model", default="pgd_at_rn20")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fourier_heatmap_cpu.json"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    model, test = load_model(arguments.model), load_dataset("cifar10", "test", arguments.data)[: arguments.images]
    seconds, maps, undisturbed = {}, {}, True
    for precision in get_args(Precision):
        fourier_heatmap(model, test.images[:8], test.labels[:8], every=16, precision=precision)

        def timed(precision: Precision = precision) -> None:
            maps[precision] = fourier_heatmap(model, test.images, test.labels, precision=precision).change

        taken, quiet = sample(timed, 1)
        seconds[precision], undisturbed = round(taken * IMAGES / len(test), 1), undisturbed and quiet
        print(f"{precision}: {seconds[precision]:.0f} s for {IMAGES:,} images", flush=True)
    apart = (maps["bfloat16"] - maps["float32"]).abs()
    command = f"python -m benchmarks.fourier_heatmap --data DIR --model {arguments.model} --images {len(test)}"
    record = {
        **provenance(command), "source": "cifar10 test", "model": arguments.model, "threads": arguments.threads,
        "waves": len(fourier_frequencies(*test.images.shape[-2:])), "images": len(test), "extrapolated_to": IMAGES,
        "seconds": seconds, "undisturbed": undisturbed,
        "mean_difference": apart.mean().item(), "largest_difference": apart.max().item(),
    }  # fmt: skip
    write_json(arguments.out, record)
    print(f"error rates differ by {100 * apart.mean():.2f} % in the mean, {100 * apart.max():.1f} % at most")


if __name__ == "__main__":
    main()
