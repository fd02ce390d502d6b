"""`freqrob demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqrob.cli import options
from freqrob.cli.evaluate import accuracy_table
from freqrob.cli.printing import command_line, print_line, warnings_as_lines
from freqrob.cli.progress import Progress, prefixed, progress_bars
from freqrob.runtime.files import check_folder

if TYPE_CHECKING:
    from torch import nn

    from freqrob.data import ImageSet
    from freqrob.evaluation import Result

FREQUENCIES = (0.0, 0.03, 0.055, 0.095, 0.165, 0.285, 0.5)  # mixing frequencies, every third of the authors'


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("report"),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of CIFAR-10; without it, 20 sample images are used.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(metavar="N", help="Use the first N images; by default 20 samples, or 1000 with --data."),
    ] = None,
    seed: options.Seed = 0,
    model_dir: Annotated[
        Path | None,
        typer.Option("--model-dir", metavar="DIR", help="Also measure the CIFAR-10 L∞ models in this folder."),
    ] = None,
) -> None:
    """Measure the shipped models on sample images and write a report: report/index.html.

    Needs no internet connection. The page is that of `freqrob report`, for few images; to measure your own models, use
    `freqrob evaluate` and `freqrob diagnose`. Examples:

    - `freqrob demo`
    - `freqrob demo --data ./data --images 1000 --out report/`
    - `freqrob demo --model-dir ./models`
    """
    check_folder(out)
    from freqrob.data.cifar_b import balance
    from freqrob.data.hybrid import partners
    from freqrob.data.samples import sample_images
    from freqrob.diagnostics.corruption_spectrum import save_spectra
    from freqrob.evaluation.files import EVALUATION
    from freqrob.models import load_model
    from freqrob.report import write_report
    from freqrob.runtime.provenance import provenance

    if data is None:
        dataset, source = sample_images(), "CIFAR-10's first 20 test images"
        count = len(dataset) if images is None else images
    else:
        from freqrob.data import load_dataset

        dataset, source = load_dataset("cifar10", "test", data), "CIFAR-10's test set"
        count = 1000 if images is None else images
    if not 1 <= count <= len(dataset):
        raise ValueError(f"images: expected 1 to {len(dataset)} (the number of images), got {count}")
    partners(dataset.labels[:count], seed)  # raises if these are too few for hybrid images
    names, folder = _demo_models(model_dir)
    given = {"--data": data, "--images": images, "--seed": seed, "--model-dir": model_dir}
    command, measured = command_line("demo", given), out / "data"
    about = {**provenance(command), "source": source}
    with progress_bars() as (progress, _log):
        save_spectra({"natural": dataset.images, "BaSS": balance(dataset).images}, measured / "images", about, progress)
        models = {name: load_model(name, folder) for name in names}  # before anything is measured
        results: dict[str, list[Result]] = {}
        rows: list[dict[str, Any]] = []
        for name, model in models.items():
            results[name] = _measure_model(
                name, model, dataset[:count], seed, measured / name, about, prefixed(progress, name)
            )
            rows += [{"model": name, **result.as_dict()} for result in results[name]]
            EVALUATION.write(measured / "accuracy.json", {**about, "results": rows})
    accuracy = [measured / "accuracy.json"] if rows else []
    with progress_bars() as (progress, _log), warnings_as_lines():
        page = write_report(
            [measured / "images", *(measured / name for name in names), *accuracy], out, gallery=dataset,
            title=f"freqrob demo: spectra and robustness on {count:,} CIFAR-10 images",
            command=command, model_dir=folder, progress=progress,
        )  # fmt: skip
    accuracy_table(results, f"Accuracy (%) on {count:,} images")
    print_line(f"Wrote {page} with results.json, results.csv, figures/ and data/ beside it.")


def _demo_models(model_dir: Path | None) -> tuple[list[str], Path]:
    from freqrob.models import list_models
    from freqrob.models.loading import shipped_folder

    folder = model_dir or shipped_folder()  # not ./models: models there may take minutes to measure
    if not folder.is_dir():
        raise FileNotFoundError(f"model_dir: no folder {folder}")
    names = list_models(dataset="cifar10", threat_model="Linf", model_dir=folder)
    if not names:
        print_line("No model is installed: the page shows images and spectra only.", "yellow", stderr=True)
    return names, folder


def _measure_model(
    name: str, model: nn.Module, chosen: ImageSet, seed: int, folder: Path, about: dict[str, Any], progress: Progress
) -> list[Result]:
    """Measure a model's accuracies under all protocols, and save quick diagnostics in a folder."""
    from freqrob.attacks import PGD, Clean
    from freqrob.diagnostics import band_accuracy, fourier_heatmap, hybrid_reliance, jacobian_spectrum, sensitivity
    from freqrob.evaluation import evaluate

    subject = model, chosen.images, chosen.labels
    for measurement in (
        jacobian_spectrum(*subject, progress=progress),
        sensitivity(*subject, progress=progress),
        hybrid_reliance(*subject, frequencies=FREQUENCIES, seeds=(seed,), progress=progress),
        band_accuracy(*subject, attacked=0, progress=progress),
        fourier_heatmap(*subject, every=4, seed=seed, progress=progress),
    ):
        measurement.save(folder, about={**about, "model": name})
    return evaluate(*subject, attacks=(Clean(), PGD(steps=20, eps=8 / 255)), seed=seed, progress=progress)
