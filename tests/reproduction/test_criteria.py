from math import inf

import pytest

from freqrob.reproduction import Number
from freqrob.reproduction.criteria import above, at_least, below, correlated, every, higher, increasing, mean_gain, near
from freqrob.reproduction.experiment import Numbers

NUMBERS = Numbers({
    "a": {"x": Number(3, 0.1), "y": Number(1)},
    "b": {"x": Number(2.9, 0.1), "y": Number(2)},
    "c": {"x": Number(1, 0.1), "y": Number(3)},
    "d": {"x": Number(0, 0.1), "y": Number(4)},
    "e": {"x": Number(-1, 0.1), "y": Number(5)},
})  # fmt: skip
HIGHER, LOWER = higher(("a", "x"), ("c", "x")), higher(("c", "x"), ("a", "x"))
CLOSE, UNKNOWN = higher(("a", "x"), ("b", "x")), higher(("a", "x"), ("f", "x"))


@pytest.mark.parametrize(
    "judge, verdict",
    [
        (HIGHER, "holds"),
        (LOWER, "does not hold"),
        (CLOSE, "within noise"),
        (UNKNOWN, "not measured"),
        (higher(("a", "x"), ("c", "x"), by=2.5), "does not hold"),
        (near(("a", "x"), 3.04, 0.05), "holds"),
        (near(("a", "x"), 3.1, 0.05), "does not hold"),
        (near(("f", "x"), 3.1, 0.05), "not measured"),
        (every(HIGHER, HIGHER), "holds"),
        (every(HIGHER, CLOSE), "within noise"),
        (every(HIGHER, CLOSE, UNKNOWN), "not measured"),
        (every(UNKNOWN, LOWER), "does not hold"),
        (at_least(1, HIGHER, LOWER), "holds"),
        (at_least(2, HIGHER, LOWER), "does not hold"),
        (at_least(2, HIGHER, CLOSE), "within noise"),
        (at_least(2, HIGHER, UNKNOWN), "not measured"),
        (increasing(["c", "b", "a"], "x"), "holds"),
        (increasing(["b", "a"], "x"), "within noise"),
        (increasing(["c", "a", "d"], "x"), "does not hold"),
        (increasing(["a", "b", "c"], "x", descending=True), "holds"),
        (increasing(["c", "f", "a"], "x"), "not measured"),
        (correlated("x", "y", negatively=True), "holds"),
        (correlated("x", "y"), "does not hold"),
        (correlated("x", "z"), "not measured"),
    ],
)
def test_verdicts(judge, verdict):
    assert judge(NUMBERS).verdict == verdict


def test_a_weak_correlation_is_within_noise():
    weak = Numbers({str(i): {"x": Number(x), "y": Number(i)} for i, x in enumerate([2.0, 1.0, 4.0, 3.0])})
    judgement = correlated("x", "y")(weak)
    assert judgement.verdict == "within noise" and "4 rows" in judgement.evidence


def test_evidence_names_the_cells_and_their_numbers():
    assert HIGHER(NUMBERS).evidence == "a x 3.00±0.10, c x 1.00±0.10"
    assert at_least(2, HIGHER, LOWER, LOWER)(NUMBERS).evidence == "1 holds, 2 does not hold of 3"


@pytest.mark.parametrize(
    "judge, verdict",
    [
        (above(("a", "x"), 2.5), "holds"),
        (above(("a", "x"), 3.1), "within noise"),
        (above(("a", "x"), 3.5), "does not hold"),
        (above(("f", "x"), 3.5), "not measured"),
        (below(("a", "x"), 3.5), "holds"),
        (below(("a", "x"), 2.5), "does not hold"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=2.5), "holds"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=2.9), "within noise"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=3.5), "does not hold"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=-inf, most=3.5), "holds"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=-inf, most=2.5), "does not hold"),
        (mean_gain([("c", "a"), ("c", "b")], "x", least=2.2, most=9), "does not hold"),
        (mean_gain([("c", "a"), ("e", "b")], "x", least=2.9, most=9), "within noise"),
        (mean_gain([("a", "f")], "x"), "not measured"),
    ],
)
def test_thresholds_and_mean_gains(judge, verdict):
    assert judge(NUMBERS).verdict == verdict


def test_a_mean_gain_leaves_out_what_is_not_measured():
    judgement = mean_gain([("c", "a"), ("f", "g")], "x")(NUMBERS)
    assert judgement.evidence == "x gains 2.00±0.14, mean of 1 pair"
