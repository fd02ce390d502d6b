"""The contract of attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import BALLS, Norm, check_radius
from freqrob.attacks.gradient import check_attacked, check_one_each, classify, unlike_images
from freqrob.models.sources import as_module
from freqrob.models.state import measuring
from freqrob.models.twins import fast_gradients
from freqrob.runtime.parameters import Natural, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.tensors import check_dense
from freqrob.runtime.warning import warn

if TYPE_CHECKING:
    from freqrob.attacks.registry import Name

FEWEST = 16  # images for which a twin saves time
ROUNDING = 1e-4  # tolerance of the radius of the ball, relative to ε


class Attack(ABC):
    """Searches for adversarial examples in a ball. Subclasses are frozen dataclasses of their parameters.

    A subclass defines the fields ``eps`` and ``norm``, the property ``name`` and the method ``run``. After
    ``register_attack``, ``parse_attack`` and the command line accept its name.

    Attributes:
        eps: radius of the ball, pixels in [0, 1]; for L2, of the whole image.
        norm: "Linf" or "L2".
        examples: names for ``parse_attack``, shown in messages and ``--help``; the registered name by default.
        batched: whether the result for an image depends on the other images of its batch.
        uses_gradients: whether the attack uses gradients of the model.
        uses_twins: whether it makes so many passes that a model's twin (``freqrob.models.twins``) saves time, and uses
            only the model's logits and their gradients.
    """

    eps: float
    norm: Norm
    examples: ClassVar[tuple[str, ...]] = ()
    batched: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = True
    uses_twins: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_radius(self.norm, eps=self.eps)

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in papers and tables, without ε: "PGD-20"."""

    @property
    def stages(self) -> tuple[Attack, ...]:
        """An ensemble's attacks, in order; each runs on the images that are still correctly classified."""
        return (self,)

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> Attack:
        """Create the attack from a parsed name; by default ``cls(eps=…, norm=…)``, for a name without options."""
        if not name.is_bare:
            raise name.error
        return cls(eps=eps, norm=norm)  # pyright: ignore[reportCallIssue]

    def with_eps(self, eps: float) -> Attack:
        """The same attack with another radius. Raises ValueError if the radius cannot be set."""
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
        """Compute adversarial examples: images in the balls around ``images`` that the model should misclassify.

        The model is attacked in eval mode. Its mode, hooks, ``.grad`` and ``requires_grad`` are restored, and so are
        the global random generators. Many images are attacked on the model's twin (``fast_gradients``), if it has one;
        those that fool only the twin are attacked again on the model itself.

        Args:
            model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model.
            images, labels: (N, C, H, W) float in [0, 1] and (N,) int64, on the model's device.
            generator: if given, the seed is drawn from it.
            indices: (N,) indices of the images in their data set, 0 to N−1 by default. Random numbers depend on them,
                so an image has the same random start in every batch.
            seed: random seed ≥ 0, also of the random numbers that the model draws.

        Returns:
            The adversarial examples, same shape, detached; an empty batch is returned unchanged.

        Raises:
            TypeError, ValueError: invalid images or labels, as for ``freqrob.attacks.pgd``.
        """
        check_dense(images, "images")
        if images.shape[:1] == (0,):
            return images
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        indices = _checked_indices(images, labels, indices)
        with random_state(seed, *indices[:1].tolist()), measuring(_as_module(model)) as model:
            twins = self._twins(model, images)
            return self._adversarial(model, images, labels, indices, seed, twins)

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        """Compute the adversarial examples; called with checked arguments, the model in eval mode and the seed set."""

    @checked
    def robust_mask(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | None = None,
        seed: Natural = 0,
        twins: Sequence[nn.Module] | None = None,
    ) -> Tensor:
        """Mask of the images that stay correctly classified: (N,) bool. Arguments as for a call.

        The adversarial examples are classified again, by the model itself. Those outside the ball or [0, 1] count as
        failed attacks, with a warning. Raises the same errors as a call, and ValueError for an empty batch.

        ``twins``: faster models to attack first, the fastest first, in eval mode; by default as for a call.
        """
        indices = _checked_indices(images, labels, indices)
        with random_state(seed, *indices[:1].tolist()), measuring(_as_module(model)) as model:
            twins = self._twins(model, images) if twins is None else twins
            adversarial = self._adversarial(model, images, labels, indices, seed, twins)
            correct = classify(model, adversarial, labels)
        in_ball = _lengths(self.norm, adversarial, images) <= self.eps * (1 + ROUNDING) + _pixel_rounding(self, images)
        is_valid = in_ball & ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
        if not is_valid.all():
            outside = f"{int((~is_valid).sum())} of its images left the ball or [0, 1]"
            warn(f"{self.name}: {outside}; they count as failed attacks")
        return correct | ~is_valid

    def _twins(self, model: nn.Module, images: Tensor) -> tuple[nn.Module, ...]:
        """The model's twin, if it has one and there are enough images for it to save time."""
        if not self.uses_twins or len(images) < FEWEST:
            return ()
        twin = fast_gradients(model, images)
        return () if twin is model else (twin,)

    def _adversarial(
        self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, seed: int, twins: Sequence[nn.Module]
    ) -> Tensor:
        """Attack the twins, then the model itself, each on the images whose examples fooled the previous one only."""
        adversarial, left = images.detach().clone(), torch.arange(len(images), device=images.device)
        for subject in (*twins, model):
            adversarial[left] = self._run(subject, images[left], labels[left], indices[left.cpu()], seed)
            if subject is model:
                break
            for other, is_fooled in ((subject, True), (model, False)):
                if len(left):
                    left = left[classify(other, adversarial[left], labels[left]) != is_fooled]
            if not len(left):
                break
        return adversarial

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, seed: int) -> Tensor:
        """The checked result of ``run``, which gets copies: an attack that works in place would change the ball."""
        adversarial = self.run(model, images.clone(), labels.clone(), indices=indices, seed=seed)
        if got := unlike_images(adversarial, images):
            expected = f"a tensor {tuple(images.shape)} {images.dtype} on {images.device}"
            error = ValueError if isinstance(adversarial, Tensor) else TypeError
            raise error(f"attack: expected {self.name} to give {expected}, got {got}")
        return adversarial.detach()


def _lengths(norm: Norm, adversarial: Tensor, images: Tensor) -> Tensor:
    """(N,) lengths of the perturbations, computed in at least float32."""
    precise = torch.promote_types(images.dtype, torch.float32)
    return BALLS[norm].length(adversarial.to(precise) - images.to(precise))


def _pixel_rounding(attack: Attack, images: Tensor) -> float:
    """Upper bound of the length that rounding to the images' dtype adds to a perturbation; large in half precision."""
    spacing = torch.finfo(images.dtype).eps / 2  # of numbers from 1/2 to 1
    return max(1e-6, spacing / 2 * (images[0].numel() ** 0.5 if attack.norm == "L2" else 1))


def _as_module(model: Any) -> Any:
    """Wrap a Foolbox model as a module, whose state can be restored; return other models unchanged."""
    try:
        return as_module(model)
    except TypeError:
        return model


def _checked_indices(images: Tensor, labels: Tensor, indices: Tensor | None) -> Tensor:
    """Check the arguments; return the images' indices, by default 0 to N−1. Raises as ``check_attacked``."""
    check_attacked(images, labels)
    if indices is None:
        return torch.arange(len(images))
    check_one_each(labels, indices=indices)
    return indices.cpu()
