"""Attacks with perturbations confined to a band of the spectrum, in a ball around an image and in [0, 1]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import BALLS, RADII, L2Ball, Norm, check_radius, over_pixels
from freqrob.attacks.base import Attack
from freqrob.attacks.gradient import (
    Model,
    check_attacked,
    check_logits,
    classified,
    gradient_and_logits,
    has_nan,
    warn_of_stuck,
)
from freqrob.attacks.losses import cross_entropy
from freqrob.attacks.registry import Name, register_attack
from freqrob.runtime.parameters import Count, Positive, checked, fits, shown, to_python
from freqrob.runtime.pixels import check_channels_first
from freqrob.spectral.ops import check_planes, ring_filter
from freqrob.spectral.rings import RingMap

TOLERANCE = 1e-4  # share of a perturbation's power that may lie outside its band: 1 % of its amplitude
RELAXATION = 1.7  # of the alternating projections, between 1 and 2; values near this one need the fewest iterations
ITERATIONS, MOST_ITERATIONS = 10, 500  # of the projections: in each step of an attack, and after the last step

OfLogits = Callable[[Tensor], Tensor]


class Band:
    """Images (N, C, H, W) whose spectra are zero outside some rings of ``RingMap(H, W)``, in each channel.

    Args:
        rings: ring numbers; ring r of an N × N image holds the frequencies from r/N to (r+1)/N cycles/pixel, ring 0 is
            the mean.

    Raises:
        ValueError: no ring, or a ring that is not an integer ≥ 0.

    >>> import torch
    >>> Band([0]).project(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]))  # the mean
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]])
    """

    @checked
    def __init__(self, rings: Iterable[int]) -> None:
        chosen: list[int] = []
        with suppress(TypeError):  # not iterable
            chosen = to_python(list(rings), list[int])
        if not chosen or not all(fits(ring, int) and ring >= 0 for ring in chosen):
            raise ValueError(f"rings: expected integers ≥ 0, at least one, got {chosen or shown(rings)}")
        self.rings = tuple(sorted(set(chosen)))

    def __repr__(self) -> str:
        return f"Band({list(self.rings)})"

    def project(self, images: Tensor) -> Tensor:
        """The nearest images in the band.

        Raises ValueError for a ring that images of this size do not have, and for images that look like (N, H, W, C).
        """
        check_planes(images, "images")
        check_channels_first(images)
        ring_map = RingMap.of(images)
        if self.rings[-1] >= ring_map.rings:
            size = "×".join(map(str, images.shape[-2:]))
            raise ValueError(f"rings: expected 0 to {ring_map.rings - 1}, those of {size} images, got {self.rings[-1]}")
        weights = images.new_zeros(ring_map.rings)
        weights[list(self.rings)] = 1
        return ring_filter(images, weights, ring_map)

    def outside(self, images: Tensor) -> Tensor:
        """The share of each image's power outside the band: (N,), 0 for an all-zero image."""
        power, left_over = (x.flatten(1).square().sum(1) for x in (images, images - self.project(images)))
        return torch.where(power > 0, left_over / power, 0)


class BandBall:
    """The images x' with ‖x' − x‖ ≤ ε, x' − x in a band, and x' in [0, 1].

    These are three convex sets that contain x. Alternating over-relaxed projections (Agmon 1954; Gubin et al. 1967)
    find a point in all three. Results are always in the ball and in [0, 1], and approximately in the band; after
    ``settle``, to within ``TOLERANCE``.

    Args:
        images: x, (N, C, H, W) in [0, 1].
        eps: the radii, (N, 1, 1, 1).
        norm: "Linf" or "L2".
        band: contains the perturbations.
    """

    def __init__(self, images: Tensor, eps: Tensor, norm: Norm, band: Band) -> None:
        self.images, self.norm, self.band = images, norm, band
        self._ball = BALLS[norm](images, eps)

    def project(self, points: Tensor) -> Tensor:
        """Project into the ball and [0, 1], approximately into the band (exactly in L2 if no pixel is clipped)."""
        points = self.images + self.band.project(points - self.images)
        for _ in range(ITERATIONS):
            points = self._towards_band(self._ball.project(points))
        return self._ball.project(points)

    def settle(self, points: Tensor) -> Tensor:
        """Points in the ball and [0, 1], in the band to within ``TOLERANCE``; the image itself if none is found."""
        settled = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for _ in range(MOST_ITERATIONS // ITERATIONS):
            points = self.project(points)
            settled = self.band.outside(points - self.images) <= TOLERANCE
            if settled.all():
                return points
            points = torch.where(over_pixels(settled), points, self._towards_band(points))
        return torch.where(over_pixels(settled), points, self.images)

    def _towards_band(self, points: Tensor) -> Tensor:
        offsets = points - self.images
        return points + RELAXATION * (self.band.project(offsets) - offsets)


@checked
def band_pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    rings: Iterable[int],
    *,
    eps: float = 8 / 255,
    steps: Count = 20,
    rel_stepsize: Positive | None = None,
    norm: Norm = "Linf",
) -> Tensor:
    """Projected gradient ascent on the cross-entropy, from the images, with perturbations confined to rings.

    x ← Π( x + step · g_B / ‖g_B‖ ): g_B is the gradient's part in the band, Π projects into ball, band and [0, 1]. Even
    in L∞, steps follow g_B and not its sign: the sign has components outside the band, and its projection may not
    ascend.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); used in the mode it is in.
        images, labels: (N, C, H, W) floats in [0, 1] and (N,) int64.
        rings: ring numbers of ``RingMap(H, W)``; ring 0 is the mean.
        eps: the ball's radius, pixels in [0, 1]; for L2, of the whole image.
        steps: gradient steps.
        rel_stepsize: length of a step divided by ``eps``: Euclidean for L2, root mean square for L∞; 2.5 / steps by
            default.
        norm: "Linf" or "L2".

    Returns:
        Images in the ball and in [0, 1], with at most ``TOLERANCE`` of the perturbation's power outside the band; the
        last misclassified iterate, if there is one.

    Raises:
        TypeError, ValueError: invalid images or labels, as for ``freqrob.attacks.pgd``.
        ValueError: parameters out of range, or rings that the images do not have.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    >>> images, labels = torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 2])
    >>> band_pgd(network, images, labels, rings=range(3), eps=0.1, steps=2).shape
    torch.Size([2, 3, 8, 8])
    """
    check_radius(norm, eps=eps)
    rel_stepsize = 2.5 / steps if rel_stepsize is None else rel_stepsize
    check_attacked(images, labels)
    images = images.detach()
    with torch.inference_mode(False):
        labels = labels.clone()  # autograd cannot save inference tensors
    ball = BandBall(images, torch.full_like(images[:, :1, :1, :1], eps), norm, Band(rings))
    classes = int(labels.max()) + 1

    def gain(logits: Tensor) -> Tensor:
        check_logits(logits, len(images), labels=classes)
        return cross_entropy(logits, labels)

    return climb(model, ball, images, rel_stepsize * eps, steps, gain, lambda logits: ~classified(logits, labels))[0]


