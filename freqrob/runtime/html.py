"""Tables that notebooks show instead of a ``repr``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """An HTML table; all texts are escaped, and columns after the first are aligned to the right.

    Example:
        >>> html_table(["model", "accuracy"], [["<mine>", "61.0"]])
        '<table><tr><th>model</th><th>accuracy</th></tr><tr><td style="text-align: left">&lt;mine&gt;</td>\
<td style="text-align: right">61.0</td></tr></table>'
    """

    def line(cells: Sequence[object]) -> str:
        sides = ("left", *["right"] * len(cells))
        inner = (
            f'<td style="text-align: {side}">{escape(str(cell))}</td>' for cell, side in zip(cells, sides, strict=False)
        )
        return f"<tr>{''.join(inner)}</tr>"

    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    titled = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{titled}<tr>{head}</tr>{''.join(map(line, rows))}</table>"
