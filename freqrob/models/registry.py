"""Names: short names of architectures, and model names `[<variant>_]<defence>_<architecture>`."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from freqrob.parameters import check_counts, checked, nearest_names

Builder = Callable[..., nn.Module]
_ARCHITECTURES: dict[str, Builder] = {}

VARIANTS = ("bass", "bassmix", "bassfront", "blur", "pca")
DEFENSE_NAMES = (
    "standard", "pgd_at", "trades", "mart", "fgsm", "grad_align", "jafr", "jafr_minus", "fgsm_jafr", "fgsm_jafr_minus",
    "augmix", "neural_similarity",
)  # fmt: skip
_GRAMMAR = f"[{'|'.join(f'{variant}_' for variant in VARIANTS)}]<defence>_<architecture>"


@checked
def register_architecture(name: str) -> Callable[[Builder], Builder]:
    """Decorator: ``create_network(name)`` calls the decorated function with ``num_classes``.

    Raises ValueError when the name is taken.
    """

    if name in _ARCHITECTURES:
        raise ValueError(f"name: architecture {name!r} is already registered")

    def register(builder: Builder) -> Builder:
        _ARCHITECTURES[name] = builder
        return builder

    return register


@checked
def list_architectures(pattern: str = "*") -> list[str]:
    """Sorted names of the architectures that match a shell-style pattern (``"wrn*"``)."""
    return sorted(name for name in _ARCHITECTURES if fnmatchcase(name, pattern))


@checked
def create_network(architecture: str, num_classes: int = 10) -> nn.Module:
    """A freshly initialised network: (N, 3, H, W) → logits (N, num_classes), without any front end.

    Raises ValueError for an unknown architecture, with the nearest names, and for fewer than one class.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"architecture: got {architecture!r}, expected one of {', '.join(list_architectures())}."
            + nearest_names(architecture, _ARCHITECTURES)
        )
    check_counts(num_classes=num_classes)
    return _ARCHITECTURES[architecture](num_classes=num_classes)


@checked
@dataclass(frozen=True)
class ModelName:
    """A model's name in its parts; ``str()`` gives the name back.

    ``variant``: None, ``"bass"`` (trained on CIFAR-B), ``"bassmix"`` (BaSS as an augmentation), or a fixed front end
    in training and when loaded: ``"bassfront"`` (BaSS), ``"blur"``, ``"pca"``. ``jafr_minus`` is JaFR(−): the
    regulariser with its sign turned.
    """

    variant: str | None
    defense: str
    architecture: str

    def __post_init__(self) -> None:
        if self.variant is not None and self.variant not in VARIANTS:
            raise ValueError(f"variant: got {self.variant!r}, expected None or one of {', '.join(VARIANTS)}")
        if self.defense not in DEFENSE_NAMES:
            raise ValueError(
                f"defense: got {self.defense!r}, expected one of {', '.join(DEFENSE_NAMES)}."
                + nearest_names(self.defense, DEFENSE_NAMES)
            )
        if self.architecture not in _ARCHITECTURES:
            raise ValueError(
                f"architecture: got {self.architecture!r}, expected one of {', '.join(list_architectures())}."
                + nearest_names(self.architecture, _ARCHITECTURES)
            )

    def __str__(self) -> str:
        return "_".join(part for part in (self.variant, self.defense, self.architecture) if part)

    @classmethod
    @checked
    def parse(cls, name: str) -> "ModelName":
        """Read `[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>`, e.g. ``bass_pgd_at_rn20``.

        Raises ValueError with the grammar and the nearest names when the name does not follow it.
        """
        first, _, rest = name.partition("_")
        variant, rest = (first, rest) if first in VARIANTS else (None, name)
        for architecture in list_architectures():
            defense = rest.removesuffix(f"_{architecture}")
            if defense != rest and defense in DEFENSE_NAMES:
                return cls(variant, defense, architecture)
        raise ValueError(
            f"model_name: got {name!r}, expected {_GRAMMAR} with a defence of {', '.join(DEFENSE_NAMES)} "
            f"and an architecture of {', '.join(list_architectures())}." + nearest_names(name, all_model_names())
        )


def all_model_names() -> list[str]:
    """Every name that the grammar allows with the registered architectures, sorted."""
    return sorted(
        str(ModelName(variant, defense, architecture))
        for variant in (None, *VARIANTS)
        for defense in DEFENSE_NAMES
        for architecture in _ARCHITECTURES
    )
