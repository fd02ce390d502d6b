"""What is chance and what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_correlation(x: Sequence[float], y: Sequence[float], draws: int = 20_000) -> tuple[float, float]:
    """Spearman's ρ, and how often ranks drawn at random are as far from 0 (two-sided, seeded).

    Equal values share their mean rank. Where all of ``x`` or all of ``y`` are equal, or there are none: (0, 1).
    """
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0, 1.0
    a, b = (_ranks(np.asarray(values, float)) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    drawn = np.random.default_rng(0).permuted(np.tile(b, (draws, 1)), axis=1) @ a / length
    rho = float(a @ b) / length
    return rho, float((1 + (np.abs(drawn) >= abs(rho) - 1e-12).sum()) / (1 + draws))


def _ranks(values: np.ndarray) -> np.ndarray:
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1) + 1) / 2
