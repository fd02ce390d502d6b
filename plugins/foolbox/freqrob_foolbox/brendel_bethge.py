"""freqrob's Brendel–Bethge attack, a replacement for Foolbox's classes of the same names."""

# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false
# Foolbox declares distance as an abstract property, but itself sets it as a class variable.

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

import eagerpy as ep
import torch
from foolbox import Model
from foolbox.attacks import LinearSearchBlendedUniformNoiseAttack
from foolbox.attacks.base import MinimizationAttack, get_criterion
from foolbox.distances import l2, linf
from torch import Tensor

from freqrob.attacks.balls import Norm
from freqrob.attacks.brendel_bethge import BrendelBethge
from freqrob.models.state import frozen, measuring
from freqrob.runtime.parameters import checked
from freqrob.runtime.process_state import default_dtype
from freqrob_foolbox.problem import FoolboxProblem


class BrendelBethgeAttack(MinimizationAttack, ABC):
    """``freqrob.attacks.brendel_bethge.BrendelBethge`` under Foolbox's contract.

    Use ``LinfinityBrendelBethgeAttack`` or ``L2BrendelBethgeAttack``. Criteria: labels, Misclassification,
    TargetedMisclassification. If all ``epsilons`` are numbers, an image stops at a distance below the smallest of them.

    Args:
        init_attack: finds starting points if ``starting_points`` is not given; blended uniform noise by default.
        overshoot, steps, lr, lr_decay, lr_num_decay, patience, momentum, binary_search_steps: as for ``BrendelBethge``.

    Raises:
        ValueError: parameters out of range; when called, inputs out of bounds, starting points of another shape,
            or another criterion.
        TypeError: when called, inputs or starting points that are not PyTorch tensors of floats.
    """

    norm: ClassVar[Norm]

    @checked
    def __init__(
        self,
        init_attack: MinimizationAttack | None = None,
        overshoot: float = 1.1,
        steps: int = 1000,
        lr: float = 0.02,
        lr_decay: float = 0.5,
        lr_num_decay: int = 20,
        patience: int = 10,
        momentum: float = 0.8,
        binary_search_steps: int = 10,
    ) -> None:
        self.init_attack = init_attack
        self.attack = BrendelBethge(
            self.norm, overshoot, steps, lr, lr_decay, lr_num_decay, patience, momentum, binary_search_steps
        )

    @property
    def steps(self) -> int:
        return self.attack.steps

    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        starting_points: Any = None,
        early_stop: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """The nearest points that meet the criterion. ``starting_points``, of the shape of ``inputs``, must meet it."""
        problem = FoolboxProblem.read(model, inputs, criterion, kwargs)
        with measuring(problem.model), default_dtype(problem.images.dtype):
            if starting_points is None:
                attack = self.init_attack or LinearSearchBlendedUniformNoiseAttack()
                with torch.enable_grad(), frozen(problem.model):  # they call backward()
                    starting_points = attack.run(model, inputs, get_criterion(criterion))
            starts = _read_starts(problem, starting_points)
            return problem.answer(self.attack.run(problem, starts, early_stop=(early_stop or 0) / problem.span))


class L2BrendelBethgeAttack(BrendelBethgeAttack):
    """``BrendelBethgeAttack`` in the L2 norm."""

    norm, distance = "L2", l2


class LinfinityBrendelBethgeAttack(BrendelBethgeAttack):
    """``BrendelBethgeAttack`` in the L∞ norm."""

    norm, distance = "Linf", linf


def _read_starts(problem: FoolboxProblem, starting_points: Any) -> Tensor:
    """Starting points in [0, 1], clipped for rounding."""
    starts = ep.astensor(starting_points).raw
    if not isinstance(starts, Tensor) or starts.dtype != problem.images.dtype:
        got = f"{getattr(starts, 'dtype', '')} {type(starts).__name__}".strip()
        raise TypeError(
            f"starting_points: expected a PyTorch tensor of {problem.images.dtype} like the inputs, got {got}"
        )
    if starts.shape != problem.images.shape:
        expected = f"the inputs' shape {tuple(problem.images.shape)}"
        raise ValueError(f"starting_points: expected {expected}, got {tuple(starts.shape)}")
    return ((starts.to(problem.images.device) - problem.lower) / problem.span).clamp(0, 1)
