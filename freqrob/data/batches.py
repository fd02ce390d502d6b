"""Batches of a data set that lives on the device, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from freqrob.data.datasets import ImageSet, to_pixels


class Batches:
    """Shuffled, augmented batches; what an epoch gives depends only on ``seed`` and its number.

    Args:
        dataset: the images, moved to ``device`` as a whole.
        batch_size: images a batch; an incomplete last batch is dropped.
        seed: of the order and of the augmentation.
        augment: crop (4 reflected pixels around) and horizontal flip, each image its own.
        transform: applied to the (N, C, H, W) float images in [0, 1] before crop and flip, given a generator.
        device: where the batches are wanted.

    ``epoch(i)`` yields (N, C, H, W) float images in [0, 1] and (N,) int64 labels.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int,
        *,
        seed: int = 0,
        augment: bool = True,
        transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= batch_size <= len(dataset):
            raise ValueError(f"batch_size: expected 1 to {len(dataset)} (the images there are), got {batch_size}")
        self.images, self.labels = dataset.images.to(device), dataset.labels.to(device)
        self.batch_size, self.seed, self.augment, self.transform = batch_size, seed, augment, transform

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
        for chosen in order[: len(self) * self.batch_size].split(self.batch_size):
            images = to_pixels(self.images[chosen])
            if self.transform is not None:
                images = self.transform(images, generator)
            if self.augment:
                images = flip(crop(images, generator), generator)
            yield images, self.labels[chosen]


def crop(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """A random window of each image's own size out of the image with ``padding`` reflected pixels around it."""
    count, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4, mode="reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p+1, 2p+1, H, W), a view
    row, column = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    return windows[torch.arange(count, device=images.device), :, row, column]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability ½."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
