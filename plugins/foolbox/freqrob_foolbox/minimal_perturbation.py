"""freqrob's search for minimal perturbations, with any minimising attack of Foolbox."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from foolbox import Misclassification, PyTorchModel, TargetedMisclassification
from foolbox.attacks.base import MinimizationAttack
from foolbox.attacks.fast_minimum_norm import FMNAttackLp
from foolbox.distances import linf
from torch import Tensor

from freqrob.attacks import minimal_perturbation
from freqrob.attacks.balls import Norm
from freqrob.attacks.minimal import MinimalAttack, Problem
from freqrob.runtime.parameters import checked
from freqrob_foolbox.brendel_bethge import LinfinityBrendelBethgeAttack


@checked
@dataclass(frozen=True)
class MinimalPerturbationSearch(minimal_perturbation.MinimalPerturbationSearch):
    """``freqrob.attacks.MinimalPerturbationSearch`` with a minimising ``attack`` of Foolbox or of this package.

    Attacks such as FMN, DDN and C&W start at the image. Foolbox's Brendel–Bethge attacks scale their steps with
    ``batch_size``; Li et al. use 20.

    Raises:
        TypeError: ``attack`` is not a MinimizationAttack of Foolbox.
        ValueError: a count or radius out of range.
    """

    attack: MinimizationAttack = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=LinfinityBrendelBethgeAttack
    )

    @property
    def minimal_attack(self) -> MinimalAttack:
        return FoolboxMinimalAttack(self.attack)


@dataclass(frozen=True)
class FoolboxMinimalAttack(MinimalAttack):
    """A minimising attack of Foolbox under freqrob's contract."""

    attack: MinimizationAttack

    @property
    def norm(self) -> Norm:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "Linf" if self.attack.distance is linf else "L2"

    @property
    def package(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"foolbox {version('foolbox')}"

    @property
    def needs_starts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """FMN accepts starts but does not need them."""
        parameters = inspect.signature(self.attack.run).parameters
        return "starting_points" in parameters and not isinstance(self.attack, FMNAttackLp)

    def distance(self, images: Tensor, perturbed: Tensor) -> Tensor:
        return self.attack.distance(images, perturbed)

    def run(self, problem: Problem, starts: Tensor | None = None, *, early_stop: float = 0.0) -> Tensor:
        model = PyTorchModel(problem.model, bounds=(0, 1), device=problem.images.device)
        kind = TargetedMisclassification if problem.targeted else Misclassification
        given: dict[str, Any] = {} if starts is None else {"starting_points": starts}
        perturbed, _, _ = self.attack(
            model, problem.images, kind(problem.classes), epsilons=early_stop or None, **given
        )  # fmt: skip
        return perturbed.detach()
