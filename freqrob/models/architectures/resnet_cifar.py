"""ResNet-20 for 32×32 images: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2."""

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import BasicBlock, conv3x3, global_average, stage
from freqrob.models.registry import register_architecture


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


def _pad_block(in_planes: int, planes: int, stride: int) -> BasicBlock:
    return BasicBlock(in_planes, planes, stride, shortcut=PadShortcut)


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2: three stages of 16, 32, 64 channels, option-A shortcuts.

    Takes (N, in_channels, H, W), returns logits (N, num_classes).
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(_pad_block, 16, 16, blocks, stride=1)
        self.layer2 = stage(_pad_block, 16, 32, blocks, stride=2)
        self.layer3 = stage(_pad_block, 32, 64, blocks, stride=2)
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
