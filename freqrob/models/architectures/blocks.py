"""The residual blocks that several networks share, and their initialisation."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Block = Callable[[int, int, int], nn.Module]


def conv3x3(in_planes: int, planes: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3×3 convolution, padding 1, no bias (a batch norm follows or precedes every one)."""
    return nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """1×1 convolution without bias: the projection of a shortcut."""
    return nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False)


def projection(in_planes: int, planes: int, stride: int) -> nn.Module:
    """Shortcut by projection, option B of He et al. 2016: 1×1 convolution and batch norm."""
    return nn.Sequential(conv1x1(in_planes, planes, stride), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, each followed by batch norm, and a shortcut (He et al. 2016, Fig. 2).

    ``shortcut(in_planes, planes, stride)`` makes the module used where the shape changes.
    """

    def __init__(self, in_planes: int, planes: int, stride: int = 1, shortcut: Block = projection) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        same_shape = stride == 1 and in_planes == planes
        self.shortcut = nn.Identity() if same_shape else shortcut(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


def stage(block: Block, in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` residual blocks; the first one changes the width and the resolution."""
    first = block(in_planes, planes, stride)
    return nn.Sequential(first, *(block(planes, planes, 1) for _ in range(blocks - 1)))


def global_average(features: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C), for any resolution."""
    return features.mean(dim=(2, 3))


def init_fan_out(network: nn.Module) -> None:
    """Draw the convolutions' weights from N(0, √(2 / (k²·out))), in the order of ``network.modules()``."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
