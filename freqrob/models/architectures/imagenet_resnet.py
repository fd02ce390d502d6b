"""ResNets for photographs, with a 7×7 stem and max pooling: torchvision's, so that its weights and timm's fit.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016, with the stride in a bottleneck's 3×3 convolution.
"""

from torch import nn

from freqrob.models.registry import register_architecture


@register_architecture("resnet18")
def resnet18(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """ResNet-18 for photographs, 11.69 M parameters with 1,000 classes."""
    return _torchvision("resnet18", num_classes, in_channels)


@register_architecture("resnet50")
def resnet50(num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """ResNet-50 for photographs, 25.56 M parameters with 1,000 classes."""
    return _torchvision("resnet50", num_classes, in_channels)


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """torchvision's network without weights."""
    from torchvision import models  # half a second that `import freqrob` must not cost

    network = models.get_model(name, weights=None, num_classes=num_classes)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
    return network
