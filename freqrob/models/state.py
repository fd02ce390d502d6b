"""Context managers that prepare a model for a measurement and restore it: eval mode, gradients, memory layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freqrob.data.streams import Images
from freqrob.models.front_ends import network_of


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


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Within the block, a network gets its images in channels_last if that is faster and the network supports it.

    It is faster on the CPU and under autocast. Networks that use ``view``, or code for contiguous tensors, may not
    support it, so it is tested with two of the first images. The test uses copies, in case the network works in place.
    Scripted and compiled networks are left unchanged, since they take no hooks.
    """
    model = network_of(model)
    if isinstance(model, torch.jit.ScriptModule) or model._compiled_call_impl is not None:
        yield
        return
    with model.register_forward_pre_hook(ChannelsLast()):
        yield


class ChannelsLast:
    """A hook before ``forward``."""

    takes_it: bool | None = None
    layouts: ClassVar = {True: torch.channels_last, False: torch.preserve_format}

    def __call__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not inputs:
            return None
        images, *others = inputs
        if self.takes_it is None:
            faster = images.device.type == "cpu" or (images.is_cuda and torch.is_autocast_enabled("cuda"))
            self.takes_it = faster and _takes(model, images, *others)
        return images.clone(memory_format=self.layouts[self.takes_it]), *others


def _takes(model: nn.Module, images: Tensor, *others: object) -> bool:
    """Whether a network and its gradient support channels_last; tested on two images, because one fits both layouts."""
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            pair = torch.cat([images[:2], images[:1]])[:2].detach().requires_grad_()
            logits = model.forward(pair.clone(memory_format=torch.channels_last), *others)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), pair)
    except Exception:  # an error of another cause is raised again by the caller's pass
        return False
    return True


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
