"""Balance Spectrum Sampling (BaSS): re-weight each ring of an image's spectrum so that power is less long-tailed."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from freqrob.runtime.parameters import check_choices, checked, to_python
from freqrob.runtime.pixels import check_scale, warn_of_scale
from freqrob.spectral import ops, reference
from freqrob.spectral.ops import check_images, check_out, check_pixel_scale
from freqrob.spectral.reference import Weighting
from freqrob.spectral.rings import RingMap

EmptyRings = Literal["keep", "as_published"]


def bass(
    images: Tensor,
    *,
    weighting: Weighting = "amplitude",
    pixel_scale: float = 255.0,
    empty_rings: EmptyRings = "keep",
    out: Tensor | None = None,
) -> Tensor:
    """Balance the spectrum of each channel of each image.

    With F the spectrum of a channel, a_i the mean of |F| over ring i (``amplitude``) or the sum of |F|² over it
    (``power``), rings by the rule ``trunc``, and i running over those between DC and the outermost one,

        w_i = [ln a_i / Σ_j ln a_j] / [a_i / Σ_j a_j],

    F is multiplied on ring i by w_i (``amplitude``) or √w_i (``power``: there w_i is a ratio of powers, so that the
    power of a ring becomes proportional to its logarithm and Σ a_i is conserved). DC and the outermost ring keep
    their value. The result is clipped to the pixels' range.

    Args:
        images: (..., H, W) pixels, float in [0, 1] or uint8 in 0–255, usually (N, C, H, W). Not differentiable
            here: ``BaSS`` is.
        weighting: ``"amplitude"``, the authors' code, which takes amplitudes; on uint8 it is theirs within one grey
            level (bit for bit in float64). ``"power"``, Eq. 1 and 4 with ‖·‖² as printed.
        pixel_scale: the value of white on which the logarithms are taken; the authors' 255 by default.
        empty_rings: what to do with rings where a_i ≤ 1, whose logarithm has no share (constant channels, synthetic
            images). ``"keep"`` leaves them alone. ``"as_published"`` follows the formula as published, with
            a_i + 1e-8: it amplifies rounding noise, a linear ramp becomes black and white stripes.
        out: where to write, of the shape and dtype of ``images`` and contiguous.

    Returns:
        The balanced images, same shape and dtype; a channel without a ring to balance comes back as it came,
        and a channel with a NaN or an infinity as NaN (float).

    Raises:
        TypeError: ``images`` is not a tensor of floats or uint8, or ``out`` is of another dtype.
        ValueError: fewer than two dimensions, an image without pixels, images that look like (N, H, W, C), floats that
            look like grey levels in 0–255 (on the CPU, by the first channel), an unknown ``weighting`` or
            ``empty_rings``, a ``pixel_scale`` that is not positive, an ``out`` of another shape.

    Source: Lin et al., NeurIPS 2023, Eq. 1 and 4; zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py``.
    """
    check_images(images)
    check_scale(images)
    check_choices(get_args(Weighting), weighting=weighting)
    check_choices(get_args(EmptyRings), empty_rings=empty_rings)
    pixel_scale = to_python(pixel_scale, float)
    check_pixel_scale(pixel_scale)
    rings = RingMap.of(images)
    if empty_rings == "keep":
        return ops.balance(images, rings, weighting=weighting, pixel_scale=pixel_scale, out=out)
    if out is not None:
        check_out(out, images)
    images = images.detach()
    exact = images.double() if images.is_floating_point() else images  # float32's rounding noise is not theirs
    balanced = reference.balance(exact, rings, weighting=weighting, pixel_scale=pixel_scale, empty_rings=empty_rings)
    return balanced.to(images.dtype) if out is None else out.copy_(balanced)


class BaSS(nn.Module):
    """BaSS as a differentiable front end: (N, C, H, W) floats in [0, 1] in, the same out.

    The gradient goes through the weights as well as through the filter, to any order. Where no gradient is asked
    for, the fused ``bass`` runs. Arguments, errors and source as for ``bass``, but for floats that look like grey
    levels, of which it warns.
    """

    @checked
    def __init__(self, weighting: Weighting = "amplitude", pixel_scale: float = 255.0) -> None:
        super().__init__()
        check_choices(get_args(Weighting), weighting=weighting)
        check_pixel_scale(pixel_scale)
        self.weighting: Weighting = weighting
        self.pixel_scale = pixel_scale

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        warn_of_scale(images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return ops.balance(images, weighting=self.weighting, pixel_scale=self.pixel_scale)
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
    """The images (C, H, W) or (N, C, H, W), of which those ``chosen``, (N,) bool, are balanced."""
    if images.ndim not in (3, 4):
        raise ValueError(f"images: expected (C, H, W) or (N, C, H, W), got {tuple(images.shape)}")
    batch, chosen = (images if images.ndim == 4 else images[None]).clone(), chosen.to(images.device)
    batch[chosen] = bass(batch[chosen], weighting=weighting, pixel_scale=pixel_scale)
    return batch if images.ndim == 4 else batch[0]
