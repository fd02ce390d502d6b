"""Recipe: everything that determines a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from math import cos, pi
from typing import Annotated, Any, Literal

from msgspec import Meta
from torch import Generator, Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from freqrob.data import DATASETS
from freqrob.data.streamed_batches import AnyCrop
from freqrob.defenses import DEFENSES
from freqrob.models.front_ends import variant_front_ends
from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import Count, Natural, NotNegative, Positive, Share, check_choices, checked
from freqrob.spectral.reference import Weighting

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Schedule = Literal["triangle", "steps", "cosine"]
Decay = Annotated[float, Meta(ge=0, lt=1, description="a decay in [0, 1)")]
Sigma = Annotated[float, Meta(gt=0, le=1000, description="a positive number of pixels, at most 1000")]
Epochs = Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="integers ≥ 1")]


@checked
@dataclass(frozen=True)
class Recipe:
    """All settings of a training run.

    Attributes:
        name: name of the model, ``[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>``.
        dataset, threat_model: as ``load_model`` takes them.
        epochs, batch_size: passes over the training split, and images per step, over all devices.
        lr, schedule, milestones: the learning rate by step. ``triangle`` rises linearly from 0 to ``lr`` over the first
            two fifths of the steps and falls linearly to 0 over the rest (Chan et al., IJCAI 2022, reference code);
            ``steps`` divides it by 10 at the beginning of each epoch in ``milestones``; ``cosine`` falls from ``lr`` to
            0 along half a cosine.
        warmup_epochs: epochs over which ``steps`` and ``cosine`` first rise linearly from 0.
        momentum, nesterov, weight_decay: of SGD, applied to every parameter.
        ema: the decay of an exponential moving average of the weights, which is validated and kept; 0 for none.
        crop: padding mode of the random crop (4 pixels), ``"reflect"`` or ``"zeros"``; ``"resized"`` for torchvision's
            ``RandomResizedCrop`` to the data set's size, of images that are not in memory; None: no crop.
        flip: mirror images at random, if the data set allows it.
        normalize: subtract the data set's mean and divide by its standard deviation, as the network's front end.
        gamma: the probability that ``bassmix_`` balances an image.
        weighting: BaSS's weighting, ``"amplitude"`` or ``"power"``.
        components: number of principal components of ``pca_`` (Li et al.: 512 on CIFAR-10).
        blur_sigma: standard deviation of ``blur_`` in pixels (Li et al.: 1.5; from 1 to 3 in Fig. 5b).
        precision: as Lightning Fabric names it.
        seed: random seed of initialisation, order, augmentation and random starts.
        selection_images: number of validation images on which PGD-10 chooses the best epoch; 0 for all of them.
        initial_weights: the network whose weights the run starts from, with the recipe's front ends before it: a model
            as ``open_model`` takes it, or a weights file. It must tell the same number of classes apart; ``""`` for
            random weights.
        defense: those of the defence's parameters that differ from its defaults.

    >>> Recipe("trades_rn20", epochs=2).name_parts.defense
    'trades'
    """

    name: str
    dataset: str = "cifar10"
    threat_model: str = "Linf"
    epochs: Count = 30
    batch_size: Count = 128
    lr: Positive = 0.1
    schedule: Schedule = "triangle"
    milestones: Epochs = ()
    warmup_epochs: NotNegative = 0.0
    momentum: NotNegative = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    ema: Decay = 0.0
    crop: AnyCrop | None = "reflect"
    flip: bool = True
    normalize: bool = True
    gamma: Share = 0.5
    weighting: Weighting = "amplitude"
    components: Count = 512
    blur_sigma: Sigma = 1.5
    precision: Precision = "bf16-mixed"
    seed: Natural = 0
    selection_images: Natural = 2000
    initial_weights: str = ""
    defense: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ModelName.parse(self.name)
        check_choices(DATASETS, dataset=self.dataset)
        if DATASETS[self.dataset].streamed and self.name_parts.variant == "pca":
            pixels = DATASETS[self.dataset].channels * DATASETS[self.dataset].size ** 2
            raise ValueError(f"name: pca_ needs the covariance of all {pixels:,} values of {self.dataset}'s images")
        if self.threat_model != "Linf":
            raise ValueError(f"threat_model: training attacks are L∞ only, expected 'Linf', got {self.threat_model!r}")
        known = [field.name for field in fields(DEFENSES[self.name_parts.defense])]
        if unknown := set(self.defense) - set(known):
            raise ValueError(
                f"defense: {self.name_parts.defense} has no parameter {', '.join(sorted(unknown))}; "
                f"it has {', '.join(known) or 'none'}"
            )
        if self.defense.get("weighting", self.weighting) != self.weighting:
            raise ValueError(f"weighting: got {self.weighting!r}, but the defence's is {self.defense['weighting']!r}")
        made = self.make_defense()
        object.__setattr__(self, "defense", {name: getattr(made, name) for name in self.defense})  # Python's numbers
        if self.schedule == "steps" and any(epoch >= self.epochs for epoch in self.milestones):
            raise ValueError(
                f"milestones: expected epochs below {self.epochs}, the number of epochs, got {self.milestones}"
            )
        if self.schedule != "triangle" and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most {self.epochs} epochs, got {self.warmup_epochs}")
        if made.double_backward and self.precision == "16-mixed":
            raise ValueError(f"precision: {self.name_parts.defense}'s second derivatives underflow in float16")

    @property
    def name_parts(self) -> ModelName:
        return ModelName.parse(self.name)

    @property
    def on_balanced_images(self) -> bool:
        """Whether training and validation images are balanced once, before training, as in the authors' code."""
        return self.name_parts.variant == "bass" and not getattr(self.make_defense(), "bass_view", False)

    @property
    def front_ends(self) -> list[dict[str, Any]]:
        """The fixed modules before the network, in order of application, as on a card."""
        about = DATASETS[self.dataset]
        first = variant_front_ends(
            self.name_parts.variant,
            (about.channels, about.size, about.size),
            components=self.components,
            weighting=self.weighting,
            blur_sigma=self.blur_sigma,
        )
        normalize = {"name": "normalize", "mean": list(about.mean), "std": list(about.std)}
        return [*first, normalize] if self.normalize else first

    def make_transform(self) -> Callable[[Tensor, Generator], Tensor] | None:
        """The augmentation before crop and flip: BaSS for ``bassmix_``, else None."""
        if self.name_parts.variant != "bassmix":
            return None
        from freqrob.data.transforms import RandomBaSS  # torchvision's transforms take a while to import

        return lambda images, generator: RandomBaSS(self.gamma, self.weighting, generator=generator)(images)

    def make_image_transform(self) -> Callable[[Any], Any] | None:
        """The same for single images of this size, and BaSS itself for ``bass_``; for images that are not in memory."""
        rate = self.gamma if self.name_parts.variant == "bassmix" else float(self.on_balanced_images)
        if not rate:
            return None
        from freqrob.data.transforms import RandomBaSS

        return RandomBaSS(rate, self.weighting)

    def make_optimizer(self, network: nn.Module) -> SGD:
        """SGD on all parameters of the network, for ``lr_scheduler``."""
        parameters = [{"params": network.parameters(), "initial_lr": self.lr}]
        return SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov)

    def lr_at(self, step: int, epoch_steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of a run of ``epoch_steps`` steps an epoch."""
        return self.lr * self._share_of_lr(step, epoch_steps)

    def make_parts(self, model: nn.Module, optimizer: Optimizer) -> list[nn.Module]:
        """The parts of the defence's loss, if it has any; the optimizer trains them too, without weight decay."""
        defense = self.make_defense()
        parts: list[nn.Module] = [defense.make_parts(model)] if hasattr(defense, "make_parts") else []
        for part in parts:
            group = {"params": list(part.parameters()), "weight_decay": 0.0, "lr": self.lr, "initial_lr": self.lr}
            optimizer.add_param_group(group)
        return parts

    def lr_scheduler(self, optimizer: Optimizer, epoch_steps: int, step: int = 0) -> LambdaLR:
        """PyTorch's scheduler of a run, starting at ``step``. The optimizer's groups need ``initial_lr`` = ``lr``."""
        return LambdaLR(optimizer, lambda step: self._share_of_lr(step, epoch_steps), last_epoch=step - 1)

    def _share_of_lr(self, step: int, epoch_steps: int) -> float:
        steps, warmup = self.epochs * epoch_steps, self.warmup_epochs * epoch_steps
        progress = (step + 1) / steps
        if self.schedule == "triangle":
            return min(progress / 0.4, (1 - progress) / 0.6)
        if step < warmup:
            return min((step + 1) / warmup, 1)
        if self.schedule == "cosine":
            return (1 + cos(pi * (step - warmup) / max(steps - warmup, 1))) / 2
        return 0.1 ** sum(step >= epoch * epoch_steps for epoch in self.milestones)

    def make_defense(self):
        given = self.defense
        if self.name_parts.defense == "augmix":  # Lin et al. balance one of its views
            given = {"bass_view": self.name_parts.variant == "bass", "weighting": self.weighting, **given}
        return DEFENSES[self.name_parts.defense](**given)

    def as_dict(self) -> dict[str, Any]:
        """All fields, and all parameters of the defence, including defaults, for the card."""
        defense = self.make_defense()
        parameters = defense.as_dict() if hasattr(defense, "as_dict") else asdict(defense)
        return {**asdict(self), "milestones": list(self.milestones), "defense": parameters}
