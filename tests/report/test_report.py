"""The report: runs in, one page with its figures and numbers out, and the sample images of the demo."""

import csv
import json
import re
import resource
import shutil
import subprocess
import tempfile
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from PIL import Image
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data import samples
from freqrob.data.datasets import ImageSet
from freqrob.data.hybrid import MIXING_FREQUENCIES
from freqrob.diagnostics import (
    HybridReliance,
    JacobianSpectrum,
    MinimalPerturbationSpectrum,
    corruption_spectrum,
    spectrum,
)
from freqrob.diagnostics.conditions import described
from freqrob.diagnostics.drawing import Panel, Picture, Scale, styles
from freqrob.models.cards import Card
from freqrob.models.checkpoints import card_path
from freqrob.report import write_report
from freqrob.report.data import COLUMNS, copy_data
from freqrob.report.figures import STYLE, VARIABLES, inline_scale, png_uri, whole
from freqrob.report.findings import caveats, findings
from freqrob.report.pictures import pictures
from freqrob.report.records import Accuracy, Measured, ModelRecord, Origin, Records
from freqrob.report.runs import read_runs
from freqrob.report.summary import columns
from freqrob.runtime.files import write_text
from freqrob.runtime.reading import read_image
from tests.support.measurements import (
    ABOUT,
    CLEAN,
    HYBRID,
    PERTURBATIONS,
    corrupted,
    evaluation,
    measurements,
    random,
    row,
)

HOSTILE = r"<script>alert($\frac$)</script>"  # neither HTML nor TeX


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models with all diagnostics, one that was only evaluated, and two sets of images."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (name, place) in enumerate({"pgd_at_tiny": "pgd_at_tiny", HOSTILE: "_script_"}.items()):
        for kind, measured in measurements(seed).items():
            measured.save(folder / "diagnosis" / place, kind, {**ABOUT, "model": name})
    layer = replace(measurements(0)["fourier_heatmap"], layer="block.0")
    layer.save(folder / "diagnosis" / "pgd_at_tiny", about={**ABOUT, "model": "pgd_at_tiny"})
    rows = [row(HOSTILE, 0.125), row(HOSTILE, 0.75, **CLEAN), row("pgd_at_tiny", 0.4375), row("late", 0.3, images=200)]
    rows += [row("pgd_at_tiny", 0.5, "bass"), row("pgd_at_tiny", 0.1, "natural+bass")]
    evaluation(folder / "results.json", rows)
    corrupted(folder / "corruptions.json", pgd_at_tiny=0.625)
    for name, images in (("natural", random(4, 3, 32, 32).cumsum(-1) / 32), ("noise", random(4, 3, 32, 32))):
        spectrum(images).save(folder / "images", name, {**ABOUT, "source": f"4 {name} images"})
    corruption_spectrum(random(4, 3, 32, 32), [random(4, 3, 32, 32, seed=2)]).save(folder / "images", "fog", ABOUT)
    return [folder / "diagnosis", folder / "results.json", folder / "corruptions.json", folder / "images"]


@pytest.fixture(scope="module")
def out(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    gallery = ImageSet(
        (255 * random(3, 3, 32, 32)).to(torch.uint8), torch.tensor([3, 8, 8]), samples.CIFAR10_CLASSES
    )  # fmt: skip
    write_report(runs, folder, gallery=gallery, command="freqrob report runs")
    return folder


@pytest.fixture(scope="module")
def page(out):
    return (out / "index.html").read_text()


class Tags(HTMLParser):
    """Every tag with its attributes and text, and a list of the ones that were closed in the wrong order."""

    VOID = ("meta", "img", "br", "hr", "input", "link")

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.crossed = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.crossed.append(tag)


def text_of(markup):
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", str(markup)))).strip()


def summary_table(page):
    """Heads and, by model, cells of the summary, as they are read."""
    table = re.search(r'<table class="summary sortable">(.*?)</table>', page, re.DOTALL)[1]
    heads = [text_of(cell) for cell in re.findall(r'<th [^>]*scope="col".*?</th>', table)]
    body = re.findall(r'<tr><th scope="row".*?</tr>', table, re.DOTALL)
    lines = [[text_of(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)] for line in body]
    return heads, {name: cells for name, *cells in lines}


def test_page_is_well_formed_and_has_every_section(page):
    tags = Tags(page)
    assert (tags.open, tags.crossed) == ([], [])
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [attributes["id"] for tag, attributes in tags.found if tag == "section"] == [
        "summary", "images", "accuracy", "corruptions", "spectra", "added", "jacobian", "sensitivity", "landscapes",
        "hybrid", "heatmaps", "fourier_heatmap_block.0", "bands", "provenance",
    ]  # fmt: skip


def test_the_head_names_every_section_with_something_measured(page):
    head = re.search(r"Measured here:(.*?)</p>", page, re.DOTALL)[1]
    assert re.findall('href="#(.*?)"', head) == [
        "accuracy", "corruptions", "spectra", "jacobian", "sensitivity", "landscapes", "hybrid", "heatmaps",
        "fourier_heatmap_block.0", "bands",
    ]  # fmt: skip
    assert text_of(head).endswith(
        "errors under single waves, features of block.0 under single waves, accuracy by frequency band."
    )


def test_page_needs_nothing_outside_it_and_links_to_what_is_there(page, out):
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} & {"link", "iframe", "object", "embed"} == set()
    assert all("src" not in attributes for tag, attributes in tags.found if tag == "script")
    loaded = [value for tag, attributes in tags.found for key, value in attributes.items()
              if key in ("src", "srcset", "data", "xlink:href") or (key == "href" and tag != "a")]  # fmt: skip
    assert loaded and all(address.startswith(("data:", "#")) for address in loaded)
    assert re.findall(r"url\((?!#)", page) == [] and "@import" not in page
    ids = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    followed = [attributes["href"] for tag, attributes in tags.found if tag == "a"]
    assert all(link[1:] in ids if link[0] == "#" else (out / link).is_file() for link in followed), followed
    assert len(followed) > 40


def test_what_files_say_is_escaped(page, out):
    assert page.count("<script>") == 1, "that which sorts"
    assert r"&lt;script&gt;alert($\frac$)&lt;/script&gt;" in page
    assert "freqrob diagnose &lt;b&gt;" in page and "A &amp; B" in page
    for figure in (out / "figures").glob("*.svg"):
        assert "<script>" not in figure.read_text()


def test_table_sorts_by_a_script_of_its_own(page):
    assert "aria-sort" in page and "table.sortable" in page


def test_summary_shows_what_was_measured_and_only_that(page):
    heads, models = summary_table(page)
    assert heads == [
        "model", "clean 10,000 images of cifar10 test, seed 0",
        *["PGD-20, L∞, ε = 8/255 10,000 images of cifar10 test, seed 0, step 2/255"] * 3,
        *(f"{group} 100 images of cifar10 a severity, made by freqrob, protocol natural"
          for group in ("noise", "blur", "weather", "digital", "15 types")),
        "ln Blow 300 images of cifar10 test, batch 128",
        "frev 300 images of cifar10 test, seeds 0, 1, Li et al.’s frequencies",
        "HFC share 300 images of cifar10 test, HFC from 0.1562 cycles/pixel on",
        *(f"variation, {half} 300 images of cifar10 test, span 1.0, points 5, seed 0" for half in ("LFC", "HFC")),
    ]  # fmt: skip
    share = f"{100 * random(300, seed=0).mean():.1f}"
    assert models["pgd_at_tiny"] == [
        "–", "43.8", "10.0", "50.0", *["62.5"] * 5, "4.12", "0.375", share, "0.25", "0.12",
    ]  # fmt: skip
    assert models[HOSTILE][:5] == ["75.0", "12.5", "–", "–", "–"] and models[HOSTILE][9] == "5.12"
    assert models["late"][1:] == ["30.0a", *["–"] * 12]
    assert "a 200 images of cifar10 test, seed 0, step 2/255" in text_of(page)


def test_every_number_of_the_summary_is_in_the_json_and_the_csv(page, out):
    found = json.loads((out / "results.json").read_text())
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert found["command"] == "freqrob report runs" and {"commit", "versions", "machine", "date"} <= found.keys()
    models = {model["name"]: model for model in found["models"]}
    assert list(models) == list(summary_table(page)[1])
    for name, model in models.items():
        mine = [one for one in rows if one["subject"] == name]
        written = [one for one in mine if one["measurement"] == "accuracy"]
        expected = [(one["protocol"], one["attack"], one["accuracy"]) for one in model["accuracies"]]
        assert [(one["protocol"], one["attack"], float(one["value"])) for one in written] == expected
        for kind, measured in model["measurements"].items():
            scalars = {one["quantity"]: one["value"] for one in mine if one["measurement"] == kind and not one["index"]}
            assert all(float(scalars[key]) == measured[key] for key in ("log_b_low", "variation") if key in measured)
            assert all((out / place).is_file() for place in measured["from"]) and measured["source"] == "cifar10 test"
    (hybrid,) = {one["quantity"]: one for one in rows if one["quantity"] == "low" and one["index"] == "1"}.values()
    assert float(hybrid["frequency"]) == 0.5


def test_a_robust_accuracy_always_says_protocol_attack_images_and_seed(out):
    for one in csv.DictReader((out / "results.csv").open()):
        if one["measurement"] == "accuracy":
            assert all(one[key] for key in ("protocol", "attack", "eps", "images", "seed", "source"))


