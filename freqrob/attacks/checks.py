"""Checks of a model on a few images before an attack: whether it works, and whether its results may mislead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from freqrob.attacks.gradient import describe_failure, input_gradient, is_out_of_memory, unlike_logits
from freqrob.runtime.warning import warn

SAME = 1e-4  # tolerance between two passes, relative to the logits' norm, as in AutoAttack's packages
UNLIKELY = 1e-3  # probability below which the labels are assumed to have fewer classes than the model
BESIDE = 0.02  # tolerance between an image alone and in a batch (rounding, also of bfloat16)


def check_answers(model: nn.Module, images: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """Compute and check the logits of images on the model's device; ``labels`` are those of the whole measurement.

    Raises ValueError unless the logits are (N, K) floats, K ≥ 2 exceeds all labels and equals ``classes`` (if given),
    and the model leaves its images unchanged. Raises torch.OutOfMemoryError.
    """
    given = images.clone()
    try:
        with torch.no_grad():
            logits = model(given)
    except Exception as error:  # a user's network may raise any error
        if is_out_of_memory(error):
            raise
        raise ValueError(f"model: {describe_failure(model, images, error)}") from error
    if got := unlike_logits(logits, len(images)):
        raise ValueError(f"model: expected logits (N, K), got {got}")
    if not torch.equal(given, images):
        raise ValueError("model: it changes its images in place, which breaks attacks; use images.clone() in it")
    _check_classes(logits.shape[1], labels, classes)
    return logits


def _check_classes(given: int, labels: Tensor, classes: int | None) -> None:
    if given <= (last := int(labels.max())):
        raise ValueError(f"model: expected at least {last + 1} classes, because labels go up to {last}, got {given}")
    if given < 2:
        raise ValueError(
            f"model: expected logits of 2 classes or more, got {given}; let it return torch.cat([-logit, logit], 1) / 2"
        )
    if classes is not None and given != classes:
        raise ValueError(
            f"model: expected {classes} classes like the data set, got {given}; wrap the model so that it returns one "
            "logit for each class of the data set, in their order"
        )


def check_gradient(model: nn.Module, images: Tensor, labels: Tensor, needed_by: str, alternative: str = "") -> Tensor:
    """Compute the gradient of the loss with respect to the images, (N, C, H, W).

    Raises ValueError for a model without gradient; the message includes ``needed_by``, and the remedy to measure the
    ``alternative`` instead. Raises torch.OutOfMemoryError.
    """
    try:
        return input_gradient(model, images, labels)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, ValueError) and str(error).startswith("model: its logits have no gradient"):
            other = f"; measure {alternative} instead" if alternative else ""
            raise ValueError(f"{error}, which is needed by {needed_by}{other}") from error
        if isinstance(error, ValueError) and isinstance(error.__cause__, RuntimeError):  # raised by logits_of
            error = error.__cause__
        raise ValueError(f"model: with gradients {describe_failure(model, images, error)}") from error


def check_model(model: nn.Module, images: Tensor, labels: Tensor, gradients: bool) -> None:
    """Raise as ``check_answers`` and ``check_gradient`` if the model fails on these images."""
    check_answers(model, images, labels)
    if gradients:
        check_gradient(model, images, labels, "attacks by gradient")


@contextmanager
def explained(batch_size: int, check: Callable[[], object] | None = None) -> Iterator[None]:
    """Add the remedy to the errors of a measurement.

    If memory is exhausted, raises torch.OutOfMemoryError that names the batch size. After any other error, calls
    ``check``, which may raise a clearer one, for example that the model fails on these images.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            if str(error).startswith("batch_size: "):
                raise
            first = str(error).partition("\n")[0]
            raise torch.OutOfMemoryError(
                f"batch_size: {batch_size} images at a time need too much memory; use fewer (--batch-size). {first}"
            ) from error
        if check is not None:
            check()
        raise


