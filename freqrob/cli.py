"""The command line: `freqrob demo | train | recipes | evaluate | models | doctor`.

Only what `--help` needs is imported here; torch comes with the command that uses it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from freqrob import __version__

if TYPE_CHECKING:
    import torch

    from freqrob.evaluation import Result
    from freqrob.models.cards import Card
    from freqrob.training import Recipe
    from freqrob.training.presets import Preset

Track = Callable[..., Iterable]
PROTOCOLS = ("natural", "natural+bass", "bass")
USAGE_ERROR, INTERRUPTED = 2, 130
LINE_SECONDS = 60  # between lines of progress in a log


class _Group(typer.core.TyperGroup):
    """Shows what went wrong in one red line, or as a traceback with --debug."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
            if ctx.params.get("debug") or not _mendable(error):
                raise
            Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False)
            raise typer.Exit(USAGE_ERROR) from error


def _mendable(error: Exception) -> bool:
    """Whether the message says what to do; of RuntimeErrors only those about the native kernels do."""
    native = sys.modules.get("freqrob.spectral.native")
    return not isinstance(error, RuntimeError) or (native is not None and isinstance(error, native.NativeError))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"freqrob {__version__}")
        raise typer.Exit()


@app.callback()
def freqrob(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Frequency-aware adversarial robustness: spectra, defences, evaluation and diagnostics for image classifiers.

    Start with `freqrob demo`: a page of figures in about a minute, without a download.
    """


def _fraction(text: str) -> float:
    """A number as people write ε: 8/255, 0.03."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise typer.BadParameter(f"expected a number such as 8/255 or 0.03, got {text!r}") from None


DataDir = Annotated[Path, typer.Option("--data", metavar="DIR", help="The folder of data sets, as they unpack.")]
ModelDir = Annotated[Path, typer.Option("--model-dir", metavar="DIR", help="Where models are kept.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set where it is missing.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]


@app.command()
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
    _check_writable(out)
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
    with _progress() as (track, _log):
        measurements = collect(
            dataset, names, source=source, images=count, model_dir=folder, seed=seed,
            command=_command("demo", options), track=track,
        )  # fmt: skip
    page = write_report(measurements, out)
    _models_table(
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


def _check_writable(folder: Path) -> None:
    """Raise OSError before minutes of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"out: {folder} is or lies in a file, expected a folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"out: {folder} cannot be written")


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="`[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>`.")
    ],
    dataset: Annotated[
        str, typer.Option(help="cifar10, cifar100, svhn, tiny_imagenet or restricted_imagenet.")
    ] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model; Linf.")] = "Linf",
    data: DataDir = Path("data"),
    model_dir: ModelDir = Path("models"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="The peak of the learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, of all devices together.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    gamma: Annotated[float | None, typer.Option(help="The probability that bassmix_ balances an image.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16-mixed, 16-mixed or 32-true.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting that `freqrob recipes RECIPE` shows; repeatable."),
    ] = None,
    download: Download = False,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Between checkpoints within an epoch.")] = 10,
    accelerator: Annotated[str, typer.Option(help="As Lightning Fabric names it: auto, cpu, cuda, …")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network (torch.compile).")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write the metrics for TensorBoard too.")] = False,
) -> None:
    """Train a recipe, or go on with a run that was stopped.

    A name has its settings, the paper's where there is one: `freqrob recipes RECIPE` shows them. What is given here
    replaces them. Examples:

    - `freqrob train standard_rn20 --data ./data --download`
    - `freqrob train bass_trades_wrn34 --dataset cifar10 --data ./data`
    - `freqrob train pgd_at_rn18 --epochs 30 --set schedule=triangle --set steps=7 --set eps=4/255`
    - `torchrun --nproc-per-node 8 -m freqrob train pgd_at_rn18 --data ./data`, and likewise under SLURM's `srun`

    Ctrl-C stops after the step and keeps a checkpoint; the same command goes on where it was. The best epoch by
    validation accuracy is kept in DIR/cifar10/Linf/RECIPE.safetensors, where `load_model` finds it; its folder has the
    metrics (JSONL, CSV) and curves.png.
    """
    from freqrob import training

    given = {
        "epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "gamma": gamma, "precision": precision
    }  # fmt: skip
    given = {key: value for key, value in given.items() if value is not None}
    chosen = training.recipe_for(recipe, dataset, threat_model, **{**given, **_settings(recipe, settings or [])})
    try:
        with _progress(quiet=_rank() > 0) as (track, log):
            weights = training.train(
                chosen, data, model_dir, download=download, accelerator=accelerator, compile=compile,
                checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard, track=track, log=log,
            )  # fmt: skip
    except KeyboardInterrupt:
        if _rank() == 0:
            launched = {"WORLD_SIZE", "SLURM_NTASKS"} & os.environ.keys()  # by a command that is not known here
            Console(stderr=True, soft_wrap=True).print(
                "Stopped. What was trained is kept; the same command goes on from there"
                + ("." if launched else f":\n  {escape(_this_command())}"),
                highlight=False,
            )
        raise typer.Exit(INTERRUPTED) from None
    if _rank() == 0:
        Console().print(f"The best epoch is in {weights}", highlight=False, soft_wrap=True)


def _this_command() -> str:
    """The command line that started this process, to be pasted into the same shell."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "freqrob"]
    elif shutil.which("freqrob") == sys.argv[0]:
        program = ["freqrob"]
    return shlex.join([*program, *sys.argv[1:]])


def _rank() -> int:
    """Which of the processes that torchrun or SLURM started this is."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _settings(recipe: str, texts: list[str]) -> dict[str, Any]:
    """``["lr=0.3", "steps=3"]`` as ``{"lr": 0.3, "defense": {"steps": 3}}``."""
    from dataclasses import fields

    from freqrob.defenses import DEFENSES
    from freqrob.models.registry import ModelName, nearest_names
    from freqrob.training import Recipe

    values, elsewhere = dict(_setting(text) for text in texts), ("name", "dataset", "threat_model")
    of_defense = [field.name for field in fields(DEFENSES[ModelName.parse(recipe).defense])]
    of_recipe = [field.name for field in fields(Recipe) if field.name not in (*elsewhere, "defense")]
    for key in values:
        if key in elsewhere:
            raise ValueError(f"--set: {key} is an argument or option of its own, got {key}={values[key]}")
        if key not in of_recipe + of_defense:
            raise ValueError(
                f"--set: {recipe} has no setting {key}, expected any of {', '.join(of_recipe + of_defense)}."
                + nearest_names(key, of_recipe + of_defense)
            )
    return {key: values[key] for key in values if key in of_recipe} | {
        "defense": {key: values[key] for key in values if key in of_defense}
    }


def _setting(text: str) -> tuple[str, Any]:
    """``steps=3`` as ("steps", 3); values are JSON, fractions such as 8/255, or text."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"--set: expected KEY=VALUE, got {text!r}")
    plain = {"none": "null"}.get(value.lower(), value.lower())
    for read in (json.loads, lambda _: json.loads(plain), lambda number: float(Fraction(number))):
        try:
            return key, read(value)
        except (ValueError, ZeroDivisionError):
            continue
    return key, value


@app.command()
def recipes(
    pattern: Annotated[str, typer.Argument(help='A shell-style pattern, in quotes: `"*trades*"`.')] = "*",
    dataset: Annotated[str | None, typer.Option(help="Only those for this data set.")] = None,
) -> None:
    """List the recipes that have settings of their own, and where these come from; all settings of a single one.

    Examples:

    - `freqrob recipes`
    - `freqrob recipes "bass*" --dataset cifar10`
    - `freqrob recipes bass_pgd_at_rn18`
    """
    from freqrob.data import DATASETS
    from freqrob.training import recipe_for
    from freqrob.training.presets import list_presets

    if dataset not in (None, *DATASETS):
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, got {dataset!r}")
    found = [preset for preset in list_presets(pattern) if dataset in (None, preset.recipe.dataset)]
    if not found and set(pattern) & set("*?["):
        raise ValueError(f"no recipe matches {pattern!r}; `freqrob recipes` lists them all")
    if not found:
        _show_recipe(recipe_for(pattern, dataset or "cifar10"), "No preset has this name: the settings of its family.")
        return
    if len({preset.recipe.name for preset in found}) == 1:
        for preset in found:
            _show_recipe(preset.recipe, f"From {_source(preset)}. {preset.assumed}".strip())
        return
    table = Table("recipe", "data set", "epochs", "lr", "from")
    for preset in found:
        chosen = preset.recipe
        table.add_row(chosen.name, chosen.dataset, str(chosen.epochs), f"{chosen.lr:g}", _source(preset))
    Console().print(table)


def _show_recipe(recipe: Recipe, source: str) -> None:
    settings = recipe.as_dict()
    defense = settings.pop("defense")
    title = f"{settings.pop('name')} on {settings.pop('dataset')}"
    table = Table("setting", "value", title=title, title_justify="left")
    for key, value in settings.items():
        table.add_row(key, str(value))
    for key, value in defense.items():
        table.add_row(f"[dim]defence[/dim] {key}", _pixels(value) if key in ("eps", "step_size") else str(value))
    Console().print(table)
    Console().print(source, highlight=False)


def _source(preset: Preset) -> str:
    return ", ".join([preset.paper, *preset.tables])


def _pixels(value: float) -> str:
    """As people write them: 8/255, 0.031."""
    levels = round(255 * value, 6)
    return f"{levels:g}/255" if levels == int(levels) else f"{value:g}"


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names, as `freqrob models` lists them.")],
    data: DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="The data set.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model the models were trained for.")] = "Linf",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    images: Annotated[int | None, typer.Option(metavar="N", help="The first N images; all by default.")] = None,
    protocol: Annotated[list[str], typer.Option(help=f"{', '.join(PROTOCOLS)}; repeatable.")] = list(PROTOCOLS),  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps of PGD.")] = 20,
    eps: Annotated[float, typer.Option(parser=_fraction, metavar="ε", help="Radius of the L∞ ball.")] = "8/255",
    seed: Seed = 0,
    download: Download = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU where there is one.")] = "auto",
    model_dir: ModelDir = Path("models"),
    out: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="results.json or results.csv; repeatable for both.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Keep the results in the models' cards in --model-dir.")] = False,
) -> None:
    """Clean, FGSM and PGD accuracy of models, all protocols side by side.

    Examples:

    - `freqrob evaluate pgd_at_rn20 bass_pgd_at_rn20 --data ./data --images 1000`
    - `freqrob evaluate pgd_at_rn20 --protocol natural --steps 50 --eps 4/255 --out results.json --out results.csv`

    **natural**: the ball lies around the natural image, the model is as it loads (RobustBench's). **natural+bass**: the
    same with BaSS before the model, attacked through. **bass**: the images are balanced first, ball and gradient lie
    behind BaSS (Lin et al.'s).
    """
    _check_outputs(out or [])
    from freqrob.data import load_dataset
    from freqrob.evaluation import Attack, evaluate
    from freqrob.evaluation.accuracy import CLEAN
    from freqrob.models import load_model
    from freqrob.models.checkpoints import add_results, card_path
    from freqrob.models.loading import checkpoint_path

    if steps < 1 or eps < 0:
        raise ValueError(f"steps, eps: expected at least one step and a radius ≥ 0, got {steps} and {eps:g}")
    if images is not None and images < 1:
        raise ValueError(f"images: expected at least 1, got {images}")
    if card and split != "test":
        raise ValueError(f"card: cards hold accuracies on the test split, got --split {split}")
    for name in models if card else ():
        path = card_path(checkpoint_path(name, model_dir, dataset, threat_model))
        if not path.is_file():
            raise FileNotFoundError(f"card: {name} has none in --model-dir, there is no {path}")
    device = _device(device)
    networks = {name: load_model(name, model_dir, dataset, threat_model).to(device) for name in models}
    for name in models:
        if not checkpoint_path(name, model_dir, dataset, threat_model).is_file():
            note = f"{name}: none in {model_dir}, so this is the one that comes with freqrob"
            Console(stderr=True, soft_wrap=True).print(f"[yellow]{escape(note)}[/yellow]", highlight=False)
    with _progress() as (track, _log):
        chosen = load_dataset(dataset, split, data, download=download, track=track)
    if images is not None and images > len(chosen):
        raise ValueError(f"images: expected 1 to {len(chosen)}, the images of the {split} split, got {images}")
    chosen, protocol = chosen[:images], list(dict.fromkeys(protocol))
    with _progress() as (track, _log):
        results = [
            (name, evaluate(
                network, chosen.images, chosen.labels, protocols=protocol,
                attacks=(CLEAN, Attack.fgsm(eps), Attack(steps, eps)), seed=seed, track=_prefixed(track, name),
            ))
            for name, network in networks.items()
        ]  # fmt: skip
    _models_table(results, f"Accuracy (%) on {len(chosen):,} images of {dataset}'s {split} split")
    options = {
        "--dataset": dataset, "--threat-model": threat_model, "--split": split, "--images": images, "--steps": steps,
        "--eps": f"{round(255 * eps, 6):g}/255", "--seed": seed, "--protocol": protocol,
    }  # fmt: skip
    for path in out or []:
        _write_results(path, results, _command("evaluate", options, *models), f"{dataset} {split}")
    for name, found in results if card else ():
        add_results(checkpoint_path(name, model_dir, dataset, threat_model), (result.as_dict() for result in found))


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: cannot use {name!r} ({str(error).splitlines()[0]})") from error


