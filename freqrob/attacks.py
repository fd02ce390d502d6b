"""FGSM and PGD as training and evaluation use them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from freqrob.data.datasets import check_labelled
from freqrob.parameters import LARGEST, check_choices, check_integers, checked, is_number, shown
from freqrob.pixels import check_floats
from freqrob.tensors import FLOATS, check_values

Model = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Norm = Literal["Linf", "L2"]
Images = Tensor | slice  # which of the images
ROUNDING = 1e-5  # by which augmented images may lie outside [0, 1]


class LinfBall:
    """max |x' − x| ≤ ε around each image (N, C, H, W), within [0, 1]."""

    def __init__(self, images: Tensor, eps: float) -> None:
        self.images, self.eps = images, eps
        self.low, self.high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)

    def project(self, points: Tensor, of: Images = slice(None)) -> Tensor:
        """The nearest points of the balls around some of the images."""
        return torch.clamp(points, self.low[of], self.high[of])

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """A uniform point of each ball, clipped to [0, 1]."""
        noise = _draw(torch.rand, self.images, self.images.shape, generator)
        return (self.images + self.eps * (2 * noise - 1)).clamp(0, 1)

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        """The step of length 1 that climbs most."""
        return gradient.sign()

    @staticmethod
    def length(offsets: Tensor) -> Tensor:
        """(N,) max |offset|."""
        return offsets.flatten(1).abs().amax(1)


class L2Ball:
    """‖x' − x‖₂ ≤ ε around each image (N, C, H, W), within [0, 1]."""

    def __init__(self, images: Tensor, eps: float) -> None:
        self.images, self.eps = images, eps

    def project(self, points: Tensor, of: Images = slice(None)) -> Tensor:
        """Points of the balls around some of the images: onto the sphere first, then clipped, which stays within."""
        offsets = points - self.images[of]
        length = _over_pixels(self.length(offsets))
        return torch.where(length > self.eps, self.images[of] + self.eps / length * offsets, points).clamp(0, 1)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """A uniform point of each ball, clipped to [0, 1]: a uniform direction, at ε u^(1/d)."""
        dimensions = self.images[0].numel()
        direction = self.direction(_draw(torch.randn, self.images, self.images.shape, generator))
        radius = self.eps * _draw(torch.rand, self.images, self.images.shape[:1], generator) ** (1 / dimensions)
        return (self.images + _over_pixels(radius) * direction).clamp(0, 1)

    @classmethod
    def direction(cls, gradient: Tensor) -> Tensor:
        """The step of length 1 that climbs most; none where the gradient is zero."""
        gradient = gradient / _over_pixels(LinfBall.length(gradient)).clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / _over_pixels(cls.length(gradient)).clamp(min=1)  # its largest entry is 1, or all are 0

    @staticmethod
    def length(offsets: Tensor) -> Tensor:
        """(N,) Euclidean."""
        return offsets.flatten(1).norm(dim=1)


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"Linf": LinfBall, "L2": L2Ball}


