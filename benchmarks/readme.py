"""Write the README's table from the cards, and judge the claims in `results/reproduction/` again.

    python -m benchmarks.readme [--check]

A table is between `<!-- NAME -->` and `<!-- /NAME -->`. With --check, nothing is written. The pages in `docs/results/`
have more tables; the manual's build fills them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import isnan, nan
from typing import get_args

from benchmarks.records import NOT_MEASURED, RESULTS, ROOT, gpus, measured
from benchmarks.script import generate, run
from freqrob.diagnostics.hybrid import HybridReliance
from freqrob.evaluation import PROTOCOLS
from freqrob.models import list_models
from freqrob.models.cards import Card
from freqrob.models.loading import load_card, shipped_folder
from freqrob.models.registry import DEFENSES, VARIANTS, ModelName
from freqrob.reproduction import get_experiment
from freqrob.reproduction.experiment import Verdict, all_experiments
from freqrob.reproduction.records import Record, numbers_of, refresh, table, verdicts

README = ROOT / "README.md"
SHIPPED = shipped_folder()
REPRODUCTION = RESULTS / "reproduction"
VERDICTS = get_args(Verdict)
CEILING = "of the ceiling"
CEILING_NOTE = (
    "The ceiling is the time to copy the bytes that must be moved, or the transforms' 5/2·N·log₂N flops at the rate of "
    "a float32 matrix product if that takes longer, both measured in the same run. "
)


def models(names: Sequence[str] = ()) -> str:
    """Accuracies on the cards of the shipped models, or of some, a column for each protocol."""
    every = list_models("*_rn20", "cifar10", "Linf", SHIPPED)
    cards = {name: load_card(name, SHIPPED) for name in names or every}
    fullest = max((card.results for card in cards.values()), key=len)
    attacks = list(dict.fromkeys(result["attack"] for result in fullest))
    between = "\u00a0/\u00a0"  # keeps a cell on one line
    rows = [
        [f"`{name}`", *(between.join(shown(100 * accuracy(cards[name], p, a)) for a in attacks) for p in PROTOCOLS)]
        for name in sorted(cards, key=family)
    ]
    attacked = fullest[-1]
    note = (
        f"{' / '.join(attacks)} accuracy (%) on the {attacked['images']:,} images of CIFAR-10's test set; L∞, ε = "
        f"{255 * attacked['eps']:.0f}/255, step {255 * attacked['step_size']:.0f}/255 from a random start, seed "
        f"{attacked['seed']}; an image counts as broken if any iterate is misclassified. The models are ResNet-20s of "
        '0.27 M parameters, trained on two CPU cores with the recipes that `freqrob recipes "*rn20"` lists, one seed '
        "each: they compare defences and are not the state of the art. –: not measured."
    )
    return f"{table(['model', *(f'`{p}`' for p in PROTOCOLS)], rows)}\n\n{note}"


def accuracy(card: Card, protocol: str, attack: str) -> float:
    """A share; NaN if it was not measured."""
    found = (r["accuracy"] for r in card.results if (r["protocol"], r["attack"]) == (protocol, attack))
    return next(found, nan)


def claims() -> str:
    """The number of claims of each verdict, for the tables and figures that were measured."""
    rows = []
    for experiment in all_experiments():
        for scale, counts in verdicts(REPRODUCTION, experiment).items():
            if set(counts) - {"not measured"}:
                shows = f"{experiment.where}: {experiment.title}"
                rows.append([f"`{experiment.name}`", shows, scale, *(str(counts[name] or "") for name in VERDICTS)])
    return table(["name", "shows", "scale", *VERDICTS], rows) if rows else NOT_MEASURED


def shown(value: float) -> str:
    return "–" if isnan(value) else f"{value:.1f}"


def family(name: str) -> tuple[int, int]:
    """Sort key that puts the variants of a defence next to each other."""
    parts = ModelName.parse(name)
    return [*DEFENSES].index(parts.defense), (None, *VARIANTS).index(parts.variant)


def longtail() -> str:
    """The power law, the 80/20 boundary and the entropy, before and after BaSS."""
    experiment = get_experiment("lin2023:longtail")
    numbers = numbers_of(Record(REPRODUCTION, experiment, "rn20").rows())
    if not numbers.by_row:
        return NOT_MEASURED
    columns = ("images", "pixels", "α", "boundary radius", "entropy")
    units = {column.name: column.unit for column in experiment.columns}
    header = ["", *(f"{name} ({units[name]})" if units[name] else name for name in columns)]
    rows = [[row, *(f"{numbers[row, name]}" for name in columns)] for row in numbers.by_row]
    note = (
        "α: the power falls as f^−α. The boundary is the radius of the smallest disc that holds 80 % of the power "
        "without DC; the paper gives about 20 % for natural images. Entropy: Σ −π_k ln π_k over the rings."
    )
    return f"{table(header, rows)}\n\n{note}"


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
        what = f"AutoAttack on {record['images']} images of `{record['model']}`, L∞, ε = {255 * record['eps']:.0f}/255"
        rows.append([what, f"robust: {found}", "python -m benchmarks.autoattack"])
    if record := measured("pyautoattack_rn18.json"):
        found = ", ".join(
            f"{one['attack']} {100 * one['accuracy']:.2f} %"
            + (f" (ε = {255 * one['eps']:.0f}/255)" if one["eps"] else "")
            for one in record["results"]
        )
        what = f"pyautoattack's own ResNet-18 on {record['results'][0]['images']:,} images"
        rows.append([what, found, "freqrob evaluate standard_rn18=model_test.pt"])
    if record := measured("corruptions_cpu.json"):
        sets = sum(len(row["seconds"]) for row in record["rows"])
        what = f"CIFAR-10-C made with freqrob, {sets} sets of {record['extrapolated_to']:,} images"
        rows.append([what, f"{record['total_seconds']:.0f} s", "python -m benchmarks.corruptions"])
    if record := measured("fourier_heatmap_cpu.json"):
        scope = f"{record['waves']} waves on {record['extrapolated_to']:,} images"
        what = f"Fourier heat map of `{record['model']}`, {scope}"
        each = ", ".join(f"{precision} {seconds:.0f} s" for precision, seconds in record["seconds"].items())
        most = f"{100 * record['largest_difference']:.1f} %"
        rows.append([what, f"{each}; error rates differ by at most {most}", "python -m benchmarks.fourier_heatmap"])
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
        what = f"Brendel–Bethge, {norm}, {record['images']} images of `{record['model']}`, {record['steps']} steps"
        rows.append([what, f"images/s and distance: {found}", "python -m benchmarks.minimal_perturbation"])
    return rows


def imagenet() -> str:
    """Accuracies and frequencies of networks with ImageNet's weights, on photographs of 224×224."""
    pgd = {eps: measured(f"imagenet_sample/pgd_{eps}.json") for eps in (1, 4)}
    corrupted = {row["model"]: row for row in measured("imagenet_sample/corruptions.json").get("results", [])}
    rows: dict[str, list[str]] = {}
    for result in pgd[1].get("results", []) + pgd[4].get("results", [])[1::2]:
        rows.setdefault(result["model"], []).append(shown(100 * result["accuracy"]))
    for name, row in rows.items():
        folder = RESULTS / "imagenet_sample/diagnosis" / name.replace(":", "_")
        perturbation = measured(folder / "minimal_perturbation.json")["values"]
        f_rev = HybridReliance.load(folder, "hybrid").reversal_nyquist.nanmean()
        row += [
            shown(100 * corrupted[name]["means"]["19 types"]) if name in corrupted else "–",
            f"{perturbation['half_power_frequency']:.3f}", f"{f_rev:.3f}",
        ]  # fmt: skip
    header = [
        "model", "clean", "PGD-10, ε = 1/255", "PGD-10, ε = 4/255", "19 corruptions", "f_0.5 (cycles/pixel)",
        "f_rev ÷ Nyquist",
    ]  # fmt: skip
    if not rows:
        return NOT_MEASURED
    return table(header, [[f"`{name.rpartition(':')[2]}`", *row] for name, row in rows.items()])


TABLES: dict[str, Callable[[], str]] = {
    "imagenet": imagenet,
    "models": models,
    "some models": partial(models, ["standard_rn20", "pgd_at_rn20", "bass_pgd_at_rn20", "trades_rn20", "jafr_rn20"]),
    "evaluation": evaluation,
    "claims": claims,
    "longtail": longtail,
    "speed": speed,
    "training": training,
}


def filled(text: str) -> str:
    """A text with new tables. Raises ValueError for an unknown table, or one that does not end."""
    for name in re.findall(r"<!-- (\w[\w ]*) -->", text):
        if name not in TABLES:
            raise ValueError(f"text: no table {name!r}, expected one of {', '.join(TABLES)}")
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"text: the table {name!r} has no end, <!-- /{name} -->")
        content = TABLES[name]()
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    if "--check" not in (sys.argv[1:] if arguments is None else arguments):
        refresh(REPRODUCTION)
    return generate(README, lambda: filled(README.read_text()), __doc__, arguments)


if __name__ == "__main__":
    run(main)
