"""What a model gets: its preprocessing of photographs, and the images of a data set."""

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
from freqrob.runtime.progress import Track, untracked

Data = Tensor | ImageStream | Dataset | DataLoader


def inputs_of(
    model: nn.Module, data: Data, labels: Tensor | None, classes: int | None = None, track: Track = untracked
) -> tuple[Images, Tensor, int | None]:
    """Images with the model's preprocessing, their labels, and the number of classes, if it is known.

    Args:
        model: as ``open_model`` gives it.
        data: images, with ``labels``; or a data set, a loader or an ``ImageSet``, which have the labels.
        labels: (N,) int64, or None.
        classes: the number of classes, if the caller knows it.
        track: wraps the reading of a data set in a progress bar.

    Raises ValueError for images without labels, labels given twice, and those that do not fit the images.
    """
    has_labels = not isinstance(data, Tensor | ImageStream)
    if has_labels == (labels is not None):
        got = "a data set, which has them, and others" if has_labels else "None"
        raise ValueError(f"labels: expected the classes of the images, once, got {got}")
    if isinstance(data, ImageSet):
        data, labels, classes = data.images, data.labels, classes or len(data.classes) or None
    elif isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data, labels = data.tensors
    elif isinstance(data, Dataset | DataLoader):
        data, labels = stream_dataset(data, track)
    assert labels is not None
    check_labelled(data, labels)
    return preprocessed(data, preprocessing_of(model)), labels, classes


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """What photographs go through before a model that ``open_model`` gave; None if it is not known."""
    model = unwrapped(model)
    while isinstance(model, FrontEnded):
        if model.preprocessing is not None:
            return model.preprocessing
        model = unwrapped(model.network)
    return None
