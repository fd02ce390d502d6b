"""No attack: clean accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from freqrob.attacks.balls import Norm
from freqrob.attacks.base import Attack
from freqrob.attacks.registry import Name, register_attack


@register_attack("clean")
@dataclass(frozen=True)
class Clean(Attack):
    """The images unchanged.

    >>> Clean().name
    'clean'
    """

    eps: float = field(default=0.0, init=False)
    norm: ClassVar[Norm] = "Linf"  # pyright: ignore[reportIncompatibleVariableOverride]
    uses_gradients: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "clean"

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> Clean:
        if not name.is_bare:
            raise name.error
        return cls()

    def with_eps(self, eps: float) -> Clean:
        return self

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return images
