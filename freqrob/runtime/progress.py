"""Progress: a callback for long-running functions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from html import escape
from typing import Any

Progress = Callable[..., Iterable]
"""Wraps items in a progress bar; takes them, a description, their number, and optionally the images per item."""
REFRESH = 0.2  # seconds between updates in a notebook


def no_progress(items: Iterable, _description: str, _count: int, _images: int = 0) -> Iterable:
    """The default ``progress``: shows nothing."""
    return items


def progress_bar(items: Iterable, what: str, count: int, _images: int = 0) -> Iterator:
    """Show a progress bar: in a notebook (without ipywidgets), or else on the terminal, by Rich.

    If a sized iterable has fewer items than ``count``, the missing ones count as done.

    Example:
        >>> import freqrob
        >>> from freqrob.data.samples import sample_images
        >>> from freqrob.runtime.progress import progress_bar
        >>> samples, model = sample_images(), freqrob.load_model("standard_rn20")
        >>> results = freqrob.evaluate(
        ...     model, samples.images, samples.labels, protocols=["natural"], attacks=["clean"], progress=progress_bar
        ... )
        >>> [result.attack.name for result in results]
        ['clean']
    """
    done = max(count - len(items), 0) if isinstance(items, Sized) else 0
    if _in_notebook():
        yield from _in_cell(items, what, count, done)
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        items = track(items, what, count, completed=done, console=console, transient=True)
    yield from items


def _in_notebook() -> bool:
    """Whether this is an IPython kernel, whose cells show HTML."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _in_cell(items: Iterable, what: str, count: int, done: int) -> Iterator:
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]  # in notebooks only

    def bar() -> Any:
        return HTML(f'<progress value="{done}" max="{count}"></progress> {escape(what)} {done:,}/{count:,}')

    shown: Any = display(bar(), display_id=True)
    shown_at = time.monotonic()
    try:
        for item in items:
            yield item
            done += 1
            if time.monotonic() - shown_at > REFRESH:
                shown_at = time.monotonic()
                shown.update(bar())
    finally:
        shown.update(bar())
