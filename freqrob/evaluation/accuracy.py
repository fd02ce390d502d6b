"""Clean and PGD accuracy under the three protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks import classified, evaluating, pgd
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.models.front_ends import with_front_ends
from freqrob.spectral.bass import bass

PROTOCOLS = ("natural", "natural+bass", "bass")


@dataclass(frozen=True)
class Attack:
    """PGD in the L∞ ball with a uniform random start; ``steps=0`` attacks nothing: clean accuracy.

    ``eps`` and ``step_size`` are in pixels of [0, 1]; ``step_size`` is eps/4 unless given.
    """

    steps: int = 20
    eps: float = 8 / 255
    step_size: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps: expected an integer from 0 on, got {self.steps!r}")
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected pixels in [0, 1], such as 8/255, got {value!r}")

    @property
    def name(self) -> str:
        return f"PGD-{self.steps}" if self.steps else "clean"

    @property
    def step(self) -> float:
        return self.eps / 4 if self.step_size is None else self.step_size


CLEAN = Attack(steps=0, eps=0)


@dataclass(frozen=True)
class Result:
    """One measured accuracy, with all that it depends on.

    ``eps`` and ``step_size`` are in pixels of [0, 1]; ``accuracy`` is a share of ``images``.
    """

    protocol: str
    attack: str
    eps: float
    step_size: float
    images: int
    seed: int
    accuracy: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    attacks: Sequence[Attack] = (CLEAN, Attack()),
    batch_size: int = 250,
    seed: int = 0,
    track: Callable[[Iterable, str, int], Iterable] = lambda items, _what, _count: items,
) -> list[Result]:
    """Measure a model's accuracy for each protocol and attack.

    ``natural``: the ball lies around the natural image, the model is taken as it is, the gradient goes through all of
    it. ``natural+bass``: the same with BaSS before the model, attacked through. ``bass``: the images are balanced first
    (as uint8) and ball and gradient lie behind BaSS, as in Lin et al., NeurIPS 2023.

    An image counts as broken when the clean image or any iterate of the attack is misclassified.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); measured in eval mode, then left as it was.
        images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64.
        protocols: of ``PROTOCOLS``.
        attacks: which, in which order.
        batch_size: images at a time.
        seed: of the random starts; each attack begins with it anew.
        track: wraps iterables in a progress bar.

    Returns:
        A result for each protocol and attack, in that order.

    Raises:
        ValueError: an unknown protocol, no images, or labels that do not fit.
    """
    check_labelled(images, labels)
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocols: expected some of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    results = []
    with evaluating(model):
        for protocol in protocols:
            subject = with_front_ends(model, ["bass"]).eval() if protocol == "natural+bass" else model
            pixels = to_pixels(_balanced(images) if protocol == "bass" else images)
            batches = list(zip(pixels.split(batch_size), labels.split(batch_size), strict=True))
            for attack in attacks:
                generator = torch.Generator().manual_seed(seed)
                tracked = track(batches, f"{protocol} {attack.name}", len(batches))
                survivors = sum(_survivors(subject, x, y, attack, generator) for x, y in tracked)
                accuracy = survivors / len(images)
                results.append(Result(protocol, attack.name, attack.eps, attack.step, len(images), seed, accuracy))
    return results


def _balanced(images: Tensor) -> Tensor:
    """BaSS on grey levels, as the authors' test set has it."""
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return bass(grey)


def _survivors(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, generator: torch.Generator) -> int:
    """How many images of the batch are classified correctly, clean and throughout the attack."""
    correct = _correct(model, images, labels)
    if not attack.steps or not correct.any():
        return int(correct.sum())
    images, labels = images[correct], labels[correct]
    adversarial = pgd(
        model, images, labels, eps=attack.eps, step_size=attack.step, steps=attack.steps,
        stop_when_fooled=True, generator=generator,
    )  # fmt: skip
    return int(_correct(model, adversarial, labels).sum())


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = model(images)
    if labels.max() >= logits.shape[1]:
        raise ValueError(f"labels: expected classes below {logits.shape[1]}, got {labels.max().item()}")
    return classified(logits, labels)
