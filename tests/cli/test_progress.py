"""Progress where there is no terminal."""

import re

import pytest

from freqrob.cli import progress

pytestmark = pytest.mark.usefixtures("wide_terminal")


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    def lines(seconds, quiet=False):
        monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
        with progress.progress_bars(quiet) as (show, log):
            for _ in show(range(5, 8), "pgd_at_tiny", 8, 1000):
                pass
            log("epoch 1")
        return capsys.readouterr().err.splitlines()

    *steps, epoch = lines(0)
    counts = [re.match(r"pgd_at_tiny ([\d,]+)/1,000 images ", line)[1] for line in steps]
    assert counts == ["750", "875", "1,000"], "of eight items, five were done before"
    assert re.fullmatch(r"pgd_at_tiny 1,000/1,000 images [\d,.]+ images/s 0:00:\d\d left 0:00:00", steps[-1])
    assert lines(3600) == [epoch] == ["epoch 1"] and lines(0, quiet=True) == []


def test_items_that_are_no_images_are_counted_themselves(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    with progress.progress_bars() as (show, _):
        list(show(["fog", "snow"], "corruptions", 2))
    assert re.match(r"corruptions 2/2  0:00", capsys.readouterr().err.splitlines()[-1])
