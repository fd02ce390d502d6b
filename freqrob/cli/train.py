"""`freqrob train` and `freqrob recipes`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from freqrob.cli import options
from freqrob.cli.measuring import FOLDER, INTERRUPTED, in_process_group, models_dataset, named_dataset
from freqrob.cli.printing import print_line, print_resume_hint, print_table, rank
from freqrob.cli.progress import progress_bars
from freqrob.runtime.cache import set_compile_folder
from freqrob.runtime.parameters import check_choices, pixels

if TYPE_CHECKING:
    from freqrob.data import ImageSet
    from freqrob.training import Recipe
    from freqrob.training.presets import Preset


@in_process_group(gpus=True)
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="`[bass_|bassmix_|bassfront_|blur_|pca_]<defence>_<architecture>`.")
    ],
    dataset: Annotated[
        str,
        typer.Option(
            help="cifar10, cifar100, svhn, tiny_imagenet, restricted_imagenet, imagenet, or folder for photographs."
        ),
    ] = "cifar10",
    grayscale: options.Grayscale = False,
    threat_model: Annotated[str, typer.Option(help="Threat model; Linf.")] = "Linf",
    data: options.DataDir = Path("data"),
    model_dir: options.ModelDir = Path("models"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, over all devices.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Probability with which bassmix_ balances an image.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16-mixed, 16-mixed or 32-true.")] = None,
    initial_weights: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL|FILE",
            help="Start from these weights: a model as for `freqrob evaluate`, or a weights file for this network.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting that `freqrob recipes RECIPE` lists; repeatable."),
    ] = None,
    download: options.Download = False,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="With --dataset folder: only these sub-folders, one in each line, in order.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode photographs, for each GPU; by default one for each CPU."),
    ] = None,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Minutes between checkpoints within an epoch.")] = 10,
    accelerator: Annotated[str, typer.Option(help="Accelerator of Lightning Fabric: auto, cpu, cuda, …")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network (torch.compile).")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard logs.")] = False,
) -> None:
    """Train a recipe, or resume an interrupted run.

    Each recipe has default settings, from a paper if there is one; `freqrob recipes RECIPE` lists them. Options
    override them. Examples:

    - `freqrob train standard_rn20 --data ./data --download`
    - `freqrob train bass_trades_wrn34 --dataset cifar10 --data ./data`
    - `freqrob train pgd_at_rn18 --epochs 30 --set schedule=triangle --set steps=7 --set eps=4/255`
    - `freqrob train blur_standard_resnet50 --dataset imagenet --data ./imagenet --from torchvision:resnet50`
    - `freqrob train standard_resnet18 --dataset folder --data ./photographs --set lr=0.01`
    - `torchrun --nproc-per-node 8 -m freqrob train pgd_at_rn18 --data ./data`; under SLURM, use `srun` in the same way

    Photographs of imagenet and folder are decoded and cropped by worker processes at each step. A folder has a
    sub-folder for each class, in DIR/train/ if there is one; a tenth of the photographs is held out for validation. Its
    models are named and stored under imagenet, whose size and normalisation they have.

    Ctrl-C stops after the current step and writes a checkpoint; run the same command to resume. When the run is
    finished, the weights with the best validation accuracy are in DIR/cifar10/Linf/RECIPE.safetensors, where
    `load_model` finds them; the folder RECIPE beside that file has the metrics (JSONL, CSV) and curves.png.
    """
    if compile:
        set_compile_folder()
    from freqrob import training
    from freqrob.attacks.checks import explained
    from freqrob.models.loading import checkpoint_path
    from freqrob.training.run_folder import RunFolder

    given = {
        "epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "gamma": gamma, "precision": precision,
        "initial_weights": initial_weights,
    }  # fmt: skip
    given = {key: value for key, value in given.items() if value is not None}
    changed = training.parse_settings(recipe, settings or [])
    if twice := sorted(given.keys() & changed.keys()):
        option = {"initial_weights": "from"}.get(twice[0], twice[0].replace("_", "-"))
        raise ValueError(f"--set: {twice[0]} is also set by --{option}; give it once")
    named = named_dataset(models_dataset(dataset, None), grayscale)
    chosen = training.recipe_for(recipe, named, threat_model, **given, **changed)
    photographs = _photographs(dataset, data, classes_file)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the trainer logs its own setup
    try:
        with explained(chosen.batch_size), progress_bars(quiet=rank() > 0) as (progress, log):
            weights = training.train(
                chosen, data, model_dir, data=photographs, workers=workers, download=download,
                accelerator=accelerator, compile=compile, checkpoint_minutes=checkpoint_minutes,
                tensorboard=tensorboard, progress=progress, log=log,
            )  # fmt: skip
    except KeyboardInterrupt:
        folder = checkpoint_path(chosen.name, model_dir, chosen.dataset, chosen.threat_model).with_suffix("")
        print_resume_hint("A checkpoint is kept", RunFolder(folder, chosen.as_dict()).last_checkpoint.is_file())
        raise typer.Exit(INTERRUPTED) from None
    if rank() == 0:
        print_line(f"Wrote the weights of the best epoch: {weights}")


def _photographs(dataset: str, folder: Path, classes: Path | None) -> ImageSet | None:
    """The photographs to train on, in the folder or its ``train/``; None for other data sets."""
    from freqrob.data import load_photographs

    if dataset == FOLDER:
        return load_photographs(folder / "train" if (folder / "train").is_dir() else folder, classes=classes)
    if classes is not None:
        raise ValueError(f"classes: expected --classes only with --dataset {FOLDER}, got it for {dataset}")
    return None


def recipes(
    pattern: Annotated[str, typer.Argument(help='A shell-style pattern, in quotes: `"*trades*"`.')] = "*",
    dataset: Annotated[str | None, typer.Option(help="Only recipes for this data set.")] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="For one recipe: measure a step, and estimate the hours.")
    ] = False,
) -> None:
    """List the presets and their sources; if only one matches, show all its settings.

    Examples:

    - `freqrob recipes`
    - `freqrob recipes "bass*" --dataset cifar10`
    - `freqrob recipes bass_pgd_at_rn18 --cost`
    """
    from freqrob.data import DATASETS
    from freqrob.training import recipe_for
    from freqrob.training.presets import list_presets, without_source

    if dataset is not None:
        check_choices(DATASETS, dataset=dataset)
    show = partial(_show_recipe, cost=cost)
    presets = [preset for preset in list_presets(pattern) if dataset in (None, preset.recipe.dataset)]
    if not presets and set(pattern) & set("*?["):
        raise ValueError(f"no recipe matches {pattern!r}; `freqrob recipes` lists them all")
    if not presets:
        guess = recipe_for(pattern, dataset or "cifar10")
        show(guess, f"Note: {without_source(guess)}.")
        return
    if len({preset.recipe.name for preset in presets}) == 1:
        for preset in presets:
            show(preset.recipe, f"From {_source(preset)}. {preset.assumed}".strip())
        return
    if cost:
        raise ValueError(f"pattern: expected the name of one recipe for --cost, got {pattern!r}")
    table = Table("recipe", "data set", "epochs", "lr", "from")
    for preset in presets:
        chosen = preset.recipe
        table.add_row(chosen.name, chosen.dataset, str(chosen.epochs), f"{chosen.lr:g}", _source(preset))
    print_table(table)


def _show_recipe(recipe: Recipe, source: str, cost: bool) -> None:
    settings = recipe.as_dict()
    defense = settings.pop("defense")
    title = f"{settings.pop('name')} on {settings.pop('dataset')}"
    table = Table("setting", "value", title=title, title_justify="left")
    for key, value in settings.items():
        table.add_row(key, str(value))
    for key, value in defense.items():
        table.add_row(f"[dim]defence[/dim] {key}", pixels(value) if key in ("eps", "step_size") else str(value))
    print_table(table)
    print_line(source)
    if cost:
        print_line(_cost(recipe))


def _cost(recipe: Recipe) -> str:
    """Hours of a recipe's training: measured here, and computed for GPUs."""
    import torch

    from freqrob.training.cost import GPU_SHARE, GPUS, step_cost, step_flops, training_steps

    device = "cuda" if torch.cuda.is_available() else "cpu"
    flops, seconds, steps = step_flops(recipe), step_cost(recipe, device).seconds, training_steps(recipe)
    here = f"{seconds:.3g} s on this {device} ({torch.get_num_threads()} threads)"
    computed = [f"{steps * flops / (GPU_SHARE * peak) / 3600:.3g} h on one {name}" for name, peak in GPUS.items()]
    return (
        f"A step of {recipe.batch_size} images has {flops:.3g} flops and takes {here}: {steps * seconds / 3600:.3g} h "
        f"for {recipe.epochs} epochs. Computed for {GPU_SHARE:.0%} of the peak with --set precision=bf16-mixed: "
        f"{', '.join(computed)}."
    )


def _source(preset: Preset) -> str:
    return ", ".join([preset.paper, *preset.tables])
