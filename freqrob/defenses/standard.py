"""Standard training: the cross-entropy of clean images."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.registry import register_defense


@register_defense("standard")
@dataclass(frozen=True)
class Standard:
    """CE(f(x), y), the mean over the batch."""

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels)
