"""The Brendel–Bethge attack, batched on the images' device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqrob.attacks.balls import BALLS, L2Ball, Norm, over_pixels
from freqrob.attacks.boundary_step import L2Step, LinfStep
from freqrob.attacks.gradient import gradient_of
from freqrob.attacks.losses import largest_other, logit_of
from freqrob.attacks.minimal import MinimalAttack, Problem
from freqrob.runtime.parameters import Count, Positive, Share, checked
from freqrob.runtime.warning import warn

TIE = 1e-5  # logits that differ by less than this share of the largest one may be ordered differently in another batch
STEPS = {"Linf": LinfStep, "L2": L2Step}


@checked
@dataclass(frozen=True)
class BrendelBethge(MinimalAttack):
    """Follows the decision boundary from an adversarial starting point to the point nearest to the image.

    Each step is optimal along the linearised boundary within a trust region (``freqrob.attacks.boundary_step``); the
    boundary's normal is a running mean of the gradients of the difference of logits. Unlike in Foolbox's
    implementation, steps are computed for the whole batch on its device, and an image's steps do not depend on the
    batch. Foolbox scales the trust region by the number of images: its ``lr=1e-3`` with 20 images is ``lr=0.02`` here.

    An image that already meets the criterion is returned unchanged; so is, with a warning, one whose starting point
    does not meet it. If an image's logits or gradient become infinite or NaN, its best point so far is returned. The
    channels_last format is kept, which makes the gradients of many networks cheaper.

    Args:
        norm: "Linf" or "L2".
        overshoot: step length relative to the distance to the boundary: above 1, steps end beyond the boundary.
        steps: maximum number of gradient evaluations.
        lr: radius of the trust region, as a share of the number of pixels and channels.
        lr_decay, lr_num_decay: factor by which the radius shrinks, and how often it does so over the steps.
        patience: number of steps without improvement after which an image's radius is decayed early; the image stops
            after ``lr_num_decay`` decays. The default takes 370 of 1000 steps and changes medians by at most 0.1 %.
            ``patience=steps`` gives Foolbox's schedule.
        momentum: weight of the earlier gradients in the running mean; 0 uses only the current one.
        binary_search_steps: steps of the search for the boundary between the image and the starting point.

    Raises:
        ValueError: parameters out of range.

    Source: Brendel, Rauber, Kümmerer, Ustyuzhaninov, Bethge, NeurIPS 2019, "Accurate, reliable and fast robustness
    evaluation"; schedule and defaults are Foolbox 3.3.4's.

    >>> BrendelBethge("L2", steps=100).norm
    'L2'
    """

    norm: Norm = "Linf"
    overshoot: Positive = 1.1
    steps: Count = 1000
    lr: Positive = 0.02
    lr_decay: Positive = 0.5
    lr_num_decay: Count = 20
    patience: Count = 10
    momentum: Share = 0.8
    binary_search_steps: Count = 10
    needs_starts: ClassVar[bool] = True

    @torch.no_grad()
    def run(self, problem: Problem, starts: Tensor | None = None, *, early_stop: float = 0.0) -> Tensor:
        if starts is None:
            raise ValueError("starts: expected images that meet the criterion, got None")
        best, already = problem.images.clone(), problem.fooled(problem.model(problem.images))
        useful = problem.fooled(problem.model(starts)) & starts.isfinite().flatten(1).all(1)
        if failed := (~useful & ~already).nonzero().flatten().tolist():
            warn(
                f"starting points: {len(failed)} of {len(starts)} do not meet the criterion; images "
                f"{', '.join(map(str, failed))} are returned unchanged, the others are attacked"
            )
        if len(remaining := (useful & ~already).nonzero().flatten()):
            best[remaining] = self._follow_boundary(problem.part(remaining), starts[remaining], early_stop)
            best = _secured(problem, best, starts, remaining)
        return best

    def _follow_boundary(self, problem: Problem, starts: Tensor, early_stop: float) -> Tensor:
        """The best points along the boundary; an image stops once its distance is at most ``early_stop``."""
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
            best[moving] = torch.where(over_pixels(closer), now, best[moving])
            shortest[moving] = torch.where(closer, distance, shortest[moving])
            radii = trust.after(closer, moving)
            finite = margins.isfinite() & gradients.isfinite().flatten(1).all(1)
            continues = finite & (shortest[moving] > early_stop) & (radii > 0)
            if not continues.any():
                break
            state = (moving, now, clean, margins, gradients, radii)
            moving, now, clean, margins, gradients, radii = (tensor[continues] for tensor in state)
            normals[moving] = torch.lerp(gradients, normals[moving], self.momentum if step else 0.0)
            points[moving] = self._moved(now, clean, normals[moving], margins, radii)
        return best

    def _onto_boundary(self, problem: Problem, starts: Tensor) -> Tensor:
        """Points close to the boundary that meet the criterion, on the lines from images to starting points."""
        below, above = torch.zeros_like(starts[:, :1, :1, :1]), torch.ones_like(starts[:, :1, :1, :1])
        for _ in range(self.binary_search_steps):
            share = (below + above) / 2
            margins = _margins(problem, problem.model(self._between(problem.images, starts, share)), problem.classes)
            met = over_pixels(margins < 0)
            below, above = torch.where(met, below, share), torch.where(met, share, above)
        return self._between(problem.images, starts, above)

    def _moved(self, points: Tensor, images: Tensor, normals: Tensor, margins: Tensor, radii: Tensor) -> Tensor:
        """The points after a step, at which the linearised margin is slightly negative (as in Foolbox)."""
        slope = L2Ball.length(normals).clamp(min=torch.finfo(normals.dtype).tiny)
        target = -margins * torch.where(margins > 0, self.overshoot, 2 - self.overshoot) / slope
        flat = points.flatten(1)
        step = STEPS[self.norm](
            offset=images.flatten(1) - flat,
            low=-flat,
            high=1 - flat,
            normal=L2Ball.direction(normals).flatten(1),
            target=target[:, None],
            radius=radii.to(target)[:, None],
        ).solve()
        return (flat + step).clamp(0, 1).reshape(points.shape)

    def _between(self, images: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        """Interpolate between the images (share 0) and the starting points (share 1)."""
        if self.norm == "L2":
            return torch.lerp(images, starts, share)
        return images + (starts - images).clamp(-share, share)


class _TrustRegions:
    """The trust-region radius of each image; it shrinks in stages, sooner if an image does not improve."""

    def __init__(self, attack: BrendelBethge, images: Tensor) -> None:
        self.attack, self.largest = attack, attack.lr * images[0].numel()
        self.stage_steps = max(1, attack.steps // attack.lr_num_decay)
        self.stage, self.steps, self.vain = torch.zeros(3, len(images), dtype=torch.int64, device=images.device)

    def after(self, closer: Tensor, indices: Tensor) -> Tensor:
        """Radii (N,) for the next step of some images; 0 after the last stage."""
        steps, vain = self.steps[indices] + 1, torch.where(closer, 0, self.vain[indices] + 1)
        over = (steps > self.stage_steps) | (vain > self.attack.patience)
        self.stage[indices] += over
        self.steps[indices], self.vain[indices] = torch.where(over, 1, steps), torch.where(over, 0, vain)
        stage = self.stage[indices]
        return torch.where(stage < self.attack.lr_num_decay, self.largest * self.attack.lr_decay**stage, 0.0)


def _boundary(problem: Problem, points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The margins (N,) of points of some of the images, and their gradients (N, C, H, W)."""
    is_channels_last = problem.images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    with torch.inference_mode(False), torch.enable_grad():
        points = points.detach().clone(memory_format=layout).requires_grad_()
        margins = _margins(problem, problem.model(points), problem.classes[indices])
        return margins.detach(), gradient_of(margins.sum(), points)


def _margins(problem: Problem, logits: Tensor, classes: Tensor) -> Tensor:
    """Distance of logits (N, K) from the criterion: negative if they clearly meet it."""
    chosen, other = logit_of(logits, classes), largest_other(logits, classes)
    margin = other - chosen if problem.targeted else chosen - other
    return margin + TIE * logits.detach().abs().amax(1)


def _secured(problem: Problem, points: Tensor, starts: Tensor, indices: Tensor) -> Tensor:
    """Move points that fail the criterion in the whole batch towards their starts, as little as possible."""
    for share in (4.0**-k for k in range(10, -1, -1)):
        failing = indices[~problem.fooled(problem.model(points))[indices]]
        if len(failing) == 0:
            break
        points[failing] = torch.lerp(points[failing], starts[failing], share)
    return points
