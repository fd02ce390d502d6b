"""Attacks whose perturbations are confined to a band of frequencies."""

# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false
# Foolbox declares distance as an abstract property, but itself sets it as a class variable.

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from foolbox import Model
from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack
from foolbox.distances import l2, linf
from torch import Tensor

from freqrob.attacks.balls import BALLS, Norm, check_radius, over_pixels
from freqrob.attacks.band import Band, BandBall, climb
from freqrob.attacks.losses import Loss, cross_entropy, margin
from freqrob.models.state import measuring
from freqrob.runtime.parameters import Count, Positive, checked
from freqrob.runtime.process_state import default_dtype
from freqrob_foolbox.problem import FoolboxProblem

HALVINGS = 10  # bisection steps on the line from an image to a perturbed one


class BandPGD(FixedEpsilonAttack, ABC):
    """Projected gradient ascent on the cross-entropy with perturbations confined to rings of the spectrum.

    x ← Π( x + step · g_B / ‖g_B‖ ): g_B is the gradient's part in the band, Π projects into ball, band and bounds. Even
    in L∞, steps follow g_B and not its sign: the sign has components outside the band, and its projection may not
    ascend. The result is in the ball and in bounds, with at most 10⁻⁴ of the perturbation's power outside the band
    (``freqrob.attacks.band.TOLERANCE``). If no such perturbation is found, the image is returned unchanged.

    Use ``LinfBandPGD`` or ``L2BandPGD``. Criteria: labels, Misclassification, TargetedMisclassification. The random
    start uses PyTorch's global generator.

    Args:
        rings: ring numbers, ``range(5)`` for frequencies below 5/N cycles/pixel of N × N images; ring 0 is DC.
        steps: gradient steps.
        rel_stepsize: length of a step divided by ε: Euclidean for L2, root mean square for L∞.
        random_start: start from white noise in the band instead of the image.

    Raises:
        ValueError: parameters out of range; when called, rings that the images do not have, or another criterion.
        TypeError: when called, inputs that are not PyTorch tensors.
    """

    norm: ClassVar[Norm]

    @checked
    def __init__(
        self, rings: Iterable[int], *, steps: Count = 40, rel_stepsize: Positive = 0.1, random_start: bool = True
    ) -> None:
        self.band, self.steps, self.rel_stepsize, self.random_start = Band(rings), steps, rel_stepsize, random_start

    def run(self, model: Model, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        problem = FoolboxProblem.read(model, inputs, criterion, kwargs)
        images = problem.images
        check_radius(self.norm, epsilons=epsilon / problem.span)
        eps = torch.full_like(images[:, :1, :1, :1], epsilon / problem.span)
        start = images
        if self.random_start:
            start = images + eps * _scaled(self.band.project(torch.randn_like(images)), self.norm)
        ball = BandBall(images, eps, self.norm, self.band)
        with measuring(problem.model), default_dtype(problem.images.dtype):
            adversarial, _ = _ascend(problem, ball, start, self.rel_stepsize * eps, self.steps, cross_entropy)
        return problem.answer(adversarial)


class LinfBandPGD(BandPGD):
    """``BandPGD`` in the L∞ ball."""

    norm, distance = "Linf", linf


class L2BandPGD(BandPGD):
    """``BandPGD`` in the L2 ball."""

    norm, distance = "L2", l2


class BandMinimization(MinimizationAttack, ABC):
    """The smallest perturbation confined to rings of the spectrum, by bisection of each image's ε.

    Each search runs ``BandPGD``'s ascent, on the difference of logits, in the ball of radius ε. A successful
    perturbation is scaled down to the decision boundary, which keeps it in the band, and is the new upper bound of ε;
    otherwise ε is the new lower bound. ε grows until the first success. Bounds and tolerance are those of ``BandPGD``.

    Use ``LinfBandMinimization`` or ``L2BandMinimization``. Criteria as for ``BandPGD``. An image that already meets the
    criterion, or for which no perturbation is found, is returned unchanged.

    Args:
        rings: ring numbers, ``range(5)`` for low and ``range(10, 23)`` for high frequencies of 32×32 images.
        binary_search_steps: number of searches; after the first success, each one at least halves the interval of ε.
        steps, rel_stepsize: as for ``BandPGD``, in each search.

    Raises as ``BandPGD``.
    """

    norm: ClassVar[Norm]
    first_eps: ClassVar[float]

    @checked
    def __init__(
        self, rings: Iterable[int], *, binary_search_steps: Count = 10, steps: Count = 20, rel_stepsize: Positive = 0.1
    ) -> None:
        self.band, self.binary_search_steps = Band(rings), binary_search_steps
        self.steps, self.rel_stepsize = steps, rel_stepsize

    def run(self, model: Model, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        problem = FoolboxProblem.read(model, inputs, criterion, kwargs)
        with measuring(problem.model), default_dtype(problem.images.dtype):
            return problem.answer(self._smallest(problem, early_stop or 0))

    def _smallest(self, problem: FoolboxProblem, early_stop: float) -> Tensor:
        """The images with the smallest perturbations that the searches find."""
        images, length = problem.images, BALLS[self.norm].length
        best, done = images, problem.fooled(_logits(problem, images))
        lower, upper = images.new_zeros(len(images)), torch.where(done, 0.0, torch.inf).to(images)
        eps = torch.full_like(upper, self.first_eps)
        for _ in range(self.binary_search_steps):
            if (upper <= early_stop / problem.span).all():
                break
            radius = over_pixels(eps)
            ball = BandBall(images, radius, self.norm, self.band)
            start = ball.project(best)
            perturbed, fooled = _ascend(problem, ball, start, self.rel_stepsize * radius, self.steps, margin)
            perturbed = _shrink(problem, perturbed, fooled)
            size = length(perturbed - images)
            closer = fooled & (size < upper)
            best, upper = torch.where(over_pixels(closer), perturbed, best), torch.where(closer, size, upper)
            lower = torch.where(fooled, lower, torch.maximum(lower, eps))
            eps = torch.where(upper.isinf(), 4 * lower, (lower + upper) / 2)
        return best


class LinfBandMinimization(BandMinimization):
    """``BandMinimization`` in the L∞ norm."""

    norm, distance, first_eps = "Linf", linf, 4 / 255


class L2BandMinimization(BandMinimization):
    """``BandMinimization`` in the L2 norm."""

    norm, distance, first_eps = "L2", l2, 0.5


def _ascend(
    problem: FoolboxProblem, ball: BandBall, start: Tensor, step: Tensor, steps: int, loss: Loss
) -> tuple[Tensor, Tensor]:
    """``climb`` on a loss, towards the targets of a targeted problem."""
    targets = problem.classes if problem.targeted else None
    gain = partial(loss, labels=problem.classes, targets=targets)
    return climb(problem.model, ball, start, step, steps, gain, problem.fooled)


def _shrink(problem: FoolboxProblem, perturbed: Tensor, fooled: Tensor) -> Tensor:
    """The point nearest to the image that meets the criterion on the line to it, found by bisection."""
    low, high = torch.zeros_like(perturbed[:, :1, :1, :1]), torch.ones_like(perturbed[:, :1, :1, :1])
    for _ in range(HALVINGS if fooled.any() else 0):
        middle = (low + high) / 2
        enough = over_pixels(problem.fooled(_logits(problem, torch.lerp(problem.images, perturbed, middle))))
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(over_pixels(fooled), torch.lerp(problem.images, perturbed, high), perturbed)


@torch.no_grad()
def _logits(problem: FoolboxProblem, images: Tensor) -> Tensor:
    return problem.model(images)


def _scaled(offsets: Tensor, norm: Norm) -> Tensor:
    """Scale to length 1; zeros stay zero."""
    length = over_pixels(BALLS[norm].length(offsets))
    return offsets / torch.where(length > 0, length, 1)
