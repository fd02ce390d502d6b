"""Criteria of claims: functions that return the ``judge`` of a ``Claim``.

A cell is (row, column). A difference counts if it exceeds two standard errors; a smaller one is "within noise". Unknown
errors count as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import hypot, inf, isnan
from statistics import fmean

from freqrob.reproduction.experiment import Judgement, Number, Numbers, Verdict
from freqrob.runtime.statistics import rank_correlation

Cell = tuple[str, str]
Judge = Callable[[Numbers], Judgement]
SIGNIFICANCE = 0.05


def higher(cell: Cell, other: Cell, by: float = 0) -> Judge:
    """The first number is higher than the second, by more than ``by``.

    >>> numbers = Numbers({"a": {"x": Number(3, 0.1)}, "b": {"x": Number(2.9, 0.1)}})
    >>> higher(("a", "x"), ("b", "x"))(numbers)
    Judgement(verdict='within noise', evidence='a x 3.00±0.10, b x 2.90±0.10')
    """

    def judge(numbers: Numbers) -> Judgement:
        first, second = numbers[cell], numbers[other]
        evidence = f"{' '.join(cell)} {first}, {' '.join(other)} {second}"
        return Judgement(_positive(first - second - Number(by, 0)), evidence)

    return judge


def above(cell: Cell, value: float) -> Judge:
    """The number is larger than ``value``."""

    def judge(numbers: Numbers) -> Judgement:
        number = numbers[cell]
        return Judgement(_positive(number - Number(value, 0)), f"{' '.join(cell)} {number}, expected over {value:g}")

    return judge


def below(cell: Cell, value: float) -> Judge:
    """The number is smaller than ``value``."""

    def judge(numbers: Numbers) -> Judgement:
        number = numbers[cell]
        return Judgement(_positive(Number(value, 0) - number), f"{' '.join(cell)} {number}, expected under {value:g}")

    return judge


def mean_gain(pairs: Sequence[tuple[str, str]], column: str, *, least: float = 0, most: float = inf) -> Judge:
    """On average over the measured pairs, the second row exceeds the first by ``least`` to ``most``.

    >>> numbers = Numbers({"a": {"x": Number(1, 0.1)}, "b": {"x": Number(5, 0.1)}})
    >>> mean_gain([("a", "b"), ("c", "d")], "x", least=3)(numbers)
    Judgement(verdict='holds', evidence='x gains 4.00±0.14, mean of 1 pair')
    """

    def judge(numbers: Numbers) -> Judgement:
        gains = [numbers[after, column] - numbers[before, column] for before, after in pairs]
        known = [gain for gain in gains if not isnan(gain.value)]
        if not known:
            return Judgement("not measured")
        mean = Number(fmean(gain.value for gain in known), hypot(*(gain.error for gain in known)) / len(known))
        evidence = f"{column} gains {mean}, mean of {len(known)} pair{'s' if len(known) > 1 else ''}"
        bounds: list[Verdict] = [_positive(mean - Number(least, 0)), _positive(Number(most, 0) - mean)]
        return Judgement(_weakest(bounds), evidence)

    return judge


def near(cell: Cell, value: float, tolerance: float) -> Judge:
    """The number is within ``tolerance`` of ``value``."""

    def judge(numbers: Numbers) -> Judgement:
        number, verdict = numbers[cell], "not measured"
        if not isnan(number.value):
            verdict = "holds" if abs(number.value - value) <= tolerance else "does not hold"
        return Judgement(verdict, f"{' '.join(cell)} {number}, expected {value:g}")

    return judge


def increasing(rows: Sequence[str], column: str, *, descending: bool = False) -> Judge:
    """Each row's number is higher than that of the row before; with ``descending`` lower.

    It holds if no step goes significantly the other way and the last exceeds the first significantly.
    """

    def judge(numbers: Numbers) -> Judgement:
        points = [numbers[row, column] for row in rows]
        evidence = f"{column}: " + ", ".join(f"{row} {point}" for row, point in zip(rows, points, strict=True))
        ordered = points[::-1] if descending else points
        overall = _positive(ordered[-1] - ordered[0])
        steps = [_positive(after - before) for before, after in pairwise(ordered)]
        if "not measured" in steps:
            return Judgement("not measured", evidence)
        return Judgement("does not hold" if "does not hold" in steps else overall, evidence)

    return judge


def correlated(x: str, y: str, *, negatively: bool = False) -> Judge:
    """Over all rows, column ``y`` rises with ``x`` (Spearman's ρ, p < 0.05); with ``negatively`` it falls.

    Fewer than four rows count as not measured: no order of three has p < 0.05.
    """

    def judge(numbers: Numbers) -> Judgement:
        rows = [row for row in numbers.column(x) if row in numbers.column(y)]
        if len(rows) < 4:
            return Judgement("not measured", f"{len(rows)} rows have {x} and {y}")
        xs, ys = ([numbers[row, column].value for row in rows] for column in (x, y))
        rho, p = rank_correlation(xs, ys)
        evidence = f"Spearman's ρ of {x} and {y} {rho:.2f}, p = {p:.2g}, {len(rows)} rows"
        return Judgement(of_correlation(rho, p, negatively), evidence)

    return judge


def of_correlation(rho: float, p: float, negatively: bool) -> Verdict:
    """Whether a rank correlation has the expected sign, with p < 0.05."""
    if p >= SIGNIFICANCE:
        return "within noise"
    return "holds" if (rho < 0) == negatively else "does not hold"


def every(*judges: Judge) -> Judge:
    """All criteria hold. Otherwise the worst of their verdicts: does not hold, not measured, within noise."""

    def judge(numbers: Numbers) -> Judgement:
        judgements = [judge(numbers) for judge in judges]
        verdict = _weakest([judgement.verdict for judgement in judgements])
        evidence = "; ".join(judgement.evidence for judgement in judgements if judgement.verdict != "not measured")
        return Judgement(verdict, evidence)

    return judge


def at_least(count: int, *judges: Judge) -> Judge:
    """At least ``count`` of the criteria hold. "Does not hold" if too many fail, otherwise "within noise"."""

    def judge(numbers: Numbers) -> Judgement:
        verdicts = Counter(judge(numbers).verdict for judge in judges)
        holding, lost = verdicts["holds"], verdicts["does not hold"]
        evidence = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()) + f" of {len(judges)}"
        if holding >= count:
            return Judgement("holds", evidence)
        if len(judges) - lost < count:
            return Judgement("does not hold", evidence)
        return Judgement("not measured" if verdicts["not measured"] else "within noise", evidence)

    return judge


def _weakest(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("does not hold", "not measured", "within noise", "holds")
    return next(verdict for verdict in order if verdict in verdicts)


def _positive(difference: Number) -> Verdict:
    if isnan(difference.value):
        return "not measured"
    if abs(difference.value) <= 2 * difference.known_error:
        return "within noise"
    return "holds" if difference.value > 0 else "does not hold"
