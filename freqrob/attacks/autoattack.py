"""AutoAttack and its Square attack, run by one of the two packages that have them.

Source: Croce and Hein, ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from freqrob.attacks.balls import RADII, Norm
from freqrob.attacks.base import Attack
from freqrob.attacks.checks import check_answers, check_gradient
from freqrob.attacks.registry import Name, register_attack
from freqrob.models.state import frozen
from freqrob.runtime.parameters import Count, check_choices, checked
from freqrob.runtime.process_state import default_dtype

Version = Literal["standard", "plus", "rand", "custom"]
PACKAGES = ("autoattack", "pyautoattack")
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
COMPONENTS = VERSIONS["plus"]
QUERIES = 5000  # of Square
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # the DLR loss is a ratio of differences between the largest logits
LEAST_HEIGHT = 5  # of images for Square in L2, whose first squares have a fifth of the height


@register_attack("autoattack")
@checked
@dataclass(frozen=True)
class AutoAttack(Attack):
    """An ensemble of attacks; each runs on the images that no earlier one broke.

    ``version``: "standard" (RobustBench's), "plus", "rand" (for randomised models: gradients averaged over 20 passes),
    or "custom" with some ``attacks`` of apgd-ce, apgd-dlr, fab, square, apgd-t, fab-t. Parameters are the package's
    defaults, but with K < 10 classes targeted attacks have K − 1 targets instead of 9. With a ``component``, only that
    attack of the ensemble is run, with the same parameters.

    Raises ValueError for values that the packages do not support; when run, ImportError if none is installed.

    >>> AutoAttack().name, AutoAttack("custom", ("apgd-ce", "square")).name
    ('AutoAttack', 'AutoAttack apgd-ce+square')
    >>> AutoAttack("rand").components
    ('apgd-ce', 'apgd-dlr')
    """

    version: Version = "standard"
    attacks: tuple[str, ...] = ()
    eps: float = RADII["Linf"]
    norm: Norm = "Linf"
    component: str = ""
    examples: ClassVar[tuple[str, ...]] = (
        "autoattack", "autoattack-rand", "autoattack-plus", "autoattack:apgd-ce,square"
    )  # fmt: skip
    batched: ClassVar[bool] = True
    uses_twins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.attacks) != (self.version == "custom"):
            raise ValueError(f"attacks: version {self.version!r} {'takes none' if self.attacks else 'needs some'}")
        for attack in self.attacks:
            if attack not in COMPONENTS or self.attacks.count(attack) > 1:
                raise ValueError(f"attacks: expected any of {', '.join(COMPONENTS)}, each once, got {attack!r}")
        if self.component:
            check_choices(self._ensemble, component=self.component)

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> AutoAttack:
        if name.is_bare:
            return cls("standard", (), eps, norm)
        if len(name.words) == 1 and name.words[0] in VERSIONS and not name.counts and not name.options:
            return cls(cast(Version, name.words[0]), (), eps, norm)
        if name.options and not name.counts and not name.words:
            return cls("custom", name.options, eps, norm)
        raise name.error

    @property
    def name(self) -> str:
        version = "" if self.version == "standard" else f" {'+'.join(self.attacks) or self.version}"
        return f"AutoAttack{version}{self.component and ': ' + self.component}"

    @property
    def components(self) -> tuple[str, ...]:
        """The attacks to run, in order."""
        return (self.component,) if self.component else self._ensemble

    @property
    def _ensemble(self) -> tuple[str, ...]:
        return self.attacks or VERSIONS[self.version]

    @property
    def uses_gradients(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.components != ("square",)

    @property
    def stages(self) -> tuple[Attack, ...]:
        return tuple(replace(self, component=name) for name in self.components)

    def as_dict(self) -> dict[str, Any]:
        record = {**super().as_dict(), "attacks": list(self._ensemble), "package": package()}
        return {name: value for name, value in record.items() if value or name != "component"}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        return run_components(self, self.components, model, images, labels, seed)


@register_attack("square")
@checked
@dataclass(frozen=True)
class Square(Attack):
    """AutoAttack's Square attack with any number of queries: random search with squares, by the model's outputs alone.

    Source: Andriushchenko et al., ECCV 2020.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> samples, model = sample_images(), freqrob.load_model("standard_rn20")
    >>> images, labels = samples.images[:4] / 255, samples.labels[:4]
    >>> Square(20).robust_mask(model, images, labels).shape
    torch.Size([4])
    """

    queries: Count = QUERIES
    eps: float = RADII["Linf"]
    norm: Norm = "Linf"
    batched: ClassVar[bool] = True
    uses_twins: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False

    @classmethod
    def parse(cls, name: Name, *, eps: float, norm: Norm, step_size: float | None) -> Square:
        if len(name.counts) > 1 or name.words or name.options:
            raise name.error
        return cls(*(name.counts or (QUERIES,)), eps=eps, norm=norm)

    @property
    def name(self) -> str:
        return "Square" if self.queries == QUERIES else f"Square-{self.queries}"

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "package": package()}

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices: Tensor, seed: int) -> Tensor:
        ensemble = AutoAttack("custom", ("square",), self.eps, self.norm)
        return run_components(ensemble, ensemble.components, model, images, labels, seed, queries=self.queries)


def package() -> str:
    """Name and version of the package in use: the authors' if installed, else pyautoattack."""
    for name in PACKAGES:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise ImportError(
        "attack: AutoAttack and Square need one of two packages, pyautoattack (pip install 'freqrob[autoattack]') or "
        "autoattack (pip install git+https://github.com/fra31/auto-attack)"
    )


def run_components(
    attack: AutoAttack,
    components: Sequence[str],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seed: int,
    queries: int | None = None,
) -> Tensor:
    """Adversarial examples of some components for one batch, computed in float32 on contiguous images."""
    dtype, images = images.dtype, images.detach().to(torch.float32, memory_format=torch.contiguous_format)
    if dtype != torch.float32:
        model = _InDtype(model, dtype).eval()
    adversary = create_adversary(model, attack.norm, attack.eps, seed, attack.version, attack.attacks, images.device)
    adversary.square.n_queries = queries or adversary.square.n_queries
    return perturb(adversary, components, images, labels).to(dtype)


class _InDtype(nn.Module):
    """A model with float32 inputs and outputs that computes in another dtype."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype)).float()


def create_adversary(
    model: nn.Module, norm: str, eps: float, seed: int | None, version: str, attacks: Sequence[str],
    device: torch.device | str,
) -> Any:  # fmt: skip
    """The ``AutoAttack`` object of the installed package, without logging."""
    name = package().split()[0]
    if name == "autoattack":
        options = {"attacks_to_run": list(attacks), "verbose": False}
    else:
        options = {"attacks": list(attacks) or None}
    adversary = import_module(name).AutoAttack(
        model, norm=norm, eps=eps, seed=seed, version=version, device=device, **options
    )
    for part in (adversary, adversary.apgd, adversary.apgd_targeted):
        part.logger = _Silent()  # otherwise it repeats its warnings for each batch
    return adversary


def perturb(adversary: Any, components: Sequence[str], images: Tensor, labels: Tensor) -> Tensor:
    """Adversarial examples for one batch, by some components of ``create_adversary``'s object.

    FAB calls ``backward()``, which would also fill the ``.grad`` of the model's tensors; these therefore require no
    gradient while it runs. The other attacks compute only the gradient of the images. Raises ValueError as
    ``check_components``.
    """
    model = adversary.model
    classes = check_components(model, components, images, labels, adversary.norm)
    for targeted in (adversary.apgd_targeted, adversary.fab):
        targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
    # Square fails if logits have another dtype than the images, as under autocast
    adversary.square.predict = lambda images: model(images).to(images.dtype)
    adversary.attacks_to_run = list(components)
    by_backward = any(name.startswith("fab") for name in components)
    batch_size = {"bs" if package().startswith("autoattack ") else "batch_size": len(images)}
    with (
        default_dtype(images.dtype), frozen(model) if by_backward else nullcontext(),
        torch.inference_mode(False), torch.enable_grad(),
    ):  # fmt: skip
        adversarial = adversary.run_standard_evaluation(images.clone(), labels.clone(), **batch_size)
    return (adversarial[0] if isinstance(adversarial, tuple) else adversarial).detach()


def check_components(model: nn.Module, components: Sequence[str], images: Tensor, labels: Tensor, norm: str) -> int:
    """The number of the model's classes.

    Raises ValueError if a component needs more classes or larger images, and for a model without logits or a gradient.
    """
    classes = check_answers(model, images[:1], labels[:1]).shape[1]
    by_gradient = ", ".join(name for name in components if name != "square")
    if by_gradient:
        check_gradient(model, images[:1], labels[:1], by_gradient, "square")
    for component in components:
        if classes < (fewest := FEWEST_CLASSES.get(component, 2)):
            raise ValueError(f"attacks: {component} needs at least {fewest} classes, the model has {classes}")
    if "square" in components and norm == "L2" and images.shape[2] < LEAST_HEIGHT:
        got = f"got shape {tuple(images.shape)}"
        raise ValueError(f"images: Square in L2 needs a height of {LEAST_HEIGHT} pixels or more, {got}")
    return classes


class _Silent:
    """A logger for either package that prints nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None
