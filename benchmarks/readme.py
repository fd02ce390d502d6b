"""Write the README's tables from `results/`.

    python -m benchmarks.readme [--check]

Each table is between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isnan

from benchmarks.records import NOT_MEASURED, ROOT, accuracy, gpus, log_b_low, measured, table
from benchmarks.replication import claims
from benchmarks.script import generate, run
from freqrob.evaluation import PROTOCOLS
from freqrob.models.registry import DEFENSES, VARIANTS, ModelName
from freqrob.reproduction.lin2023 import IMAGE_SETS, WEIGHTINGS, long_tail_row

LONG_TAIL = "reproduction/lin2023/longtail/rn20/result.json"  # of freqrob reproduce lin2023:longtail
README = ROOT / "README.md"
CEILING = "of the ceiling"
CEILING_NOTE = (
    "The ceiling is the time to copy the bytes that must be moved, or the transforms' 5/2·N·log₂N flops at the rate of "
    "a float32 matrix product if that takes longer, both measured in the same run. "
)


def models() -> str:
    """Accuracies of the small models, a column for each protocol, and ln B_low."""
    record = measured("cifar10_rn20.json")
    if not record:
        return NOT_MEASURED
    fullest = max((model["results"] for model in record.values()), key=len)
    attacks = list(dict.fromkeys(result["attack"] for result in fullest))
    rows = [
        [
            f"`{name}`",
            *(" / ".join(shown(100 * accuracy(record, name, p, a)) for a in attacks) for p in PROTOCOLS),
            shown(log_b_low(record, name)),
        ]
        for name in sorted(record, key=family)
    ]
    attacked = next(iter(record.values()))["results"][-1]
    note = (
        f"{' / '.join(attacks)} accuracy (%) on the {attacked['images']:,} images of CIFAR-10's test set; L∞, ε = "
        f"{255 * attacked['eps']:.0f}/255, step {255 * attacked['step_size']:.0f}/255 from a random start, seed "
        f"{attacked['seed']}; an image counts as broken if any iterate is misclassified. ln B_low: of the input "
        "gradient on natural images, larger for lower frequencies. The models are ResNet-20s of 0.27 M parameters, "
        'trained on two CPU cores with the recipes that `freqrob recipes "*rn20"` lists, one seed each: they compare '
        "defences and are not the state of the art. –: not measured."
    )
    header = ["model", *(f"`{p}`" for p in PROTOCOLS), "ln B_low"]
    return f"{table(header, rows)}\n\n{note}"


def shown(value: float) -> str:
    return "–" if isnan(value) else f"{value:.1f}"


def family(name: str) -> tuple[int, int]:
    """Sort key that puts the variants of a defence next to each other."""
    parts = ModelName.parse(name)
    return [*DEFENSES].index(parts.defense), (None, *VARIANTS).index(parts.variant)


def longtail() -> str:
    """The power law, the 80/20 boundary and the entropy, before and after BaSS."""
    rows = {row["row"]: row["numbers"] for row in measured(LONG_TAIL).get("rows", ())}
    if not rows:
        return NOT_MEASURED

    def numbers(images: str, what: str, form: str) -> list[str]:
        return [format(rows[long_tail_row(images, after)][what]["value"], form) for after in WEIGHTINGS]

    lines = [
        [f"{name} ({rows[name]['images']['value']:,} at {rows[name]['pixels']['value']} pixels)",
         *numbers(name, "entropy", ".2f"), *numbers(name, "α", ".2f"), *numbers(name, "boundary radius", ".0f")]
        for name in IMAGE_SETS
    ]  # fmt: skip
    after = ["amplitude", "power"]
    header = ["images", "entropy (nats)", *after, "α", *after, "80/20 boundary, % of the largest radius", *after]
    note = (
        "Natural images, then after each weighting of BaSS. Entropy: Σ H_k over rings, largest for a flat spectrum; "
        "α: the power of a coefficient falls as f^−α; boundary: the radius of the smallest disc that holds 80 % of the "
        "power without DC. The paper gives 20 %."
    )
    return f"{table(header, lines)}\n\n{note}"


class Speeds:
    """A record of `benchmarks.spectral`: cells of the speed table, empty where something was not measured."""

    def __init__(self, record: dict) -> None:
        self.record = record
        self.rows: dict[str, dict[str, dict]] = {}
        for row in record["rows"]:
            if row["memory"] == "fresh":
                self.rows.setdefault(row["workload"], {})[row["candidate"]] = row

    def time(self, workload: str, what: str = "ms") -> str:
        """freqrob's time."""
        ms = self.rows.get(workload, {}).get("freqrob", {}).get(what)
        return "" if ms is None else f"{1e3 * ms:.1f} µs" if ms < 0.1 else f"{ms:.2f} ms"

    def ratio(self, workload: str, kind: str) -> str:
        """How much slower the fastest candidate is whose name starts with ``kind``."""
        found = [row["ratio"] for name, row in self.rows.get(workload, {}).items() if name.startswith(kind)]
        return f"{min(found):.1f} ×" if found else ""

    def of_ceiling(self, workload: str) -> str:
        """freqrob's best time relative to the ceiling."""
        rows = self.rows.get(workload, {})
        if "copy" not in rows:
            return ""
        ours = [row.get("graph_ms", row["ms"]) for name, row in rows.items() if name.startswith("freqrob")]
        copy = rows["copy"].get("graph_ms", rows["copy"]["ms"])
        at_peak = rows["freqrob"]["flops"] / self.record["product_tflops"] / 1e9
        return f"{100 * max(copy, at_peak) / min(ours):.0f} %"

    def columns(self, name: str) -> dict[str, Callable[[str], str]]:
        return {
            name: self.time,
            f"{name}: in a graph": lambda workload: self.time(workload, "graph_ms"),
            f"{name}: best torch": lambda workload: self.ratio(workload, "torch: "),
            f"{name}: torch.compile": lambda workload: self.ratio(workload, "torch.compile: "),
            f"{name}: plain torch": lambda workload: self.ratio(workload, "torch: fft2"),
            f"{name}: Triton": lambda workload: self.ratio(workload, "Triton: "),
            f"{name}: {CEILING}": self.of_ceiling,
        }


