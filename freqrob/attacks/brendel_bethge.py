"""The Brendel–Bethge attack: each step of all images at once, on the device they are on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from freqrob.attacks.balls import BALLS, L2Ball, Norm, over_pixels
from freqrob.attacks.boundary_step import L2Step, LinfStep
from freqrob.attacks.gradient import gradient_of
from freqrob.attacks.losses import largest_other, logit_of
from freqrob.attacks.minimal import MinimalAttack, Problem
from freqrob.runtime.parameters import Count, Positive, Share, checked

TIE = 1e-5  # logits nearer to each other than this share of the largest may be ordered otherwise in another batch
STEPS = {"Linf": LinfStep, "L2": L2Step}


@checked
@dataclass(frozen=True)
class BrendelBethge(MinimalAttack):
    """Follows the decision boundary from an adversarial point to the one that is nearest to the image.

    Each step is the best along the linearised boundary and within a trust region (``freqrob.attacks.boundary_step``);
    the boundary's normal is a running mean of the gradients of the difference of logits. Unlike in Foolbox's
    implementation, steps are computed for the whole batch on its device, and an image's do not depend on the batch:
    Foolbox scales the trust region by the number of images; here its ``lr=1e-3`` with 20 images is ``lr=0.02``.

    An image that meets the criterion already comes back as it is; so does one whose starting point does not meet it,
    with a warning. An image whose logits or gradient become infinite or NaN stays at the best point until then. Images
    in channels_last format stay in it, which makes the gradients of many networks cheaper.

    Args:
        norm: "Linf" or "L2".
        overshoot: how far each step goes, to land beyond the boundary: 1 is onto it.
        steps: evaluations of the gradient, at most.
        lr: radius of the trust region, as a share of the number of pixels and channels.
        lr_decay, lr_num_decay: its factor, and how many times it is applied in the course of the steps.
        patience: an image that has come no closer in so many steps has the factor applied at once, and stops when it
            has been applied ``lr_num_decay`` times; of 1000 steps 370 are left, and medians stay within 0.1 %.
            ``patience=steps`` keeps to Foolbox's schedule.
        momentum: of the running mean; 0 takes each gradient by itself.
        binary_search_steps: from the starting point to the boundary.

    Raises:
        ValueError: parameters out of range.

    Source: Brendel, Rauber, Kümmerer, Ustyuzhaninov, Bethge, NeurIPS 2019, "Accurate, reliable and fast robustness
    evaluation"; schedule and defaults those of Foolbox 3.3.4.
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
            warnings.warn(
                f"starting points: {len(failed)} of {len(starts)} do not meet the criterion; their images, number "
                f"{', '.join(map(str, failed))}, come back as they are, and the others go on",
                stacklevel=2,
            )
        if len(left := (useful & ~already).nonzero().flatten()):
            these = replace(problem, images=problem.images[left], classes=problem.classes[left])
            best[left] = self._follow_boundary(these, starts[left], early_stop)
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
            best[moving] = torch.where(over_pixels(closer), now, best[moving])
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
            met = over_pixels(margins < 0)
            below, above = torch.where(met, below, share), torch.where(met, share, above)
        return self._between(problem.images, starts, above)

    def _moved(self, points: Tensor, images: Tensor, normals: Tensor, margins: Tensor, radii: Tensor) -> Tensor:
        """The points after a step: where margin + ∇margin · step is slightly negative, at −0.1 or 0.1 of the margin."""
        slope = L2Ball.length(normals).clamp(min=torch.finfo(normals.dtype).tiny)
        target = -margins * torch.where(margins > 0, self.overshoot, 2 - self.overshoot) / slope
        here = points.flatten(1)
        step = STEPS[self.norm](
            offset=images.flatten(1) - here,
            low=-here,
            high=1 - here,
            normal=L2Ball.direction(normals).flatten(1),
            target=target[:, None],
            radius=radii.to(target)[:, None],
        ).solve()
        return (here + step).clamp(0, 1).reshape(points.shape)

    def _between(self, images: Tensor, starts: Tensor, share: Tensor) -> Tensor:
        """From the images at 0 to the starting points at 1."""
        if self.norm == "L2":
            return torch.lerp(images, starts, share)
        return images + (starts - images).clamp(-share, share)


class _TrustRegions:
    """The radius for each image, which shrinks in stages, sooner where an image comes no closer."""

    def __init__(self, attack: BrendelBethge, images: Tensor) -> None:
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
    chosen, other = logit_of(logits, classes), largest_other(logits, classes)
    ahead = other - chosen if problem.targeted else chosen - other
    return ahead + TIE * logits.detach().abs().amax(1)


def _secured(problem: Problem, points: Tensor, starts: Tensor, which: Tensor) -> Tensor:
    """The points, led back towards the starts by as little as makes them meet the criterion in this batch as well."""
    for share in (4.0**-k for k in range(10, -1, -1)):
        lost = which[~problem.fooled(problem.model(points))[which]]
        if len(lost) == 0:
            break
        points[lost] = torch.lerp(points[lost], starts[lost], share)
    return points
