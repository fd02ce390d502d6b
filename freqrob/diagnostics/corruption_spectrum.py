"""The spectrum that a corruption adds to images, and its ln B_low, by severity; files of a data set's spectra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from freqrob.data.cifar_b import balance
from freqrob.data.corruption_arrays import CorruptionArrays
from freqrob.data.corruptions import SEVERITIES
from freqrob.data.datasets import ImageSet, to_pixels
from freqrob.data.streams import Images
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.spectrum import Spectrum, check_image_set, spectrum
from freqrob.runtime.parameters import checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import check_images, mean_amplitude

AT_ONCE = 1 << 22  # pixels whose spectra are computed together


@dataclass(frozen=True)
class CorruptionSpectrum(Measurement):
    """The mean spectra of a corruption's changes x' − x at each severity.

    Attributes:
        amplitude: (severities, H, W//2+1) mean |rfft2(x' − x)| over images and channels, DC at [0, 0].
        log_b_low: (severities,) ln B_low of each; larger if low frequencies dominate; 3.53 for white noise at 32×32.
        mean_log_b_low: their mean.
        log_b_low_of_all: ln B_low of the mean of ``amplitude`` over the severities; higher severities have more weight.
        images: number of images at each severity.
    """

    kind = "corruption_spectrum"

    amplitude: Annotated[Tensor, Quantity("severities height columns", unit="pixels of [0, 1]")]
    log_b_low: Annotated[Tensor, Quantity("severities")]
    mean_log_b_low: float
    log_b_low_of_all: float
    images: int


@checked
def corruption_spectrum(images: Tensor, corrupted: Iterable[Tensor]) -> CorruptionSpectrum:
    """Measure the spectrum that a corruption adds to images.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1], N ≥ 1.
        corrupted: the same images corrupted, a tensor like ``images`` for each severity. A generator such as
            ``(arrays.images("fog", severity) for severity in SEVERITIES)``, with ``arrays`` from ``load_corruptions``,
            keeps only one in memory.

    Raises:
        TypeError: images are not dense tensors of floats or uint8, or are on the meta device.
        ValueError: shapes that differ or look like (N, H, W, C), no severity, floats in 0–255 (only the first channel
            is checked), or pixels that are not finite.

    Source: Chan et al., IJCAI 2022, Table 1; its code takes pixels in [0, 1] and ln B_low of each severity's mean.

    >>> from freqrob.data.corruptions import corrupt
    >>> from freqrob.data.samples import sample_images
    >>> images = sample_images().images
    >>> corruption_spectrum(images, [corrupt(images, "fog", 3)]).images
    20
    """
    check_image_set(images)
    maps = [_mean_change(images, other) for other in corrupted]
    if not maps:
        raise ValueError("corrupted: expected a tensor for each severity, got none")
    amplitude = torch.stack(maps)
    each, of_all = torch.stack([log_b_low(change) for change in maps]), log_b_low(amplitude.mean(0))
    return CorruptionSpectrum(amplitude.float(), each, each.mean().item(), of_all.item(), len(images))


def _mean_change(images: Tensor, corrupted: Tensor) -> Tensor:
    """Mean |rfft2(x' − x)|, computed in chunks: (H, W//2+1) float64 on the CPU."""
    check_images(corrupted, "corrupted")
    if corrupted.shape != images.shape:
        raise ValueError(f"corrupted: expected {tuple(images.shape)} like images, got {tuple(corrupted.shape)}")
    check_image_set(corrupted, "corrupted")
    chunk_size = max(1, AT_ONCE // images[0].numel())
    chunks = zip(images.split(chunk_size), corrupted.to(images.device).split(chunk_size), strict=True)
    changes = (len(x) * mean_amplitude(to_pixels(other) - to_pixels(x)).double() for x, other in chunks)
    total = sum(changes, torch.zeros((), dtype=torch.float64, device=images.device))
    if not total.isfinite().all():
        raise ValueError("images, corrupted: expected finite pixels, got NaN or infinity")
    return (total / len(images)).cpu()


def save_spectra(
    sets: Mapping[str, Images], folder: str | Path, about: Mapping[str, Any], progress: Progress = no_progress
) -> dict[str, Spectrum]:
    """Measure the spectrum of each set of images, and save it with ``about`` under the set's name."""
    spectra = {}
    for name, images in progress(sets.items(), "spectra", len(sets)):
        spectra[name] = spectrum(images)
        spectra[name].save(folder, name, {**about, "set": name})
    return spectra


def save_corruption_spectra(
    images: ImageSet,
    corruptions: CorruptionArrays,
    folder: str | Path,
    about: Mapping[str, Any],
    progress: Progress = no_progress,
) -> dict[str, tuple[Spectrum, CorruptionSpectrum]]:
    """Measure, by type, the spectra of the corrupted images and of their changes, over all severities.

    They are saved as ``<type>`` and ``<type>_change``. ``images`` are the natural images; changes are relative to the
    balanced images if these were corrupted.
    """
    spectra, clean = {}, images[: len(corruptions.labels)]
    clean = balance(clean) if (corruptions.generated or {}).get("bass") else clean
    for name in progress(corruptions.types, "corruptions", len(corruptions.types)):
        severities = [corruptions.images(name, severity) for severity in SEVERITIES]
        corrupted = save_spectra({name: torch.cat(severities)}, folder, about)[name]
        change = corruption_spectrum(clean.tensor, severities)
        change.save(folder, f"{name}_change", {**about, "set": name})
        spectra[name] = corrupted, change
    return spectra
