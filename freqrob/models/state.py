"""Context managers that put a model in eval mode for a measurement and restore its state afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freqrob.data.streams import Images


def bare(model: nn.Module) -> nn.Module:
    """The model without DDP's wrapper, for passes whose parameter gradients are not synchronised."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the bare model in eval mode (batch norms use and keep their running statistics); restore the modes."""
    was_training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield bare(model)
    finally:
        model.train(was_training)
        for module, mode in modes:
            if module.training != mode:  # frozen ones
                module.training = mode


@contextmanager
def measuring(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the bare model in eval mode; restore the caller's model on exit.

    Restores the modes of all modules, ``requires_grad`` and ``.grad`` of the model's tensors (a backward pass would
    fill or add to ``.grad``), and the process's grad mode. A model that is not a module has no such state and is
    yielded unchanged.
    """
    if not isinstance(model, nn.Module):
        yield model
        return
    before = [(tensor, tensor.requires_grad, tensor.grad) for tensor in _leaves(model)]
    try:
        for tensor, _, gradient in before:
            if gradient is not None:
                tensor.grad = None
        with evaluating(model) as subject, torch.set_grad_enabled(torch.is_grad_enabled()):
            yield subject
    finally:
        for tensor, requires_grad, gradient in before:
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not gradient:
                tensor.grad = gradient


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block a model's tensors require no gradient: ``backward`` does not fill ``.grad`` or call hooks."""
    trainable = [tensor for tensor in _leaves(model) if tensor.requires_grad]
    for tensor in trainable:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in trainable:
            tensor.requires_grad_(True)


def _leaves(model: nn.Module) -> list[Tensor]:
    """The parameters, buffers and other tensors of the modules that may have a gradient."""
    if not isinstance(model, nn.Module):
        return []
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    held = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers(), attributes)}
    return [tensor for tensor in held.values() if tensor.is_leaf and not tensor.is_inference()]


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks that a module calls in its passes, forward or backward."""
    held = [value for name, value in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name]
    return [hook for hooks in held if isinstance(hooks, dict) for hook in hooks.values()]


def device_of(model: nn.Module, images: Images | None = None) -> torch.device:
    """Device of a model; for a model without tensors that of the images, or else the CPU."""
    tensor = next(chain(model.parameters(), model.buffers()), images)
    return torch.device("cpu") if tensor is None else tensor.device


def default_batch_size(model: nn.Module, images: Images) -> int:
    """Images per batch: 1 to 250, with at most the pixels of 8 images of 224×224, on a GPU of 64.

    >>> default_batch_size(nn.Identity(), torch.zeros(1, 3, 32, 32))
    250
    >>> default_batch_size(nn.Identity(), torch.zeros(1, 3, 224, 224))
    8
    """
    height, width = images.shape[-2:]
    of_224 = 8 if device_of(model, images).type == "cpu" else 64
    return max(1, min(250, of_224 * 224 * 224 // (height * width)))
