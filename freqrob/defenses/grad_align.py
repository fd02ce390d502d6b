"""GradAlign: FGSM adversarial training without catastrophic overfitting."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.attacks import input_gradient
from freqrob.attacks.losses import cross_entropy
from freqrob.defenses.fgsm import FGSM
from freqrob.defenses.jafr import jacobian
from freqrob.models.registry import register_defense
from freqrob.models.state import bare
from freqrob.runtime.parameters import Weight, checked


@register_defense("grad_align")
@checked
@dataclass(frozen=True)
class GradAlign(FGSM):
    """FGSM's loss + λ · (1 − cos(∇ₓℓ(x, y), ∇ₓℓ(x + η, y))), the cosine averaged over the images.

    η is uniform in [−ε, ε]; the gradient at x, which the attack follows, is treated as a constant.

    Source: Andriushchenko & Flammarion, NeurIPS 2020, Eq. 5; λ as in alvinchangw/JaFR_IJCAI2022.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> GradAlign(weight=0.2)(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    weight: Weight = 0.2

    double_backward: ClassVar[bool] = True

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        gradient = input_gradient(bare(model), images, labels)
        moved = images + self.eps * (2 * torch.rand_like(images) - 1)
        moved_gradient = jacobian(cross_entropy(bare(model)(moved.requires_grad_()), labels), moved)
        misaligned = 1 - F.cosine_similarity(gradient.flatten(1), moved_gradient.flatten(1)).mean()
        return F.cross_entropy(model(self.attacked(images, gradient)), labels) + self.weight * misaligned
