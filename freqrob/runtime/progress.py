"""Progress: a callback for long-running functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Track = Callable[..., Iterable]
"""Wraps items in a progress bar, given a description, the number of items, and optionally that of images per item."""


def untracked(items: Iterable, _description: str, _count: int, _images: int = 0) -> Iterable:
    """A ``track`` that shows nothing."""
    return items
