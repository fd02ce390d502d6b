"""The balls in which attacks search for adversarial examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from freqrob.runtime.parameters import LARGEST, check_choices, is_number, shown

Norm = Literal["Linf", "L2"]
Images = Tensor | slice  # indices of some of the images


class LinfBall:
    """max |x' − x| ≤ ε around each image (N, C, H, W), within [0, 1]."""

    def __init__(self, images: Tensor, eps: float | Tensor) -> None:
        self.images, self.eps = images, eps
        self.low, self.high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)

    def project(self, points: Tensor, of: Images = slice(None)) -> Tensor:
        """The nearest points of the balls around some of the images."""
        return torch.clamp(points, self.low[of], self.high[of])

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """A uniform point of each ball, clipped to [0, 1]."""
        noise = _draw(torch.rand, self.images, self.images.shape, generator)
        return (self.images + self.eps * (2 * noise - 1)).clamp(0, 1)

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """The direction of steepest ascent, with length 1 in this norm."""
        return gradient.sign()

    @staticmethod
    def length(offsets: Tensor) -> Tensor:
        """(N,) max |offset|."""
        return offsets.flatten(1).abs().amax(1)


class L2Ball:
    """‖x' − x‖₂ ≤ ε around each image (N, C, H, W), within [0, 1]."""

    def __init__(self, images: Tensor, eps: float | Tensor) -> None:
        self.images, self.eps = images, eps

    def project(self, points: Tensor, of: Images = slice(None)) -> Tensor:
        """Points of the balls around some of the images: projected onto the L2 ball, then clipped to [0, 1]."""
        offsets = points - self.images[of]
        length = over_pixels(self.length(offsets))
        return torch.where(length > self.eps, self.images[of] + self.eps / length * offsets, points).clamp(0, 1)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """A uniform point of each ball, clipped to [0, 1]: a uniform direction, at ε u^(1/d)."""
        dimensions = self.images[0].numel()
        direction = self.direction(_draw(torch.randn, self.images, self.images.shape, generator))
        eps = self.eps.flatten() if isinstance(self.eps, Tensor) else self.eps
        radius = eps * _draw(torch.rand, self.images, self.images.shape[:1], generator) ** (1 / dimensions)
        return (self.images + over_pixels(radius) * direction).clamp(0, 1)

    @classmethod
    def direction(cls, gradient: Tensor) -> Tensor:
        """The direction of steepest ascent, with length 1 in this norm; zero if the gradient is zero."""
        gradient = gradient / over_pixels(LinfBall.length(gradient)).clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / over_pixels(cls.length(gradient)).clamp(min=1)  # its largest entry is 1, or the gradient is 0

    @staticmethod
    def length(offsets: Tensor) -> Tensor:
        """(N,) ‖offset‖₂."""
        return offsets.flatten(1).norm(dim=1)


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"Linf": LinfBall, "L2": L2Ball}
RADII: dict[str, float] = {"Linf": 8 / 255, "L2": 0.5}  # RobustBench's, on CIFAR-10


def _draw(
    distribution: Callable[..., Tensor], like: Tensor, shape: torch.Size, generator: torch.Generator | None
) -> Tensor:
    device = generator.device if generator else like.device
    return distribution(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def over_pixels(values: Tensor) -> Tensor:
    """Reshape one value per image, (N,), to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def check_norm(norm: str) -> None:
    """Raise ValueError for an unknown norm."""
    check_choices(BALLS, norm=norm)


def check_radius(norm: str, **values: float) -> None:
    """Raise ValueError for an unknown norm, and for lengths that are negative, not finite or, in L∞, beyond 1."""
    check_norm(norm)
    for name, value in values.items():
        if not is_number(value) or not 0 <= value <= LARGEST or (norm == "Linf" and value > 1):
            expected = "pixels in [0, 1], such as 8/255" if norm == "Linf" else "a length ≥ 0, such as 0.5"
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")
