"""The files of an experiment: ``result.json``, ``table.csv``, ``table.md``, the figure, and arrays by row.

They are in ``<out>/<paper>/<table or figure>/<scale>/``. ``summary`` writes one page about all experiments in ``out``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from freqrob.reproduction.experiment import (
    SCALES,
    Experiment,
    Judgement,
    Number,
    Numbers,
    Outcome,
    Subject,
    all_experiments,
)
from freqrob.runtime.figures import FORMATS, drawing, import_matplotlib, save_figure
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import locked, plain, write_csv, write_npz, write_text
from freqrob.runtime.parameters import pixels
from freqrob.runtime.provenance import Provenance
from freqrob.runtime.reading import read_npz
from freqrob.runtime.warning import warn

SUMMARY = "summary.md"


@dataclass(frozen=True)
class Row:
    """A measured row with its conditions and origin.

    Attributes:
        subject: the row's name.
        model: name of the model; "" for none.
        model_hash: hash of the model's weights and code; "" for none.
        conditions: ``Experiment.conditions`` and the lab's settings.
        numbers: the numbers by column.
        arrays: names of the arrays in its file.
        missing: why the row has no numbers; "" if it has numbers.
        about: commit, versions, machine, date and seconds of the measurement, without training.
    """

    subject: str
    model: str = ""
    model_hash: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)
    arrays: Sequence[str] = ()
    missing: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


class RecordedNumber(Struct):
    """A number; null if it was not measured, or has no estimate of its error."""

    value: float | None = None
    standard_error: float | None = None


class RecordedColumn(Struct):
    """A column of the table."""

    name: str
    unit: str = ""
    help: str = ""


class RecordedRow(Struct):
    """A ``Row``."""

    row: str
    model: str = ""
    model_hash: str = ""
    conditions: dict[str, Any] = {}
    numbers: dict[str, RecordedNumber] = {}
    arrays: list[str] = []
    missing: str = ""
    about: dict[str, Any] = {}


class RecordedClaim(Struct):
    """A claim of the paper, judged by the numbers."""

    claim: str
    where: str
    criterion: str
    verdict: str
    evidence: str


class RecordFile(Provenance, kw_only=True):
    """The ``result.json`` of an experiment; ``printed`` are the paper's numbers by row and column."""

    experiment: str = ""
    where: str = ""
    title: str = ""
    paper: str = ""
    scale: str = ""
    columns: list[RecordedColumn] = []
    rows: list[RecordedRow] = []
    printed: dict[str, dict[str, RecordedNumber]] = {}
    claims: list[RecordedClaim] = []


REPRODUCTION = FileFormat("reproduction", RecordFile)


