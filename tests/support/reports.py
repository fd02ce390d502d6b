"""Runs that reports are made from, and helpers that read a report's text."""

import re
from dataclasses import replace
from html import unescape

from matplotlib import rc_context

from freqrob.diagnostics import corruption_spectrum, spectrum
from freqrob.report.figures import STYLE, draw_all
from freqrob.report.records import Accuracy, Origin
from tests.support.measurements import ABOUT, CLEAN, PERTURBATIONS, corrupted, evaluation, measurements, random, row

HOSTILE = r"<script>alert($\frac$)</script>"  # neither HTML nor TeX
LONG = (
    "robustbench:Carmon2019Unlabeled", "robustbench:Rebuffi2021Fixing_70_16_cutmix_extra", "mine.nets:wide?width=4",
    "nets:of_my_own_defence?alpha=0.30000000001&beta=something", "ALLINCAPITALSANDWITHOUTANYSIGNTOBREAKAT", "short",
)  # fmt: skip


def text_of(markup):
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", str(markup)))).strip()


def summary_table(page):
    """Heads and, by model, cells of the summary, as they are read."""
    table = re.search(r'<table class="summary sortable">(.*?)</table>', page, re.DOTALL)[1]
    heads = [text_of(cell) for cell in re.findall(r'<th [^>]*scope="col".*?</th>', table)]
    body = re.findall(r'<tr><th scope="row".*?</tr>', table, re.DOTALL)
    lines = [[text_of(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)] for line in body]
    return heads, {name: cells for name, *cells in lines}


def as_in_a_file(picture):
    with rc_context(STYLE):
        figure = draw_all(picture)
        figure.draw_without_rendering()
    return figure


def save_runs(folder):
    """Two models with all diagnostics, one that was only evaluated, and two sets of images."""
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


def accuracy(share, protocol="natural", images=10_000, attack="PGD-20"):
    return Accuracy(protocol, attack, "Linf", 8 / 255, 2 / 255, images, 0, share, Origin(None, ABOUT))
