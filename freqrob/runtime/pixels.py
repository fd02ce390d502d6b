"""Checks of image tensors.

Shapes and dtypes are always checked. Checking ranges costs a pass over the images and, on a GPU, a synchronisation:
measurements and attacks check all images once (``check_labelled`` in ``freqrob.data.datasets``), transforms and models
check the first plane only, and only on the CPU.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, fx

TOO_BRIGHT = 10.0  # far above images in [0, 1], even with noise; almost all images in 0–255 exceed it
OVER_WHITE = 1.5  # whole numbers above it are grey levels
MOST_CHANNELS, SMALLEST_SIDE = 4, 8


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape looks like (..., H, W, C): up to 4 channels after two sides of 8 pixels or more.

    False for kernels and feature maps, such as (64, 64, 3, 3) and (N, 512, 4, 4). Also true for planes with at most 4
    columns, at least 8 rows and at least 8 channels, which ``freqrob.spectral.ops`` accepts.
    """
    return len(shape) > 2 and 0 < shape[-1] <= MOST_CHANNELS and min(shape[-3], shape[-2]) >= SMALLEST_SIDE


def check_channels_first(images: Tensor, name: str = "images") -> None:
    """Raise ValueError for images that look like (N, H, W, C)."""
    if torch.jit.is_tracing():  # a trace would warn of each comparison
        return
    if has_channels_last(images.shape):
        raise ValueError(
            f"{name}: expected (..., C, H, W), got shape {tuple(images.shape)}, which looks like (..., H, W, C); "
            f"use {name}.movedim(-1, -3)"
        )


def tensor_remedy(value: object, name: str) -> str:
    """``"; use …"``: the call that converts an array, a PIL image or a list of tensors to a tensor; "" for others."""
    if hasattr(value, "__array_interface__") and hasattr(value, "shape"):  # of NumPy
        last = ".movedim(-1, -3)" if has_channels_last(value.shape) else ""  # pyright: ignore[reportAttributeAccessIssue]
        return f"; use torch.from_numpy({name}){last}"
    if type(value).__module__.startswith("PIL."):
        return f"; use torchvision.transforms.v2.functional.pil_to_tensor({name})[None]"
    if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
        return f"; use torch.stack({name})"
    return ""


def check_batch(images: Tensor) -> None:
    """Raise ValueError unless images are (N, C, H, W), TypeError unless they are a dense tensor of floats."""
    check_floats(images)
    if not isinstance(images, Tensor) or torch.jit.is_tracing():
        return
    check_channels_first(images)
    if images.ndim != 4:
        remedy = "; use images[None] for a single image" if images.ndim == 3 else ""
        raise ValueError(f"images: expected (N, C, H, W), got shape {tuple(images.shape)}{remedy}")


def check_channels(images: Tensor, channels: int) -> None:
    """Raise ValueError for images (..., C, H, W) of another number of channels, which would be broadcast."""
    if not isinstance(images, Tensor) or torch.jit.is_tracing():
        return
    check_channels_first(images)
    if images.ndim < 3 or images.shape[-3] != channels:
        got = f"shape {tuple(images.shape)}"
        if images.ndim == 4 and images.shape[1] == 1:
            got += "; use colour images (without --grayscale); if grey images are meant, "
            got += f"use images.expand(-1, {channels}, -1, -1)"
        raise ValueError(f"images: expected (N, {channels}, H, W) to match the model's mean and std, got {got}")


def check_floats(images: Tensor) -> None:
    """Raise TypeError unless images are a dense tensor of floats."""
    if not isinstance(images, Tensor):
        if isinstance(images, fx.Proxy):
            return
        raise TypeError(
            f"images: expected a torch.Tensor, got {type(images).__name__}{tensor_remedy(images, 'images')}"
        )
    if images.is_nested or images.layout != torch.strided:  # as ``check_dense``, which TorchScript does not compile
        raise TypeError("images: expected a dense tensor, got a sparse or nested one; use to_dense() or torch.stack")
    if not images.is_floating_point():
        remedy = "; use images / 255" if images.dtype == torch.uint8 else ""
        raise TypeError(f"images: expected floats in [0, 1], got {images.dtype}{remedy}")


def check_range(images: Tensor, tolerance: float = 0) -> None:
    """Raise ValueError for floats outside [0, 1] by more than ``tolerance``, and for NaN. Synchronises a GPU."""
    if not images.is_floating_point() or images.numel() == 0:
        return
    least, most = torch.stack(images.detach().aminmax()).tolist()
    if not (-tolerance <= least and most <= 1 + tolerance):  # also where they are NaN
        remedy = "; use images / 255" if most > TOO_BRIGHT else ""
        raise ValueError(f"images: expected floats in [0, 1], got {least:.9g} to {most:.9g}{remedy}")


def check_scale(images: Tensor, name: str = "images") -> None:
    """Raise ValueError for images on the CPU whose first plane has values of 0–255 instead of [0, 1]."""
    if (brightest := _brightest(images)) > TOO_BRIGHT or (brightest > OVER_WHITE and _are_grey_levels(images)):
        raise ValueError(_too_bright(brightest, name))


def check_scale_of_input(images: Tensor) -> None:
    """Check the input of a module: raise as ``check_scale`` for whole numbers in 0–255, and warn of other large values.

    An attack may pass images that are out of range, but not whole numbers.
    """
    brightest = _brightest(images)
    if brightest > OVER_WHITE and _are_grey_levels(images):
        raise ValueError(_too_bright(brightest, "images"))
    if brightest > TOO_BRIGHT:
        warnings.warn(_too_bright(brightest, "images"), stacklevel=3)


def _too_bright(brightest: float, name: str) -> str:
    return f"{name}: expected floats in [0, 1], got {brightest:g}; use {name} / 255"


def _brightest(images: Tensor) -> float:
    """The largest value of the first plane if it is finite; 0 for tensors not on the CPU or without values."""
    if not images.is_floating_point() or images.numel() == 0:
        return 0
    if images.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return 0
    try:
        brightest = images.detach()[(0,) * (images.ndim - 2)].amax().item()
    except RuntimeError:  # fake tensors, and those under vmap, have no values
        return 0
    return brightest if isinstance(brightest, float) and brightest < math.inf else 0  # a symbol while make_fx traces


def _are_grey_levels(images: Tensor) -> bool:
    """Whether the first plane has whole numbers from 0 to 255."""
    plane = images.detach()[(0,) * (images.ndim - 2)]
    return bool(((plane >= 0) & (plane <= 255) & (plane == plane.round())).all())
