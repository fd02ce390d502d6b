"""Adversarial examples of another network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from freqrob.attacks.balls import Norm
from freqrob.attacks.base import Attack
from freqrob.attacks.projected_gradient import PGD
from freqrob.models.keys import subject_key
from freqrob.models.state import measuring
from freqrob.runtime.parameters import checked


@checked
@dataclass(frozen=True)
class Transfer(Attack):
    """PGD on another network, ``source``. It runs all steps: an image that fools the source may not fool the model."""

    source: nn.Module
    attack: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        if self.attack.restarts > 1:
            raise ValueError(f"attack: expected PGD without restarts, got {self.attack.name}")

    @property
    def eps(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.eps

    @property
    def norm(self) -> Norm:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.norm

    @property
    def name(self) -> str:
        return f"transferred {self.attack.name}"

    def with_eps(self, eps: float) -> Transfer:
        return replace(self, attack=self.attack.with_eps(eps))

    def as_dict(self) -> dict[str, Any]:
        return {**self.attack.as_dict(), "attack": self.name, "source": subject_key(self.source)}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        with measuring(self.source) as source:
            return self.attack.ascend(source, images, labels, indices, seed)
