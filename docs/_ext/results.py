"""Fill the tables of the pages in ``results/``, and write a page for each paper from the records of its experiments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

from benchmarks.readme import REPRODUCTION, filled
from freqrob.reproduction import Experiment, Paper
from freqrob.reproduction.experiment import all_experiments
from freqrob.reproduction.records import Record, markdown

SCALES = {"rn20": "at the scale `rn20`", "paper": "with the paper's settings"}


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill a page's tables when it is read."""
    if page.startswith("results/"):
        source[0] = filled(source[0])


def write_papers(app: Sphinx) -> None:
    """Write the papers' pages that have changed, so that an incremental build does not read the others again."""
    for paper in dict.fromkeys(experiment.paper for experiment in all_experiments()):
        path = Path(app.srcdir) / f"results/{paper.key}.md"
        text = "\n".join(_page(paper, path.parent))
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _page(paper: Paper, folder: Path) -> Iterator[str]:
    yield f"# {paper.short}\n\n{paper.citation}. What the paper says: [](../explanation/papers/{paper.key}.md).\n"
    absent = []
    for experiment in (one for one in all_experiments() if one.paper == paper):
        records = [(scale, Record(REPRODUCTION, experiment, scale)) for scale in SCALES]
        measured = [(scale, record) for scale, record in records if any(row.numbers for row in record.rows().values())]
        for scale, record in measured:
            yield from _section(experiment, scale, record, folder)
        if not measured:
            absent.append(f"- `{experiment.name}`, {experiment.where}: {experiment.title}")
    if absent:
        yield "## Not measured yet\n\n`freqrob reproduce NAME --data DIR` measures them.\n\n" + "\n".join(absent) + "\n"


def _section(experiment: Experiment, scale: str, record: Record, folder: Path) -> Iterator[str]:
    """An experiment's ``table.md`` with headings a level deeper, and its figure."""
    title, _, text = markdown(experiment, record.rows()).partition("\n")
    yield f"## {title.removeprefix('# ').partition(', ')[2]}\n"
    yield f"`freqrob reproduce {experiment.name}`, {SCALES[scale]}: {text.strip()[:1].lower() + text.strip()[1:]}\n"
    figure = record.folder / "figure.svg"
    if figure.is_file():
        yield f"![{experiment.title}]({os.path.relpath(figure, folder)})\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_papers, priority=100)
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
