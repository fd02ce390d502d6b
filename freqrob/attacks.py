"""FGSM and PGD as training and evaluation use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    stop_when_fooled: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy in the L∞ ball.

    x ← Π_[0,1] Π_ε ( x + step_size · sign ∇ₓ CE(model(x), y) ), from a uniform point of the ball.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); used in the mode it is in.
        images, labels: (N, C, H, W) in [0, 1] and (N,) int64.
        eps, step_size: in pixels of [0, 1].
        steps: gradient steps; 0 gives the (random) start.
        random_start: start from a uniform point of the ball; else from the image.
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
    adversarial = images.clone()
    if random_start:
        noise = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
        adversarial = (images + eps * (2 * noise - 1)).clamp(0, 1)
    active = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        gradient, fooled = _ascend(model, adversarial[active], labels[active])
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


def _ascend(model: Model, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the loss, and which images are misclassified."""
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.detach().clone().requires_grad_(), labels.clone()
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.autograd.grad(loss, images)[0], ~classified(logits.detach(), labels)


def classified(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are classified correctly: (N,) bool. Logits with a NaN or an infinity classify nothing."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode for a while, bare of Lightning Fabric's wrapper, for gradients that concern no parameter.

    Batch statistics are neither used nor changed.
    """
    was_training = model.training
    model.eval()
    try:
        yield model.module if hasattr(model, "_forward_module") else model
    finally:
        model.train(was_training)
