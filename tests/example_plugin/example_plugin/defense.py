"""A defence: ``freqrob train label_smoothing_rn20 --set smoothing=0.2`` trains with it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from freqrob.defenses import register_defense


@register_defense("label_smoothing")
@dataclass(frozen=True)
class LabelSmoothing:
    """Cross-entropy with smoothed labels (Szegedy et al., CVPR 2016)."""

    smoothing: float = 0.1

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(images), labels, label_smoothing=self.smoothing)
