"""Standard training: the cross-entropy of clean images."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.registry import register_defense


@register_defense("standard")
@dataclass(frozen=True)
class Standard:
    """CE(f(x), y), the mean over the batch.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> Standard()(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels)
