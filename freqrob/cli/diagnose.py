"""`freqrob diagnose`."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from freqrob.cli import measuring, options
from freqrob.cli.printing import command_line, print_line, rank, warnings_as_lines
from freqrob.cli.progress import prefixed
from freqrob.runtime.files import check_folder
from freqrob.runtime.parameters import check_counts, read_setting
from freqrob.runtime.reading import read_json

if TYPE_CHECKING:
    import torch
    from torch import nn


@measuring.in_process_group()
def diagnose(
    models: options.OtherModels,
    data: options.DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="Data set, whose test split is used, or folder.")] = "cifar10",
    grayscale: options.Grayscale = False,
    threat_model: options.ThreatModel = "Linf",
    image_limit: Annotated[
        int | None,
        typer.Option("--images", metavar="N", help="Use the first N images; by default each diagnostic's number."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="quick: about a minute per small model on two cores; full: the papers' settings.")
    ] = "quick",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this diagnostic; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.KEY=VALUE",
            help="Setting of a diagnostic, see above; write lists as '[0,1]', fractions as 8/255; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder, with one folder per model.")] = Path(
        "diagnosis"
    ),
    batch_size: options.BatchSize = None,
    cache: options.CacheDir = None,
    cache_key: options.CacheKey = None,
    no_cache: options.NoCache = False,
    download: options.Download = False,
    device: options.Device = "auto",
    model_dir: options.ModelDir = Path("models"),
    weights: options.Weights = None,
    trained_on: options.TrainedOn = None,
    classes_file: options.ClassesFile = None,
    labels_file: options.LabelsFile = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    interpolation: options.Interpolation = "bilinear",
) -> None:
    """Run the frequency diagnostics on models; save the results as arrays (NPZ) and JSON.

    Examples:

    - `freqrob diagnose standard_rn20 pgd_at_rn20 --data ./data`
    - `freqrob diagnose robustbench:Carmon2019Unlabeled --preset full --only hybrid --only fourier_heatmap`
    - `freqrob diagnose pgd_at_rn20 --set fourier_heatmap.images=1000 --set 'hybrid.seeds=[0,1]'`
    - `freqrob diagnose pgd_at_rn20 --images 20 --only band_accuracy`
    - `torchrun --nproc-per-node 4 -m freqrob diagnose pgd_at_rn20 --preset full`

    The diagnostics and their settings; all also have `images` (number of images, 0 for all) and `batch_size`:

    DIAGNOSTICS

    The documentation of `freqrob.diagnostics` explains them. An interrupted run resumes; finished batches are not
    measured again.
    """
    if image_limit is not None:
        check_counts(images=image_limit)
    results, dataset = measuring.results_folder(cache, no_cache), measuring.named_dataset(dataset, grayscale)
    from freqrob.diagnostics import diagnose as measure
    from freqrob.diagnostics.per_sample import Counted
    from freqrob.diagnostics.run import check_only
    from freqrob.runtime.provenance import provenance

    only, changed = list(dict.fromkeys(only or [])), _by_diagnostic(settings or [])
    check_only(only)
    folders = {name: out / re.sub(r"[^A-Za-z0-9.+=-]+", "_", name) for name in dict.fromkeys(models)}
    measuring.on_first_rank(_check_folders, folders)
    where = measuring.usable_device(device)
    source = measuring.Images(
        dataset, "test", data, download, image_limit, classes_file, labels_file, resize, crop, interpolation
    )
    models_dataset = measuring.models_dataset(dataset, trained_on)
    chosen = measuring.Models([*folders], model_dir, models_dataset, threat_model, weights)
    networks, subject = chosen.open_with(source)
    images = subject.images.images, subject.images.labels
    common = {
        "preset": preset, "only": only, "settings": changed,
        "classes": measuring.class_count(dataset, subject.images), "batch_size": batch_size,
    }  # fmt: skip
    _print_estimate(networks, where, *images, **common)
    given = {
        "--dataset": dataset, "--threat-model": threat_model, "--weights": weights,
        "--trained-on": trained_on, "--images": image_limit, "--preset": preset, "--only": only,
        "--set": settings, **source.as_options(),
    }  # fmt: skip
    measured, cached = {}, []
    with measuring.progress_of(results) as progress:
        for name, network in networks.items():
            about = {**provenance(command_line("diagnose", given, name)), "model": name, "source": str(source)}
            counted = Counted(prefixed(progress, name))
            with measuring.model_on(where, name, network) as model:
                measured[name] = measure(
                    model, *images, out=folders[name] if rank() == 0 else None, about=about, cache=results,
                    cache_key=cache_key and f"{name} {cache_key}", progress=counted, **common,
                )  # fmt: skip
            cached += [] if counted.any else [name]
    if rank() == 0:
        _table(measured)
        measuring.print_cached(", ".join(cached), results, cached, len(cached))
        print_line(f"Wrote {', '.join(map(str, folders.values()))}")


def _print_estimate(networks: dict[str, nn.Module], device: torch.device, *images: Any, **options: Any) -> None:
    """Print the expected time of the diagnostics of all models; each process measures its share."""
    from freqrob.diagnostics import expected_seconds
    from freqrob.runtime.processes import rank_and_world

    seconds = 0.0
    for name, network in networks.items():
        with measuring.model_on(device, name, network) as model:
            seconds += expected_seconds(model, *images, **options) / rank_and_world()[1]
    if rank() == 0:
        print_line(f"about {max(seconds / 60, 0.1):.1f} minutes, less if results are cached", stderr=True)


class DiagnoseCommand(typer.core.TyperCommand):
    """`freqrob diagnose`; the diagnostics are imported and listed only when its help is shown."""

    # As in freqrob.cli.app: Typer annotates a private base of typer.Context.
    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with warnings_as_lines():
            self.help = (self.help or "").replace("DIAGNOSTICS", diagnostics_in_words())  # None under python -OO
        super().format_help(ctx, formatter)


def diagnostics_in_words() -> str:
    """Markdown list of the diagnostics with their descriptions and settings."""
    from freqrob.diagnostics.registry import all_diagnostics

    lines = []
    for name, diagnostic in all_diagnostics().items():
        settings = (f"`{key}`" for key in diagnostic.hints if key not in ("images", "batch_size"))
        lines.append(f"- **{name}**: {diagnostic.help} {', '.join(settings)}")
    return "\n".join(lines)


def _check_folders(folders: dict[str, Path]) -> None:
    """Raise ValueError if models, including those of earlier runs, share a folder; OSError as ``check_folder``."""
    for name, folder in folders.items():
        check_folder(folder)
        sharing = [other for other, path in folders.items() if path == folder] + [_model_in(folder, name)]
        if other := next((other for other in sharing if other != name), ""):
            raise ValueError(f"out: {name} and {other} would both be written to {folder}; run each with its own --out")


def _model_in(folder: Path, name: str) -> str:
    """Name of another model with measurements in a folder; ``name`` if there is none."""
    for path in folder.glob("*.npz"):
        with suppress(OSError, ValueError):
            if (other := read_json(path.with_suffix(".json"), dict[str, Any]).get("model", name)) != name:
                return str(other)
    return name


def _by_diagnostic(texts: list[str]) -> dict[str, dict[str, Any]]:
    """``["hybrid.seeds=[0]"]`` as ``{"hybrid": {"seeds": [0]}}``."""
    from freqrob.diagnostics import get_diagnostic, list_diagnostics

    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, setting = text.partition(".")
        if not (name.isidentifier() and re.match(r"\w+=.", setting)):
            raise ValueError(f"--set: expected NAME.KEY=VALUE, such as hybrid.seeds=[0,1], got {text!r}")
        key, value = read_setting(setting)
        if not isinstance(value, str) and name in list_diagnostics() and get_diagnostic(name).hints.get(key) is str:
            value = setting.partition("=")[2]  # as text, for a layer named 0
        settings.setdefault(name, {})[key] = value
    return settings


def _table(models: dict[str, dict]) -> None:
    """Print numbers and conditions, with a column per model, or a row per model on narrow terminals."""
    from freqrob.diagnostics import get_diagnostic
    from freqrob.diagnostics.conditions import described

    figures = {
        column.label: [column.shown(measurements[name]) for measurements in models.values()]
        for name in next(iter(models.values()), ())
        for column in get_diagnostic(name).columns
        if column.label
    }
    console = Console(emoji=False)
    if figures:
        wide = _across(list(models), figures)
        needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
        console.print(wide if needed <= console.width else _down(list(models), figures))
    for name, measured in next(iter(models.values()), {}).items():
        console.print(Text(f"{name}: {described(measured.conditions, measured.words)}"))


def _across(names: list[str], figures: dict[str, list[str]]) -> Table:
    """One row per number, one column per model."""
    table = Table("", *(Column(Text(name)) for name in names))
    for title, values in figures.items():
        table.add_row(title, *values)
    return table


def _down(names: list[str], figures: dict[str, list[str]]) -> Table:
    """One row per model below each number."""
    table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False)
    for title, values in figures.items():
        table.add_row(Text(title, "bold"))
        for name, value in zip(names, values, strict=True):
            table.add_row(Padding.indent(Text(name), 2), value, end_section=name == names[-1])
    return table
