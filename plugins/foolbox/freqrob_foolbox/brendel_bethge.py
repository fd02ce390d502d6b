"""The Brendel–Bethge attack in PyTorch: each step of all images at once, on the device they are on."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import eagerpy as ep
import torch
from foolbox import Model
from foolbox.attacks import LinearSearchBlendedUniformNoiseAttack
from foolbox.attacks.base import MinimizationAttack, get_criterion
from foolbox.distances import l2, linf
from torch import Tensor

from freqrob.attacks.balls import BALLS, L2Ball, Norm
from freqrob.attacks.gradient import gradient_of
from freqrob.models.state import frozen, measuring
from freqrob.parameters import check_counts, check_positive, check_shares, checked
from freqrob.runtime.process_state import default_dtype
from freqrob_foolbox.boundary_step import BoundaryStep, L2Step, LinfStep
from freqrob_foolbox.problem import Problem

TIE = 1e-5  # logits nearer to each other than this share of the largest may be ordered otherwise in another batch


class BrendelBethgeAttack(MinimizationAttack, ABC):
    """Follows the decision boundary from an adversarial point to the one that is nearest to the image.

    Each step is the best along the linearised boundary and within a trust region (``freqrob_foolbox.boundary_step``);
    the boundary's normal is a running mean of the gradients of the difference of logits. The same attack as Foolbox's
    class of the same name, for which it stands in, apart from this: steps are computed for the whole batch on its
    device, and an image's do not depend on the batch. Foolbox scales the trust region by the number of images; here its
    ``lr=1e-3`` with 20 images is ``lr=0.02``.

    Use ``LinfinityBrendelBethgeAttack`` or ``L2BrendelBethgeAttack``. Criteria: labels, Misclassification,
    TargetedMisclassification. An image that meets the criterion already comes back as it is; so does one whose starting
    point does not meet it, with a warning. An image whose logits or gradient become infinite or NaN stays at the best
    point until then. With ``epsilons`` that are all numbers, an image stops at a distance below the smallest.

    Args:
        init_attack: finds starting points where ``starting_points`` are not given; blended uniform noise by default.
        overshoot: how far each step goes, to land beyond the boundary: 1 is onto it.
        steps: evaluations of the gradient, at most.
        lr: radius of the trust region, as a share of the number of pixels and channels.
        lr_decay, lr_num_decay: its factor, and how many times it is applied in the course of the steps.
        patience: an image that has come no closer in so many steps has the factor applied at once, and stops when it
            has been applied ``lr_num_decay`` times; of 1000 steps 370 are left, and medians stay within 0.1 %.
            ``patience=steps`` keeps to Foolbox's schedule.
        momentum: of the running mean; 0 takes each gradient by itself.
        binary_search_steps: from the starting point to the boundary.

    Inputs in channels_last format stay in it, which makes the gradients of many networks cheaper.

    Raises:
        ValueError: parameters out of range; on use, inputs out of bounds, starting points of another shape, another
            criterion.
        TypeError: on use, inputs or starting points that are no PyTorch tensors of floats.

    Source: Brendel, Rauber, Kümmerer, Ustyuzhaninov, Bethge, NeurIPS 2019, "Accurate, reliable and fast robustness
    evaluation"; schedule and defaults those of Foolbox 3.3.4.
    """

    norm: ClassVar[Norm]
    best_step: ClassVar[type[BoundaryStep]]

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
        check_counts(steps=steps, lr_num_decay=lr_num_decay, patience=patience, binary_search_steps=binary_search_steps)
        check_positive(overshoot=overshoot, lr=lr, lr_decay=lr_decay)
        check_shares(momentum=momentum)
        self.init_attack, self.overshoot, self.steps, self.momentum = init_attack, overshoot, steps, momentum
        self.lr, self.lr_decay, self.lr_num_decay = lr, lr_decay, lr_num_decay
        self.patience, self.binary_search_steps = patience, binary_search_steps

    @torch.no_grad()
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
        """The nearest points that meet the criterion. ``starting_points``: like ``inputs``, and meeting it."""
        problem = Problem.read(model, inputs, criterion, kwargs)
        with measuring(problem.model), default_dtype(problem.images.dtype):
            if starting_points is None:
                attack = self.init_attack or LinearSearchBlendedUniformNoiseAttack()
                with torch.enable_grad(), frozen(problem.model):  # Foolbox's attacks call backward()
                    starting_points = attack.run(model, inputs, get_criterion(criterion))
            return problem.answer(self._nearest(problem, _read_starts(problem, starting_points), early_stop or 0))

    def _nearest(self, problem: Problem, starts: Tensor, early_stop: float) -> Tensor:
        """The nearest points found from the starts; the image itself where it or its start leaves nothing to do."""
        best, already = problem.images.clone(), problem.fooled(problem.model(problem.images))
        useful = problem.fooled(problem.model(starts)) & starts.isfinite().flatten(1).all(1)
        if failed := (~useful & ~already).nonzero().flatten().tolist():
            warnings.warn(
                f"starting points: {len(failed)} of {len(starts)} do not meet the criterion; their images, number "
                f"{', '.join(map(str, failed))}, come back as they are, and the others go on",
                stacklevel=5,
            )
        if len(left := (useful & ~already).nonzero().flatten()):
            these = replace(problem, images=problem.images[left], classes=problem.classes[left])
            best[left] = self._follow_boundary(these, starts[left], early_stop / problem.span)
            best = _secured(problem, best, starts, left)
        return best

    def _follow_boundary(self, problem: Problem, starts: Tensor, enough: float) -> Tensor:
        """The best points met on the way; an image goes no further once its distance is small enough."""
        images, length = problem.images, BALLS[self.norm].length
        points = self._onto_boundary(problem, starts)
        best, shortest = points.clone(), length(points - images)
        normals, moving = torch.zeros_like(images), torch.arange(len(images), device=images.device)
        trust = _TrustRegions(self, images)
        for step in range(self.steps):
            now, clean = points[moving], images[moving]
            margins, gradients = _boundary(problem, now, moving)
            distance = length(now - clean)
            closer = (margins < 0) & (distance < shortest[moving])
            best[moving] = torch.where(_over_pixels(closer), now, best[moving])
            shortest[moving] = torch.where(closer, distance, shortest[moving])
            radii = trust.after(closer, moving)
            finite = margins.isfinite() & gradients.isfinite().flatten(1).all(1)
            going = finite & (shortest[moving] > enough) & (radii > 0)
            if not going.any():
                break
            kept = (moving, now, clean, margins, gradients, radii)
            moving, now, clean, margins, gradients, radii = (tensor[going] for tensor in kept)
            normals[moving] = torch.lerp(gradients, normals[moving], self.momentum if step else 0.0)
            points[moving] = self._moved(now, clean, normals[moving], margins, radii)
        return best

    def _onto_boundary(self, problem: Problem, starts: Tensor) -> Tensor:
        """Points that meet the criterion close to the boundary, on the ways from the images to the starting points."""
        below, above = torch.zeros_like(starts[:, :1, :1, :1]), torch.ones_like(starts[:, :1, :1, :1])
        for _ in range(self.binary_search_steps):
            share = (below + above) / 2
            margins = _margins(problem, problem.model(self._between(problem.images, starts, share)), problem.classes)
            met = _over_pixels(margins < 0)
            below, above = torch.where(met, below, share), torch.where(met, share, above)
        return self._between(problem.images, starts, above)

    def _moved(self, points: Tensor, images: Tensor, normals: Tensor, margins: Tensor, radii: Tensor) -> Tensor:
        """The points after a step: where margin + ∇margin · step is slightly negative, at −0.1 or 0.1 of the margin."""
        slope = L2Ball.length(normals).clamp(min=torch.finfo(normals.dtype).tiny)
        target = -margins * torch.where(margins > 0, self.overshoot, 2 - self.overshoot) / slope
        here = points.flatten(1)
        step = self.best_step(
            offset=images.flatten(1) - here,
            low=-here,
            high=1 - here,
            normal=L2Ball.direction(normals).flatten(1),
            target=target[:, None],
            radius=radii.to(target)[:, None],
        ).solve()
        return (here + step).clamp(0, 1).reshape(points.shape)

    @staticmethod
    @abstractmethod
    def _between(images: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        """From the images at 0 to the starting points at 1."""


class _TrustRegions:
    """The radius for each image, which shrinks in stages, sooner where an image comes no closer."""

    def __init__(self, attack: BrendelBethgeAttack, images: Tensor) -> None:
        self.attack, self.largest = attack, attack.lr * images[0].numel()
        self.stage_steps = max(1, attack.steps // attack.lr_num_decay)
        self.stage, self.steps, self.vain = torch.zeros(3, len(images), dtype=torch.int64, device=images.device)

    def after(self, closer: Tensor, which: Tensor) -> Tensor:
        """Radii (N,) for the next step of some images; 0 for those with no stage left."""
        steps, vain = self.steps[which] + 1, torch.where(closer, 0, self.vain[which] + 1)
        over = (steps > self.stage_steps) | (vain > self.attack.patience)
        self.stage[which] += over
        self.steps[which], self.vain[which] = torch.where(over, 1, steps), torch.where(over, 0, vain)
        stage = self.stage[which]
        return torch.where(stage < self.attack.lr_num_decay, self.largest * self.attack.lr_decay**stage, 0.0)


class L2BrendelBethgeAttack(BrendelBethgeAttack):
    """``BrendelBethgeAttack`` in the L2 norm."""

    norm, distance, best_step = "L2", l2, L2Step

    @staticmethod
    def _between(images: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        return torch.lerp(images, starts, share)


class LinfinityBrendelBethgeAttack(BrendelBethgeAttack):
    """``BrendelBethgeAttack`` in the L∞ norm."""

    norm, distance, best_step = "Linf", linf, LinfStep

    @staticmethod
    def _between(images: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        return images + (starts - images).clamp(-share, share)


def _read_starts(problem: Problem, starting_points: Any) -> Tensor:
    """Starting points in [0, 1], rounding beyond it clipped."""
    starts = ep.astensor(starting_points).raw
    if not isinstance(starts, Tensor) or starts.dtype != problem.images.dtype:
        got = f"{getattr(starts, 'dtype', '')} {type(starts).__name__}".strip()
        raise TypeError(
            f"starting_points: expected a PyTorch tensor of {problem.images.dtype}, as the inputs, got {got}"
        )
    if starts.shape != problem.images.shape:
        expected = f"the inputs' shape {tuple(problem.images.shape)}"
        raise ValueError(f"starting_points: expected {expected}, got {tuple(starts.shape)}")
    return ((starts.to(problem.images.device) - problem.lower) / problem.span).clamp(0, 1)


def _boundary(problem: Problem, points: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The margins (N,) of points of some of the images, and their gradients (N, C, H, W)."""
    whole = problem.images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if whole else torch.contiguous_format
    with torch.inference_mode(False), torch.enable_grad():
        points = points.detach().clone(memory_format=layout).requires_grad_()
        margins = _margins(problem, problem.model(points), problem.classes[which])
        return margins.detach(), gradient_of(margins.sum(), points)


def _margins(problem: Problem, logits: Tensor, classes: Tensor) -> Tensor:
    """How far logits (N, K) are from meeting the criterion: negative where they clearly meet it."""
    own = logits.gather(1, classes[:, None])[:, 0]
    other = logits.scatter(1, classes[:, None], -torch.inf).amax(1)
    ahead = other - own if problem.targeted else own - other
    return ahead + TIE * logits.detach().abs().amax(1)


def _secured(problem: Problem, points: Tensor, starts: Tensor, which: Tensor) -> Tensor:
    """The points, led back towards the starts by as little as makes them meet the criterion in this batch as well."""
    for share in (4.0**-k for k in range(10, -1, -1)):
        lost = which[~problem.fooled(problem.model(points))[which]]
        if len(lost) == 0:
            break
        points[lost] = torch.lerp(points[lost], starts[lost], share)
    return points


def _over_pixels(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (N, 1, 1, 1)
