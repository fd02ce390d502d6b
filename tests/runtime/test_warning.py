"""Warnings point to the user's code."""

import pytest
import torch
from torch import nn

import freqrob


class Mine(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def test_a_warning_points_to_the_call_outside_freqrob(few, tmp_path):
    model = Mine(freqrob.load_model("standard_rn20"))
    with pytest.warns(UserWarning, match="nothing is cached") as caught:
        freqrob.evaluate(model, few.images, few.labels, protocols=["natural"], attacks=["clean"], cache=tmp_path)
    assert [each.filename for each in caught] == [__file__]
