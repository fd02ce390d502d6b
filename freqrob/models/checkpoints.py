"""Checkpoints: a network's tensors in safetensors, and its card in a JSON file of the same name.

The bare network's state dict keeps its names. Tensors that front ends have learnt from data (PCA only) are named
``front_ends.<index>.<name>``.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from freqrob.models.cards import Card, CheckpointError
from freqrob.models.state_dicts import fit_keys, is_averaged, select_state
from freqrob.runtime.files import locked, replacing, sha256_of, write_synced, write_text
from freqrob.runtime.parameters import checked
from freqrob.runtime.reading import brief, mistaken_for_data, read_safetensors, read_torch
from freqrob.runtime.warning import warn

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".th", ".pth.tar")


def card_path(path: str | Path) -> Path:
    """The path of a weights file's card: the same name with the suffix .json."""
    return Path(path).with_suffix(".json")


def checkpoint_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model``, with front ends or bare, without the prefix ``network`` of its keys."""
    return {key.removeprefix("network."): value for key, value in model.state_dict().items()}


@checked
def save(path: str | Path, state: Mapping[str, Tensor], card: Card, dtype: torch.dtype | None = None) -> Card:
    """Write ``state`` (of ``checkpoint_state``) to ``path`` (.safetensors), and the card with its sha256.

    ``dtype`` (``torch.float16``) is the storage type of floating-point kernels and matrices, including principal
    components (which changes pixels of CIFAR-10 by 1/50 of a grey level, at most 1/6). Vectors (batch norm, biases),
    integers, and tensors that would overflow keep their dtype. Both files are complete on disk before either replaces
    an earlier one. Returns the card as written. Raises ValueError for another suffix, OSError when writing fails (a
    full disk), with the earlier files intact.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: got {str(path)!r}, expected a name ending in .safetensors")
    weights = safetensors.torch.save({key: _stored(value, dtype) for key, value in state.items()})
    created = card.created or datetime.now(timezone.utc).isoformat(timespec="seconds")
    card = replace(card, sha256=hashlib.sha256(weights).hexdigest(), created=created)
    with replacing(path) as new:
        write_synced(new, weights)
        write_text(card_path(path), card.to_json())  # first: weights without a card are loaded as their name says
    return card


