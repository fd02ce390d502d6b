"""PGD adversarial training."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.attacks import evaluating, pgd


@dataclass(frozen=True)
class PGDAT:
    """max over ‖δ‖∞ ≤ ε of CE(f(x + δ), y), the maximum sought by PGD on the network in eval mode.

    ``eps`` and ``step_size`` are in pixels of [0, 1].

    Source: Madry et al., ICLR 2018, Eq. 2.1; eval mode as in zhiyugege/Frequency-Long-Tailed-Investigation.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise ValueError(f"{name}: expected pixels in (0, 1], such as 8/255, got {value!r}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps: expected an integer from 1 on, got {self.steps!r}")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with evaluating(model) as network:
            attacked = pgd(network, images, labels, eps=self.eps, step_size=self.step_size, steps=self.steps)
        return F.cross_entropy(model(attacked), labels)
