"""The smallest ball in which projected gradient ascent succeeds, by bisection of each image's radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqrob.attacks.balls import BALLS, Norm, check_norm, over_pixels
from freqrob.attacks.gradient import gradient_and_logits
from freqrob.attacks.losses import cross_entropy
from freqrob.attacks.minimal import MinimalAttack, Problem
from freqrob.runtime.parameters import Count, Positive, checked

PATH = 2.5  # total length of all steps relative to the radius, as in Madry et al.
SMALLEST = {"Linf": 0.01 / 255, "L2": 0.0005}  # radii at which the bisection begins
LARGEST = {"Linf": 0.5, "L2": 20.0}


@checked
@dataclass(frozen=True)
class SmallestPGD(MinimalAttack):
    """PGD with random starts in balls of several radii; the closest iterate that meets the criterion is kept.

    The first run is in the ball of radius ``largest``. Each further radius is the geometric mean of the largest radius
    that failed and the smallest that succeeded. An image that no run has broken is tried again at ``largest``.

    Args:
        norm: "Linf" or "L2".
        steps: gradient steps of each run, of 2.5/``steps`` times the radius each; 40 as in Foolbox.
        searches: number of runs; after 9, the largest failed and the smallest successful radius differ by a factor of
            1.04.
        largest: radius of the largest ball, in pixels of [0, 1]; 0.5 in L∞ (Li et al.'s), 20 in L2 unless given.

    Raises:
        ValueError: an unknown norm, a count below 1, or a radius that is not positive.

    >>> SmallestPGD(steps=10).name
    'PGD-10 in balls of 9 radii'

    Source: Madry et al., ICLR 2018; as a source of candidates, Li et al., PLoS Comput. Biol. 2023, Methods.
    """

    norm: Norm = "Linf"
    steps: Count = 40
    searches: Count = 9
    largest: Positive | None = None

    needs_starts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self.norm)

    @property
    def name(self) -> str:
        """Name for captions: "PGD-40 in balls of 9 radii"."""
        return f"PGD-{self.steps} in balls of {self.searches} radii"

    def run(self, problem: Problem, starts: Tensor | None = None, *, early_stop: float = 0.0) -> Tensor:
        images, count = problem.images, len(problem.images)
        best, distance = images.clone(), images.new_full((count,), torch.inf)
        failed = images.new_full((count,), SMALLEST[self.norm])
        radius = reached = images.new_full((count,), self.largest or LARGEST[self.norm])
        for _ in range(self.searches):
            success = self._ascend(problem, radius, best, distance)
            failed, reached = torch.where(success, failed, radius), torch.where(success, radius, reached)
            reached = torch.minimum(reached, distance)
            radius = torch.where(distance.isinf(), reached, (failed * reached).sqrt())
            if (distance <= early_stop).all():
                break
        return best

    def _ascend(self, problem: Problem, radius: Tensor, best: Tensor, distance: Tensor) -> Tensor:
        """Update ``best`` and ``distance`` by a run in balls of ``radius``; return the mask of successes."""
        images, eps = problem.images, over_pixels(radius)
        ball, aims = BALLS[self.norm](images, eps), (problem.classes,) * (2 if problem.targeted else 1)
        points, success = ball.random(), torch.zeros_like(problem.classes, dtype=torch.bool)
        for step in range(self.steps + 1):
            gradient, logits = gradient_and_logits(problem.model, points, cross_entropy, *aims)
            size, fooled = self.distance(images, points), problem.fooled(logits)
            closer = fooled & (size < distance)
            best[closer], distance[closer], success = points[closer], size[closer], success | fooled
            if step < self.steps:
                points = ball.project(points + PATH / self.steps * eps * ball.direction(gradient.nan_to_num()))
        return success
