"""Export a model's card to RobustBench: the entry of ``model_info/`` and the text of a "[New Model]" issue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from math import isclose
from pathlib import Path
from typing import Any

from freqrob.models.cards import Card
from freqrob.models.checkpoints import card_path
from freqrob.models.downloads import download_url
from freqrob.models.front_ends import front_end_name
from freqrob.models.loading import checkpoint_path, load_card
from freqrob.models.registry import register_exporter
from freqrob.runtime.files import check_file, expanded, write_json, write_text
from freqrob.runtime.parameters import checked

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}  # number of RobustBench's images
_EPS = {"Linf": "8/255", "L2": "0.5"}  # ε of RobustBench's leaderboards
_IMAGENET_EPS = {"Linf": "4/255", "L2": "3"}
_ARCHITECTURES = {
    "densenet": "DenseNet-BC-100-12", "prn18": "PreActResNet-18", "resnext29": "ResNeXt-29_32x4d", "rn18": "ResNet-18",
    "rn20": "ResNet-20", "rn50": "ResNet-50", "vgg19": "VGG-19", "wrn28": "WideResNet-28-10",
    "wrn34": "WideResNet-34-10", "wrn40_2": "WideResNet-40-2",
}  # fmt: skip
_FILL_IN = "**(fill in)**"


@checked
@dataclass(frozen=True)
class Paper:
    """Fields that a card does not have. Empty ones are left out of the JSON and marked in the claim."""

    title: str = ""
    link: str = ""
    authors: str = ""
    venue: str = ""


@dataclass(frozen=True)
class Export:
    """The written files (JSON and Markdown), and the missing keys of the JSON with a remedy for each."""

    info: Path
    claim: Path
    missing: dict[str, str]


@checked
def export(
    name: str,
    out: str | Path,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
    paper: Paper = Paper(),
) -> Export:
    """Write ``<name>.json``, RobustBench's model_info, and ``<name>.md``, a claim for its leaderboard, into ``out``.

    All numbers are from the card, measured under the protocol ``natural`` with RobustBench's ε and number of images
    (10,000 of CIFAR, 5,000 of ImageNet); other numbers are left out. RobustBench need not be installed.

    Raises:
        ValueError: a data set that RobustBench does not have, or an unknown threat model; or ``<name>.json`` would
            overwrite the model's card.
        FileNotFoundError: no card has this name.
        OSError: ``out`` is not writable.
    """
    card = load_card(name, model_dir, dataset, threat_model)
    if card.dataset not in TEST_IMAGES:
        raise ValueError(f"dataset: RobustBench has {', '.join(TEST_IMAGES)}, {name} is for {card.dataset}")
    info = model_info(card, paper)
    missing = {key: remedy for key, remedy in _remedies(card).items() if info.get(key, "") is None}
    out = expanded(out, "out")
    files = Export(out / f"{name}.json", out / f"{name}.md", missing)
    check_file(files.info, "out", [card_path(checkpoint_path(name, model_dir, dataset, threat_model))])
    check_file(files.claim)
    write_json(files.info, {key: value for key, value in info.items() if value is not None or key == "eps"})
    write_text(files.claim, _claim(card, info, paper))
    return files


@register_exporter("robustbench")
def export_card(
    name: str, out: Path, model_dir: Path, dataset: str, threat_model: str, **paper: str
) -> tuple[list[Path], dict[str, str]]:
    """``export`` for ``freqrob export``."""
    files = export(name, out, model_dir, dataset, threat_model, Paper(**paper))
    return [files.info, files.claim], files.missing


def model_info(card: Card, paper: Paper = Paper()) -> dict[str, Any]:
    """RobustBench's keys, with accuracies as text in percent; None for values that card and ``paper`` lack."""
    behind = [str(front_end_name(spec)) for spec in card.front_ends if front_end_name(spec) != "normalize"]
    robust = "corruptions_acc" if card.threat_model == "corruptions" else "autoattack_acc"
    return {
        "link": paper.link or None,
        "name": paper.title or None,
        "authors": paper.authors or None,
        "additional_data": False if card.recipe.get("dataset") == card.dataset else None,
        "number_forward_passes": 1,
        "dataset": card.dataset,
        "venue": paper.venue or None,
        "architecture": _ARCHITECTURES.get(card.architecture, card.architecture),
        "eps": _eps(card),
        "clean_acc": _percent(_measured(card, "clean")),
        "reported": None,
        robust: _percent(_measured(card, "AutoAttack")),
        "footnote": f"behind a fixed front end: {', '.join(behind)}" if behind else None,
    }


