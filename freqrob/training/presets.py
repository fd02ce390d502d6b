"""Recipes with the papers' settings.

The settings are those of the authors' scripts, also where the papers' text differs:

- Lin et al., NeurIPS 2023 (BaSS): zhiyugege/Frequency-Long-Tailed-Investigation, ``Bag-of-Tricks-for-AT-master/`` for
  PGD-AT and ``MART/``. It has no training by TRADES or AugMix: see ``Preset.assumed``.
- Chan et al., IJCAI 2022 (JaFR): alvinchangw/JaFR_IJCAI2022, ``example_scripts/``, on CIFAR-10 and CIFAR-100.
- Hendrycks et al., ICLR 2020 (AugMix): google-research/augmix, ``README.md`` and ``cifar.py``.

The rows of the papers' tables are inferred from these scripts too. There are no presets for models without a script or
known settings: Chan et al.'s models of SVHN and Tiny ImageNet, FGSM alone on CIFAR-100 (the script of that name adds
GradAlign), BaSS on Restricted ImageNet, BaSS as an augmentation with probability γ. Of Lin et al.'s tables, 1 is known
to be adversarial training with and without BaSS, and 4 to be corruptions; of Chan et al.'s, none is known.

Unlike the authors', training sets here exclude the validation split, on which the best epoch is chosen (all its images,
or 1,000 for freqrob's own presets). Lin et al. choose the epoch on test images; Chan et al. keep the last one, and one
chosen on 256 training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import checked, shown, to_python
from freqrob.training.recipe import Recipe


@dataclass(frozen=True)
class Preset:
    """A recipe and its source.

    Attributes:
        recipe: the settings of the training run.
        paper: ``"Lin et al. 2023"``, ``"Chan et al. 2022"``, or ``"freqrob"`` for runs that a laptop's CPU can do.
        tables: the paper's tables with its numbers; empty if unknown.
        assumed: settings that the paper and its code leave open, disagree on, or choose differently, with the choice.
    """

    recipe: Recipe
    paper: str
    tables: tuple[str, ...] = ()
    assumed: str = ""


@checked
def preset(name: str, dataset: str = "cifar10", threat_model: str = "Linf") -> Preset | None:
    """The preset of a model name, data set and threat model; None if there is none."""
    wanted = (name, dataset, threat_model)
    return next((p for p in _PRESETS if (p.recipe.name, p.recipe.dataset, p.recipe.threat_model) == wanted), None)


@checked
def list_presets(pattern: str = "*") -> list[Preset]:
    """The presets whose model name matches a shell-style pattern (``"*jafr*"``), paper by paper."""
    return [p for p in _PRESETS if fnmatchcase(p.recipe.name, pattern)]


@checked
def recipe_for(name: str, dataset: str = "cifar10", threat_model: str = "Linf", **overrides: Any) -> Recipe:
    """The recipe of the preset, or else of the defence's family, with some fields overridden.

    The families: Lin et al.'s settings for ``pgd_at``, ``trades`` and ``mart``, Hendrycks et al.'s for ``augmix``, and
    Chan et al.'s for the other defences and for ``pgd_at`` with JaFR's network (their CIFAR-10 settings for all data
    sets but CIFAR-100). ``neural_similarity`` is trained as ``standard``. For ``rn20``, which no paper uses: freqrob's.

    Args:
        name, dataset, threat_model: as in ``Recipe``.
        **overrides: other fields of ``Recipe``; ``defense`` is merged. If only ``epochs`` is given, ``milestones`` are
            scaled in proportion.

    Raises:
        ValueError: a field that ``Recipe`` does not have, or a value that it does not take.
    """
    known = [field.name for field in fields(Recipe)]
    unknown = [field for field in overrides if field not in known]
    if unknown:
        raise ValueError(f"recipe: no field {', '.join(unknown)}, expected any of {', '.join(known)}")
    settings = _settings(ModelName.parse(name), dataset)
    epochs, given = to_python(overrides.get("epochs"), int), overrides.get("defense", {})
    if not isinstance(given, Mapping):
        raise ValueError(f"defense: expected the defence's parameters by name, got {shown(given)}")
    if isinstance(epochs, int) and "milestones" in settings:
        settings["milestones"] = tuple(round(at * epochs / settings["epochs"]) for at in settings["milestones"])
    defense = {**settings.get("defense", {}), **given}
    return Recipe(name, dataset, threat_model, **{**settings, **overrides, "defense": defense})


_PAPERS = {"batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4, "precision": "32-true", "selection_images": 0}

_PGD = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
_PGD_AT = _PAPERS | {
    "epochs": 110, "lr": 0.1, "schedule": "steps", "milestones": (100, 105), "crop": "reflect", "normalize": True,
    "defense": _PGD,
}  # fmt: skip
_TRADES = _PGD_AT | {
    "weight_decay": 2e-4, "crop": "zeros", "normalize": False,
    "defense": {"eps": 0.031, "step_size": 0.007, "steps": 10, "beta": 6.0},
}  # fmt: skip
_MART = _PAPERS | {
    "epochs": 120, "lr": 0.01, "schedule": "steps", "milestones": (74, 89, 99),  # the script's 75th, 90th, 100th
    "weight_decay": 3.5e-3, "crop": "zeros", "normalize": False,
    "defense": {"eps": 0.031, "step_size": 0.007, "steps": 10, "beta": 5.0},
}  # fmt: skip
_AUGMIX = _PAPERS | {
    "epochs": 100, "lr": 0.1, "schedule": "cosine", "nesterov": True, "crop": "zeros", "normalize": True,
    "defense": {"severity": 3, "width": 3, "depth": -1, "alpha": 1.0, "weight": 12.0},
}  # fmt: skip
_FAMILIES = {"pgd_at": _PGD_AT, "trades": _TRADES, "mart": _MART, "augmix": _AUGMIX}
_WITH_ARCHITECTURE = {
    ("augmix", "resnext29"): {"epochs": 200},
    ("augmix", "densenet"): {"epochs": 200, "weight_decay": 1e-4},
}

_CHAN = _PAPERS | {"epochs": 30, "lr": 0.2, "schedule": "triangle", "crop": "zeros", "normalize": False}
_WITH_DEFENSE = {
    "pgd_at": {"lr": 0.3, "defense": _PGD},
    "fgsm": {"defense": {"eps": 8 / 255}},
    "grad_align": {"lr": 0.3, "defense": {"eps": 8 / 255, "weight": 0.2}},
    "jafr": {"defense": {"weight": 0.001}},
    "jafr_minus": {"defense": {"weight": -0.001}},
    "fgsm_jafr": {"lr": 0.3, "defense": {"eps": 8 / 255, "weight": 0.001}},
    "fgsm_jafr_minus": {"lr": 0.3, "defense": {"eps": 8 / 255, "weight": -0.001}},
}
_ON_DATASET = {
    ("jafr", "cifar100"): {"lr": 0.1},
    ("jafr_minus", "cifar100"): {"lr": 0.1},
    ("fgsm_jafr", "cifar100"): {"defense": {"eps": 8 / 255, "weight": 0.002}},
    ("fgsm_jafr_minus", "cifar100"): {"defense": {"eps": 8 / 255, "weight": -0.002}},
}

_QUICK = {
    "batch_size": 128, "lr": 0.1, "schedule": "triangle", "momentum": 0.9, "weight_decay": 5e-4, "crop": "reflect",
    "normalize": True, "precision": "bf16-mixed", "selection_images": 1000,
}  # fmt: skip
_QUICK_PGD = {"steps": 3, "step_size": 4 / 255}
_QUICK_WITH = {
    "pgd_at": {"defense": _QUICK_PGD},
    "trades": {"defense": _QUICK_PGD},
    "mart": {"defense": _QUICK_PGD | {"eps": 8 / 255}},
}


def _settings(model: ModelName, dataset: str) -> dict[str, Any]:
    """The fields of ``Recipe`` after the first three."""
    defense, architecture = model.defense, model.architecture
    if architecture == "rn20":
        epochs = 20 if defense == "standard" else 10  # the others' steps cost two to four times as much
        return _QUICK | {"epochs": epochs} | _QUICK_WITH.get(defense, {})
    if defense in _FAMILIES and (defense, architecture) != ("pgd_at", "prn18_jafr"):
        return _FAMILIES[defense] | _WITH_ARCHITECTURE.get((defense, architecture), {})
    return _CHAN | _WITH_DEFENSE.get(defense, {}) | _ON_DATASET.get((defense, dataset), {})


_TRADES_OPEN = (
    "The authors' training is not published, nor which networks. Attack, β = 6, weight decay, crop, no normalisation: "
    "TRADES' own (Zhang et al. 2019). Epochs and learning rate: those of PGD-AT. Networks: those of its script."
)
_AUGMIX_OPEN = (
    "The authors' training is not published, nor which networks. Hendrycks et al.'s, but normalised by the mean and "
    "standard deviation of the data set, not by ½ and ½."
)
_BASS_AUGMIX_OPEN = f"{_AUGMIX_OPEN} One of the two mixtures is of the balanced image."
_PGD_OPEN = "PGD starts at random and sees the network in eval mode; the script's starts at the image, in train mode."
_MINUS_OPEN = "No script trains JaFR(−): the settings of JaFR, with the opposite sign of λ."
_LAMBDA_OPEN = "λ = 0.002 is the script's; the paper says 0.001."

_BY_LIN, _BY_CHAN, _BY_US = "Lin et al. 2023", "Chan et al. 2022", "freqrob"
_BASS = ("", "bass_")
_OF_AUGMIX = "wrn40_2 resnext29 densenet"


def _rows(
    paper: str,
    defenses: str,
    architectures: str,
    dataset: str = "cifar10",
    *,
    variants: tuple[str, ...] = ("",),
    tables: tuple[str, ...] = (),
    assumed: str = "",
) -> Iterator[Preset]:
    for defense, architecture, variant in product(defenses.split(), architectures.split(), variants):
        yield Preset(recipe_for(f"{variant}{defense}_{architecture}", dataset), paper, tables, assumed)


_PRESETS = (
    *_rows(_BY_LIN, "pgd_at", "rn18 wrn34", variants=_BASS, tables=("Table 1",)),
    *_rows(_BY_LIN, "trades", "rn18 wrn34", variants=_BASS, tables=("Table 1",), assumed=_TRADES_OPEN),
    *_rows(_BY_LIN, "mart", "rn18", variants=_BASS, tables=("Table 1",)),
    *_rows(_BY_LIN, "mart", "rn18", "cifar100", variants=_BASS),
    *_rows(_BY_LIN, "augmix", _OF_AUGMIX, tables=("Table 4",), assumed=_AUGMIX_OPEN),
    *_rows(_BY_LIN, "augmix", _OF_AUGMIX, variants=("bass_",), tables=("Table 4",), assumed=_BASS_AUGMIX_OPEN),
    *_rows(_BY_CHAN, "standard fgsm grad_align jafr fgsm_jafr", "prn18_jafr"),
    *_rows(_BY_CHAN, "pgd_at", "prn18_jafr", assumed=_PGD_OPEN),
    *_rows(_BY_CHAN, "jafr_minus fgsm_jafr_minus", "prn18_jafr", assumed=_MINUS_OPEN),
    *_rows(_BY_CHAN, "standard grad_align jafr", "prn18_jafr", "cifar100"),
    *_rows(_BY_CHAN, "fgsm_jafr", "prn18_jafr", "cifar100", assumed=_LAMBDA_OPEN),
    *_rows(_BY_CHAN, "pgd_at", "prn18_jafr", "cifar100", assumed=_PGD_OPEN),
    *_rows(_BY_CHAN, "jafr_minus", "prn18_jafr", "cifar100", assumed=_MINUS_OPEN),
    *_rows(_BY_CHAN, "fgsm_jafr_minus", "prn18_jafr", "cifar100", assumed=f"{_MINUS_OPEN} {_LAMBDA_OPEN}"),
    *_rows(_BY_US, "standard pgd_at", "rn20", variants=("", "bass_", "bassmix_", "bassfront_")),
    *_rows(
        _BY_US, "trades mart fgsm grad_align jafr jafr_minus fgsm_jafr fgsm_jafr_minus augmix", "rn20", variants=_BASS
    ),
)
