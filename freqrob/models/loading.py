"""``load_model``: a trained model by name, with RobustBench's signature."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from freqrob.data.datasets import DATASETS
from freqrob.data.grayscale import colour_name, grayscale_name
from freqrob.data.preprocessing import Preprocessing
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.checkpoints import SUFFIXES, card_path, check_state, checkpoint_state, load, load_into
from freqrob.models.downloads import download, download_url
from freqrob.models.front_ends import (
    FrontEnded,
    FrontEndSpec,
    create_front_end,
    front_end_name,
    front_ends_of,
    variant_front_ends,
    with_front_ends,
)
from freqrob.models.plugins import PluginModel, find_plugin, plugin_models
from freqrob.models.registry import SOURCES, ModelName, Target, all_model_names, create_network
from freqrob.models.state_dicts import fit_keys
from freqrob.runtime.files import expanded
from freqrob.runtime.parameters import checked, nearest_names
from freqrob.runtime.reading import brief
from freqrob.runtime.warning import warn


def all_datasets() -> list[str]:
    """Names of the data sets for which models may exist, including those in grey levels."""
    return [*DATASETS, *(name for name in map(grayscale_name, DATASETS) if name in DATASETS)]


THREAT_MODELS = ("Linf", "L2", "corruptions")
LONGEST_NAME = 200  # bytes; temporary files have longer names
_NAME = re.compile(r"\w[\w.+-]*")
_OWN_NETWORK = "A network of your own code is opened as package.module:function, which reads the file."


@checked
def load_model(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
    custom_checkpoint: str | Path = "",
    *,
    front_end: FrontEndSpec | None = None,
    source: str = "freqrob",
    weights: str | None = None,
) -> FrontEnded:
    """A trained model on the CPU in eval mode: pixels (N, C, H, W) in [0, 1] → logits (N, num_classes).

    The weights come from the first of: ``custom_checkpoint``;
    ``model_dir/<dataset>/<threat_model>/<model_name>.safetensors``; the package; a download into ``model_dir`` from the
    location on a card in one of the two; a plug-in package (``freqrob.models.plugins``). The front ends of the model's
    card are included; ``model.network`` is the network without them.

    Args:
        model_name: ``[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>``, or any name with a card.
        model_dir: folder of trained and downloaded models.
        dataset: cifar10, cifar100, svhn, tiny_imagenet, restricted_imagenet or imagenet, or RobustBench's enum; the
            suffix ``_grayscale`` means a model of images in grey levels.
        threat_model: Linf, L2 or corruptions (corruptions_3d means corruptions), or RobustBench's enum.
        custom_checkpoint: the file to load (.safetensors, .pt, .pth, .ckpt, .bin, .th, .pth.tar). Without a card
            (.json), architecture and front ends are those of ``model_name``, pixels are not normalised, and a prefix of
            wrappers, such as ``module.``, is removed from the keys, with a warning.
        front_end: a front end before all others: ``"bass"`` (protocol ``natural+bass``) or
            ``{"name": "bass", "weighting": "power"}``. Not ``"pca"``, whose components come with a trained model.
        source: ``"robustbench"`` loads RobustBench's model of this name, through RobustBench, which downloads it into
            ``model_dir`` if it is missing; or a source that another package registered
            (``freqrob.models.sources.register_source``).
        weights: which of several state dicts in ``custom_checkpoint``: ``"ema"`` for averaged weights, or a key of the
            file, such as ``"model_ema"``. By default the weights that are not averaged; a warning names the others.

    Raises:
        ValueError: an unknown data set, threat model, front end or source, BaSS for a model that already has it, or
            ``weights`` that the file does not have.
        ImportError: the package that ``source`` or a plug-in needs is missing.
        FileNotFoundError: no such model; the message lists the paths that were searched and how to train it.
        CheckpointError: (a ValueError) the file or its card is damaged or does not belong to this model.
        OSError: a download failed.

    >>> import torch
    >>> load_model("pgd_at_rn20")(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    target = target_of(dataset, threat_model, model_dir)
    if weights is not None and not custom_checkpoint:
        raise ValueError(
            f"weights: got {weights!r}, which chooses from a file's state dicts: expected a custom_checkpoint too"
        )
    if source == "freqrob":
        model = _load_from_freqrob(model_name, target, custom_checkpoint, weights)
    elif custom_checkpoint:
        raise ValueError(
            f"custom_checkpoint: {source}'s models have their own weights, got {str(custom_checkpoint)!r}; omit it"
        )
    else:
        model = _load_from(source, model_name, target)
    front_ends = [*_added(front_end, model_name, model), *model.front_ends]
    return FrontEnded(front_ends, model.network, model.preprocessing).eval()


@checked
def load_card(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
) -> Card:
    """The card of a model that ``load_model`` would find, without its weights. Raises as ``load_model``."""
    target = target_of(dataset, threat_model, model_dir)
    for path in _places(model_name, target):
        if card_path(path).is_file():
            return Card.read(card_path(path))
    raise FileNotFoundError(_not_found(model_name, target))


@checked
def list_models(
    pattern: str = "*",
    dataset: str | Enum | None = None,
    threat_model: str | Enum | None = None,
    model_dir: str | Path = "./models",
) -> list[str]:
    """Sorted names that ``load_model`` can load, by a shell-style pattern: from the package, ``model_dir``, plug-ins.

    Includes all data sets and threat models unless one is given. Raises ValueError for unknown ones. Warns about JSON
    files that are not cards, and skips them.

    >>> list_models("*trades*")
    ['bass_trades_rn20', 'trades_rn20']
    """
    known_dataset, known_threat = check_names(dataset or "cifar10", threat_model or "Linf")
    datasets = [known_dataset] if dataset else [*DATASETS, *map(grayscale_name, DATASETS)]
    threats = [known_threat] if threat_model else list(THREAT_MODELS)
    folders = [
        root / dataset / threat
        for root in (expanded(model_dir, "model_dir"), shipped_folder())
        for dataset in datasets
        for threat in threats
    ]
    names = {path.stem for folder in folders for path in folder.glob("*") if _is_model(path)}
    offered = {model.name for model in _plugins() if model.dataset in datasets and model.threat_model in threats}
    return sorted(name for name in names | offered if fnmatchcase(name, pattern))


@checked
def checkpoint_path(
    model_name: str,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
) -> Path:
    """``model_dir/<dataset>/<threat_model>/<model_name>.safetensors``: training writes it, loading tries it first.

    Raises ValueError for unknown data sets and threat models, and for a name that could leave the folder.
    """
    dataset, threat_model = check_names(dataset, threat_model)
    if len(os.fsencode(model_name)) > LONGEST_NAME:
        raise ValueError(
            f"model_name: got {model_name[:40]!r}… of {len(model_name):,} characters, expected at most {LONGEST_NAME}"
        )
    if not _NAME.fullmatch(model_name):
        raise ValueError(f"model_name: got {model_name!r}, expected letters, digits, '_', '-', '+' and '.' only")
    return expanded(model_dir, "model_dir") / dataset / threat_model / f"{model_name}.safetensors"


@checked
def check_names(dataset: str | Enum, threat_model: str | Enum) -> tuple[str, str]:
    """Both names as strings, from strings or RobustBench's enums. Raises ValueError for unknown ones."""
    dataset, threat_model = (str(getattr(name, "value", name)) for name in (dataset, threat_model))
    threat_model = threat_model.removesuffix("_3d")
    for name, value, known in (("dataset", dataset, DATASETS), ("threat_model", threat_model, THREAT_MODELS)):
        if value not in known:
            hint = nearest_names(value, known)
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}.{hint}")
    return dataset, threat_model


def target_of(dataset: str | Enum, threat_model: str | Enum, model_dir: str | Path) -> Target:
    """The ``Target`` of a data set, threat model and folder. Raises ValueError as ``check_names``."""
    dataset, threat_model = check_names(dataset, threat_model)
    return Target(dataset, threat_model, DATASETS[dataset].classes, expanded(model_dir, "model_dir"))


def _load_from(source: str, model_name: str, target: Target) -> FrontEnded:
    """A model of another package's source."""
    zoos = SOURCES.foreign()
    if source not in zoos:
        hint = nearest_names(source, zoos)
        opened = f" open_model({source + ':NAME'!r}) opens its models." if source in SOURCES else ""
        raise ValueError(f"source: got {source!r}, expected one of {', '.join(['freqrob', *zoos])}.{hint}{opened}")
    model = SOURCES[source](model_name, target)
    return model if isinstance(model, FrontEnded) else FrontEnded([], model.cpu())


def _load_from_freqrob(model_name: str, target: Target, checkpoint: str | Path, weights: str | None) -> FrontEnded:
    path = expanded(checkpoint, "custom_checkpoint") if checkpoint else _find_weights(model_name, target)
    if path is not None:
        return _load_checkpoint(path, model_name, target, weights)
    plugin = find_plugin(model_name, target.dataset, target.threat_model)
    if plugin is None:
        raise FileNotFoundError(_not_found(model_name, target))
    return FrontEnded([], plugin.open(target.num_classes).cpu())


def _load_checkpoint(path: Path, model_name: str, target: Target, weights: str | None) -> FrontEnded:
    state, card = load(path, weights)
    if card is None:
        card = _card_from_name(model_name, target, path, state)
    _check_card(card, model_name, target, path)
    with torch.device("meta"):  # before a damaged card makes it allocate memory
        empty = _create_model(card, path)
        state, prefix = fit_keys(state, checkpoint_state(empty).keys())
        check_state(empty, state, path, card.architecture)
    if prefix and prefix != "network.":  # of FrontEnded itself
        warn(f"{path}: loaded without the prefix {prefix!r} of its keys")
    model = _create_model(card, path)
    load_into(model, state, path, card.architecture)
    return model


def shipped_folder() -> Path:
    """The folder of the models in the package."""
    return Path(str(resources.files("freqrob.models") / "weights"))


def _plugins() -> Iterator[PluginModel]:
    """The models of plug-ins; warns about those with an unknown data set or threat model or a shipped name."""
    for model in plugin_models():
        place = shipped_folder() / model.dataset / model.threat_model / f"{model.name}.safetensors"
        if model.dataset not in DATASETS or model.threat_model not in THREAT_MODELS:
            known = f"{', '.join(DATASETS)} and {', '.join(THREAT_MODELS)}"
            warn(f"{model}: left out, expected a data set and a threat model of {known}")
        elif place.is_file():
            warn(f"{model}: left out, freqrob's own model has this name")
        else:
            yield model


def _is_model(path: Path) -> bool:
    """Whether ``path`` is a weights file, or a card with a download location. Warns about other JSON files."""
    if path.suffix == ".safetensors":
        return bool(_NAME.fullmatch(path.stem)) and path.is_file()
    weights = path.with_suffix(".safetensors")
    if path.suffix != ".json" or not _NAME.fullmatch(path.stem) or not path.is_file() or weights.is_file():
        return False
    try:
        return bool(download_url(Card.read(path)))
    except (CheckpointError, OSError) as error:
        warn(f"left out: {error}")
        return False


def _places(model_name: str, target: Target) -> list[Path]:
    """The files that may hold the weights; downloads go to the first."""
    folders = (target.model_dir, shipped_folder())
    return [checkpoint_path(model_name, folder, target.dataset, target.threat_model) for folder in folders]


def _find_weights(model_name: str, target: Target) -> Path | None:
    places = _places(model_name, target)
    for path in places:
        if path.is_file():
            return path
    for path in places:
        card = Card.read(card_path(path)) if card_path(path).is_file() else None
        if card is not None and download_url(card):
            download(card, places[0].absolute())
            return places[0]
    return None


def _not_found(model_name: str, target: Target) -> str:
    dataset, threat_model, model_dir = target.dataset, target.threat_model, str(target.model_dir)
    places = _places(model_name, target)
    lines = [f"model_name: no model {model_name!r} for {dataset}, {threat_model}. Looked for"]
    lines += [f"  {path.absolute()}" for path in places]
    lines += ["  and cards (.json) of this name with a download location."]
    available = list_models("*", dataset, threat_model, model_dir)
    lines += [f"Loadable here: {', '.join(available) or 'none'}.{nearest_names(model_name, available)}"]
    other = grayscale_name(dataset) if colour_name(dataset) == dataset else colour_name(dataset)
    if other in DATASETS and model_name in list_models("*", other, threat_model, model_dir):
        lines += [f"It is there for {other}: {'add' if other != colour_name(other) else 'omit'} --grayscale."]
    trained_on = [name for name in DATASETS if model_name in list_models("*", name, threat_model, model_dir)]
    if set(trained_on) - {other}:
        lines += [f"It was trained on {', '.join(trained_on)}: for these images, add --trained-on {trained_on[0]}."]
    if model_name.lower().endswith(SUFFIXES):
        named = f"To open a weights file, put a name with its architecture before it: standard_rn18={model_name}."
        return "\n".join([*lines, f"{named} {_OWN_NETWORK}"])
    try:
        ModelName.parse(model_name)
    except ValueError:
        return "\n".join([*lines, f"No recipe has this name either.{nearest_names(model_name, all_model_names())}"])
    options = {
        "--dataset": (dataset, "cifar10"),
        "--threat-model": (threat_model, "Linf"),
        "--model-dir": (model_dir, "models"),
    }
    chosen = [f" {option} {shlex.quote(value)}" for option, (value, default) in options.items() if value != default]
    command = f"freqrob train {model_name}{''.join(chosen)}"
    return "\n".join(
        [
            *lines,
            f"To train it: {command}",
            f"  on 8 GPUs: torchrun --nproc-per-node 8 -m {command}",
            f"  how long that takes: freqrob recipes {model_name} --cost",
        ]
    )


def _card_from_name(model_name: str, target: Target, path: Path, state: Mapping[str, Tensor]) -> Card:
    """Infer a card from the model's name, for weights without a card; ``state`` gives the size of a PCA."""
    try:
        name = ModelName.parse(model_name)
    except ValueError as error:
        raise ValueError(f"{error} {_OWN_NETWORK}") from None
    front_ends = variant_front_ends(name.variant, (3, 32, 32))
    in_front = {
        name: tensor.shape
        for key, tensor in state.items()
        for name in ("mean", "components")
        if f".{key}".endswith(f".front_ends.0.{name}")
    }
    if name.variant == "pca" and len(in_front) == 2:
        components = (*in_front["components"], 0)[0]
        front_ends = variant_front_ends(name.variant, in_front["mean"], components=components)
    assumed = "".join(f" behind {spec['name']}" for spec in front_ends)
    warn(
        f"{path} has no card: loaded as {name.architecture}{assumed} on pixels in [0, 1]; if it was trained on "
        "normalised pixels, give it a card that names them, as the manual's page about own checkpoints shows"
    )
    return Card(str(name), name.architecture, target.dataset, target.threat_model, target.num_classes, front_ends)


def _check_card(card: Card, model_name: str, target: Target, path: Path) -> None:
    expected = {"dataset": target.dataset, "threat_model": target.threat_model}
    with suppress(ValueError):  # a name outside the grammar does not give an architecture
        expected["architecture"] = ModelName.parse(model_name).architecture
    for key, value in expected.items():
        if (got := getattr(card, key)) != value:
            remedy = "" if key == "architecture" else f"; use {key}={got!r}"
            if key == "dataset" and colour_name(got) != colour_name(value):
                remedy += f" (--trained-on {got})"
            raise CheckpointError(f"{path}: expected {key} {value!r}, its card has {got!r}{remedy}")


def _create_model(card: Card, path: Path) -> FrontEnded:
    try:
        channels = DATASETS[card.dataset].channels if card.dataset in DATASETS else 3
        model = with_front_ends(create_network(card.architecture, card.num_classes, channels), card.front_ends)
    except ValueError as error:
        reason = brief(str(error))
        raise CheckpointError(f"{path}: its card names a model that cannot be created: {reason}") from error
    if card.recipe.get("crop") == "resized" and card.dataset in DATASETS:  # it was trained and validated on photographs
        model.preprocessing = Preprocessing.central(DATASETS[card.dataset].size)
    return model


def _added(front_end: FrontEndSpec | None, model_name: str, model: FrontEnded) -> list[nn.Module]:
    """The front end that the caller adds, if any."""
    if front_end is None:
        return []
    name, module = front_end_name(front_end), create_front_end(front_end)
    if name == "bass" and any(type(existing) is type(module) for existing in front_ends_of(model)):
        raise ValueError(f"front_end: {model_name} already has BaSS as a front end")
    if module.state_dict():
        raise ValueError(f"front_end: got {name!r}, which only a model trained with it has")
    return [module]