def test_every_figure_is_a_file_too(page, out):
    shown = re.findall(r'<figure class="picture" id="figure-([\w.]+)"', page)
    assert shown == [
        "corruptions", "spectra", "jacobian", "sensitivity", "loss_landscapes", "hybrid", "fourier_heatmap",
        "fourier_heatmap_block.0", "band_accuracy",
    ]  # fmt: skip
    for name in shown:
        assert ElementTree.parse(out / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    drawn = (out / "figures" / "hybrid.svg").read_text()
    assert "pgd_at_tiny" in drawn and r"&lt;script&gt;alert($\frac$)" in drawn, "the legend"


@pytest.mark.parametrize(
    "low, high, ticks",
    [
        (2.31, 4.7, ["2.5", "3", "3.5", "4", "4.5"]),
        (2.31, 2.36, ["2.31", "2.32", "2.33", "2.34", "2.35", "2.36"]),
        (4.0, 9.0, ["4", "5", "6", "7", "8", "9"]),
        (0.3, 4.0, ["0.5", "1", "2"]),
        (0.02, 90.0, ["0.1", "1", "10"]),
    ],
)
def test_a_logarithmic_colour_bar_has_numbers_in_every_range(low, high, ticks):
    drawn = inline_scale(Picture("bar", "", [], scale=Scale(LogNorm(low, high), "loss")))
    assert re.findall(r">([\d.]+)</text>", drawn) == ticks


def test_figures_follow_the_page_from_light_to_dark(page):
    style, _, body = page.partition("</style>")
    assert "prefers-color-scheme: dark" in style
    assert all(f"--{variable}:" in style for variable in VARIABLES.values())
    assert not re.search("|".join(VARIABLES), body)
    assert "var(--series-0)" in body and "var(--ink)" in body


def test_arrows_point_where_axes_go(page):
    arrows = dict(re.findall(r'id="figure-([\w.]+)"(?:(?!</figure>).)*<p class="axes">→ [^→]*?([↑↓])', page, re.DOTALL))
    assert arrows == {"jacobian": "↓", "loss_landscapes": "↑", "fourier_heatmap": "↓", "fourier_heatmap_block.0": "↓"}


LONG = (
    "robustbench:Carmon2019Unlabeled", "robustbench:Rebuffi2021Fixing_70_16_cutmix_extra", "mine.nets:wide?width=4",
    "nets:of_my_own_defence?alpha=0.30000000001&beta=something", "ALLINCAPITALSANDWITHOUTANYSIGNTOBREAKAT", "short",
)  # fmt: skip


def as_in_a_file(picture):
    with rc_context(STYLE):
        figure = whole(picture)
        figure.draw_without_rendering()
    return figure


def test_long_names_neither_overlap_nor_move_their_panels():
    panels = [Panel(name, lambda axes: axes.imshow([[0]])) for name in LONG]
    figure = as_in_a_file(Picture("maps", "", panels, (2.2, 2.2), labels=("x", "y")))
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in combinations(titles, 2))
    assert all(0 <= title.x0 and title.x1 <= figure.bbox.width and title.y1 <= figure.bbox.height for title in titles)
    assert len({round(axes.get_position().y0, 6) for axes in figure.axes}) == 2, "two rows"
    assert ["".join(axes.get_title().split("\n")) for axes in figure.axes] == list(LONG)


def test_a_legend_of_long_names_is_whole():
    panel, chosen = Panel("one", lambda axes: axes.plot([0, 1])), styles(LONG)
    for picture in (Picture("two", "", [panel, panel], legend=chosen), Picture("one", "", [panel], (6.4, 3.8), chosen)):
        figure = as_in_a_file(picture)
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width
        assert min(axes.get_window_extent().height for axes in figure.axes) > 200, "panels keep their size"


def test_the_table_of_corruptions_has_room_for_long_names(tmp_path):
    records = read_runs([corrupted(tmp_path / "c.json", **dict.fromkeys(LONG, 0.5))], cards=False)
    figure = as_in_a_file(pictures(records)["corruptions"])
    (axes,) = figure.axes
    assert axes.get_window_extent().height > 15 * 20 and axes.get_tightbbox().x0 >= 0


def test_images_stand_beside_their_twins(page):
    pictures = [attributes for tag, attributes in Tags(page).found if tag == "img" and "natural" in attributes["alt"]]
    assert [picture["alt"] for picture in pictures] == [f"{c}, natural image {n}" for n, c in enumerate(
        ("cat", "ship", "ship"), 1)]  # fmt: skip
    assert pictures[0]["src"] == png_uri((255 * random(3, 3, 32, 32)).to(torch.uint8)[0])


def test_page_says_how_every_number_was_made(page):
    made = text_of(page[page.index('id="provenance"') :])
    for fact in ("freqrob diagnose <b>", "freqrob evaluate", "0123456789ab", "2026-01-02", "torch 2.15", "4 noise im"):
        assert fact in made
    assert "jacobian (JSON, NPZ), " in made and "read from its cache" not in made


def test_page_says_what_was_read_from_a_cache(tmp_path):
    measurements(0)["jacobian"].save(tmp_path / "runs", about={**ABOUT, "model": "one", "from_cache": True})
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert "measured in an earlier run, and read from its cache" in page


def test_captions_say_the_settings(page):
    caption = text_of(page[page.index('id="figure-band_accuracy"') :].split("</figure>")[0])
    for fact in ("band of 5 rings", "300 images of cifar10 test", "8/255, 20 steps", "first 50 images", "plot_bands"):
        assert fact in caption


def test_data_is_copied_unless_it_is_there(runs, out):
    copied = sorted(path.relative_to(out / "data").as_posix() for path in (out / "data").rglob("*.npz"))
    assert "_script_/jacobian.npz" in copied and "images/natural.npz" in copied
    before = {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.*")}
    links = copy_data(read_runs([out / "data"], cards=False), out)
    assert {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.*")} == before
    assert links[out / "data" / "results.json"] == ["data/results.json"]


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path):
    paths = [evaluation(tmp_path / str(n) / "results.json", [row("one", n / 4, seed=n)]) for n in (1, 2)]
    write_report(paths, tmp_path / "out")
    copies = sorted((tmp_path / "out" / "data").iterdir())
    assert [copy.name for copy in copies] == ["results-2.json", "results.json"]
    assert [json.loads(copy.read_text())["results"][0]["seed"] for copy in copies] == [2, 1]
    more = evaluation(tmp_path / "3" / "results.json", [row("one", 0.75, seed=3)])
    write_report([more, copies[1], copies[0]], tmp_path / "out")  # of which two are read where they lie
    seeds = [json.loads(path.read_text())["results"][0]["seed"] for path in (tmp_path / "out" / "data").iterdir()]
    assert sorted(seeds) == [1, 2, 3]


def test_results_of_another_command_are_not_overwritten(tmp_path):
    results = evaluation(tmp_path / "results.json", [row("one", 0.25)])
    other = evaluation(tmp_path / "b.json", [row("one", 0.5)])
    before = results.read_bytes()
    with pytest.raises(FileExistsError, match=r"out: .*results\.json was not written by a report; choose another"):
        write_report([other], tmp_path)
    assert results.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "results.json"]


def test_one_models_own_folder_is_a_run(runs):
    found = read_runs([runs[0] / "pgd_at_tiny"], cards=False)
    assert [(model.name, len(model.measurements)) for model in found.models] == [("pgd_at_tiny", 8)]


def test_models_are_matched_by_name_and_stand_beside_their_relatives(tmp_path):
    first = evaluation(tmp_path / "a.json", [row("theirs", 0.1), row("bass_pgd_at_rn20", 0.2), row("pgd_at_rn20", 0.3)])
    second = evaluation(tmp_path / "b.json", [row("standard_rn20", 0.0), row("pgd_at_rn20", 0.8, **CLEAN)])
    found = read_runs([first, second], cards=False).models
    assert [model.name for model in found] == ["standard_rn20", "pgd_at_rn20", "bass_pgd_at_rn20", "theirs"]
    assert [one.accuracy for one in found[1].accuracies] == [0.3, 0.8]


def test_more_images_win_then_the_last(tmp_path):
    for order, images in enumerate((10, 30, 30, 20)):
        replace(measurements(order, images)["jacobian"]).save(tmp_path / str(order), about={"model": "one"})
        evaluation(tmp_path / f"{order}.json", [row("one", order / 10, images=images)])
    found = read_runs([tmp_path / str(n) for n in range(4)] + [tmp_path / f"{n}.json" for n in range(4)], cards=False)
    (model,) = found.models
    assert model.measurements["jacobian"].of.log_b_low == 6.125
    assert model.best(model.accuracies[0].setting).accuracy == 0.2


def test_a_damaged_measurement_is_named_and_the_rest_is_drawn(runs, tmp_path):
    shutil.copytree(runs[0] / "pgd_at_tiny", tmp_path / "run" / "pgd_at_tiny")
    folder = tmp_path / "run" / "pgd_at_tiny"
    (folder / "hybrid.npz").write_bytes((folder / "hybrid.npz").read_bytes()[:200])
    (folder / "jacobian.npz").unlink()
    (folder / "sensitivity.json").write_text("{")
    (folder / "folder.json").mkdir()
    values = json.loads((folder / "loss_landscape_low.json").read_text())
    values["values"]["variation"] = "steep"
    (folder / "loss_landscape_low.json").write_text(json.dumps(values))
    with np.load(folder / "band_accuracy.npz") as arrays:
        np.savez(folder / "band_accuracy.npz", **{**arrays, "low": arrays["low"][:, None]})
    with pytest.warns(UserWarning, match="damaged") as warned:
        page = write_report([tmp_path / "run"], tmp_path / "out", cards=False).read_text()
    reasons = "variation: expected float, got 'steep'", "low: expected shape (rings) = (23,), got (23, 1)"
    for name in ("hybrid.json", "jacobian.npz", "sensitivity.json", *reasons):
        assert name in unescape(page) and any(name in str(one.message) for one in warned), name
    assert re.findall(r'<figure class="picture" id="figure-(\w+)"', page) == [
        "loss_landscapes", "fourier_heatmap",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not usable JSON"),
        ('{"results": [], "x": NaN}', "not usable JSON"),
        ('{"a": 1}', "is not a run, expected a folder that `freqrob diagnose"),
        ("[1]", "is not a run"),
        ('{"kind": "aura", "values": {}}', "of kind 'aura', expected one of"),
        ('{"results": [{"model": "m", "attack": "clean", "accuracy": 2, "images": 1, "seed": 0, "protocol": "bass"}]}',
         "Expected `float` <= 1.0 - at `$.results[0].accuracy`; replace or remove it"),
        ('{"results": [{"model": "m", "attack": "PGD-20", "accuracy": 0.5, "images": 10, "protocol": "natural"}]}',
         "missing required field `seed` - at `$.results[0]`"),
        ('{"results": [{"model": "m", "accuracies": {"fog": []}}]}', "Expected `array` of length 5, got 0"),
        ('{"results": [{"model": "m", "accuracies": {"fog": [1, 1, 1, 1, 1]}, "dataset": "cifar10", '
         '"protocol": "natural", "images": "many", "bass": null, "generated": true}]}',
         "Expected `int`, got `str` - at `$.results[0].images`"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_run_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=rf"r\.json.*{re.escape(message)}"):
        write_report([tmp_path / "r.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_are_not_there_or_empty_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist, expected a folder"):
        read_runs([tmp_path / "none"])
    with pytest.raises(ValueError, match=f"{tmp_path} is not a run"):
        read_runs([tmp_path])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="nothing to report\nleft out because it is damaged: .*a.json"):
        read_runs([tmp_path])


def test_a_report_is_no_run_but_its_data_are(out):
    with pytest.raises(ValueError, match=f"^runs: {out} is a report, its runs are in {out / 'data'}$"):
        read_runs([out])
    assert {model.name for model in read_runs([out / "data"], cards=False).models} == {"pgd_at_tiny", "late", HOSTILE}


def test_an_unknown_data_set_of_the_cards_is_refused(runs):
    with pytest.raises(ValueError, match="dataset: got 'nope', expected one of cifar10"):
        read_runs(runs, dataset="nope")


def test_a_report_of_images_alone_says_how_to_get_a_model(runs, tmp_path):
    page = write_report([runs[3]], tmp_path).read_text()
    assert "No model was measured" in page and "figure-spectra" in page and 'id="summary"' not in page


def test_cards_add_their_accuracies_unless_told_not_to(tmp_path, tiny):
    path = tmp_path / "models" / "cifar10" / "Linf" / "pgd_at_tiny.safetensors"
    known = Card("pgd_at_tiny", "tiny", results=[row("", 0.4321)])
    path.parent.mkdir(parents=True)
    card_path(path).write_text(known.to_json())
    run = evaluation(tmp_path / "r.json", [row("pgd_at_tiny", 0.9, images=20)])
    page = write_report([run], tmp_path / "out", model_dir=tmp_path / "models").read_text()
    assert "43.2" in page and "card: 10,000 images" in page and summary_table(page)[1]["pgd_at_tiny"] == ["43.2"]
    page = write_report([run], tmp_path / "out", model_dir=tmp_path / "models", cards=False).read_text()
    assert summary_table(page)[1]["pgd_at_tiny"] == ["90.0"]
    card_path(path).write_text("{}")
    assert "a card was left out" in read_runs([run], model_dir=tmp_path / "models").notes[0]


def test_two_networks_of_one_name_are_noted(tmp_path):
    rows = [{**row("one", 0.5), "model_hash": name} for name in "ab"]
    expected = "one: the runs measured 2 networks of this name, which differ in weights, attributes or code"
    assert read_runs([evaluation(tmp_path / "r.json", rows)], cards=False).notes == [expected]
    for name, seed in (("jacobian", "c"), ("hybrid", "d")):
        measurements(0)[name].save(tmp_path / "one", about={**ABOUT, "model": "one", "model_hash": seed})
    assert read_runs([tmp_path / "one"], cards=False).notes == [expected]


def unlike_runs(folder):
    """Two models, of whose diagnostics each has a setting of its own."""
    for seed, (name, changed) in enumerate({
        "one": {},
        "two": {
            "hybrid": {"seeds": [4, 5]}, "fourier_heatmap": {"norm": 2.0}, "band_accuracy": {"eps": 2 / 255},
            "loss_landscape_low": {"seed": 1},
        },
    }.items()):  # fmt: skip
        for kind, measured in measurements(seed).items():
            replace(measured, **changed.get(kind, {})).save(folder / name, kind, {**ABOUT, "model": name})
        perturbations = replace(PERTURBATIONS, norm=("Linf", "L2")[seed])
        perturbations.save(folder / name, "minimal_perturbation", {**ABOUT, "model": name})
    return folder


def test_what_was_not_measured_alike_is_not_compared(tmp_path):
    records = read_runs([unlike_runs(tmp_path)], cards=False)
    said = [text_of(sentence) for sentence in findings(records, columns(records.models))]
    assert not [sentence for sentence in said if sentence.startswith(("frev", "f0.5"))], said
    assert [sentence for sentence in said if sentence.startswith("ln Blow")], "was measured alike"
    assert "for 1 of 1 models" in next(sentence for sentence in said if "on the high than on the low" in sentence)
    (caveat,) = [text_of(one) for one in caveats(records) if "different conditions" in one]
    assert "in band_accuracy, fourier_heatmap, hybrid, loss_landscape, minimal_perturbation: compare" in caveat


def test_a_smaller_report_leaves_no_figures_of_a_larger_one(runs, tmp_path):
    write_report(runs, tmp_path, cards=False)
    (tmp_path / "figures" / "mine.png").write_text("")
    before = {path.name for path in (tmp_path / "data").rglob("*.npz")}
    write_report([runs[3]], tmp_path, cards=False)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"mine.png", "spectra.svg", "spectra.png"}
    assert {path.name for path in (tmp_path / "data").rglob("*.npz")} == before


def test_captions_say_what_was_not_measured_alike(tmp_path):
    page = write_report([unlike_runs(tmp_path / "runs")], tmp_path / "out").read_text()
    captions = {
        name: text_of(found)
        for name, found in re.findall(r'id="figure-(\w+)".*?<figcaption>(.*?)</figcaption>', page, re.DOTALL)
    }
    expected = {
        "hybrid": "one with seeds 0, 1; two with seeds 4, 5.",
        "fourier_heatmap": "one with norm 4; two with norm 2.",
        "band_accuracy": "one with ε = 8/255; two with ε = 2/255.",
        "loss_landscapes": "one (low), one (high), two (high) with seed 0; two (low) with seed 1.",
        "perturbations": "one with L∞; two with L2.",
        "reversal": "one with seeds 0, 1; two with seeds 4, 5. Different conditions: one with L∞; two with L2.",
    }
    for name, text in expected.items():
        assert f"Different conditions: {text} Figure" in captions[name], captions[name]
    assert "alike" not in captions["jacobian"]
    panels = re.search(r'id="figure-perturbations".*?</figure>', page, re.DOTALL)[0]
    assert panels.count("size against half-power") == 2, "a norm each"


