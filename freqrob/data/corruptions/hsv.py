"""Colours as hue, saturation and value, computed without a distinction of six hue ranges."""

from __future__ import annotations

import torch
from torch import Tensor


def decompose(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a colour x into ``lack`` (N, 3, H, W), saturation S and value V (N, 1, H, W).

    x = V (1 − S·lack): ``lack`` is 0 in the strongest channel and 1 in the weakest; grey counts as red.
    """
    value, weakest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    red = x.new_tensor([0, 1, 1])[:, None, None]
    lack = torch.where(value > weakest, (value - x) / (value - weakest), red)
    saturation = torch.where(value > 0, (value - weakest) / value, 0)
    return lack, saturation, value


def compose(lack: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colour x (N, 3, H, W): the inverse of ``decompose``."""
    return value * (1 - saturation * lack)
