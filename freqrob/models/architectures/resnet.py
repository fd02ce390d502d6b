"""ResNets for small images: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.

ResNet-18 and -50 are the ImageNet networks with a 3×3 stem and no max pooling; state dicts are those of
``robustbench.model_zoo.architectures.resnet``: ``ResNet18`` and ``ResNet50``. ResNet-20 is that of section 4.2.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import BasicBlock, Block, conv1x1, conv3x3, global_average, projection, stage
from freqrob.models.registry import register_architecture


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions at a quarter of the width, and a shortcut (He et al. 2016, Fig. 5).

    The 3×3 convolution has the stride.
    """

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        narrow = planes // 4
        self.conv1 = conv1x1(in_planes, narrow)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = conv3x3(narrow, narrow, stride)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = conv1x1(narrow, planes)
        self.bn3 = nn.BatchNorm2d(planes)
        same_shape = stride == 1 and in_planes == planes
        self.shortcut = nn.Identity() if same_shape else projection(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of ``width``, 2, 4 and 8 times as many channels. (N, in_channels, H, W) → logits (N, num_classes)."""

    def __init__(
        self, block: Block, blocks: tuple[int, int, int, int], width: int, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(block, 64, width, blocks[0], stride=1)
        self.layer2 = stage(block, width, 2 * width, blocks[1], stride=2)
        self.layer3 = stage(block, 2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = stage(block, 4 * width, 8 * width, blocks[3], stride=2)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(global_average(out))


@register_architecture("rn18")
def rn18(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18, 11.17 M parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), 64, num_classes, in_channels)


@register_architecture("rn50")
def rn50(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-50, 23.52 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), 256, num_classes, in_channels)


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: every ``stride``-th pixel, new channels zero; no parameters."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (planes - in_planes) // 2
        self.after = planes - in_planes - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 1, self.stride)  # a slice's gradient would lose channels_last
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2: three stages of 16, 32, 64 channels, option-A shortcuts.

    Takes (N, in_channels, H, W), returns logits (N, num_classes).
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        block, blocks = partial(BasicBlock, shortcut=PadShortcut), (depth - 2) // 6
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(block, 16, 16, blocks, stride=1)
        self.layer2 = stage(block, 16, 32, blocks, stride=2)
        self.layer3 = stage(block, 32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(global_average(out))


@register_architecture("rn20")
def rn20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20 for CIFAR, 0.27 M parameters."""
    return CifarResNet(20, num_classes, in_channels)
