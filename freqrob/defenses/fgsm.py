"""FGSM adversarial training: a single attack step."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.attacks import input_gradient
from freqrob.models.registry import register_defense
from freqrob.models.state import bare
from freqrob.runtime.parameters import Pixels, checked


@register_defense("fgsm")
@checked
@dataclass(frozen=True)
class FGSM:
    """CE(f(x + δ), y) with δ = 1.25 ε · sign ∇ₓ CE(f(x), y), clamped to ±ε; the network is also attacked in train mode.

    ``eps`` is in pixels of [0, 1].

    Source: Goodfellow et al., ICLR 2015, Eq. 4; step and start as in alvinchangw/JaFR_IJCAI2022.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> FGSM()(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    eps: Pixels = 8 / 255

    adversarial: ClassVar[bool] = True
    double_backward: ClassVar[bool] = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attacked = self.attacked(images, input_gradient(bare(model), images, labels))
        return F.cross_entropy(model(attacked), labels)

    def attacked(self, images: Tensor, gradient: Tensor) -> Tensor:
        """x + δ in [0, 1], detached."""
        step = (1.25 * self.eps * gradient.detach().sign()).clamp(-self.eps, self.eps)
        return (images.detach() + step).clamp(0, 1)
