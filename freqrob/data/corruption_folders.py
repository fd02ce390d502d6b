"""ImageNet-C and Tiny-ImageNet-C on disk: image files in folders of types, severities and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES
from freqrob.data.datasets import DATASETS
from freqrob.data.grayscale import colour_name, to_grayscale
from freqrob.data.image_files import ImageFiles, list_images, list_wnids
from freqrob.data.imagenet import by_number
from freqrob.data.photographs import Photographs, imagenet_wnids, labelled
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import ImageStream
from freqrob.runtime.files import expanded
from freqrob.runtime.parameters import check_choices, check_integers, checked

FOLDERS = {"imagenet": "ImageNet-C", "tiny_imagenet": "Tiny-ImageNet-C"}
URLS = {
    "imagenet": "https://zenodo.org/records/2235448",
    "tiny_imagenet": "https://zenodo.org/records/2536630",
}


@dataclass(frozen=True)
class CorruptionFolders:
    """Corrupted images as files, opened by ``load_corruption_folders``; ``CorruptionArrays`` has the same attributes.

    Attributes:
        folder: contains the types.
        dataset: the data set's name; with the suffix ``_grayscale``, images are converted when they are read.
        folders: by type, the folder with its severities.
        classes: the data set's WordNet ids, in the order of the classes.
    """

    folder: Path
    dataset: str
    folders: Mapping[str, Path]
    classes: tuple[str, ...]
    generated = None

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
        found = [(file, wnid) for wnid in list_wnids(root) for file in list_images(root, wnid)]
        if not found:
            raise FileNotFoundError(f"data: {root} has no images in folders of classes (n01443537/, ...)")
        return labelled(root, sorted(found, key=lambda pair: by_number(pair[0])), self.classes)


@checked
def load_corruption_folders(
    folder: str | Path, dataset: str = "imagenet", types: Sequence[str] | None = None
) -> CorruptionFolders:
    """Open the published ImageNet-C or Tiny-ImageNet-C.

    Args:
        folder: contains ``<type>/<severity>/<WordNet id>/``, directly or in ``ImageNet-C/`` or ``Tiny-ImageNet-C/``;
            types may be grouped in folders such as ``noise/``.
        dataset: ``"imagenet"`` or ``"tiny_imagenet"``, with the suffix ``_grayscale`` for grey levels.
        types: the required types; None for all in the folder.

    Raises:
        ValueError: an unknown data set or type, or a folder that is not one of the data set's classes.
        FileNotFoundError: no types, or missing ones; the message says which.
    """
    colours = colour_name(dataset)
    check_choices(FOLDERS, dataset=colours)
    for name in types or ():
        check_choices(CORRUPTIONS, types=name)
    root = expanded(folder, "folder")
    root = root / FOLDERS[colours] if (root / FOLDERS[colours]).is_dir() else root
    places = {name: [root / name, *sorted(root.glob(f"*/{name}"))] for name in types or CORRUPTIONS}
    found = {name: next((place for place in among if (place / "1").is_dir()), None) for name, among in places.items()}
    present = {name: place for name, place in found.items() if place is not None}
    if not present or (types and len(present) < len(places)):
        missing = ", ".join(name for name in places if name not in present) if types else "types of corruptions"
        raise FileNotFoundError(
            f"data: {root.absolute()} has no {missing}: expected <type>/<severity>/<WordNet id>/ there or in "
            f"{FOLDERS[colours]}/; fetch them from {URLS[colours]} and unpack them there"
        )
    return CorruptionFolders(root, dataset, present, _classes(colours, next(iter(present.values()))))


def _classes(dataset: str, place: Path) -> tuple[str, ...]:
    """The classes in their order: ImageNet's, or the WordNet ids in the folder. Raises ValueError for others."""
    wnids, expected = tuple(list_wnids(place / "1")), DATASETS[dataset].classes
    if dataset == "imagenet":
        if unknown := set(wnids) - set(imagenet_wnids()):
            raise ValueError(f"data: {place / '1' / min(unknown)} is not one of ImageNet's 1,000 classes")
        return imagenet_wnids()
    if len(wnids) != expected:
        raise ValueError(f"data: {place / '1'} has {len(wnids)} folders of classes, expected {expected}")
    return wnids
