"""Batches of a data set in device memory, augmented by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqrob.data.datasets import ImageSet, to_pixels
from freqrob.runtime.parameters import Count, Natural, check_integers, checked

Crop = Literal["reflect", "zeros"]
PADDING = 4
_ORDER, _DRAWS = 0, 1  # purposes of streams of random numbers


class Batches:
    """Shuffled, augmented batches: ``batches[step]`` is the batch of training step ``step``.

    A batch depends only on the arguments and ``step``, so that a run resumed in the middle of an epoch gets the same
    batches. ``len(batches)`` is the number of steps per epoch, without an incomplete last batch. The epoch is
    ``step // len(batches)``; no image occurs twice in it.

    Each of several processes gets the contiguous share of its ``rank``; together the shares are bit for bit the batch
    of a single process. Crop and flip process only the share, ``transform`` the whole batch in each process.

    Args:
        dataset: the images; kept on ``device``, or on the host if they need more than half of a GPU's free memory.
        batch_size: images per batch, over all processes.
        seed: random seed of the order and the augmentation.
        crop: padding mode of the random crop (4 pixels): ``"reflect"`` (as in the BaSS code) or ``"zeros"`` (as in
            JaFR's); None for no crop.
        flip: mirror each image left to right with probability ½.
        transform: applied before crop and flip to the (N, C, H, W) float images in [0, 1] of the whole batch, with
            a generator on the CPU; returns the same number of images.
        device: the device of the batches.
        rank, world_size: index of this process, and the number of processes.

    ``batches[step]`` is (n, C, H, W) float32 images in [0, 1] and (n,) int64 labels, n = batch_size / world_size.

    Raises:
        ValueError: a batch larger than the data or not divisible by ``world_size``, an unknown ``crop``, a negative
            ``seed``, a ``rank`` out of range.

    >>> from freqrob.data.samples import sample_images
    >>> batches = Batches(sample_images(), 8, seed=0)
    >>> images, labels = batches[0]
    >>> len(batches), images.shape, labels.shape
    (2, torch.Size([8, 3, 32, 32]), torch.Size([8]))
    """

    __iter__ = None  # steps continue after an epoch: a loop over them would not end

    @checked
    def __init__(
        self,
        dataset: ImageSet,
        batch_size: Count,
        *,
        seed: Natural = 0,
        crop: Crop | None = "reflect",
        flip: bool = True,
        transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: Natural = 1,
    ) -> None:
        self.share = share_of_batch(batch_size, len(dataset), rank, world_size)
        self.device = torch.device(device)
        home = self.device if _fits(dataset.tensor, self.device) else torch.device("cpu")
        self.images, self.labels = dataset.tensor.to(home), dataset.labels.to(home)
        self.crop: Crop | None = crop
        self.batch_size, self.seed, self.flip, self.transform = batch_size, seed, flip, transform
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if step < 0:
            raise IndexError(f"step: expected a number ≥ 0, got {step}")
        epoch, position = divmod(step, len(self))
        chosen = self._order_of(epoch)[position * self.batch_size :][: self.batch_size]
        generator = _generator(self.seed, _DRAWS, step)
        if self.transform is None:
            images = to_pixels(self._moved(self.images[chosen[self.share]]))
        else:
            images = self.transform(to_pixels(self._moved(self.images[chosen])), generator)[self.share]
        if self.crop is not None:
            places = torch.randint(2 * PADDING + 1, (2, self.batch_size), generator=generator)[:, self.share]
            images = crop(images, places.to(self.device), self.crop)
        if self.flip:
            mirrored = torch.rand(self.batch_size, generator=generator, dtype=torch.float32)[self.share] < 0.5
            images = flip(images, mirrored.to(self.device))
        return images, self._moved(self.labels[chosen[self.share]])

    def from_step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``step`` and all later steps, without end."""
        return (self[number] for number in count(step))

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            order = order_of_epoch(len(self.images), self.seed, epoch)
            self._epoch, self._order = epoch, order.to(self.images.device)
        return self._order

    def _moved(self, batch: Tensor) -> Tensor:
        """Move a batch from the data set's device to the device of batches."""
        if batch.device.type == "cpu" and self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)


def share_of_batch(batch_size: int, images: int, rank: int, world_size: int) -> slice:
    """The part of each batch that belongs to a process. Raises ValueError as ``Batches``."""
    check_integers(0, world_size - 1, rank=rank)
    if batch_size > images:
        raise ValueError(f"batch_size: expected at most {images}, the number of images, got {batch_size}")
    if batch_size % world_size:
        raise ValueError(f"batch_size: expected a multiple of world_size ({world_size}), got {batch_size}")
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)


def order_of_epoch(images: int, seed: int, epoch: int) -> Tensor:
    """The numbers of all images in the order of an epoch."""
    return torch.randperm(images, generator=_generator(seed, _ORDER, epoch))


def crop(images: Tensor, places: Tensor, kind: Crop) -> Tensor:
    """Pad images by 4 pixels and crop them to their size, at the rows and columns ``places`` (2, N)."""
    height, width = images.shape[-2:]
    padded = F.pad(images, [PADDING] * 4, mode="reflect" if kind == "reflect" else "constant")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 9, 9, H, W), a view
    return windows[torch.arange(len(images), device=images.device), :, places[0], places[1]]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images of the mask ``mirrored`` (N,) left to right."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the whole data set fits on the device beside training."""
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


def _generator(seed: int, *stream: int) -> torch.Generator:
    """A generator whose stream is determined by the seed, purpose and number."""
    mixed = np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))