def speed() -> str:
    """The spectral ops against other implementations in the same run, on the CPU and on each measured GPU."""
    record = measured("spectral_cpu.json")
    cpu, found = Speeds(record), [gpu for gpu in gpus() if "spectral" in gpu]
    machines = {"CPU": cpu, **{gpu["name"]: Speeds(gpu["spectral"]) for gpu in found}}
    ops = {row.get("op") for row in record["rows"]}
    workloads = [*cpu.rows]
    for speeds in machines.values():  # what only a GPU has kernels for
        workloads += [row["workload"] for row in speeds.record["rows"] if row.get("op") not in ops]
    workloads = list(dict.fromkeys(workloads))
    header, columns = [], []
    for name, speeds in machines.items():
        for title, cell in speeds.columns(name).items():
            cells = [cell(workload) for workload in workloads]
            if any(cells):
                header.append(title)
                columns.append(cells)
    body = [[workload, *cells] for workload, *cells in zip(workloads, *columns, strict=True)]
    loops = (cpu.ratio(workload, "NumPy loop") for workload in workloads)
    note = (
        "Median time for a whole batch, float32 unless named otherwise; the other columns are multiples of freqrob's "
        f"time in the same run. The authors' NumPy loop takes {', '.join(filter(None, loops))} on the CPU. "
        f"{CEILING_NOTE if any(CEILING in title for title in header) else ''}"
        f"CPU: {record['machine']}, {record['threads']} threads, {record['isa']}, torch {record['versions']['torch']}. "
    )
    for gpu in found:
        versions = f"CUDA {gpu['spectral']['cuda']}, torch {gpu['spectral']['versions']['torch']}"
        note += f"{gpu['name']}: {gpu['spectral']['gpu']}, {versions}. "
    note += "" if found else f"GPU: {NOT_MEASURED}. "
    note += "`python -m benchmarks.spectral` measures your machine, `benchmarks/gpu.sh` your GPU."
    return f"{table(['', *header], body)}\n\n{note}"


def training_table(record: dict) -> str:
    """A training step of each defence against a plain loop, and the share of the spectral part."""
    steps = [row for row in record["rows"] if "ratio" in row]
    header = ["a training step", "images/s", "a plain loop takes"]
    rows = [[row["what"], f"{row['images_per_s']:,.0f}", f"{row['ratio']:.1f} ×"] for row in steps]
    if "product_tflops" in record:
        header.append("of the matrix product's flops")
        for row, cells in zip(steps, rows, strict=True):
            cells.append(f"{100 * row['utilisation']:.0f} %" if "utilisation" in row else "")
    shares = (
        f"{row['what']} takes {100 * row['share']:.1f} % of a step of {row['of']}. "
        for row in record["rows"]
        if "share" in row
    )
    threads = "" if record["device"] == "cuda" else f", {record['threads']} threads"
    note = (
        f"{record.get('gpu', record['machine'])}{threads}, torch {record['versions']['torch']}: "
        f"{record['architecture']}, batches of {record['batch_size']}. {''.join(shares)}"
    )
    return f"{table(header, rows)}\n\n{note.strip()}"


