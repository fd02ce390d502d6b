"""DenseNet-BC for small images: Huang et al., Densely Connected Convolutional Networks, CVPR 2017.

State dicts are those of ``torchvision.models.DenseNet`` without ``norm0``.
"""

from torch import nn

from freqrob.models.architectures.blocks import conv3x3, init_fan_out
from freqrob.models.registry import register_architecture


@register_architecture("densenet")
def densenet(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """DenseNet-BC, L = 100, k = 12: 0.77 M parameters. (N, in_channels, H, W) → logits (N, num_classes).

    The paper's CIFAR network: torchvision's class with a single 3×3 convolution as the stem.
    """
    from torchvision.models import DenseNet  # half a second that `import freqrob` must not cost

    growth_rate, layers = 12, (100 - 4) // 6
    network = DenseNet(growth_rate, (layers, layers, layers), 2 * growth_rate, num_classes=num_classes)  # pyright: ignore[reportArgumentType]
    network.features.conv0 = conv3x3(in_channels, 2 * growth_rate)
    for large_images_only in ("norm0", "relu0", "pool0"):
        delattr(network.features, large_images_only)
    init_fan_out(network)
    return network
