"""The spectral ops: ring sums, ring filters, ring products, mean amplitudes and BaSS.

The last two dimensions of a tensor are a plane; there may be any number of leading dimensions. F is the unnormalised
``fft2`` of a plane. A sum over a ring runs over the full spectrum, mirrored half included. ``ring_map`` is the ring map
of the planes' size, ``RingMap(H, W)`` by default. All ops raise TypeError for a tensor that is not floating-point and
dense or whose dtype differs from that of ``x``, and ValueError for fewer than two dimensions, planes without pixels,
another device than that of ``x``, and a ``ring_map`` of another size.

float32 tensors, on the CPU also float64, go through the native kernels of ``csrc/``; other tensors, and all with
``FREQROB_NATIVE=off``, go through ``freqrob.spectral.reference``. Half precision is computed in float32: sums come back
in float32, images in their own dtype. All ops but ``balance`` are differentiable to any order. A plane with NaN or
infinity gives non-finite results and does not affect other planes.

On the CPU, the native kernels compute the same bits for a plane alone and in any batch, independent of its position,
the other planes, the number of threads, and the tensor's layout and address. The bits depend on the instruction set
(AVX-512, AVX2, baseline). ``freqrob.spectral.reference`` describes what plain PyTorch guarantees.
"""

from __future__ import annotations

from functools import lru_cache
from operator import index
from typing import Any, get_args

import torch
from torch import Tensor

from freqrob.runtime.parameters import is_number
from freqrob.runtime.pixels import check_channels_first
from freqrob.runtime.tensors import FLOATS, check_dense
from freqrob.spectral import native, reference
from freqrob.spectral.reference import HALF_PRECISION, irfft2, rfft2, widen
from freqrob.spectral.rings import RingMap, constant_when_compiled, multiplicity

__all__ = ["balance", "mean_amplitude", "ring_dot", "ring_filter", "ring_sum"]

LEAST, MOST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
PIXELS = FLOATS | {torch.uint8}
WEIGHTINGS = get_args(reference.Weighting)
NATIVE_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.uint8, *HALF_PRECISION),
    "cuda": (torch.float32, torch.uint8, *HALF_PRECISION),
}
NATIVE_PIXELS = {  # dtypes that the native BaSS reads and writes; others are converted to float32 and back
    "cpu": (torch.float32, torch.float64, torch.uint8),
    "cuda": (torch.float32, torch.bfloat16, torch.uint8),
}


def ring_sum(x: Tensor, ring_map: RingMap | None = None, of: str = "power") -> Tensor:
    """Σ over each ring of |F|² or |F|.

    Args:
        x: (..., H, W) floats.
        ring_map: see the module's docstring.
        of: ``"power"`` for |F|², ``"amplitude"`` for |F|.

    Returns:
        (..., rings), in the units of x squared (``power``: Σ over the rings = H·W·Σ x²) or of x. The gradient of
        |F| at F = 0 is taken as 0.

    Source: Lin et al., NeurIPS 2023, Eq. 1 (``power``) and their ``BaSS_cifar.py`` (``amplitude``).

    >>> import torch
    >>> from freqrob.spectral import RingMap
    >>> x = torch.rand(4, 32, 32)
    >>> ring_sum(x, RingMap.of(x), of="power").shape
    torch.Size([4, 23])
    """
    check_planes(x, "x")
    if not isinstance(of, str) or of not in ("power", "amplitude"):
        raise ValueError(f"of: expected 'power' or 'amplitude', got {of!r}")
    ring_map = _rings_for(x, ring_map)
    if _is_native(x):
        half, rings = _geometry(ring_map, x)
        return torch.ops.freqrob.ring_sum(widen(x), half, rings, of == "amplitude")
    return reference.ring_sum(x, ring_map, of)


