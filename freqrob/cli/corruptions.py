"""`freqrob corruptions`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli.app import (
    INTERRUPTED,
    CacheKey,
    Download,
    ModelDir,
    NoCache,
    command_line,
    in_process_group,
    key_of,
    print_kept_results,
    print_line,
    print_table,
    rank,
    results_folder,
)
from freqrob.cli.evaluate import (
    card_paths,
    check_outputs,
    device_of_rank,
    naming,
    open_models,
    print_written,
    say_what_was_cached,
    warnings_as_lines,
)
from freqrob.cli.progress import prefixed, progress_bars

if TYPE_CHECKING:
    from freqrob.evaluation.corruptions import CorruptionAccuracy


@in_process_group()
def corruptions(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="As `freqrob evaluate` takes them.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The published CIFAR-10-C, or `freqrob dataset corrupt`'s.")
    ] = Path("data"),
    dataset: Annotated[str, typer.Option(help="cifar10 or cifar100.")] = "cifar10",
    threat_model: Annotated[str, typer.Option(help="The threat model the models were trained for.")] = "Linf",
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this one; repeatable. All that are there.")
    ] = None,
    images: Annotated[int | None, typer.Option(metavar="N", help="The first N of each severity.")] = None,
    protocol: Annotated[str, typer.Option(help="natural, or natural+bass: BaSS before the model.")] = "natural",
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Report mCE: errors as shares of this model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 500,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where what is done is kept; by default in freqrob's cache.")
    ] = None,
    cache_key: CacheKey = None,
    no_cache: NoCache = False,
    download: Download = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto: a GPU where there is one.")] = "auto",
    model_dir: ModelDir = Path("models"),
    out: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="results.json or results.csv; repeatable for both.")
    ] = None,
) -> None:
    """Accuracy of models on corrupted images: by type and severity, means by the papers' groups, mCE.

    Examples:

    - `freqrob corruptions bass_pgd_at_rn20 --data ./data --download`
    - `freqrob corruptions trades_rn20 pgd_at_rn20 --data ./data/cifar10-c --baseline standard_rn20 --out c.json`

    **15 types** is RobustBench's mean. **noise, blur, weather, digital** are the benchmark's groups of these 15,
    **extra** are the four beside them; **low, medium, high** are the frequencies that types change most (Li et al.).
    A group of which a type is missing has no mean. **mCE** is over all types that are there; the baseline's is 100 %.
    """
    folder = results_folder(cache, no_cache)
    from freqrob.data.corruption_arrays import MANIFEST, load_corruptions
    from freqrob.evaluation.corruptions import evaluate_corruptions
    from freqrob.runtime.processes import propagate_failure, rank_zero_first

    names = list(dict.fromkeys([*models, *filter(None, [baseline])]))
    with propagate_failure():
        if rank() == 0:
            check_outputs(out or [], None, [*card_paths(names, model_dir, dataset, threat_model), data / MANIFEST])
    where = device_of_rank(device)
    networks = open_models(names, model_dir, dataset, threat_model)
    with rank_zero_first():
        arrays = load_corruptions(data, dataset, types, download=download)
    found: dict[str, CorruptionAccuracy] = {}
    try:
        with progress_bars(quiet=rank() > 0) as (track, _log):
            for name, network in networks.items():
                with warnings_as_lines(name), naming(name):
                    found[name] = evaluate_corruptions(
                        network.to(where), arrays, images=images, protocol=protocol, batch_size=batch_size,
                        cache=folder, cache_key=key_of(name, cache_key), track=prefixed(track, name),
                    )  # fmt: skip
                network.cpu()
    except KeyboardInterrupt:
        print_kept_results(folder)
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        corruption_table(found, {})  # of the models before, whose results may be kept nowhere
        raise
    if rank() > 0:
        return
    mce, problem = _mce(found, baseline)
    options = {
        "--dataset": dataset, "--threat-model": threat_model, "--type": types, "--images": images,
        "--protocol": protocol, "--baseline": baseline,
    }  # fmt: skip
    with ExitStack() as last:  # calls all of these, whichever fails, in the opposite order
        last.callback(corruption_table, found, mce)
        for path in reversed(out or []):
            last.callback(_write, path, found, mce, baseline, command_line("corruptions", options, *models))
    for name, accuracy in found.items():
        cached = [kind for kind, at in accuracy.from_cache.items() if all(at)]
        say_what_was_cached(name, folder, cached, len(accuracy.accuracies))
    print_written(out or [])
    if problem is not None:
        raise problem


def _mce(found: dict[str, CorruptionAccuracy], baseline: str | None) -> tuple[dict[str, float], ValueError | None]:
    """Each model's mCE, if there is a baseline; and why it has none, which is known only after the measurement."""
    if baseline is None:
        return {}, None
    try:
        return {name: accuracy.mce(found[baseline]) for name, accuracy in found.items()}, None
    except ValueError as error:
        return {}, error


def corruption_table(found: dict[str, CorruptionAccuracy], mce: dict[str, float]) -> None:
    """Each model's types by severities; then groups down, models across; from one process."""
    if not found or rank() > 0:
        return
    first = next(iter(found.values()))
    made = "made by freqrob, not the published ones" if first.generated else "as published"
    of = f"{first.dataset}, balanced before ({first.bass})" if first.bass else first.dataset
    title = f"Accuracy (%) on corruptions of {of}, {made}: {first.images:,} images each, protocol {first.protocol}"
    print_line(title)
    for name, accuracy in found.items():
        table = Table("severity", *map(str, range(1, 6)), "mean", title=escape(name), title_justify="left")
        for kind, at in accuracy.accuracies.items():
            table.add_row(kind, *map(_percent, (*at, accuracy.of_type(kind))))
        print_table(table)
    table = Table("mean over", *map(escape, found))
    for group in first.means():
        shown = f"all {len(first.accuracies)} types" if group == "all" else group
        table.add_row(shown, *(_percent(accuracy.means()[group]) for accuracy in found.values()))
    if mce:
        table.add_row(f"mCE, {len(first.accuracies)} types", *(_percent(mce[name]) for name in found))
    print_table(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _write(
    path: Path, found: dict[str, CorruptionAccuracy], mce: dict[str, float], baseline: str | None, command: str
) -> None:
    from freqrob.runtime.files import write_csv, write_json
    from freqrob.runtime.provenance import provenance

    if path.suffix == ".csv":
        rows: list[dict[str, Any]] = [
            {"model": name, "protocol": accuracy.protocol, "images": accuracy.images, "type": kind,
             "severity": severity, "accuracy": share, "from_cache": accuracy.from_cache[kind][severity - 1]}
            for name, accuracy in found.items()
            for kind, at in accuracy.accuracies.items()
            for severity, share in enumerate(at, 1)
        ]  # fmt: skip
        write_csv(path, rows, list(rows[0]))
    else:
        results = [
            {"model": name, **accuracy.as_dict(), **({"baseline": baseline, "mce": mce[name]} if mce else {})}
            for name, accuracy in found.items()
        ]
        write_json(path, {**provenance(command), "results": results})
