"""The spectrum of the loss's gradient with respect to the image."""

from __future__ import annotations

from torch import Tensor

from freqrob.attacks import Model, input_gradient
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.spectral.ops import mean_amplitude


def gradient_spectrum(model: Model, images: Tensor, labels: Tensor, *, batch_size: int = 128) -> Tensor:
    """Mean over images and channels of |rfft2(∇ₓ CE)|, CE the mean over a batch of ``batch_size`` images.

    Each image's gradient is its own, divided by ``batch_size``, so that an incomplete last batch counts alike.

    Args and errors as for ``freqrob.diagnose``. Returns (H, W//2+1) float32, DC at [0, 0].

    Source: Chan et al., IJCAI 2022, the Jacobian's Fourier spectrum; mean-reduced loss as in its code.
    """
    check_labelled(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    total = 0
    for chunk, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        gradient = input_gradient(model, to_pixels(chunk), target) / batch_size
        total = total + mean_amplitude(gradient).detach() * (len(chunk) / len(images))
    return total
