"""Projected gradient ascent: ``pgd`` runs it once, as training does; the attacks PGD, FGSM (one step) and transfer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import BALLS, RADII, Norm, check_radius
from freqrob.attacks.base import Attack
from freqrob.attacks.gradient import (
    Model,
    check_attacked,
    check_logits,
    check_one_each,
    classified,
    classify,
    gradient_and_logits,
    has_nan,
    logits_of,
    unlike_images,
    warn_of_stuck,
)
from freqrob.attacks.losses import LOSSES, Loss, LossName, cross_entropy
from freqrob.attacks.registry import Name, register_attack
from freqrob.models.keys import subject_key
from freqrob.models.state import measuring
from freqrob.runtime.parameters import Count, Natural, checked
from freqrob.runtime.process_state import hashed_seed
from freqrob.runtime.tensors import check_values


@checked
def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: Natural = 10,
    random_start: bool = True,
    start: Tensor | None = None,
    loss: Loss = cross_entropy,
    targets: Tensor | None = None,
    norm: Norm = "Linf",
    stop_when_fooled: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on a loss, the cross-entropy unless given, in the L∞ or L2 ball.

    x ← Π_[0,1] Π_ε ( x + step_size · d(∇ₓ loss(model(x), y)) ), from a uniform point of the ball, with d(g) = sign g
    in L∞ and g / ‖g‖₂ in L2.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); used in the mode it is in.
        images, labels: (N, C, H, W) floats in [0, 1], N ≥ 1, and (N,) int64.
        eps, step_size: in pixels of [0, 1]; for L2, of the whole image.
        steps: gradient steps; 0 gives the (random) start.
        random_start: start from a uniform point of the ball; else from the image.
        start: images to start from instead, with the shape, dtype and device of ``images``; first projected into the
            ball.
        loss: maps (logits, labels) to a scalar, the sum over the images that are still attacked.
        targets: (N,) int64, classes to reach; passed to ``loss`` as a third argument, as ``freqrob.attacks.losses``
            take it.
        norm: "Linf" or "L2".
        stop_when_fooled: return the first misclassified iterate of each image, and compute no gradients after it. The
            accuracy under the attack then counts an image as broken if any iterate is misclassified.
        generator: draws the random start.

    Returns:
        The adversarial images, same shape, detached. Pixels whose gradient is NaN do not move.

    Raises:
        TypeError: ``images`` are not a floating-point tensor, ``start`` is not a dense tensor or on the meta device, or
            another argument is of a wrong type.
        ValueError: images outside [0, 1] or NaN, or not (N, C, H, W); labels or targets that are not (N,) int64 classes
            of the model; ``eps`` or ``step_size`` outside [0, 1] (in L2: negative or not finite); ``steps`` that is not
            an integer ≥ 0; a ``start`` with NaN or infinite pixels or another shape, dtype or device than the images;
            an unknown ``norm``; a model that fails on the images, such as one of another dtype.

    Warns about logits and gradients that are NaN.

    Source: Madry et al., ICLR 2018, Eq. 2.3.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> images, labels = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 2])
    >>> adversarial = pgd(network, images, labels, eps=0.1, step_size=0.05, steps=3)
    >>> bool((adversarial - images).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_radius(norm, eps=eps, step_size=step_size)
    check_attacked(images, labels)
    given = {"labels": labels}
    if targets is not None:
        check_one_each(labels, "classes ", targets=targets)
        given["targets"] = targets
    classes = {name: int(each.max()) + 1 for name, each in given.items()}
    images = images.detach()
    ball = BALLS[norm](images, eps)
    adversarial = images.clone() if start is None else ball.project(_checked_start(start, images))
    if random_start and start is None:
        adversarial = ball.random(generator)
    active: Tensor | slice = torch.arange(len(images), device=images.device) if stop_when_fooled else slice(None)
    stuck = torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(steps):
        of_active = (each[active] for each in given.values())
        gradient, logits = gradient_and_logits(model, adversarial[active], loss, *of_active, **classes)
        if isinstance(active, Tensor):
            correct = classified(logits, labels[active])
            active, gradient, logits = active[correct], gradient[correct], logits[correct]
            if len(active) == 0:
                break
        stuck[active] |= has_nan(logits) | has_nan(gradient)
        moved = adversarial[active] + step_size * ball.direction(gradient.nan_to_num())
        adversarial[active] = ball.project(moved, active)
    warn_of_stuck(stuck)
    return adversarial


def _checked_start(start: Tensor, images: Tensor) -> Tensor:
    """The start, detached. Raises ValueError if it is not finite or unlike the images; TypeError if not dense."""
    check_values(start, "start")
    if got := unlike_images(start, images):
        expected = f"{tuple(images.shape)} {images.dtype} on {images.device}"
        remedy = "; use start.to(images)" if start.shape == images.shape else ""
        raise ValueError(f"start: expected {expected} like the images, got {got}{remedy}")
    if not start.isfinite().all():
        raise ValueError("start: expected finite pixels, got NaN or an infinity")
    return start.detach()


@checked
def fgsm(model: Model, images: Tensor, labels: Tensor, *, eps: float = 8 / 255) -> Tensor:
    """One full step of ``pgd`` from the image itself. Raises as ``pgd``. Source: Goodfellow et al., ICLR 2015.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> images, labels = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 2])
    >>> fgsm(network, images, labels, eps=0.1).shape
    torch.Size([2, 3, 2, 2])
    """
    return pgd(model, images, labels, eps=eps, step_size=eps, steps=1, random_start=False)


@register_attack("pgd")
@checked
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent with restarts; an image is broken if any iterate is misclassified.

    ``step_size`` is eps/4 unless given. Each restart begins at a uniform point of the ball, which depends only on the
    seed, the restart and the image's index. Without ``random_start`` there is one run, from the image itself.

    ``loss``: "ce" (cross-entropy), "cw" (margin of the logits) or "dlr" (difference of logits ratio); see
    ``freqrob.attacks.losses``. "pgd-50-10:cw", with steps of eps/4, is what the JaFR and GradAlign repositories call CW
    (Chan et al., IJCAI 2022, Table 7): PGD on the margin in the L∞ ball, not Carlini and Wagner's L2 optimisation.
    Their loss is −relu(z_y − max_{i≠y} z_i + 50), whose gradient has the same sign as long as the difference exceeds
    −50; they keep the last iterate with the largest cross-entropy, whereas here any misclassified iterate counts.

    If ``targeted``, the target of restart r is the r-th most probable wrong class of the clean image, as in AutoAttack;
    there are at most as many restarts as wrong classes.

    Source: Madry et al., ICLR 2018; Croce and Hein, ICML 2020 (dlr, targets).

    >>> PGD(50, restarts=10).name
    'PGD-50-10'
    """

    steps: Count = 20
    eps: float = RADII["Linf"]
    step_size: float | None = None
    restarts: Count = 1
    norm: Norm = "Linf"
    random_start: bool = True
    loss: LossName = "ce"
    targeted: bool = False
    examples: ClassVar[tuple[str, ...]] = ("pgd-20", "pgd-50-10", "pgd-20-9:dlr,targeted")
    uses_twins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_radius(self.norm, step_size=self.step)
        if self.restarts > 1 and not (self.random_start or self.targeted):
            raise ValueError(f"restarts: expected 1 without a random start, got {self.restarts}")

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> PGD:
        options = list(name.options)
        targeted = options[-1:] == ["targeted"] and bool(options.pop())
        if len(name.counts) not in (1, 2) or name.words or len(options) > 1 or not set(options) <= set(LOSSES):
            raise name.error
        loss = cast(LossName, options[0] if options else "ce")
        return cls(name.counts[0], eps, step_size, *name.counts[1:], norm=norm, loss=loss, targeted=targeted)

    @property
    def name(self) -> str:
        counts = f"{self.steps}-{self.restarts}" if self.restarts > 1 else str(self.steps)
        settings = ["" if self.random_start else "from the image", "" if self.loss == "ce" else f"on {self.loss}"]
        return " ".join(filter(None, ["targeted" if self.targeted else "", f"PGD-{counts}", *settings]))

    @property
    def step(self) -> float:
        return self.eps / 4 if self.step_size is None else self.step_size

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "step_size": self.step}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        targets = _likeliest_wrong_classes(model, images, labels, self.restarts) if self.targeted else None
        adversarial, robust = images, torch.arange(len(images), device=images.device)
        for restart in range(self.restarts if targets is None else targets.shape[1]):
            part = images[robust], labels[robust]
            target = {} if targets is None else {"targets": targets[robust, restart]}
            attacked = self.ascend(model, *part, indices[robust.cpu()], seed, restart, stop_when_fooled=True, **target)
            adversarial = adversarial.index_copy(0, robust, attacked)
            if restart + 1 < self.restarts:
                robust = robust[classify(model, attacked, part[1])]
            if not len(robust):
                break
        return adversarial

    def ascend(
        self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, seed: int, restart: int = 0, **options
    ) -> Tensor:
        """One run of ``pgd``, with its ``options``, from each image's own random start."""
        start = images
        if self.random_start:
            draws = (_generator(seed, index, restart) for index in indices.tolist())
            balls = (BALLS[self.norm](image[None], self.eps) for image in images.cpu())
            start = torch.cat([ball.random(draw) for ball, draw in zip(balls, draws, strict=True)]).to(images.device)
        return pgd(
            model, images, labels, eps=self.eps, step_size=self.step, steps=self.steps, start=start, norm=self.norm,
            loss=LOSSES[self.loss], **options,
        )  # fmt: skip


