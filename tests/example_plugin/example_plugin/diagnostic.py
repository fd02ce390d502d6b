"""A diagnostic for freqrob in one file: accuracy when a constant is added to the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from freqrob.attacks.gradient import classified
from freqrob.data.datasets import to_pixels
from freqrob.diagnostics import Column, Diagnostic, Measurement, Quantity, register_diagnostic
from freqrob.diagnostics.drawing import Section, shares_upward, styled
from freqrob.diagnostics.per_sample import per_sample
from freqrob.runtime.progress import Progress, no_progress


@dataclass(frozen=True)
class BrightnessAccuracy(Measurement):
    """Accuracy when only the mean of the images changes, the frequency that other diagnostics leave as it is.

    Attributes:
        offsets: (K,) added to all pixels, which are clipped to [0, 1].
        accuracy: (K,) share of the images that are classified correctly.
        images: how many.
    """

    kind = "brightness"
    settings = ("images", "offsets")

    offsets: Annotated[Tensor, Quantity("offsets", unit="pixels of [0, 1]")]
    accuracy: Annotated[Tensor, Quantity("offsets")]
    images: int


def brightness_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    offsets: Sequence[float] = (-0.2, -0.1, 0.0, 0.1, 0.2),
    batch_size: int = 250,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> BrightnessAccuracy:
    """Classify images that are darker or brighter."""

    def correct(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[indices]).to(device), labels[indices].to(device)
        found = [classified(model((natural + offset).clamp(0, 1)), classes) for offset in offsets]
        return {"correct": torch.stack(found, 1)}

    found = per_sample(
        correct, model, images, labels, key={"diagnostic": "brightness", "offsets": list(offsets)},
        quantity="brightness", batch_size=batch_size, cache=cache, cache_key=cache_key, progress=progress,
    )  # fmt: skip
    return BrightnessAccuracy(torch.tensor(offsets).double(), found["correct"].double().mean(0), len(images))


@register_diagnostic("brightness")
class Brightness(Diagnostic):
    measure = staticmethod(brightness_accuracy)
    measurement = BrightnessAccuracy
    help = "accuracy when a constant is added to the images."
    presets = {"quick": {"images": 100}, "full": {"images": 0}}
    columns = (
        Column(
            "accuracy at the worst brightness", lambda measured: measured.accuracy.min().item(),
            title="worst brightness", key="worst_brightness", unit="%", digits=1,
            help="The lowest accuracy over the constants that are added to the images.",
            hint="higher where the mean matters less",
        ),
    )  # fmt: skip
    section = Section("brightness", "Accuracy by brightness", "accuracy by brightness")

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return len(settings["offsets"])

    def plot(self, measurements: Mapping[str, BrightnessAccuracy], axes: Any, styles: Any = None) -> None:
        for name, measured, style in styled(measurements, styles):
            axes.plot(measured.offsets.numpy(), measured.accuracy.numpy(), label=name, **style)
        axes.set(xlabel="added to every pixel", ylabel="accuracy")
        shares_upward(axes)
