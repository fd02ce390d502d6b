"""Fixtures that every test file may use."""

import os
from pathlib import Path

import pytest

# Before torch is imported: small tensors on several threads crawl where another process wants a core too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Facts, golden arrays and data that lie beside the checkout; a test that needs them is skipped without them."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the checkout")
    return SHARED
