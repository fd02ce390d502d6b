"""`freqrob export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freqrob.cli import options
from freqrob.cli.printing import print_line


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model that `freqrob models` lists.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Output folder for MODEL.json and MODEL.md.")
    ] = Path("export"),
    dataset: Annotated[str, typer.Option(help="cifar10, cifar100 or imagenet.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="Linf, L2 or corruptions.")] = "Linf",
    title: Annotated[str, typer.Option(help="The paper's title.")] = "",
    link: Annotated[str, typer.Option(help="The paper's URL.")] = "",
    authors: Annotated[str, typer.Option(help="The paper's authors, separated by commas.")] = "",
    venue: Annotated[str, typer.Option(help="Venue, such as `NeurIPS 2023`.")] = "",
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="Format of the export; packages can add others.")
    ] = "robustbench",
    model_dir: options.ModelDir = Path("models"),
) -> None:
    """Write a model's card in RobustBench's format: its model_info JSON and the text of a "[New Model]" issue.

    Examples:

    - `freqrob export pgd_at_rn20`
    - `freqrob export bass_trades_wrn34 --out claim/ --title "…" --link https://… --authors "…" --venue "NeurIPS 2023"`

    Only measured numbers are written: clean and AutoAttack accuracy under the protocol **natural** on RobustBench's
    number of images. Missing numbers are listed with the commands that measure them.
    """
    from freqrob.models.registry import EXPORTERS

    paper = {"title": title, "link": link, "authors": authors, "venue": venue}
    files, missing = EXPORTERS.find(to)(model, out, model_dir, dataset, threat_model, **paper)
    for path in files:
        print_line(f"Wrote {path}")
    if missing:
        print_line("Missing:")
    for key, remedy in missing.items():
        print_line(f"  {key}: {remedy}")
