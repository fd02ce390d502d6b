"""TRADES: adversarial training that trades accuracy for robustness."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.defenses.pgd_at import PGDAT
from freqrob.models.registry import register_defense
from freqrob.models.state import evaluating
from freqrob.runtime.parameters import Weight, checked


@register_defense("trades")
@checked
@dataclass(frozen=True)
class TRADES(PGDAT):
    """CE(f(x), y) + β · max over ‖δ‖∞ ≤ ε of KL(f(x) ‖ f(x + δ)).

    The maximum is approximated as in ``PGDAT``, but by PGD on the KL divergence, from x + 0.001 · N(0, 1).

    Source: Zhang et al., ICML 2019, Eq. 5; yaodongyu/TRADES.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> TRADES(steps=2)(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    beta: Weight = 6.0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attacked = self.attack(model, images, labels)
        clean, adversarial = model(images).float(), model(attacked).float()
        return F.cross_entropy(clean, labels) + self.beta * divergence(clean, adversarial) / len(images)

    def attack(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The images of the ball whose predictions differ most, in KL divergence, from those of the clean images."""
        with evaluating(model) as network, torch.no_grad():
            clean = network(images).float()
        torch.clear_autocast_cache()  # torch 2.10 would reuse casts of the weights that have no gradient
        return self.attacked(
            model, images, labels, start=images + 0.001 * torch.randn_like(images),
            loss=lambda adversarial, _labels: divergence(clean, adversarial.float()),
        )  # fmt: skip


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Σ_n KL(p_n ‖ q_n) of the classes' probabilities p and q, from two batches of logits (N, K)."""
    return F.kl_div(adversarial.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)
