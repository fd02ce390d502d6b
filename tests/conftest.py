"""Fixtures that every test file may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Facts, golden arrays and data that lie beside the checkout; a test that needs them is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
    return SHARED