class Record:
    """The files of one experiment at one scale."""

    def __init__(self, out: Path, experiment: Experiment, scale: str) -> None:
        paper, _, name = experiment.name.partition(":")
        self.experiment, self.folder = experiment, out / paper / name / scale
        self.json = self.folder / "result.json"

    def rows(self) -> dict[str, Row]:
        """The rows measured so far by name. Raises ValueError for a damaged file."""
        if not self.json.is_file():
            return {}
        record = REPRODUCTION.read(self.json)
        return {
            row.row: Row(
                row.row, row.model, row.model_hash, row.conditions,
                {name: _number(number) for name, number in row.numbers.items()}, row.arrays, row.missing, row.about,
            )
            for row in record.rows
        }  # fmt: skip

    def about(self) -> dict[str, Any]:
        """The scale, and the command, commit, versions, machine and date of the last call that wrote the files."""
        record = REPRODUCTION.read(self.json)
        return {name: getattr(record, name) for name in ("scale", *Provenance.__struct_fields__)}

    def arrays(self, row: str) -> dict[str, Tensor]:
        """The arrays of a row for the figure; empty if there are none."""
        path = self._arrays_path(row)
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()} if path.is_file() else {}

    def has_whole_arrays(self, row: Row) -> bool:
        """Whether the file of a row's arrays can be read and has all of them."""
        try:
            return set(row.arrays) <= self.arrays(row.subject).keys()
        except ValueError:
            return False

    def write_arrays(self, row: str, arrays: Mapping[str, Tensor]) -> None:
        """Write the arrays of a row as ``arrays/<row>.npz``."""
        write_npz(self._arrays_path(row), arrays)

    def add(self, row: Row, about: Mapping[str, Any]) -> dict[str, Row]:
        """Add a row to the files, safely with other processes that add rows. Returns all rows."""
        with locked(self.json.with_suffix(".lock")):
            rows = {**self.rows(), row.subject: row}
            self.write(rows, about)
        return rows

    def write(self, rows: Mapping[str, Row], about: Mapping[str, Any]) -> None:
        """Write the JSON, CSV and Markdown files of the rows, in the experiment's order."""
        ordered = ordered_rows(self.experiment, rows)
        rows = {row.subject: row for row in ordered}
        numbers = numbers_of(rows)
        content = {
            "experiment": self.experiment.name, "where": self.experiment.where, "title": self.experiment.title,
            "paper": self.experiment.paper.citation, **about,
            "columns": [asdict(column) for column in self.experiment.columns],
            "rows": [_as_dict(row) for row in ordered],
            "printed": {row: {name: _plain(number) for name, number in cells_of_row.items()}
                        for row, cells_of_row in self.experiment.printed.items()},
            "claims": judgements(self.experiment, numbers),
        }  # fmt: skip
        REPRODUCTION.write(self.json, content)
        cells = list(_long_rows(self.experiment, numbers))
        if cells:
            write_csv(self.folder / "table.csv", cells, list(cells[0]))
        write_text(self.folder / "table.md", markdown(self.experiment, rows))

    def draw(self, rows: Mapping[str, Row], subjects: Sequence[Subject]) -> list[Path]:
        """Draw the figure as SVG, PNG and PDF; a failure is a warning. Returns the files."""
        if not self.experiment.is_drawn or not numbers_of(rows).by_row:
            return []
        paths = [self.folder / f"figure.{kind}" for kind in FORMATS]
        with drawing(str(paths[0])):
            import_matplotlib()
            from matplotlib.figure import Figure

            figure = Figure(layout="constrained")
            arrays = {row: arrays for row in rows if (arrays := self.arrays(row))}
            by_row = {subject.row: subject for subject in subjects}
            self.experiment.plot(Outcome(numbers_of(rows), arrays, by_row), figure)
            for path in paths:
                save_figure(figure, path)
            return paths
        return []

    def _arrays_path(self, row: str) -> Path:
        readable, digest = re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-"), hashlib.sha256(row.encode()).hexdigest()[:8]
        return self.folder / "arrays" / f"{readable}-{digest}.npz"


def numbers_of(rows: Mapping[str, Row]) -> Numbers:
    """The numbers of the rows that have some."""
    return Numbers({name: row.numbers for name, row in rows.items() if row.numbers})


def ordered_rows(experiment: Experiment, rows: Mapping[str, Row]) -> list[Row]:
    """The rows in the experiment's order, then the others."""
    order = [subject.row for subject in experiment.subjects]
    return [rows[name] for name in dict.fromkeys([*order, *rows]) if name in rows]


def judgements(experiment: Experiment, numbers: Numbers) -> list[dict[str, str]]:
    """Each claim with its verdict and evidence."""
    judged = []
    for claim in experiment.claims:
        judgement: Judgement = claim.judge(numbers)
        judged.append({
            "claim": claim.text, "where": claim.where, "criterion": claim.criterion, "verdict": judgement.verdict,
            "evidence": judgement.evidence,
        })  # fmt: skip
    return judged


