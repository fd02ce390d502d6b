"""Checks of tensor types, and hashes of tensors."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from freqrob.runtime.pixels import tensor_remedy

FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}  # without float8, which has no arithmetic


def check_dense(x: object, name: str) -> None:
    """Raise TypeError unless ``x`` is a dense tensor: not sparse, not nested."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}{tensor_remedy(x, name)}")
    if x.is_nested or x.layout != torch.strided:
        got, remedy = ("a nested one", "torch.stack") if x.is_nested else (x.layout, f"{name}.to_dense()")
        raise TypeError(f"{name}: expected a dense tensor, got {got}; use {remedy}")


def check_values(x: object, name: str) -> None:
    """Raise TypeError unless ``x`` is a dense tensor that is not on the meta device."""
    check_dense(x, name)
    assert isinstance(x, Tensor)
    if x.is_meta:
        raise TypeError(f"{name}: expected a tensor with values, got one on the meta device, which has none")


class Digested(Protocol):
    """Images that are not a tensor, identified by a digest."""

    @property
    def digest(self) -> str: ...


def data_hash(images: Tensor | Digested, labels: Tensor) -> str:
    """SHA-256 of images and labels, their types and shapes; the same on any device."""
    digest = hashlib.sha256()
    if isinstance(images, Tensor):
        update_digest(digest, images)
    else:
        digest.update(images.digest.encode())
    update_digest(digest, labels)
    return digest.hexdigest()


def update_digest(digest: Any, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and values to a digest of hashlib."""
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten().view(torch.uint8).numpy())
