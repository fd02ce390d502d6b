"""Models measured on some of their classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from freqrob.models.front_ends import FrontEnded


class ClassSubset(nn.Module):
    """The logits of some classes of a network, in their order; logits are unchanged if there are not ``of`` of them.

    Args:
        network: images to logits (N, of).
        chosen: the indices of the classes.
        of: the network's number of classes.
    """

    def __init__(self, network: nn.Module, chosen: Sequence[int], of: int) -> None:
        super().__init__()
        self.network, self.chosen, self.of = network, list(chosen), of

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits[:, self.chosen] if logits.shape[1] == self.of else logits

    def extra_repr(self) -> str:
        return f"{len(self.chosen)} of {self.of} classes"


def with_classes(model: nn.Module, chosen: Sequence[int], of: int) -> nn.Module:
    """A copy of the model that returns the logits of the ``chosen`` classes if the network has ``of`` classes."""
    if isinstance(model, FrontEnded):
        return FrontEnded(model.front_ends, ClassSubset(model.network, chosen, of), model.preprocessing).eval()
    return ClassSubset(model, chosen, of).eval()
