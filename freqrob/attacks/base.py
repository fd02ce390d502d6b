"""The contract of attacks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import BALLS, Norm, check_radius
from freqrob.attacks.gradient import check_attacked, check_one_each, classify, unlike_images
from freqrob.models.sources import as_module
from freqrob.models.state import measuring
from freqrob.runtime.parameters import Natural, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.tensors import check_dense

if TYPE_CHECKING:
    from freqrob.attacks.registry import Name

ROUNDING = 1e-4  # of ε: how far beyond the ball an adversarial example may be


class Attack(ABC):
    """Searches for adversarial examples in a ball. Subclasses are frozen dataclasses of their parameters.

    A subclass has the fields ``eps`` and ``norm``, ``name`` and ``run``; ``register_attack`` makes it known to
    ``parse_attack`` and to the command line.

    Attributes:
        eps: radius of the ball, pixels in [0, 1]; for L2, of the whole image.
        norm: "Linf" or "L2".
        examples: names as ``parse_attack`` takes them, for messages and ``--help``; the registered name by default.
        batched: whether the result for an image depends on the other images of its batch.
        uses_gradients: of the model.
    """

    eps: float
    norm: Norm
    examples: ClassVar[tuple[str, ...]] = ()
    batched: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_radius(self.norm, eps=self.eps)

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in papers and tables, without ε: "PGD-20"."""

    @property
    def stages(self) -> tuple[Attack, ...]:
        """The attacks of an ensemble, in order; each runs on the images that are still correctly classified."""
        return (self,)

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> Attack:
        """The attack from its written name. By default the name has no options: ``cls(eps=…, norm=…)``."""
        if not name.is_bare:
            raise name.error
        return cls(eps=eps, norm=norm)  # pyright: ignore[reportCallIssue]

    def with_eps(self, eps: float) -> Attack:
        """The same attack with another radius. Raises ValueError for an attack without a field ``eps``."""
        try:
            return replace(cast(Any, self), eps=eps)
        except (TypeError, ValueError) as error:
            raise ValueError(f"attack: expected one whose radius can be set, got {self.name} ({error})") from error

    def as_dict(self) -> dict[str, Any]:
        """The name, as ``attack``, and all parameters."""
        return {"attack": self.name, **asdict(cast(Any, self))}

    @checked
    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        indices: Tensor | None = None,
        seed: Natural = 0,
    ) -> Tensor:
        """Images in the balls around ``images``, misclassified where the attack succeeds.

        The model is attacked in eval mode, and nothing is left behind in it: no ``.grad``, no changed
        ``requires_grad``, mode or hook. The global random generators are left alone.

        Args:
            model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model.
            images, labels: (N, C, H, W) float in [0, 1] and (N,) int64, on the model's device.
            generator: draws the seed, if given.
            indices: (N,) indices of the images in their data set, 0 to N−1 by default. Random numbers depend on them,
                so an image has the same random start in every batch.
            seed: ≥ 0, of all random numbers, also of those that the model draws.

        Returns:
            The adversarial examples, same shape, detached. No images give no images.

        Raises:
            TypeError, ValueError: images and labels that do not fit, as for ``freqrob.attacks.pgd``.
        """
        check_dense(images, "images")
        if images.shape[:1] == (0,):
            return images
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        indices = _checked_indices(images, labels, indices)
        with random_state(seed, *indices[:1].tolist()), measuring(_as_module(model)) as model:
            return self._adversarial(model, images, labels, indices, seed)

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        """Compute what ``__call__`` returns. Arguments are checked, the model is in eval mode, the seed is set."""

    @checked
    def robust_mask(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor | None = None, seed: Natural = 0
    ) -> Tensor:
        """Mask of the images that stay correctly classified: (N,) bool. Arguments as for a call.

        What the attack returns is classified again. Adversarial examples outside the ball or [0, 1] count as failed
        attacks, with a warning. Raises as a call, also for no images.
        """
        indices = _checked_indices(images, labels, indices)
        with random_state(seed, *indices[:1].tolist()), measuring(_as_module(model)) as model:
            adversarial = self._adversarial(model, images, labels, indices, seed)
            correct = classify(model, adversarial, labels)
        in_ball = _lengths(self.norm, adversarial, images) <= self.eps * (1 + ROUNDING) + _pixel_rounding(self, images)
        is_valid = in_ball & ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
        if not is_valid.all():
            outside = f"{int((~is_valid).sum())} of its images left the ball or [0, 1]"
            warnings.warn(f"{self.name}: {outside}; they count as failed attacks", stacklevel=3)
        return correct | ~is_valid

    def _adversarial(self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, seed: int) -> Tensor:
        """The result of ``run``, checked. It gets copies: an attack in place would move the ball with the images."""
        adversarial = self.run(model, images.clone(), labels.clone(), indices=indices, seed=seed)
        if got := unlike_images(adversarial, images):
            expected = f"a tensor {tuple(images.shape)} {images.dtype} on {images.device}"
            error = ValueError if isinstance(adversarial, Tensor) else TypeError
            raise error(f"attack: expected {self.name} to give {expected}, got {got}")
        return adversarial.detach()


def _lengths(norm: Norm, adversarial: Tensor, images: Tensor) -> Tensor:
    """(N,) lengths of the perturbations, in a precision that does not round them."""
    precise = torch.promote_types(images.dtype, torch.float32)
    return BALLS[norm].length(adversarial.to(precise) - images.to(precise))


def _pixel_rounding(attack: Attack, images: Tensor) -> float:
    """How much longer rounding to the images' dtype makes a perturbation: half precision is coarse."""
    spacing = torch.finfo(images.dtype).eps / 2  # of numbers from 1/2 to 1
    return max(1e-6, spacing / 2 * (images[0].numel() ** 0.5 if attack.norm == "L2" else 1))


def _as_module(model: Any) -> Any:
    """A Foolbox model as a module, whose state can be restored; modules and functions unchanged."""
    try:
        return as_module(model)
    except TypeError:
        return model


def _checked_indices(images: Tensor, labels: Tensor, indices: Tensor | None) -> Tensor:
    """The images' indices, after a check of all arguments. Raises as ``check_attacked``."""
    check_attacked(images, labels)
    if indices is None:
        return torch.arange(len(images))
    check_one_each(labels, indices=indices)
    return indices.cpu()
