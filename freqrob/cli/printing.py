"""Lines, tables and warnings that commands print, and command lines as text."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from freqrob.runtime.launched import launched
from freqrob.runtime.reading import printable


def rank() -> int:
    """Rank of this process among those launched together, otherwise 0. Raises ValueError as ``launched``."""
    launch = launched()
    return launch.rank if launch else 0


def print_line(text: str, style: str | None = None, *, stderr: bool = False) -> None:
    """Print text without markup; long lines are not broken."""
    Console(emoji=False, stderr=stderr, soft_wrap=True).print(text, style=style, highlight=False, markup=False)


def print_table(table: Table) -> None:
    """Print a table without cutting off names or numbers, even if the terminal is too narrow for it."""
    for column in table.columns:
        column.overflow = "fold"
    console = Console(emoji=False)
    needed = console.measure(table, options=console.options.update(max_width=10_000))
    width = max(console.width, needed.minimum if console.is_terminal else needed.maximum)
    Console(emoji=False, width=width).print(table)


@contextmanager
def warnings_as_lines(name: str = "") -> Iterator[None]:
    """Print each warning once as a line that starts with the model's name, on rank 0 only."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print_warning(f"{name}: {message}" if name else str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def print_warning(text: str) -> None:
    """Print a yellow line, on rank 0 only."""
    if rank() == 0:
        print_line(printable(text), "yellow", stderr=True)


def print_written(paths: Iterable[Path]) -> None:
    """Print a line for each file."""
    for path in paths:
        print_line(f"Wrote {path}")


def print_resume_hint(message: str, kept: bool = True) -> None:
    """Print, after Ctrl-C, what is kept and, if known, the command that resumes."""
    if rank() > 0:
        return
    is_launched = {"WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys()  # by an unknown command
    command = "." if is_launched else f":\n  {_this_command()}"
    state = f"{message}; to resume" if kept else "Nothing is kept; to start over"
    print_line(f"Stopped. {state}, run the same command{command}", stderr=True)


def _this_command() -> str:
    """The command line that started this process, to be pasted into the same shell."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "freqrob"]
    elif shutil.which("freqrob") == sys.argv[0]:
        program = ["freqrob"]
    return shlex.join([*program, *sys.argv[1:]])


def command_line(name: str, options: dict[str, Any], *arguments: str) -> str:
    """Command line that reproduces the numbers, without the folders of data and models."""
    given = []
    for option, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            given += [] if item is None else [option, str(item)]
    return shlex.join(["freqrob", name, *arguments, *given])