@register_attack("fgsm")
@checked
@dataclass(frozen=True)
class FGSM(Attack):
    """One full step from the image itself. Source: Goodfellow et al., ICLR 2015.

    >>> FGSM(eps=4 / 255).name
    'FGSM'
    """

    eps: float = RADII["Linf"]
    norm: Norm = "Linf"

    @property
    def name(self) -> str:
        return "FGSM"

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "step_size": self.eps}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return pgd(model, images, labels, eps=self.eps, step_size=self.eps, steps=1, random_start=False, norm=self.norm)


@checked
@dataclass(frozen=True)
class Transfer(Attack):
    """PGD on another network, ``source``. It runs all steps: an image that fools the source may not fool the model.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> samples = sample_images()
    >>> model, source = freqrob.load_model("pgd_at_rn20"), freqrob.load_model("standard_rn20")
    >>> attack = Transfer(source, PGD(5))
    >>> attack.robust_mask(model, samples.images[:4] / 255, samples.labels[:4]).shape
    torch.Size([4])
    """

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


def _generator(*key: int) -> torch.Generator:
    """Generator for the random numbers of one seed, image and restart."""
    return torch.Generator().manual_seed(hashed_seed(*key))


@torch.no_grad()
def _likeliest_wrong_classes(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> Tensor:
    """The ``count`` most probable wrong classes of each image, in descending order: (N, count), or (N, K − 1)."""
    logits = logits_of(model, images)
    check_logits(logits, len(images), labels=int(labels.max()) + 1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.topk(min(count, logits.shape[1] - 1), dim=1).indices
