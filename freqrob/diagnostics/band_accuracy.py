"""Accuracy on what low-pass, high-pass and band-pass filters leave of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from freqrob.attacks import classified
from freqrob.data.datasets import to_pixels
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.per_sample import Track, per_sample, untracked
from freqrob.spectral.ops import ring_filter
from freqrob.spectral.rings import RingMap


@dataclass(frozen=True)
class BandAccuracy(Measurement):
    """Accuracy on filtered images, by ring.

    Attributes:
        frequencies: (rings,) where each ring begins.
        low: (rings,) accuracy on the rings 0 to i.
        high: (rings,) on the rings from i on, and the mean (ring 0).
        band: (rings,) on the rings i − width // 2 to i + width // 2, and the mean.
        accuracy: on the images as they are.
        width: of the bands, in rings.
        images: how many.
    """

    kind: ClassVar[str] = "band_accuracy"
    units: ClassVar = {"frequencies": "cycles/pixel", "low": "share", "high": "share", "band": "share"}

    frequencies: Tensor
    low: Tensor
    high: Tensor
    band: Tensor
    accuracy: float
    width: int
    images: int


def band_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    width: int = 5,
    batch_size: int = 250,
    cache: Path | None = None,
    track: Track = untracked,
) -> BandAccuracy:
    """Classify images of which a filter leaves some rings and, always, the mean; clipped to [0, 1].

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64.
        width: of the bands, an odd number of rings.
        batch_size, cache, track: as for ``per_sample``.

    Raises:
        ValueError: a width that is not odd and positive, or images and labels that do not fit.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width: expected an odd number of rings, got {width}")
    rings = RingMap(*images.shape[-2:])
    ring, at = torch.arange(rings.rings), torch.arange(rings.rings)[:, None]
    filters = {"low": ring <= at, "high": ring >= at, "band": (ring - at).abs() <= width // 2}

    def seen(model: nn.Module, numbers: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[numbers]).to(device), labels[numbers].to(device)

        def correct(kept: Tensor) -> Tensor:
            weights = (kept | (ring == 0)).to(natural)
            filtered = ring_filter(natural, weights.expand(*natural.shape[:2], -1), rings).clamp(0, 1)
            return classified(model(filtered), classes)

        own = classified(model(natural), classes)
        return {"own": own} | {name: torch.stack([correct(kept) for kept in filters[name]], 1) for name in filters}

    key = {"diagnostic": "band_accuracy", "width": width}
    found = per_sample(
        seen, model, images, labels, key=key, batch_size=batch_size, cache=cache, track=track, what="band accuracy"
    )
    low, high, band, own = (found[name].double().mean(0) for name in ("low", "high", "band", "own"))
    return BandAccuracy(rings.radii, low, high, band, own.item(), width, len(images))
