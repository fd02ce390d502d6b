"""Check the claims of the three papers against the records in `results/`, and write `results/replication.md`.

    python -m benchmarks.replication [--check]

Each row has a claim, its table or figure, the measurement, whether the claim holds, and the command that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, isnan, nan

from benchmarks.diagnosis_rn20 import SETTINGS
from benchmarks.records import NOT_MEASURED, RESULTS, accuracy, log_b_low, measured, table
from benchmarks.script import generate, run
from freqrob.runtime.statistics import rank_correlation

REPLICATION = RESULTS / "replication.md"
ACCURACIES = "python -m benchmarks.cifar10_rn20 --data DIR"
DIAGNOSES = "python -m benchmarks.diagnosis_rn20 --data DIR"
CORRUPTED = {
    "natural": "freqrob corruptions MODEL … --data DIR --images 1000 --baseline standard_rn20",
    "natural+bass": "freqrob corruptions MODEL … --data DIR --images 1000 --protocol natural+bass",
}
CORRUPTION_RECORDS = {"natural": "corruptions_rn20.json", "natural+bass": "corruptions_rn20_bass.json"}
TREND = 0.5  # least absolute rank correlation of a trend
LIN = "Lin et al., NeurIPS 2023 (BaSS)"
CHAN = "Chan et al., IJCAI 2022 (JaFR)"
LI = "Li et al., PLoS Comput. Biol. 2023 (low-frequency reliance)"
Quantity = Callable[[str], tuple[float, float]]  # of a model: its value and standard error, 0 if not known


@dataclass(frozen=True)
class Finding:
    """A claim of a paper and its test.

    Attributes:
        found: the measured values; empty if they are missing.
        headline: whether the README shows the claim.
    """

    paper: str
    where: str
    claim: str
    found: str
    holds: str
    command: str
    headline: bool = False


def findings() -> list[Finding]:
    """All claims, paper by paper."""
    return [*_sensitivity(), *_landscapes(), *_balanced_twins(), *_trend_with_gamma(),
            *_jacobians(), *_corruption_trade(), *_reliance(), *_blur()]  # fmt: skip


def claims() -> str:
    """The README's table of the measured claims on accuracies and ln B_low."""
    rows = [
        [f.claim if f.claim.startswith("…") else f"{f.paper.partition(',')[0]}: {f.claim}", f.found, f.holds]
        for f in findings()
        if f.headline and f.found
    ]
    return table(["claim", "here: PGD-20 accuracy (%) or ln B_low", "holds"], rows) if rows else NOT_MEASURED


def _sensitivity() -> Iterator[Finding]:
    for claim, of, base in (
        ("adversarial training moves the gradient out of the high frequencies", "standard_rn20", "pgd_at_rn20"),
        ("training on balanced images does so too", "standard_rn20", "bass_standard_rn20"),
        ("… and with adversarial training", "pgd_at_rn20", "bass_pgd_at_rn20"),
    ):
        share = _diagnosed("high_share_of_gradient", 100)
        yield _compared(
            LIN, "Fig. 2", f"{claim} (their share of its power, %)", DIAGNOSES, (of, share), (base, share), digits=0
        )


def _landscapes() -> Iterator[Finding]:
    high, low = (_diagnosed(f"loss_on_{half}") for half in ("high", "low"))
    for model in ("standard_rn20", "pgd_at_rn20"):
        yield _compared(
            LIN, "Fig. 1", "the high-frequency half of the images is fitted worse: the loss on it, beside the low half",
            DIAGNOSES, (model, high), (model, low), names=(f"`{model}`, high", "low"), digits=2,
        )  # fmt: skip
    variation = _diagnosed("variation_on_high", error="variation_error_on_high")
    for claim, quantity, digits in (
        ("training on balanced images fits the high half better: the loss on it", high, 2),
        ("… and flattens it: how far it moves around the weights", variation, 3),
    ):
        pair = ("pgd_at_rn20", quantity), ("bass_pgd_at_rn20", quantity)
        yield _compared(LIN, "Fig. 4", claim, DIAGNOSES, *pair, digits=digits)


def _balanced_twins() -> Iterator[Finding]:
    for defense in ("pgd_at", "trades", "mart"):
        base, twin = f"{defense}_rn20", f"bass_{defense}_rn20"
        for claim, protocol in (
            ("trained and tested behind BaSS, robust accuracy is higher (`bass`, beside `natural`)", "bass"),
            ("… and it is so against natural images too (`natural`)", "natural"),
            ("… and where the attack goes through BaSS (`natural+bass`, beside `natural`)", "natural+bass"),
        ):  # fmt: skip
            yield _compared(
                LIN, f"Table 1, {defense}", claim, ACCURACIES, (twin, _accuracy(protocol)), (base, _accuracy()),
                headline=True,
            )  # fmt: skip
    for base in ("standard", "augmix"):
        for claim, protocol in (
            ("trained and tested behind BaSS, accuracy on the 19 corruptions is higher", "natural+bass"),
            ("… and it is so where BaSS is left out in the test", "natural"),
        ):
            yield _compared(
                LIN, f"Table 4, {base}", f"{claim} (%)", CORRUPTED[protocol],
                (f"bass_{base}_rn20", _on_corruptions("19 types", protocol)),
                (f"{base}_rn20", _on_corruptions("19 types")),
            )  # fmt: skip


