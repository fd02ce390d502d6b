"""Runs: which files are read, how they are matched, and which are refused or left out."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from freqrob.diagnostics import spectrum
from freqrob.models.cards import Card
from freqrob.models.checkpoints import card_path
from freqrob.report import write_report
from freqrob.report.pictures import pictures
from freqrob.report.runs import read_runs
from tests.support.measurements import ABOUT, CLEAN, corrupted, evaluation, measurements, random, row
from tests.support.reports import HOSTILE, summary_table


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
    assert model.measurements["jacobian"].measurement.log_b_low == 6.125
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


def test_of_measurements_under_other_settings_the_note_says_which_is_shown(tmp_path):
    for place, seeds in (("a", [0, 1]), ("b", [2, 3])):
        found = replace(measurements(0)["hybrid"], seeds=seeds)
        found.save(tmp_path / place, about={**ABOUT, "model": "one"})
    first, second = tmp_path / "a", tmp_path / "b"
    (note,) = read_runs([first, second], cards=False).notes
    shown = f"seeds 2, 3 and not seeds 0, 1, from {second / 'hybrid.json'}"
    assert note == f"one: one of several measurements of hybrid is shown: {shown}"
    assert read_runs([first, first], cards=False).notes == []
    replace(measurements(0)["hybrid"], low=random(2, 18, seed=1)).save(second, about={**ABOUT, "model": "one"})
    (note,) = read_runs([first, second], cards=False).notes
    assert note.endswith(f"is shown: same conditions, from {second / 'hybrid.json'}")


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
    assert {name: one.measurement.images for name, one in found.items()} == {"natural": 3, "natural (svhn test)": 5}


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
