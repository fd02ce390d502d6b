"""The arguments of a Foolbox attack converted to PyTorch, with pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import torch
from foolbox import Misclassification, Model, TargetedMisclassification
from foolbox.attacks.base import get_criterion, raise_if_kwargs
from torch import Tensor

from freqrob.attacks.minimal import Problem
from freqrob.models.sources import as_module
from freqrob.runtime.pixels import check_channels_first
from freqrob.runtime.tensors import FLOATS, check_values


@dataclass(frozen=True)
class FoolboxProblem(Problem):
    """The problem of a Foolbox call; ``model`` takes pixels in [0, 1] for any bounds of the Foolbox model.

    Attributes:
        lower, span: the model's lower bound, and the difference to its upper bound.
        restore: converts a tensor to the type of the inputs.
    """

    lower: float
    span: float
    restore: Callable[[ep.Tensor], Any]

    @classmethod
    def read(
        cls, model: Model, inputs: Any, criterion: Any, unknown: dict[str, Any], targets: bool = True
    ) -> FoolboxProblem:
        """Read the arguments of ``run``; ``unknown`` are keyword arguments that the attack does not have.

        Raises TypeError for unknown arguments and inputs that are not PyTorch tensors; ValueError for inputs out of
        bounds, other shapes, and criteria other than Misclassification or, with ``targets``, TargetedMisclassification.
        """
        raise_if_kwargs(unknown)
        x, restore = ep.astensor_(inputs)
        images, (lower, upper) = x.raw, model.bounds
        if not isinstance(images, Tensor) or images.dtype not in FLOATS:
            got = f"{getattr(images, 'dtype', '')} {type(images).__name__}".strip()
            raise TypeError(f"inputs: expected a PyTorch tensor of floats, got {got}")
        check_values(images, "inputs")
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"inputs: expected (N, C, H, W), none of them 0, got {tuple(images.shape)}")
        check_channels_first(images, "inputs")
        if not (images.min() >= lower and images.max() <= upper):
            raise ValueError(
                f"inputs: expected the model's bounds, {lower:g} to {upper:g}, got {images.min():g} to {images.max():g}"
            )
        classes, targeted = _read_criterion(get_criterion(criterion), targets)
        if not isinstance(classes, Tensor) or classes.shape != images.shape[:1]:
            got = f"{type(classes).__name__} {tuple(classes.shape)}"
            raise ValueError(f"criterion: expected a PyTorch tensor of {len(images)} classes, got {got}")
        with torch.inference_mode(False):
            classes = classes.to(images.device).long().clone()  # autograd keeps no tensor of inference mode
        span = upper - lower
        pixels = (images.detach() - lower) / span
        if not pixels.is_contiguous(memory_format=torch.channels_last):
            pixels = pixels.contiguous()
        return cls(as_module(model), pixels, classes, targeted, lower, span, restore)

    def answer(self, images: Tensor) -> Any:
        """Convert images in [0, 1] to the model's bounds and the caller's tensor type."""
        inside = torch.clamp(self.lower + self.span * images, self.lower, self.lower + self.span)
        return self.restore(ep.astensor(inside.detach()))


def _read_criterion(criterion: Any, targets: bool) -> tuple[Any, bool]:
    if isinstance(criterion, Misclassification):
        return criterion.labels.raw, False
    if isinstance(criterion, TargetedMisclassification) and targets:
        return criterion.target_classes.raw, True
    expected = "labels, Misclassification or TargetedMisclassification" if targets else "labels or Misclassification"
    raise ValueError(f"criterion: expected {expected}, got {type(criterion).__name__}")
