"""PGD adversarial training."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.attacks import pgd
from freqrob.models.registry import register_defense
from freqrob.models.state import evaluating
from freqrob.runtime.parameters import Count, Pixels, checked


@register_defense("pgd_at")
@checked
@dataclass(frozen=True)
class PGDAT:
    """max over ‖δ‖∞ ≤ ε of CE(f(x + δ), y), approximated by PGD on the network in eval mode.

    ``eps`` and ``step_size`` are in pixels of [0, 1].

    Source: Madry et al., ICLR 2018, Eq. 2.1; eval mode as in zhiyugege/Frequency-Long-Tailed-Investigation.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> PGDAT(steps=2)(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    eps: Pixels = 8 / 255
    step_size: Pixels = 2 / 255
    steps: Count = 10

    adversarial: ClassVar[bool] = True
    double_backward: ClassVar[bool] = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(self.attacked(model, images, labels)), labels)

    def attacked(self, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Adversarial examples of ``pgd`` with ``options``, on the network in eval mode."""
        with evaluating(model) as network:
            return pgd(network, images, labels, eps=self.eps, step_size=self.step_size, steps=self.steps, **options)
