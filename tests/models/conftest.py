"""Fixtures of the tests of models."""

import pytest

from freqrob.models import loading


@pytest.fixture
def nothing_shipped(tmp_path, monkeypatch):
    """An empty package folder, whatever the package ships, and a working directory without models."""
    monkeypatch.setattr(loading, "shipped_folder", lambda: tmp_path / "shipped")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
