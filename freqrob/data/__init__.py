"""Data sets as tensors, their balanced twins, and augmented batches of them."""

from freqrob.data.batches import Batches
from freqrob.data.cifar_b import balance
from freqrob.data.datasets import DATASETS, ImageSet, load_dataset

__all__ = ["DATASETS", "Batches", "ImageSet", "balance", "load_dataset"]