def training() -> str:
    """The training steps on the CPU and on each measured GPU."""
    records = [measured("training_cpu.json"), *(record for gpu in gpus() for record in gpu.get("training", ()))]
    note = (
        "The plain loop is float32 PyTorch with a DataLoader; attacks are PGD-10; times are medians of the same run. "
        "`python -m benchmarks.training` measures your machine."
    )
    if len(records) == 1:
        note = f"GPU: {NOT_MEASURED}. {note}"
    return "\n\n".join([*map(training_table, records), note])


def evaluation() -> str:
    """Checks of evaluations against other packages, and their times."""
    rows = []
    if record := measured("autoattack.json"):
        found = ", ".join(f"{100 * one['robust']:.1f} % ({name})" for name, one in record["packages"].items())
        of = f"AutoAttack on {record['images']} images of `{record['model']}`, L∞, ε = {255 * record['eps']:.0f}/255"
        rows.append([of, f"robust: {found}", "python -m benchmarks.autoattack"])
    if record := measured("pyautoattack_rn18.json"):
        found = ", ".join(
            f"{one['attack']} {100 * one['accuracy']:.2f} %"
            + (f" (ε = {255 * one['eps']:.0f}/255)" if one["eps"] else "")
            for one in record["results"]
        )
        of = f"pyautoattack's own ResNet-18 on {record['results'][0]['images']:,} images"
        rows.append([of, found, "freqrob evaluate standard_rn18=model_test.pt"])
    if record := measured("corruptions_cpu.json"):
        sets = sum(len(row["seconds"]) for row in record["rows"])
        of = f"CIFAR-10-C made with freqrob, {sets} sets of {record['extrapolated_to']:,} images"
        rows.append([of, f"{record['total_seconds']:.0f} s", "python -m benchmarks.corruptions"])
    if record := measured("fourier_heatmap_cpu.json"):
        of = f"Fourier heat map of `{record['model']}`, {record['waves']} waves on {record['extrapolated_to']:,} images"
        each = ", ".join(f"{precision} {seconds:.0f} s" for precision, seconds in record["seconds"].items())
        most = f"{100 * record['largest_difference']:.1f} %"
        rows.append([of, f"{each}; error rates differ by at most {most}", "python -m benchmarks.fourier_heatmap"])
    if record := measured("minimal_perturbation_cpu.json"):
        rows += _minimal_perturbations(record)
    note = "CIFAR-10's test set, seed 0 (RobustBench takes its seed from the clock); times on two CPU cores."
    return f"{table(['measurement', 'result', 'command'], [[*row[:2], f'`{row[2]}`'] for row in rows])}\n\n{note}"


def _minimal_perturbations(record: dict) -> list[list[str]]:
    """A row per norm: freqrob's Brendel-Bethge attack and FMN against Foolbox's Brendel-Bethge."""
    rows = []
    for norm in dict.fromkeys(row["norm"] for row in record["rows"]):
        by = {row["attack"]: row for row in record["rows"] if row["norm"] == norm}
        names = {"foolbox": "Foolbox", "freqrob": "freqrob", "freqrob, all steps": "freqrob, Foolbox's schedule",
                 "fmn": "Foolbox's FMN"}  # fmt: skip
        found = "; ".join(
            f"{names[name]}: {row['times_as_fast']:.1f} ×, median {row['median_distance']:.4f}"
            for name, row in by.items()
        )
        of = f"Brendel–Bethge, {norm}, {record['images']} images of `{record['model']}`, {record['steps']} steps"
        rows.append([of, f"images/s and distance: {found}", "python -m benchmarks.minimal_perturbation"])
    return rows


TABLES = {
    "models": models,
    "evaluation": evaluation,
    "claims": claims,
    "longtail": longtail,
    "speed": speed,
    "training": training,
}


def filled(text: str) -> str:
    """The README's text with new tables."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{README.name}: no place for the table {name!r}")
        content = make()
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    return generate(README, lambda: filled(README.read_text()), __doc__, arguments)


if __name__ == "__main__":
    run(main)
