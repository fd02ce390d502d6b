"""What makes a model's numbers mean less than they seem to, found on a few images before it is attacked."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from freqrob.attacks import input_gradient

SAME = 1e-4  # of the logits' norm: what two passes may differ by; AutoAttack's packages take the same
BESIDE = 0.02  # what they may differ by for an image beside others: rounding, also that of bfloat16


def check_answers(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The logits of images on a model's device. Raises ValueError unless they are (N, K), with one for each label."""
    try:
        with torch.no_grad():
            logits = model(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a network raises
        raise ValueError(f"model: {_failure(images, error)}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(f"model: expected it to give logits (N, K), got a {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != len(images) or not logits.is_floating_point():
        got = f"{tuple(logits.shape)} {logits.dtype} of {len(images)} images"
        raise ValueError(f"model: expected it to give logits (N, K), got {got}")
    classes = logits.shape[1]
    if classes <= labels.max():
        raise ValueError(f"model: expected {labels.max() + 1} classes or more, as the labels have, got {classes}")
    return logits


def check_gradient(model: nn.Module, images: Tensor, needed_by: str) -> None:
    """Raise ValueError unless a model's logits have a gradient with respect to the images; as ``check_answers``."""
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        try:
            logits = model(images)
            found = logits.requires_grad and torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] is not None
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(f"model: with gradients {_failure(images, error)}") from error
    if not found:
        raise ValueError(
            "model: its logits have no gradient with respect to the images (is it under torch.no_grad, or does it "
            f"round?), which is needed by {needed_by}"
        )


def _failure(images: Tensor, error: Exception) -> str:
    reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return f"it fails on images {tuple(images.shape)} {images.dtype}: {reason}"


def warn_of_model(model: nn.Module, images: Tensor, labels: Tensor, *, gradients: bool) -> None:
    """Warn of a model whose numbers mislead.

    Of one that is randomised, whose answers depend on the other images of a batch, that gives probabilities or what is
    not finite, or has gradients that are zero.

    Args as for an attack: (N, C, H, W) in [0, 1] and (N,) int64, on the model's device. Gradients only with
    ``gradients``. Raises as ``check_answers``.
    """
    first = check_answers(model, images, labels)
    with torch.no_grad():
        half = len(images) // 2 or 1
        others = torch.cat([images[:half], images[:1].expand(len(images) - half, *images.shape[1:])])
        second, beside_others = model(images), model(others)
    broken = int((~first.isfinite().all(1)).sum())
    if broken:
        warnings.warn(
            f"model: its logits are NaN or infinite at {broken} of {len(images)} images, which count as misclassified; "
            "their gradients are NaN",
            stacklevel=2,
        )
    if _differ(first, second, SAME):
        warnings.warn(
            "model: it is randomised (two passes over the same images differ), so that gradients and accuracies are "
            "noisy and PGD looks weaker than it is; attack it with autoattack-rand, which averages gradients",
            stacklevel=2,
        )
    elif _differ(first[:half], beside_others[:half], BESIDE):
        warnings.warn(
            "model: its answer to an image depends on the others in the batch (is a batch norm in training mode?), so "
            "that all numbers depend on the batch size and the order",
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
                "see nothing and look weaker than they are, and spectra of gradients say nothing; measure square or "
                "autoattack as well",
                stacklevel=2,
            )


def _differ(logits: Tensor, others: Tensor, tolerance: float) -> bool:
    return bool(((logits - others).norm(dim=1) > tolerance * logits.norm(dim=1)).any())


def _probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-4).all())
