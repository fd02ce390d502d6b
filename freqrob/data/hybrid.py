"""Hybrid images: the low frequencies of one image with the high frequencies of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from freqrob.data.datasets import ImageSet, to_pixels
from freqrob.runtime.figures import drawing
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import as_json, check_folder, expanded, replacing
from freqrob.runtime.parameters import Natural, checked, fits, is_number, shown
from freqrob.runtime.pixels import check_channels_first, check_scale
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.provenance import Provenance, provenance
from freqrob.runtime.reading import Count, Label
from freqrob.runtime.tensors import check_dense, check_values
from freqrob.spectral.ops import check_planes
from freqrob.spectral.reference import irfft2, rfft2
from freqrob.spectral.rings import frequency_radius

NYQUIST, CORNER = 0.5, 0.5**0.5  # cycles/pixel, along the axes and between them
MIXING_FREQUENCIES = tuple(
    NYQUIST * share / 100 for share in (0, 3, 4, 5, 6, 8, 9, 11, 13, 15, 17, 19, 22, 27, 33, 42, 57, 100)
)


Frequency = Annotated[float, Meta(ge=0, le=1, description="cycles/pixel from 0 to 1 (cycles/image divided by size)")]


class HybridFile(Provenance, kw_only=True):
    """The file ``hybrid.json`` beside ``hybrid.npz``: how the images were made."""

    seed: int
    images: Count
    frequencies: list[float]
    dtype: Literal["float32", "uint8"]
    dataset: Label = ""
    split: Label = ""


HYBRID = FileFormat("hybrid_images", HybridFile)


def check_frequencies(frequencies: Sequence[float]) -> None:
    """Raise ValueError unless there is a mixing frequency, and each is a number from 0 to √½ cycles/pixel."""
    if not fits(frequencies, Sequence[Any]) or len(frequencies) == 0:
        raise ValueError(f"frequencies: expected at least one, got {shown(frequencies)}")
    for frequency in frequencies:
        if not is_number(frequency) or not 0 <= frequency <= CORNER:
            limits = f"from 0 to {CORNER:.3f} cycles/pixel, the highest frequency of the spectrum"
            raise ValueError(f"frequencies: expected numbers {limits}, got {shown(frequency)}")


@checked
def hybrid_images(low: Tensor, high: Tensor, frequency: Frequency) -> Tensor:
    """Combine the frequencies |f| ≤ ``frequency`` of ``low`` with the others of ``high``, clipped to [0, 1].

    Args:
        low, high: (..., H, W) float pixels in [0, 1], of the same shape.
        frequency: the mixing frequency in cycles/pixel, from 0 to 1; at 0, ``low`` gives only the mean; at √½ and
            above, everything.

    Returns:
        Images of the shape and dtype of ``low``. At 0.5 (Nyquist along the axes) ``high`` still gives the corners of
        the spectrum, where |f| > 0.5.

    Raises:
        TypeError: images that are not dense tensors of floats.
        ValueError: images of different shapes, dtypes or devices, that look like (N, H, W, C), or not in [0, 1] (only
            the first plane of CPU tensors is checked); a ``frequency`` out of range.

    Source: Li et al., PLoS Comput. Biol. 2023; ``lizhe07/robust-arena``, ``roarena/einmon.py``, where the frequency
    is given as a share of Nyquist.
    """
    check_planes(low, "low")
    check_channels_first(low, "low")
    check_dense(high, "high")
    expected, got = (f"{tuple(image.shape)} {image.dtype} on {image.device}" for image in (low, high))
    if got != expected:
        raise ValueError(f"high: expected {expected}, as low, got {got}")
    check_scale(low, "low")
    check_scale(high, "high")
    height, width = low.shape[-2:]
    from_low = (frequency_radius(height, width)[:, : width // 2 + 1] <= frequency).to(low.device)
    mixed = irfft2(torch.where(from_low, rfft2(low), rfft2(high)), s=(height, width))
    return mixed.clamp(0, 1).to(low.dtype)


@checked
def derange(labels: Tensor, seed: Natural = 0) -> Tensor:
    """Permute the labels (N,) at random so that each position gets a different label.

    Raises ValueError if more than half of the labels are equal, which makes this impossible, and TypeError for labels
    that are not a dense tensor, or on the meta device.
    """
    check_values(labels, "labels")
    if labels.ndim != 1 or labels.dtype != torch.int64 or (labels < 0).any():
        raise ValueError(f"labels: expected (N,) int64 ≥ 0, got {tuple(labels.shape)} {labels.dtype}")
    classes, draws = labels.cpu().numpy(), np.random.default_rng(seed)
    counts = np.bincount(classes, minlength=1)
    if 2 * counts.max() > len(classes):
        raise ValueError(f"labels: more than half of them are {counts.argmax()}, so they cannot be deranged")
    order = draws.permutation(classes)
    for index in np.flatnonzero(order == classes):
        if order[index] == classes[index]:  # an earlier swap may have moved it
            other = draws.choice(np.flatnonzero((order != classes[index]) & (classes != classes[index])))
            order[[index, other]] = order[[other, index]]
    return torch.from_numpy(order).to(labels)


@checked
def partners(labels: Tensor, seed: int = 0) -> Tensor:
    """Index of another image for each image, drawn from the class that ``derange`` gives it: (N,) int64."""
    targets, draws = derange(labels, seed).cpu().numpy(), np.random.default_rng((seed, 1))
    chosen = np.empty_like(targets)
    for target in np.unique(targets):
        is_target = targets == target
        chosen[is_target] = draws.choice(np.flatnonzero(labels.cpu().numpy() == target), is_target.sum())
    return torch.from_numpy(chosen).to(labels)


@checked
def write_hybrids(
    dataset: ImageSet,
    folder: str | Path,
    *,
    frequencies: Sequence[float] = MIXING_FREQUENCIES,
    seed: Natural = 0,
    floats: bool = False,
    sheet: Natural = 0,
    about: Mapping[str, Any] | None = None,
    command: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Write the hybrid images that ``hybrid_reliance`` measures to ``hybrid.npz``, described by ``hybrid.json``.

    The arrays: ``images`` (F, N, C, H, W), by mixing frequency; ``frequencies`` (F,) in cycles/pixel; ``low_labels``
    and ``high_labels`` (N,) int64; ``partners`` (N,), the indices of the images that give the high frequencies.

    Args:
        dataset: N images, which give the low frequencies of the N hybrids.
        folder: created if absent.
        frequencies: in cycles/pixel.
        seed: random seed of the partners.
        floats: write float32 in [0, 1], as models get them, instead of rounding to uint8.
        sheet: number of rows of the contact sheet ``hybrid.png``: an image, its hybrids from low to high frequencies,
            its partner. 0 for no sheet.
        about: description of the images, for the JSON.
        command: recorded in the JSON.
        progress: wraps the work in a progress bar.

    Returns:
        The path of ``hybrid.npz``. Each file is complete before it replaces an earlier one.

    Raises:
        ValueError: no frequencies, or one outside [0, √½]; a negative seed; more than half of the labels are equal.
        OSError: a full disk.
    """
    check_frequencies(frequencies)
    folder = expanded(folder, "folder")
    check_folder(folder, "folder")
    as_json(dict(about or {}), "about")
    partner, pixels = partners(dataset.labels, seed), to_pixels(dataset.tensor)
    mixed = []
    for frequency in progress(frequencies, "hybrid images", len(frequencies)):
        hybrids = hybrid_images(pixels, pixels[partner], frequency)
        mixed.append(hybrids if floats else (255 * hybrids).round().byte())
    arrays = {
        "images": torch.stack(mixed),
        "frequencies": torch.tensor(frequencies, dtype=torch.float64),
        "low_labels": dataset.labels,
        "high_labels": dataset.labels[partner],
        "partners": partner,
    }
    path = folder / "hybrid.npz"
    with replacing(path) as new, new.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: array.cpu().numpy() for name, array in arrays.items()})
    record = {
        "seed": seed,
        "images": len(dataset),
        "frequencies": list(frequencies),
        "dtype": "float32" if floats else "uint8",
    }
    HYBRID.write(folder / "hybrid.json", {**provenance(command), **(about or {}), **record})
    with drawing("hybrid.png"):
        (folder / "hybrid.png").unlink(missing_ok=True)  # of an earlier run
        if sheet:
            rows = zip(pixels[:sheet], arrays["images"].transpose(0, 1), pixels[partner[:sheet]], strict=False)
            _write_sheet(folder / "hybrid.png", [[low, *map(to_pixels, hybrids), high] for low, hybrids, high in rows])
    return path


def _write_sheet(path: Path, rows: Sequence[Sequence[Tensor]], scale: int = 2, gap: int = 2) -> None:
    """Write images (C, H, W) in [0, 1], row by row, on white."""
    from torchvision.utils import make_grid, save_image  # half a second that `import freqrob` must not cost

    images = torch.stack([image for row in rows for image in row])
    large = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    with replacing(path) as new:
        save_image(make_grid(large, nrow=len(rows[0]), padding=gap, pad_value=1), new, format="png")
