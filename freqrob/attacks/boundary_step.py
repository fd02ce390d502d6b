"""The constrained sub-problem of the Brendel–Bethge attack, solved for a whole batch at once.

From a point near the decision boundary, the attack takes the step δ to the point of the linearised boundary that is
nearest to the original image, at offset d (Brendel et al., NeurIPS 2019, Eq. 3):

    min ‖d − δ‖_p   such that   bᵀδ = c,   ‖δ‖₂ ≤ r,   low ≤ δ ≤ high

A monotone search finds two steps: `nearest`, the shortest onto the boundary, and `ideal`, the best one without the
trust region. If `nearest` is longer than r, the boundary is out of reach, and the step goes as far towards it as
possible. If `ideal` is not longer than r, it is the solution. Otherwise the solution has length r and, by the KKT
conditions, depends on two parameters κ and θ. Newton's method computes them from bᵀδ = c and ‖δ‖₂ = r.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SEARCH_STEPS = 100  # upper bound; each step rules out breakpoints, and real images need 4
NEWTON_STEPS = 25  # upper bound; real images need 7
PRECISION = 1e-3  # relative error of bᵀδ and ‖δ‖₂ at which Newton's method stops


@dataclass(frozen=True)
class BoundaryStep(ABC):
    """The sub-problems of N samples of D pixels, in floating point.

    Args:
        offset: d (N, D), from the current point to the original.
        low, high: (N, D), the box of δ: low ≤ 0 ≤ high and low ≤ d ≤ high.
        normal: b (N, D), the boundary's normal, of length 1, or 0 where it is not known.
        target: c (N, 1), the signed distance to the boundary.
        radius: r (N, 1), the trust region's radius.
    """

    offset: Tensor
    low: Tensor
    high: Tensor
    normal: Tensor
    target: Tensor
    radius: Tensor

    def solve(self) -> Tensor:
        """δ (N, D): optimal to about 0.1 %, or at least feasible where Newton's method does not converge."""
        nearest, _ = self._towards(torch.zeros_like(self.offset), self.normal.abs(), self.target, self.radius)
        ideal, theta = self._ideal()
        reached = _dot(self.normal, nearest).abs() >= (1 - PRECISION) * self.target.abs()
        step = torch.where(reached, ideal, nearest)
        bound = (reached & (_length(ideal) > self.radius)).flatten()  # by the trust region
        if bound.any():
            between = _at_length(self.radius[bound], nearest[bound], ideal[bound])
            step[bound] = self._of(bound)._newton(between, theta[bound])
        return step

    def _of(self, samples: Tensor) -> BoundaryStep:
        return type(self)(*(getattr(self, field.name)[samples] for field in fields(self)))

    @abstractmethod
    def _ideal(self) -> tuple[Tensor, Tensor]:
        """The optimal step without the trust region, and its θ."""

    @abstractmethod
    def _start(self, feasible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Initial κ and θ of Newton's method, given a feasible step, and a bound of θ on the other side."""

    @abstractmethod
    def _point(self, kappa: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """δ(κ, θ) and its derivatives by κ and by θ."""

    def _towards(
        self, base: Tensor, speed: Tensor, distance: Tensor, radius: Tensor | float = torch.inf
    ) -> tuple[Tensor, Tensor]:
        """base + sign(b · distance) min(κ speed, distance to the box), moved by `distance` along b, and κ.

        Stops at the length `radius` of the movement, or at the box. The reach is concave in κ: Newton's method
        converges monotonically from below and is exact once the set of clipped pixels is fixed.
        """
        weight, sign = self.normal.abs(), self.normal.sign() * distance.sign()
        room = torch.where(sign > 0, self.high - base, base - self.low)
        kappa, distance = torch.zeros_like(distance), distance.abs()
        for _ in range(SEARCH_STEPS):
            moved = torch.minimum(kappa * speed, room)
            free = speed * (kappa * speed < room)
            slope = _dot(weight, free)
            reaching = kappa + (distance - _dot(weight, moved)) / slope
            within = ((radius**2 - _dot(moved, moved)) / _dot(free, free) + kappa**2).clamp(min=0).sqrt()
            longer = torch.where(slope > 0, torch.minimum(reaching, within), kappa)
            if not (longer > (1 + 1e-5) * kappa).any():
                break
            kappa = torch.maximum(kappa, longer)
        return base + sign * torch.minimum(kappa * speed, room), kappa

    def _newton(self, feasible: Tensor, ideal: Tensor) -> Tensor:
        """The step of length r that solves the KKT conditions; `feasible` where Newton's method finds none."""
        kappa, theta, far = self._start(feasible)
        rounding = 4 * torch.finfo(theta.dtype).eps * _length(self.offset)
        step, solved = feasible, torch.zeros_like(far, dtype=torch.bool)
        for _ in range(NEWTON_STEPS):
            step, by_kappa, by_theta = self._point(kappa, theta)
            length = _length(step)
            short, missing = self.radius - length, self.target - _dot(self.normal, step)
            close = PRECISION * (self.target.abs() + 0.01 * self.radius)
            solved = (missing.abs() <= close + rounding) & (short.abs() <= PRECISION * self.radius + rounding)
            if solved.all():
                break
            reach_kappa, reach_theta = _dot(self.normal, by_kappa), _dot(self.normal, by_theta)
            square_kappa, square_theta = _dot(step, by_kappa), _dot(step, by_theta)  # of ‖δ‖² / 2
            determinant = reach_kappa * square_theta - reach_theta * square_kappa
            change = (reach_kappa * short * length - square_kappa * missing) / determinant
            new = _halfway(theta + change.nan_to_num(0, 0, 0), theta, ideal, far)
            change = (missing - reach_theta * (new - theta)) / reach_kappa
            change = torch.where(reach_kappa > 0, change, missing.sign() * (kappa.abs() + self.radius))
            kappa, theta = torch.where(solved, kappa, kappa + change), torch.where(solved, theta, new)
        return torch.where(solved, step, feasible)


class L2Step(BoundaryStep):
    """Euclidean distance: δ = clip(κb + θd, low, high); 1/θ − 1 is the multiplier of the trust region."""

    def _ideal(self) -> tuple[Tensor, Tensor]:
        distance = self.target - _dot(self.normal, self.offset)
        return self._towards(self.offset, self.normal.abs(), distance)[0], torch.ones_like(self.target)

    def _start(self, feasible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        along = _dot(self.normal, self.offset)
        squared = (self.radius**2 - self.target**2) / (_dot(self.offset, self.offset) - along**2)
        theta = squared.nan_to_num(1, 1, 0).clamp(0, 1).sqrt()  # the solution without the box
        return self.target - theta * along, theta, torch.zeros_like(theta)

    def _point(self, kappa: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        free = torch.addcmul(theta * self.offset, kappa, self.normal)
        step = free.clamp(self.low, self.high)
        inside = step == free
        return step, self.normal * inside, self.offset * inside


class LinfStep(BoundaryStep):
    """Largest difference of a pixel, θ: δ = clip(clip(κb, d − θ, d + θ), low, high)."""

    def _ideal(self) -> tuple[Tensor, Tensor]:
        distance, matters = self.target - _dot(self.normal, self.offset), self.normal.sign().abs()
        step, theta = self._towards(self.offset, matters, distance)
        return (matters * step).clamp(self.offset - theta, self.offset + theta), theta  # the shortest optimal step

    def _start(self, feasible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = (self.offset - feasible).abs().amax(1, keepdim=True)
        return self.target, theta, theta

    def _point(self, kappa: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        free, low, high = kappa * self.normal, self.offset - theta, self.offset + theta
        step = free.clamp(low, high).clamp(self.low, self.high)
        edge = (step == high).to(step.dtype) - (step == low).to(step.dtype)
        return step, self.normal * (step == free), edge


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)[:, None]  # (N, 1)


def _length(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=1, keepdim=True)  # (N, 1)


def _at_length(radius: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """The point of length `radius` between two points: it is in every convex set that contains both."""
    difference = outer - inner
    square, half = _dot(difference, difference), _dot(difference, inner)
    root = (half**2 + square * (radius**2 - _dot(inner, inner)).clamp(min=0)).sqrt()
    return torch.addcmul(inner, ((root - half) / square).nan_to_num(0, 0, 0), difference)


def _halfway(new: Tensor, old: Tensor, end: Tensor, other: Tensor) -> Tensor:
    """`new`, limited to halfway from `old` to either end."""
    middles = (old + end) / 2, (old + other) / 2
    return new.clamp(torch.minimum(*middles), torch.maximum(*middles))
