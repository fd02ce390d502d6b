"""Twins of models for attacks: networks that compute the same logits, with a cheaper gradient of the images.

Attacks differentiate a network in eval mode with respect to its input only. Its batch norms are then fixed affine maps,
which a twin folds into the convolutions before them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel

from freqrob.models.front_ends import FrontEnded, is_front_end
from freqrob.models.state import ChannelsLast, hooks_of
from freqrob.models.wrappers import FoolboxModule, with_children
from freqrob.runtime.parameters import checked
from freqrob.runtime.process_state import random_state

Precision = Literal["float32", "bfloat16"]
SAME_LOGITS = 1e-5  # tolerance relative to the norm of an image's logits
SAME_GRADIENT = 1e-2  # of most images: rounding may move a pre-activation through the kink of its ReLU
COMPARED = 4  # images

_log = logging.getLogger(__name__)


class NoTwinError(ValueError):
    """A model has no twin; the message is the reason, "it …"."""


@checked
def fast_gradients(model: nn.Module, images: Tensor) -> nn.Module:
    """A twin of a model that computes the same logits and gradients in less time; the model itself if there is none.

    The twin folds batch norms into the convolutions before them and runs in channels_last where the network supports
    it. Front ends stay as they are. There is no twin if logits of some of the ``images`` differ by more than 1e-5 of
    their norm, or if the model is in training mode, hooked, compiled, scripted or not in float32, cannot be traced by
    ``torch.fx``, or has nothing to fold. The reason is logged at level INFO.

    The model is left unchanged. The twin has the model's weights at the time of the call; make a new one after a
    change.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K), in eval mode.
        images: examples of its inputs, on its device; only a few are used.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    >>> images = torch.rand(4, 3, 8, 8)
    >>> twin = fast_gradients(model, images)
    >>> any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
    False
    >>> torch.allclose(twin(images), model(images), atol=1e-5)
    True
    """
    try:
        return folded_twin(model, images)
    except NoTwinError as reason:
        _log.info("%s: attacked as it is, because %s", type(model).__name__, reason)
        return model


def folded_twin(model: nn.Module, images: Tensor) -> nn.Module:
    """The twin of ``fast_gradients``. Raises NoTwinError if there is none."""
    _check(model, images)
    with torch.inference_mode(False):
        try:
            twin = _with_network(model, Folded)
        except NoTwinError:
            raise
        except Exception as error:  # a user's network may raise anything when traced
            reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            raise NoTwinError(f"it cannot be traced ({reason})") from error
        _compare(model, twin, images[:COMPARED])
    return twin


def in_bfloat16(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with its network under autocast to bfloat16; the logits are float32.

    Front ends keep float32. Raises ValueError for a model that is not in float32, or on a device without autocast.
    """
    kinds = {(tensor.device.type, tensor.dtype) for tensor in model.parameters()}
    for device, dtype in kinds:
        if dtype != torch.float32 or not torch.amp.is_autocast_available(device):
            got = f"one of {str(dtype).removeprefix('torch.')} on {device}"
            raise ValueError(f"precision: expected float32 for {got}; bfloat16 needs a float32 model and autocast")
    return _with_network(model, _InBfloat16)


class _InBfloat16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images).float()


