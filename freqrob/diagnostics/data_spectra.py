"""Spectra of a data set's images, of corrupted images, and of each corruption's change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from freqrob.data.cifar_b import balance
from freqrob.data.corruption_arrays import CorruptionArrays
from freqrob.data.corruptions import SEVERITIES
from freqrob.data.datasets import ImageSet
from freqrob.data.streams import Images
from freqrob.diagnostics.corruption_spectrum import CorruptionSpectrum, corruption_spectrum
from freqrob.diagnostics.spectrum import Spectrum, spectrum
from freqrob.runtime.progress import Track, untracked


def save_spectra(
    sets: Mapping[str, Images], folder: str | Path, about: Mapping[str, Any], track: Track = untracked
) -> dict[str, Spectrum]:
    """Measure the spectrum of each set of images, and save it with ``about`` under the set's name."""
    spectra = {}
    for name, images in track(sets.items(), "spectra", len(sets)):
        spectra[name] = spectrum(images)
        spectra[name].save(folder, name, {**about, "set": name})
    return spectra


def save_corruption_spectra(
    images: ImageSet,
    corruptions: CorruptionArrays,
    folder: str | Path,
    about: Mapping[str, Any],
    track: Track = untracked,
) -> dict[str, tuple[Spectrum, CorruptionSpectrum]]:
    """Measure, by type, the spectra of the corrupted images and of their changes, over all severities.

    They are saved as ``<type>`` and ``<type>_change``. ``images`` are the natural images; changes are relative to the
    balanced images if these were corrupted.
    """
    spectra, clean = {}, images[: len(corruptions.labels)]
    clean = balance(clean) if (corruptions.generated or {}).get("bass") else clean
    for name in track(corruptions.types, "corruptions", len(corruptions.types)):
        severities = [corruptions.images(name, severity) for severity in SEVERITIES]
        corrupted = save_spectra({name: torch.cat(severities)}, folder, about)[name]
        change = corruption_spectrum(clean.tensor, severities)
        change.save(folder, f"{name}_change", {**about, "set": name})
        spectra[name] = corrupted, change
    return spectra
