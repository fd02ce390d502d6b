"""FGSM and PGD as training and evaluation use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_n CE(logits_n, y_n): summed, so that each image's gradient is its own."""
    return F.cross_entropy(logits, labels, reduction="sum")


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    start: Tensor | None = None,
    loss: Loss = cross_entropy,
    stop_when_fooled: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on a loss, the cross-entropy unless given, in the L∞ ball.

    x ← Π_[0,1] Π_ε ( x + step_size · sign ∇ₓ loss(model(x), y) ), from a uniform point of the ball.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); used in the mode it is in.
        images, labels: (N, C, H, W) in [0, 1] and (N,) int64.
        eps, step_size: in pixels of [0, 1].
        steps: gradient steps; 0 gives the (random) start.
        random_start: start from a uniform point of the ball; else from the image.
        start: the images to start from instead, like ``images``; projected into the ball first.
        loss: (logits, labels) to a scalar, summed over the images; with ``stop_when_fooled``, of the images left.
        stop_when_fooled: an image stays where it is first misclassified, and costs no more gradients: the accuracy
            under this attack counts an image as broken if any iterate breaks it.
        generator: of the random start.

    Returns:
        The adversarial images, same shape, detached.

    Raises:
        ValueError: a negative ``eps``, ``step_size`` or ``steps``.

    Source: Madry et al., ICLR 2018, Eq. 2.3.
    """
    for name, value in (("eps", eps), ("step_size", step_size), ("steps", steps)):
        if value < 0:
            raise ValueError(f"{name}: expected a number ≥ 0, got {value}")
    images = images.detach()
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    adversarial = images.clone() if start is None else torch.clamp(start.detach(), low, high)
    if random_start and start is None:
        device = generator.device if generator else images.device
        noise = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=device).to(images.device)
        adversarial = (images + eps * (2 * noise - 1)).clamp(0, 1)
    active = torch.arange(len(images), device=images.device) if stop_when_fooled else slice(None)
    for _ in range(steps):
        gradient, fooled = _ascend(model, adversarial[active], labels[active], loss)
        if stop_when_fooled:
            active, gradient = active[~fooled], gradient[~fooled]
            if len(active) == 0:
                break
        moved = adversarial[active] + step_size * gradient.sign()
        adversarial[active] = torch.clamp(moved, low[active], high[active])
    return adversarial


def fgsm(model: Model, images: Tensor, labels: Tensor, *, eps: float = 8 / 255) -> Tensor:
    """One full step of ``pgd`` from the image itself. Source: Goodfellow et al., ICLR 2015."""
    return pgd(model, images, labels, eps=eps, step_size=eps, steps=1, random_start=False)


def input_gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """∇ₓ Σ_n CE(model(x_n), y_n): each image's own gradient, (N, C, H, W); parameters get none."""
    return _ascend(model, images, labels)[0]


def _ascend(model: Model, images: Tensor, labels: Tensor, loss: Loss = cross_entropy) -> tuple[Tensor, Tensor]:
    """The gradient of the loss, and which images are misclassified."""
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.detach().clone().requires_grad_(), labels.clone()
        logits = model(images)
        return torch.autograd.grad(loss(logits, labels), images)[0], ~classified(logits.detach(), labels)


def classified(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are classified correctly: (N,) bool. Logits with a NaN or an infinity classify nothing."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def bare(model: nn.Module) -> nn.Module:
    """The model without DDP's wrapper, for passes that give parameters no gradient to share among ranks."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The bare model in eval mode for a while: batch statistics are neither used nor changed."""
    was_training = model.training
    model.eval()
    try:
        yield bare(model)
    finally:
        model.train(was_training)
