"""PreActResNet-18: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016; and JaFR's variant of it.

State dicts are those of ``robustbench.model_zoo.architectures.resnet.PreActResNet``: ``prn18`` with
``bn_before_fc=True, out_shortcut=True``, ``prn18_jafr`` with both False.
"""

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import conv1x1, conv3x3, global_average, init_fan_out, stage
from freqrob.models.registry import register_architecture


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each convolution; ``raw_shortcut`` projects x itself, not relu(bn(x))."""

    def __init__(self, in_planes: int, planes: int, stride: int = 1, raw_shortcut: bool = False) -> None:
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        same_shape = stride == 1 and in_planes == planes
        self.shortcut = None if same_shape else nn.Sequential(conv1x1(in_planes, planes, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(x if self.raw_shortcut else out)
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return out + skip


class PreActResNet(nn.Module):
    """Four stages of 64, 128, 256, 512 channels. Takes (N, in_channels, H, W), returns logits (N, num_classes)."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        num_classes: int = 10,
        final_norm: bool = True,
        raw_shortcut: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        block = partial(PreActBlock, raw_shortcut=raw_shortcut)
        self.conv1 = conv3x3(in_channels, 64)
        self.layer1 = stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = stage(block, 64, 128, blocks[1], stride=2)
        self.layer3 = stage(block, 128, 256, blocks[2], stride=2)
        self.layer4 = stage(block, 256, 512, blocks[3], stride=2)
        self.bn = nn.BatchNorm2d(512) if final_norm else None
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = F.relu(self.bn(out))
        return self.linear(global_average(out))


@register_architecture("prn18")
def prn18(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """PreActResNet-18 with the final batch norm and ReLU, 11.17 M parameters."""
    return PreActResNet((2, 2, 2, 2), num_classes, in_channels=in_channels)


@register_architecture("prn18_jafr")
def prn18_jafr(num_classes: int = 10, in_channels: int = 3) -> PreActResNet:
    """PreActResNet-18 as ``alvinchangw/JaFR_IJCAI2022`` trains it.

    No final batch norm and ReLU, projections take the raw x, convolutions N(0, √(2/(k²·out))),
    the linear layer N(0, √(2/in)) with zero bias.
    """
    network = PreActResNet((2, 2, 2, 2), num_classes, final_norm=False, raw_shortcut=True, in_channels=in_channels)
    init_fan_out(network)
    nn.init.normal_(network.linear.weight, 0.0, math.sqrt(2.0 / network.linear.in_features))
    nn.init.zeros_(network.linear.bias)
    return network
