"""Checkpoints: a network's tensors in safetensors, and its card in a JSON file of the same name.

The bare network's state dict keeps its names. Tensors that front ends have learnt from data (PCA only) are named
``front_ends.<index>.<name>``.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from freqrob.models.cards import Card, CheckpointError
from freqrob.runtime.files import locked, sha256_of, temporary_beside, write_synced, write_text
from freqrob.runtime.parameters import checked
from freqrob.runtime.reading import read_safetensors, read_torch


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
    components (which changes CIFAR-10's images by 1/50 grey level, at most 1/6). Vectors (batch norm,
    biases), integers, and tensors that would overflow keep their dtype. Both files are complete on disk before either
    replaces an earlier one. Returns the card as written. Raises ValueError for another suffix, OSError when writing
    fails (a full disk), with the earlier files intact.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: got {str(path)!r}, expected a name ending in .safetensors")
    weights = safetensors.torch.save({key: _stored(value, dtype) for key, value in state.items()})
    created = card.created or datetime.now(timezone.utc).isoformat(timespec="seconds")
    card = replace(card, sha256=hashlib.sha256(weights).hexdigest(), created=created)
    with temporary_beside(path) as new_weights:
        write_synced(new_weights, weights)
        write_text(card_path(path), card.to_json())  # first: weights without a card are loaded as their name says
        os.replace(new_weights, path)
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
def load(path: str | Path) -> tuple[dict[str, Tensor], Card | None]:
    """Read the state dict at ``path`` (.safetensors, .pt or .pth) and its card, if there is one.

    Floating-point tensors are returned as float32, on the CPU. Pickles are read with ``weights_only=True``.
    Raises FileNotFoundError, or CheckpointError for a file that is truncated, corrupt, holds more than tensors, or
    does not have the card's sha256.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    card = Card.read(card_path(path)) if card_path(path).is_file() else None
    if card is not None and card.sha256:
        check_sha256(path, card.sha256)
    state = _read_state(path)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, card


def check_sha256(path: Path, expected: str, shown_as: str | Path | None = None) -> None:
    """Raise CheckpointError, naming ``shown_as`` or the path, unless the file's sha256 is ``expected``."""
    actual = sha256_of(path)
    if actual != expected.lower():
        raise CheckpointError(
            f"{shown_as or path}: sha256 is {actual}, the card expects {expected}: "
            "the file is incomplete, was changed, or belongs to another card"
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    readers = {".safetensors": read_safetensors, ".pt": read_torch, ".pth": read_torch}
    if path.suffix not in readers:
        raise CheckpointError(f"{path}: expected a file ending in {', '.join(readers)}")
    try:
        return _unwrap(path, readers[path.suffix](path))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _unwrap(path: Path, state: object) -> dict[str, Tensor]:
    """The tensors by name, without an enclosing ``{"state_dict": ...}`` and DataParallel's prefix ``module``."""
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict (tensors by name), got {type(state).__name__}")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path, architecture: str) -> None:
    """Copy ``state`` (with the names of ``checkpoint_state``) into ``model``, with front ends or bare.

    Raises CheckpointError as ``check_state``.
    """
    check_state(model, state, source, architecture)
    model.load_state_dict({key: state[key.removeprefix("network.")] for key in model.state_dict()})


def check_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path, architecture: str) -> None:
    """Raise CheckpointError unless ``state`` fits ``model``, which may be on the meta device.

    The message names ``source``, the ``architecture``, and the keys that are missing, unexpected, of another shape, or
    not floats although the model's are.
    """
    expected = checkpoint_state(model)
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unexpected" for key in state if key not in expected]
    both = [(key, state[key], value) for key, value in expected.items() if key in state]
    problems += [
        f"{key} is {tuple(tensor.shape)}, expected {tuple(value.shape)}"
        for key, tensor, value in both
        if tensor.shape != value.shape
    ]
    problems += [
        f"{key} is {tensor.dtype}, expected {value.dtype}"
        for key, tensor, value in both
        if tensor.is_complex() or (value.is_floating_point() and not tensor.is_floating_point())
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source}: not the weights of {architecture}: {'; '.join(problems[:3])}{more}")
