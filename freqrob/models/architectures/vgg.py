"""VGG-19 with batch norm for small images: Simonyan and Zisserman, ICLR 2015, configuration E, with one linear layer.

State dicts have the names of ``torchvision.models.vgg19_bn`` in ``features``.
"""

from torch import Tensor, nn

from freqrob.models.architectures.blocks import global_average
from freqrob.models.registry import register_architecture

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions before each pooling


class VGG(nn.Module):
    """Five stages of 3×3 convolutions with batch norm and ReLU, each with 2×2 max pooling; then one linear layer.

    Takes (N, in_channels, H, W) with H, W ≥ 32, returns logits (N, num_classes). At 32×32 the last features have 1×1
    pixel; for larger images they are averaged over their pixels.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for planes, convolutions in _STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(in_channels, planes, 3, padding=1), nn.BatchNorm2d(planes), nn.ReLU()]
                in_channels = planes
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(global_average(self.features(x)))


@register_architecture("vgg19")
def vgg19(num_classes: int = 10, in_channels: int = 3) -> VGG:
    """VGG-19 for 32×32 and 64×64 images, 20.04 M parameters.

    Li et al. (2023) train a VGG19 on grayscale Tiny ImageNet, as Safarani et al. (2021); neither paper describes the
    head or the normalisation. Batch norm and the single linear layer are the usual choice for small images. Weights are
    drawn as torchvision draws them.
    """
    return VGG(num_classes, in_channels)
