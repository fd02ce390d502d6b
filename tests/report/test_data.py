"""The report's numbers as JSON, CSV and copies of the runs."""

import csv
import json

from freqrob.report import write_report
from freqrob.report.data import COLUMNS, copy_data
from freqrob.report.runs import read_runs
from tests.support.measurements import evaluation, row
from tests.support.reports import summary_table


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
    write_report([more, copies[1], copies[0]], tmp_path / "out")  # two of them are in the output folder already
    seeds = [json.loads(path.read_text())["results"][0]["seed"] for path in (tmp_path / "out" / "data").iterdir()]
    assert sorted(seeds) == [1, 2, 3]
