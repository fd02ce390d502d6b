"""PyTorch's data sets and data loaders as streams of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, default_collate

from freqrob.data.datasets import check_labelled
from freqrob.data.streams import ImageStream
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.reading import brief
from freqrob.runtime.tensors import update_digest

CHUNK = 64  # images that are read together to identify them


@dataclass(frozen=True)
class DatasetReader:
    """A ``Reader`` of a map-style data set.

    Attributes:
        dataset: pairs of an image and a label.
        options: arguments of the ``DataLoader`` that reads it.
        size, dtype: of each image.
        hashes: SHA-256 of each image.
    """

    dataset: Dataset
    options: dict[str, Any] = field(repr=False)
    size: tuple[int, int, int]
    dtype: torch.dtype
    hashes: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def keys(self, numbers: Sequence[int]) -> list[str]:
        return [self.hashes[number] for number in numbers]

    def read(self, chunks: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        return (images for images, _ in _read(self.dataset, chunks, self.options))


def stream_dataset(data: Dataset | DataLoader, progress: Progress = no_progress) -> tuple[ImageStream, Tensor]:
    """A stream of the images of a data set or loader, ordered by index, and their labels (N,) int64.

    All images are read once to check and hash them and to collect labels; memory does not grow with their number. A
    loader's workers and ``collate_fn`` are used; its batches and their order are not.

    Raises:
        TypeError: a data set without ``len()`` or indexing, or of PIL images.
        ValueError: items that are not pairs of an image (C, H, W) of one size, uint8 or float in [0, 1], and a label.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"data: expected a map-style data set, with len() and an index, got {type(dataset).__name__}; results are "
            "kept by the images' numbers"
        )
    options, numbers = _options(data), _numbers(data)
    if numbers and options["collate_fn"] is default_collate:
        _check_item(dataset[numbers[0]])
    chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    hashes: list[str] = []
    labels: list[int] = []
    first: Tensor | None = None
    batches = _read(dataset, chunks, options)
    for _ in progress(chunks, "reading once", len(chunks), len(numbers)):
        images, classes = next(batches)
        first = images[:1] if first is None else first
        _check(images, classes, first)
        hashes += map(_hash, images)
        labels += classes.tolist()  # small tensors between large ones would keep the freed memory of these
    if first is None:
        raise ValueError("data: expected at least one image, got none")
    position = dict(zip(numbers, hashes, strict=True))
    reader = DatasetReader(
        dataset, options, (first.shape[1], first.shape[2], first.shape[3]), first.dtype,
        tuple(position.get(number, "") for number in range(max(numbers) + 1)),
    )  # fmt: skip
    return ImageStream(reader, torch.tensor(numbers)), torch.tensor(labels)


def _numbers(data: Any) -> list[int]:
    """The images' indices in ascending order; those that a loader's sampler gives."""
    sampler = getattr(data, "batch_sampler", None)
    if not isinstance(data, DataLoader):
        return list(range(len(data)))
    with torch.random.fork_rng(devices=[]):
        drawn = sampler.sampler if type(sampler) is BatchSampler else data.sampler if sampler is None else sampler
        return sorted({number for item in drawn for number in (item if isinstance(item, list | tuple) else [item])})


def _options(data: Dataset | DataLoader) -> dict[str, Any]:
    if not isinstance(data, DataLoader):
        return {"collate_fn": default_collate}
    names = ("num_workers", "worker_init_fn", "multiprocessing_context")
    collate: Callable[..., Any] = default_collate if data.batch_size is None else data.collate_fn
    return {**{name: getattr(data, name) for name in names}, "collate_fn": collate}


def _read(
    dataset: Dataset, chunks: Iterable[Sequence[int]], options: dict[str, Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels. The generator leaves the caller's random numbers unchanged."""
    loader = DataLoader(dataset, batch_sampler=list(map(list, chunks)), generator=torch.Generator(), **options)
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not all(isinstance(x, Tensor) for x in batch[:2]):
            kinds = [type(x).__name__ for x in batch] if isinstance(batch, list | tuple) else type(batch).__name__
            raise ValueError(f"data: expected pairs of an image and a label, as tensors, got {brief(str(kinds))}")
        yield batch[0], batch[1]


def _check_item(item: Any) -> None:
    """Raise TypeError for a PIL image, which cannot be put into a batch."""
    if isinstance(item, list | tuple) and item and type(item[0]).__module__.startswith("PIL."):
        raise TypeError(
            "data: expected images as tensors, got PIL images; give the data set "
            "transform=torchvision.transforms.v2.PILToTensor()"
        )


def _check(images: Tensor, labels: Tensor, first: Tensor) -> None:
    """Raise ValueError for images or labels that cannot be measured."""
    if images.shape[1:] != first.shape[1:] or images.dtype != first.dtype:
        got = f"{tuple(images.shape[1:])} {images.dtype}"
        raise ValueError(f"data: expected images {tuple(first.shape[1:])} {first.dtype} like the first one, got {got}")
    if labels.is_floating_point():
        raise ValueError(f"data: expected integer labels, got {labels.dtype}")
    try:
        check_labelled(images, labels.long().cpu())
    except (TypeError, ValueError) as error:
        remedy = "; leave out its Normalize, which belongs in the model" if images.is_floating_point() else ""
        raise ValueError(f"data: {error}{remedy}") from error


def _hash(image: Tensor) -> str:
    digest = hashlib.sha256()
    update_digest(digest, image)
    return digest.hexdigest()