def markdown(experiment: Experiment, rows: Mapping[str, Row]) -> str:
    """The table with the paper's numbers beside the measured ones, and the claims with their verdicts."""
    numbers = numbers_of(rows)
    title = f"# {experiment.paper.short}, {experiment.where}: {experiment.title}\n"
    notes = [f"- {column.name}{f' ({column.unit})' if column.unit else ''}: {column.help}"
             for column in experiment.columns if column.help]  # fmt: skip
    missing = [f"- {row.subject}: {' '.join(row.missing.split())}" for row in rows.values() if row.missing]
    claims = [
        [f"“{claim['claim']}” ({claim['where']})", claim["criterion"], claim["verdict"], claim["evidence"]]
        for claim in judgements(experiment, numbers)
    ]
    parts = [title, "measured / printed in the paper\n", table(*_wide(experiment, numbers))]
    parts += ["", *notes, *conditions_in_words(list(rows.values()))]
    if replaced := other_models(experiment, rows.values()):
        parts += ["", f"Other models than the experiment's: {replaced}."]
    parts += ["", "Not measured:", "", *missing] if missing else []
    if claims:
        parts += ["", table(["claim", "criterion", "verdict", "numbers"], claims)]
    return "\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def summary(out: Path) -> str:
    """The page about all claims, also those not measured: paper by paper, then the additional questions."""
    experiments = list(all_experiments())
    parts = ["# Claims of the papers, and what was measured\n", _SUMMARY_HEAD]
    for paper in dict.fromkeys(experiment.paper for experiment in experiments):
        chosen = [one for one in experiments if one.paper == paper and not one.question]
        parts.append(f"## {paper.citation}\n\n{_claims_table(out, chosen)}\n")
    if questions := [one for one in experiments if one.question]:
        parts.append(f"## Questions of our own\n\n{_claims_table(out, questions)}\n")
    return "\n".join(parts)


def verdicts(out: Path, experiment: Experiment) -> dict[str, Counter[str]]:
    """The number of claims of each verdict, by scale; "–" if nothing was measured."""
    return {
        scale: Counter(claim["verdict"] for claim in judgements(experiment, numbers_of(rows)))
        for scale, rows in _measured(out, experiment).items()
    }


def refresh(out: Path) -> None:
    """Judge the claims again from the recorded numbers, and rewrite all text files; measure and draw nothing."""
    for experiment, scale in product(all_experiments(), SCALES):
        record = Record(out, experiment, scale)
        if record.json.is_file():
            record.write(record.rows(), record.about())
    write_text(out / SUMMARY, summary(out))


_SUMMARY_HEAD = (
    "Written by `freqrob reproduce` from the `result.json` of each experiment, which has the commit, the machine and "
    "the settings of every number. A verdict is by the criterion beside it; ± is one standard error over images, and "
    "differences below two are within noise. A number without ± has no estimate of its error: any difference of two "
    "such numbers counts. Trainings have one seed. At the scale `rn20` the models are ResNet-20s of "
    "0.27 M parameters on short schedules: “does not hold” says that a claim does not hold at this size, not that it "
    "is false.\n"
)


def _claims_table(out: Path, experiments: Sequence[Experiment]) -> str:
    body = []
    for experiment in experiments:
        for scale, rows in _measured(out, experiment).items():
            others = other_models(experiment, rows.values())
            measured = f"{scale}{_limit(rows.values())}" + (f"; {others}" if others else "")
            body += [
                [f"`{experiment.name}`", f"“{claim['claim']}” ({claim['where']})" if not experiment.question
                 else claim["claim"], claim["criterion"], claim["verdict"], claim["evidence"], measured]
                for claim in judgements(experiment, numbers_of(rows))
            ]  # fmt: skip
    return table(["experiment", "claim", "criterion", "verdict", "numbers", "scale"], body)


def other_models(experiment: Experiment, rows: Iterable[Row]) -> str:
    """The rows that were measured on models that the experiment has at no scale; "" if there are none."""
    known = {(one.row, one.model_name) for scale in SCALES.values() for one in experiment.subjects_at(scale)}
    rows = [row for row in rows if row.numbers and row.model and row.subject != row.model]
    return ", ".join(f"{row.subject} is {row.model}" for row in rows if (row.subject, row.model) not in known)


