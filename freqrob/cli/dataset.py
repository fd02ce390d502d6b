"""`freqrob dataset`: corrupted and balanced data sets as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from freqrob.cli.app import (
    INTERRUPTED,
    DataDir,
    Download,
    Seed,
    check_writable,
    command_line,
    say_how_to_go_on,
    usable_device,
)
from freqrob.cli.progress import progress_bars

dataset_group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Write data sets that others read.")

Cifar = Annotated[str, typer.Option(help="cifar10 or cifar100.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the files are written.")]


@dataset_group.command()
def corrupt(
    out: Out,
    data: DataDir = Path("data"),
    dataset: Cifar = "cifar10",
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this one; repeatable. All 19 by default.")
    ] = None,
    bass: Annotated[
        bool, typer.Option("--bass", help="Of the balanced images (CIFAR10-B-C), not the natural.")
    ] = False,
    seed: Seed = 0,
    frost: Annotated[Path | None, typer.Option(metavar="DIR", help="Photographs frost1 … frost5 (.png, .jpg).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU where there is one.")] = "auto",
    download: Download = False,
) -> None:
    """Corrupt the test set as CIFAR-10-C does: 19 types, 5 severities each, in the benchmark's own layout.

    Examples:

    - `freqrob dataset corrupt --data ./data --out ./data/cifar10-c`
    - `freqrob dataset corrupt --data ./data --out ./data/cifar10-b-c --bass --type fog --type contrast`

    These are not the published arrays (https://zenodo.org/records/2535967), which published numbers are on: the
    parameters are theirs, the random numbers are not. `generated.json`, beside the files, says so, and how they were
    made. A type is one file (154 MB) of all severities. Ctrl-C keeps those that are whole; the same command goes on.

    **frost** needs photographs of ice that freqrob may not ship: `pip install imagecorruptions-imaug` brings them, or
    give a folder. Without them it is left out, unless `--type frost` asks for it.
    """
    check_writable(out)
    from freqrob.data import balance, load_dataset
    from freqrob.data.corruption_arrays import PUBLISHED, write_corruptions
    from freqrob.data.corruptions import CORRUPTIONS

    if dataset not in PUBLISHED:
        raise ValueError(f"dataset: expected one of {', '.join(PUBLISHED)}, got {dataset!r}")
    options = {"--dataset": dataset, "--type": types, "--seed": seed}
    types = types or _possible(list(CORRUPTIONS), frost)
    chosen = load_dataset(dataset, "test", data, download=download)
    chosen = replace(chosen, images=chosen.images.to(usable_device(device)))
    about = {"dataset": dataset, "bass": "official" if bass else None}
    try:
        with progress_bars() as (track, _log):
            made = write_corruptions(
                balance(chosen) if bass else chosen, out, types, about=about, seed=seed, frost=frost,
                command=command_line("dataset", options, "corrupt", *(["--bass"] if bass else [])), track=track,
            )  # fmt: skip
    except KeyboardInterrupt:
        say_how_to_go_on(f"The types that are whole are in {out}")
        raise typer.Exit(INTERRUPTED) from None
    before = f", {len(types) - len(made)} were there" if len(made) < len(types) else ""
    _say(f"Wrote {len(made)} of {len(types)} types{before}: {out}")


def _possible(types: list[str], frost: Path | None) -> list[str]:
    """All types, but frost only where there are photographs; says so."""
    from freqrob.data.corruptions import find_frost

    try:
        find_frost(frost)
    except FileNotFoundError as error:
        if frost is not None:
            raise
        _say(f"Left out: {error}. Means over types will be over {len(types) - 1} of {len(types)}.", "yellow")
        return [name for name in types if name != "frost"]
    return types


@dataset_group.command()
def bass(
    out: Out,
    data: DataDir = Path("data"),
    dataset: Cifar = "cifar10",
    reading: Annotated[str, typer.Option(help="official: the authors' code; power: as printed.")] = "official",
    download: Download = False,
) -> None:
    """Write CIFAR-B: all of CIFAR-10 or CIFAR-100 through BaSS, in the original files' format.

    Examples:

    - `freqrob dataset bass --data ./data --out ./cifar-b`
    - `freqrob dataset bass --data ./data --out ./cifar-b-power --dataset cifar100 --reading power`

    Whatever reads `cifar-10-batches-py/` reads the new one, but for programs that check the original's MD5 sums, as
    torchvision does. `freqrob.data.load_cifar_b` checks the new sums, which are in its `cifar_b.json`.
    """
    check_writable(out)
    from freqrob.data.cifar_b import write_cifar_b

    options = {"--dataset": dataset, "--reading": reading}
    with progress_bars() as (track, _log):
        folder = write_cifar_b(
            data, out, dataset, reading=reading, download=download, command=command_line("dataset", options, "bass"),
            track=track,
        )  # fmt: skip
    _say(f"Wrote {folder}")


def _say(text: str, style: str | None = None) -> None:
    Console(stderr=style is not None, soft_wrap=True).print(text, style=style, highlight=False, markup=False)
