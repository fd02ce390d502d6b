"""State dicts as other programs save them: nested, averaged, with the prefixes of wrappers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from freqrob.models.cards import CheckpointError
from freqrob.runtime.reading import brief

NESTS = ("state_dict", "model_state_dict", "model", "net")  # in order of preference
EMA_NESTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "network.")
DEEPEST = 3  # nested nests


def select_state(
    content: object, source: str | Path, weights: str | None = None
) -> tuple[dict[str, Tensor], str, list[str]]:
    """The state dict in the ``content`` of a file.

    Args:
        content: a state dict, or a mapping that contains state dicts beside other entries.
        source: the file, for messages.
        weights: which of several state dicts: ``"ema"`` for averaged weights, or the key, such as ``"model_ema"``. By
            default the first of ``NESTS``, then of ``EMA_NESTS``, then the only one.

    Returns:
        The state dict, its key (``""`` for the content itself), and the keys of the others.

    Raises:
        CheckpointError: there is no state dict, or several under unknown keys.
        ValueError: no state dict has the kind or the key ``weights``.
    """
    every = dict(_state_dicts(content))
    if not every:
        raise CheckpointError(f"{source}: expected a state dict (tensors by name), got {_described(content)}")
    largest = max(map(len, every.values()))
    found = {key: state for key, state in every.items() if 2 * len(state) >= largest}  # not those of a random generator
    if weights is not None:
        key = _chosen(every, source, weights)
    else:
        known = (key for nest in (*NESTS, *EMA_NESTS) for key in found if key == nest or key.startswith(f"{nest}."))
        key = next(known, None if len(found) > 1 else next(iter(found)))
    if key is None:
        raise CheckpointError(
            f"{source}: it has several state dicts, {', '.join(map(brief, found))}; choose one with "
            f'weights="{brief(next(iter(found)))}" (--weights)'
        )
    state = {str(name): tensor for name, tensor in every[key].items()}
    return state, key, [other for other in found if other != key]


def is_averaged(key: str) -> bool:
    """Whether the key of a state dict says that its weights are averaged."""
    return key.partition(".")[0] in EMA_NESTS or "ema" in re.split(r"[._]", key.lower())


def fit_keys(state: Mapping[str, Tensor], expected: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Rename the keys of ``state`` to the ``expected`` ones as far as wrappers explain the difference.

    Removes the prefix (one or more of ``PREFIXES`` in a row) whose removal yields the most expected keys.
    What no forward pass uses is left out: ``n_averaged`` of ``torch.optim.swa_utils.AveragedModel``, and
    ``sub_block1`` of the wide ResNets of TRADES (Zhang et al. 2019) and the code that builds on it.
    ``num_batches_tracked``, which a network in eval mode does not use, is added as 0 if it is missing.

    Returns:
        The state dict, whose other keys are unchanged, and the prefix, ``""`` for none.
    """
    prefixes = sorted({prefix for key in state for prefix in _prefixes(key)}, key=len)
    fitting = [sum(prefix + key in state for key in expected) for prefix in prefixes]
    prefix = prefixes[fitting.index(max(fitting))] if prefixes else ""
    fitted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        bare = key.removeprefix(prefix)
        if bare in expected or not (bare.startswith("sub_block1.") or key.rpartition(".")[2] == "n_averaged"):
            fitted[key if bare != key and bare in state else bare] = tensor
    for key in expected:
        if key.rpartition(".")[2] == "num_batches_tracked":
            fitted.setdefault(key, torch.tensor(0))
    return fitted, prefix


def _state_dicts(content: object, key: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state dicts in a file with their keys, joined by dots; also those of whole models that were unpickled."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, content
    elif not key or (key.rpartition(".")[2] in (*NESTS, *EMA_NESTS) and key.count(".") < DEEPEST):
        for name, value in content.items():
            yield from _state_dicts(value, f"{key}.{name}" if key else str(name))


def _chosen(found: Mapping[str, object], source: str | Path, weights: str) -> str:
    if weights in found:
        return weights
    averaged = [key for key in found if is_averaged(key)]
    if weights == "ema" and averaged:
        return averaged[0]
    named = ", ".join(brief(key) for key in found if key) or "a single state dict"
    expected = "averaged weights" if weights == "ema" else f"{weights!r}"
    raise ValueError(f"weights: {source} has no {expected}, but {named}")


def _prefixes(key: str) -> Iterator[str]:
    """``""``, ``"module."``, ``"module.model."``, … as far as a key begins with them."""
    prefix = ""
    while prefix is not None:
        yield prefix
        prefix = next((prefix + one for one in PREFIXES if key.startswith(prefix + one)), None)


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    in_order = sorted(content.items(), key=lambda entry: isinstance(entry[1], Tensor))  # first what should not be there
    entries = [f"{brief(str(key), 40)} ({type(value).__name__})" for key, value in in_order]
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"a {type(content).__name__} of {', '.join(entries[:5]) or 'nothing'}{more}"
