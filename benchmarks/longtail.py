"""The long tail of natural images, before and after BaSS, at several resolutions.

    python -m benchmarks.longtail NAME=FOLDER … [--cifar10 DIR] [--out FILE] [--quick]

FOLDER and its subfolders hold images of one size. Writes JSON and prints a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.script import make_parser, parse, run
from freqrob.data import load_dataset
from freqrob.data.samples import sample_images
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.runtime.reading import read_image
from freqrob.spectral.balance import bass
from freqrob.spectral.longtail import fit_power_law, power_profile, split, total_spectral_entropy

SUFFIXES = {".png", ".jpg", ".jpeg"}


def read_folder(folder: Path) -> Tensor:
    """(N, 3, H, W) uint8, in the order of the files' names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: no images")
    pixels = np.stack([np.array(read_image(path)) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def measure(name: str, images: Tensor) -> dict:
    """Power law, 80/20 boundary and entropy of images, before and after BaSS."""
    row = {"images": name, "count": len(images), "height": images.shape[-2], "width": images.shape[-1]}
    weightings = {"natural": images, "amplitude": bass(images), "power": bass(images, weighting="power")}
    for weighting, pixels in weightings.items():
        law, parts = fit_power_law(pixels), split(pixels)
        row[weighting] = {
            "alpha": law.alpha,
            "r_squared": law.r_squared,
            "boundary_ring": parts.boundary,
            "boundary_cycles_per_pixel": parts.radius,
            "boundary_share_of_largest_radius": parts.radius_fraction,
            "entropy_nats": total_spectral_entropy(power_profile(pixels)).item(),
        }
    return row


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "longtail.json")
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--cifar10", type=Path, metavar="DIR", help="the folder that holds cifar-10-batches-py/")
    arguments = parse(parser, given)
    sets = {"CIFAR-10, 20 images": sample_images().images} if arguments.quick else {}
    if arguments.cifar10:
        sets["CIFAR-10, test set"] = load_dataset("cifar10", "test", arguments.cifar10).images
    for pair in arguments.folders:
        name, _, folder = pair.partition("=")
        sets[name] = read_folder(Path(folder))
    rows = [measure(name, images) for name, images in sets.items()]
    write_json(arguments.out, {**provenance("python -m benchmarks.longtail"), "rows": rows})
    for row in rows:
        found = row["natural"]
        print(
            f"{row['images']}: α {found['alpha']:.2f}, 80 % of the power within "
            f"{100 * found['boundary_share_of_largest_radius']:.0f} % of the largest radius"
        )


if __name__ == "__main__":
    run(main)
