"""The layout in memory in which a network gets its images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqrob.models.front_ends import network_of


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """For a while a network gets its images in channels_last, where convolutions are faster so, if it can take them.

    They are faster on the CPU and under autocast. Not all networks can: ``view`` may fail, and what is written for
    contiguous tensors. So it is tried, with two of the first images, which the network sees once more for that. It gets
    copies, so that one that works in place spoils nobody's images. Scripted and compiled networks get neither.
    """
    model = network_of(model)
    if isinstance(model, torch.jit.ScriptModule) or model._compiled_call_impl is not None:  # take no hook
        yield
        return
    with model.register_forward_pre_hook(_ChannelsLast()):
        yield


class _ChannelsLast:
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
    """Whether a network can take images in channels_last and give their gradient. One alone would not tell."""
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            pair = torch.cat([images[:2], images[:1]])[:2].detach().requires_grad_()
            logits = model.forward(pair.clone(memory_format=torch.channels_last), *others)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), pair)
    except Exception:  # whatever it is: if the network is at fault, it fails again
        return False
    return True
