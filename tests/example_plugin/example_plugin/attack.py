"""An attack: every pixel brighter by ε."""

from dataclasses import dataclass

from torch import Tensor, nn

from freqrob.attacks import Attack


@dataclass(frozen=True)
class Brighten(Attack):
    """Adds ε to all pixels."""

    eps: float = 8 / 255
    norm: str = "Linf"

    @property
    def name(self) -> str:
        return "brighter"

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return (images + self.eps).clamp(max=1)
