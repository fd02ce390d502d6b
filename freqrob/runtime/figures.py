"""Drawing into files, without a matplotlib back end and without ending a run on a failure."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Turn any exception into a warning that ``what`` was not drawn."""
    try:
        yield
    except Exception as error:  # matplotlib, TensorBoard and torchvision raise anything
        warnings.warn(f"{what} was not drawn ({type(error).__name__}: {error})", stacklevel=3)


def import_matplotlib() -> None:
    """Import matplotlib even where ``MPLBACKEND`` names a back end that is not installed, as in a notebook's shell.

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
