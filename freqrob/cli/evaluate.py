"""`freqrob evaluate`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli.app import (
    INTERRUPTED,
    CacheKey,
    DataDir,
    Download,
    ModelDir,
    NoCache,
    Seed,
    command_line,
    fraction,
    in_process_group,
    key_of,
    pixels,
    print_kept_results,
    print_line,
    print_table,
    rank,
    results_folder,
    usable_device,
)
from freqrob.cli.progress import prefixed, progress_bars
from freqrob.runtime.files import check_file
from freqrob.runtime.launched import launched
from freqrob.runtime.parameters import check_counts, check_integers
from freqrob.runtime.reading import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from freqrob.attacks import PGD, Attack
    from freqrob.attacks.balls import Norm
    from freqrob.data.datasets import ImageSet, Split
    from freqrob.evaluation import MaskingCheck, Result

PROTOCOLS = ("natural", "natural+bass", "bass")
ATTACKS = ("clean", "fgsm", "pgd-20")


@dataclass(frozen=True)
class _Measured:
    """What was found of a model."""

    name: str
    model_hash: str
    results: list[Result]
    masking: MaskingCheck | None


@in_process_group()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Names, as `freqrob models` lists them; `NAME=weights.pt`, `robustbench:NAME`, `timm:NAME`, "
            "`torchvision:NAME`, `hub:OWNER/REPO:MODEL` or `package.module:function`.",
        ),
    ],
    data: DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="The data set.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model the models were trained for.")] = "Linf",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    images: Annotated[int | None, typer.Option(metavar="N", help="The first N images; all by default.")] = None,
    protocol: Annotated[list[str], typer.Option(help=f"{', '.join(PROTOCOLS)}; repeatable.")] = list(PROTOCOLS),  # noqa: B006
    attack: Annotated[list[str], typer.Option(help="As below; repeatable.")] = list(ATTACKS),  # noqa: B006
    eps: Annotated[
        float | None, typer.Option(parser=fraction, metavar="ε", help="Radius of the ball; 8/255 in L∞, 0.5 in L2.")
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Linf or L2; that of --threat-model by default, Linf for corruptions.")
    ] = None,
    step_size: Annotated[
        float | None, typer.Option(parser=fraction, metavar="α", help="Step of PGD; a quarter of ε by default.")
    ] = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time; each batch is kept when it is done.")] = 250,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where finished batches are kept; by default in freqrob's cache.")
    ] = None,
    cache_key: CacheKey = None,
    no_cache: NoCache = False,
    masking_images: Annotated[
        int, typer.Option(metavar="N", help="Check front ends for gradient masking on the first N images; 0: do not.")
    ] = 200,
    masking_queries: Annotated[int, typer.Option(metavar="N", help="Square's queries in that check.")] = 500,
    download: Download = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU where there is one.")] = "auto",
    model_dir: ModelDir = Path("models"),
    out: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="results.json or results.csv; repeatable for both.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV file of every image: whether it stays correct.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Keep the results in the models' cards in --model-dir.")] = False,
) -> None:
    """Accuracy of models under attacks, all protocols side by side.

    Examples:

    - `freqrob evaluate pgd_at_rn20 bass_pgd_at_rn20 --data ./data --images 1000`
    - `freqrob evaluate pgd_at_rn20 --protocol natural --attack clean --attack autoattack --out results.json`
    - `freqrob evaluate robustbench:Engstrom2019Robustness --threat-model L2 --attack pgd-50-10 --eps 0.5`
    - `torchrun --nproc-per-node 4 -m freqrob evaluate pgd_at_rn20 --attack autoattack`

    **--attack** is `clean`, `fgsm`, `pgd-STEPS[-RESTARTS]` (`:cw` or `:dlr` for another loss, `:targeted` for the most
    probable wrong classes), `autoattack`, `autoattack-rand` (for randomised models), `autoattack-plus`,
    `autoattack:ATTACK,…` (of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square), `square[-QUERIES]`,
    `band_pgd-STEPS:FIRST-LAST` (perturbations in some rings of the spectrum), `foolbox:NAME`, or an attack of another
    installed package.

    **natural**: the ball lies around the natural image, the model is as it loads (RobustBench's). **natural+bass**: the
    same with BaSS before the model, attacked through. **bass**: the images are balanced first, ball and gradient lie
    behind BaSS (Lin et al.'s).

    A run that was stopped goes on where it was; what was measured once is not measured again. Models with a fixed
    front end are also attacked without its gradient, by Square and by transfer from the bare network: if that is
    stronger than PGD-20 through it, the front end masks gradients, and a line in red says so.
    """
    if images is not None:
        check_counts(images=images)
    check_integers(0, masking_images=masking_images)
    check_counts(masking_queries=masking_queries)
    if card and split != "test":
        raise ValueError(f"card: cards hold accuracies on the test split, got --split {split}")
    folder = results_folder(cache, no_cache)
    from freqrob.attacks import parse_attack
    from freqrob.attacks.checks import check_answers
    from freqrob.data import load_dataset
    from freqrob.data.datasets import to_pixels
    from freqrob.evaluation import evaluate as measure
    from freqrob.models.checkpoints import add_results, card_path
    from freqrob.models.keys import data_hash, model_hash
    from freqrob.models.loading import checkpoint_path
    from freqrob.runtime.processes import propagate_failure, rank_zero_first
    from freqrob.runtime.provenance import provenance

    norm = cast("Norm", norm or ("L2" if threat_model == "L2" else "Linf"))  # which parse_attack checks
    attacks = [parse_attack(text, eps=eps, norm=norm, step_size=step_size) for text in dict.fromkeys(attack)]
    white_box = cast("PGD", parse_attack("pgd-20", eps=eps, norm=norm, step_size=step_size))
    with propagate_failure():
        if rank() == 0:
            check_outputs(out or [], samples, card_paths(models, model_dir, dataset, threat_model))
            _check_cards(models if card else [], model_dir, dataset, threat_model)
    where = device_of_rank(device)
    networks = open_models(models, model_dir, dataset, threat_model)
    with progress_bars(quiet=rank() > 0) as (track, _log), rank_zero_first():
        chosen = load_dataset(dataset, cast("Split", split), data, download=download, track=track)
    if images is not None and images > len(chosen):
        raise ValueError(f"images: expected 1 to {len(chosen)}, the images of the {split} split, got {images}")
    chosen, protocol = chosen[:images], list(dict.fromkeys(protocol))
    classes = len(chosen.classes) or None  # of data whose classes have no names the number is not known
    for name, network in networks.items() if len(networks) > 1 else ():  # before the first one is measured
        with naming(name):
            check_answers(network.to(where), to_pixels(chosen.images[:2]).to(where), chosen.labels, classes)
        network.cpu()
    found, title = [], f"Accuracy (%) on {len(chosen):,} images of {dataset}'s {split} split"
    try:
        with progress_bars(quiet=rank() > 0) as (track, _log):
            for name, network in networks.items():
                how = {
                    "batch_size": batch_size, "seed": seed, "cache": folder, "cache_key": key_of(name, cache_key),
                    "classes": classes, "track": prefixed(track, name),
                }  # fmt: skip
                with warnings_as_lines(name), naming(name):
                    results = measure(network.to(where), chosen.images, chosen.labels, protocols=protocol,
                                      attacks=attacks, **how)  # fmt: skip
                    masking = None
                    if masking_images:
                        masking = _masking(network, chosen[:masking_images], white_box, masking_queries, how)
                found.append(_Measured(name, model_hash(network), results, masking))
                network.cpu()
    except KeyboardInterrupt:
        print_kept_results(folder)
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        _print_found(found, title)  # of the models before, whose results may be kept nowhere
        raise
    if rank() > 0:
        return
    options = {
        "--dataset": dataset, "--threat-model": threat_model, "--split": split, "--images": images,
        "--protocol": protocol, "--attack": attack, "--eps": pixels(white_box.eps, norm), "--norm": norm,
        "--step-size": step_size, "--seed": seed, "--batch-size": batch_size, "--masking-images": masking_images,
        "--masking-queries": masking_queries,
    }  # fmt: skip
    record = {
        **provenance(command_line("evaluate", options, *models)),
        "source": f"{dataset} {split}",
        "data_hash": data_hash(chosen.images, chosen.labels),
    }
    cards = [checkpoint_path(model.name, model_dir, dataset, threat_model) for model in found] if card else []
    with ExitStack() as last:  # calls all of these, whichever fails, in the opposite order
        last.callback(_print_found, found, title)
        for weights, model in zip(cards, found, strict=False):
            last.callback(add_results, weights, [result.as_dict() for result in model.results])
        if samples is not None:
            last.callback(_write_samples, samples, found, chosen.labels)
        for path in reversed(out or []):
            last.callback(_write_results, path, found, record)
    for model in found:
        cached = [f"{result.protocol} {result.attack.name}" for result in model.results if result.from_cache]
        say_what_was_cached(model.name, folder, cached, len(model.results))
    print_written([*(out or []), *filter(None, [samples]), *map(card_path, cards)])


def check_outputs(results: list[Path], samples: Path | None, inputs: Iterable[Path]) -> None:
    """Raise ValueError or OSError, before anything is measured, for files that cannot be written or are read."""
    inputs = list(inputs)
    for path in results:
        if path.suffix not in (".json", ".csv"):
            raise ValueError(f"out: expected a name ending in .json or .csv, got {path}")
        check_file(path, "out", inputs)
    if samples is not None:
        if samples.suffix != ".csv":
            raise ValueError(f"samples: expected a name ending in .csv, got {samples}")
        check_file(samples, "samples", inputs)
        if samples.resolve() in [path.resolve() for path in results]:
            raise ValueError(f"samples: expected another file than --out, got {samples} for both")


def card_paths(models: list[str], model_dir: Path, dataset: str, threat_model: str) -> Iterator[Path]:
    """Where the cards lie, if there are any, of models that are given by a name or as ``NAME=weights.pt``."""
    from freqrob.models.checkpoints import card_path
    from freqrob.models.loading import checkpoint_path

    for spec in models:
        if re.fullmatch(r"\w[\w.+-]*", spec):
            yield card_path(checkpoint_path(spec, model_dir, dataset, threat_model))
        elif checkpoint := re.fullmatch(r"\w[\w.+-]*=(.+)", spec):
            yield card_path(Path(checkpoint[1]))


def _check_cards(models: list[str], model_dir: Path, dataset: str, threat_model: str) -> None:
    from freqrob.models.checkpoints import card_path
    from freqrob.models.loading import checkpoint_path

    for name in models:
        path = card_path(checkpoint_path(name, model_dir, dataset, threat_model))
        if not path.is_file():
            raise FileNotFoundError(f"card: {name} has none in --model-dir, there is no {path}")
        check_file(path, "card")


def device_of_rank(name: str) -> torch.device:
    """As asked for; of several GPUs each process of those that were launched together takes its own."""
    device, launch = usable_device(name), launched()
    if name == "auto" and device.type == "cuda" and launch:
        import torch

        return usable_device(f"cuda:{launch.local_rank % torch.cuda.device_count()}")
    return device


def open_models(models: list[str], model_dir: Path, dataset: str, threat_model: str) -> dict[str, nn.Module]:
    """The models by name; says which are the package's own. The first process downloads what is missing."""
    from freqrob.models.sources import open_model
    from freqrob.runtime.processes import rank_zero_first

    with warnings_as_lines(), rank_zero_first():
        networks = {name: open_model(name, model_dir, dataset, threat_model) for name in models}
    say_what_was_shipped(models, model_dir, dataset, threat_model)
    return networks


def say_what_was_shipped(models: list[str], model_dir: Path, dataset: str, threat_model: str) -> None:
    """Nobody takes the package's model for one that they trained."""
    from freqrob.models.loading import checkpoint_path

    shipped = Path(str(resources.files("freqrob.models") / "weights"))
    for name in filter(re.compile(r"[\w.+-]+").fullmatch, models):
        own, ours = (checkpoint_path(name, folder, dataset, threat_model) for folder in (model_dir, shipped))
        if ours.is_file() and not own.is_file():
            say(f"{name}: none in {model_dir}, so this is the one that comes with freqrob")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors about a model say which one it is."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("model:"):
            raise
        raise ValueError(f"{name}: {error}") from error


def _masking(
    network: nn.Module, chosen: ImageSet, white_box: PGD, queries: int, how: dict[str, Any]
) -> MaskingCheck | None:
    """The check of a model that has a front end, on what images there are for it."""
    from freqrob.evaluation.masking import check_masking, has_front_end

    if not has_front_end(network):
        return None
    try:
        return check_masking(network, chosen.images, chosen.labels, white_box=white_box, queries=queries, **how)
    except ImportError as error:
        warnings.warn(f"not checked for gradient masking ({error})", stacklevel=2)
        return None


def _print_found(found: list[_Measured], title: str) -> None:
    """The accuracies and the checks for masking, from one process."""
    if rank() > 0:
        return
    accuracy_table([(model.name, model.results) for model in found], title)
    for model in found:
        if model.masking is not None:
            colour = "red" if model.masking.suspects else "green"
            print_line(f"{model.name}: {model.masking}", colour)


def say_what_was_cached(name: str, folder: Path | None, cached: list[str], count: int) -> None:
    """Which of a model's results were measured by earlier runs."""
    if cached:
        what = "all results" if len(cached) == count else ", ".join(cached)
        say(f"{name}: {what} from earlier runs, kept in {folder}; --no-cache measures again")


@contextmanager
def warnings_as_lines(name: str = "") -> Iterator[None]:
    """Each warning once a model, as a line under its name; from one process."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"{name}: {message}" if name else str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def say(text: str) -> None:
    """A line in yellow, from one process."""
    if rank() == 0:
        print_line(printable(text), "yellow", stderr=True)


def _write_results(path: Path, found: list[_Measured], record: dict[str, Any]) -> None:
    from freqrob.runtime.files import write_csv, write_json

    rows = [
        {
            "model": model.name, **result.as_dict(), "model_hash": model.model_hash, "data_hash": record["data_hash"],
            "from_cache": result.from_cache,
        }
        for model in found
        for result in model.results
    ]  # fmt: skip
    if path.suffix == ".csv":
        write_csv(path, rows, list(dict.fromkeys(key for row in rows for key in row)))
    else:
        masking = {model.name: model.masking.as_dict() for model in found if model.masking is not None}
        write_json(path, {**record, "results": rows, "masking": masking})


def _write_samples(path: Path, found: list[_Measured], labels: torch.Tensor) -> None:
    from freqrob.runtime.files import write_csv

    rows = [
        {
            "model": model.name, "protocol": result.protocol, "attack": result.attack.name, "index": index,
            "label": label, "correct": int(correct),
        }
        for model in found
        for result in model.results
        for index, (label, correct) in enumerate(zip(labels.tolist(), result.correct.tolist(), strict=True))
    ]  # fmt: skip
    write_csv(path, rows, ["model", "protocol", "attack", "index", "label", "correct"])


def print_written(paths: Iterable[Path]) -> None:
    for path in paths:
        print_line(f"Wrote {path}")


def accuracy_table(results: list[tuple[str, list[Result]]], title: str) -> None:
    """Models down, protocols across, the accuracies of all attacks in a cell."""
    if not results:
        return
    _, first = results[0]
    protocols = list(dict.fromkeys(result.protocol for result in first))
    attacks = dict.fromkeys(_at_radius(result.attack) for result in first)
    table = Table("model", *protocols)
    for name, found in results:
        cells = ([result for result in found if result.protocol == protocol] for protocol in protocols)
        table.add_row(escape(name), *(" / ".join(f"{100 * result.accuracy:.1f}" for result in cell) for cell in cells))
    print_line(f"{title}: {' / '.join(attacks)}")
    print_table(table)


def _at_radius(attack: Attack) -> str:
    if not attack.eps:
        return attack.name
    return f"{attack.name} at ε {pixels(attack.eps, attack.norm)}" + (" in L2" if attack.norm == "L2" else "")
