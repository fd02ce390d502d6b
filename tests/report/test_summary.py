"""The summary: what was measured, under which conditions, and what is not there."""

import json
import re
from dataclasses import replace

import torch

from freqrob.report import write_report
from tests.support.measurements import ABOUT, PERTURBATIONS, measurements, random
from tests.support.reports import HOSTILE, summary_table, text_of


def test_summary_shows_what_was_measured_and_only_that(page):
    heads, models = summary_table(page)
    assert heads == [
        "model", "clean 10,000 images of cifar10 test, seed 0",
        *["PGD-20, L∞, ε = 8/255 10,000 images of cifar10 test, seed 0, step 2/255"] * 3,
        *(f"{group} 100 images of cifar10 a severity, made by freqrob, protocol natural"
          for group in ("weather", "15 types")),
        "ln Blow 300 images of cifar10 test, batch 128",
        "frev 300 images of cifar10 test, seeds 0, 1, Li et al.’s frequencies",
        "HFC share 300 images of cifar10 test, HFC ≥ 0.1562 cycles/pixel",
        *(f"variation, {half} 300 images of cifar10 test, span 1.0, points 5, seed 0" for half in ("LFC", "HFC")),
    ]  # fmt: skip
    share = f"{100 * random(300, seed=0).mean():.1f}"
    assert models["pgd_at_tiny"] == [
        "–", "43.8", "10.0", "50.0", *["62.5"] * 2, "4.12", "0.750", share, "0.25", "0.12",
    ]  # fmt: skip
    assert models[HOSTILE][:5] == ["75.0", "12.5", "–", "–", "–"] and models[HOSTILE][6] == "5.12"
    assert models["late"][1:] == ["30.0a", *["–"] * 9]
    assert "a 200 images of cifar10 test, seed 0, step 2/255" in text_of(page)


def test_a_number_of_a_part_says_of_which(tmp_path):
    part = replace(measurements(0)["hybrid"], reversal=torch.tensor([torch.nan, 0.1]))
    part.save(tmp_path / "runs" / "part", about={**ABOUT, "model": "part"})
    success = torch.tensor([True, True, False, True])
    replace(PERTURBATIONS, success=success).save(tmp_path / "runs" / "part", about={**ABOUT, "model": "part"})
    for kind, found in (("hybrid", measurements(0)["hybrid"]), ("minimal_perturbation", PERTURBATIONS)):
        whole = replace(found, success=success | True) if kind != "hybrid" else found
        whole.save(tmp_path / "runs" / "whole", kind, about={**ABOUT, "model": "whole"})
    page = text_of(write_report([tmp_path / "runs"], tmp_path / "out").read_text())
    assert "seeds 0, 1, Li et al.’s frequencies, over 1 seeds with one" in page
    assert "of the 3 with a perturbation" in page


def test_what_was_measured_but_is_not_there_is_told_from_what_was_not_measured(tmp_path):
    never = replace(measurements(0)["hybrid"], reversal=torch.tensor([torch.nan, torch.nan]))
    for name, hybrid in {"never": never, "some": measurements(1)["hybrid"], "other": measurements(2)["hybrid"]}.items():
        hybrid.save(tmp_path / "runs" / name, about={"model": name})
    measurements(3)["jacobian"].save(tmp_path / "runs" / "without", about={"model": "without"})
    page = write_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert summary_table(page)[1] == {
        "never": ["–", "none"], "other": ["–", "0.750"], "some": ["–", "0.750"], "without": ["7.12", "–"],
    }  # fmt: skip
    assert re.search('<td class="absent" title="(.*?)">none</td>', page)[1] == (
        "measured: p(low) − p(high) never rises through 0"
    )
    assert "frev none: measured, but p(low) − p(high) never rises through 0." in text_of(page)
    assert "is 0.750 Nyquist for all of 2 models." in text_of(page)
    found = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert found[0]["measurements"]["hybrid"]["reversal"] == [None, None]
    write_report([tmp_path / "runs" / "never"], tmp_path / "out")
    assert summary_table((tmp_path / "out" / "index.html").read_text())[1] == {"never": ["none"]}
