"""Clean, FGSM and PGD accuracy under the three protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks import classified, evaluating, pgd
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.models.front_ends import FrontEnded
from freqrob.spectral.bass import BaSS, bass

PROTOCOLS = ("natural", "natural+bass", "bass")


@dataclass(frozen=True)
class Attack:
    """PGD in the L∞ ball; ``steps=0`` attacks nothing: clean accuracy.

    ``eps`` and ``step_size`` are in pixels of [0, 1]; ``step_size`` is eps/4 unless given. It starts from a uniform
    point of the ball, or from the image itself without ``random_start``.
    """

    steps: int = 20
    eps: float = 8 / 255
    step_size: float | None = None
    random_start: bool = True

    @classmethod
    def fgsm(cls, eps: float = 8 / 255) -> Attack:
        """One full step from the image itself. Source: Goodfellow et al., ICLR 2015."""
        return cls(steps=1, eps=eps, step_size=eps, random_start=False)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps: expected an integer from 0 on, got {self.steps!r}")
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected pixels in [0, 1], such as 8/255, got {value!r}")

    @property
    def name(self) -> str:
        if not self.steps:
            return "clean"
        if self.random_start:
            return f"PGD-{self.steps}"
        return "FGSM" if (self.steps, self.step) == (1, self.eps) else f"PGD-{self.steps} from the image"

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

    BaSS never comes twice. Where it is one of the model's front ends already (``bassfront_``), ``natural+bass`` is
    ``natural``; and ``bass`` balances the images as that front end does, and measures the model without it.

    An image counts as broken when the clean image or any iterate of the attack is misclassified.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); measured in eval mode, then left as it was.
        images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64; on any device.
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
    with evaluating(model) as bare:
        accuracies: dict[str, list[float]] = {}
        for protocol in protocols:
            same_as = "natural" if protocol == "natural+bass" and _own_bass(bare) else protocol
            if same_as not in accuracies:
                subject, attacked = _under(same_as, bare, images)
                batches = list(zip(attacked.split(batch_size), labels.split(batch_size), strict=True))
                accuracies[same_as] = _accuracies(subject, batches, attacks, seed, protocol, track)
            results += [
                Result(protocol, attack.name, attack.eps, attack.step, len(images), seed, accuracy)
                for attack, accuracy in zip(attacks, accuracies[same_as], strict=True)
            ]
    return results


def _own_bass(model: nn.Module) -> BaSS | None:
    """The BaSS among the model's front ends, if there is one."""
    front_ends = model.front_ends if isinstance(model, FrontEnded) else ()
    return next((module for module in front_ends if isinstance(module, BaSS)), None)


def _under(protocol: str, model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """What is attacked under a protocol: a model and images."""
    own = _own_bass(model)
    if protocol == "natural+bass":
        model = FrontEnded([BaSS()], model).eval()
    if protocol == "bass":
        images = _balanced(images, own or BaSS())
        if own is not None:
            model = FrontEnded([module for module in model.front_ends if module is not own], model.network).eval()
    return model, images


def _balanced(images: Tensor, how: BaSS) -> Tensor:
    """BaSS on grey levels, as the authors' test set has it."""
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return bass(grey, reading=how.reading, pixel_scale=how.pixel_scale)


def _accuracies(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    attacks: Sequence[Attack],
    seed: int,
    protocol: str,
    track: Callable[[Iterable, str, int], Iterable],
) -> list[float]:
    """An accuracy for each attack; only the images that are classified correctly are attacked."""
    device = next(chain(model.parameters(), model.buffers()), batches[0][0]).device
    right = []
    for images, labels in track(batches, f"{protocol} clean", len(batches)):
        correct = _correct(model, to_pixels(images).to(device), labels.to(device)).cpu()
        right.append((images[correct], labels[correct]))
    total, clean = (sum(len(labels) for _, labels in some) for some in (batches, right))
    accuracies = []
    for attack in attacks:
        survivors = clean
        if attack.steps:
            generator = torch.Generator().manual_seed(seed)
            tracked = track(right, f"{protocol} {attack.name}", len(right))
            survivors = sum(
                _survivors(model, to_pixels(images).to(device), labels.to(device), attack, generator)
                for images, labels in tracked
            )
        accuracies.append(survivors / total)
    return accuracies


def _survivors(model: nn.Module, images: Tensor, labels: Tensor, attack: Attack, generator: torch.Generator) -> int:
    """How many images of the batch are classified correctly throughout the attack."""
    if not len(images):
        return 0
    adversarial = pgd(
        model, images, labels, eps=attack.eps, step_size=attack.step, steps=attack.steps,
        random_start=attack.random_start, stop_when_fooled=True, generator=generator,
    )  # fmt: skip
    return int(_correct(model, adversarial, labels).sum())


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = model(images)
    if labels.max() >= logits.shape[1]:
        raise ValueError(f"labels: expected classes below {logits.shape[1]}, got {labels.max().item()}")
    return classified(logits, labels)
