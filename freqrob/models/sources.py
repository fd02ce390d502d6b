"""Models from anywhere: ``open_model`` reads what a command line names, ``as_module`` takes what Python holds."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from freqrob.models.front_ends import FrontEnded, InputSize, Normalize
from freqrob.models.loading import DATASET_CLASSES, check_names, load_model
from freqrob.models.plugins import build, failures_named
from freqrob.models.wrappers import as_module
from freqrob.parameters import checked, nearest_names

__all__ = ["InputSize", "as_module", "open_model", "tensors_only"]

GRAMMAR = (
    "a name (`freqrob models` lists them), NAME=weights.pt, robustbench:NAME, timm:NAME, hub:OWNER/REPO:MODEL "
    "or package.module:function"
)


@checked
def open_model(
    spec: str,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
) -> nn.Module:
    """The model that a spec names, on the CPU in eval mode: pixels (N, C, H, W) in [0, 1] → logits (N, K).

    =============================== ====================================================================================
    ``bass_pgd_at_rn20``            of freqrob or of a package that plugs into it, as ``load_model`` finds it
    ``NAME=weights.pt``             a file with the weights of the network that NAME (of freqrob) stands for
    ``robustbench:NAME``            of RobustBench's zoo for ``dataset`` and ``threat_model``, kept in ``model_dir``
    ``timm:NAME``                   pretrained, behind timm's own input size and normalisation
    ``hub:OWNER/REPO[:REF]:MODEL``  of torch.hub, **which runs the repository's code**: only with ``?trust_repo=True``
    ``package.module:function``     what the function returns; modules of the working directory are found
    =============================== ====================================================================================

    The last two take arguments: ``hub:me/zoo:net?trust_repo=True&pretrained=True``, ``mine.nets:wide?width=4``. A
    function that has a parameter ``num_classes`` gets the data set's unless it is given. What weights it loads, and
    that pixels are normalised, is the function's affair.

    Raises:
        ValueError: a spec, name or argument that is not known, a model with another number of classes, or code that
            fails, with its own error as the cause.
        ImportError: the package that the spec needs is not installed, or the function's module cannot be imported.
        FileNotFoundError, CheckpointError, OSError: as ``load_model``.
    """
    dataset, threat_model = check_names(dataset, threat_model)
    if checkpoint := re.fullmatch(r"(\w[\w.+-]*)=(.+)", spec):
        name, path = checkpoint.groups()
        return load_model(name, model_dir, dataset, threat_model, custom_checkpoint=path)
    source, colon, name = spec.partition(":")
    if not colon:
        return load_model(spec, model_dir, dataset, threat_model)
    if not source or not name:
        raise ValueError(f"model: got {spec!r}, expected {GRAMMAR}")
    if source == "robustbench":
        return load_model(name, model_dir, dataset, threat_model, source="robustbench")
    opener = {"timm": _open_timm, "hub": _open_hub}.get(source, _open_function)
    with failures_named(f"model: {spec}"):
        return opener(spec, DATASET_CLASSES[dataset]).cpu().eval()


@contextmanager
def tensors_only() -> Iterator[None]:
    """Whatever calls ``torch.load`` within reads tensors only: no pickle runs code, even where the caller allows it."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _open_timm(spec: str, num_classes: int) -> nn.Module:
    timm = _required("timm", spec)
    name = spec.removeprefix("timm:")
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest_names(name, timm.list_models())}")
    try:
        settings = timm.models.get_pretrained_cfg(name)
        if settings and settings.num_classes != num_classes:
            raise ValueError(f"model: {spec} has {settings.num_classes} classes, the data set has {num_classes}")
        _announce(f"Loading {name} with timm, which downloads its weights where they are not in its cache")
        with tensors_only(), redirect_stdout(sys.stderr):
            network = timm.create_model(name, pretrained=True)
    except RuntimeError as error:
        raise ValueError(f"model: {spec} has no pretrained weights that can be loaded: {error}") from error
    except OSError as error:
        raise OSError(f"model: could not download {spec} ({error}); HF_HOME says where to") from error
    if settings is None:  # a plug-in's, which is complete in itself
        return network
    return FrontEnded([InputSize(settings.input_size[1:]), Normalize(settings.mean, settings.std)], network)


def _open_hub(spec: str, num_classes: int) -> nn.Module:
    path, arguments = _arguments(spec.removeprefix("hub:"))
    repository, colon, name = path.rpartition(":")
    if not colon or "/" not in repository:
        raise ValueError(f"model: got {spec!r}, expected hub:OWNER/REPO:MODEL")
    local = Path(repository).expanduser().is_dir()
    where = repository if local else f"https://github.com/{repository.partition(':')[0]}"
    if arguments.pop("trust_repo", False) is not True:
        raise ValueError(
            f"model: {spec} would run the code of {where} on this machine. If you trust it, say so: "
            f"{spec}{'&' if '?' in spec else '?'}trust_repo=True"
        )
    _announce(f"Running the code of {where} with torch.hub, which keeps what it downloads in {torch.hub.get_dir()}")
    origin = {"source": "local"} if local else {"trust_repo": True}
    try:
        with redirect_stdout(sys.stderr):
            return build(partial(torch.hub.load, repository, name, **origin), spec, num_classes, arguments)
    except RuntimeError as error:
        raise ValueError(f"model: {spec} cannot be loaded: {error}") from error
    except OSError as error:
        raise OSError(f"model: could not download {spec} ({error}); TORCH_HOME says where to") from error


def _open_function(spec: str, num_classes: int) -> nn.Module:
    path, arguments = _arguments(spec)
    module_name, _, function_name = path.partition(":")
    with _importable_from(os.getcwd()):
        try:
            module = import_module(module_name)
        except (ImportError, TypeError, ValueError) as error:
            raise ImportError(f"model: got {spec!r}, expected {GRAMMAR}. Cannot import {path!r}: {error}") from error
        if not hasattr(module, function_name):
            near = nearest_names(function_name, (name for name in vars(module) if not name.startswith("_")))
            raise ValueError(f"model: {module_name} has no {function_name!r}.{near}")
        return build(getattr(module, function_name), spec, num_classes, arguments)


def _arguments(path: str) -> tuple[str, dict[str, Any]]:
    """``"a:b?width=4&kind=wide"`` as ``("a:b", {"width": 4, "kind": "wide"})``."""
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


@contextmanager
def _importable_from(folder: str) -> Iterator[None]:
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _required(package: str, spec: str) -> ModuleType:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"model: {spec} needs {package}, which is not installed: pip install {package}") from error


def _announce(text: str) -> None:
    print(text, file=sys.stderr)
