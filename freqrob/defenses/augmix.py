"""AugMix training: cross-entropy, and consistency between an image and two mixtures of it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.data.augmix import augmix, check_augmix
from freqrob.models.registry import register_defense
from freqrob.runtime.parameters import Count, Positive, Weight, checked
from freqrob.spectral.balance import Weighting, bass


@register_defense("augmix")
@checked
@dataclass(frozen=True)
class AugMix:
    """CE(f(x), y) + λ · JS(f(x); f(x₁); f(x₂)), with two AugMixes x₁ and x₂ of x, in one forward pass.

    With ``bass_view``, x₂ is an AugMix of BaSS(x) with that ``weighting``, as in Lin et al. ``severity``, ``width``,
    ``depth`` and ``alpha`` are those of ``freqrob.data.augmix.augmix``, ``weight`` is λ.

    Source: Hendrycks et al., ICLR 2020, Eq. 1 and Section 3; google-research/augmix, ``cifar.py``. ``bass_view``:
    Lin et al., NeurIPS 2023 (its code is not published).

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    >>> AugMix(weight=12)(network, torch.rand(2, 3, 32, 32), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    severity: float = 3.0
    width: Count = 3
    depth: int = -1
    alpha: Positive = 1.0
    weight: Weight = 12.0
    bass_view: bool = False
    weighting: Weighting = "amplitude"

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_augmix(self.severity, self.depth)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        clean, first, second = model(torch.cat(self.views(images))).float().chunk(3)
        return self.loss(clean, first, second, labels)

    def views(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The images and two mixtures of them, each (N, C, H, W) in [0, 1]."""
        first, second = (
            augmix(source, severity=self.severity, width=self.width, depth=self.depth, alpha=self.alpha)
            for source in (images, bass(images, weighting=self.weighting) if self.bass_view else images)
        )
        return images, first, second

    def loss(self, clean: Tensor, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """The loss from the logits (N, K) of the images and of their two mixtures."""
        return F.cross_entropy(clean, labels) + self.weight * jensen_shannon(clean, first, second)


def jensen_shannon(*logits: Tensor) -> Tensor:
    """The mean over views i and images of KL(p_i ‖ M), where M is the mean of the views' probabilities.

    M is at least 1e-7, as in the authors' code. In nats, from logits (N, K).
    """
    log_p = [view.log_softmax(1) for view in logits]
    log_m = torch.stack([view.exp() for view in log_p]).mean(0).clamp(1e-7, 1).log()
    first, *others = (F.kl_div(log_m, view, reduction="batchmean", log_target=True) for view in log_p)
    return sum(others, first) / len(log_p)
