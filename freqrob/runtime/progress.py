"""Progress: a callback for long-running functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Track = Callable[[Iterable, str, int], Iterable]  # called with items, a description, and their number


def untracked(items: Iterable, _description: str, _count: int) -> Iterable:
    """A ``track`` that shows nothing."""
    return items
