"""`freqrob evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from freqrob.cli.app import (
    DataDir,
    Download,
    ModelDir,
    Seed,
    check_writable,
    command_line,
    fraction,
    usable_device,
)
from freqrob.cli.progress import prefixed, progress_bars

if TYPE_CHECKING:
    from freqrob.evaluation import Result

PROTOCOLS = ("natural", "natural+bass", "bass")


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names, as `freqrob models` lists them.")],
    data: DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="The data set.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model the models were trained for.")] = "Linf",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    images: Annotated[int | None, typer.Option(metavar="N", help="The first N images; all by default.")] = None,
    protocol: Annotated[list[str], typer.Option(help=f"{', '.join(PROTOCOLS)}; repeatable.")] = list(PROTOCOLS),  # noqa: B006
    steps: Annotated[int, typer.Option(help="Steps of PGD.")] = 20,
    eps: Annotated[float, typer.Option(parser=fraction, metavar="ε", help="Radius of the L∞ ball.")] = "8/255",
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
    device = usable_device(device)
    networks = {name: load_model(name, model_dir, dataset, threat_model).to(device) for name in models}
    for name in models:
        if not checkpoint_path(name, model_dir, dataset, threat_model).is_file():
            note = f"{name}: none in {model_dir}, so this is the one that comes with freqrob"
            Console(stderr=True, soft_wrap=True).print(f"[yellow]{escape(note)}[/yellow]", highlight=False)
    with progress_bars() as (track, _log):
        chosen = load_dataset(dataset, split, data, download=download, track=track)
    if images is not None and images > len(chosen):
        raise ValueError(f"images: expected 1 to {len(chosen)}, the images of the {split} split, got {images}")
    chosen, protocol = chosen[:images], list(dict.fromkeys(protocol))
    with progress_bars() as (track, _log):
        results = [
            (name, evaluate(
                network, chosen.images, chosen.labels, protocols=protocol,
                attacks=(CLEAN, Attack.fgsm(eps), Attack(steps, eps)), seed=seed, track=prefixed(track, name),
            ))
            for name, network in networks.items()
        ]  # fmt: skip
    accuracy_table(results, f"Accuracy (%) on {len(chosen):,} images of {dataset}'s {split} split")
    options = {
        "--dataset": dataset, "--threat-model": threat_model, "--split": split, "--images": images, "--steps": steps,
        "--eps": f"{round(255 * eps, 6):g}/255", "--seed": seed, "--protocol": protocol,
    }  # fmt: skip
    for path in out or []:
        _write_results(path, results, command_line("evaluate", options, *models), f"{dataset} {split}")
    for name, found in results if card else ():
        add_results(checkpoint_path(name, model_dir, dataset, threat_model), (result.as_dict() for result in found))


def _check_outputs(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix not in (".json", ".csv"):
            raise ValueError(f"out: expected a name ending in .json or .csv, got {path}")
        check_writable(path.parent)


def _write_results(path: Path, results: list[tuple[str, list[Result]]], command: str, source: str) -> None:
    from freqrob.files import write_csv, write_json
    from freqrob.provenance import provenance

    rows = [{"model": name, **result.as_dict()} for name, found in results for result in found]
    if path.suffix == ".csv":
        write_csv(path, rows, list(rows[0]))
    else:
        write_json(path, {**provenance(command), "source": source, "results": rows})
    Console().print(f"Wrote {path}", highlight=False, soft_wrap=True)


def accuracy_table(results: list[tuple[str, list[Result]]], title: str) -> None:
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
