"""The 19 corruptions of CIFAR-10-C and ImageNet-C, computed by batch.

Published numbers use the benchmark's arrays. freqrob's corruptions have the same parameters and arithmetic, but other
random numbers and library versions.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from freqrob.data.corruptions import blur, digital, noise, spatter, weather  # noqa: F401 they register corruptions
from freqrob.data.corruptions.photographs import find_frost, read_frost
from freqrob.data.corruptions.registry import CORRUPTIONS, SEVERITIES, Benchmark, Corruption, register_corruption
from freqrob.data.corruptions.streams import Streams
from freqrob.runtime.parameters import Natural, check_choices, check_integers, checked
from freqrob.runtime.pixels import check_channels_first

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Benchmark",
    "Corruption",
    "corrupt",
    "find_frost",
    "register_corruption",
    "severities_for",
]

LEAST_SIZE = 16
IMAGENET_SIZE = 128  # pixels of the shorter side from which ImageNet-C's severities are the default
CHUNK = 500  # images of 32×32 per block, fewer of larger ones


@checked
def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    severities: Benchmark | None = None,
    seed: Natural = 0,
    first: Natural = 0,
    frost: str | Path | None = None,
) -> Tensor:
    """Corrupt images by one corruption at one severity, with the parameters of CIFAR-10-C or of ImageNet-C.

    Parameters in pixels do not change with the image size, but those of ``elastic_transform`` and ``pixelate`` are
    shares of it. Pixels are truncated to integers, as in the benchmarks.

    The random numbers of an image depend on ``seed``, ``name``, ``severity`` and the image's index in its data set,
    not on its batch: ``corrupt(images[100:200], …, first=100)`` equals ``corrupt(images, …)[100:200]``.

    Args:
        images: (N, 3, H, W) uint8, H and W at least 16, on any device.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        severities: ``"cifar"`` or ``"imagenet"``; by default ImageNet-C's for sides of 128 pixels and more.
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

    Source: Hendrycks & Dietterich, ICLR 2019; hendrycks/robustness, ``make_cifar_c.py`` and ``make_imagenet_c.py``.
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
    height, width = images.shape[-2:]
    severities, chosen = severities or severities_for(height, width), CORRUPTIONS[name]
    parameters = dict(chosen.levels_of(severities)[severity - 1])
    if name == "frost":
        photographs = read_frost(tuple(find_frost(frost)), severities)
        parameters["photographs"] = [_enlarged(photograph, height, width) for photograph in photographs]
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    at_once = max(1, CHUNK * 32 * 32 // (height * width))
    for start in range(0, len(images), at_once):
        chunk = images[start : start + at_once].contiguous()
        purpose, number = (name, severity), first + start
        random = Streams(len(chunk), seed=seed, purpose=purpose, first=number, device=images.device)
        corrupted[start : start + at_once] = chosen.apply(chunk, random, **parameters)
    return corrupted


def severities_for(height: int, width: int) -> Benchmark:
    """The default severities for an image size: ImageNet-C's if both sides have at least 128 pixels, else CIFAR-10-C's.

    >>> severities_for(64, 64), severities_for(224, 224)
    ('cifar', 'imagenet')
    """
    return "imagenet" if min(height, width) >= IMAGENET_SIZE else "cifar"


def _enlarged(photograph: Tensor, height: int, width: int) -> Tensor:
    """Enlarge a photograph (3, h, w) that does not cover the image; the benchmarks' photographs cover theirs."""
    scale = max(height / photograph.shape[-2], width / photograph.shape[-1])
    if scale <= 1:
        return photograph
    from torchvision.transforms.v2 import functional

    return functional.resize(photograph, [ceil(scale * side) for side in photograph.shape[-2:]])
