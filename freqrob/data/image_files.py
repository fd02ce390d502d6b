"""Data sets of image files: decoded once, by threads, then memory-mapped."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from freqrob.runtime.files import write_npy
from freqrob.runtime.progress import Progress
from freqrob.runtime.reading import holds_npy, map_npy, read_image
from freqrob.runtime.warning import warn

SUFFIXES = (".jpeg", ".jpg", ".png")
_CHUNK = 256  # images per update of the progress bar


@dataclass(frozen=True)
class ImageFiles:
    """Image files with labels: ``names`` are relative to ``root``, ``labels`` (N,) int64, names of the ``classes``."""

    root: Path
    names: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Tensor) -> ImageFiles:
        return replace(self, names=tuple(self.names[i] for i in index.tolist()), labels=self.labels[index])

    def keys(self, numbers: Iterable[int]) -> list[str]:
        """Name, size and time of modification of each of these files. Raises OSError for a missing file."""

        def key(number: int) -> str:
            info = (self.root / self.names[number]).stat()
            return f"{self.names[number]} {info.st_size} {info.st_mtime_ns}"

        with ThreadPoolExecutor() as pool:  # for network file systems, where each is a round trip
            return list(pool.map(key, numbers))


def list_images(root: Path, folder: str) -> list[str]:
    """Sorted names, relative to ``root``, of the images in ``folder`` or ``folder/images``."""
    names = [name for name in _names_in(root / folder) if name.lower().endswith(SUFFIXES)]
    if not names and (root / folder / "images").is_dir():
        return list_images(root, f"{folder}/images")
    return [f"{folder}/{name}" for name in names]


def list_wnids(folder: Path) -> list[str]:
    """Sorted names of the folders in ``folder`` that are WordNet ids, such as n01440764."""
    return [name for name in _names_in(folder) if re.fullmatch(r"n\d{8}", name) and (folder / name).is_dir()]


def _names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def decode(files: ImageFiles, size: int, cache: Path, progress: Progress) -> Tensor:
    """Decode ``files`` to (N, 3, size, size) uint8, memory-mapped: do not write to them.

    Images are decoded to RGB and resized as by torchvision's ``Resize((size, size))`` (bilinear with antialiasing),
    once, into ``<cache>_<hash>.npy``, which replaces files with other hashes. The hash covers the files' names, sizes
    and modification times, so that a replaced file is detected. If the folder is read-only, images are decoded into
    memory, with a warning.

    Raises:
        ValueError: a file is not a PNG or JPEG, is damaged, or has more than 67 million pixels; the message names it.
        OSError: a file is missing; the cache cannot be written for another reason than permission, such as a full disk.
    """
    shape = (len(files), 3, size, size)
    digest = hashlib.sha256("".join(f"{key}\n" for key in files.keys(range(len(files)))).encode()).hexdigest()
    path = cache.with_name(f"{cache.name}_{digest[:12]}.npy")
    if not holds_npy(path, shape):
        try:
            write_npy(path, shape, _decoded(files, size, progress))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                message = f"could not keep {np.prod(shape) / 1e9:.3g} GB of decoded images: {error}"
                raise OSError(error.errno, message) from error
            warn(f"{path.parent} is read-only: images are decoded into memory at each start")
            return _in_memory(shape, _decoded(files, size, progress))
        for older in set(cache.parent.glob(f"{cache.name}_{'[0-9a-f]' * 12}.npy")) - {path}:
            older.unlink(missing_ok=True)
    with warnings.catch_warnings():  # torch has no read-only tensors and says so
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(map_npy(path))


def _in_memory(shape: tuple[int, ...], blocks: Iterator[np.ndarray]) -> Tensor:
    images, start = torch.empty(shape, dtype=torch.uint8), 0
    for block in blocks:
        images[start : start + len(block)] = torch.from_numpy(block)
        start += len(block)
    return images


def _decoded(files: ImageFiles, size: int, progress: Progress) -> Iterator[np.ndarray]:
    """Blocks (n, 3, size, size) of the images, in order."""
    starts = range(0, len(files), _CHUNK)
    with ThreadPoolExecutor() as pool:
        for start in progress(starts, "decoding", len(starts), len(files)):
            paths = (files.root / name for name in files.names[start : start + _CHUNK])
            yield np.stack(list(pool.map(partial(_read, size=size), paths)))


def _read(path: Path, size: int) -> np.ndarray:
    from PIL import Image  # torchvision brings it

    pixels = read_image(path).resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))
