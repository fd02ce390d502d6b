"""ResNeXt for small images: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017, 5.3.

State dicts are those of ``robustbench.model_zoo.architectures.resnext.CifarResNeXt``.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import conv1x1, conv3x3, global_average, init_fan_out, projection, stage
from freqrob.models.registry import register_architecture


class ResNeXtBlock(nn.Module):
    """Bottleneck whose 3×3 convolution is in groups (Xie et al. 2017, Fig. 3c).

    There are ``cardinality`` groups of ``base_width`` channels for every 256 of ``planes``.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, cardinality: int, base_width: int) -> None:
        super().__init__()
        narrow = planes // 256 * base_width * cardinality
        self.conv_reduce = conv1x1(in_planes, narrow)
        self.bn_reduce = nn.BatchNorm2d(narrow)
        self.conv_conv = conv3x3(narrow, narrow, stride, groups=cardinality)
        self.bn = nn.BatchNorm2d(narrow)
        self.conv_expand = conv1x1(narrow, planes)
        self.bn_expand = nn.BatchNorm2d(planes)
        same_shape = stride == 1 and in_planes == planes
        self.downsample = nn.Identity() if same_shape else projection(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_reduce(self.conv_reduce(x)))
        out = F.relu(self.bn(self.conv_conv(out)))
        return F.relu(self.bn_expand(self.conv_expand(out)) + self.downsample(x))


class CifarResNeXt(nn.Module):
    """Three stages of 256, 512, 1024 channels, depth 9n + 2. (N, in_channels, H, W) → logits (N, num_classes)."""

    def __init__(self, depth: int, cardinality: int, base_width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        block, blocks = partial(ResNeXtBlock, cardinality=cardinality, base_width=base_width), (depth - 2) // 9
        self.conv_1_3x3 = conv3x3(in_channels, 64)
        self.bn_1 = nn.BatchNorm2d(64)
        self.stage_1 = stage(block, 64, 256, blocks, stride=1)
        self.stage_2 = stage(block, 256, 512, blocks, stride=2)
        self.stage_3 = stage(block, 512, 1024, blocks, stride=2)
        self.classifier = nn.Linear(1024, num_classes)
        init_fan_out(self)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_1(self.conv_1_3x3(x)))
        out = self.stage_3(self.stage_2(self.stage_1(out)))
        return self.classifier(global_average(out))


@register_architecture("resnext29")
def resnext29(num_classes: int = 10, in_channels: int = 3) -> CifarResNeXt:
    """ResNeXt-29, 4×32d, as AugMix uses it, 6.81 M parameters."""
    return CifarResNeXt(29, cardinality=4, base_width=32, num_classes=num_classes, in_channels=in_channels)
