"""A model: pyproject.toml names it, this function makes it."""

import torch
from torch import nn


def mean_colour(num_classes: int) -> nn.Module:
    """A linear classifier of the image's mean colour, with fixed weights."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
    with torch.no_grad():
        model[2].weight.copy_(torch.linspace(-1, 1, 3 * num_classes).view(num_classes, 3))
        model[2].bias.zero_()
    return model
