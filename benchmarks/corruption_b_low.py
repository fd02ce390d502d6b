"""ln B_low of the change that each of the 19 corruptions makes to CIFAR-10's test images, as in JaFR's Table 1.

    python -m benchmarks.corruption_b_low --data DIR [--frost DIR] [--images N] [--out FILE] [--quick]

The corruptions are generated in memory, in about a minute per thousand images. Writes JSON and prints the types from
low to high frequencies. Rank correlations are with the paper's column, if three or more of its values are known, and
with Li et al.'s bands (low, medium, high) of the benchmark's 15 types.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.script import load_images, make_parser, parse, run
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, find_frost
from freqrob.diagnostics import corruption_spectrum
from freqrob.runtime.files import write_json
from freqrob.runtime.provenance import provenance
from freqrob.runtime.statistics import rank_correlation

PAPER = {"gaussian_noise": 3.62}  # Chan et al., IJCAI 2022, Table 1, last column: the known values
BANDS = {"low": 2, "medium": 1, "high": 0}  # Li et al., PLoS Comput. Biol. 2023


def measure(images: Tensor, name: str, frost: Path | None) -> dict:
    """A row of the table: a type's ln B_low at each severity, and over all."""
    found = corruption_spectrum(images, (corrupt(images, name, severity, frost=frost) for severity in SEVERITIES))
    return {
        "type": name,
        "band": CORRUPTIONS[name].band,
        "log_b_low": round(found.mean_log_b_low, 4),
        "by_severity": [round(value, 4) for value in found.log_b_low.tolist()],
        "of_the_mean_spectrum": round(found.log_b_low_of_all, 4),
        "paper": PAPER.get(name),
    }


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs."""
    return round(rank_correlation(*zip(*pairs, strict=True))[0], 4) if len(pairs) >= 3 else None


def main(given: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, "corruption_b_low.json", data=True)
    parser.add_argument("--frost", type=Path, metavar="DIR", help="photographs, where no package has them")
    parser.add_argument("--images", type=int, default=10_000, help="the first of the test set")
    arguments = parse(parser, given)
    if arguments.quick:
        arguments.images = 4
    find_frost(arguments.frost)
    images = load_images(arguments).images[: arguments.images]
    rows = []
    for name in CORRUPTIONS:
        rows.append(measure(images, name, arguments.frost))
        print(f"{name:18} {rows[-1]['log_b_low']:7.3f}", flush=True)
    rows.sort(key=lambda row: -row["log_b_low"])
    known, banded = ([row for row in rows if row[key] is not None] for key in ("paper", "band"))
    with_bands = _correlation([(row["log_b_low"], BANDS[row["band"]]) for row in banded])
    with_paper = _correlation([(row["log_b_low"], row["paper"]) for row in known])
    record = {
        **provenance(f"python -m benchmarks.corruption_b_low --images {len(images)}"),
        "source": "cifar10 test, corrupted here",
        "images": len(images),
        "log_b_low": "ln B_low of the mean |rfft2(x' - x)|, x in [0, 1], at each severity; the severities' mean",
        "paper": "Chan et al., IJCAI 2022, Table 1, last column; null where its value is not at hand",
        "rank_correlation_with_paper": with_paper,
        "rank_correlation_with_bands": with_bands,
        "from_low_to_high": [row["type"] for row in rows],
        "rows": rows,
    }  # fmt: skip
    write_json(arguments.out, record)
    print("from low to high frequencies:", ", ".join(record["from_low_to_high"]))
    print(f"rank correlation with Li et al.'s bands: {with_bands}")
    few = f"too few of its values at hand ({len(known)})"
    print(f"with JaFR's Table 1: {few if with_paper is None else with_paper}")


if __name__ == "__main__":
    run(main)
