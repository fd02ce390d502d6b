"""MART: adversarial training with a larger weight on misclassified images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.defenses.pgd_at import PGDAT
from freqrob.models.registry import register_defense
from freqrob.runtime.parameters import Pixels, Weight, checked


@register_defense("mart")
@checked
@dataclass(frozen=True)
class MART(PGDAT):
    """MART: the mean over the batch of BCE(f(x'), y) + β · KL(f(x) ‖ f(x')) · (1 − p_y(x)).

    With ::

        BCE = −log p_y(x') − log(1 − max over k ≠ y of p_k(x')),

    where x' is found by PGD on the cross-entropy of the network in eval mode, from x + 0.001 · N(0, 1). The small
    constants are the authors'. ``eps`` and ``step_size`` are in pixels of [0, 1].

    Source: Wang et al., ICLR 2020, Eq. 11; YisenWang/MART, with β = 5, ε = 0.031 and steps of 0.007 as in
    zhiyugege/Frequency-Long-Tailed-Investigation.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> MART(steps=2)(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    eps: Pixels = 0.031
    step_size: Pixels = 0.007
    beta: Weight = 5.0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attacked = self.attacked(model, images, labels, start=images + 0.001 * torch.randn_like(images))
        return self.loss(model(images).float(), model(attacked).float(), labels)

    def loss(self, clean: Tensor, adversarial: Tensor, labels: Tensor) -> Tensor:
        """The loss from the logits (N, K) of the clean and of the attacked images."""
        p, q = clean.softmax(1), adversarial.softmax(1)
        of_label = labels[:, None]
        wrong = q.scatter(1, of_label, 0).amax(1)
        bce = F.cross_entropy(adversarial, labels) - (1.0001 - wrong + 1e-12).log().mean()
        kl = F.kl_div((q + 1e-12).log(), p, reduction="none").sum(1)
        return bce + self.beta * (kl * (1.0000001 - p.gather(1, of_label)[:, 0])).mean()
