"""The program, its errors, and what several commands share."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from freqrob import __version__
from freqrob.runtime.launched import launched
from freqrob.runtime.reading import printable

if TYPE_CHECKING:
    import torch

USAGE_ERROR, INTERRUPTED = 2, 130


class _Group(typer.core.TyperGroup):
    """Shows what went wrong in one red line, or as a traceback with --debug."""

    # Typer's contexts are typer.Context, though it annotates their base, which is private.
    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
            if ctx.params.get("debug") or not _mendable(error):
                raise
            text = escape(printable(str(error)))
            Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {text}", highlight=False)
            raise typer.Exit(USAGE_ERROR) from error


def _mendable(error: Exception) -> bool:
    """Whether the message says what to do; of RuntimeErrors those about the native kernels and about memory do."""
    known = {"freqrob.spectral.native": "NativeError", "torch": "OutOfMemoryError"}
    kinds = tuple(getattr(sys.modules[name], kind) for name, kind in known.items() if name in sys.modules)
    return not isinstance(error, RuntimeError) or isinstance(error, kinds)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"freqrob {__version__}")
        raise typer.Exit()


@app.callback()
def freqrob(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Frequency-aware adversarial robustness: spectra, defences, evaluation and diagnostics for image classifiers.

    Start with `freqrob demo`: a page of figures in about a minute, without a download.
    """


def fraction(text: str) -> float:
    """A number as people write ε: 8/255, 0.03."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise typer.BadParameter(f"expected a number such as 8/255 or 0.03, got {text!r}") from None


DataDir = Annotated[Path, typer.Option("--data", metavar="DIR", help="The folder of data sets, as they unpack.")]
ModelDir = Annotated[Path, typer.Option("--model-dir", metavar="DIR", help="Where models are kept.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set where it is missing.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
CacheKey = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Cache results of a model of your own code too: a string that you change along with that code.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Measure everything again and keep nothing.")]


def print_line(text: str, style: str | None = None, *, stderr: bool = False) -> None:
    """Print text as it is; a long line is not broken."""
    Console(stderr=stderr, soft_wrap=True).print(text, style=style, highlight=False, markup=False)


def print_table(table: Table) -> None:
    """Print a table without cutting off names or numbers, even if the terminal is too narrow for it."""
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=10_000))
    Console(width=max(console.width, needed.minimum if console.is_terminal else needed.maximum)).print(table)


def usable_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: cannot use {name!r} ({str(error).splitlines()[0]})") from error


def in_process_group(*, gpus: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of commands that the processes that were launched together run as one group (``process_group``)."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def together(*arguments: Any, **options: Any) -> None:
            if launched() is None:
                command(*arguments, **options)
                return
            from freqrob.runtime.processes import process_group

            with process_group(gpus=gpus):
                command(*arguments, **options)

        return together

    return decorate


def rank() -> int:
    """Which of the processes that torchrun or SLURM started this is."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def print_resume_hint(what: str, kept: bool = True) -> None:
    """After Ctrl-C: what is kept, if anything, and the command that started this process, where it is known."""
    if rank() > 0:
        return
    is_launched = {"WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys()  # by a command that is not known here
    command = "." if is_launched else f":\n  {_this_command()}"
    how = f"{what}; the same command goes on from there" if kept else "Nothing is kept; the same command starts over"
    print_line(f"Stopped. {how}{command}", stderr=True)


def results_folder(cache: Path | None, no_cache: bool) -> Path | None:
    """Where finished batches are kept, in freqrob's cache by default; None with ``no_cache``.

    Raises ValueError for both options, OSError if no folder can be written in.
    """
    if cache and no_cache:
        raise ValueError("cache: expected --cache or --no-cache, got both")
    if no_cache:
        return None
    from freqrob.runtime.cache import check_cache, usable_folder

    if cache:
        check_cache(cache)
        return cache
    remedy = "give --cache DIR, set FREQROB_CACHE, or keep nothing with --no-cache"
    try:
        folder, reasons = usable_folder("results")
    except OSError as error:
        raise OSError(f"cache: {error}; {remedy}") from error
    launch = launched()
    if reasons and launch and launch.world_size > launch.local_world_size:
        raise OSError(f"cache: {'; '.join(reasons)}, and machines have no temporary folder in common; {remedy}")
    if reasons and rank() == 0:
        told = f"Results are kept in {folder}, perhaps only until the next boot: {'; '.join(reasons)}"
        print_line(f"{told}. To change that, {remedy}.", stderr=True)
    return folder


def key_of(name: str, cache_key: str | None) -> str | None:
    """The ``cache_key`` of one of several models, whose code differs."""
    return cache_key and f"{name} {cache_key}"


def print_kept_results(results: Path | None) -> None:
    """After Ctrl-C, of a ``results_folder``."""
    if results is not None:
        print_resume_hint(f"What was measured is kept in {results}", any(results.glob("*.safetensors")))


def _this_command() -> str:
    """The command line that started this process, to be pasted into the same shell."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "freqrob"]
    elif shutil.which("freqrob") == sys.argv[0]:
        program = ["freqrob"]
    return shlex.join([*program, *sys.argv[1:]])


def pixels(value: float, norm: str = "Linf") -> str:
    """As people write them: 8/255, 0.031; lengths in L2: 0.5."""
    levels = round(255 * value, 6)
    return f"{levels:g}/255" if norm == "Linf" and levels == int(levels) else f"{value:g}"


def command_line(name: str, options: dict[str, Any], *arguments: str) -> str:
    """The command line that makes the same numbers, but for where data and models lie, for the record."""
    given = []
    for option, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            given += [] if one is None else [option, str(one)]
    return shlex.join(["freqrob", name, *arguments, *given])
