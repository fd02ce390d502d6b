"""Progress where there is no terminal."""

import re

import pytest

from freqrob.cli import progress

pytestmark = pytest.mark.usefixtures("wide_terminal")


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    def lines(seconds, quiet=False):
        monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
        with progress.progress_bars(quiet) as (show, log):
            for _ in show(range(5, 8), "pgd_at_tiny", 8, 128):
                pass
            log("epoch 1")
        return capsys.readouterr().err.splitlines()

    *steps, epoch = lines(0)
    assert [re.match(r"pgd_at_tiny (\d)/8 ", line)[1] for line in steps] == ["6", "7", "8"]
    assert re.fullmatch(r"pgd_at_tiny 8/8 [\d,]+ images/s 0:00:\d\d left 0:00:00", steps[-1])
    assert lines(3600) == [epoch] == ["epoch 1"] and lines(0, quiet=True) == []
