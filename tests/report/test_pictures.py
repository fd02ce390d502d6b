"""Which figures a report has, and how large."""

from dataclasses import replace

import torch

from freqrob.report.pictures import pictures
from freqrob.report.records import Measured, ModelRecord, Origin, Records
from freqrob.report.runs import read_runs
from tests.support.measurements import HYBRID, PERTURBATIONS, corrupted
from tests.support.reports import LONG, as_in_a_file


def test_the_table_of_corruptions_has_room_for_long_names(tmp_path):
    records = read_runs([corrupted(tmp_path / "c.json", **dict.fromkeys(LONG, 0.5))], cards=False)
    figure = as_in_a_file(pictures(records)["corruptions"])
    (axes,) = figure.axes
    assert axes.get_window_extent().height > 15 * 20 and axes.get_tightbbox().x0 >= 0


def test_the_reversal_frequency_is_drawn_where_there_is_one():
    def drawn(reversal):
        of = {"hybrid": replace(HYBRID, reversal=torch.tensor(reversal)), "minimal_perturbation": PERTURBATIONS}
        about = {name: Measured(one, Origin(None, {})) for name, one in of.items()}
        return "reversal" in pictures(Records([ModelRecord("one", measurements=about)], {}, []))

    assert drawn([0.25, torch.nan]) and not drawn([torch.nan, torch.nan])
