"""Recipes with the papers' settings.

Where a paper's text and its authors' scripts differ, presets follow the scripts unless this list says otherwise.
``Preset.assumed`` describes the difference; ``recipe_for`` and ``freqrob train --set`` accept the other value.

- Lin et al., NeurIPS 2023 (BaSS), Tables 1, 3 and 4 and Figures 1, 3 and 4; scripts for PGD-AT and MART on CIFAR-10 in
  zhiyugege/Frequency-Long-Tailed-Investigation. The attacks are those of the text, ε = 8/255 in steps of 2/255 for all
  defences (Section 4.3), because Table 1 compares them at one ε; the MART script has 0.031 and 0.007.
- Chan et al., IJCAI 2022 (JaFR), Section 4, Tables 1 to 6; scripts for CIFAR-10 and CIFAR-100 in
  alvinchangw/JaFR_IJCAI2022. SVHN and Tiny ImageNet have no scripts: their settings are the text's.
- Li et al., PLoS Comput. Biol. 2023, Section "Model training"; lizhe07/blur-net, ``train.py``.
- Hendrycks et al., ICLR 2020 (AugMix): google-research/augmix, ``README.md`` and ``cifar.py``.

Unlike the authors', training sets here exclude the validation split. The best epoch is chosen on it (all its images, or
1,000 for freqrob's own presets), because a model must not be chosen on test images. Lin et al. choose the epoch on test
images; Chan et al. keep the last epoch and one chosen on 256 training images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from freqrob.data import DATASETS
from freqrob.defenses import DEFENSES
from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import checked, nearest_names, read_setting, shown, to_python
from freqrob.training.recipe import Recipe


@dataclass(frozen=True)
class Preset:
    """A recipe and its source.

    Attributes:
        recipe: the settings of the training run.
        paper: ``"Lin et al. 2023"``, ``"Chan et al. 2022"``, ``"Li et al. 2023"``, or ``"freqrob"`` for recipes that a
            laptop's CPU can train.
        tables: the paper's tables and figures with such a model; empty if there are none.
        assumed: settings that the paper and its code do not state or disagree on, or that differ here, with the value
            here.
    """

    recipe: Recipe
    paper: str
    tables: tuple[str, ...] = ()
    assumed: str = ""


@checked
def preset(name: str, dataset: str = "cifar10", threat_model: str = "Linf") -> Preset | None:
    """The preset of a model name, data set and threat model; None if there is none.

    >>> preset("bass_pgd_at_rn18").paper
    'Lin et al. 2023'
    """
    wanted = (name, dataset, threat_model)
    return next((p for p in _PRESETS if (p.recipe.name, p.recipe.dataset, p.recipe.threat_model) == wanted), None)


@checked
def list_presets(pattern: str = "*") -> list[Preset]:
    """The presets whose model name matches a shell-style pattern (``"*jafr*"``), paper by paper."""
    return [p for p in _PRESETS if fnmatchcase(p.recipe.name, pattern)]


@checked
def recipe_for(name: str, dataset: str = "cifar10", threat_model: str = "Linf", **overrides: Any) -> Recipe:
    """The recipe of the preset, or else the defaults of the defence's family, with some fields overridden.

    The families are: Lin et al.'s settings for ``pgd_at``, ``trades`` and ``mart`` and for standard training of
    ``rn18``; Hendrycks et al.'s for ``augmix``; Li et al.'s for standard training with ``blur_`` and ``pca_``; Chan et
    al.'s for the other defences and for ``pgd_at`` with JaFR's network (their CIFAR-10 settings for data sets that they
    do not use); ``standard``'s for ``neural_similarity`` and ``neural_response``; and freqrob's for ``rn20``, which no
    paper uses. Photographs have ``crop="resized"`` and are normalised. ``without_source`` tells such guesses.

    Args:
        name, dataset, threat_model: as in ``Recipe``.
        **overrides: other fields of ``Recipe``; ``defense`` is merged. If ``epochs`` is given without ``milestones``,
            these are scaled in proportion; those at epoch 0 or at the last epoch's end are left out.

    Raises:
        ValueError: a field that ``Recipe`` does not have, or a value that it does not take.

    >>> recipe_for("pgd_at_rn18", epochs=55).milestones
    (50, 52)
    """
    known = [field.name for field in fields(Recipe)]
    if unknown := [field for field in overrides if field not in known]:
        raise ValueError(f"recipe: no field {', '.join(unknown)}, expected any of {', '.join(known)}")
    settings = dict(_settings(ModelName.parse(name), dataset))
    if dataset in DATASETS and DATASETS[dataset].streamed:
        settings |= {"crop": "resized", "normalize": True}
    epochs, given = to_python(overrides.get("epochs"), int), overrides.get("defense", {})
    if not isinstance(given, Mapping):
        raise ValueError(f"defense: expected the defence's parameters by name, got {shown(given)}")
    if isinstance(epochs, int) and "milestones" in settings:
        scaled = (round(epoch * epochs / settings["epochs"]) for epoch in settings["milestones"])
        settings["milestones"] = tuple(epoch for epoch in scaled if 0 < epoch < epochs)
    defense = {**settings.get("defense", {}), **given}
    return Recipe(name, dataset, threat_model, **{**settings, **overrides, "defense": defense})


@checked
def parse_settings(recipe: str, texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``["lr=0.3", "steps=3"]`` into ``{"lr": 0.3, "defense": {"steps": 3}}``, for ``recipe_for``.

    Raises ValueError for text that is not KEY=VALUE, and, with the nearest names, for an unknown setting.

    >>> parse_settings("pgd_at_rn20", ["lr=0.3", "steps=3"])
    {'lr': 0.3, 'defense': {'steps': 3}}
    """
    values, elsewhere = dict(map(read_setting, texts)), ("name", "dataset", "threat_model")
    of_defense = [field.name for field in fields(DEFENSES[ModelName.parse(recipe).defense])]
    of_recipe = [field.name for field in fields(Recipe) if field.name not in (*elsewhere, "defense")]
    for key, value in values.items():
        if key in elsewhere:
            raise ValueError(f"--set: {key} has its own argument or option, got {key}={value}")
        if key not in of_recipe + of_defense:
            raise ValueError(
                f"--set: {recipe} has no setting {key}, expected any of {', '.join(of_recipe + of_defense)}."
                + nearest_names(key, of_recipe + of_defense)
            )
    return {key: values[key] for key in values if key in of_recipe} | {
        "defense": {key: values[key] for key in values if key in of_defense}
    }


