"""Five photographs of frost for the corruption ``frost``; freqrob may not ship them."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from freqrob.data.corruptions.registry import Benchmark
from freqrob.runtime.files import expanded
from freqrob.runtime.reading import read_image

NAMES = ("frost1", "frost2", "frost3", "frost4", "frost5")
PACKAGES = ("imagecorruptions-imaug", "imagecorruptions")
EVERY = {"cifar": 5, "imagenet": 1}  # CIFAR-10-C has them at a fifth: OpenCV's bilinear filter takes every fifth pixel
HOW = "pip install imagecorruptions-imaug, or give a folder with frost1 … frost5 as .png or .jpg (--frost DIR)"


def find_frost(folder: str | Path | None = None) -> list[Path]:
    """Find the five files in ``folder``, or else in an installed package, without importing it.

    Raises FileNotFoundError, which says how to get them.
    """
    if folder is None:
        paths = next(filter(None, map(_in_package, PACKAGES)), [])
        where = f"none of {', '.join(PACKAGES)} is installed"
    else:
        paths = _chosen(expanded(folder, "frost").glob("*"))
        where = f"not all five are in {folder}"
    if not paths:
        raise FileNotFoundError(f"frost: needs photographs that freqrob may not ship, and {where}: {HOW}")
    return paths


def _in_package(name: str) -> list[Path]:
    try:
        listed = files(name) or []
    except PackageNotFoundError:
        return []
    return _chosen(Path(str(file.locate())) for file in listed if file.parent.name == "frost")


def _chosen(paths) -> list[Path]:
    by_name = {path.stem: path for path in sorted(paths) if path.suffix.lower() in (".png", ".jpg") and path.is_file()}
    return [by_name[name] for name in NAMES] if by_name.keys() >= {*NAMES} else []


@lru_cache(maxsize=2)
def read_frost(paths: tuple[Path, ...], severities: Benchmark = "cifar") -> list[Tensor]:
    """Read each as (3, h, w) uint8, for CIFAR-10-C at a fifth of its size. Raises ValueError for other files."""
    return [_read(path, EVERY[severities]) for path in paths]


def _read(path: Path, every: int) -> Tensor:
    try:
        pixels = np.array(read_image(path))
    except ValueError as error:
        raise ValueError(f"frost: {error}: {HOW}") from error
    return torch.from_numpy(pixels[every // 2 :: every, every // 2 :: every]).permute(2, 0, 1).contiguous()
