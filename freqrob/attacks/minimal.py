"""The contract of attacks that minimise the perturbation, without a ball."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from freqrob.attacks.balls import BALLS, Norm


@dataclass(frozen=True)
class Problem:
    """Images that are to be misclassified.

    Attributes:
        model: pixels (N, C, H, W) in [0, 1] → logits (N, K), in eval mode.
        images: (N, C, H, W) in [0, 1].
        classes: (N,) int64, the classes to leave or, if ``targeted``, to reach.
    """

    model: nn.Module
    images: Tensor
    classes: Tensor
    targeted: bool

    def fooled(self, logits: Tensor) -> Tensor:
        """Mask of the logits that meet the criterion: (N,) bool; those with a NaN do not."""
        reached = logits.argmax(1) == self.classes
        return (reached if self.targeted else ~reached) & ~logits.isnan().any(1)

    def part(self, indices: Tensor) -> Problem:
        """The problem restricted to some of its images."""
        return replace(self, images=self.images[indices], classes=self.classes[indices])


class MinimalAttack(ABC):
    """Searches for the smallest perturbation that meets the criterion. Subclasses are frozen dataclasses.

    Attributes:
        norm: the minimised norm.
        needs_starts: whether it follows the decision boundary from a starting point that meets the criterion.
        package: name and version of its package; "" for freqrob.
    """

    norm: Norm
    needs_starts: ClassVar[bool] = False
    package: ClassVar[str] = ""

    def distance(self, images: Tensor, perturbed: Tensor) -> Tensor:
        """(N,) lengths of the perturbations, on pixels in [0, 1]."""
        return BALLS[self.norm].length(perturbed - images)

    @abstractmethod
    def run(self, problem: Problem, starts: Tensor | None = None, *, early_stop: float = 0.0) -> Tensor:
        """The closest images (N, C, H, W) that meet the criterion; the image itself if none was found.

        Args:
            problem: the model, images and classes.
            starts: images of the same shape that meet the criterion; required if ``needs_starts``.
            early_stop: distance at which an image is close enough.
        """
