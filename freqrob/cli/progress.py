"""Progress bars on a terminal, one line per minute in a batch job's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from freqrob.runtime.progress import Progress, images_done

LINE_SECONDS = 60  # between lines of progress in a log


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[tuple[Progress, Callable[[str], None]]]:
    """Yield ``progress``, which shows a progress bar for an iterable, and ``log``, which prints above the bar.

    With ``images``, the number of images in all items, the bar counts these, and shows images per second. If a sized
    iterable has fewer items than ``count``, the missing ones count as done. Without a terminal, such as in a batch
    job's log, a line is printed every ``LINE_SECONDS``.
    """
    columns = (
        bars.TextColumn("{task.description}"), bars.BarColumn(), _Count(), _Throughput(),
        bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
    )  # fmt: skip
    console, printed_at = Console(emoji=False, stderr=True), time.monotonic()
    bar = bars.Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal, speed_estimate_period=300
    )

    def progress(items: Iterable, description: str, count: int, images: int = 0) -> Iterator:
        nonlocal printed_at
        done = count - len(items) if isinstance(items, Sized) else 0
        first = images_done(done, count, images)
        task = bar.add_task(escape(description), total=images or count, completed=first, images=images)
        try:
            for item in items:
                yield item
                done += 1
                bar.update(task, completed=images_done(done, count, images))
                if not console.is_terminal and time.monotonic() - printed_at > LINE_SECONDS:
                    printed_at = time.monotonic()
                    (current,) = (each for each in bar.tasks if each.id == task)
                    cells = (
                        str(column.render(current)) for column in columns if not isinstance(column, bars.BarColumn)
                    )
                    log(" ".join(cells))
        finally:
            bar.remove_task(task)

    def log(line: str) -> None:
        if not quiet:
            console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    with nullcontext() if bar.disable else bar:  # a disabled bar of Rich 14.1 prints an empty line at its end
        yield progress, log


class _Count(bars.ProgressColumn):
    """The images that are done, of all; the items, if they are not images."""

    def render(self, task: bars.Task) -> Text:
        unit = " images" if task.fields["images"] else ""
        return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f}{unit}")


class _Throughput(bars.ProgressColumn):
    """Images per second."""

    def render(self, task: bars.Task) -> Text:
        if not task.fields["images"] or not task.speed:
            return Text("")
        return Text(f"{task.speed:,.{0 if task.speed >= 10 else 1}f} images/s")


def prefixed(progress: Progress, name: str) -> Progress:
    """A ``progress`` whose bar begins with a name."""
    return lambda items, description, *sizes: progress(items, f"{name}: {description}", *sizes)
