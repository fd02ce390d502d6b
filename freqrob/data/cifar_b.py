"""CIFAR-B and its kind: a data set turned through BaSS once, before any augmentation."""

from __future__ import annotations

from dataclasses import replace

import torch

from freqrob.data.datasets import ImageSet
from freqrob.spectral.bass import Reading, bass


def balance(dataset: ImageSet, *, reading: Reading = "official", chunk: int = 1024) -> ImageSet:
    """Every image of a data set through BaSS, as uint8.

    Source: Lin et al., NeurIPS 2023, section 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``, which
    writes its twin of CIFAR-10 to disk once.
    """
    balanced = [bass(images, reading=reading) for images in dataset.images.split(chunk)]
    return replace(dataset, images=torch.cat(balanced))
