"""Registry of corruptions: group, frequency band and parameters at five severities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from freqrob.runtime.registry import Registry

Group = Literal["noise", "blur", "weather", "digital"]
Band = Literal["low", "medium", "high"]
Benchmark = Literal["cifar", "imagenet"]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A type of corruption.

    Attributes:
        name: the name of the benchmark's file.
        group: noise, blur, weather or digital; the four extra types are grouped as in Lin et al.'s Table 4.
        band: the frequencies it mostly changes, according to Li et al. (PLoS Comput. Biol. 2023); None for the extra
            types.
        extra: whether the type is not among the benchmark's 15, which RobustBench uses.
        levels: the parameters of CIFAR-10-C at severity 1 to 5, by name.
        imagenet_levels: those of ImageNet-C, where they differ.
        apply: images (N, 3, H, W) uint8, random streams for N images, parameters → the same shape and dtype.
    """

    name: str
    group: Group
    band: Band | None
    levels: tuple[dict[str, Any], ...]
    apply: Callable[..., Tensor]
    extra: bool = False
    imagenet_levels: tuple[dict[str, Any], ...] = ()

    def levels_of(self, severities: Benchmark) -> tuple[dict[str, Any], ...]:
        """The parameters of a benchmark at severity 1 to 5, by name."""
        return self.imagenet_levels or self.levels if severities == "imagenet" else self.levels


CORRUPTIONS: Registry[Corruption] = Registry(
    "corruption", "freqrob.corruptions", lambda value: isinstance(value, Corruption), "a Corruption",
    ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
     "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression", "speckle_noise",
     "gaussian_blur", "spatter", "saturate"),
)  # fmt: skip
"""All 19 by name: the benchmark's 15, then the four extra types; then other packages' corruptions."""


def register_corruption(
    group: Group,
    band: Band | None = None,
    *,
    extra: bool = False,
    imagenet: Mapping[str, tuple] = MappingProxyType({}),
    **levels: tuple,
) -> Callable:
    """Decorator: register a function under its name; ``levels`` are each parameter's values at severity 1 to 5.

    ``imagenet`` has the values for images of ImageNet's size: those of all parameters, or nothing.

    Raises ValueError when the name is taken. Other packages: entry-point group ``freqrob.corruptions``.
    """
    at_each, of_imagenet = (
        tuple(dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True))
        for given in (levels, imagenet)
    )

    def register(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = apply.__name__
        made = partial(Corruption, name, group, band, at_each, extra=extra, imagenet_levels=of_imagenet)
        return CORRUPTIONS.register(name, made)(apply)

    return register
