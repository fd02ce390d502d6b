"""Progress bars on a terminal, lines now and then in a batch job's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Track = Callable[..., Iterable]
LINE_SECONDS = 60  # between lines of progress in a log


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[tuple[Track, Callable[[str], None]]]:
    """A ``track`` that shows a bar with the time left while its iterable runs, and a ``log`` that prints above it.

    Told how many images an item has, the bar shows images per second. What a sized iterable lacks of the count is done.
    Where there is no terminal, such as in a batch job's log, the bar is a line now and then.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Throughput(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    console, said_at = Console(stderr=True), time.monotonic()
    progress = Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal, speed_estimate_period=300
    )

    def track(items: Iterable, what: str, count: int, images: int = 0) -> Iterator:
        nonlocal said_at
        done = count - len(items) if isinstance(items, Sized) else 0
        task = progress.add_task(escape(what), total=count, completed=done, images=images)
        try:
            for item in items:
                yield item
                progress.advance(task)
                if not console.is_terminal and time.monotonic() - said_at > LINE_SECONDS:
                    said_at = time.monotonic()
                    (shown,) = (one for one in progress.tasks if one.id == task)
                    cells = (str(column.render(shown)) for column in columns if not isinstance(column, BarColumn))
                    log(" ".join(cells))
        finally:
            progress.remove_task(task)

    def log(line: str) -> None:
        if not quiet:
            console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    with progress:
        yield track, log


class _Throughput(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        images = task.fields["images"]
        return Text(f"{images * task.speed:,.0f} images/s" if images and task.speed else "")


def prefixed(track: Track, name: str) -> Track:
    return lambda items, what, *sizes: track(items, f"{name}: {what}", *sizes)