def ring_filter(x: Tensor, weights: Tensor, ring_map: RingMap | None = None) -> Tensor:
    """F⁻¹(weights[ring] · F x): multiplies every ring of the spectrum by a weight.

    Args:
        x: (..., H, W) floats.
        weights: (..., rings), of the dtype of ``x``; its leading dimensions and those of ``x`` are broadcast.
        ring_map: see the module's docstring.

    Returns:
        (..., H, W) in the dtype of ``x``.

    >>> import torch
    >>> from freqrob.spectral import RingMap
    >>> x = torch.rand(4, 32, 32)
    >>> rings = RingMap.of(x)
    >>> torch.allclose(ring_filter(x, torch.ones(rings.rings), rings), x, atol=1e-5)
    True
    """
    check_planes(x, "x")
    _check_like(weights, x, "weights")
    ring_map = _rings_for(x, ring_map)
    rings = ring_map.rings
    if weights.ndim < 1 or weights.shape[-1] != rings:
        raise ValueError(f"weights: expected (..., {rings}), one for each ring, got shape {tuple(weights.shape)}")
    try:
        leading = torch.broadcast_shapes(x.shape[:-2], weights.shape[:-1])
    except RuntimeError:
        got = f"{tuple(weights.shape[:-1])} and {tuple(x.shape[:-2])}"
        raise ValueError(f"weights: expected leading dimensions that broadcast with those of x, got {got}") from None
    if not _is_native(x):
        return reference.ring_filter(x, weights, ring_map)
    half, _ = _geometry(ring_map, x)
    planes, rows = x.expand(*leading, *x.shape[-2:]), weights.expand(*leading, weights.shape[-1])
    return torch.ops.freqrob.ring_filter(widen(planes), widen(rows), half).to(x.dtype)


