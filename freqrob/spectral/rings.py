"""RingMap: which ring of the spectrum each Fourier coefficient lies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from freqrob.runtime.parameters import to_python

Rule = Literal["trunc", "round"]


@dataclass(frozen=True)
class RingMap:
    """The rings of the spectrum of a ``height × width`` image.

    Coefficient (ky, kx), counted from the centre (H//2, W//2) of the shifted spectrum, has the radius
    ``r = N · |f|``, where f = (ky/H, kx/W) is its frequency in cycles/pixel and N = max(H, W). For a square
    image that is the distance from the centre in coefficients. Its ring is r truncated (``rule="trunc"``, as in
    BaSS and most radial profiles) or rounded half up (``rule="round"``). This module is the only definition:
    the native kernels receive ``half`` as an argument.

    The map is symmetric, ring(−k) = ring(k), so ``half`` (the layout of ``torch.fft.rfft2``) determines it. It is
    computed with integers, so it does not depend on the machine or a dtype.

    Attributes:
        height, width: image size in pixels, each at least 1.
        rule: ``"trunc"`` or ``"round"``.

    Raises:
        ValueError: a size below 1 or an unknown rule.
        TypeError: a size that is not an integer.

    Source: the rings of zhiyugege/Frequency-Long-Tailed-Investigation, ``BaSS_cifar.py`` (square images).

    >>> RingMap(4, 4).counts
    tensor([1, 8, 7])
    """

    height: int
    width: int
    rule: Rule = "trunc"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            size = getattr(self, name)
            if not isinstance(size, int):
                size = to_python(size, int)
                object.__setattr__(self, name, size)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name}: expected an int, got {size!r}")
            if size < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, got {size}")
        if not isinstance(self.rule, str) or self.rule not in get_args(Rule):
            raise ValueError(f"rule: expected 'trunc' or 'round', got {self.rule!r}")

    @classmethod
    def of(cls, images: Tensor, rule: Rule = "trunc") -> RingMap:
        """The rings of images (..., H, W)."""
        height, width = images.shape[-2:]
        return cls(height, width, rule)

    @property
    def half(self) -> Tensor:
        """Ring of each coefficient of ``rfft2``: (H, W//2+1) int32, DC at [0, 0]."""
        return self.half_on(torch.device("cpu")).clone()

    @property
    def full(self) -> Tensor:
        """Ring of each coefficient of ``fft2``: (H, W) int32, DC at [0, 0]."""
        return self.half[:, _distance(self.width)]

    @property
    def shifted(self) -> Tensor:
        """``full`` with DC moved to (H//2, W//2)."""
        return torch.fft.fftshift(self.full)

    @property
    def multiplicity(self) -> Tensor:
        """Coefficients of ``fft2`` per coefficient of each column of ``rfft2``: (W//2+1,) int64, 1 or 2."""
        return multiplicity(self.width, "cpu")

    @property
    def rings(self) -> int:
        """The number of rings, including empty ones; the outermost ring is never empty."""
        return _constants(self.height, self.width, self.rule, "cpu")[1]

    @property
    def counts(self) -> Tensor:
        """Number of coefficients of ``fft2`` on each ring: (rings,) int64, summing to H·W."""
        return _constants(self.height, self.width, self.rule, "cpu")[2].clone()

    @property
    def radii(self) -> Tensor:
        """Lower edge of each ring in cycles/pixel: (rings,) float64. Nyquist along an axis is 0.5."""
        return torch.arange(self.rings, dtype=torch.float64, device="cpu") / max(self.height, self.width)

    def half_on(self, device: torch.device) -> Tensor:
        """``half`` on a device, cached: do not write to it."""
        return _constants(self.height, self.width, self.rule, str(device))[0]


def multiplicity(width: int, device: torch.device | str) -> Tensor:
    """``RingMap.multiplicity`` of planes of a width, on a device."""
    column = torch.arange(width // 2 + 1, device=device)
    return torch.where((column == 0) | (2 * column == width), 1, 2)


def _distance(size: int) -> Tensor:
    """|k| of each coefficient along an axis of ``size`` pixels: 0, 1, … size//2, … 1."""
    index = torch.arange(size, device="cpu")
    return torch.minimum(index, size - index)


def constant_when_compiled(function: Callable) -> Callable:
    """As ``torch.compiler.assume_constant_result``, but without importing torch._dynamo, which takes a second.

    Untested releases of torch get that function. Use it alone when it no longer imports torch._dynamo.
    """
    if torch.__version__ >= "2.15":  # which compares versions, not text
        return torch.compiler.assume_constant_result(function)
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


@constant_when_compiled
def _constants(height: int, width: int, rule: Rule, device: str) -> tuple[Tensor, int, Tensor]:
    """``half`` on a device, the number of rings, their counts; to torch.compile they are constants."""
    return _cached_constants(height, width, rule, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # autograd must be able to save them, even if the first caller is in inference mode
def _cached_constants(height: int, width: int, rule: Rule, device: str) -> tuple[Tensor, int, Tensor]:
    half = _half(height, width, rule)
    counts = torch.bincount(half[:, _distance(width)].flatten())
    return half.to(device), len(counts), counts


def _half(height: int, width: int, rule: Rule) -> Tensor:
    ky = _distance(height)[:, None] * width
    kx = _distance(width)[None, : width // 2 + 1] * height
    squared, unit = ky * ky + kx * kx, min(height, width) ** 2  # r² = squared / unit
    if rule == "trunc":
        ring = _isqrt(squared // unit)
    else:
        ring = (_isqrt(4 * squared // unit) + 1) // 2  # ⌊r + ½⌋ = ⌊(⌊2r⌋ + 1) / 2⌋
    return ring.to(torch.int32)


def _isqrt(n: Tensor) -> Tensor:
    """⌊√n⌋, exact below 2⁵² because IEEE square roots are correctly rounded."""
    return n.double().sqrt().long()


def frequency_radius(height: int, width: int) -> Tensor:
    """|f| of each coefficient of ``fft2``: (H, W) float64, cycles/pixel, DC at [0, 0]."""
    fy, fx = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    return torch.hypot(fy[:, None], fx)
