"""What `results/` holds, as the tables that are made of it read it."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
NOT_MEASURED = "not measured yet"


def measured(name: str | Path) -> dict:
    """A file of results, by its name there or its own path, or nothing where there is none yet."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else {}


def gpus() -> list[dict]:
    """What `benchmarks/gpu.sh` recorded, a record for each GPU."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu_*.json"))]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def accuracy(record: dict, model: str, protocol: str, attack: str) -> float:
    """A share; NaN where it was not measured."""
    results = record.get(model, {}).get("results", ())
    found = (r["accuracy"] for r in results if (r["protocol"], r["attack"]) == (protocol, attack))
    return next(found, nan)


def log_b_low(record: dict, model: str) -> float:
    """On natural images; NaN where it was not measured."""
    return record.get(model, {}).get("log_b_low", {}).get("natural", nan)
