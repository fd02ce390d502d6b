"""Preprocessing of a photograph before a model gets its pixels: resize, crop, interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from freqrob.runtime.parameters import check_counts, checked, fits, shown

if TYPE_CHECKING:
    from PIL import Image

Size = int | tuple[int, int]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@checked
@dataclass(frozen=True)
class Preprocessing:
    """Resize a photograph, then crop its centre.

    Called with a PIL image, it gives the pixels that a model takes, after division by 255: (3, H, W) uint8.

    Attributes:
        resize: the length of the shorter side, or (H, W); None to keep the size.
        crop: the side of a square, or (H, W); None for the whole image.
        interpolation: of the resize, with antialiasing.

    Raises ValueError for sides below 1 and unknown interpolations.

    >>> print(Preprocessing(256, 224, "bicubic"))
    resize 256 (bicubic), center crop 224
    """

    resize: Size | None = None
    crop: Size | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        for name, sides in (("resize", self.resize), ("crop", self.crop)):
            given: Any = (sides,) if fits(sides, int) else sides
            if given is not None and not (isinstance(given, tuple) and 1 <= len(given) <= 2):
                raise ValueError(f"{name}: expected a number of pixels, (height, width) or None, got {shown(sides)}")
            for side in given or ():
                check_counts(**{name: side})

    def __call__(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.v2 import functional

        changed: Any = image.convert("RGB")
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            changed = functional.resize(changed, size, functional.InterpolationMode(self.interpolation))
        if self.crop is not None:
            size = [self.crop] * 2 if isinstance(self.crop, int) else list(self.crop)
            changed = functional.center_crop(changed, size)
        return functional.pil_to_tensor(changed)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of every result; None if it depends on the photograph."""
        sides = self.resize if self.crop is None and isinstance(self.resize, tuple) else self.crop
        return (sides, sides) if isinstance(sides, int) else sides

    @classmethod
    def central(cls, size: int) -> Preprocessing:
        """The usual preprocessing for networks that take (size, size): resize to 8/7 of it, then crop the centre.

        >>> print(Preprocessing.central(224))
        resize 256 (bilinear), center crop 224
        """
        return cls(round(size * 256 / 224), size)

    def __str__(self) -> str:
        steps = [f"resize {_shown(self.resize)} ({self.interpolation})"] if self.resize is not None else []
        steps += [f"center crop {_shown(self.crop)}"] if self.crop is not None else []
        return ", ".join(steps) or "none"

    @classmethod
    def from_preset(cls, preset: Any) -> Preprocessing:
        """The preprocessing of torchvision's weights, ``weights.transforms()``."""
        return cls(_sides(preset.resize_size), _crop(preset.crop_size), preset.interpolation.value)

    @classmethod
    def from_transforms(cls, transforms: Sequence[Any]) -> Preprocessing | None:
        """The preprocessing in torchvision transforms, such as RobustBench's; None if none resizes or crops."""
        found: dict[str, Any] = {}
        for transform in transforms:
            if type(transform).__name__ == "Resize":
                found |= {"resize": _sides(transform.size), "interpolation": transform.interpolation.value}
            elif type(transform).__name__ == "CenterCrop":
                found |= {"crop": _crop(transform.size)}
        return cls(**found) if found else None

    @classmethod
    def from_timm(cls, settings: Any) -> Preprocessing | None:
        """timm's preprocessing for evaluation; None if timm adds borders or images are not square.

        Source: ``timm.data.transforms_factory.transforms_imagenet_eval``.
        """
        height, width = settings.input_size[1:]
        if height != width or settings.crop_mode == "border":
            return None
        side = floor(height / (settings.crop_pct or 0.875))
        resize = (side, side) if settings.crop_mode == "squash" else side
        return cls(resize, height, settings.interpolation or "bilinear")


def _sides(size: Any) -> Size:
    """256 for 256 and [256]; (256, 256) stays a pair, which does not keep an image's proportions."""
    sides = [size] if isinstance(size, int) else [int(side) for side in size]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _crop(size: Any) -> Size:
    """One number for a square."""
    sides = _sides(size)
    return sides[0] if isinstance(sides, tuple) and sides[0] == sides[1] else sides


def _shown(size: Size) -> str:
    return str(size) if isinstance(size, int) else "×".join(map(str, size))