@register_attack("band_pgd")
@checked
@dataclass(frozen=True)
class BandPGD(Attack):
    """``band_pgd`` with perturbations confined to some rings of the spectrum.

    ``rel_stepsize`` is 2.5 / steps unless given.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> samples, model = sample_images(), freqrob.load_model("standard_rn20")
    >>> images, labels = samples.images[:2] / 255, samples.labels[:2]
    >>> attack = BandPGD(range(5), steps=3)
    >>> change = attack(model, images, labels) - images
    >>> attack.name, bool(change.abs().max() <= 8.001 / 255)
    ('band PGD-3 in rings 0 to 4', True)
    """

    rings: Iterable[int]
    steps: Count = 20
    eps: float = RADII["Linf"]
    rel_stepsize: Positive | None = None
    norm: Norm = "Linf"
    examples: ClassVar[tuple[str, ...]] = ("band_pgd-20:0-4",)
    uses_twins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rings", Band(self.rings).rings)

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> BandPGD:
        matches = [re.fullmatch("([0-9]{1,4})(?:-([0-9]{1,4}))?", option) for option in name.options]
        ranges = [match.groups() for match in matches if match]
        if len(name.counts) != 1 or name.words or not ranges or len(ranges) < len(matches):
            raise name.error
        bounds = [(int(low), int(high or low)) for low, high in ranges]
        rings = tuple(ring for low, high in bounds for ring in range(low, high + 1))
        return cls(rings, name.counts[0], eps, norm=norm)

    @property
    def name(self) -> str:
        return f"band PGD-{self.steps} in rings {_ranges(tuple(self.rings))}"

    def as_dict(self) -> dict[str, Any]:
        step = 2.5 / self.steps if self.rel_stepsize is None else self.rel_stepsize
        return {**super().as_dict(), "rings": list(self.rings), "rel_stepsize": step}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return band_pgd(
            model, images, labels, self.rings, eps=self.eps, steps=self.steps, rel_stepsize=self.rel_stepsize,
            norm=self.norm,
        )  # fmt: skip


def _ranges(rings: tuple[int, ...]) -> str:
    """Ascending numbers as ranges: "0 to 4, 7"."""
    first = [ring for ring in rings if ring - 1 not in rings]
    last = [ring for ring in rings if ring + 1 not in rings]
    return ", ".join(f"{low} to {high}" if low < high else str(low) for low, high in zip(first, last, strict=True))


def climb(
    model: Model, ball: BandBall, start: Tensor, step: Tensor | float, steps: int, gain: OfLogits, fooled: OfLogits
) -> tuple[Tensor, Tensor]:
    """Ascend ``gain``, summed over the images, in steps of length ``step``, projected into the ball.

    The length is Euclidean in an L2 ball, the root mean square of the pixels in an L∞ ball.

    Returns, after ``settle``, the last ``fooled`` iterate of each image, or its last iterate if none is fooled; and the
    mask of the fooled images.
    """
    length = step * start[0].numel() ** 0.5 if ball.norm == "Linf" else step
    images = last_fooled = ball.project(start)
    ever = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    stuck = torch.zeros_like(ever)
    for _ in range(steps):
        gradient, logits = gradient_and_logits(model, images, gain)
        stuck, now = stuck | has_nan(logits) | has_nan(gradient), fooled(logits)
        ever, last_fooled = ever | now, torch.where(over_pixels(now), images, last_fooled)
        images = ball.project(images + length * L2Ball.direction(ball.band.project(gradient.nan_to_num(0, 0, 0))))
    warn_of_stuck(stuck)
    with torch.no_grad():
        last = fooled(model(images)) | ~ever
        settled = ball.settle(torch.where(over_pixels(last), images, last_fooled))
        return settled, fooled(model(settled))
