"""`freqrob report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freqrob.cli import options
from freqrob.cli.printing import command_line, print_line, warnings_as_lines
from freqrob.cli.progress import progress_bars
from freqrob.runtime.files import check_folder


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="Folders that `freqrob diagnose` wrote; JSON files of `freqrob evaluate` and `freqrob corruptions`.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("report"),
    title: Annotated[str, typer.Option(help="Title of the page; the models' names by default.")] = "",
    cards: Annotated[bool, typer.Option(help="Add the accuracies on the cards of shipped models and of yours.")] = True,
    dataset: Annotated[str, typer.Option(help="The data set of the cards.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model of the cards.")] = "Linf",
    model_dir: options.ModelDir = Path("models"),
) -> None:
    """Draw what was measured of models, side by side, as one page: report/index.html.

    Examples:

    - `freqrob report diagnosis/`
    - `freqrob report diagnosis/ results.json corruptions.json --out paper/`
    - `freqrob report mine/diagnosis/ theirs/diagnosis/ --no-cards --title "Ours and theirs"`

    Measurements with the same model name belong to one model. The page needs no network and no other file. Beside it
    are its numbers (results.json, results.csv), every figure (figures/, SVG and PNG), and the files that they were read
    from (data/). The functions that captions name, such as `freqrob.diagnostics.hybrid.plot_hybrid`, draw on your own
    Axes too.
    """
    check_folder(out)
    from freqrob.report import write_report

    given = {"--title": title or None, "--dataset": dataset, "--threat-model": threat_model}
    with progress_bars() as (track, _log), warnings_as_lines():
        page = write_report(
            runs, out, title=title, cards=cards, model_dir=model_dir, dataset=dataset, threat_model=threat_model,
            command=command_line("report", given, *map(str, runs)) + ("" if cards else " --no-cards"), track=track,
        )  # fmt: skip
    print_line(f"Wrote {page} with results.json, results.csv, figures/ and data/ beside it.")
