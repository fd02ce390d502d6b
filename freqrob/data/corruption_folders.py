"""ImageNet-C, Tiny-ImageNet-C, and corrupted photographs: image files in folders of types, severities and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqrob.data.corruption_arrays import (
    add_to_manifest,
    begin_manifest,
    check_types,
    header_of,
    levels_for,
    read_manifest,
)  # fmt: skip
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, find_frost
from freqrob.data.datasets import DATASETS, ImageSet
from freqrob.data.grayscale import colour_name, to_grayscale
from freqrob.data.image_files import ImageFiles, list_images, list_wnids
from freqrob.data.imagenet import by_number
from freqrob.data.photographs import Photographs, imagenet_wnids, labelled, ordered_classes
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import ImageStream
from freqrob.runtime.files import check_folder, expanded, replacing, sha256_of
from freqrob.runtime.parameters import Natural, check_choices, check_integers, checked
from freqrob.runtime.progress import Progress, no_progress

FOLDERS = {"imagenet": "ImageNet-C", "tiny_imagenet": "Tiny-ImageNet-C", "folder": "corrupted"}
URLS = {
    "imagenet": "https://zenodo.org/records/2235448",
    "tiny_imagenet": "https://zenodo.org/records/2536630",
}
AT_ONCE = 32  # images between updates of the progress bar
JPEG: dict[str, Any] = {"quality": 85, "optimize": True}  # as the published files


@dataclass(frozen=True)
class CorruptionFolders:
    """Corrupted images as files, opened by ``load_corruption_folders``; ``CorruptionArrays`` has the same attributes.

    Attributes:
        folder: contains the types.
        dataset: the data set's name; with the suffix ``_grayscale``, images are converted when they are read.
        folders: by type, the folder with its severities.
        classes: the names of the folders of classes, in the order of the classes; files of others are left out.
        generated: the content of ``generated.json``; None without that file, as for the published images.
    """

    folder: Path
    dataset: str
    folders: Mapping[str, Path]
    classes: tuple[str, ...]
    generated: Mapping[str, Any] | None = None

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.folders)

    @property
    def labels(self) -> Tensor:
        """(N,) int64, the same at each severity of each type."""
        return self._first.labels

    @cached_property
    def _first(self) -> ImageFiles:
        return self._files(self.types[0], 1)

    @checked
    def images(self, name: str, severity: int) -> ImageStream:
        """The images (N, C, H, W) uint8, decoded each time they are read, and not resized.

        Raises KeyError for a missing type, ValueError for an unknown severity, FileNotFoundError if the images differ
        from those of the first severity of the first type.
        """
        check_integers(1, len(SEVERITIES), severity=severity)
        files = self._files(name, severity)
        if files.names != self._first.names:
            missing = sorted(set(self._first.names) ^ set(files.names))
            raise FileNotFoundError(
                f"data: {files.root} and {self._first.root} have different images, first {missing[0]}; "
                "unpack both again"
            )
        stream = ImageStream.of(Photographs(files, Preprocessing()))
        is_grey = colour_name(self.dataset) != self.dataset
        return stream.map(to_grayscale, "grayscale", 1) if is_grey else stream

    def _files(self, name: str, severity: int) -> ImageFiles:
        root = self.folders[name] / str(severity)
        found = [(file, name) for name in _class_folders(root) for file in list_images(root, name)]
        if not found:
            raise FileNotFoundError(f"data: {root} has no images in folders of classes (n01443537/, ...)")
        if colour_name(self.dataset) != "folder":  # their names have numbers
            found = sorted(found, key=lambda pair: by_number(pair[0]))
        return labelled(root, found, self.classes)


def _class_folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


@checked
def write_corruption_folders(
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
    """Write corrupted images in ImageNet-C's layout: ``<type>/<severity>/<class>/<name>.JPEG``, as published.

    Also writes ``generated.json``, which records that these are not the published images, and how they were made. Files
    appear only when complete, and complete ones are not made again, so that an interrupted run continues.

    Args:
        dataset: N images (N, 3, H, W), usually photographs with their preprocessing, with names of the classes.
        folder: created if absent.
        types: names from ``CORRUPTIONS``.
        about, seed, frost, command, progress: as for ``write_corruptions``.

    Returns:
        The types that this call made or completed. Raises as ``write_corruptions``.
    """
    check_types(types)
    photographs = [*map(sha256_of, find_frost(frost))] if "frost" in types else []
    folder, header = expanded(folder, "folder"), header_of(dataset, about, seed)
    check_folder(folder, "folder")
    made_before = begin_manifest(folder, header, command)
    missing = [name for name in dict.fromkeys(types) if name not in made_before]
    names, at_once = _file_names(dataset), torch.arange(len(dataset)).split(AT_ONCE)
    steps = [(name, severity, chunk) for name in missing for severity in SEVERITIES for chunk in at_once]
    tracked = iter(progress(steps, "corrupting", len(steps), len(missing) * len(SEVERITIES) * len(dataset)))
    for name in missing:
        for _, severity, chunk in islice(tracked, len(SEVERITIES) * len(at_once)):
            paths = [folder / name / str(severity) / names[number] for number in chunk.tolist()]
            if not all(path.exists() for path in paths):
                options = {"seed": seed, "first": int(chunk[0]), "frost": frost}
                _write(corrupt(dataset.images[chunk], name, severity, **options), paths)
        made = {"severities": levels_for(name, dataset)}
        made |= {"sha256_of_photographs": photographs} if name == "frost" else {}
        add_to_manifest(folder, header, {name: made}, command)
    return missing


def _file_names(dataset: ImageSet) -> list[str]:
    """``<class>/<name>.JPEG`` of each image; the name is that of its file, or its number."""
    reader = dataset.images.reader if isinstance(dataset.images, ImageStream) else None
    stems = [f"{number:08}" for number in range(len(dataset))]
    if isinstance(reader, Photographs) and isinstance(dataset.images, ImageStream):
        stems = [Path(reader.files.names[number]).stem for number in dataset.images.index.tolist()]
    classes = [dataset.classes[label] if dataset.classes else str(label) for label in dataset.labels.tolist()]
    names = [f"{name}/{stem}.JPEG" for name, stem in zip(classes, stems, strict=True)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"dataset: expected a name for each image, got {twice} twice")
    return names


def _write(images: Tensor, paths: Sequence[Path]) -> None:
    """Save images (N, 3, H, W) uint8."""
    from PIL import Image  # torchvision brings it

    for image, path in zip(images.permute(0, 2, 3, 1).cpu().numpy(), paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            Image.fromarray(image).save(new, "JPEG", **JPEG)


@checked
def load_corruption_folders(
    folder: str | Path,
    dataset: str = "imagenet",
    types: Sequence[str] | None = None,
) -> CorruptionFolders:
    """Open the published ImageNet-C or Tiny-ImageNet-C, or what ``freqrob dataset corrupt`` made of photographs.

    Args:
        folder: contains ``<type>/<severity>/<WordNet id>/``, directly or in ``ImageNet-C/`` or ``Tiny-ImageNet-C/``;
            types may be grouped in folders such as ``noise/``.
        dataset: ``"imagenet"``, ``"tiny_imagenet"``, or ``"folder"`` for photographs of any classes, numbered as by
            ``load_photographs``; with the suffix ``_grayscale`` for grey levels.
        types: the required types; None for all in the folder.

    Raises:
        ValueError: an unknown data set or type, or a folder that is not one of the data set's classes.
        FileNotFoundError: no types, or missing ones; the message says which.
    """
    colours = colour_name(dataset)
    check_choices(FOLDERS, dataset=colours)
    check_types(types or ())
    root = expanded(folder, "folder")
    root = root / FOLDERS[colours] if (root / FOLDERS[colours]).is_dir() else root
    places = {name: [root / name, *sorted(root.glob(f"*/{name}"))] for name in types or CORRUPTIONS}
    found = {name: next((place for place in among if (place / "1").is_dir()), None) for name, among in places.items()}
    present = {name: place for name, place in found.items() if place is not None}
    if not present or (types and len(present) < len(places)):
        missing = ", ".join(name for name in places if name not in present) if types else "types of corruptions"
        how = f"fetch them from {URLS[colours]} and unpack them there, or make" if colours in URLS else "make"
        raise FileNotFoundError(
            f"data: {root.absolute()} has no {missing}: expected <type>/<severity>/<class>/ there or in "
            f"{FOLDERS[colours]}/; {how} them with `freqrob dataset corrupt`"
        )
    known = _classes(colours, next(iter(present.values())))
    return CorruptionFolders(root, dataset, present, known, read_manifest(root))


def _classes(dataset: str, place: Path) -> tuple[str, ...]:
    """The classes in their order: ImageNet's, or the names in the folder. Raises ValueError for others."""
    if dataset == "folder":
        return ordered_classes({*_class_folders(place / "1")})
    wnids, expected = tuple(list_wnids(place / "1")), DATASETS[dataset].classes
    if dataset == "imagenet":
        if unknown := set(wnids) - set(imagenet_wnids()):
            raise ValueError(f"data: {place / '1' / min(unknown)} is not one of ImageNet's 1,000 classes")
        return imagenet_wnids()
    if len(wnids) != expected:
        raise ValueError(f"data: {place / '1'} has {len(wnids)} folders of classes, expected {expected}")
    return wnids
