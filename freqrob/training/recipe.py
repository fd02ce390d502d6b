"""Recipe: everything that determines a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any, get_args

from freqrob.data import DATASETS
from freqrob.defenses import DEFENSES
from freqrob.models.registry import ModelName
from freqrob.spectral.bass import Reading

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Recipe:
    """What a model name stands for, in full.

    Attributes:
        name: ``[bass_|bassmix_]<defence>_<architecture>``.
        dataset, threat_model: as ``load_model`` takes them.
        epochs, batch_size: of the training split.
        lr: the peak of the learning rate, which rises linearly from 0 over the first two fifths of the steps and falls
            linearly to 0 over the rest (Chan et al., IJCAI 2022, reference code).
        momentum, weight_decay: of SGD, on every parameter.
        gamma: the probability that ``bassmix_`` balances an image.
        reading: of BaSS, ``"official"`` or ``"power"``.
        precision: as Lightning Fabric names it.
        seed: of initialisation, order, augmentation and random starts.
        selection_images: how many validation images choose the best epoch; all of them if 0.
        defense: the defence's own parameters where they differ from its defaults.
    """

    name: str
    dataset: str = "cifar10"
    threat_model: str = "Linf"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    gamma: float = 0.5
    reading: str = "official"
    precision: str = "bf16-mixed"
    seed: int = 0
    selection_images: int = 2000
    defense: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.parsed.defense not in DEFENSES:
            raise ValueError(f"name: no trainer yet for {self.parsed.defense!r}; there are {', '.join(DEFENSES)}")
        if self.parsed.bass not in (None, "bass", "bassmix"):
            raise ValueError(f"name: no trainer yet for the prefix {self.parsed.bass!r}; there are bass and bassmix")
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {self.dataset!r}")
        if self.threat_model != "Linf":
            raise ValueError(f"threat_model: the attacks are L∞ ones yet, expected 'Linf', got {self.threat_model!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("selection_images", 0), ("seed", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"{name}: expected an integer from {least} on, got {getattr(self, name)!r}")
        for name in ("momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name}: expected a number from 0 on, got {getattr(self, name)!r}")
        if not 0 < self.lr < inf:
            raise ValueError(f"lr: expected a positive number, got {self.lr!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma: expected a probability in [0, 1], got {self.gamma!r}")
        if self.reading not in get_args(Reading):
            raise ValueError(f"reading: expected one of {', '.join(get_args(Reading))}, got {self.reading!r}")
        unknown = set(self.defense) - {f.name for f in fields(DEFENSES[self.parsed.defense])}
        if unknown:
            raise ValueError(f"defense: {self.parsed.defense} has no parameter {', '.join(sorted(unknown))}")
        self.make_defense()

    @property
    def parsed(self) -> ModelName:
        return ModelName.parse(self.name)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps``."""
        progress, peak = (step + 1) / steps, 0.4
        return self.lr * min(progress / peak, (1 - progress) / (1 - peak))

    def make_defense(self):
        return DEFENSES[self.parsed.defense](**self.defense)

    def as_dict(self) -> dict[str, Any]:
        """For the card: every field, and the defence's parameters with its defaults filled in."""
        return {**asdict(self), "defense": asdict(self.make_defense())}
