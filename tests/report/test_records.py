"""The records of what was measured."""

from dataclasses import replace

import pytest

from freqrob.report.runs import read_runs
from tests.support.measurements import ABOUT, measurements
from tests.support.reports import accuracy


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


def test_interval_is_wilsons():
    low, high = accuracy(0.5, images=20).interval
    assert (low, high) == (pytest.approx(0.299, abs=1e-3), pytest.approx(0.701, abs=1e-3))
    assert accuracy(0.0).interval == (0.0, pytest.approx(0.000384, abs=1e-6))
