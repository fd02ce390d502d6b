"""An architecture: ``freqrob train standard_patches`` trains it."""

from torch import nn

from freqrob.models import register_architecture


@register_architecture("patches")
def patches(num_classes: int, in_channels: int = 3) -> nn.Module:
    """A linear classifier of the mean over patches, for images of any size from 4×4 on."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 4, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )
