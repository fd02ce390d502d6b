"""The page: one self-contained HTML file, with figures and data in the same folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from freqrob.data.cifar_b import balance
from freqrob.data.datasets import ImageSet
from freqrob.diagnostics.drawing import Picture, Section
from freqrob.report.data import COLUMNS, REPORT, Links, as_dict, copy_data, tidy_rows
from freqrob.report.figures import inline, inline_scale, png_uri, save, swatch
from freqrob.report.findings import caveats, findings
from freqrob.report.pictures import CORRUPTIONS, SPECTRA, pictures
from freqrob.report.records import Accuracy, ModelRecord, Records, origins
from freqrob.report.runs import read_runs
from freqrob.report.summary import SummaryColumn, columns, settings, title_of
from freqrob.runtime.figures import FORMATS, drawing
from freqrob.runtime.files import check_file, check_folder, expanded, write_csv, write_text
from freqrob.runtime.parameters import checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.provenance import provenance
from freqrob.runtime.reading import read_json
from freqrob.runtime.warning import warn

GALLERY = 20


@checked
def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    title: str = "",
    gallery: ImageSet | None = None,
    command: str = "",
    cards: bool = True,
    model_dir: str | Path = "./models",
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    progress: Progress = no_progress,
) -> Path:
    """Write a report that compares measurements of models into the folder ``out``.

    ``index.html`` needs no other file. The folder also holds the numbers (``results.json``, ``results.csv``), the
    figures (``figures/``, as SVG, PNG and PDF) and the input files (``data/``). Each file is complete before it
    replaces an earlier one; the page is written last. Figures of an earlier report that are not in this one are
    removed; input files are kept.

    Args:
        runs: folders that ``freqrob diagnose`` wrote, and JSON files of ``freqrob evaluate`` and ``freqrob
            corruptions``; the same name in several runs is the same model.
        title: title of the page.
        gallery: images; the first ones are shown beside their balanced versions.
        command: the command line, recorded on the page.
        cards: whether to add the accuracies on models' cards.
        model_dir, dataset, threat_model: where the cards are, as for ``load_card``.
        progress: wraps iterables in a progress bar.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError, ValueError: one of ``runs`` does not exist, is not a run, is damaged, or would be overwritten
            by the report; there is nothing to report.
        OSError: the folder cannot be written, or its ``results.json`` was not written by a report.

    Warns about omitted input and about figures that cannot be drawn; the page lists them too.

    >>> import tempfile, freqrob
    >>> from freqrob.data.samples import sample_images
    >>> folder, samples = tempfile.mkdtemp(), sample_images()
    >>> model, out = freqrob.load_model("standard_rn20"), f"{folder}/standard_rn20"
    >>> measured = freqrob.diagnose(model, samples.images, samples.labels, only=["jacobian"], out=out)
    >>> write_report([folder], f"{folder}/report").name
    'index.html'
    """
    out = expanded(out, "out")
    check_folder(out)
    records = read_runs(runs, cards=cards, model_dir=model_dir, dataset=dataset, threat_model=threat_model)
    for note in records.notes:
        warn(note)
    inputs = [origin.path for *_, origin in origins(records) if origin.path]
    for name in ("index.html", "results.json", "results.csv"):
        check_file(out / name, "out", inputs)
    earlier = _figures_of(out / "results.json")
    drawn = pictures(records)
    links, about = copy_data(records, out), provenance(command)
    summary = columns(records.models)
    sentences = [finding.striptags() for finding in findings(records, summary)]
    numbers = {**about, "findings": sentences, "figures": [*drawn], **as_dict(records, links)}
    REPORT.write(out / "results.json", numbers)
    write_csv(out / "results.csv", list(tidy_rows(records)), COLUMNS)
    drawn = _saved(drawn, out / "figures", progress)
    if [*drawn] != numbers["figures"]:
        REPORT.write(out / "results.json", {**numbers, "figures": [*drawn]})
    write_text(out / "index.html", render(records, drawn, links, about, title=title, gallery=gallery))
    for name in earlier - drawn.keys():
        for kind in FORMATS:
            (out / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
    return out / "index.html"


def _saved(pictures: Mapping[str, Picture], folder: Path, progress: Progress) -> dict[str, Picture]:
    """Save the pictures as files. Returns the pictures that could be drawn, and warns about the others."""
    saved = {}
    for name, picture in progress(pictures.items(), "figures", len(pictures)):
        with drawing(name):
            save(picture, folder)
            saved[name] = picture
    return saved


def _figures_of(results: Path) -> set[str]:
    """The names of the figures of an earlier report; none if there was none, or if its file is damaged.

    Raises FileExistsError if ``results`` was written by something else, such as ``freqrob evaluate``.
    """
    try:
        earlier = read_json(results, dict[str, Any])
        if "results" in earlier and "figures" not in earlier:
            raise FileExistsError(f"out: {results} was not written by a report; choose another folder")
        figures = REPORT.fit(earlier, results).figures
    except (FileNotFoundError, ValueError):
        return set()
    return {name for name in figures if re.fullmatch(r"[\w.+-]{1,200}", name)}


def render(
    records: Records,
    drawn: dict[str, Picture],
    links: Links,
    about: dict[str, Any],
    *,
    title: str = "",
    gallery: ImageSet | None = None,
) -> str:
    """Render the page as self-contained HTML, without external files, fonts, scripts or images."""
    templates = Environment(
        loader=PackageLoader("freqrob.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters = {"swatch": swatch, "inline": inline, "inline_scale": inline_scale}
    templates.filters |= {"percent": lambda share: f"{100 * share:.1f}", **filters}
    summary = columns(records.models)
    return templates.get_template("report.html").render(
        title=title or _title(records.models),
        records=records,
        measurements=records.measurements(),
        pictures=drawn,
        sections={key: value for key, value in _sections(drawn).items() if key not in (CORRUPTIONS, SPECTRA)},
        columns=summary,
        contents=_contents(records, drawn),
        footnotes=_footnotes(summary),
        findings=findings(records, summary),
        caveats=list(caveats(records)),
        settings=settings(records.models),
        title_of=title_of,
        protocols=_spans(setting[0] for setting in settings(records.models)),
        column_groups=_spans(column.group for column in summary),
        accuracies={model.name: _lines(model) for model in records.models if model.accuracies},
        pairs=_pairs(gallery) if gallery is not None else [],
        made=_made(records, links),
        about=about,
    )


def _title(models: Sequence[ModelRecord]) -> str:
    if not models:
        return "Spectra of images"
    names = ", ".join(model.name for model in models)
    return f"Frequency and robustness of {names if len(models) <= 3 else f'{len(models)} models'}"


def _contents(records: Records, drawn: Mapping[str, Picture]) -> Iterator[tuple[str, str]]:
    """The ids of the sections that have measurements, in the order of the page, with their entries in its contents."""
    if any(model.accuracies for model in records.models):
        yield "accuracy", "accuracy under attack, by protocol"
    for section in _sections(drawn):
        yield section.id, section.contents


def _sections(drawn: Mapping[str, Picture]) -> dict[Section, list[Picture]]:
    """The sections of the page with figures, in their order, and the figures."""
    sections: dict[Section, list[Picture]] = {}
    for picture in drawn.values():
        sections.setdefault(picture.section, []).append(picture)
    return sections


def _spans(labels: Iterable[str]) -> list[tuple[str, int]]:
    """Consecutive equal labels and their number, for a table's header."""
    return [(label, len(list(same))) for label, same in groupby(labels)]


def _footnotes(summary: Sequence[SummaryColumn]) -> dict[str, str]:
    """A letter for each condition that differs from the one in its column's header."""
    others = {e.conditions: "" for column in summary for e in column.entries if e and e.conditions != column.conditions}
    return {conditions: chr(ord("a") + index % 26) * (1 + index // 26) for index, conditions in enumerate(others)}


@dataclass(frozen=True)
class Line:
    """A row of the table of accuracies: the measured images, and a cell for each setting."""

    origin: str
    cells: dict[tuple, Accuracy]


def _lines(model: ModelRecord) -> list[Line]:
    """A row for each file, number of images and seed."""
    lines: dict[str, dict[tuple, Accuracy]] = {}
    for accuracy in model.accuracies:
        origin = "card" if accuracy.origin.path is None else accuracy.origin.path.name
        cells = lines.setdefault(f"{origin}: {accuracy.images:,} images, seed {accuracy.seed}", {})
        cells[accuracy.setting] = accuracy
    return [Line(origin, cells) for origin, cells in lines.items()]


def _pairs(natural: ImageSet) -> list[dict[str, str]]:
    natural = natural[:GALLERY]
    return [
        {"label": natural.classes[label], "natural": png_uri(image), "bass": png_uri(twin)}
        for image, twin, label in zip(natural.tensor, balance(natural).tensor, natural.labels.tolist(), strict=True)
    ]


def _made(records: Records, links: Links) -> list[dict[str, Any]]:
    """Provenance of the numbers: each different provenance, with its files by model."""
    groups: dict[str, dict[str, Any]] = {}
    for subject, kind, origin in origins(records):
        if origin.path is not None:
            head = {key: origin.about.get(key, "") for key in ("command", "date", "machine", "commit", "versions")}
            head |= {"source": origin.source, "from_cache": origin.about.get("from_cache", False)}
            group = groups.setdefault(json.dumps(head, sort_keys=True, default=str), {**head, "files": {}})
            group["files"].setdefault(subject, []).append((kind, links[origin.path]))
    return list(groups.values())
