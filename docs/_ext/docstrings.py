"""Make reStructuredText of freqrob's docstrings, and short signatures of its annotations."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_ANNOTATED = re.compile(r"~?(?:\w+\.)*\bAnnotated\[")
_COLON = "\ue000"
_FLOAT = re.compile(r"\b0\.\d{10,}\b")
_LITERAL = re.compile(r"(``.*?``|`[^`]+`(?:_|__)?)")
_SIGNS = re.compile(r"\||\*(?=\*\w+[),])|(?<=\*)\*(?=\w+[),])")  # of |F|, and of **settings
_REFERENCE = re.compile(r":ref:`([^`<]*)[^`]*`")


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of |F|, and drop references into other projects' pages, which inherited docstrings have."""
    literal_indent: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal_indent is not None and line.strip() and indent <= literal_indent:
            literal_indent = None
        if literal_indent is None:
            lines[number] = _escaped(_REFERENCE.sub(r"``\1``", line.replace(_COLON, ":")))
            if line.rstrip().endswith("::") and not line.lstrip().startswith(".."):
                literal_indent = indent


def _escaped(line: str) -> str:
    parts = _LITERAL.split(line)
    return "".join(part if number % 2 else _SIGNS.sub(r"\\\g<0>", part) for number, part in enumerate(parts))


def keep_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Hide the colon in a property's first sentence from napoleon, which would take what is before it as a type."""
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Leave the constraints out of annotations, and write 8/255 as a fraction."""
    return signature and _plain(signature), returned and _plain(returned)


def _plain(text: str) -> str:
    while found := _ANNOTATED.search(text):
        first, end = _arguments(text, found.end())
        text = text[: found.start()] + first + text[end:]
    return _FLOAT.sub(lambda found: _fraction(found[0]), text)


def _arguments(text: str, begin: int) -> tuple[str, int]:
    """The first of the arguments that begin at ``begin``, and where the bracket after the last one ends."""
    depth, comma = 1, -1
    for at in range(begin, len(text)):
        if text[at] == "," and depth == 1 and comma < 0:
            comma = at
        depth += (text[at] in "[({") - (text[at] in "])}")
        if depth == 0:
            return text[begin : comma if comma >= 0 else at], at + 1
    raise ValueError(f"unbalanced brackets: {text}")


def _fraction(text: str) -> str:
    levels = 255 * float(text)
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-9 and round(levels) else text


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx, before and after napoleon, which turns sections into fields."""
    app.connect("autodoc-process-docstring", keep_colon, priority=100)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", rewrite, priority=900)
    return {"parallel_read_safe": True}
