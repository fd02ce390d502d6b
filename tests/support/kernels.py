"""The spectral ops beside their reference, and programs that use one instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from freqrob.spectral import ops, reference
from freqrob.spectral.rings import RingMap

RULES = ["trunc", "round"]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}  # of the largest magnitude


def assert_near(found: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    assert found.shape == expected.shape
    scale = max(expected.abs().max().item(), 1e-30)
    error = (found.double() - expected.double()).abs().max().item()
    assert error <= factor * TOLERANCE[found.dtype] * scale, f"{error / scale:.2e} of the largest magnitude"


class Case:
    """One op: its inputs, itself, and the reference, all as functions of tensors alone."""

    def __init__(self, name: str, size: tuple[int, int], rule: str = "trunc", planes: tuple[int, ...] = (2, 3)):
        rings = RingMap(*size, rule)
        x, y = torch.randn(*planes, *size), torch.rand(*planes, *size)
        w = torch.randn(*planes, rings.rings)
        self.inputs, self.op, self.reference = {
            "power": ((x,), lambda x: ops.ring_sum(x, rings), lambda x: reference.ring_sum(x, rings)),
            "amplitude": (
                (x,),
                lambda x: ops.ring_sum(x, rings, "amplitude"),
                lambda x: reference.ring_sum(x, rings, "amplitude"),
            ),
            "filter": (
                (x, w),
                lambda x, w: ops.ring_filter(x, w, rings),
                lambda x, w: reference.ring_filter(x, w, rings),
            ),
            "dot": ((x, y), lambda x, y: ops.ring_dot(x, y, rings), lambda x, y: reference.ring_dot(x, y, rings)),
            "mean": ((x,), ops.mean_amplitude, reference.mean_amplitude),
        }[name]


OPS = ["power", "amplitude", "filter", "dot", "mean"]


def value_and_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    value = function(*inputs)
    upstream = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), *torch.autograd.grad((value * upstream).sum(), inputs)


def pictures(*shape: int) -> Tensor:
    """Random images with a natural fall of the spectrum, in [0, 1]."""
    height, width = shape[-2:]
    frequency = torch.fft.fftfreq(height)[:, None].hypot(torch.fft.rfftfreq(width)) + 1 / max(height, width)
    x = torch.fft.irfft2(torch.fft.rfft2(torch.randn(*shape)) / frequency, s=(height, width))
    return (0.5 + 0.2 * x / x.std()).clamp(0, 1)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FREQROB_NATIVE": "require", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
