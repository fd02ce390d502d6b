"""What makes a model's numbers mean less than they seem to, found on a few images before it is attacked."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from freqrob.attacks import input_gradient

SAME = 1e-4  # of the logits' norm: what two passes may differ by; AutoAttack's packages take the same


def warn_of_model(model: nn.Module, images: Tensor, labels: Tensor, *, gradients: bool) -> None:
    """Warn of a model that is randomised or gives probabilities and, with ``gradients``, of gradients that are zero.

    Args as for an attack: (N, C, H, W) in [0, 1] and (N,) int64, on the model's device.
    """
    with torch.no_grad():
        first, second = model(images), model(images)
    if bool(((first - second).norm(dim=1) > SAME * first.norm(dim=1)).any()):
        warnings.warn(
            "model: it is randomised (two passes over the same images differ), so that gradients and accuracies are "
            "noisy and PGD looks weaker than it is; attack it with autoattack-rand, which averages gradients",
            stacklevel=2,
        )
    elif _probabilities(first):
        warnings.warn(
            "model: it returns probabilities (no row of its outputs is negative, each sums to 1), not logits; the loss "
            "takes a second softmax, which flattens the gradients, and attacks look weaker than they are. Evaluate it "
            "without its softmax",
            stacklevel=2,
        )
    if gradients:
        zero = int((input_gradient(model, images, labels).flatten(1) == 0).all(1).sum())
        if zero:
            warnings.warn(
                f"model: the gradient of the loss is zero at {zero} of {len(images)} images, where attacks by gradient "
                "see nothing and look weaker than they are; measure square or autoattack as well",
                stacklevel=2,
            )


def _probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-4).all())