def _remedies(card: Card) -> dict[str, str]:
    """How to get each key that may be missing."""
    images = f"{TEST_IMAGES[card.dataset]:,} images"
    measure = f"freqrob evaluate {card.name} --protocol natural --card --attack"
    paper = dict.fromkeys(("link", "name", "authors", "venue"), "your paper's")
    return paper | {
        "additional_data": "true or false: the card does not say what the model was trained on",
        "clean_acc": f"not measured on {images}: {measure} clean",
        "reported": "the robust accuracy that your paper reports",
        "autoattack_acc": f"not measured on {images} at ε {_eps(card)}: {measure} autoattack",
        "corruptions_acc": "the mean over RobustBench's 15 corruptions, which cards do not have",
    }


def _measured(card: Card, attack: str) -> Mapping[str, Any] | None:
    """The card's result under RobustBench's conditions, if any."""
    for result in reversed(_natural(card)):
        like = result["attack"], result["images"]
        if like == (attack, TEST_IMAGES[card.dataset]) and (attack == "clean" or _same_ball(card, result)):
            return result
    return None


def _natural(card: Card) -> list[Mapping[str, Any]]:
    """The card's results under the protocol ``natural`` that say what was measured."""
    complete = [result for result in card.results if {"attack", "images", "accuracy"} <= result.keys()]
    return [result for result in complete if result.get("protocol") == "natural"]


def _same_ball(card: Card, result: Mapping[str, Any]) -> bool:
    eps = _eps(card)
    same_norm = result.get("norm", "Linf") == card.threat_model
    return eps is not None and same_norm and isclose(result.get("eps", -1), Fraction(eps), rel_tol=1e-6)


def _eps(card: Card) -> str | None:
    """The leaderboard's ε as RobustBench writes it; None for corruptions."""
    return (_IMAGENET_EPS if card.dataset == "imagenet" else _EPS).get(card.threat_model)


def _percent(result: Mapping[str, Any] | None) -> str | None:
    return None if result is None else f"{100 * result['accuracy']:.2f}"


def _claim(card: Card, info: Mapping[str, Any], paper: Paper) -> str:
    """RobustBench's issue template, filled in with the card's entries."""
    attacked = _measured(card, "AutoAttack")
    robust = info.get("autoattack_acc") or info.get("corruptions_acc")
    threat = "Common Corruptions" if card.threat_model == "corruptions" else card.threat_model
    extra = {True: "true", False: "false", None: _FILL_IN}[info["additional_data"]]
    url = download_url(card) or f"{_FILL_IN} a URL for the weights"
    footnote = f"\n- **Remark**: {info['footnote']}" if info["footnote"] else ""
    return f"""<!-- Title of the issue: [New Model] <NameYearFirstWordOfTitle> -->
# Paper Information

- **Paper Title**: {paper.title or _FILL_IN}
- **Paper URL**: {paper.link or _FILL_IN}
- **Paper authors**: {paper.authors or _FILL_IN}

# Leaderboard Claim(s)

## Model 1

- **Architecture**: {info["architecture"]}
- **Dataset**: {card.dataset}
- **Threat Model**: {threat}
- **eps**: {info["eps"] or "N/A"}
- **Clean accuracy**: {info["clean_acc"] or _FILL_IN}
- **Robust accuracy**: {robust or _FILL_IN}
- **Additional data**: {extra}
- **Evaluation method**: {_method(attacked) if attacked else _FILL_IN}{footnote}
- **Checkpoint and code**: {url}, sha256 {card.sha256}. It loads with
  `freqrob.load_model("{card.name}", dataset="{card.dataset}", threat_model="{card.threat_model}")`.

{_other_measurements(card)}
# Model Zoo:

- [ ] I want to add my models to the Model Zoo (check if true)
- [ ] I use an architecture that is **not** included among RobustBench's (check if true)
- [ ] I agree to release my model(s) under MIT license (check if true) **OR**
- [ ] I want my models to be released under a custom license, located here: {_FILL_IN}
"""


def _method(result: Mapping[str, Any]) -> str:
    package = f" ({result['package']})" if result.get("package") else ""
    return f"AutoAttack, version {result.get('version', 'standard')}{package}, seed {result.get('seed')}"


def _other_measurements(card: Card) -> str:
    """The card's other results under the protocol ``natural``, as information."""
    claimed = [_measured(card, "clean"), _measured(card, "AutoAttack")]
    others = [result for result in _natural(card) if result not in claimed]
    lines = [
        f"- {result['attack']}{_ball(result)}, {result['images']:,} images, "
        f"seed {result.get('seed', 'unknown')}: {_percent(result)}"
        for result in others
    ]
    return "\n".join(["Other measurements of the same model, not claims:", "", *lines, ""]) if lines else ""


def _ball(result: Mapping[str, Any]) -> str:
    norm, eps = result.get("norm", "Linf"), result.get("eps")
    if not eps:
        return ""
    return f", {norm}, eps {255 * eps:.3g}/255" if norm == "Linf" else f", {norm}, eps {eps:g}"
