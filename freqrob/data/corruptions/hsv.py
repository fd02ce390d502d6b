"""Colours as hue, saturation and value, without the six cases of the hue."""

from __future__ import annotations

import torch
from torch import Tensor


def decompose(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distance of a colour's hue from white (N, 3, H, W), its saturation and its value (N, 1, H, W).

    x = V (1 − S·lack): ``lack`` is 0 in the strongest channel and 1 in the weakest; grey counts as red.
    """
    value, weakest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    red = x.new_tensor([0, 1, 1])[:, None, None]
    lack = torch.where(value > weakest, (value - x) / (value - weakest), red)
    saturation = torch.where(value > 0, (value - weakest) / value, 0)
    return lack, saturation, value


def compose(lack: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colour x (N, 3, H, W) of these."""
    return value * (1 - saturation * lack)
