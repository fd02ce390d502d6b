"""Progress: a callback for long-running functions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from html import escape
from typing import Any

Progress = Callable[..., Iterable]
"""Wraps items in a progress bar; takes them, a description, their number, and optionally that of their images."""
REFRESH = 0.2  # seconds between updates in a notebook


def no_progress(items: Iterable, _description: str, _count: int, _images: int = 0) -> Iterable:
    """The default ``progress``: shows nothing."""
    return items


def progress_bar(items: Iterable, what: str, count: int, images: int = 0) -> Iterator:
    """Show a progress bar: in a notebook (without ipywidgets), or else on the terminal, by Rich.

    The bar counts images if their number in all items is given, or else items. If a sized iterable has fewer items than
    ``count``, the missing ones count as done.

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
        yield from _in_cell(items, what, count, done, images or count)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=images or count, completed=images_done(done, count, images))
        for item in items:
            yield item
            done += 1
            bars.update(task, completed=images_done(done, count, images))


def images_done(done: int, count: int, images: int) -> int:
    """The images of ``done`` items of ``count``, which have about as many each; the items, without ``images``.

    >>> images_done(1, 3, 100), images_done(3, 3, 100), images_done(2, 3, 0)
    (33, 100, 2)
    """
    return round(done * (images or count) / count) if count else 0


def _in_notebook() -> bool:
    """Whether this is an IPython kernel, whose cells show HTML."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _in_cell(items: Iterable, what: str, count: int, done: int, total: int) -> Iterator:
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]  # in notebooks only

    def bar() -> Any:
        shown = images_done(done, count, total)
        return HTML(f'<progress value="{shown}" max="{total}"></progress> {escape(what)} {shown:,}/{total:,}')

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
