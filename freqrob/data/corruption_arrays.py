"""CIFAR-10-C and CIFAR-100-C on disk: the published arrays, and those made here in the same layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from freqrob.data.archives import Archive, fetch_archive
from freqrob.data.corruptions import CHUNK, CORRUPTIONS, SEVERITIES, corrupt, find_frost
from freqrob.data.datasets import DATASETS, ImageSet, explained
from freqrob.runtime.files import as_json, check_folder, locked, remove_abandoned, sha256_of, write_json, write_npy
from freqrob.runtime.parameters import check_choices, check_integers, check_seeds, checked
from freqrob.runtime.progress import Track, untracked
from freqrob.runtime.provenance import provenance
from freqrob.runtime.reading import Label, brief, fitted, holds_npy, map_npy, read_json

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
    seed: int = 0,
    frost: str | Path | None = None,
    command: str = "",
    track: Track = untracked,
) -> list[str]:
    """Write corrupted images as the benchmark's files: ``<type>.npy`` (5·N, H, W, 3) uint8, severity after severity.

    Beside them ``labels.npy``, the N labels five times, and ``generated.json``, which says that these are not the
    published arrays, and how they were made. Each file appears when it is whole, and types whose files
    are whole are not made again, so that a run that was stopped goes on. All five severities are written, since readers
    find them by their place.

    Args:
        dataset: N images, usually a test set.
        folder: created if absent.
        types: which of ``CORRUPTIONS``.
        about: description of the images, such as ``{"dataset": "cifar10", "bass": None}``, for ``generated.json``.
        seed: of everything random.
        frost: the folder of photographs for the type of that name.
        command: for the record.
        track: wraps the work in a progress bar.

    Returns:
        The types that were made now.

    Raises:
        ValueError: an unknown type, or ``folder`` holds corruptions of other images, another seed or other photographs.
        FileExistsError: ``folder`` holds arrays that were not made here.
        FileNotFoundError: ``frost`` without photographs.
        OSError: a full disk.
    """
    _check_types(types)
    check_seeds(seed=seed)
    photographs = _digest(map(Path.read_bytes, find_frost(frost))) if "frost" in types else ""
    folder, labels = Path(folder).expanduser(), dataset.labels.cpu().numpy()
    header = {
        "note": "made by freqrob, not the published arrays", **about, "seed": seed, "images": len(dataset),
        "sha256_of_images": _digest([dataset.images.cpu().numpy(), labels]),
    }  # fmt: skip
    check_folder(folder, "folder")
    as_json(header, "about")
    with locked(folder / ".lock"):
        remove_abandoned(folder)  # of other types too, which may never be written again
        made_before = _manifest(folder, header)
        if not made_before:
            write_json(folder / MANIFEST, {**header, "types": {}, **provenance(command)})
    if photographs and made_before.get("frost", {}).get("sha256_of_photographs", photographs) != photographs:
        raise ValueError(f"frost: {folder} holds frost made of other photographs; choose another folder")
    shape = (len(SEVERITIES) * len(dataset), *dataset.images.shape[2:], 3)
    wanted = dict.fromkeys(types)
    missing = [name for name in wanted if name not in made_before or not holds_npy(folder / f"{name}.npy", shape)]
    if not holds_npy(folder / LABELS, shape[:1]):
        write_npy(folder / LABELS, shape[:1], [np.tile(labels.astype(np.uint8), len(SEVERITIES))])
    starts = range(0, len(dataset), CHUNK)
    steps = [(name, severity, start) for name in missing for severity in SEVERITIES for start in starts]
    tracked = iter(track(steps, "corrupting", len(steps)))
    for name in missing:
        blocks = _blocks(dataset.images, islice(tracked, len(SEVERITIES) * len(starts)), seed, frost)
        write_npy(folder / f"{name}.npy", shape, blocks)
        made = {name: {"severities": CORRUPTIONS[name].levels, "sha256": sha256_of(folder / f"{name}.npy")}}
        if name == "frost":
            made[name]["sha256_of_photographs"] = photographs
        with locked(folder / ".lock"):  # another process may have made other types meanwhile
            all_made = {**_manifest(folder, header), **made}
            write_json(folder / MANIFEST, {**header, "types": all_made, **provenance(command)})
    return missing


def _digest(parts: Iterable[bytes | np.ndarray]) -> str:
    """SHA-256 of bytes and arrays, one after the other."""
    digest = sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _blocks(images: Tensor, steps: Iterable[tuple[str, int, int]], seed: int, frost: Any) -> Iterator[np.ndarray]:
    """(n, H, W, 3) each, in the order of the file."""
    for name, severity, start in steps:
        corrupted = corrupt(images[start : start + CHUNK], name, severity, seed=seed, first=start, frost=frost)
        yield corrupted.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _manifest(folder: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The types that ``generated.json`` lists; raises unless the folder holds corruptions with this ``header``."""
    content = _read_manifest(folder)
    if content is None:
        if arrays := sorted(path.name for path in folder.glob("*.npy") if path.name != LABELS):
            raise FileExistsError(f"out: {folder} holds {arrays[0]}, which was not made here; choose another folder")
        return {}
    for key, value in header.items():
        if content.get(key) != value:
            held = brief(str(content.get(key)))
            what = "other images" if key == "sha256_of_images" else f"{key} {held}, asked for {value}"
            raise ValueError(f"out: {folder} holds corruptions of {what}; choose another folder")
    return content["types"]