def _limit(rows: Iterable[Row]) -> str:
    """Conditions that affect a verdict: fewer images than the scale's, or rows under different conditions."""
    conditions = [row.conditions for row in rows if row.numbers]
    if any(other != conditions[0] for other in conditions):
        return ", rows under different conditions"
    most = conditions[0].get("images_at_most") if conditions else None
    return f", at most {most} images" if most else ""


def readable_rows(out: Path, experiment: Experiment, scale: str) -> dict[str, Row]:
    """The measured rows of an experiment by name; none, with a warning, if the file is damaged."""
    try:
        return Record(out, experiment, scale).rows()
    except ValueError as error:
        warn(f"{error}; {experiment.name} counts as not measured")
        return {}


def _measured(out: Path, experiment: Experiment) -> dict[str, dict[str, Row]]:
    """The rows at each measured scale; if there is none, no rows at the scale "–"."""
    rows = {scale: readable_rows(out, experiment, scale) for scale in SCALES}
    return {scale: at for scale, at in rows.items() if at} or {"–": {}}


def conditions_in_words(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown with the conditions of the measured rows: one list per group of rows with equal conditions."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.numbers:
            lines = (f"- {name}: {in_words(value)}" for name, value in row.conditions.items() if value is not None)
            groups.setdefault("\n".join(lines), []).append(row.subject)
    if len(groups) == 1:
        return ["", "Conditions:", "", *groups]
    return [line for text, names in groups.items() for line in ("", f"Conditions of {', '.join(names)}:", "", text)]


def in_words(value: Any) -> str:
    """A JSON value in a line of text: ``steps 50, eps 8/255``."""
    if isinstance(value, Mapping):
        norm = value.get("norm", "Linf")
        distances = {key: pixels(value[key], norm, 3) for key in ("eps", "step_size") if value.get(key)}
        parts = (f"{key.replace('_', ' ')} {distances.get(key) or in_words(part)}" for key, part in value.items())
        return ("; " if any(isinstance(part, Mapping) for part in value.values()) else ", ").join(parts)
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _wide(experiment: Experiment, numbers: Numbers) -> tuple[list[str], list[list[str]]]:
    """The header and cells of the table, as the paper prints it: "measured / printed"."""
    names = list(dict.fromkeys([*(s.row for s in experiment.subjects), *experiment.printed, *numbers.by_row]))
    columns = [column.name for column in experiment.columns]
    cells = {row: cells_of(experiment, numbers, row) for row in names}
    if experiment.transposed:
        return ["", *names], [[column, *(cells[row][i] for row in names)] for i, column in enumerate(columns)]
    return ["", *columns], [[row, *cells[row]] for row in names]


def cells_of(experiment: Experiment, numbers: Numbers, row: str) -> list[str]:
    """A row's cells "measured / printed" by column; only the measured number if the paper prints none."""
    printed = experiment.printed.get(row, {})
    return [
        f"{numbers[row, column.name]}" + (f" / {printed[column.name]}" if column.name in printed else "")
        for column in experiment.columns
    ]


def _long_rows(experiment: Experiment, numbers: Numbers) -> Iterator[dict[str, Any]]:
    """One row per number, with the paper's number."""
    for row in numbers.by_row:
        for column in experiment.columns:
            number, printed = numbers[row, column.name], experiment.printed.get(row, {}).get(column.name, Number())
            yield {
                "row": row, "column": column.name, "unit": column.unit, "value": number.value,
                "standard_error": number.error, "printed": printed.value, "printed_deviation": printed.error,
            }  # fmt: skip


def _number(stored: RecordedNumber) -> Number:
    values = (stored.value, stored.standard_error)
    return Number(*(float("nan") if value is None else value for value in values))


def _plain(number: Number) -> dict[str, float | None]:
    return {"value": plain(number.value), "standard_error": plain(number.error)}


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        "row": row.subject,
        **{key: value for key, value in vars(row).items() if key != "subject"},
        "numbers": {name: _plain(number) for name, number in row.numbers.items()},
    }