def _draw(
    distribution: Callable[..., Tensor], like: Tensor, shape: torch.Size, generator: torch.Generator | None
) -> Tensor:
    device = generator.device if generator else like.device
    return distribution(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def _over_pixels(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (N, 1, 1, 1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_n CE(logits_n, y_n): summed, so that each image's gradient is its own."""
    return F.cross_entropy(logits, labels, reduction="sum")


@checked
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
    norm: Norm = "Linf",
    stop_when_fooled: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on a loss, the cross-entropy unless given, in the L∞ or L2 ball.

    x ← Π_[0,1] Π_ε ( x + step_size · d(∇ₓ loss(model(x), y)) ), from a uniform point of the ball, with d(g) = sign g
    in L∞ and g / ‖g‖₂ in L2.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K); used in the mode it is in.
        images, labels: (N, C, H, W) floats in [0, 1], N ≥ 1, and (N,) int64.
        eps, step_size: in pixels of [0, 1]; for L2, of the whole image.
        steps: gradient steps; 0 gives the (random) start.
        random_start: start from a uniform point of the ball; else from the image.
        start: the images to start from instead, like ``images``; projected into the ball first.
        loss: (logits, labels) to a scalar, summed over the images; with ``stop_when_fooled``, of the images left.
        norm: "Linf" or "L2".
        stop_when_fooled: an image stays where it is first misclassified, and costs no more gradients: the accuracy
            under this attack counts an image as broken if any iterate breaks it.
        generator: of the random start.

    Returns:
        The adversarial images, same shape, detached. Pixels whose gradient is NaN do not move.

    Raises:
        TypeError: ``images`` are not a floating-point tensor, or another argument is of a wrong type.
        ValueError: images outside [0, 1] or NaN, or not (N, C, H, W); labels that are not (N,) int64 classes of the
            model; ``eps`` or ``step_size`` that are not in [0, 1], for L2 not finite and ≥ 0; ``steps`` that are not an
            integer ≥ 0; a ``start`` of another shape, or NaN; an unknown ``norm``.

    Warns of logits and gradients that are NaN.

    Source: Madry et al., ICLR 2018, Eq. 2.3.
    """
    check_radius(norm, eps=eps, step_size=step_size)
    check_integers(0, steps=steps)
    check_attacked(images, labels)
    images = images.detach()
    ball = BALLS[norm](images, eps)
    adversarial = images.clone() if start is None else ball.project(_checked_start(start, images))
    if random_start and start is None:
        adversarial = ball.random(generator)
    active = torch.arange(len(images), device=images.device) if stop_when_fooled else slice(None)
    stuck, classes = torch.zeros_like(labels, dtype=torch.bool), int(labels.max()) + 1
    for _ in range(steps):
        gradient, logits = _ascend(model, adversarial[active], labels[active], classes, loss)
        if stop_when_fooled:
            left = classified(logits, labels[active])
            active, gradient, logits = active[left], gradient[left], logits[left]
            if len(active) == 0:
                break
        stuck[active] |= has_nan(logits) | has_nan(gradient)
        moved = adversarial[active] + step_size * ball.direction(gradient.nan_to_num())
        adversarial[active] = ball.project(moved, active)
    warn_of_stuck(stuck)
    return adversarial


def check_norm(norm: str) -> None:
    """Raise ValueError for a norm that has no ball."""
    check_choices(BALLS, norm=norm)


def check_radius(norm: str, **values: float) -> None:
    """Raise ValueError for an unknown norm, and for lengths that are negative, not finite or, in L∞, beyond 1."""
    check_norm(norm)
    for name, value in values.items():
        if not is_number(value) or not 0 <= value <= LARGEST or (norm == "Linf" and value > 1):
            expected = "pixels in [0, 1], such as 8/255" if norm == "Linf" else "a length ≥ 0, such as 0.5"
            raise ValueError(f"{name}: expected {expected}, got {shown(value)}")


def check_attacked(images: Tensor, labels: Tensor) -> None:
    """Raise unless an attack can begin at these images and labels: ``check_labelled``, but floats, rounded or not."""
    check_values(images, "images")
    check_floats(images)
    check_labelled(images, labels, tolerance=ROUNDING)


def check_logits(logits: Tensor, images: int, classes: int) -> None:
    """Raise ValueError unless logits are (images, K) with K at least the number of ``classes``."""
    if got := unlike_logits(logits, images):
        raise ValueError(f"model: expected it to give logits ({images}, K), got {got}")
    if classes > logits.shape[1]:
        raise ValueError(f"labels: expected classes below {logits.shape[1]}, got {classes - 1}")


def unlike_logits(logits: object, images: int) -> str:
    """What a model gives that is not logits (images, K); "" if it is."""
    if not isinstance(logits, Tensor):
        return f"a {type(logits).__name__}"
    if logits.is_nested or logits.layout != torch.strided:
        return "a nested tensor" if logits.is_nested else f"a tensor of layout {logits.layout}"
    if logits.is_meta:
        return "a tensor without values, on the meta device; load the model's weights first"
    if logits.ndim != 2 or len(logits) != images or logits.dtype not in FLOATS:
        return f"{tuple(logits.shape)} {logits.dtype} of {images} images"
    return ""


def has_nan(values: Tensor) -> Tensor:
    """Which images (N, …) have a NaN: (N,) bool."""
    return values.isnan().flatten(1).any(1)


def warn_of_stuck(stuck: Tensor) -> None:
    """Warn of the images (N,) bool that an attack could not move, at one step at least."""
    if stuck.any():
        what = f"its logits or gradients are NaN at {int(stuck.sum())} of {len(stuck)} images, which do not move there"
        warnings.warn(f"model: {what}", stacklevel=4)


def _checked_start(start: Tensor, images: Tensor) -> Tensor:
    if start.shape != images.shape or not start.is_floating_point():
        expected, got = (f"{tuple(value.shape)} {value.dtype}" for value in (images, start))
        raise ValueError(f"start: expected the images' {expected}, got {got}")
    if not start.isfinite().all():
        raise ValueError("start: expected finite pixels, got NaN or an infinity")
    return start.detach()


@checked
def fgsm(model: Model, images: Tensor, labels: Tensor, *, eps: float = 8 / 255) -> Tensor:
    """One full step of ``pgd`` from the image itself. Raises as ``pgd``. Source: Goodfellow et al., ICLR 2015."""
    return pgd(model, images, labels, eps=eps, step_size=eps, steps=1, random_start=False)


@checked
def input_gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """∇ₓ Σ_n CE(model(x_n), y_n): each image's own gradient, (N, C, H, W); parameters get none.

    Images and labels as for ``pgd``. Raises the same errors for them.
    """
    check_attacked(images, labels)
    return _ascend(model, images, labels, int(labels.max()) + 1)[0]


def _ascend(
    model: Model, images: Tensor, labels: Tensor, classes: int, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """The gradient of the loss, and the logits."""
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.detach().clone().requires_grad_(), labels.clone()
        logits = model(images)
        check_logits(logits, len(images), classes)
        return gradient_of(loss(logits, labels), images), logits.detach()


def gradient_of(value: Tensor, images: Tensor) -> Tensor:
    """∂value/∂images of a scalar that a model was asked for. Raises ValueError where the model passes no gradient."""
    gradient = torch.autograd.grad(value, images, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError(
            "model: its logits have no gradient with respect to the images (does it run under torch.no_grad, detach or "
            "round, or is it quantised?)"
        )
    return gradient


def classified(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are classified correctly: (N,) bool. Logits with a NaN or an infinity classify nothing."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def bare(model: nn.Module) -> nn.Module:
    """The model without DDP's wrapper, for passes that give parameters no gradient to share among ranks."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The bare model in eval mode for a while: batch statistics are neither used nor changed."""
    was_training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield bare(model)
    finally:
        model.train(was_training)
        for module, mode in modes:
            if module.training != mode:  # frozen ones
                module.training = mode


@contextmanager
def measuring(model: nn.Module) -> Iterator[nn.Module]:
    """The bare model in eval mode; the caller's model is restored on exit.

    Restores the modes of all modules, and ``requires_grad`` and ``.grad`` of the model's tensors, which a backward pass
    through the model would otherwise fill or add to. Also restores the grad mode of the process. A model that is not a
    module has no such state, and is yielded as it is.
    """
    if not isinstance(model, nn.Module):
        yield model
        return
    before = [(tensor, tensor.requires_grad, tensor.grad) for tensor in _leaves(model)]
    try:
        for tensor, _, gradient in before:
            if gradient is not None:
                tensor.grad = None
        with evaluating(model) as subject, torch.set_grad_enabled(torch.is_grad_enabled()):
            yield subject
    finally:
        for tensor, requires_grad, gradient in before:
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not gradient:
                tensor.grad = gradient


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """For a while a model's tensors take no gradient, so that ``backward`` neither fills them nor calls their hooks."""
    taking = [tensor for tensor in _leaves(model) if tensor.requires_grad]
    for tensor in taking:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in taking:
            tensor.requires_grad_(True)


def _leaves(model: nn.Module) -> list[Tensor]:
    """The parameters, buffers and other tensors of the modules that may have a gradient of their own."""
    if not isinstance(model, nn.Module):
        return []
    attributes = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    held = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers(), attributes)}
    return [tensor for tensor in held.values() if tensor.is_leaf and not tensor.is_inference()]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """For a while tensors are created with this dtype, whatever the caller's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def random_state(*seed: int) -> Iterator[None]:
    """Restore the global random generators of PyTorch, NumPy and Python on exit; with a ``seed``, start from it.

    Models that draw random numbers then get the same ones in every run, and take none from the caller's.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(gpus):
        try:
            if seed:
                number = int(np.random.SeedSequence(seed).generate_state(1)[0])
                torch.manual_seed(number)
                np.random.seed(number)
                random.seed(number)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def device_of(model: nn.Module, images: Tensor | None = None) -> torch.device:
    """Where a model is; a model without tensors is where the images are, or else on the CPU."""
    tensor = next(chain(model.parameters(), model.buffers()), images)
    return torch.device("cpu") if tensor is None else tensor.device
