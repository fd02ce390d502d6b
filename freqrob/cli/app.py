"""The command-line app and its error messages."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape

from freqrob import __version__
from freqrob.runtime.reading import printable

USAGE_ERROR = 2


class _Group(typer.core.TyperGroup):
    """Prints errors in one red line, or as a traceback with --debug."""

    # Typer's contexts are typer.Context, though it annotates their base, which is private.
    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError) as error:
            if ctx.params.get("debug") or not _has_remedy(error):
                raise
            text = escape(printable(str(error) or "out of memory"))
            Console(emoji=False, stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {text}", highlight=False)
            raise typer.Exit(USAGE_ERROR) from error


def _has_remedy(error: Exception) -> bool:
    """Whether the message names a remedy; of RuntimeErrors, only those about native kernels and memory do."""
    known = {"freqrob.spectral.native": "NativeError", "torch": "OutOfMemoryError"}
    kinds = tuple(getattr(sys.modules[name], kind) for name, kind in known.items() if name in sys.modules)
    if not isinstance(error, RuntimeError) or isinstance(error, kinds):
        return True
    from freqrob.attacks.gradient import is_out_of_memory  # imports torch

    return is_out_of_memory(error)


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