def ring_dot(x: Tensor, y: Tensor, ring_map: RingMap | None = None) -> Tensor:
    """(1/HW) Σ over each ring of Re(Fx · conj Fy): the part of Σ x·y on each ring.

    Args:
        x, y: (..., H, W) floats of one shape and dtype.
        ring_map: see the module's docstring.

    Returns:
        (..., rings); its sum over the rings is Σ x·y over the plane.

    >>> import torch
    >>> from freqrob.spectral import RingMap
    >>> x, y = torch.rand(2, 4, 32, 32)
    >>> ring_dot(x, y, RingMap.of(x)).shape
    torch.Size([4, 23])
    """
    check_planes(x, "x")
    _check_like(y, x, "y")
    if x.shape != y.shape:
        raise ValueError(f"y: expected the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    ring_map = _rings_for(x, ring_map)
    if _is_native(x):
        half, rings = _geometry(ring_map, x)
        return torch.ops.freqrob.ring_dot(widen(x), widen(y), half, rings)
    return reference.ring_dot(x, y, ring_map)


def mean_amplitude(x: Tensor) -> Tensor:
    """Mean of |rfft2(x)| over all planes, on the CPU with the same bits for any number of threads.

    Args:
        x: (..., H, W) floats, at least one plane.

    Returns:
        (H, W//2+1), DC at [0, 0]. The gradient of |F| at F = 0 is taken as 0.

    Source: Chan et al., IJCAI 2022, the map M of the Jacobian's spectrum; alvinchangw/JaFR_IJCAI2022.

    >>> import torch
    >>> mean_amplitude(torch.rand(4, 3, 32, 32)).shape
    torch.Size([32, 17])
    """
    check_planes(x, "x")
    if x.numel() == 0:
        raise ValueError(f"x: expected at least one plane, got shape {tuple(x.shape)}")
    if _is_native(x):
        return torch.ops.freqrob.mean_amplitude(widen(x))
    return reference.mean_amplitude(x if x.ndim > 2 else x[None])


def balance(
    x: Tensor,
    ring_map: RingMap | None = None,
    *,
    weighting: str = "amplitude",
    pixel_scale: float = 255.0,
    out: Tensor | None = None,
) -> Tensor:
    """Balance Spectrum Sampling of every plane, without a gradient; see ``freqrob.bass``, which checks its arguments.

    Args:
        x: (..., H, W) pixels, float in [0, 1] or uint8.
        ring_map: see the module's docstring.
        weighting: ``"amplitude"`` or ``"power"``.
        pixel_scale: the value of white for the logarithms.
        out: tensor for the result, with the shape and dtype of ``x``; may be ``x`` itself, but must not partly overlap
            it.

    Returns:
        The balanced planes in the shape and dtype of ``x``; ``out`` if given.
    """
    check_planes(x, "x", bytes_too=True)
    if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: expected 'amplitude' or 'power', got {weighting!r}")
    check_pixel_scale(pixel_scale)
    return balance_checked(x, _rings_for(x, ring_map), weighting, pixel_scale, out)


def balance_checked(
    x: Tensor, ring_map: RingMap, weighting: str, pixel_scale: float, out: Tensor | None = None
) -> Tensor:
    """``balance`` without checks, except of ``out``, because checks take longer than balancing a 32×32 image."""
    if out is not None:
        check_out(out, x)
    if x.requires_grad:
        x = x.detach()
    if not _is_native(x):
        y = reference.balance(x, ring_map, weighting=weighting, pixel_scale=pixel_scale)
        return y if out is None else out.copy_(y)
    half, rings = _geometry(ring_map, x)
    options = (half, rings, weighting == "power", float(pixel_scale))
    is_direct = x.dtype in NATIVE_PIXELS[x.device.type]
    if is_direct and out is not None and out.is_contiguous() and not out.is_neg():
        torch.ops.freqrob.bass_out(x, *options, out)
        return out
    op = torch.ops.freqrob.bass.default
    y = op(x, *options) if is_direct else op(widen(x), *options).to(x.dtype)
    return y if out is None else out.copy_(y)


# Checks


def check_planes(x: Tensor, name: str, bytes_too: bool = False) -> None:
    """Raise unless ``x`` is (..., H, W) with at least one pixel a plane: floats, or with ``bytes_too`` uint8."""
    check_dense(x, name)
    if x.dtype not in (PIXELS if bytes_too else FLOATS):
        raise TypeError(f"{name}: expected floats{' or uint8' if bytes_too else ''}, got {x.dtype}")
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"{name}: expected (..., H, W) with at least one pixel, got shape {tuple(x.shape)}")


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise unless ``images`` is (..., H, W), float or uint8, and does not look like (..., H, W, C)."""
    check_planes(images, name, bytes_too=True)
    check_channels_first(images, name)


def _check_like(other: Tensor, x: Tensor, name: str) -> None:
    check_dense(other, name)
    if other.dtype != x.dtype:
        raise TypeError(f"{name}: expected the dtype of x, {x.dtype}, got {other.dtype}")
    if other.device != x.device:
        raise ValueError(f"{name}: expected the device of x, {x.device}, got {other.device}")


def check_pixel_scale(pixel_scale: float) -> None:
    """Raise unless ``pixel_scale``, the value of white, is positive and representable in float32."""
    if not is_number(pixel_scale):
        raise TypeError(f"pixel_scale: expected a number, got {type(pixel_scale).__name__}")
    if not LEAST <= pixel_scale <= MOST:
        raise ValueError(f"pixel_scale: expected a positive number in float32's range, got {pixel_scale!r}")


def check_out(out: Tensor, x: Tensor) -> None:
    """Raise unless ``out`` can hold a result with the shape and dtype of ``x``."""
    _check_like(out, x, "out")
    if out.shape != x.shape:
        raise ValueError(f"out: expected the shape of x, {tuple(x.shape)}, got {tuple(out.shape)}")
    if out.numel() and any(step == 0 and size > 1 for size, step in zip(out.shape, out.stride(), strict=True)):
        raise ValueError(f"out: expected separate memory for every pixel, got strides {out.stride()}")
    if torch.is_grad_enabled() and out.requires_grad:
        raise ValueError("out: expected a tensor that does not require a gradient")


def _rings_for(x: Tensor, ring_map: RingMap | None) -> RingMap:
    height, width = map(index, x.shape[-2:])  # under torch.compile a symbolic size becomes a constant
    if ring_map is None:
        return RingMap(height, width)
    if not isinstance(ring_map, RingMap):
        raise TypeError(f"ring_map: expected a RingMap, got {type(ring_map).__name__}")
    size = (ring_map.height, ring_map.width)
    if size != (height, width):
        raise ValueError(f"ring_map: expected the rings of planes of {(height, width)}, got one of {size}")
    return ring_map


# Native ops


def _is_native(x: Tensor) -> bool:
    return x.dtype in NATIVE_DTYPES.get(x.device.type, ()) and _registered(x.device.type)


@constant_when_compiled
def _registered(device: str) -> bool:
    """Whether the native ops, with shapes and derivatives, are registered for a device type."""
    return native.load() and device.upper() in _register()


def _geometry(ring_map: RingMap, x: Tensor) -> tuple[Tensor, int]:
    """The arguments of the native ops that describe the rings."""
    return ring_map.half_on(x.device), ring_map.rings


@lru_cache(maxsize=1)
def _register() -> list[str]:
    """Register shapes and derivatives of the native ops after loading their library; return its device types.

    ``ring_filter`` and ``ring_dot`` are closed under differentiation: ∂filter/∂x = filter(g, w),
    ∂filter/∂w = dot(g, x), ∂dot/∂x = filter(y, g). In the gradient of a sum, the filter's weight is 0 for coefficients
    on no ring.
    """
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("freqrob::ring_sum", lambda x, half, rings, amplitude: x.new_empty(*x.shape[:-2], rings))
    fake("freqrob::ring_filter", lambda x, weights, half, outside=1.0: x.new_empty(x.shape))
    fake("freqrob::ring_amplitude_backward", lambda grad, x, half: x.new_empty(x.shape))
    fake("freqrob::ring_dot", lambda x, y, half, rings: x.new_empty(*x.shape[:-2], rings))
    fake("freqrob::mean_amplitude", lambda x: x.new_empty(x.shape[-2], x.shape[-1] // 2 + 1))
    fake("freqrob::bass", lambda x, half, rings, of_power, pixel_scale: x.new_empty(x.shape))
    fake("freqrob::bass_out", lambda x, half, rings, of_power, pixel_scale, out: None)
    autograd("freqrob::ring_sum", _ring_sum_backward, setup_context=_save)
    autograd("freqrob::ring_filter", _ring_filter_backward, setup_context=_save)
    autograd("freqrob::ring_dot", _ring_dot_backward, setup_context=_save)
    autograd("freqrob::mean_amplitude", _mean_amplitude_backward, setup_context=_save)
    op: Any = torch.ops.freqrob.bass.default
    return [device for device in ("CPU", "CUDA") if op.has_kernel_for_dispatch_key(device)]


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.options = tuple(value for value in inputs if not isinstance(value, Tensor))


def _ring_sum_backward(ctx, grad: Tensor):
    x, half = ctx.saved_tensors
    _, amplitude = ctx.options
    pixels = x.shape[-2] * x.shape[-1]
    if not amplitude:
        return 2 * pixels * torch.ops.freqrob.ring_filter(x, grad, half, 0.0), None, None, None
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return torch.ops.freqrob.ring_amplitude_backward(grad, x, half), None, None, None
    gain = torch.cat([grad, torch.zeros_like(grad[..., :1])], -1)[..., half.long()]  # -1 meets the zero at the end
    return pixels * irfft2(gain * _phase(rfft2(x)), s=x.shape[-2:]), None, None, None


def _ring_filter_backward(ctx, grad: Tensor):
    x, weights, half = ctx.saved_tensors
    grad_x = torch.ops.freqrob.ring_filter(grad, weights, half, *ctx.options) if ctx.needs_input_grad[0] else None
    grad_weights = torch.ops.freqrob.ring_dot(grad, x, half, weights.shape[-1]) if ctx.needs_input_grad[1] else None
    return grad_x, grad_weights, None, None


def _ring_dot_backward(ctx, grad: Tensor):
    x, y, half = ctx.saved_tensors
    grad_x = torch.ops.freqrob.ring_filter(y, grad, half, 0.0) if ctx.needs_input_grad[0] else None
    grad_y = torch.ops.freqrob.ring_filter(x, grad, half, 0.0) if ctx.needs_input_grad[1] else None
    return grad_x, grad_y, None, None


def _mean_amplitude_backward(ctx, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    height, width = x.shape[-2:]
    planes = x.numel() / (height * width)
    each = grad / multiplicity(width, x.device)
    adjoint = irfft2(each * _phase(rfft2(x)), s=(height, width))  # of rfft2, over H·W
    return adjoint * (height * width / planes)


def _phase(spectrum: Tensor) -> Tensor:
    """F / |F|, and 0 at F = 0 together with its derivatives."""
    power = spectrum.real.square() + spectrum.imag.square()
    empty = power == 0
    return spectrum * torch.where(empty, 0, torch.where(empty, 1, power).rsqrt())
