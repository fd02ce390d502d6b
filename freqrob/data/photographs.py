"""Photographs in folders: class sub-folders, WordNet ids in the files' names, or a list of labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from freqrob.data.image_files import SUFFIXES, ImageFiles, list_images
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import Images, ImageStream, read_by_threads
from freqrob.runtime.parameters import nearest_names
from freqrob.runtime.reading import brief, read_image, read_text

WNID = re.compile(r"n\d{8}")
VALIDATION = re.compile(r"_val_(\d{8})\.")
OFFICIAL = "ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Photographs:
    """A ``Reader`` of image files: each is decoded to RGB, resized and cropped, as uint8.

    If ``preprocessing`` is None, a measurement takes the model's, if it has one.
    """

    files: ImageFiles
    preprocessing: Preprocessing | None = None
    dtype = torch.uint8

    @property
    def size(self) -> tuple[int, int, int]:
        """(3, H, W): the preprocessing's, or else that of the first image."""
        sides = None if self.preprocessing is None else self.preprocessing.size
        return (3, *(sides or self._first))

    @cached_property
    def _first(self) -> tuple[int, int]:
        height, width = self._decoded(0).shape[1:]
        return height, width

    def __len__(self) -> int:
        return len(self.files)

    def keys(self, numbers: Sequence[int]) -> list[str]:
        """The keys of the files, each with the preprocessing."""
        return [f"{key} {self.preprocessing}" for key in self.files.keys(numbers)]

    def read(self, chunks: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        return read_by_threads(self._sized, chunks)

    def _decoded(self, number: int) -> Tensor:
        path = self.files.root / self.files.names[number]
        return (self.preprocessing or Preprocessing())(read_image(path))

    def _sized(self, number: int) -> Tensor:
        image = self._decoded(number)
        if image.shape != self.size:
            got, expected = ("×".join(map(str, shape[1:])) for shape in (image.shape, self.size))
            after = f" after {self.preprocessing}" if self.preprocessing else ""
            raise ValueError(
                f"preprocessing: {self.files.names[number]} has {got} pixels{after}, expected {expected}, as the first "
                "image; photographs of several sizes need a resize and a crop: Preprocessing(256, 224), --resize 256 "
                "--crop 224"
            )
        return image


def preprocessed(images: Images, preprocessing: Preprocessing | None) -> Images:
    """Photographs with this preprocessing, unless they have one; other images unchanged."""
    if not isinstance(images, ImageStream) or not isinstance(images.reader, Photographs):
        return images
    if preprocessing is None or images.reader.preprocessing is not None:
        return images
    return replace(images, reader=Photographs(images.reader.files, preprocessing))


def preprocessing_in_words(images: Images) -> str:
    """The preprocessing of photographs, such as "resize 256 (bilinear), center crop 224"; "" for other images."""
    reader = images.reader if isinstance(images, ImageStream) else None
    return str(reader.preprocessing or Preprocessing()) if isinstance(reader, Photographs) else ""


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes, in the order of the classes."""
    return tuple((resources.files("freqrob.data") / "imagenet_wnids.txt").read_text().split())


def read_classes(path: Path) -> tuple[str, ...]:
    """The class in each line of a file. Raises ValueError for no classes or a repeated one, OSError."""
    classes = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not classes or len(set(classes)) < len(classes):
        twice = next((name for name in classes if classes.count(name) > 1), None)
        raise ValueError(f"classes: {path}: expected a class in each line, got {f'{twice} twice' if twice else 'none'}")
    return classes


def find_photographs(root: Path, classes: Sequence[str] = (), labels: Path | None = None) -> ImageFiles:
    """The image files of a folder, ordered by name, with the index of each one's class.

    The class of a file is its line in ``labels``, or its sub-folder, or the WordNet id at the beginning of its name.
    Classes are numbered as in ``classes``, and files of others are left out. Without ``classes`` they are numbered as
    in ImageNet if all of them are its WordNet ids, else alphabetically.

    Raises FileNotFoundError for a folder without such images; ValueError for labels that do not match the files.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data: no folder {root.absolute()}")
    found = _listed(root, labels) if labels else _in_sub_folders(root) or _by_file_name(root)
    if not found:
        raise FileNotFoundError(
            f"data: {root.absolute()} has no labelled images: expected {', '.join(SUFFIXES)} files in a sub-folder for "
            "each class, or names that begin with a WordNet id (n01440764_tench.png), or a file of labels (--labels)"
        )
    names = {name for _, name in found}
    if labels and not classes and all(map(re.compile("[0-9]+").fullmatch, names)):
        numbers = torch.tensor([int(name) for _, name in found])  # of how many classes is not known
        return ImageFiles(root, tuple(file for file, _ in found), numbers, ())
    return labelled(root, found, classes or ordered_classes(names))


def labelled(root: Path, found: Sequence[tuple[str, str]], classes: Sequence[str]) -> ImageFiles:
    """Files by name and class, in the given order, without files of other classes.

    A class given as a number ≥ 0 is a position in ``classes``. Raises ValueError if no file is left.
    """
    number = {name: position for position, name in enumerate(classes)}
    if not any(name in number for _, name in found):
        number = {str(position): position for position in range(len(classes))}
    kept = [(file, number[name]) for file, name in found if name in number]
    if not kept:
        near = nearest_names(found[0][1], classes)
        raise ValueError(
            f"classes: none of the images' classes, such as {brief(found[0][1], 60)!r}, is one of the {len(classes)} "
            f"classes.{near}"
        )
    return ImageFiles(root, tuple(file for file, _ in kept), torch.tensor([label for _, label in kept]), tuple(classes))


def ordered_classes(names: set[str]) -> tuple[str, ...]:
    """ImageNet's classes if they include all of ``names``; otherwise ``names`` in alphabetical order."""
    return imagenet_wnids() if names <= set(imagenet_wnids()) else tuple(sorted(names))


def _in_sub_folders(root: Path) -> list[tuple[str, str]]:
    """Files in the sub-folders, or in ``images/`` in them, with the sub-folder as the class."""
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [(name, folder) for folder in folders for name in list_images(root, folder)]


def _by_file_name(root: Path) -> list[tuple[str, str]]:
    found = [(name.removeprefix("./"), WNID.match(name.removeprefix("./"))) for name in list_images(root, ".")]
    return [(name, wnid[0]) for name, wnid in found if wnid]


def _listed(root: Path, labels: Path) -> list[tuple[str, str]]:
    """Files in a folder or its sub-folders, with the classes that a file of labels gives them."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return _with_labels(names, read_labels(labels), labels)


def read_labels(path: Path) -> Mapping[str, str] | list[str]:
    """Classes by the files' names without suffix; or a list in the order of the names, if lines have only a class.

    Lines have a name and a class, separated by a comma or white space, as Kaggle's LOC_val_solution.csv and Caffe's
    val.txt; or a class each, as the official ILSVRC2012_validation_ground_truth.txt. Its numbers follow ``meta.mat`` in
    the same folder, which SciPy reads. Raises ValueError for other lines, OSError.
    """
    lines = [re.split(r"[,\s]+", line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if lines and lines[0][0] == "ImageId":
        lines = lines[1:]
    if not lines:
        raise ValueError(f"labels: {path}: expected a line for each image, got none")
    if all(len(line) == 1 for line in lines):
        wnids = _official_wnids(path.with_name("meta.mat")) if path.name == OFFICIAL else {}
        return [wnids.get(name, name) for (name,) in lines]
    if short := next((line for line in lines if len(line) == 1), None):
        raise ValueError(f"labels: {path}: expected an image and its class in each line, got {brief(short[0], 60)!r}")
    return {_bare(name) if name.lower().endswith(SUFFIXES) else name: label for name, label, *_ in lines}


def _bare(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _with_labels(names: Sequence[str], labels: Mapping[str, str] | list[str], source: Path) -> list[tuple[str, str]]:
    """Each file with its class. Raises ValueError if the labels do not match the files."""
    if isinstance(labels, list):
        numbers = [int(found[1]) for found in map(VALIDATION.search, names) if found]
        if len(numbers) == len(names) and max(numbers) <= len(labels):  # some of the 50,000
            labels = [labels[number - 1] for number in numbers]
        if len(labels) != len(names):
            raise ValueError(f"labels: {source} has {len(labels):,} lines, expected {len(names):,}, one for each image")
        return list(zip(names, labels, strict=True))
    found = [(name, labels.get(_bare(name), labels.get(_bare(name).rpartition("/")[2]))) for name in names]
    if missing := [name for name, label in found if label is None]:
        raise ValueError(f"labels: {source} has no line for {missing[0]} ({len(missing):,} of {len(names):,} images)")
    return [(name, label) for name, label in found if label is not None]


def _official_wnids(meta: Path) -> dict[str, str]:
    """WordNet ids by ILSVRC2012_ID, of the classes without children, as torchvision's ImageNet reads them."""
    if not meta.is_file():
        raise FileNotFoundError(f"labels: the classes in {OFFICIAL} are numbered by meta.mat, expected {meta}")
    from scipy.io import loadmat

    synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
    return {str(int(entry["ILSVRC2012_ID"])): str(entry["WNID"]) for entry in synsets if not entry["num_children"]}
