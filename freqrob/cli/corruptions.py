"""`freqrob corruptions`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli import measuring, options
from freqrob.cli.printing import command_line, print_line, print_table, print_written, rank
from freqrob.cli.progress import prefixed
from freqrob.runtime.files import followed

if TYPE_CHECKING:
    from freqrob.evaluation.corruptions import CorruptionAccuracy


ALEXNET = "alexnet"  # a baseline


@measuring.in_process_group()
def corruptions(
    models: options.OtherModels,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of CIFAR-10-C or ImageNet-C: published, or written by `freqrob dataset corrupt`.",
        ),
    ] = Path("data"),
    dataset: Annotated[str, typer.Option(help="cifar10, cifar100, imagenet, tiny_imagenet or folder.")] = "cifar10",
    grayscale: options.Grayscale = False,
    threat_model: options.ThreatModel = "Linf",
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only this type; repeatable. All types present by default."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", help="Use the first N of each severity; all by default.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="natural, or natural+bass (BaSS in front of the model).")] = "natural",
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Report the mCE relative to this model, or to alexnet's published errors on ImageNet-C.",
        ),
    ] = None,
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
    out: options.ResultFiles = None,
) -> None:
    """Measure the accuracy of models on corrupted images, by type, severity and group, and the mCE.

    Examples:

    - `freqrob corruptions bass_pgd_at_rn20 --data ./data --download`
    - `freqrob corruptions torchvision:resnet50 --dataset imagenet --data ./imagenet-c --baseline alexnet`
    - `freqrob corruptions timm:resnet50.a1_in1k --dataset folder --data ./photographs-c --classes hundred.txt`
    - `freqrob corruptions trades_rn20 pgd_at_rn20 --data ./data/cifar10-c --baseline standard_rn20 --out c.json`

    **15 types** is RobustBench's mean. **noise, blur, weather, digital** are all 19 types by kind, as in Lin et al.'s
    Table 4 (4, 5, 4 and 6 types); **low, medium, high** are the 15 types by the frequencies that they change most (Li
    et al.). A group has a mean only if all its types are present. **mCE** averages over all types present; the
    baseline's is 100 %.
    """
    folder, out = measuring.results_folder(cache, no_cache), [followed(path) for path in out or []]
    dataset = measuring.named_dataset(dataset, grayscale)
    from freqrob.data.corruption_arrays import MANIFEST
    from freqrob.evaluation.corruptions import evaluate_corruptions

    if classes_file and baseline == ALEXNET:
        raise ValueError(f"baseline: {ALEXNET}'s published errors are those on all classes, got --classes")
    others = [baseline] if baseline is not None and baseline != ALEXNET else []
    names = list(dict.fromkeys([*models, *others]))
    models_dataset = measuring.models_dataset(dataset, trained_on)
    chosen = measuring.Models(names, model_dir, models_dataset, threat_model, weights)
    measuring.on_first_rank(measuring.check_outputs, out, None, [*chosen.cards(), data / MANIFEST])
    where = measuring.usable_device(device)
    arrays, subject = measuring.open_corruptions(dataset, data, types, download, classes_file)
    networks = chosen.open(subject)
    measured: dict[str, CorruptionAccuracy] = {}
    with measuring.progress_of(folder, partial(corruption_table, measured, {})) as progress:
        for name, network in networks.items():
            with measuring.model_on(where, name, network) as model:
                measured[name] = evaluate_corruptions(
                    model, arrays, n_images=images, protocol=protocol, batch_size=batch_size, cache=folder,
                    cache_key=cache_key and f"{name} {cache_key}", progress=prefixed(progress, name),
                )  # fmt: skip
    if rank() > 0:
        return
    given = {
        "--dataset": dataset, "--threat-model": threat_model, "--weights": weights,
        "--trained-on": trained_on, "--classes": classes_file,
        "--type": types, "--images": images,
        "--protocol": protocol, "--baseline": baseline,
    }  # fmt: skip
    _write(measured, baseline, out, folder, command_line("corruptions", given, *models))


def _write(
    measured: dict[str, CorruptionAccuracy], baseline: str | None, out: list[Path], cache: Path | None, command: str
) -> None:
    """Write all files, and print the accuracies and what came from the cache; then raise for an unusable baseline."""
    from freqrob.evaluation.files import write_corruption_results
    from freqrob.runtime.provenance import provenance

    mce, problem = _mce(measured, baseline)
    about = provenance(command)
    measuring.call_all(
        *(partial(write_corruption_results, path, measured, about, baseline, mce) for path in out),
        partial(corruption_table, measured, mce),
    )
    for name, accuracy in measured.items():
        cached = [kind for kind, severities in accuracy.from_cache.items() if all(severities)]
        measuring.print_cached(name, cache, cached, len(accuracy.accuracies))
    print_written(out)
    if problem is not None:
        raise problem


def _mce(measured: dict[str, CorruptionAccuracy], baseline: str | None) -> tuple[dict[str, float], ValueError | None]:
    """Each model's mCE, if there is a baseline; for an unusable baseline the error, which the caller raises last."""
    if baseline is None:
        return {}, None
    try:
        if baseline == ALEXNET:
            return {name: accuracy.mce_to_alexnet() for name, accuracy in measured.items()}, None
        return {name: accuracy.mce(measured[baseline]) for name, accuracy in measured.items()}, None
    except ValueError as error:
        return {}, error


def corruption_table(measured: dict[str, CorruptionAccuracy], mce: dict[str, float]) -> None:
    """Print accuracies by type and severity for each model, then by group and model, on rank 0 only."""
    if not measured or rank() > 0:
        return
    first = next(iter(measured.values()))
    made = "made by freqrob, not the published ones" if first.generated else "as published"
    source = f"{first.dataset}, balanced before ({first.bass})" if first.bass else first.dataset
    print_line(
        f"Accuracy (%) on corruptions of {source}, {made}: {first.images:,} images each, protocol {first.protocol}"
    )
    for name, accuracy in measured.items():
        table = Table("severity", *map(str, range(1, 6)), "mean", title=escape(name), title_justify="left")
        for kind, severities in accuracy.accuracies.items():
            table.add_row(kind, *map(_percent, (*severities, accuracy.of_type(kind))))
        print_table(table)
    table = Table("mean over", *map(escape, measured))
    for group in first.means():
        shown = f"all {len(first.accuracies)} types" if group == "all" else group
        table.add_row(shown, *(_percent(accuracy.means()[group]) for accuracy in measured.values()))
    if mce:
        table.add_row(f"mCE, {len(first.accuracies)} types", *(_percent(mce[name]) for name in measured))
    print_table(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
