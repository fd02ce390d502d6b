"""`freqrob demo`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from freqrob.cli.app import Seed, check_writable, command_line
from freqrob.cli.evaluate import accuracy_table
from freqrob.cli.progress import progress_bars


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the page is written.")] = Path("report"),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="CIFAR-10's folder; Foolbox's 20 sample images without it.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Measure models on the first N: 20 samples, or 1000 of CIFAR-10.")
    ] = None,
    seed: Seed = 0,
    model_dir: Annotated[
        Path | None, typer.Option("--model-dir", metavar="DIR", help="Your CIFAR-10 L∞ models as well as the shipped.")
    ] = None,
) -> None:
    """Measure the shipped models on real images and write one page of figures: report/index.html.

    Needs no network. Examples:

    - `freqrob demo`
    - `freqrob demo --data ./data --images 1000 --out report/`
    - `freqrob demo --model-dir ./models`
    """
    check_writable(out)
    from freqrob.data.samples import SAMPLES, sample_images
    from freqrob.report import collect, write_report

    if data is None:
        dataset, source, count = sample_images(), f"the first {SAMPLES} of CIFAR-10's test set, from Foolbox", images
    else:
        from freqrob.data import load_dataset

        dataset, source = load_dataset("cifar10", "test", data), "CIFAR-10's test set"
        count = 1000 if images is None else images
    names, folder = _demo_models(model_dir)
    options = {"--data": data, "--images": images, "--seed": seed, "--model-dir": model_dir}
    with progress_bars() as (track, _log):
        measurements = collect(
            dataset, names, source=source, images=count, model_dir=folder, seed=seed,
            command=command_line("demo", options), track=track,
        )  # fmt: skip
    page = write_report(measurements, out)
    accuracy_table(
        [(model.name, model.measured) for model in measurements.models],
        f"Accuracy (%) on {measurements.images:,} images",
    )
    Console().print(f"Wrote {page} with results.json and results.csv beside it.", highlight=False, soft_wrap=True)


def _demo_models(model_dir: Path | None) -> tuple[list[str], Path]:
    from freqrob.models import list_models

    shipped = Path(str(resources.files("freqrob.models") / "weights"))
    folder = model_dir or shipped  # not ./models: what was trained there may take minutes to measure
    if not folder.is_dir():
        raise FileNotFoundError(f"model_dir: no folder {folder}")
    names = list_models(dataset="cifar10", threat_model="Linf", model_dir=folder)
    if not names:
        Console(stderr=True).print("[yellow]No model is installed: the page shows images and spectra only.[/yellow]")
    return names, folder
