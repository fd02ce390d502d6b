"""The README says what was measured, and its five lines run."""

import re
import runpy
import shlex
from pathlib import Path

import torch
import typer

from benchmarks import readme
from freqrob import cli


def test_tables_are_what_results_say():
    text = readme.README.read_text()
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


def test_the_model_in_five_lines_runs(tmp_path):
    code = re.search(r"```python\n(import torch, freqrob.*?)```", readme.README.read_text(), re.DOTALL)[1]
    script = tmp_path / "five_lines.py"
    script.write_text(code)
    with torch.no_grad():
        assert runpy.run_path(str(script))["logits"].shape == (8, 10)


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme.README.read_text()):
        assert (Path(readme.ROOT) / target).exists(), target


def test_its_commands_are_understood_and_report_on_what_they_write():
    lines = re.findall(r"^freqrob .*", readme.README.read_text().replace("\\\n", ""), re.MULTILINE)
    assert len(lines) >= 5
    written = []
    for line in lines:
        _, name, *arguments = shlex.split(line)
        given = typer.main.get_command(cli.app).commands[name].make_context(name, arguments).params
        assert not any(model.startswith("timm:") for model in given.get("models", [])), "of ImageNet's 1000 classes"
        assert set(given.get("runs", [])) <= set(written), line
        written += given["out"] if isinstance(given.get("out"), list) else [given.get("out")]
