"""Draw into files, without a matplotlib back end; failures are warnings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from freqrob.runtime.files import write_bytes
from freqrob.runtime.warning import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")  # for pages, for slides, and for LaTeX, which takes no SVG


@contextmanager
def drawing(subject: str) -> Iterator[None]:
    """Turn any exception into a warning that ``subject`` was not drawn."""
    try:
        yield
    except Exception as error:  # matplotlib, TensorBoard and torchvision raise anything
        warn(f"{subject} was not drawn ({type(error).__name__}: {error})")


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure in the format of the suffix; the file is complete before it replaces an earlier one.

    The files of equal figures are equal. PDF has TrueType fonts: publishers refuse matplotlib's Type 3 by default.
    """
    from matplotlib import rc_context

    content, kind = BytesIO(), path.suffix[1:]
    date = {"svg": "Date", "pdf": "CreationDate"}.get(kind)
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(content, format=kind, dpi=dpi, metadata={date: None} if date else None)
    write_bytes(path, content.getvalue())


def import_matplotlib() -> None:
    """Import matplotlib even if ``MPLBACKEND`` names a back end that is not installed, as in a notebook's shell.

    matplotlib would raise ValueError, but saving a figure needs no back end.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
