"""AugMix: mixtures of chains of simple image operations, computed by batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from freqrob.data.datasets import to_pixels
from freqrob.runtime.parameters import Count, Positive, checked, fits, is_number, shown
from freqrob.runtime.pixels import check_scale
from freqrob.spectral.ops import check_images

MAX_RANDOM_DEPTH = 3


class Op(IntEnum):
    """Operation of one step of a chain; NONE for the steps after its end."""

    NONE = 0
    AUTOCONTRAST = 1
    EQUALIZE = 2
    POSTERIZE = 3
    SOLARIZE = 4
    ROTATE = 5
    SHEAR_X = 6
    SHEAR_Y = 7
    TRANSLATE_X = 8
    TRANSLATE_Y = 9


GEOMETRIC = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)


@dataclass(frozen=True)
class Draws:
    """The random choices of AugMix for N images, drawn independently.

    ``ops`` (depth, width, N) of ``Op``, ``levels`` (depth, width, N) ≥ 0.1, ``signs`` (depth, width, N) of ±1;
    ``weights`` (width, N), the chains' weights w; ``mixing`` (N,), the mixture's share m.
    """

    ops: NDArray
    levels: NDArray
    signs: NDArray
    weights: NDArray
    mixing: NDArray


@checked
def augmix(
    images: Tensor,
    *,
    severity: float = 3.0,
    width: Count = 3,
    depth: int = -1,
    alpha: Positive = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mix each image with the results of ``width`` chains of random operations: (1 − m) x + m Σ_k w_k chain_k(x).

    m is Beta(α, α) and w Dirichlet(α, …, α). A step of a chain is one of nine operations: autocontrast, equalize,
    posterize, solarize, rotate, shear and translate in x or y. Its level is uniform in [0.1, severity]; level 10
    rotates by 30°, shears by 0.3, translates by a third of the image, solarizes everything and posterizes to 0 bits.
    For any dtype, operations are Pillow's on 8-bit pixels, as in the authors' code; only the mixture is rounded, once.
    Each image has its own draws and does not depend on the others.

    Args:
        images: (N, C, H, W) pixels, float in [0, 1] or uint8 in 0–255, on any device.
        severity: the highest level, 0.1 to 10.
        width: chains per image.
        depth: operations per chain; −1 draws 1 to 3 for each chain.
        alpha: the concentration α of both distributions.
        generator: source of the random numbers; torch's default CPU generator if None.

    Returns:
        The mixed images, same shape, dtype, device and memory format; not differentiable.

    Raises:
        TypeError: ``images`` is not a tensor of floats or uint8.
        ValueError: ``images`` is not (N, C, H, W) with C = 1 or 3, or has floats in 0–255 (only the first plane of CPU
            tensors is checked); a parameter is out of range.

    Source: Hendrycks et al., ICLR 2020, Algorithm 1; google-research/augmix, ``cifar.py`` and ``augmentations.py``.
    """
    check_images(images)
    if images.ndim != 4:
        raise ValueError(f"images: expected (N, C, H, W), got {tuple(images.shape)}")
    if images.shape[1] not in (1, 3):  # torchvision's operations take no others
        raise ValueError(f"images: expected 1 or 3 channels, got {images.shape[1]}")
    check_scale(images)
    check_augmix(severity, depth)
    draws = _draw(len(images), severity, width, depth, alpha, generator)
    return _mix(images.detach(), draws)


def check_augmix(severity: float, depth: int) -> None:
    """Raise ValueError, naming the parameter, for a value that ``augmix`` does not take."""
    if not is_number(severity) or not 0.1 <= severity <= 10:
        raise ValueError(f"severity: expected a level from 0.1 to 10, got {shown(severity)}")
    if not fits(depth, int) or not (depth == -1 or depth >= 1):
        raise ValueError(f"depth: expected an integer ≥ 1, or -1 for a random depth, got {shown(depth)}")


def _draw(
    count: int, severity: float, width: int, depth: int, alpha: float, generator: torch.Generator | None = None
) -> Draws:
    """Draw with NumPy, seeded from ``generator``: PyTorch's gamma distribution takes no generator."""
    device = generator.device if generator else "cpu"
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=device)))
    shape = (depth if depth > 0 else MAX_RANDOM_DEPTH, width, count)
    ops = rng.integers(Op.AUTOCONTRAST, Op.TRANSLATE_Y, shape, endpoint=True)
    if depth == -1:
        depths = rng.integers(1, MAX_RANDOM_DEPTH, shape[1:], endpoint=True)
        ops[np.arange(MAX_RANDOM_DEPTH)[:, None, None] >= depths] = Op.NONE
    return Draws(
        ops=ops,
        levels=rng.uniform(0.1, severity, shape),
        signs=rng.choice([-1, 1], shape),
        weights=rng.dirichlet([alpha] * width, count).T,
        mixing=rng.beta(alpha, alpha, count),
    )


