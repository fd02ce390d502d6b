"""Run an experiment: measure its rows one after another, write each when it is measured, and draw the figure."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freqrob.models.keys import model_hash
from freqrob.reproduction.experiment import Experiment, Subject
from freqrob.reproduction.lab import Lab
from freqrob.reproduction.records import Record, Row, judgements, numbers_of
from freqrob.runtime.files import as_json, check_folder
from freqrob.runtime.html import html_table
from freqrob.runtime.provenance import provenance


@dataclass(frozen=True)
class Reproduction:
    """The result of ``reproduce``: the rows by name, each claim with its verdict, and the written files."""

    rows: Mapping[str, Row]
    claims: Sequence[Mapping[str, str]]
    files: Sequence[Path]

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row.numbers))
        numbers = [
            [name, *(row.numbers.get(column, "") for column in columns), row.missing] for name, row in self.rows.items()
        ]
        claims = [[claim["claim"], claim["verdict"], claim["evidence"]] for claim in self.claims]
        table = html_table(["", *columns, "missing"], numbers)
        return table + (html_table(["claim", "verdict", "numbers"], claims) if claims else "")


def reproduce(
    experiment: Experiment, lab: Lab, out: Path, *, models: Sequence[str] = (), again: bool = False, command: str = ""
) -> Reproduction:
    """Measure an experiment and write its files to ``out``.

    A row that was measured with the same model and conditions is not measured again, unless its arrays are missing or
    damaged. A row whose data or packages are missing records that, and the others are measured.

    Args:
        experiment: from ``get_experiment``.
        lab: folders, device and scale.
        out: folder of all results.
        models: models to measure instead of the experiment's: ``ROW=MODEL``, or ``MODEL`` or ``MODEL,MODEL`` for new
            rows.
        again: also measure rows that already have numbers.
        command: recorded in the files.

    Raises:
        ValueError: a row that the experiment does not have or that has no model, an empty name, or models for an
            experiment with fixed models.
        OSError: files cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from freqrob.reproduction import SCALES, Lab, get_experiment
    >>> lab = Lab(SCALES["rn20"])
    >>> done = reproduce(get_experiment("lin2023:theorem1"), lab, Path(tempfile.mkdtemp()))
    >>> [claim["verdict"] for claim in done.claims]
    ['holds', 'does not hold']
    """
    check_folder(out)
    subjects = chosen_subjects(experiment, lab, models)
    record = Record(out, experiment, lab.scale.name)
    rows: dict[str, Row] = record.rows()
    about = {"scale": lab.scale.name, **provenance(command)}
    for subject in lab.progress(subjects, experiment.name, len(subjects)):
        lab.log(f"{experiment.name}: {subject.row}" + (f" ({subject.model_name})" if subject.model_name else ""))
        rows = record.add(_measure(experiment, subject, lab, record, rows.get(subject.row), again, about), about)
    texts = (record.folder / name for name in ("result.json", "table.csv", "table.md"))
    files = [*record.draw(rows, subjects), *filter(Path.is_file, texts)]
    return Reproduction(rows, judgements(experiment, numbers_of(rows)), files)


def chosen_subjects(experiment: Experiment, lab: Lab, models: Sequence[str]) -> list[Subject]:
    """The experiment's subjects at the lab's scale, with other models if given. Raises as ``reproduce``."""
    if not models:
        return experiment.subjects_at(lab.scale)
    chosen = []
    for text in models:
        like = next((subject for subject in experiment.subjects if text.startswith(f"{subject.row}=")), None)
        names = [text.removeprefix(f"{like.row}=")] if like is not None else text.split(",")
        if not all(name.strip() for name in names):
            raise ValueError(f"models: got {text!r}, expected a model's name after '=' and between commas")
        if like is not None and not like.model_name:
            raise ValueError(f"models: got {text!r}, but the row {like.row!r} is not measured on a model")
        if like is not None:
            chosen.append(replace(like, recipe="", settings=(), model=names[0], front_end=None))
        elif experiment.takes_models:
            dataset = experiment.subjects[0].dataset
            chosen += [Subject(name.strip(), dataset=dataset, model=name.strip()) for name in names]
        else:
            rows = ", ".join(f"{subject.row!r}" for subject in experiment.subjects)
            raise ValueError(f"models: got {text!r}, expected ROW=MODEL with a row of {rows}")
    return chosen


def _measure(
    experiment: Experiment,
    subject: Subject,
    lab: Lab,
    record: Record,
    known: Row | None,
    again: bool,
    about: Mapping[str, Any],
) -> Row:
    settings = {**experiment.conditions(lab.scale), "seed": lab.seed, "images_at_most": lab.n_images}
    conditions = json.loads(as_json(settings, "conditions"))
    try:
        model = lab.model(subject) if subject.model_name else None
        key = model_hash(model) if model is not None else ""
        is_known = known and known.numbers and (known.model_hash, known.conditions) == (key, conditions)
        if known and is_known and not again and record.has_whole_arrays(known):
            return known
        began = time.perf_counter()
        measured = experiment.measure(subject, model, lab)
    except (FileNotFoundError, ImportError, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith("model:"):
            raise
        if known and known.numbers:
            return known
        return Row(subject.row, subject.model_name, conditions=conditions, missing=str(error), about=about)
    if measured.arrays:
        record.write_arrays(subject.row, measured.arrays)
    about = {**about, "seconds": round(time.perf_counter() - began, 1)}
    numbers, arrays = dict(measured.numbers), sorted(measured.arrays)
    return Row(subject.row, subject.model_name, key, conditions, numbers, arrays, about=about)