def test_a_number_of_a_part_says_of_which(tmp_path):
    part = replace(measurements(0)["hybrid"], reversal=torch.tensor([torch.nan, 0.1]))
    part.save(tmp_path / "runs" / "part", about={**ABOUT, "model": "part"})
    success = torch.tensor([True, True, False, True])
    replace(PERTURBATIONS, success=success).save(tmp_path / "runs" / "part", about={**ABOUT, "model": "part"})
    for kind, found in (("hybrid", measurements(0)["hybrid"]), ("minimal_perturbation", PERTURBATIONS)):
        whole = replace(found, success=success | True) if kind != "hybrid" else found
        whole.save(tmp_path / "runs" / "whole", kind, about={**ABOUT, "model": "whole"})
    page = text_of(write_report([tmp_path / "runs"], tmp_path / "out").read_text())
    assert "seeds 0, 1, Li et al.’s frequencies, of the 1 with one" in page
    assert "of the 3 with a perturbation" in page


def test_who_has_the_least_is_all_of_them():
    text = said([accuracy(0.36)], [accuracy(0.0)], [accuracy(0.2)], [accuracy(0.0)])[0]
    assert text.endswith(". m1, m3 have the least, 0.0 %.")


def test_unlike_conditions_give_unlike_words():
    base = {"images": 20, "source": "cifar10 test", "eps": 8 / 255, "frequencies": list(MIXING_FREQUENCIES)}
    words = HybridReliance.words
    assert described(base, words) == "20 images of cifar10 test, ε = 8/255, Li et al.’s frequencies"
    assert described({"eps": 0.0313, "norm": 2, "seed": 0}) == "ε = 0.0313, norm 2, seed 0"
    others = ({"images": 21}, {"source": ""}, {"eps": 8.1 / 255}, {"frequencies": [0.25, 0.5]}, {"frequencies": [0.25]})
    assert len({described(base | other, words) for other in others} | {described(base, words)}) == 6


def test_a_whole_number_is_as_good_as_its_float(tmp_path):
    for name, norm in (("one", 2), ("two", 2.0), ("three", 4.0)):
        found = replace(measurements(0)["fourier_heatmap"], norm=norm)
        found.save(tmp_path / name, about={**ABOUT, "model": name})
    records = read_runs([tmp_path], cards=False)
    assert records.measurements().group_by_condition("fourier_heatmap") == {
        "norm 4": ["three"],
        "norm 2": ["one", "two"],
    }
    (note,) = read_runs([tmp_path / "one", tmp_path / "one"], cards=False).notes or [""]
    assert note == ""


def test_of_measurements_under_other_settings_the_note_says_which_is_shown(tmp_path):
    for place, seeds in (("a", [0, 1]), ("b", [2, 3])):
        found = replace(measurements(0)["hybrid"], seeds=seeds)
        found.save(tmp_path / place, about={**ABOUT, "model": "one"})
    first, second = tmp_path / "a", tmp_path / "b"
    (note,) = read_runs([first, second], cards=False).notes
    shown = f"seeds 2, 3 and not seeds 0, 1, from {second / 'hybrid.json'}"
    assert note == f"one: of several measurements of hybrid one is shown: {shown}"
    assert read_runs([first, first], cards=False).notes == []
    replace(measurements(0)["hybrid"], low=random(2, 18, seed=1)).save(second, about={**ABOUT, "model": "one"})
    (note,) = read_runs([first, second], cards=False).notes
    assert note.endswith(f"one is shown: same conditions, from {second / 'hybrid.json'}")


def test_gradient_masking_is_the_first_caveat(tmp_path):
    run = evaluation(tmp_path / "r.json", [row("one", 0.5)], masking={"one": {"masking_suspected": True}})
    assert "Gradient masking is suspected" in caveats(read_runs([run], cards=False))[0]


def test_perturbations_are_drawn_where_some_were_found(tmp_path):
    def saved(name, half, success):
        power = random(32, 32) if success else torch.full((32, 32), torch.nan)
        MinimalPerturbationSpectrum(
            random(20), torch.full((20,), success), power, torch.arange(23) / 32, random(23), random(25), random(25),
            half, half, half, half, "BB(steps=50)", "Linf", 50, 3, 0, 20,
        ).save(tmp_path / "runs" / name, about={"model": name})  # fmt: skip

    saved("found", 0.125, True)
    saved("none", torch.nan, False)
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert summary_table(page)[1] == {"found": ["0.125"], "none": ["none"]}
    assert page.count('<div class="panel"><p><code>found</code></p>') == 1 and "BB(steps=50)" in page
    assert '<div class="panel"><p><code>none</code></p>' not in page
    assert json.loads((tmp_path / "out" / "results.json").read_text())["models"][1]["measurements"][
        "minimal_perturbation"]["half_power_frequency"] is None  # fmt: skip


def test_what_was_measured_but_is_not_there_is_told_from_what_was_not_measured(tmp_path):
    never = replace(measurements(0)["hybrid"], reversal=torch.tensor([torch.nan, torch.nan]))
    for name, hybrid in {"never": never, "some": measurements(1)["hybrid"], "other": measurements(2)["hybrid"]}.items():
        hybrid.save(tmp_path / "runs" / name, about={"model": name})
    measurements(3)["jacobian"].save(tmp_path / "runs" / "without", about={"model": "without"})
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert summary_table(page)[1] == {
        "never": ["–", "none"], "other": ["–", "0.375"], "some": ["–", "0.375"], "without": ["7.12", "–"],
    }  # fmt: skip
    assert re.search('<td class="absent" title="(.*?)">none</td>', page)[1] == (
        "measured: p(low) − p(high) never rises through 0"
    )
    assert "frev none: measured, but p(low) − p(high) never rises through 0." in text_of(page)
    assert "is 0.375 cycles/pixel for all of 2 models." in text_of(page)
    found = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert found[0]["measurements"]["hybrid"]["reversal"] == [None, None]
    write_report([tmp_path / "runs" / "never"], tmp_path / "out")
    assert summary_table((tmp_path / "out" / "index.html").read_text())[1] == {"never": ["none"]}