def _mix(images: Tensor, draws: Draws) -> Tensor:
    width, count = draws.weights.shape
    chains = _to_bytes(to_pixels(images)).repeat(width, 1, 1, 1)  # (width·N, C, H, W)
    for ops, levels, signs in zip(draws.ops, draws.levels, draws.signs, strict=True):
        _step(chains, ops.ravel(), levels.ravel(), signs.ravel())
    weights, mixing = (
        torch.from_numpy(shares).to(images.device, torch.float32)[..., None, None, None]
        for shares in (draws.weights / 255, draws.mixing)
    )
    mixture = (weights * chains.view(width, count, *images.shape[1:])).sum(0)
    mixed = torch.lerp(to_pixels(images), mixture, mixing)
    return _to_bytes(mixed) if images.dtype == torch.uint8 else mixed.to(images.dtype)


def _to_bytes(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)


def _step(pixels: Tensor, ops: NDArray, levels: NDArray, signs: NDArray) -> None:
    """Apply an operation to each of M images (M, C, H, W) uint8, in place; equal operations are batched."""
    for group, apply in _APPLY.items():
        chosen = np.flatnonzero(np.isin(ops, group))
        if len(chosen):
            index = torch.from_numpy(chosen).to(pixels.device)
            pixels[index] = apply(pixels[index], ops[chosen], levels[chosen], signs[chosen])


def _of_torchvision(name: str, pixels: Tensor, *_draws: NDArray) -> Tensor:
    from torchvision.transforms.v2 import functional

    return getattr(functional, name)(pixels)


def _posterize(pixels: Tensor, _ops: NDArray, levels: NDArray, _signs: NDArray) -> Tensor:
    lost_bits = 4 + np.trunc(levels * 4 / 10).astype(np.int64)
    return pixels & _of_image(256 - (1 << lost_bits), pixels)


def _solarize(pixels: Tensor, _ops: NDArray, levels: NDArray, _signs: NDArray) -> Tensor:
    highest_kept = 255 - np.trunc(levels * 256 / 10)
    return torch.where(pixels > _of_image(highest_kept, pixels), ~pixels, pixels)


def _of_image(values: NDArray, pixels: Tensor) -> Tensor:
    """One value for each image: (M, 1, 1, 1) uint8."""
    return torch.from_numpy(values.astype(np.uint8)).to(pixels.device)[:, None, None, None]


def _warp(pixels: Tensor, ops: NDArray, levels: NDArray, signs: NDArray) -> Tensor:
    """Bilinear sampling as in Pillow: border pixels extend to their outer edge, everything beyond is black.

    Pillow truncates the sampled value; 1e-3 is added because float32 can give 99.9999 instead of 100.
    """
    height, width = pixels.shape[-2:]
    to_square = np.array([[2 / width, 0, -1], [0, 2 / height, -1]])  # the image is [−1, 1]²
    matrices = torch.from_numpy(to_square @ _source(ops, levels, signs, height, width))
    by_x, by_y, offset = matrices.to(pixels.device, torch.float32)[..., None, None].unbind(2)  # each (M, 2, 1, 1)
    x, y = (torch.arange(size, device=pixels.device, dtype=torch.float32) + 0.5 for size in (width, height))
    source = by_x * x + (by_y * y[:, None] + offset)  # (M, 2, H, W); no matrix product, TF32 would blur it
    inside = source.abs() < 1
    sampled = F.grid_sample(pixels.float(), source.movedim(1, -1), padding_mode="border", align_corners=False)
    return sampled.add_(1e-3).to(torch.uint8) * (inside[:, :1] & inside[:, 1:])


def _source(ops: NDArray, levels: NDArray, signs: NDArray, height: int, width: int) -> NDArray:
    """Inverse affine maps A (M, 3, 3): (x, y, 1) = A (x', y', 1), in pixels from the upper left corner."""

    def magnitude(op: Op, at_level_10: float, integer: bool = True) -> NDArray:
        size = levels * at_level_10 / 10
        return np.where(ops == op, signs * (np.trunc(size) if integer else size), 0)

    angle = np.deg2rad(magnitude(Op.ROTATE, 30))
    cos, sin, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
    shear_x, shear_y = magnitude(Op.SHEAR_X, 0.3, integer=False), magnitude(Op.SHEAR_Y, 0.3, integer=False)
    row_x = [cos, shear_x - sin, x - cos * x + sin * y + magnitude(Op.TRANSLATE_X, width / 3)]
    row_y = [shear_y + sin, cos, y - sin * x - cos * y + magnitude(Op.TRANSLATE_Y, height / 3)]
    row_1 = np.tile([[0], [0], [1]], len(ops))
    return np.array([row_x, row_y, row_1]).transpose(2, 0, 1)


_APPLY = {
    (Op.AUTOCONTRAST,): partial(_of_torchvision, "autocontrast"),
    (Op.EQUALIZE,): partial(_of_torchvision, "equalize"),
    (Op.POSTERIZE,): _posterize,
    (Op.SOLARIZE,): _solarize,
    GEOMETRIC: _warp,
}
