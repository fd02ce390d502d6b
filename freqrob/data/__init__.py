"""Data sets as tensors, balanced versions of them, and augmented batches."""

from freqrob.data.batches import Batches
from freqrob.data.cifar_b import balance, load_cifar_b
from freqrob.data.datasets import (
    DATASETS,
    DatasetInfo,
    ImageSet,
    list_datasets,
    load_dataset,
    load_photographs,
    register_dataset,
    select_classes,
)
from freqrob.data.grayscale import grayscale_name, to_grayscale
from freqrob.data.pca import pca_components
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import ImageStream

__all__ = [
    "DATASETS",
    "Batches",
    "DatasetInfo",
    "ImageSet",
    "ImageStream",
    "Preprocessing",
    "balance",
    "grayscale_name",
    "list_datasets",
    "load_cifar_b",
    "load_dataset",
    "load_photographs",
    "pca_components",
    "register_dataset",
    "select_classes",
    "to_grayscale",
]