def test_fifteen_models_have_a_line_a_panel_and_a_legend_each(tmp_path):
    for number in range(15):
        for kind in ("jacobian", "hybrid"):
            measurements(number)[kind].save(tmp_path / "runs" / f"m{number}", kind, {"model": f"m{number}"})
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page, re.DOTALL)[1]
    assert len(set(re.findall(r"<svg.*?</svg>", legend, re.DOTALL))) == 15
    assert len(summary_table(page)[1]) == 15
    assert len(re.findall(r'<div class="panel"><p><code>m\d+</code></p><svg', page)) == 15


def accuracy(share, protocol="natural", images=10_000, attack="PGD-20"):
    return Accuracy(protocol, attack, "Linf", 8 / 255, 2 / 255, images, 0, share, Origin(None, ABOUT))


def said(*models):
    """The findings of models given by their accuracies."""
    records = Records([ModelRecord(f"m{n}", accuracies=list(found)) for n, found in enumerate(models)], {}, [])
    return [text_of(sentence) for sentence in findings(records, columns(records.models))]


def test_the_most_robust_is_named_with_those_that_cannot_be_told_from_it():
    first, *_ = said([accuracy(0.36)], [accuracy(0.355)], [accuracy(0.1)])
    assert first == (
        "Under PGD-20, L∞, ε = 8/255 (protocol natural; 10,000 images of cifar10 test, seed 0, step 2/255), m0 "
        "classifies 36.0 % of the images correctly (95 % interval 35.1 to 36.9 %), the most of 3 models; intervals "
        "that overlap with it: m1. m2 has the least, 10.0 %."
    )
    assert "overlap" not in said([accuracy(0.36)], [accuracy(0.3)])[0]
    assert said([accuracy(0.36, images=20)])[0].endswith("(95 % interval 18.9 to 57.7 %).")


def test_only_what_was_measured_alike_is_compared():
    text = said([accuracy(0.36)], [accuracy(0.9, images=20)], [accuracy(0.1)])[0]
    assert "m0 classifies 36.0 %" in text and "of 2 models" in text and "m1" not in text


def test_corruptions_are_summed_up(tmp_path):
    records = read_runs([corrupted(tmp_path / "c.json", one=0.5, two=0.75)], cards=False)
    (sentence,) = map(text_of, findings(records, columns(records.models)))
    assert (
        "two is the best of 2 models with 75.0 %; the hardest type is gaussian noise, with a mean of 62.5" in sentence
    )


def test_a_damaged_file_of_corruptions_is_named(tmp_path):
    path = corrupted(tmp_path / "c.json", one=0.5)
    content = json.loads(path.read_text())
    content["results"][0]["from_cache"] = {"fog": True}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"c\.json.*from_cache"):
        read_runs([path], cards=False)


def test_spectra_of_two_data_sets_stand_side_by_side(tmp_path):
    for number, source in enumerate(("cifar10 test", "svhn test", "svhn test")):
        folder, images = tmp_path / str(number), random(3 + number, 3, 32, 32)
        spectrum(images).save(folder, "natural", {**ABOUT, "source": source})
    found = read_runs([tmp_path / name for name in "012"], cards=False).spectra
    assert {name: one.of.images for name, one in found.items()} == {"natural": 3, "natural (svhn test)": 5}


def test_corruptions_under_another_protocol_are_named(tmp_path):
    natural = corrupted(tmp_path / "b.json", one=0.5)
    more = corrupted(tmp_path / "a.json", "natural+bass", 200, one=0.75, two=0.25)
    last = corrupted(tmp_path / "c.json", "bass", 300, one=0.8)
    records = read_runs([more, natural, last], cards=False)
    assert {model.name: model.corrupted.accuracy.protocol for model in records.models} == {
        "one": "natural", "two": "natural+bass",
    }  # fmt: skip
    left = "one: accuracies on corruptions are left out: {} images of cifar10 a severity, made by freqrob, protocol {}"
    assert records.notes == [left.format(200, "natural+bass"), left.format(300, "bass")]
    labels = pictures(records)["corruptions"].panels[0].draw.keywords["models"]
    assert list(labels) == ["one", "two, natural+bass"]


def test_the_reversal_frequency_is_drawn_where_there_is_one():
    def drawn(reversal):
        of = {"hybrid": replace(HYBRID, reversal=torch.tensor(reversal)), "minimal_perturbation": PERTURBATIONS}
        about = {name: Measured(one, Origin(None, {})) for name, one in of.items()}
        return "reversal" in pictures(Records([ModelRecord("one", measurements=about)], {}, []))

    assert drawn([0.25, torch.nan]) and not drawn([torch.nan, torch.nan])