def _trend_with_gamma() -> Iterator[Finding]:
    for defense, attack in (("standard", "clean"), ("pgd_at", "PGD-20")):
        names = [f"{variant}{defense}_rn20" for variant in ("", "bassmix_", "bass_")]
        for protocol in ("natural", "bass"):
            points = [_accuracy(protocol, attack)(name) for name in names]
            shown = " → ".join(f"{value:.1f} ± {error:.1f}" for value, error in points) + " at γ = 0, ½, 1"
            known = not any(isnan(value) for value, _ in points)
            yield Finding(
                LIN, "Fig. 3(a–c)",
                f"{attack} accuracy of {defense} rises with γ, the share of balanced training images (`{protocol}`)",
                shown if known else "", _rises(points) if known else "", ACCURACIES,
            )  # fmt: skip


def _jacobians() -> Iterator[Finding]:
    for claim, of, base, quantity in (
        ("JaFR raises ln B_low", "jafr_rn20", "standard_rn20", _log_b_low()),
        ("adversarial training raises ln B_low", "pgd_at_rn20", "standard_rn20", _log_b_low()),
        ("FGSM training raises ln B_low", "fgsm_rn20", "standard_rn20", _log_b_low()),
        ("JaFR raises that of FGSM training", "fgsm_jafr_rn20", "fgsm_rn20", _log_b_low()),
        ("JaFR makes FGSM training more robust to PGD", "fgsm_jafr_rn20", "fgsm_rn20", _accuracy()),
    ):
        yield _compared(CHAN, "Table 2", claim, ACCURACIES, (of, quantity), (base, quantity), headline=True)


def _corruption_trade() -> Iterator[Finding]:
    for claim, band, of, base in (
        ("JaFR gains on corruptions of high frequency", "high", "jafr_rn20", "standard_rn20"),
        ("… and loses on those of low frequency", "low", "standard_rn20", "jafr_rn20"),
        ("adversarial training gains on those of high frequency", "high", "pgd_at_rn20", "standard_rn20"),
        ("… and loses on those of low frequency", "low", "standard_rn20", "pgd_at_rn20"),
    ):
        value = _on_corruptions(band)
        pair = (of, value), (base, value)
        yield _compared(CHAN, "Table 1", f"{claim} (mean accuracy, %)", CORRUPTED["natural"], *pair)


def _reliance() -> Iterator[Finding]:
    size, half_power, reversal = (
        _diagnosed(key) for key in ("minimal_distance", "half_power_frequency", "reversal_frequency")
    )
    for where, claim, x, y, what in (
        ("Fig. 4c", "the larger a model's minimal perturbations, the lower their f_0.5", size, half_power,
         "size / f_0.5"),
        ("Fig. 5b", "the larger they are, the lower f_rev on hybrid images", size, reversal, "size / f_rev"),
        ("Fig. 5b", "the more robust a model, the lower f_rev", _accuracy(), reversal, "PGD-20 (%) / f_rev"),
    ):  # fmt: skip
        points = {name: (x(name)[0], y(name)[0]) for name in measured("diagnosis_rn20.json")}
        yield _falling(LI, where, claim, points, what)


def _blur() -> Iterator[Finding]:
    plain, blurred = "standard_rn20", "blur_standard_rn20"
    for claim, quantity, above, below, digits in (
        ("a network behind a blur follows lower frequencies: f_rev", _diagnosed("reversal_frequency"), plain, blurred,
         3),
        ("… and its minimal perturbations are of lower frequency: f_0.5", _diagnosed("half_power_frequency"), plain,
         blurred, 3),
        ("… and larger (grey levels)", _diagnosed("minimal_distance", 255), blurred, plain, 2),
    ):  # fmt: skip
        pair = (above, quantity), (below, quantity)
        yield _compared(LI, "the blur model", claim, DIAGNOSES, *pair, digits=digits)


def _compared(
    paper: str,
    where: str,
    claim: str,
    command: str,
    above: tuple[str, Quantity],
    below: tuple[str, Quantity],
    *,
    names: tuple[str, str] | None = None,
    digits: int = 1,
    headline: bool = False,
) -> Finding:
    """The claim is that a quantity of one model is above one of another's."""
    (one, error), (two, error_of_two) = (quantity(model) for model, quantity in (above, below))
    if isnan(one + two):
        return Finding(paper, where, claim, "", "", command, headline)
    noise = hypot(error, error_of_two)
    holds = "within noise" if abs(one - two) < 2 * noise else "yes" if one > two else "no"
    first, second = (
        f"{value:.{digits}f}" + (f" ± {of_it:.{digits}f}" if of_it else "")
        for value, of_it in ((one, error), (two, error_of_two))
    )
    name, other = names or (f"`{above[0]}`", f"`{below[0]}`")
    return Finding(paper, where, claim, f"{name} {first}, {other} {second}", holds, command, headline)


