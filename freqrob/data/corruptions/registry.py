"""Which corruptions there are: each with its severities, its group, and what the others need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Group = Literal["noise", "blur", "weather", "digital", "extra"]
Band = Literal["low", "medium", "high"]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A type of corruption.

    Attributes:
        name: as the benchmark's files are called.
        group: of the benchmark's 15 types, or ``extra`` for the four beside them.
        band: the frequencies it mostly changes, by Li et al. (PLoS Comput. Biol. 2023); None for the extra types.
        levels: the parameters at severity 1 to 5, by name.
        apply: images (N, 3, H, W) uint8, random streams for N images, parameters → the same shape and dtype.
    """

    name: str
    group: Group
    band: Band | None
    levels: tuple[dict[str, Any], ...]
    apply: Callable[..., Tensor]


REGISTERED: dict[str, Corruption] = {}


def corruption(group: Group, band: Band | None = None, **levels: tuple) -> Callable:
    """Register a function under its name; each of ``levels`` is a parameter's values at severity 1 to 5."""

    def register(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        at_each = tuple(dict(zip(levels, values, strict=True)) for values in zip(*levels.values(), strict=True))
        REGISTERED[apply.__name__] = Corruption(apply.__name__, group, band, at_each, apply)
        return apply

    return register
