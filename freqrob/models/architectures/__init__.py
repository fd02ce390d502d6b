"""Networks: importing this package registers every architecture under its short name."""

from freqrob.models.architectures import preact_resnet, resnet, resnet_cifar, wide_resnet

__all__ = ["preact_resnet", "resnet", "resnet_cifar", "wide_resnet"]
