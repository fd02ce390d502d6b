"""Registries of architectures, sources, defences and exporters, and the grammar of model names."""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from freqrob.runtime.parameters import Count, checked, nearest_names
from freqrob.runtime.registry import Registry

Builder = Callable[..., nn.Module]
_ARCHITECTURES: Registry[Builder] = Registry("architecture", "freqrob.architectures")

VARIANTS = ("bass", "bassmix", "bassfront", "blur", "pca")
_GRAMMAR = f"[{'|'.join(f'{variant}_' for variant in VARIANTS)}]<defence>_<architecture>"


def _is_defense(kind: Any) -> bool:
    needed = ("__call__", "adversarial", "double_backward")
    return isinstance(kind, type) and is_dataclass(kind) and all(hasattr(kind, name) for name in needed)


DEFENSES: Registry[type] = Registry(  # filled by freqrob.defenses, which is not needed to parse a name
    "defense", "freqrob.defenses", _is_defense, "a callable dataclass with adversarial and double_backward",
    ("standard", "pgd_at", "trades", "mart", "fgsm", "grad_align", "jafr", "jafr_minus", "fgsm_jafr", "fgsm_jafr_minus",
     "augmix", "neural_similarity", "neural_response"),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """The data set and threat model for which a model is opened.

    Attributes:
        dataset, threat_model: as ``load_model`` takes them.
        num_classes: of the data set.
        model_dir: folder of downloaded models.
        subset_of: number of classes of models that are opened too, because the data set has a subset of these classes.
    """

    dataset: str
    threat_model: str
    num_classes: int
    model_dir: Path
    subset_of: int | None = None


Source = Callable[[str, Target], nn.Module]
SOURCES: Registry[Source] = Registry("source", "freqrob.sources")

Exporter = Callable[..., tuple[list[Path], dict[str, str]]]
EXPORTERS: Registry[Exporter] = Registry("exporter", "freqrob.exporters")


@checked
def register_architecture(name: str) -> Callable[[Builder], Builder]:
    """Decorator: ``create_network(name)`` calls the decorated function with ``num_classes``.

    It also gets ``in_channels`` if images do not have 3 channels. Raises ValueError when the name is taken. Other
    packages: entry-point group ``freqrob.architectures``.
    """
    return _ARCHITECTURES.register(name)


@checked
def list_architectures(pattern: str = "*") -> list[str]:
    """Sorted names of the architectures that match a shell-style pattern (``"wrn*"``).

    >>> list_architectures("rn*")
    ['rn18', 'rn20', 'rn50']
    """
    return _ARCHITECTURES.matching(pattern)


@checked
def register_defense(name: str) -> Callable[[type], type]:
    """Decorator: register a frozen dataclass as a defence, such as ``"trades"``, for recipes and model names.

    ``defense(model, images, labels)`` is the loss of a batch; see ``freqrob.defenses``. Raises ValueError when
    the name is taken. Other packages: entry-point group ``freqrob.defenses``.
    """
    return DEFENSES.register(name)


@checked
def list_defenses(pattern: str = "*") -> list[str]:
    """Sorted names of the defences that match a shell-style pattern (``"*jafr*"``).

    >>> list_defenses("*jafr*")
    ['fgsm_jafr', 'fgsm_jafr_minus', 'jafr', 'jafr_minus']
    """
    return DEFENSES.matching(pattern)


@checked
def register_source(name: str) -> Callable[[Source], Source]:
    """Decorator: ``open_model("name:rest")`` calls the decorated function with ``rest`` and a ``Target``.

    It returns an ``nn.Module`` for pixels (N, C, H, W) in [0, 1]. Raises ValueError when the name is taken. Other
    packages: entry-point group ``freqrob.sources``, whose sources ``load_model`` takes too.
    """
    return SOURCES.register(name)


@checked
def list_sources(pattern: str = "*") -> list[str]:
    """Sorted names of the sources that match a shell-style pattern.

    >>> "timm" in list_sources()
    True
    """
    return SOURCES.matching(pattern)


@checked
def register_exporter(name: str) -> Callable[[Exporter], Exporter]:
    """Decorator: ``freqrob export --to name`` calls the decorated function to write a model's card in another format.

    ``exporter(model_name, out, model_dir, dataset, threat_model, title=…, link=…, authors=…, venue=…)`` returns the
    written files, and the entries that are still missing with a remedy for each. Raises ValueError when the name is
    taken. Other packages: entry-point group ``freqrob.exporters``.
    """
    return EXPORTERS.register(name)


@checked
def create_network(architecture: str, num_classes: Count = 10, in_channels: Count = 3) -> nn.Module:
    """A newly initialised network without front ends: (N, in_channels, H, W) → logits (N, num_classes).

    Raises ValueError for an unknown architecture (with the nearest names), for fewer than one class or channel, and
    for another number of channels than 3 if another package's architecture takes only RGB images.

    >>> import torch
    >>> create_network("rn20", num_classes=5)(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 5])
    """
    builder = _ARCHITECTURES.find(architecture)
    if in_channels == 3:
        return builder(num_classes=num_classes)
    if "in_channels" not in signature(builder).parameters:
        raise ValueError(f"in_channels: {architecture} takes images of 3 channels only, got {in_channels}")
    return builder(num_classes=num_classes, in_channels=in_channels)


@checked
@dataclass(frozen=True)
class ModelName:
    """The parts of a model name; ``str()`` joins them.

    ``variant``: None, ``"bass"`` (trained on CIFAR-B), ``"bassmix"`` (BaSS as an augmentation), or a fixed front end,
    in training and afterwards: ``"bassfront"`` (BaSS), ``"blur"``, ``"pca"``. ``jafr_minus`` is JaFR(−): the
    regulariser with the opposite sign.
    """

    variant: str | None
    defense: str
    architecture: str

    def __post_init__(self) -> None:
        if self.variant is not None and self.variant not in VARIANTS:
            raise ValueError(f"variant: got {self.variant!r}, expected None or one of {', '.join(VARIANTS)}")
        DEFENSES.check(self.defense)
        _ARCHITECTURES.check(self.architecture)

    def __str__(self) -> str:
        return "_".join(part for part in (self.variant, self.defense, self.architecture) if part)

    @classmethod
    @checked
    def parse(cls, name: str) -> "ModelName":
        """Parse `[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>`, e.g. ``bass_pgd_at_rn20``.

        Raises ValueError, with the grammar and the nearest names, for any other name.
        """
        first, _, rest = name.partition("_")
        variant, rest = (first, rest) if first in VARIANTS else (None, name)
        for architecture in list_architectures():
            defense = rest.removesuffix(f"_{architecture}")
            if defense != rest and defense in DEFENSES:
                return cls(variant, defense, architecture)
        raise ValueError(
            f"model_name: got {name!r}, expected {_GRAMMAR} with a defence of {', '.join(DEFENSES)} "
            f"and an architecture of {', '.join(list_architectures())}." + nearest_names(name, all_model_names())
        )


def all_model_names() -> list[str]:
    """Sorted names that the grammar allows with the registered architectures."""
    return sorted(
        str(ModelName(variant, defense, architecture))
        for variant in (None, *VARIANTS)
        for defense in DEFENSES
        for architecture in _ARCHITECTURES
    )
