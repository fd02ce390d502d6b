"""CIFAR-10-C and CIFAR-100-C on disk: the published arrays, and arrays made by freqrob in the same layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from freqrob.data.archives import Archive, fetch_archive
from freqrob.data.corruptions import CHUNK, CORRUPTIONS, SEVERITIES, corrupt, find_frost, severities_for
from freqrob.data.datasets import DATASETS, ImageSet, chosen_labels, explained
from freqrob.data.grayscale import colour_name, to_grayscale
from freqrob.data.samples import CIFAR10_CLASSES
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import (
    as_json,
    check_folder,
    expanded,
    locked,
    remove_abandoned,
    sha256_of,
    write_npy,
)
from freqrob.runtime.parameters import Natural, check_choices, check_integers, checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.provenance import Provenance, provenance
from freqrob.runtime.reading import Label, brief, holds_npy, map_npy, read_json
from freqrob.runtime.tensors import data_hash

MANIFEST = "generated.json"
LABELS = "labels.npy"


PUBLISHED = {
    "cifar10": Archive(
        "CIFAR-10-C", "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499"
    ),
    "cifar100": Archive(
        "CIFAR-100-C", "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3"
    ),
}


@checked
def write_corruptions(
    dataset: ImageSet,
    folder: str | Path,
    types: Sequence[str] = tuple(CORRUPTIONS),
    *,
    about: Mapping[str, Any],
    seed: Natural = 0,
    frost: str | Path | None = None,
    command: str = "",
    progress: Progress = no_progress,
) -> list[str]:
    """Write corrupted images in the benchmark's format: ``<type>.npy`` (5·N, H, W, 3) uint8, by ascending severity.

    Also writes ``labels.npy``, the N labels five times, and ``generated.json``, which records that these are not the
    published arrays, and how they were made. Files appear only when complete, and complete types are not made again, so
    that an interrupted run continues. All five severities are written, because readers locate them by position.

    Args:
        dataset: N images, usually a test set.
        folder: created if absent.
        types: names from ``CORRUPTIONS``.
        about: description of the images, such as ``{"dataset": "cifar10", "bass": None}``, for ``generated.json``.
        seed: random seed.
        frost: the folder of photographs for the type ``frost``.
        command: recorded in ``generated.json``.
        progress: wraps the work in a progress bar.

    Returns:
        The types that this call made.

    Raises:
        ValueError: an unknown type, or ``folder`` holds corruptions of other images, another seed or other photographs.
        FileExistsError: ``folder`` holds arrays that freqrob did not make.
        FileNotFoundError: ``frost`` without photographs.
        OSError: a full disk.
    """
    check_types(types)
    photographs = [*map(sha256_of, find_frost(frost))] if "frost" in types else []
    folder, labels = expanded(folder, "folder"), dataset.labels.cpu().numpy()
    header = header_of(dataset, about, seed)
    check_folder(folder, "folder")
    as_json(header, "about")
    made_before = begin_manifest(folder, header, command)
    if photographs and made_before.get("frost", {}).get("sha256_of_photographs", photographs) != photographs:
        raise ValueError(f"frost: {folder} holds frost made of other photographs; choose another folder")
    shape = (len(SEVERITIES) * len(dataset), *dataset.images.shape[2:], 3)
    wanted = dict.fromkeys(types)
    missing = [name for name in wanted if name not in made_before or not holds_npy(folder / f"{name}.npy", shape)]
    if not holds_npy(folder / LABELS, shape[:1]):
        write_npy(folder / LABELS, shape[:1], [np.tile(labels.astype(np.uint8), len(SEVERITIES))])
    starts = range(0, len(dataset), CHUNK)
    steps = [(name, severity, start) for name in missing for severity in SEVERITIES for start in starts]
    tracked = iter(progress(steps, "corrupting", len(steps), len(missing) * len(SEVERITIES) * len(dataset)))
    for name in missing:
        blocks = _blocks(dataset.tensor, islice(tracked, len(SEVERITIES) * len(starts)), seed, frost)
        write_npy(folder / f"{name}.npy", shape, blocks)
        made = {"severities": levels_for(name, dataset), "sha256": sha256_of(folder / f"{name}.npy")}
        if name == "frost":
            made["sha256_of_photographs"] = photographs
        add_to_manifest(folder, header, {name: made}, command)
    return missing


def levels_for(name: str, dataset: ImageSet) -> tuple[dict[str, Any], ...]:
    """The parameters of a type for the images of a data set."""
    return CORRUPTIONS[name].levels_of(severities_for(dataset.images.shape[-2], dataset.images.shape[-1]))


def begin_manifest(folder: Path, header: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Write ``generated.json`` unless it exists. Returns the types that it lists; raises as ``generated_types``."""
    with locked(folder / ".lock"):
        remove_abandoned(folder)  # including those of types that no later run may write
        made = generated_types(folder, header)
        if not made:
            GENERATED.write(folder / MANIFEST, {**header, "types": {}, **provenance(command)})
    return made


