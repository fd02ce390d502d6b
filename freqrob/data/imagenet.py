"""Data sets derived from ImageNet: Tiny ImageNet and Restricted ImageNet, as lists of image files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from freqrob.data.archives import Archive
from freqrob.data.image_files import ImageFiles, list_images, list_wnids
from freqrob.data.photographs import OFFICIAL, find_photographs, imagenet_wnids, labelled
from freqrob.runtime.reading import read_text

Part = Literal["train", "test"]

TINY_IMAGENET = Archive(
    "tiny-imagenet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
TINY_IMAGENET_CLASSES = 200
_REGISTER = (
    "freqrob cannot download ImageNet: register at https://image-net.org, download ILSVRC2012, and unpack its images "
    "into"
)

IMAGENET_FOLDERS = ("", "imagenet", "ILSVRC2012")
GROUND_TRUTH = ("ILSVRC2012_devkit_t12/data/" + OFFICIAL, OFFICIAL, "LOC_val_solution.csv", "val.txt")
IMAGENET_CLASSES = 1000
RESTRICTED_IMAGENET = {  # first and last class of ImageNet, both included
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "primate": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}


def tiny_imagenet(folder: Path, part: Part) -> ImageFiles:
    """The training or the labelled validation files of ``folder/tiny-imagenet-200/``; classes by sorted WordNet id.

    The validation files may be in the archive's layout or in one folder per class; they are ordered by the numbers in
    their names. Raises FileNotFoundError for missing files.
    """
    root = folder / TINY_IMAGENET.folder
    wnids = _tiny_wnids(root)
    names = _tiny_validation(root, wnids) if part == "test" else _in_class_folders(root, "train", wnids)
    classes = _words(root)
    return _labelled(root, names, [classes.get(wnid, wnid) for wnid in wnids], part)


def restricted_imagenet(folder: Path, part: Part) -> ImageFiles:
    """The files of nine super-classes of ImageNet, in ``folder`` or its ``imagenet/`` or ``ILSVRC2012/``.

    Needs ``train/<wnid>/`` or ``val/<wnid>/`` with all 1,000 WordNet ids, whose sorted order numbers the classes.
    Raises FileNotFoundError for missing files.

    Source: Tsipras et al., ICLR 2019; MadryLab/robustness, ``RESTRICTED_IMAGNET_RANGES``.
    """
    inside = "val" if part == "test" else "train"
    wnids_of = {folder / name: list_wnids(folder / name / inside) for name in IMAGENET_FOLDERS}
    root = next((root for root, wnids in wnids_of.items() if len(wnids) == IMAGENET_CLASSES), None)
    if root is None:
        counts = (f"  {(root / inside).absolute()}: {len(wnids):,} of them" for root, wnids in wnids_of.items())
        raise FileNotFoundError(
            f"data_dir: restricted_imagenet needs ImageNet's {IMAGENET_CLASSES:,} class folders (n01440764/, ...). "
            "Searched\n" + "\n".join(counts) + f"\n{_REGISTER} train/<class>/ and val/<class>/."
        )
    names = (
        (name, label)
        for label, (first, last) in enumerate(RESTRICTED_IMAGENET.values())
        for name, _ in _in_class_folders(root, inside, wnids_of[root][first : last + 1])
    )
    return _labelled(root, names, list(RESTRICTED_IMAGENET), part)


def imagenet(folder: Path, part: Part) -> ImageFiles:
    """The training or validation files of ImageNet, in ``folder`` or its ``imagenet/`` or ``ILSVRC2012/``.

    ``train/<wnid>/`` and ``val/<wnid>/``, of any of the 1,000 classes, or all validation files in ``val/`` and one of
    ``GROUND_TRUTH`` beside it. Raises FileNotFoundError for missing files, ValueError for labels that do not fit.
    """
    inside = "val" if part == "test" else "train"
    roots = [folder / name for name in IMAGENET_FOLDERS]
    root = next((root for root in roots if (root / inside).is_dir()), None)
    if root is None:
        raise FileNotFoundError(
            f"data_dir: no ImageNet in {folder.absolute()}: expected {inside}/ there or in imagenet/ or ILSVRC2012/. "
            f"{_REGISTER} {inside}/<class>/"
        )
    found = [(f"{inside}/{wnid}", wnid) for wnid in list_wnids(root / inside)]
    if unknown := [wnid for _, wnid in found if wnid not in imagenet_wnids()]:
        raise ValueError(f"data_dir: {root / inside / unknown[0]} is not one of ImageNet's 1,000 classes")
    if found:
        files = [(name, wnid) for path, wnid in found for name in list_images(root, path)]
        return labelled(root, sorted(files, key=lambda pair: by_number(pair[0])), imagenet_wnids())
    labels = next((root / name for name in GROUND_TRUTH if (root / name).is_file()), None)
    if labels is None:
        raise FileNotFoundError(
            f"data_dir: {root / inside} has no folders of classes (n01440764/, ...), and no file of labels is beside "
            f"it: expected one of {', '.join(GROUND_TRUTH)} in {root.absolute()}"
        )
    return find_photographs(root / inside, imagenet_wnids(), labels)


def robustbench_part(files: ImageFiles) -> ImageFiles:
    """The 5,000 of ImageNet's validation files that RobustBench evaluates on, in its order.

    Raises ImportError without robustbench, whose list it is; FileNotFoundError for a file that is not there.
    """
    package = find_spec("robustbench")
    if package is None or not package.submodule_search_locations:
        raise ImportError("split: the list of RobustBench's images needs robustbench: pip install robustbench")
    listed = read_text(Path(package.submodule_search_locations[0]) / "helper_files" / "imagenet_test_image_ids.txt")
    position = {name.rpartition("/")[2]: number for number, name in enumerate(files.names)}
    names = [name.rpartition("/")[2] for name in listed.split()]
    if missing := [name for name in names if name not in position]:
        raise FileNotFoundError(
            f"split: {files.root.absolute()} lacks {len(missing):,} of RobustBench's {len(names):,} images, first "
            f"{missing[0]}"
        )
    return files[torch.tensor([position[name] for name in names])]


def _labelled(root: Path, names: Iterable[tuple[str, int]], classes: list[str], part: Part) -> ImageFiles:
    """Order files so that classes are mixed: by number for testing, shuffled for training."""
    names = sorted(names, key=lambda pair: by_number(pair[0]))
    labels = torch.tensor([label for _, label in names], dtype=torch.int64)
    absent = sorted(set(range(len(classes))) - set(labels.tolist()))
    if absent:
        raise FileNotFoundError(
            f"data_dir: {root.absolute()} lacks {part} images of {len(absent)} of its {len(classes)} classes, first of "
            f"{classes[absent[0]]}; unpack it again"
        )
    files = ImageFiles(root, tuple(name for name, _ in names), labels, tuple(classes))
    if part == "test":
        return files
    return files[torch.randperm(len(files), generator=torch.Generator().manual_seed(0))]


def by_number(name: str) -> tuple[int, str]:
    """Sort key by number: val_9.JPEG before val_10.JPEG, in any folder."""
    file = name.rpartition("/")[2]
    return len(file), file


def _in_class_folders(root: Path, inside: str, wnids: list[str]) -> list[tuple[str, int]]:
    return [(name, label) for label, wnid in enumerate(wnids) for name in list_images(root, f"{inside}/{wnid}")]


def _tiny_wnids(root: Path) -> list[str]:
    listed = root / "wnids.txt"
    wnids = sorted(read_text(listed).split()) if listed.is_file() else list_wnids(root / "train")
    if len(wnids) != TINY_IMAGENET_CLASSES:
        raise FileNotFoundError(
            f"data_dir: no intact Tiny ImageNet in {root.parent.absolute()} (expected {root.name}/ with wnids.txt "
            f"or {TINY_IMAGENET_CLASSES} folders in train/, found {len(wnids)} classes). Remove the folder "
            f"and download it with --download, or unpack {TINY_IMAGENET.url} there."
        )
    return wnids


def _tiny_validation(root: Path, wnids: list[str]) -> list[tuple[str, int]]:
    in_one_folder = list_images(root, "val/images")
    if not in_one_folder:
        return _in_class_folders(root, "val", wnids)
    number = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = read_text(root / "val" / "val_annotations.txt")
    annotated = re.findall(r"^(\S+)\t(n\d{8})\b", annotations, re.MULTILINE)
    label_of = {f"val/images/{name}": number[wnid] for name, wnid in annotated if wnid in number}
    if unlabelled := [name for name in in_one_folder if name not in label_of]:
        raise FileNotFoundError(f"{root.absolute() / 'val'}: val_annotations.txt does not label {unlabelled[0]}")
    if missing := sorted(label_of.keys() - set(in_one_folder)):
        raise FileNotFoundError(
            f"data_dir: {root.absolute()} lacks {len(missing):,} of its {len(label_of):,} validation images, first "
            f"{missing[0]}; unpack it again"
        )
    return [(name, label_of[name]) for name in in_one_folder]


def _words(root: Path) -> dict[str, str]:
    r"""The first word for each WordNet id in ``words.txt``: "n01443537\tgoldfish, Carassius auratus"."""
    listed = root / "words.txt"
    text = read_text(listed) if listed.is_file() else ""
    return dict(re.findall(r"^(n\d{8})\t([^,\n]+)", text, re.MULTILINE))
