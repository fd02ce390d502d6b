"""The 19 corruptions of CIFAR-10-C, computed by batch.

Published numbers use the benchmark's arrays. freqrob's corruptions have the same parameters and arithmetic, but other
random numbers and library versions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from freqrob.data.corruptions import blur, digital, noise, spatter, weather  # noqa: F401 they register corruptions
from freqrob.data.corruptions.photographs import find_frost, read_frost
from freqrob.data.corruptions.registry import CORRUPTIONS, SEVERITIES, Corruption, register_corruption
from freqrob.data.corruptions.streams import Streams
from freqrob.runtime.parameters import Natural, check_choices, check_integers, checked
from freqrob.runtime.pixels import check_channels_first

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt", "find_frost", "register_corruption"]

LEAST_SIZE = 16
CHUNK = 500  # images per block


@checked
def corrupt(
    images: Tensor, name: str, severity: int, *, seed: Natural = 0, first: Natural = 0, frost: str | Path | None = None
) -> Tensor:
    """Corrupt images by one corruption at one severity, with the benchmark's parameters for 32×32.

    Parameters in pixels are the same for images of other sizes, except that those of ``elastic_transform`` scale with
    the size and those of ``pixelate`` are shares. Grey levels are truncated, as in the benchmark's arrays.

    The random numbers of an image depend on ``seed``, ``name``, ``severity`` and the image's index in its data set,
    not on its batch: ``corrupt(images[100:200], …, first=100)`` equals ``corrupt(images, …)[100:200]``.

    Args:
        images: (N, 3, H, W) uint8, H and W at least 16, on any device.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: random seed ≥ 0.
        first: the index of ``images[0]`` in its data set.
        frost: the folder of the five photographs that ``frost`` needs; None takes them from an installed
            ``imagecorruptions-imaug`` or ``imagecorruptions``.

    Returns:
        New images, same shape, dtype and device.

    Raises:
        TypeError: ``images`` is not a tensor of uint8.
        ValueError: an invalid shape, name, severity, seed or index.
        FileNotFoundError: ``frost`` without photographs; the message says how to get them.

    Source: Hendrycks & Dietterich, ICLR 2019; hendrycks/robustness, ``make_cifar_c.py``.
    """
    if images.dtype != torch.uint8:
        remedy = "; use (images * 255).round().byte()" if images.is_floating_point() else ""
        raise TypeError(f"images: expected uint8 in 0–255, got {images.dtype}{remedy}")
    check_channels_first(images)
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < LEAST_SIZE:
        expected = f"(N, 3, H, W) with H and W of at least {LEAST_SIZE}"
        raise ValueError(f"images: expected {expected}, got shape {tuple(images.shape)}")
    check_choices(CORRUPTIONS, name=name)
    check_integers(1, len(SEVERITIES), severity=severity)
    chosen = CORRUPTIONS[name]
    parameters = dict(chosen.levels[severity - 1])
    if name == "frost":
        parameters["photographs"] = _photographs(frost, (images.shape[-2], images.shape[-1]))
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].contiguous()
        purpose, number = (name, severity), first + start
        random = Streams(len(chunk), seed=seed, purpose=purpose, first=number, device=images.device)
        corrupted[start : start + CHUNK] = chosen.apply(chunk, random, **parameters)
    return corrupted


def _photographs(folder: str | Path | None, size: tuple[int, int]) -> list[Tensor]:
    paths = find_frost(folder)
    photographs = read_frost(tuple(paths))
    for path, photograph in zip(paths, photographs, strict=True):
        height, width = photograph.shape[1:]
        if height < size[0] or width < size[1]:
            raise ValueError(f"frost: a fifth of {path} is {height}×{width}, less than images of {size[0]}×{size[1]}")
    return photographs