def add_to_manifest(folder: Path, header: Mapping[str, Any], made: Mapping[str, Any], command: str) -> None:
    """Add types to ``generated.json``, to which another process may have added others meanwhile."""
    with locked(folder / ".lock"):
        types = {**generated_types(folder, header), **made}
        GENERATED.write(folder / MANIFEST, {**header, "types": types, **provenance(command)})


def header_of(dataset: ImageSet, about: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What ``generated.json`` says of all types."""
    return {
        "note": "made by freqrob, not the published arrays", **about, "seed": seed, "images": len(dataset),
        "data_hash": data_hash(dataset.images, dataset.labels),
    }  # fmt: skip


def _blocks(images: Tensor, steps: Iterable[tuple[str, int, int]], seed: int, frost: Any) -> Iterator[np.ndarray]:
    """Blocks (n, H, W, 3) in the order of the file."""
    for name, severity, start in steps:
        corrupted = corrupt(images[start : start + CHUNK], name, severity, seed=seed, first=start, frost=frost)
        yield corrupted.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def generated_types(folder: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The types that ``generated.json`` lists.

    Raises ValueError or FileExistsError if the folder holds corruptions with another ``header``, or of other programs.
    """
    content = read_manifest(folder)
    if content is None:
        if found := sorted(path.name for path in folder.glob("*") if path.suffix == ".npy" or path.name in CORRUPTIONS):
            raise FileExistsError(f"out: {folder} holds {found[0]}, which freqrob did not make; choose another folder")
        return {}
    for key, value in header.items():
        if content.get(key) != value:
            actual = brief(str(content.get(key)))
            difference = "other images" if key == "data_hash" else f"{key} {actual}, expected {value}"
            raise ValueError(f"out: {folder} holds corruptions of {difference}; choose another folder")
    return content["types"]


class GeneratedType(Struct, kw_only=True):
    """One corruption type: its parameters by severity, and the SHA-256 sums of its array and of frost's photographs."""

    severities: list[Any] = []
    sha256: str = ""
    sha256_of_photographs: list[str] = []


class GeneratedManifest(Provenance, kw_only=True):
    """The file ``generated.json`` beside corrupted images that freqrob made."""

    types: dict[str, GeneratedType]
    dataset: Label = ""
    bass: Label | None = None
    seed: int = 0
    images: int = 0
    data_hash: str = ""
    note: str = ""


GENERATED = FileFormat("corruption_arrays", GeneratedManifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The content of ``generated.json``; None without that file, as beside published images."""
    path = folder / MANIFEST
    if not path.exists():  # a folder or a pipe of this name is an error
        return None
    content = read_json(path, dict[str, Any])
    GENERATED.fit(content, path)
    return content


@dataclass(frozen=True)
class CorruptionArrays:
    """Corrupted images on disk, opened by ``load_corruptions``.

    Attributes:
        folder: contains the arrays.
        dataset: the data set's name. With the suffix ``_grayscale``, ``images`` are converted to grey levels after the
            corruption; ``arrays`` are in colour.
        arrays: by type, (5·N, H, W, 3) uint8, memory-mapped.
        labels: (N,) int64, the same at each severity.
        generated: the content of ``generated.json``; None without that file, as for the published arrays.
        classes: the names of the classes, which the arrays do not hold; () if they are not known.
        index: numbers (N,) of the images of some classes in each severity; None for all images.
    """

    folder: Path
    dataset: str
    arrays: Mapping[str, np.ndarray]
    labels: Tensor
    generated: Mapping[str, Any] | None
    classes: tuple[str, ...] = ()
    index: Tensor | None = None

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    @checked
    def select_classes(self, classes: Sequence[str]) -> CorruptionArrays:
        """The images of some classes, which are renumbered in the order of ``classes``.

        Raises ValueError as ``freqrob.data.select_classes``.
        """
        labels, index = chosen_labels(self.labels, self.classes, classes)
        return replace(self, labels=labels, classes=tuple(classes), index=index)

    @checked
    def images(self, name: str, severity: int) -> Tensor:
        """(N, C, H, W) uint8, in memory. Raises KeyError for a missing type, ValueError for an unknown severity."""
        check_integers(1, len(SEVERITIES), severity=severity)
        count = len(self.arrays[name]) // len(SEVERITIES)
        chosen = np.array(self.arrays[name][(severity - 1) * count : severity * count])
        chosen = chosen if self.index is None else chosen[self.index.numpy()]
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous()
        return images if colour_name(self.dataset) == self.dataset else to_grayscale(images)


@checked
def load_corruptions(
    folder: str | Path, dataset: str = "cifar10", types: Sequence[str] | None = None, *, download: bool = False
) -> CorruptionArrays:
    """Open the published CIFAR-10-C or CIFAR-100-C, or arrays that ``freqrob dataset corrupt`` made.

    Args:
        folder: contains ``labels.npy`` and a file for each type, directly or in ``CIFAR-10-C/`` or ``CIFAR-100-C/``.
        dataset: ``"cifar10"`` or ``"cifar100"``, with the suffix ``_grayscale`` for the same arrays in grey levels.
        types: the required types; None for all in the folder.
        download: fetch the published arrays into ``folder`` if it has none (2.9 GB from Zenodo, MD5 checked).

    Raises:
        ValueError: an unknown data set or type, an array that is truncated or of another shape or dtype, or labels that
            are not five equal copies, or classes that the data set does not have.
        FileNotFoundError: no arrays, or missing types; the message says which and how to get them.
        OSError: a failed download.
    """
    colours = colour_name(dataset)
    check_choices(PUBLISHED, dataset=colours)
    check_types(types or ())
    root = _find(expanded(folder, "folder"), colours, download)
    generated = read_manifest(root)
    if generated is not None and (made_of := generated.get("dataset")) != colours:
        raise ValueError(f"dataset: {root} was made of {made_of}, got {dataset!r}")
    labels = _labels(root, DATASETS[dataset].classes)
    wanted = types or [name for name in CORRUPTIONS if (root / f"{name}.npy").exists()]
    missing = [name for name in wanted if not (root / f"{name}.npy").exists()]
    if missing or not wanted:
        remedy = "`freqrob dataset corrupt` makes missing types, in another folder."
        files = ", ".join(f"{name}.npy" for name in missing or CORRUPTIONS)
        raise FileNotFoundError(f"{root} has no {files}. {remedy}")
    expected = (len(SEVERITIES) * len(labels), DATASETS[dataset].size, DATASETS[dataset].size, 3)
    arrays = {name: map_npy(root / f"{name}.npy") for name in dict.fromkeys(wanted)}
    for name, array in arrays.items():
        if array.shape != expected or array.dtype != np.uint8:
            actual = f"{array.shape} {array.dtype}"
            raise ValueError(f"{root / name}.npy: expected {expected} uint8 to match labels.npy, got {actual}")
    return CorruptionArrays(root, dataset, arrays, labels, generated, _class_names(colours))


def _class_names(dataset: str) -> tuple[str, ...]:
    """The names of CIFAR's classes in their order, as torchvision reads them from the data sets."""
    if dataset == "cifar10":
        return CIFAR10_CLASSES
    return tuple((resources.files("freqrob.data") / "cifar100_classes.txt").read_text().split())


def check_types(types: Sequence[str]) -> None:
    """Raise ValueError, with the nearest names, unless these are types of corruptions."""
    for name in types:
        check_choices(CORRUPTIONS, types=name)


def _find(folder: Path, dataset: str, download: bool) -> Path:
    published = PUBLISHED[dataset]
    places = (folder / published.folder, folder)
    if existing := next((place for place in places if (place / LABELS).is_file()), None):
        return existing
    if not download:
        raise FileNotFoundError(
            f"no corruptions of {dataset} in {folder.absolute()} (expected {LABELS} and a file per type there or in "
            f"{published.folder}/). Make them with `freqrob dataset corrupt`, or download the published "
            f"ones with --download, or fetch {published.url} and unpack it there."
        )
    with explained(published.folder, folder, f"{published.folder}/", published.url, download=True):
        fetch_archive(published, folder, keep=False)
    return places[0]


def _labels(root: Path, classes: int) -> Tensor:
    """The labels (N,) from the file's five equal copies (5·N,)."""
    labels = map_npy(root / LABELS)
    is_repeated = labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) and len(labels) % len(SEVERITIES) == 0
    if not is_repeated or (np.tile(labels[: len(labels) // len(SEVERITIES)], len(SEVERITIES)) != labels).any():
        raise ValueError(f"{root / LABELS}: expected the same integers {len(SEVERITIES)} times")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{root / LABELS}: expected classes below {classes}, got {labels.min()} to {labels.max()}")
    return torch.from_numpy(labels[: len(labels) // len(SEVERITIES)].astype(np.int64))
