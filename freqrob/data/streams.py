"""Images that are read when they are indexed, so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Protocol, overload

import torch
from torch import Tensor

from freqrob.runtime.threads import usable_cpus

Transform = Callable[[Tensor], Tensor]


class Reader(Protocol):
    """Source of a stream's images.

    Attributes:
        size: (C, H, W) of each image.
        dtype: uint8, or floats in [0, 1].
    """

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def keys(self, numbers: Sequence[int]) -> Sequence[str]:
        """A string for each of these images; it changes if the image's pixels change."""
        ...

    def read(self, chunks: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """The images (n, C, H, W) of each chunk of image numbers."""
        ...


@dataclass(frozen=True)
class ImageStream:
    """Images (N, C, H, W) that are read when they are indexed; measurements take it wherever they take a tensor.

    ``stream[indices]`` reads the images of an index tensor, ``stream[3]`` one image (C, H, W), and ``stream[10:20]`` is
    a stream of these images, as is ``stream.select(indices)``, without reading them.

    Attributes:
        reader: reads images by their number.
        index: (N,) int64, the numbers of the stream's images.
        transforms: applied to each batch of images, in this order, with a description of each.
        channels: number of channels, if the transforms change it.

    >>> from torch.utils.data import TensorDataset
    >>> from freqrob.data.torch_datasets import stream_dataset
    >>> dataset = TensorDataset(torch.zeros(6, 3, 8, 8), torch.arange(6))
    >>> stream, labels = stream_dataset(dataset)
    >>> stream.shape, stream[2:4].shape, stream[0].shape
    (torch.Size([6, 3, 8, 8]), torch.Size([2, 3, 8, 8]), torch.Size([3, 8, 8]))
    """

    reader: Reader
    index: Tensor
    transforms: tuple[tuple[str, Transform], ...] = field(default=(), repr=False)
    channels: int | None = None

    @classmethod
    def of(cls, reader: Reader) -> ImageStream:
        """A stream of all images of a reader."""
        return cls(reader, torch.arange(len(reader)))

    @property
    def shape(self) -> torch.Size:
        channels, *sides = self.reader.size
        return torch.Size((len(self.index), self.channels or channels, *sides))

    @property
    def dtype(self) -> torch.dtype:
        return self.reader.dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def digest(self) -> str:
        """SHA-256 of the images' keys, order and transforms."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        lines = [str(self.dtype), *(name for name, _ in self.transforms), *self.reader.keys(self.index.tolist())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, index: int | Tensor) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> ImageStream: ...

    def __getitem__(self, index: int | Tensor | slice) -> Tensor | ImageStream:
        if isinstance(index, slice):
            return self.select(index)
        numbers = torch.as_tensor(index)
        images = next(self.batches([torch.atleast_1d(numbers)]))
        return images if numbers.ndim else images[0]

    def select(self, index: Tensor | slice) -> ImageStream:
        """The stream of some of the images."""
        return replace(self, index=self.index[index])

    def map(self, transform: Transform, name: str, channels: int | None = None) -> ImageStream:
        """The stream of transformed images; size and dtype must stay the same. ``name`` describes the transform."""
        return replace(self, transforms=(*self.transforms, (name, transform)), channels=channels or self.channels)

    def batches(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each index tensor; the reader reads the next ones meanwhile."""
        for images in self.reader.read(self.index[chunk].tolist() for chunk in chunks):
            yield reduce(lambda batch, transform: transform[1](batch), self.transforms, images)

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of ``size`` images, in order."""
        return self.batches(torch.arange(len(self)).split(size))


Images = Tensor | ImageStream


def select(images: Images, index: Tensor | slice) -> Images:
    """Some of the images; those of a stream are not read."""
    return images.select(index) if isinstance(images, ImageStream) else images[index]


def batches(images: Images, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images of each index tensor, in order."""
    return images.batches(chunks) if isinstance(images, ImageStream) else (images[chunk] for chunk in chunks)


def in_memory(images: Images) -> Tensor:
    """The images as a tensor."""
    return images[torch.arange(len(images))] if isinstance(images, ImageStream) else images


def read_by_threads(read: Callable[[int], Tensor], chunks: Iterable[Sequence[int]]) -> Iterator[Tensor]:
    """The stacked images of each chunk, read by a thread for each CPU; those of the next chunk are read meanwhile."""
    pool = ThreadPoolExecutor(usable_cpus())
    try:
        submitted = ([pool.submit(read, number) for number in chunk] for chunk in chunks)
        current: list[Future[Tensor]] | None = next(submitted, None)
        while current is not None:
            following = next(submitted, None)
            yield torch.stack([future.result() for future in current])
            current = following
    finally:
        pool.shutdown(cancel_futures=True)
