"""Options shared by several commands."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from freqrob.runtime.files import expanded
from freqrob.runtime.parameters import read_number


def fraction(text: str) -> float:
    """Parse a number such as 8/255 or 0.03."""
    with suppress(ValueError):
        if isfinite(number := read_number(text)):
            return number
    raise typer.BadParameter(f"expected a number such as 8/255 or 0.03, got {text!r}")


def with_home(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a leading ``~`` in a command's paths, because shells do not in ``--out=~/results.json``."""

    @wraps(command)
    def called(**options: Any) -> None:
        return command(**{name: _with_home(name, value) for name, value in options.items()})

    return called


def _with_home(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_with_home(name, path) for path in value]
    return expanded(value, name) if isinstance(value, Path) else value


OtherModels = Annotated[list[str], typer.Argument(metavar="MODEL…", help="Models, as for `freqrob evaluate`.")]
ThreatModel = Annotated[str, typer.Option(help="Threat model that the models were trained for.")]
TrainedOn = Annotated[
    str | None,
    typer.Option(
        "--trained-on",
        metavar="DATASET",
        help="Data set that the models are named and stored under: that of the images by default, imagenet for folder.",
    ),
]
Grayscale = Annotated[
    bool, typer.Option("--grayscale", help="Convert images to grey levels (one channel), after any corruption.")
]
DataDir = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of the unpacked data sets.")]
ModelDir = Annotated[Path, typer.Option("--model-dir", metavar="DIR", help="Folder of trained models.")]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="File of the classes to measure: a sub-folder or WordNet id per line, in the order of the model's logits.",
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="With --dataset folder: file with a line per image, its file name and class."
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Resize photographs to this shorter side; the model's preprocessing by default."),
]
Crop = Annotated[int | None, typer.Option(metavar="N", help="Then crop the central square with this side.")]
Interpolation = Annotated[str, typer.Option(help="Interpolation of --resize: nearest, bilinear or bicubic.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Which state dict to load from NAME=FILE: ema for the averaged weights, or its key in the file.",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto uses a GPU if there is one.")]
ResultFiles = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Results file, .json or .csv; repeatable.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images per batch; each finished batch is cached. By default 250 of 32 by 32 pixels, fewer larger ones.",
    ),
]
CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Cache directory for finished batches; freqrob's by default.")
]
CacheKey = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Identifies your own code, to cache its results; change it when you change the code."
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Do not read or write the cache.")]
