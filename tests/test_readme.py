"""The README says what was measured, and its five lines run."""

import re
import runpy
from pathlib import Path

import torch

from benchmarks import readme


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
