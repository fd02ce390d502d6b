"""Hybrid images: the low frequencies of one image with the high frequencies of another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from freqrob.spectral.ops import check_planes
from freqrob.spectral.reference import irfft2, rfft2

NYQUIST = 0.5  # cycles/pixel
MIXING_FREQUENCIES = tuple(
    NYQUIST * share / 100 for share in (0, 3, 4, 5, 6, 8, 9, 11, 13, 15, 17, 19, 22, 27, 33, 42, 57, 100)
)


def frequency_radius(height: int, width: int) -> Tensor:
    """|f| of each coefficient of ``rfft2``: (H, W//2+1) float64, cycles/pixel, DC at [0, 0]."""
    fy = torch.fft.fftfreq(height, dtype=torch.float64)
    fx = torch.fft.rfftfreq(width, dtype=torch.float64)
    return fy[:, None].hypot(fx)


def hybrid_images(low: Tensor, high: Tensor, frequency: float) -> Tensor:
    """What of ``low`` has |f| ≤ ``frequency``, and of ``high`` the rest, clipped to [0, 1].

    Args:
        low, high: (..., H, W) float pixels in [0, 1], of one shape.
        frequency: the mixing frequency in cycles/pixel, from 0 (of ``low`` nothing but the mean) on; below 0 nothing.

    Returns:
        Images like ``low``. The corners of the spectrum lie beyond Nyquist along the axes, 0.5: there ``high`` shows
        also at 0.5.

    Raises:
        TypeError, ValueError: images that are no floats, or of unlike shapes.

    Source: Li et al., PLoS Comput. Biol. 2023; ``lizhe07/robust-arena``, ``roarena/einmon.py``, where the frequency
    is given as a share of Nyquist.
    """
    check_planes(low, "low")
    if high.shape != low.shape or high.dtype != low.dtype:
        raise ValueError(f"high: expected {tuple(low.shape)} {low.dtype}, got {tuple(high.shape)} {high.dtype}")
    height, width = low.shape[-2:]
    from_low = (frequency_radius(height, width) <= frequency).to(low.device)
    mixed = irfft2(torch.where(from_low, rfft2(low), rfft2(high)), s=(height, width))
    return mixed.clamp(0, 1).to(low.dtype)


def derange(labels: Tensor, seed: int = 0) -> Tensor:
    """The labels (N,) in a random order in which none is where it, or an equal one, was.

    Raises ValueError where there is none: more than half of the labels are equal.
    """
    own, draws = labels.cpu().numpy(), np.random.default_rng(seed)
    if len(own) and 2 * np.bincount(own).max() > len(own):
        raise ValueError(f"labels: more than half of them are {np.bincount(own).argmax()}, so they cannot be deranged")
    order = draws.permutation(own)
    for here in np.flatnonzero(order == own):
        if order[here] == own[here]:  # an earlier swap may have moved it
            there = draws.choice(np.flatnonzero((order != own[here]) & (own != own[here])))
            order[[here, there]] = order[[there, here]]
    return torch.from_numpy(order).to(labels)


def partners(labels: Tensor, seed: int = 0) -> Tensor:
    """For each image another one, drawn at random from the class that ``derange`` gives it: (N,) int64 numbers."""
    targets, draws = derange(labels, seed).cpu().numpy(), np.random.default_rng((seed, 1))
    chosen = np.empty_like(targets)
    for target in np.unique(targets):
        asked = targets == target
        chosen[asked] = draws.choice(np.flatnonzero(labels.cpu().numpy() == target), asked.sum())
    return torch.from_numpy(chosen).to(labels)