def test_what_the_protocol_decides_is_said_only_beyond_noise():
    far = [accuracy(0.3, "bass"), accuracy(0.2), accuracy(0.01, "natural+bass")]
    assert "m0 has 30.0 % under bass, 20.0 % under natural, 1.0 % under natural+bass" in said(far)[1]
    near = [accuracy(0.3, "bass"), accuracy(0.299), accuracy(0.301, "natural+bass")]
    assert len(said(near)) == 1


def test_the_strongest_attack_stands_for_robustness():
    assert said([accuracy(0.3), accuracy(0.2, attack="AutoAttack"), accuracy(0.4, attack="FGSM")])[0].startswith(
        "Under AutoAttack"
    )


def test_a_relation_with_robustness_needs_five_models_and_a_small_p():
    def told(levels, shares):
        models = [ModelRecord(f"m{n}", accuracies=[accuracy(share)]) for n, share in enumerate(shares)]
        for model, level in zip(models, levels, strict=True):
            jacobian = JacobianSpectrum(torch.ones(32, 17), float(level), 128, 500)
            model.measurements["jacobian"] = Measured(jacobian, Origin(None, ABOUT))
        return next(text_of(s) for s in findings(Records(models, {}, []), columns(models)) if "B<sub>" in s)

    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert "(m0) to 8.00 (m5); it rises with robust accuracy (Spearman’s ρ = 1.00 over 6" in told(range(3, 9), shares)
    assert "it falls with robust accuracy (Spearman’s ρ = −1.00" in told(range(8, 2, -1), shares)
    assert "is not significant" in told([3, 8, 4, 7, 5, 6], shares)
    assert told([3, 4, 5, 6], shares[:4]).endswith("ranges from 3.00 (m0) to 6.00 (m3).")
    assert told([3, 3, 3], shares[:3]).endswith("is 3.00 for all of 3 models.")


def test_interval_is_wilsons():
    low, high = accuracy(0.5, images=20).interval
    assert (low, high) == (pytest.approx(0.299, abs=1e-3), pytest.approx(0.701, abs=1e-3))
    assert accuracy(0.0).interval == (0.0, pytest.approx(0.000384, abs=1e-6))


def test_report_command(runs, tmp_path):
    options = ["--out", str(tmp_path / "out"), "--title", "Ours & theirs", "--no-cards"]
    result = CliRunner().invoke(cli.app, ["report", *map(str, runs[1:3]), *options])
    assert result.exit_code == 0, result.output
    assert "<h1>Ours &amp; theirs</h1>" in (tmp_path / "out" / "index.html").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["command"].endswith("--no-cards")
    (tmp_path / "file").write_text("")
    for wrong in ([str(tmp_path / "none")], [str(runs[0]), "--out", str(tmp_path / "file" / "r")]):
        refused = CliRunner().invoke(cli.app, ["report", *wrong])
        assert refused.exit_code == 2 and "Error" in refused.output and "Traceback" not in refused.output


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
IN_A_BROWSER = """
<script>
const table = document.querySelector("table.summary");
const of = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
const buttons = [...table.querySelectorAll("th button")], said = [];
const heads = buttons.map((button) => button.closest("th"));
for (const i of [2, 2, 0, 1, 1]) { buttons[i].click(); said.push([of(i), heads[i].getAttribute("aria-sort")]); }
const region = table.parentElement, more = [];
for (const at of [0, region.scrollWidth]) {
  region.scrollLeft = at;
  region.dispatchEvent(new Event("scroll"));
  more.push(region.classList.contains("more"));
}
document.title = JSON.stringify({said, more, wide: document.documentElement.scrollWidth - innerWidth});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_page_sorts_and_scrolls_in_a_browser_without_errors(page, tmp_path):
    (tmp_path / "index.html").write_text(page.replace("</body>", IN_A_BROWSER + "</body>"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        found = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             "--enable-logging=stderr", "--window-size=500,800", "--dump-dom", (tmp_path / "index.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert "CONSOLE" not in found.stderr, found.stderr
    title = json.loads(unescape(re.search("<title>(.*?)</title>", found.stdout, re.DOTALL)[1]))
    down, up, names, *absent = title["said"]
    assert down == [["43.8", "30.0a", "12.5"], "descending"] and up == [["12.5", "30.0a", "43.8"], "ascending"]
    assert names == [[HOSTILE, "late", "pgd_at_tiny"], "ascending"] and title["wide"] <= 0
    assert title["more"] == [True, False], "a shadow where the table goes on, until its end is in sight"
    assert [order for order, _ in absent] == [["75.0", "–", "–"]] * 2, "what was not measured comes last both ways"


def test_text_is_whole_or_absent(tmp_path):
    (tmp_path / "page.html").write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text(tmp_path / "page.html", "after")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "before"


def test_samples_are_the_first_test_images():
    found = samples.sample_images()
    assert found.images.shape == (20, 3, 32, 32) and found.images.dtype == torch.uint8
    # The labels of CIFAR-10's first twenty test images.
    assert found.labels.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6]
    assert [found.classes[label] for label in found.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    assert found.images[0, :, 0, 0].tolist() == [158, 112, 49]


def test_samples_are_those_that_foolbox_brings_too():
    folder = Path(pytest.importorskip("foolbox").__file__).parent / "data"
    paths = sorted(folder.glob("cifar10_*.png"))
    theirs = torch.stack([torch.from_numpy(np.array(read_image(path))).movedim(-1, 0) for path in paths])
    assert torch.equal(samples.sample_images().images, theirs)
