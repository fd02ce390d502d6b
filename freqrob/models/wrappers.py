"""Wrappers around models: PyTorch's and Foolbox's."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

TRANSPARENT = (nn.DataParallel, DistributedDataParallel, AveragedModel)  # each computes the same as its ``module``


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel, AveragedModel and ``torch.compile``.

    The result computes the same, on one device and uncompiled. A model without a wrapper is returned unchanged.
    """
    while True:
        if isinstance(model, TRANSPARENT):
            model = cast(nn.Module, model.module)
        elif type(model).__name__ == "OptimizedModule":  # by name: importing torch._dynamo takes a second
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def with_children(model: nn.Module, children: Mapping[str, nn.Module | None]) -> nn.Module:
    """A copy of ``model`` with other ``children``; None removes a child. Everything else is shared.

    Hooks and children that are added to one of the two are not added to the other.
    """
    changed = copy.copy(model)
    vars(changed).update({name: copy.copy(held) for name, held in vars(model).items() if isinstance(held, dict)})
    changed._modules = {name: child for name, child in {**model._modules, **children}.items() if child is not None}
    return changed


def as_module(model: Any) -> nn.Module:
    """Convert a model to a module: pixels (N, C, H, W) in [0, 1] → logits (N, K).

    An ``nn.Module`` is returned unchanged. A Foolbox model is wrapped in a differentiable module that takes pixels in
    [0, 1] and includes its preprocessing; it stays on its device.

    Raises TypeError for anything else.
    """
    if isinstance(model, nn.Module):
        return model
    if callable(model) and hasattr(model, "bounds") and hasattr(model, "transform_bounds"):
        return FoolboxModule(model)
    raise TypeError(f"model: got {type(model).__name__}, expected an nn.Module or a Foolbox model")


class FoolboxModule(nn.Module):
    """A Foolbox model as a module on pixels in [0, 1], for PyTorch tensors.

    The network inside a ``PyTorchModel`` is a submodule, so that its parameters are the module's.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model.transform_bounds((0, 1))
        self._bounds = tuple(model.bounds)
        self.network = _network_in(model)
        if isinstance(self.network, nn.Module):
            self.training = self.network.training

    def forward(self, images: Tensor) -> Tensor:
        return self._model(images)

    def with_network(self, network: nn.Module) -> FoolboxModule:
        """A copy with another network behind the same bounds and preprocessing."""
        changed = cast(FoolboxModule, with_children(self, {"network": network}))
        changed._model = _with_network(self._model, network)
        return changed

    def extra_repr(self) -> str:
        preprocessing = getattr(self._model, "_preprocess_args", None)
        return f"bounds={self._bounds}, preprocessing={preprocessing}"


def _network_in(model: Any) -> Any:
    """The network in a Foolbox model; None if it cannot be found; nothing is cached then.

    Foolbox 3.3 keeps it only in a closure. Remove this when ``PyTorchModel`` has it as an attribute.
    """
    if not getattr(sys.modules.get("foolbox"), "__version__", "").startswith("3.3."):
        return None
    while _is_around_another(model):
        model = model._model
    function = getattr(model, "_model", None)
    return inspect.getclosurevars(function).nonlocals.get("model") if inspect.isfunction(function) else None


def _is_around_another(model: Any) -> bool:
    """Whether a Foolbox model only changes the bounds of another Foolbox model."""
    return not hasattr(model, "_preprocess_args") and hasattr(model, "_model")


def _with_network(model: Any, network: nn.Module) -> Any:
    """A copy of a Foolbox model with another network in it."""
    changed = copy.copy(model)
    changed._model = _with_network(model._model, network) if _is_around_another(model) else _called(network)
    return changed


def _called(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function that Foolbox's ``PyTorchModel`` calls: logits require a gradient only if the images do."""

    def call(images: Tensor) -> Tensor:
        with torch.set_grad_enabled(images.requires_grad):
            return model(images)

    return call
