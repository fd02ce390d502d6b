"""Recipe: everything that determines a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import cos, pi
from typing import Any, Literal, get_args

from freqrob.data import DATASETS
from freqrob.data.batches import Crop
from freqrob.defenses import DEFENSES
from freqrob.models.front_ends import variant_front_ends
from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import (
    check_counts,
    check_integers,
    check_not_negative,
    check_positive,
    check_seeds,
    check_shares,
    checked,
    fits,
)
from freqrob.spectral.reference import Weighting

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
Schedule = Literal["triangle", "steps", "cosine"]


@checked
@dataclass(frozen=True)
class Recipe:
    """What a model name stands for, in full.

    Attributes:
        name: ``[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>``.
        dataset, threat_model: as ``load_model`` takes them.
        epochs, batch_size: of the training split; a batch is that of all devices together.
        lr, schedule, milestones: the learning rate of a step. ``triangle`` rises linearly from 0 to ``lr`` over the
            first two fifths of the steps and falls linearly to 0 over the rest (Chan et al., IJCAI 2022, reference
            code); ``steps`` is divided by 10 at the beginning of each epoch of ``milestones``; ``cosine`` falls from
            ``lr`` to 0 by half a cosine.
        warmup_epochs: over which ``steps`` and ``cosine`` rise linearly from 0 first.
        momentum, nesterov, weight_decay: of SGD, on every parameter.
        ema: the decay of an exponential moving average of the weights, which is then validated and kept; none if 0.
        crop: what lies in the 4 pixels around an image that a random window is taken from, ``"reflect"`` or
            ``"zeros"``; None: no crop.
        flip: mirror images at random, if the data set allows it.
        normalize: subtract the data set's mean and divide by its standard deviation, as the network's front end.
        gamma: the probability that ``bassmix_`` balances an image.
        weighting: of BaSS, ``"amplitude"`` or ``"power"``.
        components: of ``pca_``, how many principal components are kept.
        precision: as Lightning Fabric names it.
        seed: of initialisation, order, augmentation and random starts.
        selection_images: on how many validation images PGD-10 chooses the best epoch; all of them if 0.
        defense: the defence's own parameters where they differ from its defaults.
    """

    name: str
    dataset: str = "cifar10"
    threat_model: str = "Linf"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    schedule: Schedule = "triangle"
    milestones: tuple[int, ...] = ()
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    ema: float = 0.0
    crop: Crop | None = "reflect"
    flip: bool = True
    normalize: bool = True
    gamma: float = 0.5
    weighting: Weighting = "amplitude"
    components: int = 512
    precision: str = "bf16-mixed"
    seed: int = 0
    selection_images: int = 2000
    defense: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_types()
        ModelName.parse(self.name)
        _check_choice(
            dataset=(self.dataset, DATASETS), precision=(self.precision, PRECISIONS),
            schedule=(self.schedule, get_args(Schedule)), weighting=(self.weighting, get_args(Weighting)),
            crop=(self.crop, (*get_args(Crop), None)),
        )  # fmt: skip
        if self.threat_model != "Linf":
            raise ValueError(f"threat_model: the attacks are L∞ ones yet, expected 'Linf', got {self.threat_model!r}")
        check_counts(epochs=self.epochs, batch_size=self.batch_size, components=self.components)
        check_integers(0, selection_images=self.selection_images)
        check_seeds(seed=self.seed)
        check_not_negative(momentum=self.momentum, weight_decay=self.weight_decay, warmup_epochs=self.warmup_epochs)
        if not all(fits(epoch, int) and epoch >= 1 for epoch in self.milestones):
            raise ValueError(f"milestones: expected epochs from 1 on, got {self.milestones!r}")
        check_positive(lr=self.lr)
        check_shares(gamma=self.gamma)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: expected a decay in [0, 1), got {self.ema!r}")
        unknown = set(self.defense) - {f.name for f in fields(DEFENSES[self.parsed.defense])}
        if unknown:
            known = ", ".join(f.name for f in fields(DEFENSES[self.parsed.defense])) or "none"
            raise ValueError(
                f"defense: {self.parsed.defense} has no parameter {', '.join(sorted(unknown))}; it has {known}"
            )
        if self.defense.get("weighting", self.weighting) != self.weighting:
            raise ValueError(f"weighting: {self.weighting!r}, but the defence's is {self.defense['weighting']!r}")
        made = self.make_defense()
        object.__setattr__(self, "defense", {name: getattr(made, name) for name in self.defense})  # Python's numbers
        if made.double_backward and self.precision == "16-mixed":
            raise ValueError(f"precision: the gradients that {self.parsed.defense} differentiates underflow in float16")

    def _check_types(self) -> None:
        kinds = {"int": int, "float": (int, float), "bool": bool, "tuple[int, ...]": (tuple, list)}
        for known in fields(self):
            value, kind = getattr(self, known.name), kinds.get(str(known.type))
            if kind and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                expected = {"int": "an integer", "float": "a number", "bool": "true or false"}
                raise ValueError(f"{known.name}: expected {expected.get(str(known.type), 'integers')}, got {value!r}")

    @property
    def parsed(self) -> ModelName:
        return ModelName.parse(self.name)

    @property
    def on_balanced_images(self) -> bool:
        """Whether training and validation images go through BaSS once and for all, as the authors' do."""
        return self.parsed.variant == "bass" and not getattr(self.make_defense(), "bass_view", False)

    @property
    def front_ends(self) -> list[dict[str, Any]]:
        """The fixed modules before the network, from the input on, as a card has them."""
        about = DATASETS[self.dataset]
        first = variant_front_ends(
            self.parsed.variant,
            (about.channels, about.size, about.size),
            components=self.components,
            weighting=self.weighting,
        )
        normalize = {"name": "normalize", "mean": list(about.mean), "std": list(about.std)}
        return [*first, normalize] if self.normalize else first

    def lr_at(self, step: int, epoch_steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of a run of ``epoch_steps`` steps an epoch."""
        steps, warmup = self.epochs * epoch_steps, self.warmup_epochs * epoch_steps
        progress = (step + 1) / steps
        if self.schedule == "triangle":
            return self.lr * min(progress / 0.4, (1 - progress) / 0.6)
        if step < warmup:
            return self.lr * min((step + 1) / warmup, 1)
        if self.schedule == "cosine":
            return self.lr * (1 + cos(pi * (step - warmup) / (steps - warmup))) / 2
        return self.lr * 0.1 ** sum(step >= epoch * epoch_steps for epoch in self.milestones)

    def make_defense(self):
        given = self.defense
        if self.parsed.defense == "augmix":  # Lin et al. balance one of its views
            given = {"bass_view": self.parsed.variant == "bass", "weighting": self.weighting, **given}
        return DEFENSES[self.parsed.defense](**given)

    def as_dict(self) -> dict[str, Any]:
        """For the card: every field, and the defence's parameters with its defaults filled in."""
        return {**asdict(self), "milestones": list(self.milestones), "defense": asdict(self.make_defense())}


def _check_choice(**given: tuple[Any, Any]) -> None:
    for name, (value, choices) in given.items():
        if value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
