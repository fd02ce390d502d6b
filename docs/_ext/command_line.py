"""Write the page of the command line from the Typer application, before the sources are read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from sphinx.application import Sphinx

from freqrob import cli
from freqrob.cli.diagnose import diagnostics_in_words

PAGE = "reference/command-line.md"
INTRODUCTION = """# Command line

This page is generated from the program: it says what `--help` says. Every command also has `-h` or `--help`; for a
traceback instead of a one-line error, put `--debug` before the command: `freqrob --debug evaluate …`.

`python -m freqrob` is the same program, which `torchrun` needs: `torchrun --nproc-per-node 4 -m freqrob evaluate …`.
Exit codes: 0 for success; 2 for an error that the message explains, such as a wrong argument or a missing file; 130
after Ctrl-C.
"""


def write_page(app: Sphinx) -> None:
    """Write the page if it has changed, so that an incremental build does not read it again."""
    group = typer.main.get_command(cli.app)
    text = "\n".join([INTRODUCTION, *_commands(group, "freqrob", 2)])
    path = Path(app.srcdir) / PAGE
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _commands(group: Any, parent: str, level: int) -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{'#' * level} {parent} {name}\n"
        yield _help(command) + "\n"
        if hasattr(command, "commands"):
            yield from _commands(command, f"{parent} {name}", level + 1)
        else:
            yield _parameters(command)


def _help(command: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of plug-ins that this environment happens to have
        return command.help.replace("DIAGNOSTICS", diagnostics_in_words())


def _parameters(command: Any) -> str:
    rows = ["| parameter | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        names = "`" + "`, `".join(parameter.opts) + "`" if parameter.param_type_name == "option" else ""
        shown = parameter.metavar or ("" if getattr(parameter, "is_flag", False) else parameter.name.upper())
        value = f"`{shown}`" if shown else ""
        default = "required" if parameter.required else _default(parameter.default)
        rows.append(f"| {' '.join(filter(None, [names, value]))} | {_cell(parameter.help)} | {_cell(default)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None or value is False or value in ([], ()):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(f"`{one}`" for one in value)
    return "on" if value is True else f"`{value}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("\n", " ").replace("|", "\\|")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_page, priority=100)
    return {"parallel_read_safe": True}
