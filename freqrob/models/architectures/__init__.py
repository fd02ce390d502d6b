"""Networks: importing this package registers every architecture under its short name."""

from freqrob.models.architectures import densenet, imagenet_resnet, preact_resnet, resnet, resnext, vgg, wide_resnet

__all__ = ["densenet", "imagenet_resnet", "preact_resnet", "resnet", "resnext", "vgg", "wide_resnet"]
