"""Twenty real CIFAR-10 test images that come with Foolbox, for what must run without the data set."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from freqrob.data.datasets import ImageSet
from freqrob.reading import read_image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SAMPLES = 20


def sample_images() -> ImageSet:
    """The 20 CIFAR-10 images of the installed Foolbox, (20, 3, 32, 32), in the order of their names.

    They are the first 20 of the test set. Foolbox's files are read; Foolbox itself, whose import takes a git binary
    and seconds of compilation, is not imported.

    Raises:
        FileNotFoundError: Foolbox is not installed, or its images are not all there.
    """
    paths = sorted(path for folder in _foolbox_folders() for path in folder.glob("data/cifar10_*.png"))
    if len(paths) != SAMPLES:
        found = f"only {len(paths)} of them are in its folder" if paths else "there are none on this machine"
        raise FileNotFoundError(
            f"the {SAMPLES} sample images come with Foolbox, and {found}. "
            "Install it (pip install foolbox), or give the folder of CIFAR-10 (--data DIR)."
        )
    labels = [int(path.stem.rsplit("_", 1)[1]) for path in paths]  # cifar10_07_6.png: the eighth, of class 6
    return ImageSet(torch.stack([_read(path) for path in paths]), torch.tensor(labels), CIFAR10_CLASSES)


def _foolbox_folders() -> list[Path]:
    spec = find_spec("foolbox")
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
