"""Frequency measurements of a model on images, one file each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from freqrob.attacks import Model
from freqrob.diagnostics.gradient_spectrum import gradient_spectrum
from freqrob.spectral.jacobian import log_b_low

__all__ = ["Diagnosis", "diagnose", "gradient_spectrum"]


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` measured.

    Attributes:
        gradient_spectrum: (H, W//2+1) mean |rfft2| of the loss's gradient with respect to the image, DC at [0, 0].
        log_b_low: ln B_low of it; larger means more sensitive to low frequencies; white noise has 3.53 at 32×32.
        images: how many images were measured.
    """

    gradient_spectrum: Tensor
    log_b_low: float
    images: int


def diagnose(model: Model, images: Tensor, labels: Tensor, *, batch_size: int = 128) -> Diagnosis:
    """Where in the spectrum a model is sensitive.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K), in eval mode.
        images, labels: (N, C, H, W), float in [0, 1] or uint8, and (N,) int64.
        batch_size: images at a time. The gradient is that of the mean loss over ``batch_size`` images, as JaFR takes
            it: the scale of the spectrum, and ln B_low where the offset of 1e-5 bites, depend on it.

    Raises:
        ValueError: no images, or as many labels as images are not there.
    """
    spectrum = gradient_spectrum(model, images, labels, batch_size=batch_size)
    return Diagnosis(spectrum, log_b_low(spectrum).item(), len(images))
