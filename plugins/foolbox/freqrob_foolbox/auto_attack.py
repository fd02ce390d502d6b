"""AutoAttack as Foolbox's attacks are called."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from foolbox import Model
from foolbox.attacks.base import FixedEpsilonAttack
from foolbox.distances import l2, linf

from freqrob.attacks import Norm
from freqrob.evaluation import autoattack
from freqrob.evaluation.checks import explained
from freqrob.parameters import check_counts, check_seeds, checked
from freqrob_foolbox.problem import Problem


class AutoAttack(FixedEpsilonAttack, ABC):
    """AutoAttack, an ensemble of attacks without parameters, from the package ``autoattack`` or else ``pyautoattack``.

    Use ``LinfAutoAttack`` or ``L2AutoAttack``. Criteria: labels or Misclassification; its targeted parts try all
    targets for themselves. An image that no part breaks comes back as it is. The model has to give logits, and to be
    deterministic (or ``version="rand"``).

    Args:
        version: "standard" (RobustBench's), "plus", "rand" or "custom".
        attacks: for "custom", some of apgd-ce, apgd-dlr, fab, square, apgd-t, fab-t.
        seed: of its random numbers.
        batch_size: images at a time.

    Raises:
        ValueError: what AutoAttack does not offer; on use, another criterion.
        ImportError: on use, neither package is installed.

    Source: Croce and Hein, ICML 2020.
    """

    norm: ClassVar[Norm]

    @checked
    def __init__(
        self, version: str = "standard", *, attacks: Sequence[str] = (), seed: int = 0, batch_size: int = 250
    ) -> None:
        check_counts(batch_size=batch_size)
        check_seeds(seed=seed)
        autoattack.AutoAttack(version, tuple(attacks), norm=self.norm)
        self.version, self.attacks, self.seed, self.batch_size = version, tuple(attacks), seed, int(batch_size)

    def run(self, model: Model, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        problem = Problem.read(model, inputs, criterion, kwargs, targets=False)
        attack = autoattack.AutoAttack(self.version, self.attacks, eps=epsilon / problem.span, norm=self.norm)
        images = problem.images.contiguous()  # the packages take no other
        batches = zip(images.split(self.batch_size), problem.classes.split(self.batch_size), strict=True)
        with explained(self.batch_size):
            found = [attack.perturb(problem.model, images, labels, seed=self.seed) for images, labels in batches]
        return problem.answer(torch.cat(found))


class LinfAutoAttack(AutoAttack):
    """``AutoAttack`` in the L∞ ball."""

    norm, distance = "Linf", linf


class L2AutoAttack(AutoAttack):
    """``AutoAttack`` in the L2 ball."""

    norm, distance = "L2", l2