def _check_outputs(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix not in (".json", ".csv"):
            raise ValueError(f"out: expected a name ending in .json or .csv, got {path}")
        _check_writable(path.parent)


def _write_results(path: Path, results: list[tuple[str, list[Result]]], command: str, source: str) -> None:
    from freqrob.files import write_csv, write_json
    from freqrob.provenance import provenance

    rows = [{"model": name, **result.as_dict()} for name, found in results for result in found]
    if path.suffix == ".csv":
        write_csv(path, rows, list(rows[0]))
    else:
        write_json(path, {**provenance(command), "source": source, "results": rows})
    Console().print(f"Wrote {path}", highlight=False, soft_wrap=True)


@app.command("models")
def models_(
    pattern: Annotated[str, typer.Argument(help='A shell-style pattern, in quotes: `"*bass*"`.')] = "*",
    model_dir: ModelDir = Path("models"),
) -> None:
    """List the models that `load_model` can load, with what their cards say.

    Examples:

    - `freqrob models`
    - `freqrob models "bass*" --model-dir ./models`
    """
    from freqrob.models.loading import DATASET_CLASSES, THREAT_MODELS, list_models

    found = [
        (name, dataset, threat)
        for dataset in DATASET_CLASSES
        for threat in THREAT_MODELS
        for name in list_models(pattern, dataset, threat, model_dir)
    ]
    if not found:
        raise FileNotFoundError(
            f"no model matches {pattern!r} in the package or in {model_dir}. Train one: freqrob train pgd_at_rn20"
        )
    table = Table("model", "protocol", "accuracy on its card (%)", "images")
    for name, dataset, threat in found:
        card = _card(name, model_dir, dataset, threat)
        architecture, results = (card.architecture, _card_results(card)) if card else ("no card", [("", "", "")])
        about = f"{name}\n[dim]{architecture}, {dataset}, {threat}[/dim]"
        table.add_row(about, *("\n".join(column) for column in zip(*results, strict=True)), end_section=True)
    Console().print(table)


def _card(name: str, model_dir: Path, dataset: str, threat: str) -> Card | None:
    from freqrob.models.loading import load_card

    try:
        return load_card(name, model_dir, dataset, threat)
    except FileNotFoundError:
        return None


def _card_results(card: Card) -> list[tuple[str, str, str]]:
    """A line for each protocol: ``("natural", "clean 76.0, PGD-20 31.0", "10,000")``."""
    found: dict[tuple[str, int], list[str]] = {}
    for result in card.results:
        key = (result.get("protocol", "?"), result.get("images", 0))
        accuracy = f"{100 * result['accuracy']:.1f}" if "accuracy" in result else "?"
        found.setdefault(key, []).append(f"{result.get('attack', '?')} {accuracy}")
    lines = [(protocol, ", ".join(shown), f"{count:,}") for (protocol, count), shown in found.items()]
    return lines or [("", "none", "")]


@app.command()
def doctor(rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the kernels anew.")] = False) -> None:
    """Say whether the native kernels are there, and what to do where they are not.

    Examples:

    - `freqrob doctor`
    - `freqrob doctor --rebuild`
    """
    from freqrob.spectral import native

    typer.echo(native.doctor(rebuild))


def _models_table(results: list[tuple[str, list[Result]]], title: str) -> None:
    """Models down, protocols across, the accuracies of all attacks in a cell."""
    if not results:
        return
    _, first = results[0]
    protocols = list(dict.fromkeys(result.protocol for result in first))
    attacks = dict.fromkeys(_attack(result) for result in first)
    table = Table("model", *protocols)
    for name, found in results:
        cells = ([result for result in found if result.protocol == protocol] for protocol in protocols)
        table.add_row(name, *(" / ".join(f"{100 * result.accuracy:.1f}" for result in cell) for cell in cells))
    Console().print(f"{title}: {' / '.join(attacks)}", highlight=False, markup=False)
    Console().print(table)


def _attack(result: Result) -> str:
    return result.attack if result.attack == "clean" else f"{result.attack} at ε {result.eps * 255:.3g}/255"


@contextmanager
def _progress(quiet: bool = False) -> Iterator[tuple[Track, Callable[[str], None]]]:
    """A ``track`` that shows a bar with the time left while its iterable runs, and a ``log`` that prints above it.

    Told how many images an item has, the bar shows images per second. What a sized iterable lacks of the count is done.
    Where there is no terminal, such as in a batch job's log, the bar is a line now and then.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Throughput(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    console, said_at = Console(stderr=True), time.monotonic()
    progress = Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal, speed_estimate_period=300
    )

    def track(items: Iterable, what: str, count: int, images: int = 0) -> Iterator:
        nonlocal said_at
        done = count - len(items) if isinstance(items, Sized) else 0
        task = progress.add_task(escape(what), total=count, completed=done, images=images)
        try:
            for item in items:
                yield item
                progress.advance(task)
                if not console.is_terminal and time.monotonic() - said_at > LINE_SECONDS:
                    said_at = time.monotonic()
                    (shown,) = (one for one in progress.tasks if one.id == task)
                    cells = (str(column.render(shown)) for column in columns if not isinstance(column, BarColumn))
                    log(" ".join(cells))
        finally:
            progress.remove_task(task)

    def log(line: str) -> None:
        if not quiet:
            console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    with progress:
        yield track, log


class _Throughput(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        images = task.fields["images"]
        return Text(f"{images * task.speed:,.0f} images/s" if images and task.speed else "")


def _prefixed(track: Track, name: str) -> Track:
    return lambda items, what, *sizes: track(items, f"{name}: {what}", *sizes)


def _command(name: str, options: dict[str, Any], *arguments: str) -> str:
    """The command line that makes the same numbers, but for where data and models lie, for the record."""
    given = []
    for option, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            given += [] if one is None else [option, str(one)]
    return shlex.join(["freqrob", name, *arguments, *given])


def main() -> None:
    """The console script `freqrob`."""
    app()


if __name__ == "__main__":
    main()
