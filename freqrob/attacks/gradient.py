"""Logits and input gradients of a model, and the checks of both."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from freqrob.attacks.losses import Loss, cross_entropy
from freqrob.data.datasets import check_labelled
from freqrob.runtime.parameters import checked
from freqrob.runtime.pixels import check_floats
from freqrob.runtime.tensors import FLOATS, check_values
from freqrob.runtime.warning import warn

Model = Callable[[Tensor], Tensor]
ROUNDING = 1e-5  # tolerance: rounding may move augmented images out of [0, 1]


def check_attacked(images: Tensor, labels: Tensor) -> None:
    """Raise as ``check_labelled``, and for images that are not floats; pixels may exceed [0, 1] by ``ROUNDING``."""
    check_values(images, "images")
    check_floats(images)
    check_labelled(images, labels, tolerance=ROUNDING)


def logits_of(model: Model, images: Tensor) -> Tensor:
    """The model's output, unchecked. Raises ValueError, caused by PyTorch's error, if the model fails."""
    try:
        return model(images)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"model: {describe_failure(model, images, error)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the memory of a GPU or of the machine is exhausted."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    )


def describe_failure(model: Model, images: Tensor, error: BaseException) -> str:
    """Describe a failed call as "it fails on images …", with a remedy if dtypes or numbers of channels differ."""
    reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    others = sorted({str(tensor.dtype) for tensor in parameters} - {str(images.dtype)})
    use = "model.float()" if images.dtype == torch.float32 else " or ".join(f"images.to({other})" for other in others)
    remedy = f" (its parameters are {', '.join(others)}: use {use})" if others else ""
    if channels := re.search(r"to have ([13]) channels, but got ([13]) channels", reason):
        kind = "grayscale images, --grayscale" if channels[1] == "1" else "colour images, without --grayscale"
        remedy = f" (it takes {kind})"
    return f"it fails on images {tuple(images.shape)} {images.dtype}: {reason}{remedy}"


def check_logits(logits: Tensor, images: int, **classes: int) -> None:
    """Raise ValueError unless logits are (images, K) and K is at least each of the numbers ``classes``.

    ``check_logits(logits, 8, labels=10)`` is for 8 images and an argument ``labels`` with classes up to 9.
    """
    if got := unlike_logits(logits, images):
        raise ValueError(f"model: expected logits ({images}, K), got {got}")
    for argument, count in classes.items():
        if count > logits.shape[1]:
            raise ValueError(f"{argument}: expected classes below {logits.shape[1]}, got {count - 1}")


def unlike_logits(logits: object, images: int) -> str:
    """Describe a model's output that is not logits (images, K); "" if it is."""
    if not isinstance(logits, Tensor):
        return f"a {type(logits).__name__}"
    if logits.is_nested or logits.layout != torch.strided:
        return "a nested tensor" if logits.is_nested else f"a tensor of layout {logits.layout}"
    if logits.is_meta:
        return "a tensor without values, on the meta device; load the model's weights first"
    if logits.ndim != 2 or len(logits) != images or logits.dtype not in FLOATS:
        return f"{tuple(logits.shape)} {logits.dtype} of {images} images"
    return ""


def unlike_images(returned: object, images: Tensor) -> str:
    """Describe an attack's result that differs from its images in shape, dtype or device; "" if it does not."""
    if not isinstance(returned, Tensor):
        return type(returned).__name__
    if (returned.shape, returned.dtype, returned.device) == (images.shape, images.dtype, images.device):
        return ""
    return f"{tuple(returned.shape)} {returned.dtype} on {returned.device}"


def check_one_each(labels: Tensor, description: str = "", **values: Tensor) -> None:
    """Raise ValueError unless each value is (N,) int64 ≥ 0 like the labels; TypeError as ``check_values``."""
    for name, value in values.items():
        check_values(value, name)
        if value.shape != labels.shape or value.dtype != torch.int64 or value.min() < 0:
            got = f"{tuple(value.shape)} {value.dtype}" + (f" with {value.min()}" if value.numel() else "")
            raise ValueError(f"{name}: expected ({len(labels)},) int64 {description}≥ 0, got {got}")


def classified(logits: Tensor, labels: Tensor) -> Tensor:
    """Mask of the images that are correctly classified: (N,) bool. Logits that are not finite count as wrong."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mask of the images that are correctly classified: (N,) bool.

    The model gets copies, in case it works in place. Raises ValueError if it has too few classes for the labels, and as
    ``logits_of``.
    """
    logits = logits_of(model, images.clone())
    check_logits(logits, len(images), labels=int(labels.max()) + 1)
    return classified(logits, labels)


def has_nan(values: Tensor) -> Tensor:
    """Mask of the images (N, …) with a NaN: (N,) bool."""
    return values.isnan().flatten(1).any(1)


def warn_of_stuck(stuck: Tensor) -> None:
    """Warn if an attack could not move some images in at least one step; ``stuck`` is their mask, (N,) bool."""
    if stuck.any():
        count = f"{int(stuck.sum())} of {len(stuck)} images"
        warn(f"model: its logits or gradients are NaN at {count}, which stay unchanged there")


def gradient_of(value: Tensor, images: Tensor) -> Tensor:
    """Gradient of a scalar with respect to the images. Raises ValueError if there is none."""
    gradient = torch.autograd.grad(value, images, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError(
            "model: its logits have no gradient with respect to the images (does it run under torch.no_grad, detach or "
            "round, or is it quantised?)"
        )
    return gradient


@checked
def input_gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """∇ₓ Σ_n CE(model(x_n), y_n): the gradient of each image, (N, C, H, W).

    Parameters get no gradient. Images and labels are those of ``pgd``, with the same errors.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> input_gradient(network, torch.rand(2, 3, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([2, 3, 2, 2])
    """
    check_attacked(images, labels)
    return gradient_and_logits(model, images, cross_entropy, labels, labels=int(labels.max()) + 1)[0]


def gradient_and_logits(
    model: Model, images: Tensor, loss: Loss, *labels: Tensor, **classes: int
) -> tuple[Tensor, Tensor]:
    """∇ₓ loss(model(x), *labels) and the logits, detached; ``classes`` as for ``check_logits``.

    Raises ValueError as ``logits_of``, ``check_logits`` and ``gradient_of``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.detach().clone().requires_grad_(), tuple(each.clone() for each in labels)
        logits = logits_of(model, images)
        check_logits(logits, len(images), **classes)
        return gradient_of(loss(logits, *labels), images), logits.detach()
