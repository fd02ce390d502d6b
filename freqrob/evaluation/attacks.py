"""The attacks of an evaluation: clean images, FGSM, PGD, and PGD on another network."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from freqrob.attacks import (
    BALLS,
    Norm,
    check_attacked,
    check_logits,
    check_radius,
    classified,
    measuring,
    pgd,
    random_state,
)
from freqrob.evaluation.keys import subject_key
from freqrob.models.sources import as_module
from freqrob.parameters import check_counts, check_seeds, checked

RADII: dict[str, float] = {"Linf": 8 / 255, "L2": 0.5}  # RobustBench's, on CIFAR-10
ROUNDING = 1e-4  # of ε: how far beyond the ball an image may be


class Attack(ABC):
    """What looks for adversarial images in a ball. Subclasses are frozen dataclasses of their parameters.

    Attributes:
        eps: radius of the ball, pixels in [0, 1]; for L2, of the whole image.
        norm: "Linf" or "L2".
        batched: whether what becomes of an image depends on the images beside it.
        uses_gradients: of the model.
    """

    eps: float
    norm: Norm
    batched: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = True

    @property
    @abstractmethod
    def name(self) -> str:
        """As papers and tables have it, without ε: "PGD-20"."""

    @property
    def stages(self) -> tuple[Attack, ...]:
        """Attacks that one after the other meet the images that are left, each kept when it is done."""
        return (self,)

    def as_dict(self) -> dict[str, Any]:
        """The name as ``attack``, and all parameters."""
        return {"attack": self.name, **asdict(self)}

    @checked
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, numbers: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Images in the balls around ``images``, misclassified where the attack succeeds.

        Args:
            model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model; attacked in eval mode, then left
                as it was.
            images, labels: (N, C, H, W) float in [0, 1] and (N,) int64, on the model's device.
            numbers: (N,) the images' numbers in their data set, which their random draws depend on; 0 to N−1.
            seed: ≥ 0, of all random numbers, also of those that the model draws; the global generators are left alone.

        Raises TypeError and ValueError, as ``freqrob.attacks.pgd``, for images and labels that do not fit. No images at
        all come back as they are.
        """
        if images.shape[:1] == (0,):
            return images
        numbers = _checked_numbers(images, labels, numbers, seed)
        with random_state(seed, *numbers[:1].tolist()), measuring(_unwrapped(model)) as model:
            return self._perturb(model, images, labels, numbers, seed)

    @abstractmethod
    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int) -> Tensor: ...

    @checked
    def withstood(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, numbers: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Which images the model still classifies as ``labels``: (N,) bool. Arguments as for ``perturb``.

        What the attack found is classified again. An image found outside its ball or [0, 1] counts as a failed attack,
        with a warning. Raises as ``perturb``, also for no images.
        """
        numbers = _checked_numbers(images, labels, numbers, seed)
        with random_state(seed, *numbers[:1].tolist()), measuring(_unwrapped(model)) as model:
            found = self._perturb(model, images, labels, numbers, seed)
            correct = classify(model, found, labels)
        near = BALLS[self.norm].length(found - images) <= self.eps * (1 + ROUNDING) + 1e-6
        within = near & ((found >= 0) & (found <= 1)).flatten(1).all(1)
        if not within.all():
            outside = f"{int((~within).sum())} of its images left the ball or [0, 1]"
            warnings.warn(f"{self.name}: {outside}; they break nothing", stacklevel=3)
        return correct | ~within


def _unwrapped(model: Any) -> Any:
    """A Foolbox model as a module, whose state can be restored; what is neither, such as a function, as it is."""
    try:
        return as_module(model)
    except TypeError:
        return model


def _checked_numbers(images: Tensor, labels: Tensor, numbers: Tensor | None, seed: int) -> Tensor:
    """The images' numbers, where they and the labels can be attacked. Raises as ``check_attacked``."""
    check_attacked(images, labels)
    check_seeds(seed=seed)
    return torch.arange(len(images)) if numbers is None else numbers


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images are classified correctly: (N,) bool. Raises ValueError for labels without a logit.

    The model gets copies, so that one that works in place spoils nobody's images.
    """
    logits = model(images.clone())
    check_logits(logits, len(images), int(labels.max()) + 1)
    return classified(logits, labels)


@dataclass(frozen=True)
class Clean(Attack):
    """Nothing: the images as they are."""

    eps: float = field(default=0.0, init=False)
    norm: ClassVar[Norm] = "Linf"
    uses_gradients: ClassVar[bool] = False
    name: ClassVar[str] = "clean"

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int) -> Tensor:
        return images


@checked
@dataclass(frozen=True)
class FGSM(Attack):
    """One full step from the image itself. Source: Goodfellow et al., ICLR 2015."""

    eps: float = RADII["Linf"]
    norm: Norm = "Linf"
    name: ClassVar[str] = "FGSM"

    def __post_init__(self) -> None:
        check_radius(self.norm, eps=self.eps)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "step_size": self.eps}

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int) -> Tensor:
        return pgd(model, images, labels, eps=self.eps, step_size=self.eps, steps=1, random_start=False, norm=self.norm)


@checked
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the cross-entropy; any iterate that is misclassified breaks the image.

    ``step_size`` is eps/4 unless given. Each of ``restarts`` begins at a uniform point of the ball, which depends on
    the seed and the image's number only; without ``random_start`` the one run begins at the image itself.

    Source: Madry et al., ICLR 2018.
    """

    steps: int = 20
    eps: float = RADII["Linf"]
    step_size: float | None = None
    restarts: int = 1
    norm: Norm = "Linf"
    random_start: bool = True

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)
        check_radius(self.norm, eps=self.eps)
        check_radius(self.norm, step_size=self.step)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts: expected 1 without a random start, got {self.restarts}")

    @property
    def name(self) -> str:
        restarts = f"-{self.restarts}" if self.restarts > 1 else ""
        return f"PGD-{self.steps}{restarts}" + ("" if self.random_start else " from the image")

    @property
    def step(self) -> float:
        return self.eps / 4 if self.step_size is None else self.step_size

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "step_size": self.step}

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int) -> Tensor:
        found, standing = images, torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            left = images[standing], labels[standing]
            attacked = self.ascend(model, *left, numbers[standing.cpu()], seed, restart, stop_when_fooled=True)
            found = found.index_copy(0, standing, attacked)
            if restart + 1 < self.restarts:
                standing = standing[classify(model, attacked, left[1])]
            if not len(standing):
                break
        return found

    def ascend(
        self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int, restart: int = 0, **options
    ) -> Tensor:
        """One run of ``freqrob.attacks.pgd``, with its ``options``, from each image's own random start."""
        start = images
        if self.random_start:
            draws = (_generator(seed, number, restart) for number in numbers.tolist())
            balls = (BALLS[self.norm](image[None], self.eps) for image in images.cpu())
            start = torch.cat([ball.random(draw) for ball, draw in zip(balls, draws, strict=True)]).to(images.device)
        return pgd(
            model, images, labels, eps=self.eps, step_size=self.step, steps=self.steps, start=start, norm=self.norm,
            **options,
        )  # fmt: skip


def _generator(*key: int) -> torch.Generator:
    """Of the numbers that a seed, an image and a restart have for themselves."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@checked
@dataclass(frozen=True)
class Transfer(Attack):
    """What PGD finds on another network, ``source``: all steps, since what fools the source need not fool the model."""

    source: nn.Module
    attack: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        if self.attack.restarts > 1:
            raise ValueError(f"attack: expected PGD without restarts, got {self.attack.name}")

    @property
    def eps(self) -> float:
        return self.attack.eps

    @property
    def norm(self) -> Norm:
        return self.attack.norm

    @property
    def name(self) -> str:
        return f"transferred {self.attack.name}"

    def as_dict(self) -> dict[str, Any]:
        return {**self.attack.as_dict(), "attack": self.name, "source": subject_key(self.source)}

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, seed: int) -> Tensor:
        with measuring(self.source) as source:
            return self.attack.ascend(source, images, labels, numbers, seed)