@checked
def without_source(recipe: Recipe) -> str:
    """A sentence that says where a recipe's defaults come from if no preset has its name and data set; else "".

    >>> without_source(recipe_for("jafr_prn18_jafr", "svhn"))
    ''
    >>> print(without_source(recipe_for("jafr_prn18", "svhn")))
    no paper or preset gives settings for jafr_prn18 on svhn; its defaults are those of jafr_prn18_jafr on svhn
    """
    if preset(recipe.name, recipe.dataset, recipe.threat_model):
        return ""
    defaults, defense = _settings(recipe.name_parts, recipe.dataset), recipe.name_parts.defense

    def differing(other: Recipe) -> list[str]:
        others = _settings(other.name_parts, other.dataset)
        first, second = ({**s, **s.get("defense", {}), "defense": None} for s in (defaults, others))
        return [key for key in first | second if first.get(key) != second.get(key)]

    recipes = [p.recipe for p in _PRESETS]
    like = min(recipes, key=lambda r: (len(differing(r)), r.name_parts.defense != defense, r.dataset != recipe.dataset))
    but = f", but for {', '.join(differing(like))}" if differing(like) else ""
    return (
        f"no paper or preset gives settings for {recipe.name} on {recipe.dataset}; its defaults are those of "
        f"{like.name} on {like.dataset}{but}"
    )


