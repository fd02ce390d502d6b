"""Losses that attacks maximise, summed over the images, so that each image's gradient is independent of the others.

Each takes logits (N, K), labels (N,) and, for a targeted attack, the classes to reach (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]
LossName = Literal["ce", "cw", "dlr"]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Σ_n CE(logits_n, y_n); targeted, −Σ_n CE(logits_n, t_n)."""
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="sum")
    return -F.cross_entropy(logits, targets, reduction="sum")


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Σ_n max_{i≠y} z_i − z_y; targeted, Σ_n z_t − max_{i≠t} z_i. Source: Carlini and Wagner, S&P 2017, f_6."""
    chosen = labels if targets is None else targets
    beyond = (largest_other(logits, chosen) - logit_of(logits, chosen)).sum()
    return beyond if targets is None else -beyond


def difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Σ_n (max_{i≠y} z_i − z_y) / (z_π1 − z_π3), π the descending order; invariant to shifting and scaling the logits.

    Targeted: Σ_n (z_t − z_y) / (z_π1 − (z_π3 + z_π4) / 2). Raises ValueError for fewer than 3 classes, targeted 4.

    Source: Croce and Hein, ICML 2020, Eq. 6 and 7.
    """
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        kind = "dlr" if targets is None else "a targeted dlr"
        raise ValueError(f"loss: {kind} needs {needed} classes or more, the model has {logits.shape[1]}")
    largest = logits.topk(needed, dim=1).values
    if targets is None:
        gain, scale = largest_other(logits, labels) - logit_of(logits, labels), largest[:, 0] - largest[:, 2]
    else:
        gain, scale = logit_of(logits, targets) - logit_of(logits, labels), largest[:, 0] - largest[:, 2:].mean(1)
    return (gain / (scale + 1e-12)).sum()


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "cw": margin, "dlr": difference_of_logits_ratio}


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of each image's class: (N,)."""
    return logits.gather(1, classes[:, None])[:, 0]


def largest_other(logits: Tensor, classes: Tensor) -> Tensor:
    """The largest logit of the other classes: (N,)."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)
