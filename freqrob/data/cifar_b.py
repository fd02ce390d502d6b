"""CIFAR-B and CIFAR-100-B: data sets balanced once by BaSS, before any augmentation."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freqrob.data.datasets import ImageSet, Split, load_dataset, members
from freqrob.data.streams import ImageStream
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import (
    check_folder,
    expanded,
    move_into_place,
    sha256_of,
    temporary_folder_beside,
    write_synced,
)
from freqrob.runtime.parameters import Count, check_choices, checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.provenance import Provenance, provenance
from freqrob.runtime.reading import Label, damage_named
from freqrob.spectral.reference import Weighting

MANIFEST = "cifar_b.json"
KINDS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's classes


class BalancedManifest(Provenance, kw_only=True):
    """The file ``cifar_b.json``: SHA-256 by file, and how the images were balanced."""

    sha256: dict[str, str]
    dataset: Label = ""
    weighting: Label = ""
    note: str = ""


BALANCED = FileFormat("cifar_b", BalancedManifest)


@checked
def balance(dataset: ImageSet, *, weighting: Weighting = "amplitude", batch_size: Count = 1024) -> ImageSet:
    """Balance every image of a data set by BaSS; the result is uint8 in memory, also for a memory-mapped data set.

    Photographs stay files, which are balanced each time that they are read.

    Source: Lin et al., NeurIPS 2023, section 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``, which
    writes its balanced CIFAR-10 to disk once.

    >>> from freqrob.data.samples import sample_images
    >>> balanced = balance(sample_images())
    >>> balanced.images.shape, balanced.images.dtype
    (torch.Size([20, 3, 32, 32]), torch.uint8)
    """
    from freqrob.spectral.balance import BaSS, bass  # loads the native ops, which a data set's metadata do not need

    if isinstance(dataset.images, ImageStream):
        how = f"balanced by {BaSS(weighting=weighting)}"
        return replace(dataset, images=dataset.images.map(partial(bass, weighting=weighting), how))
    balanced = torch.empty(dataset.images.shape, dtype=torch.uint8, device=dataset.images.device)
    for images, out in zip(dataset.images.split(batch_size), balanced.split(batch_size), strict=True):
        bass(images, weighting=weighting, out=out)
    return replace(dataset, images=balanced)


@checked
def write_cifar_b(
    data_dir: str | Path,
    out: str | Path,
    dataset: str = "cifar10",
    *,
    weighting: Weighting = "amplitude",
    download: bool = False,
    command: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Write CIFAR-10 or CIFAR-100 balanced by BaSS, in files that differ from the original ones only in the pixels.

    Other code can read the folder like the original one. torchvision refuses it because the MD5 sums differ, which
    prevents confusion. ``load_cifar_b`` reads it and checks the SHA-256 sums in its ``cifar_b.json``, which also
    records how it was made.

    Args:
        data_dir: the folder that holds the original ``cifar-10-batches-py/`` or ``cifar-100-python/``.
        out: the parent folder of a new folder of the same name, which appears only when complete.
        dataset: ``"cifar10"`` or ``"cifar100"``.
        weighting: BaSS's weighting, ``"amplitude"`` or ``"power"``.
        download: fetch the original if it is missing.
        command: recorded in ``cifar_b.json``.
        progress: wraps the files in a progress bar.

    Returns:
        The new folder.

    Raises:
        ValueError: an unknown data set or weighting.
        FileNotFoundError: the original is not in ``data_dir`` and ``download`` is off.
        FileExistsError: ``out`` already contains the folder.
        OSError: a full disk.

    Source: Lin et al., NeurIPS 2023, section 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``.
    """
    kind = _kind(dataset)
    source = expanded(data_dir, "data_dir") / kind.base_folder
    target = expanded(out, "out") / kind.base_folder
    if target.exists():
        raise FileExistsError(f"out: {target} already exists; remove it, or choose another folder")
    check_folder(target)
    load_dataset(dataset, "test", data_dir, download=download)  # checks the MD5 sums of all files
    with temporary_folder_beside(target) as new:
        folder = new / kind.base_folder
        folder.mkdir()
        names = [name for name, _md5 in kind.train_list + kind.test_list]
        for name in progress(names, f"balancing {dataset}", len(names)):
            write_synced(folder / name, _balanced((source / name).read_bytes(), weighting))
        write_synced(folder / kind.meta["filename"], (source / kind.meta["filename"]).read_bytes())
        sums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        about = {"note": f"{dataset} through BaSS, not the original", "dataset": dataset, "weighting": weighting}
        BALANCED.write(folder / MANIFEST, {**about, "sha256": sums, **provenance(command)})
        if not move_into_place(folder, target):
            raise FileExistsError(f"out: another process has just written {target}; use it, or choose another folder")
    return target


@checked
def load_cifar_b(data_dir: str | Path, split: Split, dataset: str = "cifar10") -> ImageSet:
    """Read a split from a folder of ``write_cifar_b``, with the images in the order of ``load_dataset``.

    No code in the pickled files is executed.

    Raises:
        ValueError: an unknown data set or split, or a file that was changed.
        FileNotFoundError: ``data_dir`` has no such folder.
    """
    kind = _kind(dataset)
    folder = expanded(data_dir, "data_dir") / kind.base_folder
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"data_dir: no {folder / MANIFEST}; `freqrob dataset bass --data ORIGINAL --out {data_dir}` makes it"
        )
    sums = BALANCED.read(folder / MANIFEST).sha256
    files = kind.test_list if split == "test" else kind.train_list
    contents = [_read(folder / name, sums) for name, _md5 in files]
    meta = _read(folder / kind.meta["filename"], sums)
    with damage_named(folder, f"{dataset} through BaSS"):
        batches = [_unpickled(content) for content in contents]
        images = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).view(-1, 3, 32, 32)
        labels = torch.tensor([label for batch in batches for label in _labels(batch)])
        image_set = ImageSet(images, labels, tuple(map(str, _unpickled(meta)[kind.meta["key"]])))
    return image_set if split == "test" else image_set[members(len(image_set), split)]


def _kind(dataset: str) -> Any:
    check_choices(KINDS, dataset=dataset)
    from torchvision import datasets

    return getattr(datasets, KINDS[dataset])


def _balanced(content: bytes, weighting: Weighting) -> bytes:
    """A batch file with balanced pixels: 3,072 bytes per image, contiguous."""
    batch = _unpickled(content)
    images = torch.from_numpy(batch["data"].copy()).view(-1, 3, 32, 32)
    balanced = balance(ImageSet(images, torch.tensor(_labels(batch)), ()), weighting=weighting)
    before, natural, after = content.partition(batch["data"].tobytes())
    if not natural:
        raise ValueError("data_dir: the pixels in a batch file are not contiguous")
    return before + balanced.tensor.numpy().tobytes() + after


def _read(path: Path, sums: dict[str, str]) -> bytes:
    if not path.is_file() or sha256_of(path) != sums.get(path.name):
        raise ValueError(f"data_dir: {path} was changed; make it again with `freqrob dataset bass`")
    return path.read_bytes()


def _labels(batch: dict[str, Any]) -> list[int]:
    return batch["labels"] if "labels" in batch else batch["fine_labels"]


def _unpickled(content: bytes) -> dict[str, Any]:
    return _ArraysOnly(BytesIO(content), encoding="latin1").load()  # latin1 as Python 2 wrote the originals


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for NumPy arrays and builtin types; raises for anything that could execute code."""

    _ALLOWED = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": np.empty(0).__reduce__()[0]}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return self._ALLOWED[name]
        raise ValueError(f"data_dir: a file of the data set refers to {module}.{name}, which is not executed")
