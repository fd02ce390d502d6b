"""Balance Spectrum Sampling (BaSS): weigh each ring of an image's spectrum so that its power is less long-tailed."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from freqrob.runtime.parameters import check_choices, checked, to_python
from freqrob.runtime.pixels import check_scale, check_scale_of_input
from freqrob.spectral import ops, reference
from freqrob.spectral.ops import WEIGHTINGS, check_images, check_out, check_pixel_scale
from freqrob.spectral.reference import Weighting
from freqrob.spectral.rings import RingMap

EmptyRings = Literal["keep", "as_published"]
EMPTY_RINGS = get_args(EmptyRings)


def bass(
    images: Tensor,
    *,
    weighting: Weighting = "amplitude",
    pixel_scale: float = 255.0,
    empty_rings: EmptyRings = "keep",
    out: Tensor | None = None,
) -> Tensor:
    """Balance the spectrum of each channel of each image.

    Let F be the spectrum of a channel, and a_i the mean of |F| over ring i (``amplitude``) or the integral of |F|² over
    the angle (``power``: AI(r_i) of Eq. 1, 2π times the mean of |F|² over ring i). Rings follow the rule ``trunc``, and
    i runs over the rings between DC and the outermost one. With

        w_i = [ln a_i / Σ_j ln a_j] / [a_i / Σ_j a_j],

    F is multiplied on ring i by w_i (``amplitude``), or by √w_i (``power``, where w_i is a ratio of powers: the
    result's a_i are then proportional to the logarithms of the image's, and Σ a_i is conserved). DC and the outermost
    ring are unchanged. The result is clipped to the pixels' range.

    ``freqrob.spectral.longtail`` uses ring sums instead of means, because its shares of power are shares of a total.

    Args:
        images: (..., H, W) pixels, float in [0, 1] or uint8 in 0–255, usually (N, C, H, W). Gradients do not flow
            through this function; use ``BaSS`` for that.
        weighting: ``"amplitude"`` follows the authors' code, which uses amplitudes; on uint8 the results differ from it
            by at most one grey level (by none in float64). ``"power"`` follows Eq. 1 and 4 as printed.
        pixel_scale: the value of white for the logarithms; 255 by default, as in the authors' code.
        empty_rings: treatment of rings with a_i ≤ 1, whose logarithm is not positive (constant channels, synthetic
            images). ``"keep"`` leaves them unchanged. ``"as_published"`` follows the published formula, with
            a_i + 1e-8: it amplifies rounding noise, and turns a linear ramp into black and white stripes.
        out: contiguous tensor for the result, with the shape and dtype of ``images``.

    Returns:
        The balanced images, same shape and dtype. A channel without a ring to balance is returned unchanged, a float
        channel with NaN or infinity as NaN.

    Raises:
        TypeError: ``images`` is not a tensor of floats or uint8, or ``out`` is of another dtype.
        ValueError: fewer than two dimensions, an image without pixels, images that look like (N, H, W, C), floats that
            look like pixels in 0–255 (only the first channel of CPU tensors is checked), an unknown ``weighting`` or
            ``empty_rings``, a ``pixel_scale`` that is not positive, an ``out`` of another shape.

    Source: Lin et al., NeurIPS 2023, Eq. 1 and 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``.

    >>> import torch
    >>> images = torch.rand(2, 3, 32, 32)
    >>> bass(images).shape
    torch.Size([2, 3, 32, 32])
    >>> bass((255 * images).byte()).dtype
    torch.uint8
    """
    check_images(images)
    check_scale(images)
    check_choices(WEIGHTINGS, weighting=weighting)
    check_choices(EMPTY_RINGS, empty_rings=empty_rings)
    pixel_scale = to_python(pixel_scale, float)
    check_pixel_scale(pixel_scale)
    rings = RingMap.of(images)
    if empty_rings == "keep":
        return ops.balance_checked(images, rings, weighting, pixel_scale, out)
    if out is not None:
        check_out(out, images)
    images = images.detach()
    exact = images.double() if images.is_floating_point() else images  # rounding noise is amplified
    balanced = reference.balance(exact, rings, weighting=weighting, pixel_scale=pixel_scale, empty_rings=empty_rings)
    return balanced.to(images.dtype) if out is None else out.copy_(balanced)


class BaSS(nn.Module):
    """BaSS as a differentiable front end, for (N, C, H, W) floats in [0, 1].

    It is differentiable to any order; gradients flow through the weights and the filter. Where no gradient is needed,
    the fused op is used. Arguments, errors and source are those of ``bass``, but floats that look like pixels in 0–255
    cause an error only if they are whole numbers, else a warning.

    >>> import torch
    >>> BaSS()(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    @checked
    def __init__(self, weighting: Weighting = "amplitude", pixel_scale: float = 255.0) -> None:
        super().__init__()
        check_choices(WEIGHTINGS, weighting=weighting)
        check_pixel_scale(pixel_scale)
        self.weighting: Weighting = weighting
        self.pixel_scale = pixel_scale

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        check_scale_of_input(images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return ops.balance_checked(images, RingMap.of(images), self.weighting, self.pixel_scale)
        rings = RingMap.of(images)
        v = reference.widen(images) * self.pixel_scale
        weights = reference.bass_weights(reference.bass_profile(v, rings, self.weighting, ops.ring_sum))
        gain = weights if self.weighting == "amplitude" else weights.sqrt()
        return (ops.ring_filter(v, gain, rings).clamp(0, self.pixel_scale) / self.pixel_scale).to(images.dtype)

    def extra_repr(self) -> str:
        return f"weighting={self.weighting!r}, pixel_scale={self.pixel_scale}"


def balance_some(
    images: Tensor, chosen: Tensor, *, weighting: Weighting = "amplitude", pixel_scale: float = 255.0
) -> Tensor:
    """Balance the images (C, H, W) or (N, C, H, W) of the mask ``chosen`` (N,), and keep the others."""
    if images.ndim not in (3, 4):
        raise ValueError(f"images: expected (C, H, W) or (N, C, H, W), got {tuple(images.shape)}")
    if len(chosen) == 1:
        return bass(images, weighting=weighting, pixel_scale=pixel_scale) if chosen else images.clone()
    batch, chosen = images.clone(), chosen.to(images.device)
    batch[chosen] = bass(batch[chosen], weighting=weighting, pixel_scale=pixel_scale)
    return batch
