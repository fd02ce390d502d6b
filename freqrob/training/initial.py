"""The weights that a network starts from, instead of random ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from freqrob.models.cards import CheckpointError
from freqrob.models.checkpoints import SUFFIXES, checkpoint_state, load, load_into
from freqrob.models.front_ends import FrontEnded, Normalize, create_front_end, front_end_name, front_ends_of, network_of
from freqrob.models.sources import open_model
from freqrob.models.state_dicts import fit_keys
from freqrob.runtime.tensors import update_digest
from freqrob.training.recipe import Recipe

Normalization = tuple[list[float], list[float]]
_REMEDY = (
    "a classifier is not replaced: train on images of the same classes, or replace it yourself and pass a file with "
    "the state dict"
)


@dataclass(frozen=True)
class InitialWeights:
    """The state dict of a network, and the SHA-256 of its names and values.

    ``normalize`` is the mean and the standard deviation that its pixels were normalised with; None if it is not known.
    """

    state: Mapping[str, Tensor]
    sha256: str
    normalize: Normalization | None


def read_initial_weights(recipe: Recipe, num_classes: int, model_dir: str | Path) -> InitialWeights:
    """The network of ``recipe.initial_weights``; its front ends are left out, because they are the recipe's.

    Args:
        recipe: names a weights file (.safetensors, .pt, …), or a model as ``open_model`` takes it.
        num_classes: of the training images.
        model_dir: folder of trained and downloaded models.

    Raises:
        ValueError: a model with another number of classes.
        FileNotFoundError, CheckpointError, ImportError, OSError: as ``open_model``.
    """
    source = recipe.initial_weights
    if "=" not in source and source.lower().endswith(SUFFIXES):
        state, card = load(source)
        named = [] if card is None else [spec for spec in card.front_ends if front_end_name(spec) == "normalize"]
        normalize = None if card is None else _normalization(map(create_front_end, named))
    else:
        try:
            model = open_model(source, model_dir, recipe.dataset, recipe.threat_model, num_classes=num_classes)
        except ValueError as error:
            more = f"; {_REMEDY}" if " classes, the data set has " in str(error) else ""
            raise ValueError(f"initial_weights: {error}{more}") from error
        state, normalize = checkpoint_state(network_of(model)), _normalization(front_ends_of(model))
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        update_digest(digest, state[key])
    return InitialWeights(state, digest.hexdigest(), normalize)


def load_initial_weights(model: FrontEnded, weights: InitialWeights, recipe: Recipe) -> None:
    """Copy the weights into the network of ``model``.

    Raises ValueError if the weights are for pixels that are normalised in another way, CheckpointError for a classifier
    of another number of classes and for weights that do not fit the network.
    """
    source, expected = f"initial_weights: {recipe.initial_weights}", checkpoint_state(model.network)
    normalize = _normalization(model.front_ends)
    if weights.normalize not in (None, normalize):
        raise ValueError(
            f"{source} is for pixels with {_in_words(weights.normalize)}, the recipe's have {_in_words(normalize)}; "
            "change the setting normalize, or register a data set with that mean and standard deviation"
        )
    state, _ = fit_keys(weights.state, expected.keys())
    classifier = next(key for key in reversed(expected) if expected[key].ndim == 2)
    given, needed = state.get(classifier, expected[classifier]).shape, expected[classifier].shape
    if given[0] != needed[0] and given[1:] == needed[1:]:
        raise CheckpointError(f"{source} has {given[0]:,} classes, the images have {needed[0]:,}; {_REMEDY}")
    load_into(model.network, state, source, recipe.name_parts.architecture)


def _normalization(front_ends: Iterable[nn.Module]) -> Normalization:
    """Mean and standard deviation of the first ``Normalize``; those of pixels that are not normalised without one."""
    for front_end in front_ends:
        if isinstance(front_end, Normalize):
            return front_end.mean.flatten().tolist(), front_end.std.flatten().tolist()
    return [0.0], [1.0]


def _in_words(normalize: Normalization) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in normalize)
    return "no normalisation" if normalize == _normalization([]) else f"mean {mean} and standard deviation {std}"
