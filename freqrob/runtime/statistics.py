"""Confidence intervals and tests. SciPy is imported when it is used, because that takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any


def rank_correlation(x: Sequence[float], y: Sequence[float], draws: int = 20_000) -> tuple[float, float]:
    """Spearman's ρ and its two-sided p-value from all permutations, or from ``draws`` random ones if there are more.

    (0, 1) if ``x`` or ``y`` is constant or empty.
    """
    from scipy.stats import PermutationMethod, pearsonr, rankdata

    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0, 1.0
    result: Any = pearsonr(rankdata(x), rankdata(y), method=PermutationMethod(n_resamples=draws, rng=0))
    return float(result.statistic), float(result.pvalue)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``count`` images, taken as a random sample.

    SciPy's version needs an integer number of successes, which a rounded share on a card does not have.
    """
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(centre - margin, 0.0), min(centre + margin, 1.0)


def sign_test(more: int, fewer: int) -> float:
    """P(X ≥ more) for X ~ Binomial(more + fewer, ½)."""
    from scipy.stats import binom

    return float(binom.sf(more - 1, more + fewer, 0.5))
