"""The memory layout of a network's input images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqrob.models.front_ends import network_of


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
