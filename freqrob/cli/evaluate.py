"""`freqrob evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli import measuring, options
from freqrob.cli.printing import command_line, print_line, print_table, print_written, rank
from freqrob.cli.progress import prefixed
from freqrob.runtime.files import check_file, followed
from freqrob.runtime.parameters import check_counts, check_integers, pixels

if TYPE_CHECKING:
    import torch
    from torch import nn

    from freqrob.attacks import PGD, Attack
    from freqrob.attacks.balls import Norm
    from freqrob.data.datasets import ImageSet
    from freqrob.evaluation import MaskingCheck, Result
    from freqrob.evaluation.files import Evaluation
    from freqrob.models.twins import Precision

PROTOCOLS = ("natural", "natural+bass", "bass")
ATTACKS = ("clean", "fgsm", "pgd-20")


@measuring.in_process_group()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Names that `freqrob models` lists; `NAME=weights.pt`, `robustbench:NAME`, `timm:NAME`, "
            "`torchvision:NAME`, `onnx:FILE`, `hub:OWNER/REPO:MODEL` or `package.module:function`.",
        ),
    ],
    data: options.DataDir = Path("data"),
    dataset: Annotated[str, typer.Option(help="Data set, or folder: photographs in --data.")] = "cifar10",
    grayscale: options.Grayscale = False,
    threat_model: options.ThreatModel = "Linf",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    images: Annotated[int | None, typer.Option(metavar="N", help="Use the first N images; all by default.")] = None,
    protocol: Annotated[list[str], typer.Option(help=f"{', '.join(PROTOCOLS)}; repeatable.")] = list(PROTOCOLS),  # noqa: B006
    attack: Annotated[list[str], typer.Option(help="Attack, see above; repeatable.")] = list(ATTACKS),  # noqa: B006
    eps: Annotated[
        float | None,
        typer.Option(parser=options.fraction, metavar="ε", help="Radius of the ball; 8/255 in L∞, 0.5 in L2."),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Linf or L2; by default that of --threat-model, Linf for corruptions.")
    ] = None,
    step_size: Annotated[
        float | None, typer.Option(parser=options.fraction, metavar="α", help="Step size of PGD; ε/4 by default.")
    ] = None,
    attack_precision: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            help="float32; or bfloat16: attack in bfloat16 first, then in float32 the images that this does not break.",
        ),
    ] = "float32",
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    cache: options.CacheDir = None,
    cache_key: options.CacheKey = None,
    no_cache: options.NoCache = False,
    masking_images: Annotated[
        int, typer.Option(metavar="N", help="Check front ends for gradient masking on the first N images; 0 for none.")
    ] = 200,
    masking_queries: Annotated[int, typer.Option(metavar="N", help="Queries per image of Square in that check.")] = 500,
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
    out: options.ResultFiles = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV file with one row per image: whether it stays correctly classified."),
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Add the results to the models' cards in --model-dir.")] = False,
) -> None:
    """Measure the accuracy of models under attack, by protocol.

    Examples:

    - `freqrob evaluate pgd_at_rn20 bass_pgd_at_rn20 --data ./data --images 1000`
    - `freqrob evaluate pgd_at_rn20 --protocol natural --attack clean --attack autoattack --out results.json`
    - `freqrob evaluate robustbench:Engstrom2019Robustness --threat-model L2 --attack pgd-50-10 --eps 0.5`
    - `torchrun --nproc-per-node 4 -m freqrob evaluate pgd_at_rn20 --attack autoattack`

    **--attack** is `clean`, `fgsm`, `pgd-STEPS[-RESTARTS]` (`:cw` or `:dlr` for another loss, `:targeted` for the most
    probable wrong classes), `autoattack`, `autoattack-rand` (for randomised models), `autoattack-plus`,
    `autoattack:ATTACK,…` (from apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square), `square[-QUERIES]`,
    `band_pgd-STEPS:FIRST-LAST` (perturbations in some rings of the spectrum), `foolbox:NAME`, or an attack of another
    installed package.

    **natural** (RobustBench's): attack the model as loaded, in a ball around the natural image. **natural+bass**: the
    same with BaSS in front of the model; the attack differentiates through BaSS. **bass** (Lin et al.'s): balance the
    images first, then attack in a ball around the balanced image.

    An interrupted run resumes; finished batches are not measured again. Models with a fixed front end are also attacked
    without its gradient, by Square and by transfer from the bare network. If such an attack is stronger than PGD-20
    through the front end, gradients are masked, and a red line says so.
    """
    if images is not None:
        check_counts(images=images)
    check_integers(0, masking_images=masking_images)
    check_counts(masking_queries=masking_queries)
    folder, dataset = measuring.results_folder(cache, no_cache), measuring.named_dataset(dataset, grayscale)
    from freqrob.attacks import parse_attack
    from freqrob.evaluation import evaluate as measure
    from freqrob.evaluation.files import Evaluation
    from freqrob.models.keys import model_hash

    norm = cast("Norm", norm or ("L2" if threat_model == "L2" else "Linf"))  # which parse_attack checks
    attacks = [parse_attack(text, eps=eps, norm=norm, step_size=step_size) for text in dict.fromkeys(attack)]
    white_box = cast("PGD", parse_attack("pgd-20", eps=eps, norm=norm, step_size=step_size))
    source = measuring.Images(
        dataset, split, data, download, images, classes_file, labels_file, resize, crop, interpolation
    )
    models_dataset = measuring.models_dataset(dataset, trained_on)
    chosen = measuring.Models(models, model_dir, models_dataset, threat_model, weights)
    if card and dataset == measuring.FOLDER:
        raise ValueError(f"card: cards have accuracies on a data set, got --dataset {dataset}")
    cards = {name: chosen.path(name) for name in models if card}
    files = _Outputs([followed(path) for path in out or []], samples and followed(samples), cards)
    measuring.on_first_rank(files.check, chosen.cards(), source)
    where = measuring.usable_device(device)
    networks, subject = chosen.open_with(source)
    common: dict[str, Any] = {
        "batch_size": batch_size, "seed": seed, "cache": folder,
        "classes": measuring.class_count(dataset, subject.images),
    }  # fmt: skip
    _check_answers(networks, subject.images, where, common["classes"])
    protocol = list(dict.fromkeys(protocol))
    evaluations: list[Evaluation] = []
    show = partial(_print_accuracies, evaluations, source.in_words(len(subject.images)), folder)
    with measuring.progress_of(folder, show) as progress:
        for name, network in networks.items():
            of_model = common | {"cache_key": cache_key and f"{name} {cache_key}", "progress": prefixed(progress, name)}
            with measuring.model_on(where, name, network) as model:
                results = measure(
                    model, subject.images.images, subject.images.labels, protocols=protocol, attacks=attacks,
                    precision=cast("Precision", attack_precision), **of_model,
                )  # fmt: skip
                masking = _masking(model, subject.images, masking_images, white_box, masking_queries, of_model)
                evaluations.append(Evaluation(name, model_hash(model), results, masking))
    if rank() > 0:
        return
    given = {
        "--dataset": dataset, "--threat-model": threat_model, "--weights": weights,
        "--trained-on": trained_on, "--split": split,
        "--images": images, "--protocol": protocol, "--attack": attack, "--eps": pixels(white_box.eps, norm),
        **source.as_options(), "--norm": norm, "--step-size": step_size, "--attack-precision": attack_precision,
        "--seed": seed, "--batch-size": batch_size,
        "--masking-images": masking_images, "--masking-queries": masking_queries,
    }  # fmt: skip
    files.write(evaluations, subject.images, str(source), command_line("evaluate", given, *models), show)
    files.print()


@dataclass(frozen=True)
class _Outputs:
    """Where the results go: the files of --out and --samples, and, by model, the weights whose cards get them."""

    results: list[Path]
    samples: Path | None
    cards: dict[str, Path]

    def check(self, inputs: Iterable[Path], source: measuring.Images) -> None:
        """Raise ValueError or OSError as ``check_outputs``, or if a model has no writable card for such images."""
        from freqrob.models.checkpoints import card_path

        if self.cards and source.split != "test":
            raise ValueError(f"card: cards have accuracies on the test split, got --split {source.split}")
        measuring.check_outputs(self.results, self.samples, inputs)
        for name, path in self.cards.items():
            if not card_path(path).is_file():
                raise FileNotFoundError(f"card: {name} has no card in --model-dir, expected {card_path(path)}")
            check_file(card_path(path), "card")

    def write(
        self, evaluations: Sequence[Evaluation], images: ImageSet, source: str, command: str, show: Callable[[], None]
    ) -> None:
        """Write all files, and ``show`` the accuracies, even if some cannot be written."""
        from freqrob.evaluation.files import write_results, write_samples
        from freqrob.models.checkpoints import add_results
        from freqrob.runtime.provenance import provenance
        from freqrob.runtime.tensors import data_hash

        about = {**provenance(command), "source": source, "data_hash": data_hash(images.images, images.labels)}
        rows = {model.name: [result.as_dict() for result in model.results] for model in evaluations}
        measuring.call_all(
            *(partial(write_results, path, evaluations, about) for path in self.results),
            *(partial(write_samples, path, evaluations, images.labels) for path in [self.samples] if path is not None),
            *(partial(add_results, path, rows[name]) for name, path in self.cards.items()),
            show,
        )

    def print(self) -> None:
        from freqrob.models.checkpoints import card_path

        print_written([*self.results, *filter(None, [self.samples]), *map(card_path, self.cards.values())])


def _check_answers(networks: dict[str, nn.Module], chosen: ImageSet, device: torch.device, classes: int | None) -> None:
    """Raise ValueError if one of several models cannot take the images, before any is measured."""
    from freqrob.attacks.checks import check_answers
    from freqrob.data.datasets import to_pixels

    for name, network in networks.items() if len(networks) > 1 else ():
        with measuring.model_on(device, name, network) as model:
            check_answers(model, to_pixels(chosen[:2].tensor).to(device), chosen.labels, classes)


def _masking(
    model: nn.Module, chosen: ImageSet, count: int, white_box: PGD, queries: int, common: dict[str, Any]
) -> MaskingCheck | None:
    """Check a model with a front end on the first ``count`` images, if Square is installed."""
    from freqrob.evaluation.masking import check_masking, has_front_end

    if not count or not has_front_end(model):
        return None
    images, labels = chosen.images[:count], chosen.labels[:count]
    try:
        return check_masking(model, images, labels, white_box=white_box, queries=queries, **common)
    except ImportError as error:
        warnings.warn(f"not checked for gradient masking ({error})", stacklevel=2)
        return None


def _print_accuracies(evaluations: list[Evaluation], images: str, cache: Path | None) -> None:
    """Print the accuracies, the checks for gradient masking and what came from the cache, on rank 0 only."""
    if rank() > 0:
        return
    accuracy_table({model.name: model.results for model in evaluations}, f"Accuracy (%) on {images}")
    for model in evaluations:
        if model.masking is not None:
            print_line(f"{model.name}: {model.masking}", "red" if model.masking.suspects else "green")
    for model in evaluations:
        cached = [f"{result.protocol} {result.attack.name}" for result in model.results if result.from_cache]
        measuring.print_cached(model.name, cache, cached, len(model.results))


def accuracy_table(results: Mapping[str, Sequence[Result]], title: str) -> None:
    """Print a row per model and a column per protocol; a cell has the accuracies of all attacks."""
    if not results:
        return
    first = next(iter(results.values()))
    protocols = list(dict.fromkeys(result.protocol for result in first))
    attacks = dict.fromkeys(_at_radius(result.attack) for result in first)
    table = Table("model", *protocols)
    for name, measured in results.items():
        cells = ([result for result in measured if result.protocol == protocol] for protocol in protocols)
        table.add_row(escape(name), *(" / ".join(f"{100 * result.accuracy:.1f}" for result in cell) for cell in cells))
    print_line(f"{title}: {' / '.join(attacks)}")
    print_table(table)


def _at_radius(attack: Attack) -> str:
    if not attack.eps:
        return attack.name
    return f"{attack.name} at ε {pixels(attack.eps, attack.norm)}" + (" in L2" if attack.norm == "L2" else "")
