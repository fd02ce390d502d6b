"""Batches of images that do not fit in memory: worker processes read and augment them."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from freqrob.data.batches import PADDING, Crop, order_of_epoch, share_of_batch
from freqrob.data.datasets import ImageSet, to_pixels
from freqrob.data.photographs import Photographs
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import ImageStream
from freqrob.runtime.parameters import Count, Natural, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.reading import read_image

if TYPE_CHECKING:
    from torchvision.transforms.v2 import Compose

AnyCrop = Crop | Literal["resized"]
Transform = Callable[[Any], Any]
_PADDING_MODES = {"reflect": "reflect", "zeros": "constant"}


class StreamedBatches:
    """The counterpart of ``Batches`` for images that do not fit in memory: worker processes read and transform them.

    A batch depends only on the arguments and its step, not on the number of workers, so that a resumed run gets the
    same batches. The random numbers of an image depend on ``seed``, the step and the image's place in the batch; they
    are those of PyTorch, NumPy and Python. Each of several processes reads its share only, and together the shares are
    bit for bit the batch of a single process.

    Args:
        dataset: pairs of an image and a label; see ``items``.
        batch_size: images per batch, over all processes.
        transform: from an image of ``dataset`` to a tensor of one size; see ``training_transform``.
        seed: random seed of the order and the augmentation.
        classes: labels must be below it; None for no limit.
        workers: processes that read images; 0 to read them in this process.
        device: the device of the batches; those for a GPU are read into pinned memory.
        rank, world_size: index of this process, and the number of processes.

    Raises:
        ValueError: as ``Batches``; when read, images of a wrong size, and labels out of range.

    >>> from freqrob.data.samples import sample_images
    >>> batches = StreamedBatches(items(sample_images()), 8, training_transform(32, "zeros", flip=True), workers=0)
    >>> images, labels = next(batches.from_step(0))
    >>> len(batches), images.shape, labels.shape
    (2, torch.Size([8, 3, 32, 32]), torch.Size([8]))
    """

    @checked
    def __init__(
        self,
        dataset: Dataset,
        batch_size: Count,
        transform: Transform,
        *,
        seed: Natural = 0,
        classes: Count | None = None,
        workers: Natural = 1,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: Natural = 1,
    ) -> None:
        self.count = len(dataset)  # pyright: ignore[reportArgumentType]  # map-style data sets have a length
        self.share = share_of_batch(batch_size, self.count, rank, world_size)
        self.images = _Transformed(dataset, transform, seed, classes)
        self.batch_size, self.seed = batch_size, seed
        self.workers, self.device = workers, torch.device(device)

    def __len__(self) -> int:
        return self.count // self.batch_size

    def from_step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``step`` and all later steps, without end: float32 images in [0, 1] and int64 labels."""
        return _load(self.images, self._draws_from(step), self.workers, self.device)

    def _draws_from(self, step: int) -> Iterator[list[tuple[int, ...]]]:
        """For each step the number, the step and the place of each of this process's images."""
        places = range(self.batch_size)[self.share]
        order, of_epoch = torch.empty(0), -1
        for number in count(step):
            epoch, position = divmod(number, len(self))
            if epoch != of_epoch:
                order, of_epoch = order_of_epoch(self.count, self.seed, epoch), epoch
            chosen = order[position * self.batch_size :][: self.batch_size][self.share].tolist()
            yield [(image, number, place) for image, place in zip(chosen, places, strict=True)]


