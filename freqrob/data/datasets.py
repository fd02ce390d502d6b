"""Image data sets as uint8 tensors, with a validation split that is fixed once and for all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

Split = Literal["train", "val", "test"]
DATASETS = ("cifar10",)
VALIDATION_IMAGES = 5000
SPLIT_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: ``images`` (N, C, H, W) uint8 in 0–255, ``labels`` (N,) int64, names of the ``classes``."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_labelled(self.images, self.labels)
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected uint8, got {self.images.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> ImageSet:
        return replace(self, images=self.images[index], labels=self.labels[index])


def load_dataset(name: str, split: Split, data_dir: str | Path = "./data", *, download: bool = False) -> ImageSet:
    """A split of a data set, whole and in memory.

    The test set is the data set's own. ``val`` is 5,000 images drawn once from the training set with a fixed seed, and
    ``train`` is the rest, so that a model is never selected on test data.

    Args:
        name: ``"cifar10"``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        data_dir: the folder that holds ``cifar-10-batches-py/``.
        download: fetch the data set into ``data_dir`` where it is missing (170 MB, torchvision's route and checksum).

    Raises:
        ValueError: an unknown name or split.
        FileNotFoundError: the data set is not in ``data_dir`` and ``download`` is off.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    if split not in get_args(Split):
        raise ValueError(f"split: expected one of {', '.join(get_args(Split))}, got {split!r}")
    whole = _cifar10(Path(data_dir), train=split != "test", download=download)
    if split == "test":
        return whole
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out, rest = order[:VALIDATION_IMAGES].sort().values, order[VALIDATION_IMAGES:].sort().values
    return whole[held_out if split == "val" else rest]


def _cifar10(folder: Path, *, train: bool, download: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10  # half a second that `import freqrob` must not cost

    try:
        source = CIFAR10(folder, train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"data_dir: no intact CIFAR-10 in {folder.resolve()} (expected cifar-10-batches-py/ there). "
            "Ask for a download, or unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz into it."
        ) from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(source.targets), tuple(source.classes))


def to_pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_labelled(images: Tensor, labels: Tensor) -> None:
    """Raise unless there is at least one image (N, C, H, W) of the right kind, and as many int64 labels (N,) from 0 on.

    TypeError for what is no tensor of floats or uint8; ValueError for shapes, labels, and floats outside [0, 1].
    """
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"images: expected floats in [0, 1] or uint8, got {images.dtype}")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images: expected (N, C, H, W) with N ≥ 1, got shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels: expected ({len(images)},) int64, got {tuple(labels.shape)} {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected classes from 0 on, got {labels.min().item()}")
    if images.is_floating_point() and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images: expected floats in [0, 1], got {images.min().item():g} to {images.max().item():g}")
