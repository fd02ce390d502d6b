"""Principal components of the pixels of a data set."""

from __future__ import annotations

import torch
from torch import Tensor

from freqrob.data.datasets import ImageSet
from freqrob.runtime.parameters import checked, fits

_CHUNK = 1024


@checked
def pca_components(dataset: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """The mean image and the first principal components of pixels in [0, 1].

    With D = C·H·W, the covariance is a (D, D) matrix in float64, and time grows as D³: a minute for 32×32 colour
    images, an hour for 64×64.

    Args:
        dataset: N images (C, H, W), usually a training set.
        count: number of components, from 1 to the smaller of D and N − 1.

    Returns:
        The mean (C, H, W) and the components (count, D), orthonormal, by descending variance, with arbitrary signs;
        both float32.

    Raises:
        ValueError: a ``count`` out of range.

    Source: Li et al., PLoS Comput. Biol. 2023, whose PCA model keeps the first 512 components of CIFAR-10.

    >>> from freqrob.data.samples import sample_images
    >>> mean, components = pca_components(sample_images(), 5)
    >>> components.shape
    torch.Size([5, 3072])
    """
    pixels = dataset.images[0].numel()
    most = min(pixels, len(dataset) - 1)
    if not fits(count, int) or not 1 <= count <= most:
        raise ValueError(f"count: expected 1 to {most} (of {len(dataset)} images of {pixels} values), got {count}")
    total = torch.zeros(pixels, dtype=torch.float64, device=dataset.images.device)
    products = torch.zeros(pixels, pixels, dtype=torch.float64, device=dataset.images.device)
    for images in dataset.images.split(_CHUNK):
        values = images.flatten(1).double()  # 0 to 255: their sums and products stay exact
        total += values.sum(0)
        products.addmm_(values.T, values)
    mean = total / len(dataset)
    _variances, axes = torch.linalg.eigh(products / len(dataset) - mean.outer(mean))  # ascending; one axis per column
    components = axes[:, -count:].flip(1).T.contiguous()
    return (mean / 255).view(dataset.images.shape[1:]).float(), components.float()
