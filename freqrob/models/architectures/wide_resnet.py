"""Wide ResNets: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016 (no dropout).

State dicts are those of ``robustbench.model_zoo.architectures.wide_resnet.WideResNet``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import conv1x1, conv3x3, global_average, init_fan_out, stage
from freqrob.models.registry import register_architecture


class WideBlock(nn.Module):
    """Pre-activation block; its projection, if any, takes relu(bn(x))."""

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.convShortcut = None if in_planes == planes else conv1x1(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(out)
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return out + skip


class WideStage(nn.Module):
    """A stage of wide blocks, named ``layer`` as in the keys of public checkpoints."""

    def __init__(self, in_planes: int, planes: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = stage(WideBlock, in_planes, planes, blocks, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-depth-widen_factor, depth = 6n + 4. Takes (N, in_channels, H, W), returns logits (N, num_classes)."""

    def __init__(self, depth: int, widen_factor: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = WideStage(16, widths[0], blocks, stride=1)
        self.block2 = WideStage(widths[0], widths[1], blocks, stride=2)
        self.block3 = WideStage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        init_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(global_average(F.relu(self.bn1(out))))


@register_architecture("wrn34")
def wrn34(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """WRN-34-10, 46.16 M parameters."""
    return WideResNet(34, 10, num_classes, in_channels)


@register_architecture("wrn28")
def wrn28(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """WRN-28-10, 36.48 M parameters."""
    return WideResNet(28, 10, num_classes, in_channels)


@register_architecture("wrn40_2")
def wrn40_2(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """WRN-40-2, 2.24 M parameters."""
    return WideResNet(40, 2, num_classes, in_channels)
