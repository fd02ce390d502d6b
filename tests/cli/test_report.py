"""`freqrob report`, through Typer's runner."""

import json

from typer.testing import CliRunner

from freqrob import cli
from tests.support.reports import save_runs


def test_report_command(tmp_path):
    runs = save_runs(tmp_path / "runs")
    options = ["--out", str(tmp_path / "out"), "--title", "Ours & theirs", "--no-cards"]
    result = CliRunner().invoke(cli.app, ["report", *map(str, runs[1:3]), *options])
    assert result.exit_code == 0, result.output
    assert "<h1>Ours &amp; theirs</h1>" in (tmp_path / "out" / "index.html").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["command"].endswith("--no-cards")
    (tmp_path / "file").write_text("")
    for wrong in ([str(tmp_path / "none")], [str(runs[0]), "--out", str(tmp_path / "file" / "r")]):
        refused = CliRunner().invoke(cli.app, ["report", *wrong])
        assert refused.exit_code == 2 and "Error" in refused.output and "Traceback" not in refused.output
