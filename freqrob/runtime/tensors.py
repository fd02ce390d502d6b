"""Checks of tensor types."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}  # not float8, which is for storage only


def check_dense(x: object, name: str) -> None:
    """Raise TypeError unless ``x`` is a dense tensor: not sparse, not nested."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.is_nested or x.layout != torch.strided:
        got, remedy = ("a nested one", "torch.stack") if x.is_nested else (x.layout, f"{name}.to_dense()")
        raise TypeError(f"{name}: expected a dense tensor, got {got}; use {remedy}")


def check_values(x: object, name: str) -> None:
    """Raise TypeError unless ``x`` is a dense tensor with values: not on the meta device."""
    check_dense(x, name)
    assert isinstance(x, Tensor)
    if x.is_meta:
        raise TypeError(f"{name}: expected a tensor with values, got one on the meta device")