def _falling(paper: str, where: str, claim: str, models: Mapping[str, tuple[float, float]], what: str) -> Finding:
    """The claim is that over the models the second quantity falls as the first rises; ``what`` names both."""
    known = {name: point for name, point in models.items() if not isnan(sum(point))}
    if len(known) < 3:
        return Finding(paper, where, claim, "", "", DIAGNOSES)
    rank, _ = rank_correlation(*zip(*known.values(), strict=True))
    ordered = sorted(known.items(), key=lambda item: item[1])
    shown = ", ".join(f"`{name}` {x:.3g} / {y:.3f}" for name, (x, y) in ordered)
    holds = "yes" if rank < -TREND else "no" if rank > 0 else "weakly"
    return Finding(paper, where, claim, f"rank correlation {rank:.2f} of {what}: {shown}", holds, DIAGNOSES)


def _rises(points: Sequence[tuple[float, float]]) -> str:
    """Whether each value is larger than the one before; "within noise" if no difference exceeds the noise."""
    steps = [(b - a, 2 * hypot(error, other)) for (a, error), (b, other) in pairwise(points)]
    still = all(abs(step) <= noise for step, noise in steps)
    return "within noise" if still else _of_all([step > noise for step, noise in steps])


def _of_all(true: Sequence[bool]) -> str:
    return "" if not true else "yes" if all(true) else "in part" if any(true) else "no"


def _accuracy(protocol: str = "natural", attack: str = "PGD-20") -> Quantity:
    """Accuracy on the 10,000 test images, in percent; like all quantities NaN if it was not measured."""
    record = measured("cifar10_rn20.json")

    def quantity(model: str) -> tuple[float, float]:
        share = accuracy(record, model, protocol, attack)
        return 100 * share, 100 * (share * (1 - share) / 10_000) ** 0.5

    return quantity


def _log_b_low() -> Quantity:
    record = measured("cifar10_rn20.json")
    return lambda model: (log_b_low(record, model), 0)


def _diagnosed(key: str, scale: float = 1, error: str = "") -> Quantity:
    """A number of a model's diagnosis, by its key and that of its standard error."""
    record = measured("diagnosis_rn20.json")

    def quantity(model: str) -> tuple[float, float]:
        found = {}
        for part in record.get(model, {}).values():
            found |= part if isinstance(part, dict) else {}
        return scale * found.get(key, nan), scale * found.get(error, 0)

    return quantity


def _on_corruptions(group: str, protocol: str = "natural") -> Quantity:
    """Mean accuracy (%) on a group of corruptions."""
    results = {result["model"]: result for result in measured(CORRUPTION_RECORDS[protocol]).get("results", ())}

    def quantity(model: str) -> tuple[float, float]:
        value, error = (results.get(model, {}).get(what, {}).get(group, nan) for what in ("means", "standard_errors"))
        return 100 * value, 100 * error

    return quantity


HEAD = f"""# Which claims hold here

Written by `python -m benchmarks.replication` from the records beside this file, which have the commit, the machine and
the settings of every number. Models are ResNet-20s of 0.27 M parameters on CIFAR-10, trained on two CPU cores, one seed
each, where the papers have networks of 11 M to 46 M parameters and schedules ten times as long: a "no" says that a
claim does not hold at this size, not that it is false. Robust accuracies are of PGD-20, L∞, ε = 8/255, step 2/255, one
random start, seed 0, on 10,000 test images, under the protocol that is named. Diagnoses are of the first test images,
natural ones for every model: {SETTINGS["sensitivity"]["images"]:,} for gradients, {SETTINGS["hybrid"]["images"]} for \
hybrids, {SETTINGS["minimal_perturbation"]["images"]} for minimal perturbations, \
{SETTINGS["loss_landscape_high"]["images"]} for the loss
around the weights; accuracies on corruptions of the first 1,000 at each severity. "Within noise" is a difference of
less than two standard errors, ± is one: over images, or of the loss around the weights over four pairs of directions.
Where no ± stands, one is not known.
"""


def replication() -> str:
    """The text of `results/replication.md`."""
    parts, rows = [HEAD], findings()
    for paper in dict.fromkeys(row.paper for row in rows):
        body = [
            [row.where, row.claim, row.found or NOT_MEASURED, row.holds if row.found else "–", f"`{row.command}`"]
            for row in rows
            if row.paper == paper
        ]
        parts.append(f"## {paper}\n\n{table(['where', 'claim', 'here', 'holds', 'command'], body)}\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    return generate(REPLICATION, replication, __doc__, arguments)


if __name__ == "__main__":
    run(main)
