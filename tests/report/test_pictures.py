"""Which figures a report has, and how large."""

from dataclasses import replace

import torch

from freqrob.report.pictures import pictures
from freqrob.report.records import MeasurementRecord, ModelRecord, Origin, Records
from freqrob.report.runs import read_runs
from tests.support.measurements import HYBRID, corrupted
from tests.support.reports import LONG, as_in_a_file


def test_the_table_of_corruptions_has_room_for_long_names(tmp_path):
    records = read_runs([corrupted(tmp_path / "c.json", **dict.fromkeys(LONG, 0.5))], cards=False)
    figure = as_in_a_file(pictures(records)["corruptions"])
    (axes,) = figure.axes
    assert axes.get_window_extent().height > 15 * 20 and axes.get_tightbbox().x0 >= 0


def test_corruptions_are_drawn_against_the_reversal_frequency_where_there_is_one(tmp_path):
    corruptions = read_runs([corrupted(tmp_path / "c.json", one=0.5)], cards=False).models[0].corruptions

    def drawn(reversal, corruptions):
        hybrid = MeasurementRecord(replace(HYBRID, reversal=torch.tensor(reversal)), Origin(None, {}))
        model = ModelRecord("one", measurements={"hybrid": hybrid}, corruptions=corruptions)
        return "reliance" in pictures(Records([model], {}, []))

    assert drawn([0.25, torch.nan], corruptions)
    assert not drawn([torch.nan, torch.nan], corruptions) and not drawn([0.25, torch.nan], [])
