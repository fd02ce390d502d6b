"""The fast gradient sign method: one full step from the image itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from freqrob.attacks.balls import RADII, Norm
from freqrob.attacks.base import Attack
from freqrob.attacks.gradient import Model
from freqrob.attacks.projected_gradient import pgd
from freqrob.attacks.registry import register_attack
from freqrob.runtime.parameters import checked


@checked
def fgsm(model: Model, images: Tensor, labels: Tensor, *, eps: float = 8 / 255) -> Tensor:
    """One full step of ``pgd`` from the image itself. Raises as ``pgd``. Source: Goodfellow et al., ICLR 2015.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> images, labels = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 2])
    >>> fgsm(network, images, labels, eps=0.1).shape
    torch.Size([2, 3, 2, 2])
    """
    return pgd(model, images, labels, eps=eps, step_size=eps, steps=1, random_start=False)


@register_attack("fgsm")
@checked
@dataclass(frozen=True)
class FGSM(Attack):
    """One full step from the image itself. Source: Goodfellow et al., ICLR 2015.

    >>> FGSM(eps=4 / 255).name
    'FGSM'
    """

    eps: float = RADII["Linf"]
    norm: Norm = "Linf"

    @property
    def name(self) -> str:
        return "FGSM"

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "step_size": self.eps}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return pgd(model, images, labels, eps=self.eps, step_size=self.eps, steps=1, random_start=False, norm=self.norm)
