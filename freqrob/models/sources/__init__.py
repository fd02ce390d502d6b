"""Models from other packages: ``open_model`` by name, ``as_module`` from an object."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from importlib import import_module
from pathlib import Path

from torch import nn

from freqrob.models.loading import load_model, target_of
from freqrob.models.plugins import build, failures_named
from freqrob.models.registry import SOURCES, Target, list_sources, register_source
from freqrob.models.sources import hub, onnx, timm, torchvision  # noqa: F401 they register their sources
from freqrob.models.sources.common import grammar, read_arguments, tensors_only
from freqrob.models.wrappers import as_module
from freqrob.runtime.parameters import Count, checked, nearest_names

__all__ = ["Target", "as_module", "list_sources", "open_model", "register_source", "tensors_only"]


@checked
def open_model(
    spec: str,
    model_dir: str | Path = "./models",
    dataset: str | Enum = "cifar10",
    threat_model: str | Enum = "Linf",
    *,
    weights: str | None = None,
    num_classes: Count | None = None,
    subset_of: Count | None = None,
) -> nn.Module:
    """The model of a spec, on the CPU in eval mode: pixels (N, C, H, W) in [0, 1] → logits (N, K).

    =============================== ====================================================================================
    ``bass_pgd_at_rn20``            a model of freqrob or a plug-in, loaded by ``load_model``
    ``NAME=weights.pt``             a weights file for freqrob's network NAME
    ``robustbench:NAME``            from RobustBench's zoo for ``dataset`` and ``threat_model``, kept in ``model_dir``
    ``timm:NAME``                   pretrained, with timm's input size and normalisation; also ``timm:hf-hub:USER/NAME``
    ``torchvision:NAME``            the same from torchvision; default weights unless ``?weights=IMAGENET1K_V1``
    ``onnx:FILE``                   by ONNX Runtime, without gradients; ``?mean=(…)&std=(…)`` normalises the pixels
    ``hub:OWNER/REPO[:REF]:MODEL``  from torch.hub, **which runs the repository's code**: only with ``?trust_repo=True``
    ``package.module:function``     the function's return value; its module may be in the working directory
    =============================== ====================================================================================

    ``SOURCE:REST`` is opened by the source registered as ``SOURCE`` (``register_source``). Other packages add sources
    by the entry-point group ``freqrob.sources``; ``list_sources()`` lists all of them.

    ``freqrob.models.preprocessing.preprocessing_of(model)`` is the preprocessing of photographs for a model of timm,
    torchvision or RobustBench. ``weights`` chooses from the state dicts in a weights file, as in ``load_model``.
    ``num_classes`` is the number of the images' classes, if it is not the data set's; a model with ``subset_of``
    classes is accepted too (see ``freqrob.models.sources.common.with_classes``).

    The last two take arguments: ``hub:me/zoo:net?trust_repo=True&pretrained=True``, ``mine.nets:wide?width=4``. If the
    function has a parameter ``num_classes``, it gets the data set's number unless given. The function must load the
    weights, and its model must normalise the pixels.

    Raises:
        ValueError: an unknown spec, name or argument, a model with another number of classes, ``weights`` that the file
            does not have or without a file, or code that fails, with its error as the cause.
        ImportError: the package that the spec needs is not installed, or the function's module cannot be imported.
        FileNotFoundError, CheckpointError, OSError: as ``load_model``.

    >>> import torch
    >>> open_model("pgd_at_rn20")(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    target = target_of(dataset, threat_model, model_dir)
    target = replace(target, num_classes=num_classes or target.num_classes, subset_of=subset_of)
    if checkpoint := re.fullmatch(r"(\w[\w.+-]*)=(.+)", spec):
        name, path = checkpoint.groups()
        return load_model(name, model_dir, dataset, threat_model, custom_checkpoint=path, weights=weights)
    if weights is not None:
        raise ValueError(f"weights: got {weights!r} for {spec}; it needs a weights file, NAME=FILE")
    source, colon, name = spec.partition(":")
    if not colon:
        return load_model(spec, model_dir, dataset, threat_model)
    if not source or not name:
        raise ValueError(f"model: got {spec!r}, expected {grammar()}")
    with failures_named(f"model: {spec}"):
        model = SOURCES[source](name, target) if source in SOURCES else _open_function(spec, target)
        return model.cpu().eval()


def _open_function(spec: str, target: Target) -> nn.Module:
    """The function's model; the working directory is searched too. Raises ImportError if there is no such module."""
    path, arguments = read_arguments(spec)
    module_name, _, function_name = path.partition(":")
    with _importable_from(os.getcwd()):
        try:
            module = import_module(module_name)
        except (ImportError, TypeError, ValueError) as error:
            wrong = f"got {spec!r}, expected {grammar()}. Cannot import {path!r}: {error}."
            if module_name.endswith(".py"):
                wrong = f"got {spec!r}; write {'.'.join(Path(module_name).with_suffix('').parts)}:{function_name}"
            raise ImportError(f"model: {wrong}{nearest_names(module_name, list_sources())}") from error
        if not hasattr(module, function_name):
            hint = nearest_names(function_name, (name for name in vars(module) if not name.startswith("_")))
            if "=" in function_name:
                hint = f" Arguments are written {function_name.partition('=')[0]}?name=value."
            raise ValueError(f"model: {module_name} has no {function_name!r}.{hint}")
        return build(getattr(module, function_name), spec, target.num_classes, arguments)


@contextmanager
def _importable_from(folder: str) -> Iterator[None]:
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
