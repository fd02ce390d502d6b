"""Front ends: fixed differentiable modules between the pixels and the network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

FrontEndSpec = str | Mapping[str, Any]


class Normalize(nn.Module):
    """(x − mean) / std by channel, for pixels (N, C, H, W) in [0, 1].

    Mean and std are not in the state dict: a card has them. Raises ValueError when they differ in length
    or a std is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"mean, std: got {mean} and {std}, expected one mean and one positive std a channel")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _bass(**parameters: Any) -> nn.Module:
    from freqrob.spectral.bass import BaSS  # brings the native ops, which most models do without

    return BaSS(**parameters)


_FRONT_ENDS: dict[str, Callable[..., nn.Module]] = {"bass": _bass, "normalize": Normalize}


def front_end_name(spec: FrontEndSpec) -> str | None:
    """The name in a spec: ``"bass"`` of ``"bass"`` and of ``{"name": "bass", ...}``."""
    return spec if isinstance(spec, str) else spec.get("name")


def create_front_end(spec: FrontEndSpec) -> nn.Module:
    """The module for a name, or for ``{"name": ..., **parameters}`` as a card has it.

    Raises ValueError for an unknown name or parameters that the front end does not take.
    """
    name = front_end_name(spec)
    parameters = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
    if name not in _FRONT_ENDS:
        raise ValueError(f"front_end: got {name!r}, expected one of {', '.join(_FRONT_ENDS)}")
    try:
        return _FRONT_ENDS[name](**parameters)
    except TypeError as error:
        raise ValueError(f"front_end: {name!r} does not take {parameters} ({error})") from error


class FrontEnded(nn.Module):
    """``network(front_ends(images))``; ``model.network`` is the bare network, whose state dict a checkpoint stores."""

    def __init__(self, front_ends: Iterable[nn.Module], network: nn.Module) -> None:
        super().__init__()
        self.front_ends = nn.Sequential(*front_ends)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.front_ends(images))


def with_front_ends(network: nn.Module, specs: Iterable[FrontEndSpec]) -> FrontEnded:
    """The network behind its front ends, in the order in which an image meets them.

    Takes (N, C, H, W) pixels in [0, 1]; returns what the network returns. Raises ValueError as ``create_front_end``.
    """
    return FrontEnded([create_front_end(spec) for spec in specs], network)
