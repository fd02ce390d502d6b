"""A model's inputs: the images of a data set, with the model's preprocessing of photographs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from freqrob.data.datasets import ImageSet, check_labelled
from freqrob.data.photographs import preprocessed
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import Images, ImageStream
from freqrob.data.torch_datasets import stream_dataset
from freqrob.models.front_ends import FrontEnded
from freqrob.models.wrappers import unwrapped
from freqrob.runtime.progress import Progress, no_progress

Data = Tensor | ImageStream | Dataset | DataLoader


def inputs_of(
    model: nn.Module, data: Data, labels: Tensor | None, classes: int | None = None, progress: Progress = no_progress
) -> tuple[Images, Tensor, int | None]:
    """Images with the model's preprocessing, their labels, and the number of classes, if it is known.

    Args:
        model: as ``open_model`` gives it.
        data: images, with ``labels``; or a data set, loader or ``ImageSet``, which contains the labels.
        labels: (N,) int64, or None.
        classes: the number of classes, if the caller knows it.
        progress: wraps the reading of a data set in a progress bar.

    Raises ValueError for images without labels, ``labels`` for a data set that has them, and labels that do not match.
    """
    has_labels = not isinstance(data, Tensor | ImageStream)
    if has_labels == (labels is not None):
        expected, got = ("None, since data has labels", "others") if has_labels else ("(N,) int64 classes", "None")
        raise ValueError(f"labels: expected {expected}, got {got}")
    if isinstance(data, ImageSet):
        data, labels, classes = data.images, data.labels, classes or len(data.classes) or None
    elif isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data, labels = data.tensors
    elif isinstance(data, Dataset | DataLoader):
        data, labels = stream_dataset(data, progress)
    assert labels is not None
    check_labelled(data, labels)
    return preprocessed(data, preprocessing_of(model)), labels, classes


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing of photographs for a model from ``open_model``; None if it is not known."""
    model = unwrapped(model)
    while isinstance(model, FrontEnded):
        if model.preprocessing is not None:
            return model.preprocessing
        model = unwrapped(model.network)
    return None
