"""Adapters: freqrob's attacks under Foolbox's contract, and Foolbox's under freqrob's."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import foolbox
import torch
from foolbox import Misclassification, Model, PyTorchModel
from foolbox.attacks.base import AttackWithDistance, FixedEpsilonAttack
from foolbox.distances import l2, linf
from torch import Tensor, nn

from freqrob.attacks import Attack, AutoAttack, parse_attack
from freqrob.attacks.autoattack import Version
from freqrob.attacks.balls import RADII, Norm
from freqrob.attacks.checks import explained
from freqrob.attacks.registry import Name
from freqrob.models.state import frozen
from freqrob.runtime.parameters import Count, Natural, checked, nearest_names, stable_repr
from freqrob_foolbox.problem import FoolboxProblem

DISTANCES = {"Linf": linf, "L2": l2}


class FreqrobAttack(FixedEpsilonAttack):
    """An attack of freqrob under Foolbox's contract: ``attack(model, inputs, criterion, epsilons=…)``.

    ``epsilons`` replaces the attack's ``eps``. Criteria: labels or Misclassification. For an image that stays correctly
    classified, the result is the image or the attack's last iterate.

    Args:
        attack: an attack or its name, such as "pgd-50-10".
        seed: random seed.
        batch_size: images per batch.

    Raises:
        ValueError: an unknown name; when called, another criterion, or invalid inputs.
    """

    @checked
    def __init__(self, attack: Attack | str, *, seed: Natural = 0, batch_size: Count = 250) -> None:
        self.attack = parse_attack(attack) if isinstance(attack, str) else attack
        self.seed, self.batch_size = seed, batch_size

    @property
    def distance(self) -> Any:
        return DISTANCES[self.attack.norm]

    def run(self, model: Model, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        problem = FoolboxProblem.read(model, inputs, criterion, kwargs, targets=False)
        attack = self.attack.with_eps(epsilon / problem.span)
        indices = torch.arange(len(problem.images))
        with explained(self.batch_size):
            adversarial = [
                attack(problem.model, problem.images[index], problem.classes[index], indices=index, seed=self.seed)
                for index in indices.split(self.batch_size)
            ]
        return problem.answer(torch.cat(adversarial))


class LinfAutoAttack(FreqrobAttack):
    """AutoAttack in the L∞ ball, from the package ``autoattack`` or else ``pyautoattack``.

    An image that stays correctly classified is returned unchanged. The model must return logits, and be deterministic
    unless ``version="rand"``.

    Args:
        version: "standard" (RobustBench's), "plus", "rand" or "custom".
        attacks: for "custom", some of apgd-ce, apgd-dlr, fab, square, apgd-t, fab-t.
        seed, batch_size: as for ``FreqrobAttack``.

    Raises:
        ValueError: values that AutoAttack does not support; when called, another criterion.
        ImportError: when called, neither package is installed.

    Source: Croce and Hein, ICML 2020.
    """

    norm: ClassVar[Norm] = "Linf"

    @checked
    def __init__(
        self, version: Version = "standard", *, attacks: Sequence[str] = (), seed: int = 0, batch_size: int = 250
    ) -> None:
        super().__init__(AutoAttack(version, tuple(attacks), norm=self.norm), seed=seed, batch_size=batch_size)


class L2AutoAttack(LinfAutoAttack):
    """``LinfAutoAttack`` in the L2 ball."""

    norm = "L2"


@checked
@dataclass(frozen=True)
class FoolboxAttack(Attack):
    """An attack of Foolbox under freqrob's contract; ``freqrob evaluate --attack foolbox:LinfDeepFoolAttack``.

    The perturbations of minimising attacks are clipped to the ball, as in Foolbox.

    Args:
        attack: an attack of ``foolbox.attacks``, untargeted and without starting points.
        eps, norm: the ball; the norm must be the attack's.

    Raises:
        TypeError: ``attack`` is not an attack of Foolbox with a distance.
        ValueError: a radius out of range, another norm than the attack's.
    """

    attack: Any
    eps: float = RADII["Linf"]
    norm: Norm = "Linf"
    examples: ClassVar[tuple[str, ...]] = ("foolbox:LinfDeepFoolAttack",)
    batched: ClassVar[bool] = True
    uses_twins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.attack, AttackWithDistance):
            raise TypeError(f"attack: expected an attack of Foolbox, got {type(self.attack).__name__}")
        kind, distance = type(self.attack).__name__, _distance(self.attack)
        norm = next((norm for norm, known in DISTANCES.items() if known.p == getattr(distance, "p", None)), None)
        if norm is None:
            raise ValueError(f"attack: expected one that measures distances in Linf or L2, got {kind} with {distance}")
        if norm != self.norm:
            raise ValueError(f"norm: expected {kind}'s, {norm!r}, got {self.norm!r}")

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> FoolboxAttack:
        if name.counts or name.words or len(name.options) != 1:
            raise name.error
        known = {kind.lower(): kind for kind, value in vars(foolbox.attacks).items() if _is_attack(value)}
        if name.options[0] not in known:
            hint = nearest_names(name.options[0], known.values())
            raise ValueError(f"attack: Foolbox has no attack {name.options[0]!r}, or it needs arguments.{hint}")
        kind = getattr(foolbox.attacks, known[name.options[0]])
        given = {"distance": DISTANCES[norm]} if "distance" in inspect.signature(kind).parameters else {}
        return cls(kind(**given), eps, norm)

    @property
    def name(self) -> str:
        return f"Foolbox {type(self.attack).__name__}"

    def as_dict(self) -> dict[str, Any]:
        parameters = {name: stable_repr(value) for name, value in sorted(vars(self.attack).items())}
        ball = {"eps": self.eps, "norm": self.norm}
        return {"attack": self.name, **ball, "parameters": parameters, "package": f"foolbox {version('foolbox')}"}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        subject = PyTorchModel(model, bounds=(0, 1), device=images.device)
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):  # they call backward()
            criterion = Misclassification(labels.clone())
            try:
                _, clipped, _ = self.attack(subject, images.clone(), criterion, epsilons=self.eps)
            except (ValueError, AssertionError) as error:
                reason = ": ".join(filter(None, [type(error).__name__, str(error)]))
                raise ValueError(
                    f"attack: {self.name} fails ({reason}); expected an attack that needs no starting points, no "
                    "targets and no data, and a model that it supports"
                ) from error
        return clipped.detach()


def _distance(attack: AttackWithDistance) -> Any:
    """Distance measure of an attack. Raises ValueError if the attack has none but needs one."""
    try:
        return attack.distance
    except (ValueError, AttributeError) as error:
        kind = type(attack).__name__
        raise ValueError(
            f"attack: expected one with a distance, got {kind} without; use {kind}(distance=foolbox.distances.linf)"
        ) from error


def _is_attack(value: Any) -> bool:
    """Whether an object is an attack class that can be created without arguments."""
    if not (inspect.isclass(value) and issubclass(value, AttackWithDistance)) or inspect.isabstract(value):
        return False
    return all(each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
               for each in inspect.signature(value).parameters.values())  # fmt: skip
