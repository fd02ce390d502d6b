"""`freqrob diagnose`."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from freqrob.cli.app import (
    INTERRUPTED,
    CacheKey,
    DataDir,
    Download,
    ModelDir,
    NoCache,
    command_line,
    in_process_group,
    key_of,
    print_kept_results,
    print_line,
    rank,
    results_folder,
)
from freqrob.cli.evaluate import device_of_rank, naming, open_models, say, warnings_as_lines
from freqrob.cli.progress import prefixed, progress_bars
from freqrob.runtime.files import check_folder
from freqrob.runtime.parameters import read_setting
from freqrob.runtime.reading import read_json


@in_process_group()
def diagnose(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="As `freqrob evaluate` takes them.")],
    data: DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="The data set, of whose test split images are taken.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model the models were trained for.")] = "Linf",
    preset: Annotated[
        str, typer.Option(help="quick: a minute a small model on two cores; full: what a paper would show.")
    ] = "quick",
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this diagnostic; repeatable.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.KEY=VALUE",
            help="A setting of one diagnostic, of those above; a list as '[0,1]', a fraction as 8/255; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder a model is written here.")] = Path("diagnosis"),
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time; by default 250 of 32×32 pixels, fewer of larger ones.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where what is done is kept; by default in freqrob's cache.")
    ] = None,
    cache_key: CacheKey = None,
    no_cache: NoCache = False,
    download: Download = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU where there is one.")] = "auto",
    model_dir: ModelDir = Path("models"),
) -> None:
    """Where in the spectrum models are sensitive: every diagnostic, saved as arrays (NPZ) and JSON.

    Examples:

    - `freqrob diagnose standard_rn20 pgd_at_rn20 --data ./data`
    - `freqrob diagnose robustbench:Carmon2019Unlabeled --preset full --only hybrid --only fourier_heatmap`
    - `freqrob diagnose pgd_at_rn20 --set fourier_heatmap.images=1000 --set 'hybrid.seeds=[0,1]'`
    - `torchrun --nproc-per-node 4 -m freqrob diagnose pgd_at_rn20 --preset full`

    The diagnostics, and their settings beside `images` (how many, 0 for all) and `batch_size`:

    DIAGNOSTICS

    What they mean is in the documentation of `freqrob.diagnostics`. A run that was stopped goes on where it was; what
    was measured once is not measured again.
    """
    kept = results_folder(cache, no_cache)
    from freqrob.data import load_dataset
    from freqrob.diagnostics import diagnose as measure
    from freqrob.diagnostics import expected_seconds
    from freqrob.diagnostics.per_sample import Counted
    from freqrob.runtime.processes import propagate_failure, rank_and_world, rank_zero_first
    from freqrob.runtime.provenance import provenance

    only = list(dict.fromkeys(only or []))
    folders = {name: out / re.sub(r"[^A-Za-z0-9.+=-]+", "_", name) for name in dict.fromkeys(models)}
    with propagate_failure():
        if rank() == 0:
            _check_folders(folders)
    where = device_of_rank(device)
    networks = open_models(list(folders), model_dir, dataset, threat_model)
    with progress_bars(quiet=rank() > 0) as (track, _log), rank_zero_first():
        chosen = load_dataset(dataset, "test", data, download=download, track=track)
    how = {
        "preset": preset, "only": only, "settings": _by_diagnostic(settings or []),
        "classes": len(chosen.classes) or None, "batch_size": batch_size,
    }  # fmt: skip
    seconds = 0.0
    for name, network in networks.items():
        with naming(name):
            seconds += expected_seconds(network.to(where), chosen.images, chosen.labels, **how) / rank_and_world()[1]
        network.cpu()
    if rank() == 0:
        print_line(f"about {max(seconds / 60, 0.1):.1f} minutes, less what is done", stderr=True)
    options = {
        "--dataset": dataset, "--threat-model": threat_model, "--preset": preset, "--only": only, "--set": settings
    }  # fmt: skip
    source, found, unmeasured = f"{dataset} test", {}, []
    try:
        with progress_bars(quiet=rank() > 0) as (track, _log):
            for name, network in networks.items():
                about = {**provenance(command_line("diagnose", options, name)), "model": name, "source": source}
                counted, key = Counted(prefixed(track, name)), key_of(name, cache_key)
                with warnings_as_lines(name), naming(name):
                    found[name] = measure(
                        network.to(where), chosen.images, chosen.labels, out=folders[name] if rank() == 0 else None,
                        about=about, cache=kept, cache_key=key, track=counted, **how,
                    )  # fmt: skip
                unmeasured += [] if counted.any else [name]
                network.cpu()
    except KeyboardInterrupt:
        print_kept_results(kept)
        raise typer.Exit(INTERRUPTED) from None
    if rank() == 0:
        _table(found)
        if unmeasured:
            say(f"{', '.join(unmeasured)}: all of it was kept from earlier runs in {kept}; --no-cache measures again")
        print_line(f"Wrote {', '.join(map(str, folders.values()))}")


class DiagnoseCommand(typer.core.TyperCommand):
    """`freqrob diagnose`, whose help lists the diagnostics when it is asked for: only then are they imported."""

    # As in freqrob.cli.app: Typer annotates a private base of typer.Context.
    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        with warnings_as_lines():
            self.help = self.help.replace("DIAGNOSTICS", diagnostics_in_words())
        super().format_help(ctx, formatter)


def diagnostics_in_words() -> str:
    """A list in Markdown: each diagnostic, what it measures, and its settings."""
    from freqrob.diagnostics.registry import all_diagnostics

    lines = []
    for name, diagnostic in all_diagnostics().items():
        settings = (f"`{key}`" for key in diagnostic.hints if key not in ("images", "batch_size"))
        lines.append(f"- **{name}**: {diagnostic.help} {', '.join(settings)}")
    return "\n".join(lines)


def _check_folders(folders: dict[str, Path]) -> None:
    """Raise ValueError where two models would share a folder, now or with an earlier run; OSError as check_folder."""
    for name, folder in folders.items():
        check_folder(folder)
        there = [other for other, its in folders.items() if its == folder] + [_model_in(folder, name)]
        if other := next((other for other in there if other != name), ""):
            raise ValueError(f"out: {folder} is the folder of {name}, and of {other}: give each an --out of its own")


def _model_in(folder: Path, name: str) -> str:
    """Another model whose measurements are in a folder; ``name`` if there is none."""
    for path in folder.glob("*.npz"):
        with suppress(OSError, ValueError):
            if (other := read_json(path.with_suffix(".json"), dict[str, Any]).get("model", name)) != name:
                return str(other)
    return name


def _by_diagnostic(texts: list[str]) -> dict[str, dict[str, Any]]:
    """``["hybrid.seeds=[0]"]`` as ``{"hybrid": {"seeds": [0]}}``."""
    from freqrob.diagnostics import get_diagnostic, list_diagnostics

    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, setting = text.partition(".")
        if not (name.isidentifier() and re.match(r"\w+=.", setting)):
            raise ValueError(f"--set: expected NAME.KEY=VALUE, such as hybrid.seeds=[0,1], got {text!r}")
        key, value = read_setting(setting)
        if not isinstance(value, str) and name in list_diagnostics() and get_diagnostic(name).hints.get(key) is str:
            value = setting.partition("=")[2]  # a layer called 0
        found.setdefault(name, {})[key] = value
    return found


def _table(found: dict[str, dict]) -> None:
    """The columns of each diagnostic, models across, or down where the terminal is too narrow for that."""
    from freqrob.diagnostics import get_diagnostic

    figures = {
        column.label: [column.shown(measured[name]) for measured in found.values()]
        for name in next(iter(found.values()), ())
        for column in get_diagnostic(name).columns
        if column.label
    }
    if figures:
        console, wide = Console(), _across(list(found), figures)
        needed = console.measure(wide, options=console.options.update(max_width=10_000)).maximum
        console.print(wide if needed <= console.width else _down(list(found), figures))


def _across(names: list[str], figures: dict[str, list[str]]) -> Table:
    """A line a figure, a column a model."""
    table = Table("", *(Column(Text(name)) for name in names))
    for title, values in figures.items():
        table.add_row(title, *values)
    return table


def _down(names: list[str], figures: dict[str, list[str]]) -> Table:
    """Below each figure a line a model."""
    table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False)
    for title, values in figures.items():
        table.add_row(Text(title, "bold"))
        for name, value in zip(names, values, strict=True):
            table.add_row(Padding.indent(Text(name), 2), value, end_section=name == names[-1])
    return table