@checked
def add_results(path: str | Path, results: Iterable[Mapping[str, Any]]) -> Card:
    """Write measurements into the card of the weights at ``path``; returns the card.

    They replace earlier ones of the same protocol, attack, parameters, images and seed. Raises FileNotFoundError if
    there is no card.
    """

    def replaces(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
        return all(new[key] == old[key] for key in new.keys() & old.keys() if key != "accuracy")

    written, new = card_path(path), [dict(result) for result in results]
    Card.read(written)  # before a lock file is created
    with locked(written.with_name(f".{written.name}.lock")):
        card = Card.read(written)
        kept = [old for old in card.results if not any(replaces(result, old) for result in new)]
        card = replace(card, results=[*kept, *new])
        write_text(written, card.to_json())
    return card


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if dtype is None or tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return cast if torch.isfinite(cast).all() else tensor


@checked
def load(path: str | Path, weights: str | None = None) -> tuple[dict[str, Tensor], Card | None]:
    """Read the state dict at ``path`` (``SUFFIXES``, in any case) and its card, if there is one.

    Floating-point tensors are returned as float32, on the CPU. Pickles are read with ``weights_only=True``. State dicts
    in files of other programs may be nested: ``weights`` chooses one of several, as for ``select_state``; without it, a
    warning says which was read if there are several.

    Raises FileNotFoundError; ValueError for ``weights`` that the file does not have; CheckpointError for a file that is
    truncated, corrupt, a web page or a Git LFS pointer, holds more than tensors, or does not have the card's sha256.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    card = Card.read(card_path(path)) if card_path(path).is_file() else None
    if card is not None and card.sha256:
        check_sha256(path, card.sha256)
    state, key, others = select_state(_read(path), path, weights)
    if weights is None and (others or is_averaged(key)):
        also = f"; it also has {', '.join(map(brief, others))}, which weights= (--weights) chooses" if others else ""
        warn(f"{path}: read {brief(key)}{also}")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, card


@checked
def load_weights(network: nn.Module, path: str | Path, weights: str | None = None) -> nn.Module:
    """Load a weights file into a network of your own; returns the network.

    The file is read as by ``load``: the state dict may be nested, ``weights`` chooses one of several, and a pickle runs
    no code. A prefix of wrappers, such as ``module.`` of ``DataParallel`` and ``_orig_mod.`` of ``torch.compile``, is
    removed from its keys.

    Raises FileNotFoundError, ValueError and CheckpointError as ``load``; CheckpointError for keys or shapes other than
    the network's, which is then unchanged.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/linear.pt"
    >>> torch.save({"state_dict": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}, "epoch": 3}, path)
    >>> load_weights(nn.Linear(2, 1), path).weight
    Parameter containing:
    tensor([[1., 1.]], requires_grad=True)
    """
    state, _ = load(path, weights)
    state, _ = fit_keys(state, checkpoint_state(network).keys())
    load_into(network, state, path, type(network).__name__)
    return network


def check_sha256(path: Path, expected: str, shown_as: str | Path | None = None) -> None:
    """Raise CheckpointError, naming ``shown_as`` or the path, unless the file's sha256 is ``expected``."""
    actual = sha256_of(path)
    if actual != expected.lower() and (instead := mistaken_for_data(path)):
        raise CheckpointError(f"{shown_as or path}: {instead}")
    if actual != expected.lower():
        raise CheckpointError(
            f"{shown_as or path}: sha256 is {actual}, the card expects {expected}: "
            "the file is incomplete, was changed, or belongs to another card"
        )


def _read(path: Path) -> object:
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise CheckpointError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        return (read_safetensors if name.endswith(".safetensors") else read_torch)(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path, architecture: str) -> None:
    """Copy ``state`` (with the names of ``checkpoint_state``) into ``model``, with front ends or bare.

    Raises CheckpointError as ``check_state``.
    """
    check_state(model, state, source, architecture)
    model.load_state_dict({key: state[key.removeprefix("network.")] for key in model.state_dict()})


def check_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path, architecture: str) -> None:
    """Raise CheckpointError unless ``state`` fits ``model``, which may be on the meta device.

    The message names ``source``, the ``architecture``, keys that are missing, unexpected, of another shape or not of
    floats, some of the expected keys and of those in the file, and the remedy.
    """
    expected = checkpoint_state(model)
    missing = [f"{key} is missing" for key in expected if key not in state]
    unexpected = [f"{key} is unexpected" for key in state if key not in expected]
    both = [(key, state[key], value) for key, value in expected.items() if key in state]
    shapes = [
        f"{key} is {tuple(tensor.shape)}, expected {tuple(value.shape)}"
        for key, tensor, value in both
        if tensor.shape != value.shape
    ]
    dtypes = [
        f"{key} is {tensor.dtype}, expected {value.dtype}"
        for key, tensor, value in both
        if tensor.is_complex() or (value.is_floating_point() and not tensor.is_floating_point())
    ]
    problems = missing + unexpected + shapes + dtypes
    if not problems:
        return
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    listed = "; ".join(brief(problem) for problem in problems[:3])
    remedy = "choose the data set and the architecture that they were trained with"
    if missing or unexpected:
        counts = f"Expected {_some(expected)}, found {_some(state)}"
        remedy = f"{counts}. Name the weights' own architecture, or open them as package.module:function"
    raise CheckpointError(f"{source}: not the weights of {architecture}: {listed}{more}. {remedy}")


def _some(keys: Collection[str]) -> str:
    """``"130 keys (conv1.weight, bn1.weight, …)"``."""
    shown = ", ".join(brief(key, 60) for key in [*keys][:2])
    return f"{len(keys)} keys ({shown}{', …' if len(keys) > 2 else ''})"
