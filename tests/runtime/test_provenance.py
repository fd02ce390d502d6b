"""What a record says of the code that made it."""

import subprocess
from pathlib import Path

import pytest

from freqrob.runtime.provenance import commit, provenance

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_record_has_the_commit_of_the_checkout():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert commit() and head.startswith(commit().removesuffix("+"))
    assert provenance("a command")["commit"] == commit()
