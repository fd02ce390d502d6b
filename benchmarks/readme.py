"""Write the README's tables from `results/`.

    python -m benchmarks.readme [--check]

Each table stands between `<!-- NAME -->` and `<!-- /NAME -->`. With --check nothing is written; the exit code is 1
if the README is not what `results/` says.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from freqrob.evaluation import PROTOCOLS
from freqrob.files import write_text

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("standard_rn20", "bassmix_standard_rn20", "pgd_at_rn20", "bass_pgd_at_rn20")
README, RESULTS = ROOT / "README.md", ROOT / "results"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def models() -> str:
    """Accuracies of the shipped models, a column for each protocol."""
    records = [json.loads((RESULTS / "models_cifar10" / f"{name}.json").read_text()) for name in SHIPPED]
    results = [result for record in records for result in record["results"]]
    rows = []
    for name in SHIPPED:
        cells = []
        for protocol in PROTOCOLS:
            found = [r for r in results if r["model"] == name and r["protocol"] == protocol]
            cells.append(" / ".join(f"{100 * r['accuracy']:.1f}" for r in found))
        rows.append([f"`{name}`", *cells])
    attacked = next(r for r in results if r["attack"] != "clean")
    note = (
        f"Clean / {attacked['attack']} accuracy (%) of the shipped models on {attacked['images']:,} images of "
        f"{records[0]['source']}; L∞, ε = {255 * attacked['eps']:.0f}/255, step {255 * attacked['step_size']:.0f}/255, "
        f"random start, seed {attacked['seed']}; an image that any iterate breaks counts as broken. They are ResNet-20s"
        " trained for ten epochs (against PGD-3 where adversarially) on two CPU cores: small twins to compare, not a "
        "state of the art."
    )
    return f"{table(['model', *(f'`{p}`' for p in PROTOCOLS)], rows)}\n\n{note}"


def longtail() -> str:
    """Where the long tail's boundary lies, and what BaSS does to it."""
    record = json.loads((RESULTS / "longtail.json").read_text())
    rows = []
    for row in record["rows"]:
        natural, official, power = (row[name] for name in ("natural", "official", "power"))
        rows.append([
            f"{row['images']} ({row['count']:,} at {row['height']}×{row['width']})",
            *(f"{found['alpha']:.2f}" for found in (natural, official, power)),
            *(f"{100 * found['boundary_share_of_largest_radius']:.0f}" for found in (natural, official, power)),
        ])  # fmt: skip
    header = ["images", "α", "official", "power", "80/20 boundary, % of the largest radius", "official", "power"]
    note = (
        "α: power falls as f^−α; columns 2 to 4 for natural images and after each reading of BaSS, then the same for "
        "the smallest disc that holds 80 % of the power, DC left out. The paper says that it lies near 20 %."
    )
    return f"{table(header, rows)}\n\n{note}"


def speed() -> str:
    """The fused ops against their peers of the same run."""
    record = json.loads((RESULTS / "spectral_cpu.json").read_text())
    rows = {(row["workload"], row["candidate"]): row for row in record["rows"] if row["memory"] == "fresh"}
    workloads, candidates = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))

    def cell(workload: str, candidate: str) -> str:
        row = rows.get((workload, candidate))
        if row is None:
            return ""
        return f"{row['ms']:.2f} ms" if candidate == "freqrob" else f"{row['ratio']:.1f} ×"

    body = [[candidate, *(cell(workload, candidate) for workload in workloads)] for candidate in candidates]
    note = (
        "A whole batch, float32 unless said; the others as multiples of freqrob's time in the same run, medians. "
        f"{record['machine']}, {record['threads']} threads, {record['isa']}, torch {record['versions']['torch']}. "
        "`python -m benchmarks.spectral` measures your machine."
    )
    return f"{table(['', *workloads], body)}\n\n{note}"


TABLES = {"models": models, "longtail": longtail, "speed": speed}


def filled(text: str) -> str:
    """The README's text with every table renewed."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{README.name}: no place for the table {name!r}")
        content = make()
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = README.read_text()
    after = filled(before)
    if not check:
        write_text(README, after)
    return int(check and before != after)


if __name__ == "__main__":
    raise SystemExit(main())
