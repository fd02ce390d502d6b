"""The page: its sections, its links and captions, in a browser too."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from html.parser import HTMLParser

import pytest
import torch

from freqrob.diagnostics import MinimalPerturbationSpectrum
from freqrob.report import write_report
from freqrob.report.figures import png_uri
from tests.support.measurements import ABOUT, evaluation, measurements, random, row
from tests.support.reports import HOSTILE, summary_table, text_of, unlike_runs


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


def test_arrows_point_where_axes_go(page):
    arrows = dict(re.findall(r'id="figure-([\w.]+)"(?:(?!</figure>).)*<p class="axes">→ [^→]*?([↑↓])', page, re.DOTALL))
    assert arrows == {"jacobian": "↓", "loss_landscapes": "↑", "fourier_heatmap": "↓", "fourier_heatmap_block.0": "↓"}


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


def test_results_of_another_command_are_not_overwritten(tmp_path):
    results = evaluation(tmp_path / "results.json", [row("one", 0.25)])
    other = evaluation(tmp_path / "b.json", [row("one", 0.5)])
    before = results.read_bytes()
    with pytest.raises(FileExistsError, match=r"out: .*results\.json .*; choose another"):
        write_report([other], tmp_path)
    assert results.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "results.json"]


def test_a_report_of_images_alone_says_how_to_get_a_model(runs, tmp_path):
    page = write_report([runs[3]], tmp_path).read_text()
    assert "No model was measured" in page and "figure-spectra" in page and 'id="summary"' not in page


def test_a_smaller_report_leaves_no_figures_of_a_larger_one(runs, tmp_path):
    write_report(runs, tmp_path, cards=False)
    (tmp_path / "figures" / "mine.png").write_text("")
    before = {path.name for path in (tmp_path / "data").rglob("*.npz")}
    write_report([runs[3]], tmp_path, cards=False)
    drawn = {"mine.png", "spectra.svg", "spectra.png", "spectra.pdf"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == drawn
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
    }
    for name, text in expected.items():
        assert f"Different conditions: {text} Figure" in captions[name], captions[name]
    assert "alike" not in captions["jacobian"]
    panels = re.search(r'id="figure-perturbations".*?</figure>', page, re.DOTALL)[0]
    assert panels.count("size against half-power") == 2, "a norm each"


def test_perturbations_are_drawn_where_some_were_found(tmp_path):
    def saved(name, half, success):
        power = random(32, 32) if success else torch.full((32, 32), torch.nan)
        MinimalPerturbationSpectrum(
            random(20), torch.full((20,), success), torch.zeros(20, dtype=torch.bool), power,
            torch.arange(23) / 32, random(23), random(25), random(25),
            half, half, half, half, "BB(steps=50)", "Linf", 50, 10, 3, 0, 20,
        ).save(tmp_path / "runs" / name, about={"model": name})  # fmt: skip

    saved("found", 0.125, True)
    saved("none", torch.nan, False)
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert summary_table(page)[1] == {"found": ["0.125"], "none": ["none"]}
    assert page.count('<div class="panel"><p><code>found</code></p>') == 1 and "BB(steps=50)" in page
    assert '<div class="panel"><p><code>none</code></p>' not in page
    assert json.loads((tmp_path / "out" / "results.json").read_text())["models"][1]["measurements"][
        "minimal_perturbation"]["half_power_frequency"] is None  # fmt: skip


def test_fifteen_models_have_a_line_a_panel_and_a_legend_each(tmp_path):
    for number in range(15):
        for kind in ("jacobian", "hybrid"):
            measurements(number)[kind].save(tmp_path / "runs" / f"m{number}", kind, {"model": f"m{number}"})
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page, re.DOTALL)[1]
    assert len(set(re.findall(r"<svg.*?</svg>", legend, re.DOTALL))) == 15
    assert len(summary_table(page)[1]) == 15
    assert len(re.findall(r'<div class="panel"><p><code>m\d+</code></p><svg', page)) == 15


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
