"""Options that several commands have."""

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from freqrob.runtime.parameters import read_number


def fraction(text: str) -> float:
    """A number such as 8/255 or 0.03."""
    try:
        if isfinite(number := read_number(text)):
            return number
    except ValueError:
        pass
    raise typer.BadParameter(f"expected a number such as 8/255 or 0.03, got {text!r}")


OtherModels = Annotated[list[str], typer.Argument(metavar="MODEL…", help="As `freqrob evaluate` takes them.")]
ThreatModel = Annotated[str, typer.Option(help="The threat model that the models were trained for.")]
DataDir = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of data sets, as they unpack.")]
ModelDir = Annotated[Path, typer.Option("--model-dir", metavar="DIR", help="Folder of models.")]
Download = Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU if there is one.")]
ResultFiles = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="results.json or results.csv; repeatable for both.")
]
CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Cache directory for finished batches; freqrob's own by default.")
]
CacheKey = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Cache results of your own code too: a string that you change along with that code.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Measure everything again and cache nothing.")]
