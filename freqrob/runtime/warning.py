"""Warnings that point to the user's code."""

from __future__ import annotations

import sys
import warnings

PASSED_OVER = ("freqrob", "freqrob_foolbox", "freqrob_robustbench", "torch", "contextlib")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the line that led to it outside freqrob and torch, so that a user sees his own line.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("model: its outputs are probabilities")
        >>> str(caught[0].message)
        'model: its outputs are probabilities'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
