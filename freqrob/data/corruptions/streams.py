"""Random numbers for each image, independent of its batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Streams:
    """Random numbers for N images; those of image i depend on ``seed``, ``purpose`` and its index ``first + i``.

    They are drawn by NumPy on the CPU and moved to ``device``, so that every device gets the same.
    """

    def __init__(self, count: int, *, seed: int, purpose: tuple[str, int], first: int, device: torch.device) -> None:
        name, number = purpose
        key = (zlib.crc32(name.encode()), number)
        sequences = (np.random.SeedSequence(seed, spawn_key=(*key, first + i)) for i in range(count))
        self._generators = [np.random.Generator(np.random.PCG64(sequence)) for sequence in sequences]
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) of N(0, 1), float64."""
        return self._draw(lambda generator: generator.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(N, *shape) of U(low, high), float64."""
        return self._draw(lambda generator: generator.uniform(low, high, shape))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(N, *shape) of integers in [low, high), int64."""
        return self._draw(lambda generator: generator.integers(low, high, shape))

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts at ``rates`` (N, …), float64."""
        of_image = iter(rates.cpu().numpy())
        return self._draw(lambda generator: generator.poisson(next(of_image)).astype(np.float64))

    def _draw(self, draw: Callable[[np.random.Generator], Any]) -> Tensor:
        return torch.from_numpy(np.stack([draw(generator) for generator in self._generators])).to(self._device)
