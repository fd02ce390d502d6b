"""Networks: importing this package registers every architecture under its short name."""

from freqrob.models.architectures import densenet, preact_resnet, resnet, resnext, vgg, wide_resnet

__all__ = ["densenet", "preact_resnet", "resnet", "resnext", "vgg", "wide_resnet"]
