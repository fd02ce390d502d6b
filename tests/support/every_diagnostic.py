"""Every diagnostic called on a model, and what tells its measurements apart."""

import numpy as np
import torch
from torch import nn

from freqrob.diagnostics.band_accuracy import band_accuracy
from freqrob.diagnostics.fourier_heatmap import fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import loss_landscape
from freqrob.diagnostics.sensitivity import sensitivity


class Counting(nn.Module):
    __slots__ = ("calls",)  # no attribute by which the model is known

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images) > 2  # with two, the layout is tried
        return self.model(images)


MINIMAL = "minimal_perturbation"  # which is not in EACH, as it takes longer
EACH = {
    "jacobian": lambda model, data, **more: jacobian_spectrum(model, *data, **more),
    "hybrid": lambda model, data, **more: hybrid_reliance(model, *data, frequencies=(0.05, 0.2), seeds=(0,), **more),
    "heatmap": lambda model, data, **more: fourier_heatmap(model, *data, norm=1.0, **more),
    "sensitivity": lambda model, data, **more: sensitivity(model, *data, **more),
    "bands": lambda model, data, **more: band_accuracy(model, *data, steps=2, **more),
    "landscape": lambda model, data, **more: loss_landscape(model, *data, points=5, **more),
}


def equal(one, other):
    """Whether two measurements have the same arrays; NaN is NaN."""
    return all(np.array_equal(value, other.tensors()[key], equal_nan=True) for key, value in one.tensors().items())
