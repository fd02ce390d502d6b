"""Square: random search with squares, which uses only the model's outputs.

Source: Andriushchenko et al., ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from freqrob.attacks.autoattack import AutoAttack, package, run_components
from freqrob.attacks.balls import RADII, Norm
from freqrob.attacks.base import Attack
from freqrob.attacks.registry import Name, register_attack
from freqrob.runtime.parameters import Count, checked

QUERIES = 5000


@register_attack("square")
@checked
@dataclass(frozen=True)
class Square(Attack):
    """AutoAttack's Square attack with any number of queries; it uses only the model's outputs.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> samples, model = sample_images(), freqrob.load_model("standard_rn20")
    >>> images, labels = samples.images[:4] / 255, samples.labels[:4]
    >>> Square(20).robust_mask(model, images, labels).shape
    torch.Size([4])
    """

    queries: Count = QUERIES
    eps: float = RADII["Linf"]
    norm: Norm = "Linf"
    batched: ClassVar[bool] = True
    uses_twins: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> Square:
        if len(name.counts) > 1 or name.words or name.options:
            raise name.error
        return cls(*(name.counts or (QUERIES,)), eps=eps, norm=norm)

    @property
    def name(self) -> str:
        return "Square" if self.queries == QUERIES else f"Square-{self.queries}"

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "package": package()}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        ensemble = AutoAttack("custom", ("square",), self.eps, self.norm)
        return run_components(ensemble, ensemble.components, model, images, labels, seed, queries=self.queries)
