"""Shared by the sources: a spec's arguments, missing packages, a model's classes, errors of downloads, safe pickles."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from freqrob.data.datasets import DATASETS
from freqrob.models.cards import CheckpointError
from freqrob.models.front_ends import FrontEnded
from freqrob.models.registry import Target, list_sources
from freqrob.runtime.reading import without_advice


def grammar() -> str:
    """Description of the specs that ``open_model`` accepts, for messages."""
    sources = ", ".join(f"{name}:…" for name in list_sources())
    return f"a name (`freqrob models` lists them), NAME=weights.pt, {sources} or package.module:function"


def read_arguments(path: str) -> tuple[str, dict[str, Any]]:
    """Parse ``"a:b?width=4&kind=wide"`` into ``("a:b", {"width": 4, "kind": "wide"})``."""
    path, _, query = path.partition("?")
    arguments: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"model: expected arguments as ?name=value&name=value, got {pair!r}")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the errors that it documents
            arguments[key] = value
    return path, arguments


def required(package: str, spec: str) -> ModuleType:
    """Import the package that a spec needs. Raises ImportError, which says how to install it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise ImportError(
            f"model: {spec} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error


def check_target(spec: str, target: Target, classes: int | None, channels: int | None) -> None:
    """Raise ValueError unless the model's numbers of classes and channels, if known, fit the data set."""
    if classes not in (None, target.num_classes, target.subset_of):
        raise ValueError(f"model: {spec} has {classes} classes, the data set has {target.num_classes}")
    of_images = DATASETS[target.dataset].channels if target.dataset in DATASETS else 3
    if channels not in (None, of_images):
        raise ValueError(
            f"model: {spec} takes images with {channels} channel{'s' * (channels != 1)}, {target.dataset} has "
            f"{of_images}; open a function that converts them, package.module:function"
        )


class ClassSubset(nn.Module):
    """The logits of some classes of a network, in their order; all logits if their number is not ``num_classes``.

    Args:
        network: images to logits (N, num_classes).
        chosen: the indices of the classes.
        num_classes: the network's number of classes.
    """

    def __init__(self, network: nn.Module, chosen: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.network, self.chosen, self.num_classes = network, list(chosen), num_classes

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits[:, self.chosen] if logits.shape[1] == self.num_classes else logits

    def extra_repr(self) -> str:
        return f"{len(self.chosen)} of {self.num_classes} classes"


def with_classes(model: nn.Module, chosen: Sequence[int], num_classes: int) -> nn.Module:
    """A copy of the model that returns the logits of the ``chosen`` classes if the network has ``num_classes``."""
    if isinstance(model, FrontEnded):
        return FrontEnded(model.front_ends, ClassSubset(model.network, chosen, num_classes), model.preprocessing).eval()
    return ClassSubset(model, chosen, num_classes).eval()


def announce(text: str) -> None:
    """Print a text on stderr."""
    print(text, file=sys.stderr)


@contextmanager
def loading(spec: str, setting: str) -> Iterator[None]:
    """Turn errors of another package into errors that name ``spec``, and send its output to stderr.

    ``setting`` is the environment variable that sets its download folder.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (RuntimeError, CheckpointError) as error:
        raise ValueError(f"model: {spec} cannot be loaded: {error}") from error
    except OSError as error:
        raise OSError(f"model: could not download {spec} ({error}); {setting} sets the folder") from error


@contextmanager
def tensors_only() -> Iterator[None]:
    """Within the block ``torch.load`` reads tensors only: no pickle runs code, even with ``weights_only=False``.

    Raises CheckpointError, which names the type, for a file that holds more.
    """
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    except (UnpicklingError, RuntimeError) as error:
        if (reason := without_advice(error)) == str(error):
            raise
        raise CheckpointError(reason) from None
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})
