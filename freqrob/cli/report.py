"""`freqrob report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freqrob.cli import options
from freqrob.cli.measuring import named_dataset
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
    title: Annotated[str, typer.Option(help="Title of the page; by default the models' names.")] = "",
    cards: Annotated[bool, typer.Option(help="Add the accuracies on the cards of shipped and your own models.")] = True,
    dataset: Annotated[str, typer.Option(help="Data set of the cards.")] = "cifar10",
    grayscale: Annotated[bool, typer.Option("--grayscale", help="Use cards of models for grayscale images.")] = False,
    threat_model: Annotated[str, typer.Option(help="Threat model of the cards.")] = "Linf",
    model_dir: options.ModelDir = Path("models"),
) -> None:
    """Write one HTML page that compares measured models: report/index.html.

    Examples:

    - `freqrob report diagnosis/`
    - `freqrob report diagnosis/ results.json corruptions.json --out paper/`
    - `freqrob report mine/diagnosis/ theirs/diagnosis/ --no-cards --title "Ours and theirs"`

    Runs are joined by model name. The page is self-contained. Its folder also contains the numbers (results.json,
    results.csv), every figure (figures/, as SVG, PNG and PDF) and the input files (data/). The functions named in the
    captions, such as `freqrob.diagnostics.hybrid.plot_hybrid`, also draw on your own Axes.
    """
    check_folder(out)
    from freqrob.report import write_report

    dataset = named_dataset(dataset, grayscale)
    given = {"--title": title or None, "--dataset": dataset, "--threat-model": threat_model}
    with progress_bars() as (progress, _log), warnings_as_lines():
        command = command_line("report", given, *map(str, runs)) + ("" if cards else " --no-cards")
        page = write_report(
            runs, out, title=title, cards=cards, model_dir=model_dir, dataset=dataset, threat_model=threat_model,
            command=command, progress=progress,
        )  # fmt: skip
    print_line(f"Wrote {page} with results.json, results.csv, figures/ and data/ beside it.")