def read_in_order(
    dataset: Dataset,
    transform: Transform,
    chunks: Iterable[Sequence[int]],
    *,
    workers: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of each chunk of numbers, transformed, as float32 in [0, 1], and their labels, on the device."""
    draws = ([(number, 0, number) for number in chunk] for chunk in chunks)
    return _load(_Transformed(dataset, transform, 0, None), draws, workers, device)


def training_transform(size: int, crop: AnyCrop | None, flip: bool, last: Transform | None = None) -> Compose:
    """torchvision's transforms for training on images of ``size``: crop, flip, and ``last``.

    ``crop="resized"`` is ``RandomResizedCrop`` with its defaults, as usual for ImageNet: 8 to 100 % of the area, aspect
    ratios from 3/4 to 4/3, bilinear. The other crops leave the size unchanged, as in ``Batches``.
    """
    from torchvision.transforms import v2  # half a second that `import freqrob` must not cost

    steps: list[Transform] = []
    if crop == "resized":
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    steps += [_as_tensor, partial(_check_size, size=size)]
    if crop in _PADDING_MODES:
        steps.append(v2.RandomCrop(size, PADDING, padding_mode=_PADDING_MODES[crop]))  # pyright: ignore
    steps += [v2.RandomHorizontalFlip()] if flip else []
    return v2.Compose([*steps, *([last] if last else [])])


def validation_transform(size: int, crop: AnyCrop | None, last: Transform | None = None) -> Compose:
    """torchvision's transforms for images that networks of ``training_transform`` are measured on."""
    from torchvision.transforms import v2

    central = Preprocessing.central(size)
    assert isinstance(central.resize, int)
    steps: list[Transform] = [v2.Resize(central.resize, antialias=True), v2.CenterCrop(size)]
    steps = [*(steps if crop == "resized" else []), _as_tensor, partial(_check_size, size=size)]
    return v2.Compose([*steps, *([last] if last else [])])


def items(images: ImageSet | Dataset) -> Dataset:
    """Images one by one: photographs (PIL) as they are in their files, other images (C, H, W) as they are."""
    return _Items(images) if isinstance(images, ImageSet) else images


@dataclass(frozen=True)
class _Items(Dataset):
    images: ImageSet

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        stream, label = self.images.images, int(self.images.labels[number])
        if not isinstance(stream, ImageStream) or not isinstance(stream.reader, Photographs):
            return stream[number], label
        files = stream.reader.files
        image: Any = read_image(files.root / files.names[int(stream.index[number])])
        for _, transform in stream.transforms:
            image = transform(_as_tensor(image)[None])[0]
        return image, label


@dataclass(frozen=True)
class _Transformed(Dataset):
    """Images by number, step and place, transformed with random numbers of the seed, the step and the place."""

    dataset: Dataset
    transform: Transform
    seed: int
    classes: int | None

    def __getitem__(self, draw: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        number, *place = draw
        with random_state(self.seed, *place):
            image, label = self.dataset[number]
            if self.classes is not None and not 0 <= int(label) < self.classes:
                raise ValueError(f"labels: image {number} has {int(label)}, expected 0 to {self.classes - 1}")
            return self.transform(image), torch.tensor(int(label))


def _load(
    dataset: Dataset, draws: Iterable[list[tuple[int, ...]]], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on the device. The generator leaves the caller's random numbers unchanged."""
    batch_sampler: Any = draws
    loader = DataLoader(
        dataset, batch_sampler=batch_sampler, num_workers=workers, pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_interrupts, generator=torch.Generator(),
    )  # fmt: skip
    try:
        for images, labels in loader:
            yield to_pixels(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
    except (OSError, TypeError, ValueError) as error:
        raise _without_traceback(error) from error


def _without_traceback(error: Exception) -> Exception:
    """The error of a worker, whose message PyTorch puts at the end of the worker's traceback."""
    message = re.split(rf"\n[\w.]*{type(error).__name__}: ", str(error))[-1]
    return type(error)(message.strip())


def _ignore_interrupts(_worker: int) -> None:
    """Leave Ctrl-C, which the terminal sends to workers too, to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_tensor(image: Any) -> Tensor:
    """A PIL image as uint8 (3, H, W); a tensor unchanged."""
    if isinstance(image, Tensor):
        return image
    from torchvision.transforms.v2 import functional

    return functional.pil_to_tensor(image.convert("RGB"))


def _check_size(image: Tensor, size: int) -> Tensor:
    """The image. Raises ValueError unless it is square with sides of ``size``."""
    if image.ndim != 3 or image.shape[1:] != (size, size):
        raise ValueError(
            f"crop: got an image of shape {tuple(image.shape)}, expected (C, {size}, {size}); for photographs of other "
            "sizes use crop='resized' (--set crop=resized)"
        )
    return image