class _Manifest(Struct):
    """The fields of ``generated.json`` that are read."""

    types: dict[str, dict[str, Any]]
    dataset: Label = ""
    bass: Label | None = None


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():  # a folder or a pipe is an error, not a sign of the published arrays
        return None
    content = read_json(path, dict[str, Any])
    fitted(content, _Manifest, path)
    return content


@dataclass(frozen=True)
class CorruptionArrays:
    """Corrupted images on disk, as ``load_corruptions`` returns them.

    Attributes:
        folder: where the arrays are.
        dataset: the data set's name.
        arrays: of each type, (5·N, H, W, 3) uint8, memory-mapped.
        labels: (N,) int64, the same at each severity.
        generated: the content of ``generated.json``; None where there is no such file, as for the published arrays.
    """

    folder: Path
    dataset: str
    arrays: Mapping[str, np.ndarray]
    labels: Tensor
    generated: Mapping[str, Any] | None

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    @checked
    def images(self, name: str, severity: int) -> Tensor:
        """(N, 3, H, W) uint8, in memory. Raises KeyError for a type that is not there, ValueError for a severity."""
        check_integers(1, len(SEVERITIES), severity=severity)
        count = len(self.labels)
        chosen = np.array(self.arrays[name][(severity - 1) * count : severity * count])
        return torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous()


@checked
def load_corruptions(
    folder: str | Path, dataset: str = "cifar10", types: Sequence[str] | None = None, *, download: bool = False
) -> CorruptionArrays:
    """The published CIFAR-10-C or CIFAR-100-C, or arrays that ``freqrob dataset corrupt`` made.

    Args:
        folder: has ``labels.npy`` and a file a type, itself or in its ``CIFAR-10-C/`` or ``CIFAR-100-C/``.
        dataset: ``"cifar10"`` or ``"cifar100"``.
        types: the types that are wanted; None for all that are there.
        download: fetch the published arrays into ``folder`` where there are none (2.9 GB from Zenodo, MD5 checked).
            Without it nothing is fetched.

    Raises:
        ValueError: an unknown data set or type, an array that is truncated, of another shape or kind, or labels that do
            not fit.
        FileNotFoundError: no arrays, or types that are missing; the message says which and how to get them.
        OSError: a download that failed.
    """
    check_choices(PUBLISHED, dataset=dataset)
    _check_types(types or ())
    root = _find(Path(folder).expanduser(), dataset, download)
    generated = _read_manifest(root)
    if generated is not None and (made_of := generated.get("dataset")) != dataset:
        raise ValueError(f"dataset: {root} was made of {made_of}, got {dataset!r}")
    labels = _labels(root, DATASETS[dataset].classes)
    wanted = types or [name for name in CORRUPTIONS if (root / f"{name}.npy").exists()]
    missing = [name for name in wanted if not (root / f"{name}.npy").exists()]
    if missing or not wanted:
        how = "`freqrob dataset corrupt` makes the types that are missing, in a folder of its own."
        raise FileNotFoundError(f"{root} has no {', '.join(f'{name}.npy' for name in missing or CORRUPTIONS)}. {how}")
    expected = (len(SEVERITIES) * len(labels), DATASETS[dataset].size, DATASETS[dataset].size, 3)
    arrays = {name: map_npy(root / f"{name}.npy") for name in dict.fromkeys(wanted)}
    for name, array in arrays.items():
        if array.shape != expected or array.dtype != np.uint8:
            actual = f"{array.shape} {array.dtype}"
            raise ValueError(f"{root / name}.npy: expected {expected} uint8, as labels.npy has it, got {actual}")
    return CorruptionArrays(root, dataset, arrays, labels, generated)


def _check_types(types: Sequence[str]) -> None:
    for name in types:
        if name not in CORRUPTIONS:
            raise ValueError(f"types: expected some of {', '.join(CORRUPTIONS)}, got {name!r}")


def _find(folder: Path, dataset: str, download: bool) -> Path:
    published = PUBLISHED[dataset]
    places = (folder / published.folder, folder)
    if existing := next((place for place in places if (place / LABELS).is_file()), None):
        return existing
    if not download:
        raise FileNotFoundError(
            f"no corruptions of {dataset} in {folder.absolute()} (expected {LABELS} and a file a type there or in "
            f"{published.folder}/). Make them with `freqrob dataset corrupt`, or ask for a download of the published "
            f"ones (--download; nothing is fetched without it), or fetch {published.url} and unpack it there."
        )
    with explained(published.folder, folder, f"{published.folder}/", published.url, download=True):
        fetch_archive(published, folder, keep=False)
    return places[0]


def _labels(root: Path, classes: int) -> Tensor:
    """(N,) of (5·N,)."""
    every = map_npy(root / LABELS)
    whole = every.ndim == 1 and every.dtype.kind in "iu" and len(every) and len(every) % len(SEVERITIES) == 0
    if not whole or (np.tile(every[: len(every) // len(SEVERITIES)], len(SEVERITIES)) != every).any():
        raise ValueError(f"{root / LABELS}: expected the same integers {len(SEVERITIES)} times")
    if every.min() < 0 or every.max() >= classes:
        raise ValueError(f"{root / LABELS}: expected classes below {classes}, got {every.min()} to {every.max()}")
    return torch.from_numpy(every[: len(every) // len(SEVERITIES)].astype(np.int64))
