"""`freqrob reproduce`."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli import measuring, options
from freqrob.cli.printing import command_line, print_line, print_table, print_written, warnings_as_lines
from freqrob.runtime.files import write_text
from freqrob.runtime.launched import launched
from freqrob.runtime.parameters import check_integers

if TYPE_CHECKING:
    from freqrob.reproduction import Experiment, Lab, Reproduction, Subject


def reproduce(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME…]", help='Tables and figures, or shell-style patterns in quotes: `"lin2023:*"`.'),
    ] = None,
    scale: Annotated[str, typer.Option(help="rn20 (hours on a laptop's CPU), or paper (its networks).")] = "rn20",
    data: options.DataDir = Path("data"),
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL,…", help="Measure these models instead; ROW=MODEL replaces the model of a row. Repeatable."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|KIND=N",
            help="Use at most N images in each measurement, or N in those of a kind: `--images autoattack=100`. "
            "--dry-run shows the numbers. Repeatable.",
        ),
    ] = None,
    seed: options.Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show recipes, commands, images and estimated hours; run nothing.")
    ] = False,
    no_train: Annotated[bool, typer.Option("--no-train", help="Measure only models that are already trained.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure again the rows that already have numbers.")] = False,
    frost: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the photographs for the corruption frost.")
    ] = None,
    cache: options.CacheDir = None,
    no_cache: options.NoCache = False,
    download: options.Download = False,
    device: options.Device = "auto",
    model_dir: options.ModelDir = Path("models"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all results.")] = Path("reproduction"),
) -> None:
    """Reproduce tables and figures of papers by name; compare your numbers with the papers' numbers and claims.

    Without a name, list all with their data, models and verdicts; with --dry-run also the hours of training. Examples:

    - `freqrob reproduce`
    - `freqrob reproduce lin2023:table1 --data ./data`
    - `freqrob reproduce chan2022:table1 --scale paper --dry-run`
    - `freqrob reproduce li2023:fig5 --models robustbench:Standard,robustbench:Carmon2019Unlabeled`

    Models are loaded from --model-dir or the package, or else trained. After each row, its numbers, the paper's numbers
    and the verdict on each claim are written to DIR/PAPER/TABLE/SCALE/ as result.json, table.csv and table.md; at the
    end the figure as figure.svg, .png and .pdf. DIR/summary.md has the claims of all experiments. Ctrl-C loses at most
    one batch or training step; the same command resumes.

    At **--scale rn20**, a ResNet-20 (0.27 M parameters, 10 to 20 epochs) replaces ResNet-18 and WRN-40-2.
    """
    if launched() is not None:
        raise ValueError("reproduce: runs in one process; train its recipes with `torchrun … freqrob train` first")
    check_integers(0, seed=seed)
    from freqrob.reproduction import SCALES, Lab, get_experiment, list_experiments
    from freqrob.runtime.parameters import check_choices

    check_choices(SCALES, scale=scale)
    most, of_kinds = _image_counts(images or [])
    lab = Lab(
        replace(SCALES[scale], images={**SCALES[scale].images, **of_kinds}), data, model_dir,
        device=measuring.usable_device(device), accelerator=device.partition(":")[0],
        n_images=most, seed=seed, download=download, may_train=not no_train, frost=frost,
    )  # fmt: skip
    if not experiments:
        _list(lab, out, with_hours=dry_run)
        return
    names = dict.fromkeys(
        name for pattern in experiments for name in (list_experiments(pattern) or [get_experiment(pattern).name])
    )
    chosen, replacements = [get_experiment(name) for name in names], models or []
    if dry_run:
        for experiment in chosen:
            _plan(experiment, lab, replacements)
        return
    folder = measuring.results_folder(cache, no_cache)
    given = {"--scale": scale, "--models": replacements, "--images": images, "--seed": seed}
    for experiment in chosen:
        command = command_line("reproduce", given, experiment.name)
        _run(experiment, replace(lab, cache=folder), out, replacements, again, command)


def _image_counts(given: list[str]) -> tuple[int | None, dict[str, int]]:
    """The limit for all measurements, and the number of images by kind of measurement."""
    from freqrob.reproduction.experiment import IMAGE_KINDS
    from freqrob.runtime.parameters import check_choices

    counts: dict[str, int] = {}
    for text in given:
        kind, _, number = text.rpartition("=")
        if kind:
            check_choices(IMAGE_KINDS, images=kind)
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"images: got {text!r}, expected N or KIND=N with an integer N ≥ 1")
        counts[kind] = int(number)
    return counts.pop("", None), counts


def _run(experiment: Experiment, lab: Lab, out: Path, models: list[str], again: bool, command: str) -> None:
    """Run one experiment, and write the summary of all."""
    from freqrob.cli.progress import progress_bars
    from freqrob.reproduction import reproduce as run
    from freqrob.reproduction.records import SUMMARY, summary

    try:
        with progress_bars() as (progress, log), warnings_as_lines():
            lab = replace(lab, progress=progress, log=log)
            result = run(experiment, lab, out, models=models, again=again, command=command)
    except KeyboardInterrupt:
        measuring.print_resume_hint(f"Finished rows are in {out}")
        raise typer.Exit(measuring.INTERRUPTED) from None
    with warnings_as_lines():
        write_text(out / SUMMARY, summary(out))
    _print(experiment, result)
    print_written([*result.files, out / SUMMARY])


def _print(experiment: Experiment, result: Reproduction) -> None:
    """Print the numbers, the claims and what is missing."""
    from freqrob.reproduction.records import cells_of, conditions_in_words, numbers_of

    numbers = numbers_of(result.rows)
    units = {column: f" ({column.unit})" if column.unit else "" for column in experiment.columns}
    table = Table("measured / printed", *(escape(column.name + unit) for column, unit in units.items()))
    for row in numbers.by_row:
        table.add_row(escape(row), *cells_of(experiment, numbers, row))
    print_line(f"{experiment.paper.short}, {experiment.where}: {experiment.title}")
    print_table(table)
    if numbers.by_row:
        print_line(
            "measured ± its standard error over images; printed ± the paper's standard deviation, where it has one"
        )
        print_line("\n".join(conditions_in_words(list(result.rows.values()))))
    claims = Table("claim", "where", "verdict", "numbers")
    for claim in result.claims:
        claims.add_row(escape(claim["claim"]), escape(claim["where"]), claim["verdict"], escape(claim["evidence"]))
    if result.claims:
        print_table(claims)
    reasons: dict[str, list[str]] = {}
    for row in result.rows.values():
        if row.missing:
            reasons.setdefault(row.missing, []).append(row.subject)
    for reason, rows in reasons.items():
        print_line(f"not measured: {', '.join(rows)}: {reason}", "yellow", stderr=True)


def _list(lab: Lab, out: Path, with_hours: bool) -> None:
    """Print every experiment with its data, numbers of trained models and measured rows, and verdicts."""
    from freqrob.cli.progress import progress_bars
    from freqrob.reproduction.experiment import all_experiments
    from freqrob.reproduction.records import judgements, numbers_of, readable_rows

    hours_column = ["hours to train the others"] if with_hours else []
    table = Table("name", "shows", "data", "models trained", *hours_column, "rows measured", "verdicts")
    experiments = list(all_experiments())
    with progress_bars() as (progress, _), warnings_as_lines():
        for experiment in progress(experiments, "training times", len(experiments)) if with_hours else experiments:
            trained = [subject for subject in experiment.subjects_at(lab.scale) if subject.recipe]
            missing = [subject for subject in trained if not lab.has_model(subject)]
            models = f"{len(trained) - len(missing)} of {len(trained)}" if trained else ""
            hours = [_hours(lab, missing)] if with_hours else []
            rows = readable_rows(out, experiment, lab.scale.name)
            measured = sum(bool(row.numbers) for row in rows.values())
            verdicts = Counter(claim["verdict"] for claim in judgements(experiment, numbers_of(rows)))
            data = ", ".join(dict.fromkeys(subject.dataset for subject in experiment.subjects))
            table.add_row(
                escape(experiment.name), escape(f"{experiment.where}: {experiment.title}"), escape(data), models,
                *hours, f"{measured} of {len(experiment.subjects)}",
                ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()),
            )  # fmt: skip
    print_table(table)
    print_line(
        f"At --scale {lab.scale.name}; measured rows are those in {out}. `freqrob reproduce NAME --dry-run` shows "
        "needs, commands and time of one; --dry-run without a name adds hours to this list."
    )


def _hours(lab: Lab, missing: list[Subject]) -> str:
    """Estimated hours of training; models that need a missing file are counted as unknown."""
    hours, left_out = 0.0, 0
    for subject in missing:
        try:
            hours += lab.training_hours(subject)
        except FileNotFoundError:
            left_out += 1
    return (f"{hours:.2g}" if len(missing) > left_out else "") + (f" + {left_out} unknown" if left_out else "")


def _plan(experiment: Experiment, lab: Lab, models: list[str]) -> None:
    """Print what would be trained and measured, with the estimated time of training."""
    from freqrob.reproduction.lab import training_command
    from freqrob.reproduction.records import in_words
    from freqrob.reproduction.run import chosen_subjects

    print_line(f"{experiment.name}, {experiment.where}: {experiment.title}")
    if experiment.needs:
        print_line(f"  needs: {experiment.needs}")
    limit = {} if lab.n_images is None else {"images at most": lab.n_images}
    for key, value in {**experiment.conditions(lab.scale), **limit}.items():
        print_line(f"  {key}: {in_words(value)}")
    table = Table("row", "model", "training")
    hours: list[float] = []
    for subject in chosen_subjects(experiment, lab, models):
        if lab.has_model(subject):
            table.add_row(escape(subject.row), escape(subject.model_name), "none" if subject.model_name else "")
            continue
        command = shlex.join(training_command(subject, lab.model_dir, lab.data))
        try:
            hours.append(lab.training_hours(subject))
        except FileNotFoundError as error:
            table.add_row(escape(subject.row), escape(subject.model_name), escape(f"{command}: {error}"))
            continue
        table.add_row(escape(subject.row), escape(subject.model_name), escape(f"{command}: {hours[-1]:.3g} h"))
    print_table(table)
    for subject in experiment.subjects:
        if subject.at_scale(lab.scale) is None:
            print_line(f"not at this scale: {subject.row}")
    if hours:
        print_line(
            f"About {sum(hours):.3g} hours of training on this {lab.device.type}, estimated from a step of each recipe."
        )