def warn_of_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    all_labels: Tensor,
    classes: int | None = None,
    needed_by: str = "",
    alternative: str = "",
) -> None:
    """Warn about a model whose results may mislead.

    Such a model is randomised, depends on the other images of a batch, returns probabilities or non-finite values,
    broadcasts grey images to three channels, seems to have other classes than the labels, or has zero gradients.

    Args:
        model, images, labels: as for an attack, on the model's device.
        all_labels: labels of the whole data set.
        classes: the number of the data set's classes, if known.
        needed_by, alternative: the measurement that needs gradients, if any, and one that does not.

    Raises as ``check_answers`` and ``check_gradient``.
    """
    first = check_answers(model, images, all_labels, classes)
    with torch.no_grad():
        half = len(images) // 2 or 1
        others = torch.cat([images[:half], images[:1].expand(len(images) - half, *images.shape[1:])])
        second, beside_others = model(images), model(others)
    broken = int((~first.isfinite().all(1)).sum())
    if broken:
        warn(
            f"model: its logits are NaN or infinite at {broken} of {len(images)} images, which count as misclassified; "
            "their gradients are NaN"
        )
    if _differ(first, second, SAME):
        warn(
            "model: it is randomised (two passes over the same images differ), so that gradients and accuracies are "
            "noisy and PGD looks weaker than it is; attack it with autoattack-rand, which averages gradients"
        )
    elif _differ(first[:half], beside_others[:half], BESIDE):
        warn(
            "model: its output for an image depends on the others in the batch (is a batch norm in training mode?), so "
            "all results depend on batch size and order"
        )
    elif (first >= 0).all() and ((first.sum(1) - 1).abs() < 1e-4).all():
        warn(
            "model: it returns probabilities (no row of its outputs is negative, each sums to 1), not logits; the loss "
            "takes a second softmax, which flattens the gradients, and attacks look weaker than they are. Evaluate it "
            "without its softmax"
        )
    _warn_of_grey(model, images, first)
    if classes is None:
        _warn_of_classes(first, all_labels)
    if needed_by:
        zero = int((check_gradient(model, images, labels, needed_by, alternative).flatten(1) == 0).all(1).sum())
        if zero:
            warn(
                f"model: the gradient of the loss is zero at {zero} of {len(images)} images, where gradient-based "
                "attacks fail and look weaker than they are, and spectra of gradients are meaningless; measure square "
                "or autoattack as well"
            )


def _warn_of_grey(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Warn if images have one channel and the model takes three, because its normalisation repeats the channel."""
    if images.shape[1] != 1:
        return
    try:
        with torch.no_grad():
            of_three = model(images.expand(-1, 3, -1, -1).clone())
    except Exception:  # a model for one channel may raise anything
        return
    if (
        not unlike_logits(of_three, len(images))
        and of_three.shape == logits.shape
        and not _differ(logits, of_three, SAME)
    ):
        warn(
            "model: the images have one channel, and the model takes three, so that each of them gets the same values "
            "(its normalisation broadcasts); if it is meant for colour images, measure those, or "
            "images.expand(-1, 3, -1, -1) to attack each channel on its own"
        )


def _warn_of_classes(logits: Tensor, labels: Tensor) -> None:
    """Warn if labels use only the first few of the model's classes, and the model mostly predicts others."""
    classes, known = logits.shape[1], int(labels.max()) + 1
    beyond = int((logits.argmax(1) >= known).sum())
    chance = (known / classes) ** len(labels)  # probability that labels drawn from all classes omit the last ones
    if chance < UNLIKELY and beyond > len(logits) / 2:
        warn(
            f"model: it has {classes} classes, the labels go from 0 to {known - 1}, and {beyond} of {len(logits)} "
            "predictions are above them and count as misclassified; if the labels belong to other classes than the "
            "model's, wrap the model so that it returns one logit for each class of the labels"
        )


def _differ(logits: Tensor, others: Tensor, tolerance: float) -> bool:
    return bool(((logits - others).norm(dim=1) > tolerance * logits.norm(dim=1)).any())