_PAPERS = {"batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4, "precision": "32-true", "selection_images": 0}

_PGD = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
_LIN_STANDARD = _PAPERS | {
    "epochs": 110, "lr": 0.1, "schedule": "steps", "milestones": (100, 105), "crop": "reflect", "normalize": True,
}  # fmt: skip
_PGD_AT = _LIN_STANDARD | {"defense": _PGD}
_TRADES = _PGD_AT | {"weight_decay": 2e-4, "crop": "zeros", "normalize": False, "defense": _PGD | {"beta": 6.0}}
_MART = _PAPERS | {
    "epochs": 120, "lr": 0.01, "schedule": "steps", "milestones": (74, 89, 99),  # the script's 75th, 90th, 100th
    "weight_decay": 3.5e-3, "crop": "zeros", "normalize": False, "defense": _PGD | {"beta": 5.0},
}  # fmt: skip
_AUGMIX = _PAPERS | {
    "epochs": 100, "lr": 0.1, "schedule": "cosine", "nesterov": True, "crop": "zeros", "normalize": True,
    "defense": {"severity": 3, "width": 3, "depth": -1, "alpha": 1.0, "weight": 12.0},
}  # fmt: skip
_FAMILIES = {"pgd_at": _PGD_AT, "trades": _TRADES, "mart": _MART, "augmix": _AUGMIX}
_WITH_ARCHITECTURE = {
    ("augmix", "resnext29"): {"epochs": 200},
    ("augmix", "rn50"): {"epochs": 200},
    ("augmix", "densenet"): {"epochs": 200, "weight_decay": 1e-4},
}
_ON_IMAGENET = {"eps": 4 / 255, "step_size": 1 / 255}

_LI = _PAPERS | {
    "batch_size": 32, "epochs": 48, "lr": 0.01, "schedule": "cosine", "weight_decay": 1e-4, "crop": "zeros",
    "normalize": True,
}  # fmt: skip

_CHAN = _PAPERS | {"epochs": 30, "schedule": "triangle", "crop": "zeros", "normalize": False}
_CHAN_ON = {"svhn": {"epochs": 15}}
_CHAN_LR = {
    "cifar10": {"standard": 0.2, "jafr": 0.2, "fgsm": 0.2, "fgsm_jafr": 0.3, "grad_align": 0.3, "pgd_at": 0.3},
    "cifar100": {"standard": 0.2, "jafr": 0.1, "fgsm": 0.3, "fgsm_jafr": 0.3, "grad_align": 0.3, "pgd_at": 0.3},
    "tiny_imagenet": {"standard": 0.2, "jafr": 0.1, "fgsm": 0.3, "fgsm_jafr": 0.3, "grad_align": 0.3, "pgd_at": 0.3},
    "svhn": dict.fromkeys(("standard", "jafr", "fgsm", "fgsm_jafr", "grad_align", "pgd_at"), 0.05),
}
_CHAN_WEIGHT = {  # λ of JaFR and of GradAlign
    "cifar10": {"jafr": 0.001, "fgsm_jafr": 0.001, "grad_align": 0.2},
    "cifar100": {"jafr": 0.001, "fgsm_jafr": 0.002, "grad_align": 0.2},
    "tiny_imagenet": {"jafr": 0.002, "fgsm_jafr": 0.002, "grad_align": 0.2},
    "svhn": {"jafr": 0.001, "fgsm_jafr": 0.05, "grad_align": 2.5},
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
        epochs = 20 if defense == "standard" else 10  # the others' steps take two to four times as long
        return _QUICK | {"epochs": epochs} | _QUICK_WITH.get(defense, {})
    if defense == "standard" and model.variant in ("blur", "pca"):
        return _LI
    if defense in ("standard", "neural_similarity", "neural_response") and architecture == "rn18":
        return _LIN_STANDARD
    if defense in _FAMILIES and (defense, architecture) != ("pgd_at", "prn18_jafr"):
        return _of_lin(defense, architecture, dataset)
    return _of_chan(defense, dataset)


def _of_lin(defense: str, architecture: str, dataset: str) -> dict[str, Any]:
    settings = _FAMILIES[defense] | _WITH_ARCHITECTURE.get((defense, architecture), {})
    if dataset in ("imagenet", "restricted_imagenet") and "eps" in settings["defense"]:
        settings |= {"defense": settings["defense"] | _ON_IMAGENET}
    return settings


def _of_chan(defense: str, dataset: str) -> dict[str, Any]:
    like = dataset if dataset in _CHAN_LR else "cifar10"
    positive = defense.removesuffix("_minus")
    settings = _CHAN | _CHAN_ON.get(like, {}) | {"lr": _CHAN_LR[like].get(positive, _CHAN_LR[like]["standard"])}
    if defense == "pgd_at":
        return settings | {"defense": _PGD}
    parameters = {"eps": 8 / 255} if positive in ("fgsm", "grad_align", "fgsm_jafr") else {}
    if weight := _CHAN_WEIGHT[like].get(positive):
        parameters["weight"] = weight if positive == defense else -weight
    return settings | ({"defense": parameters} if parameters else {})


_RN18_OPEN = (
    "The authors' standard training is not published; here it has their PGD-AT's settings. γ is the setting gamma."
)
_TRADES_OPEN = (
    "The authors' training is not published. Attack: the paper's (Section 4.3). β = 6, weight decay, crop, no "
    "normalisation: TRADES' own (Zhang et al. 2019), whose attack has eps=0.031 and step_size=0.007. Epochs and "
    "learning rate: those of PGD-AT."
)
_MART_OPEN = "Attack: the paper's (Section 4.3); the script has eps=0.031 and step_size=0.007."
_CIFAR100_OPEN = "The settings are those of CIFAR-10; the paper gives no others."
_RESTRICTED_OPEN = (
    "Attack: the paper's (Section 4.3). The rest is not published: the settings of CIFAR-10, on images of 128×128 "
    "pixels, to which the authors' code resizes."
)
_AUGMIX_OPEN = (
    "The authors' training is not published. Hendrycks et al.'s, but normalised by the mean and standard deviation of "
    "the data set, not by ½ and ½."
)
_RN50_OPEN = f"{_AUGMIX_OPEN} They do not train ResNet-50 on CIFAR; it has ResNeXt-29's settings."
_BASS_AUGMIX_OPEN = "One of the two mixtures is of the balanced image (Section 4.4)."
_PGD_OPEN = "PGD starts at random, on the network in eval mode; the script's starts at the image, in train mode."
_MINUS_OPEN = "λ of JaFR(−) is not published; here it is JaFR's with the opposite sign."
_LAMBDA_OPEN = (
    "λ = 0.002 is the script's. The paper's sentence (“similar to that in CIFAR-10, except for the learning rates and "
    "λ_freq = 0.001 values”) seems to say 0.001, which is also CIFAR-10's; for that, set weight=0.001."
)
_FGSM100_OPEN = "Learning rate: the paper's; no script trains FGSM alone."
_SVHN_OPEN = (
    "No script; the text's settings. The authors' code would raise the attack linearly over the first five epochs on "
    "SVHN, which is left out here."
)
_SVHN_ALIGN_OPEN = f"{_SVHN_OPEN} λ = 2.5 of GradAlign: Andriushchenko & Flammarion's script for SVHN at ε = 8/255."
_TINY_OPEN = "No script; the text's settings."
_LI_OPEN = (
    "Settings of the authors' train.py. Its learning rate is one of four (0.001 to 0.01), chosen on validation images; "
    "the choice is not published: here 0.01, the default. It is multiplied by 0.3 every 4 epochs and restarts every "
    "12; here it falls by half a cosine. The PCA model's code is not published; it is trained like the blur models."
)

_BY_LIN, _BY_CHAN, _BY_LI, _BY_US = "Lin et al. 2023", "Chan et al. 2022", "Li et al. 2023", "freqrob"
_BASS = ("", "bass_")
_WITH_AUGMIX = "wrn40_2 densenet resnext29"


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


def _lin() -> Iterator[Preset]:
    """Figures 1, 3 and 4, Tables 1, 3 and 4."""
    figures = ("Fig. 1", "Fig. 3", "Fig. 4")
    yield from _rows(
        _BY_LIN, "standard", "rn18", variants=("", "bassmix_", "bass_"), tables=figures, assumed=_RN18_OPEN
    )
    for defense, assumed in (("pgd_at", ""), ("trades", _TRADES_OPEN), ("mart", _MART_OPEN)):
        for dataset, more in (("cifar10", ""), ("cifar100", _CIFAR100_OPEN)):
            both = f"{assumed} {more}".strip()
            yield from _rows(_BY_LIN, defense, "rn18 wrn34", dataset, variants=_BASS, tables=("Table 1",), assumed=both)
    yield from _rows(
        _BY_LIN, "pgd_at trades", "rn50", "restricted_imagenet", variants=_BASS, tables=("Table 3",),
        assumed=_RESTRICTED_OPEN,
    )  # fmt: skip
    for dataset, architectures in product(("cifar10", "cifar100"), (_WITH_AUGMIX, "rn50")):
        assumed = _RN50_OPEN if architectures == "rn50" else _AUGMIX_OPEN
        for variant, more in (("", ""), ("bass_", f" {_BASS_AUGMIX_OPEN}")):
            yield from _rows(
                _BY_LIN, "augmix", architectures, dataset, variants=(variant,), tables=("Table 4",),
                assumed=assumed + more,
            )  # fmt: skip


def _chan() -> Iterator[Preset]:
    """Tables 1 to 6; JaFR(−) is in Tables 1 and 2 only."""
    tables = {"cifar10": "Table 4", "cifar100": "Table 5", "svhn": "Table 3", "tiny_imagenet": "Table 6"}
    of_table_1 = ("standard", "jafr", "fgsm_jafr_minus", "fgsm", "fgsm_jafr", "pgd_at")
    on = {"svhn": _SVHN_OPEN, "tiny_imagenet": _TINY_OPEN}
    more = {
        ("fgsm", "cifar100"): _FGSM100_OPEN, ("fgsm_jafr", "cifar100"): _LAMBDA_OPEN,
        ("fgsm_jafr_minus", "cifar100"): _LAMBDA_OPEN, ("grad_align", "svhn"): _SVHN_ALIGN_OPEN,
    }  # fmt: skip
    for dataset, defense in product(tables, ("standard", "jafr", "fgsm", "fgsm_jafr", "grad_align", "pgd_at")):
        assumed = [more.get((defense, dataset), on.get(dataset, "")), _PGD_OPEN if defense == "pgd_at" else ""]
        first = ("Table 1", "Table 2") if dataset == "cifar10" and defense in of_table_1 else ()
        in_tables = tuple(sorted((*first, tables[dataset])))
        if dataset == "cifar10" and defense == "grad_align":
            in_tables = ("Table 2", "Table 4")
        yield from _rows(
            _BY_CHAN, defense, "prn18_jafr", dataset, tables=in_tables, assumed=" ".join(filter(None, assumed))
        )
    for dataset, defense in product(("cifar10", "cifar100"), ("jafr_minus", "fgsm_jafr_minus")):
        assumed = f"{_MINUS_OPEN} {more.get((defense, dataset), '')}".strip()
        in_tables = ("Table 1", "Table 2") if (defense, dataset) == ("fgsm_jafr_minus", "cifar10") else ()
        yield from _rows(_BY_CHAN, defense, "prn18_jafr", dataset, tables=in_tables, assumed=assumed)


_PRESETS = (
    *_lin(),
    *_chan(),
    *_rows(_BY_LI, "standard", "rn18", variants=("blur_", "pca_"), tables=("Fig. 4", "Fig. 5"), assumed=_LI_OPEN),
    *_rows(_BY_US, "standard pgd_at", "rn20", variants=("", "bass_", "bassmix_", "bassfront_")),
    *_rows(_BY_US, "standard", "rn20", variants=("blur_", "pca_")),
    *_rows(
        _BY_US, "trades mart fgsm grad_align jafr jafr_minus fgsm_jafr fgsm_jafr_minus augmix", "rn20", variants=_BASS
    ),
)
