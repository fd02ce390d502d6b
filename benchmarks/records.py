"""The records in `results/`, for the tables that are made from them."""

from __future__ import annotations

import json
from math import nan
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


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def accuracy(record: dict, model: str, protocol: str, attack: str) -> float:
    """A share; NaN if it was not measured."""
    results = record.get(model, {}).get("results", ())
    found = (r["accuracy"] for r in results if (r["protocol"], r["attack"]) == (protocol, attack))
    return next(found, nan)


def log_b_low(record: dict, model: str) -> float:
    """ln B_low on natural images; NaN if it was not measured."""
    return record.get(model, {}).get("log_b_low", {}).get("natural", nan)
