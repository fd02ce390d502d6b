"""The records in `results/`, for the tables that are made from them."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
NOT_MEASURED = "not measured yet"


def measured(name: str | Path) -> dict:
    """A record, by its name in results/ or its path; empty if it does not exist."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else {}


def gpus() -> list[dict]:
    """The records of `benchmarks/gpu.sh`, one per GPU."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu_*.json"))]
