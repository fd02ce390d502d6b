"""The images of a training run: in memory, or read by workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from freqrob.data import DATASETS, Batches, ImageSet, balance, load_dataset
from freqrob.data.datasets import members, to_pixels
from freqrob.data.streamed_batches import (
    StreamedBatches,
    items,
    read_in_order,
    training_transform,
    validation_transform,
)
from freqrob.runtime.launched import launched
from freqrob.runtime.processes import rank_zero_first
from freqrob.runtime.progress import Progress
from freqrob.runtime.threads import usable_cpus
from freqrob.training.recipe import Recipe

VALIDATION_BATCH = 250
VALIDATION_PIXELS = 64 * 224 * 224  # per batch of images that are not in memory
FEWEST_IMAGES = 10  # one of them is held out for validation


@dataclass(frozen=True)
class RunImages:
    """The images of a run.

    Attributes:
        train, val: for training, and for choosing the best epoch. Images in memory are an ``ImageSet`` of a tensor.
        classes: number of classes.
        workers: processes that read images which are not in memory.
    """

    train: Dataset
    val: Dataset
    classes: int
    workers: int

    def __len__(self) -> int:
        """The number of training images."""
        return len(self.train)  # pyright: ignore[reportArgumentType]  # map-style data sets have a length


def load_images(
    recipe: Recipe,
    data: Dataset | DataLoader | None,
    workers: int | None,
    data_dir: str | Path,
    download: bool,
    progress: Progress,
) -> RunImages:
    """The images of ``train``'s arguments; those in memory are balanced here if the recipe says so."""
    if data is not None:
        train_set, val_set = _divided(data.dataset if isinstance(data, DataLoader) else data)
    else:
        with rank_zero_first():  # it downloads and decodes for the others
            train_set, val_set = (
                load_dataset(recipe.dataset, split, data_dir, download=download, progress=progress)
                for split in ("train", "val")
            )
    named = train_set.dataset if isinstance(train_set, Subset) else train_set
    classes = len(getattr(named, "classes", ())) or DATASETS[recipe.dataset].classes
    if recipe.on_balanced_images:
        train_set, val_set = (
            balance(images, weighting=recipe.weighting)
            if isinstance(images, ImageSet) and is_in_memory(images)
            else images
            for images in (train_set, val_set)
        )
    return RunImages(train_set, val_set, classes, _worker_count(data) if workers is None else workers)


def _divided(data: Dataset) -> tuple[Dataset, Dataset]:
    """The images for training and for validation, drawn as those of freqrob's data sets."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise TypeError(f"data: expected a map-style data set, with len() and an index, got {type(data).__name__}")
    count = len(data)  # pyright: ignore[reportArgumentType]
    if count < FEWEST_IMAGES:
        raise ValueError(f"data: expected at least {FEWEST_IMAGES} images, because a tenth is held out, got {count}")
    parts = [members(count, split) for split in ("train", "val")]
    train_set, val_set = (data[part] if isinstance(data, ImageSet) else Subset(data, part.tolist()) for part in parts)
    return train_set, val_set


def is_in_memory(images: Dataset) -> bool:
    """Whether images are a tensor, for ``Batches``."""
    return isinstance(images, ImageSet) and isinstance(images.images, Tensor)


def training_batches(
    recipe: Recipe, images: RunImages, *, device: torch.device, rank: int, world_size: int
) -> Batches | StreamedBatches:
    """The share of a process of the batches of a run."""
    about = DATASETS[recipe.dataset]
    flip = recipe.flip and about.flip
    if not isinstance(images.train, ImageSet) or not is_in_memory(images.train):
        transform = training_transform(about.size, recipe.crop, flip, recipe.make_image_transform())
        return StreamedBatches(
            items(images.train), recipe.batch_size, transform, seed=recipe.seed, classes=images.classes,
            workers=images.workers, device=device, rank=rank, world_size=world_size,
        )  # fmt: skip
    if recipe.crop == "resized":
        raise ValueError("crop: 'resized' is for images that are not in memory, expected 'reflect', 'zeros' or None")
    return Batches(
        images.train, recipe.batch_size, seed=recipe.seed, crop=recipe.crop, flip=flip,
        transform=recipe.make_transform(), device=device, rank=rank, world_size=world_size,
    )  # fmt: skip


def validation_batch_size(recipe: Recipe, val_set: Dataset) -> int:
    """Images per batch of the validation, fewer for photographs."""
    if is_in_memory(val_set):
        return VALIDATION_BATCH
    return max(1, min(VALIDATION_BATCH, VALIDATION_PIXELS // DATASETS[recipe.dataset].size ** 2))


def validation_batches(
    recipe: Recipe, val_set: Dataset, chunks: Sequence[range], *, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pixels and the labels of each chunk of image numbers."""
    if isinstance(val_set, ImageSet) and is_in_memory(val_set):
        for chunk in chunks:
            part = val_set[chunk.start : chunk.stop]
            yield to_pixels(part.tensor.to(device)), part.labels.to(device)
        return
    last = recipe.make_image_transform() if recipe.on_balanced_images else None
    transform = validation_transform(DATASETS[recipe.dataset].size, recipe.crop, last)
    yield from read_in_order(items(val_set), transform, chunks, workers=workers, device=device)


def _worker_count(data: Dataset | DataLoader | None) -> int:
    """The number of a loader's workers, if it has some, or else of this process's share of the machine's CPUs."""
    if isinstance(data, DataLoader) and data.num_workers:
        return data.num_workers
    started = launched()
    return max(1, usable_cpus() // (started.local_world_size if started else 1))
