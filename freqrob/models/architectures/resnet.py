"""ResNet-18 for small images: the ImageNet network of He et al. 2016 with a 3×3 stem and no max pooling.

State dicts are those of ``robustbench.model_zoo.architectures.resnet.ResNet18``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from freqrob.models.architectures.blocks import BasicBlock, conv3x3, global_average, stage
from freqrob.models.registry import register_architecture


class ResNet(nn.Module):
    """Four stages of 64, 128, 256, 512 channels. Takes (N, 3, H, W), returns logits (N, num_classes)."""

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(BasicBlock, 64, 64, blocks[0], stride=1)
        self.layer2 = stage(BasicBlock, 64, 128, blocks[1], stride=2)
        self.layer3 = stage(BasicBlock, 128, 256, blocks[2], stride=2)
        self.layer4 = stage(BasicBlock, 256, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(global_average(out))


@register_architecture("rn18")
def rn18(num_classes: int = 10) -> ResNet:
    """ResNet-18, 11.17 M parameters."""
    return ResNet((2, 2, 2, 2), num_classes)