class Folded(nn.Module):
    """A network in eval mode with its batch norms folded into the convolutions before them; the rest is shared.

    Raises NoTwinError if there is nothing to fold, and what ``torch.fx`` raises for a network that it cannot trace.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        root = with_children(network, {})  # a copy, because the tracer leaves constants on it
        graph = _Tracer().trace(root)
        targets = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
        attributes: dict[str, Any] = {target: attrgetter(target)(root) for target in targets}
        for number, (conv, norm) in enumerate(_pairs(graph, attributes)):
            modules = attributes[str(conv.target)], attributes[str(norm.target)]
            with torch.no_grad():
                one = fuse_conv_bn_eval(*modules).requires_grad_(False).to(memory_format=torch.channels_last)
            conv.target = f"folded{number}"
            attributes[conv.target] = one
            norm.replace_all_uses_with(conv)
            graph.erase_node(norm)
        if "folded0" not in attributes:
            raise NoTwinError("it has no batch norm after a convolution")
        self.network = fx.GraphModule(attributes, graph, type(network).__name__).eval()
        self.network.register_forward_pre_hook(ChannelsLast())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class _Tracer(fx.Tracer):
    """Traces a network; layers of PyTorch, batch norms and front ends stay modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_leaf = isinstance(m, _BatchNorm | FrontEnded | FoolboxModule) or is_front_end(m)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _pairs(graph: fx.Graph, attributes: dict[str, Any]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of a convolution and the batch norm with fixed statistics that alone takes its output."""
    for norm in list(graph.nodes):
        conv = norm.args[0] if norm.op == "call_module" and norm.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) > 1:
            continue
        module, before = attributes[str(norm.target)], attributes[str(conv.target)]
        if type(before) is nn.Conv2d and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            yield conv, norm


def _with_network(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of the model with another network behind its front ends, without wrappers; it shares the rest."""
    if isinstance(model, FrontEnded):
        return with_children(model, {"network": _with_network(model.network, change)})
    if isinstance(model, AveragedModel):
        return _with_network(model.module, change)
    if isinstance(model, FoolboxModule) and isinstance(model.network, nn.Module):
        return model.with_network(_with_network(model.network, change))
    return change(model)


def _check(model: nn.Module, images: Tensor) -> None:
    """Raise NoTwinError for a model whose twin may differ from it, or may be slower."""
    modules = [*model.modules()]
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise NoTwinError("it is scripted")
    if any(type(module).__name__ == "OptimizedModule" or module._compiled_call_impl for module in modules):
        raise NoTwinError("it is compiled")
    if any(module.training for module in modules):
        raise NoTwinError("it is in training mode")
    if any(isinstance(module, nn.DataParallel) for module in modules):
        raise NoTwinError("it is in DataParallel")
    is_global = any(value for name, value in vars(nn.modules.module).items() if re.fullmatch("_global_.*_hooks", name))
    if is_global or any(not isinstance(hook, ChannelsLast) for module in modules for hook in hooks_of(module)):
        raise NoTwinError("it has hooks")
    if any("forward" in vars(module) for module in modules):
        raise NoTwinError("the forward of one of its modules was replaced")
    dtypes = {str(tensor.dtype) for tensor in (*model.parameters(), images)} - {"torch.float32"}
    if dtypes:
        raise NoTwinError(f"it or the images are {', '.join(sorted(dtypes))}, not torch.float32")
    if torch.amp.is_autocast_available(images.device.type) and torch.is_autocast_enabled(images.device.type):
        raise NoTwinError("it runs under autocast")


def _compare(model: nn.Module, twin: nn.Module, images: Tensor) -> None:
    """Raise NoTwinError unless the twin's logits and gradients equal the model's. Draws no random numbers."""
    try:
        with random_state(), torch.enable_grad():
            logits, gradient = _logits_and_gradient(model, images)
            twins_logits, twins_gradient = _logits_and_gradient(twin, images)
    except Exception as error:  # the caller's own pass raises it again, if the model does
        raise NoTwinError(f"it or its twin fails ({type(error).__name__}: {error})") from error
    if not (_difference(twins_logits, logits) <= SAME_LOGITS).all():  # not for NaN either
        raise NoTwinError(f"its logits and its twin's differ by {_difference(twins_logits, logits).max():.2g}")
    if not _difference(twins_gradient, gradient).median() <= SAME_GRADIENT:
        raise NoTwinError("its gradient and its twin's differ")


def _difference(twins: Tensor, own: Tensor) -> Tensor:
    """Norm of each image's difference relative to the norm of ``own``: (N,); 0 if both are zero."""
    return (twins - own).flatten(1).norm(dim=1) / own.flatten(1).norm(dim=1).clamp_min(torch.finfo(own.dtype).tiny)


def _logits_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a weighted sum of them; equal weights could give a gradient of zero."""
    images = images.detach().clone().requires_grad_()
    logits = model(images)
    weights = torch.linspace(-1, 1, logits.shape[1], device=logits.device)
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), images)[0]
