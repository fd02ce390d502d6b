"""CIFAR-B and its kind: a data set turned through BaSS once, before any augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from freqrob.data.datasets import ImageSet

if TYPE_CHECKING:
    from freqrob.spectral.bass import Reading


def balance(dataset: ImageSet, *, reading: Reading = "official", chunk: int = 1024) -> ImageSet:
    """Every image of a data set through BaSS, as uint8 in memory, also where the data set is memory-mapped.

    Source: Lin et al., NeurIPS 2023, section 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``, which
    writes its twin of CIFAR-10 to disk once.
    """
    from freqrob.spectral.bass import bass  # brings the native ops, which a data set's facts do without

    balanced = torch.empty(dataset.images.shape, dtype=torch.uint8, device=dataset.images.device)
    for images, out in zip(dataset.images.split(chunk), balanced.split(chunk), strict=True):
        bass(images, reading=reading, out=out)
    return replace(dataset, images=balanced)
