"""What the demo measures: images, their balanced twins, and models on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from torch import Tensor

from freqrob.data.cifar_b import balance
from freqrob.data.datasets import ImageSet
from freqrob.diagnostics import JacobianSpectrum, jacobian_spectrum
from freqrob.evaluation import PGD, PROTOCOLS, Clean, Result, evaluate
from freqrob.models.cards import Card
from freqrob.models.loading import load_card, load_model
from freqrob.models.registry import DEFENSE_NAMES, VARIANTS, ModelName
from freqrob.provenance import provenance
from freqrob.spectral.longtail import (
    PowerLaw,
    Split,
    fit_power_law,
    power_profile,
    radial_power,
    spectral_entropy,
    split,
)

Track = Callable[[Iterable, str, int], Iterable]
ATTACKS = (Clean(), PGD(steps=20, eps=8 / 255))
GALLERY = 20


@dataclass(frozen=True)
class SpectrumSummary:
    """The long tail of the mean spectrum of some images.

    Attributes:
        images: how many were measured.
        frequencies: (rings,) cycles/pixel, where each ring begins; ring 0 is DC.
        power: (rings,) mean power of a coefficient, pixels in [0, 1], over images and channels.
        cumulative: (rings,) share of the power, DC left out, within each ring's outer radius.
        split: the 80/20 split into LFC and HFC.
        power_law: power ≈ scale · f^(−alpha).
        entropy, largest_entropy: of the profile, in nats, and what it would be were all rings alike.
    """

    images: int
    frequencies: Tensor
    power: Tensor
    cumulative: Tensor
    split: Split
    power_law: PowerLaw
    entropy: float
    largest_entropy: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "alpha": self.power_law.alpha,
            "r_squared": self.power_law.r_squared,
            "boundary_ring": self.split.boundary,
            "boundary_cycles_per_pixel": self.split.radius,
            "boundary_share_of_largest_radius": self.split.radius_fraction,
            "power_share_of_lfc": self.split.share,
            "entropy_nats": self.entropy,
            "largest_entropy_nats": self.largest_entropy,
            "profile": {
                "frequency_cycles_per_pixel": self.frequencies.tolist(),
                "mean_power": self.power.tolist(),
                "cumulative_share": self.cumulative.tolist(),
            },
        }


@dataclass(frozen=True)
class ModelMeasurements:
    """A model: ``measured`` accuracies here, its card's, and its gradient's spectrum on the same images."""

    name: str
    card: Card
    measured: list[Result]
    jacobian: JacobianSpectrum

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "architecture": self.card.architecture,
            "sha256": self.card.sha256,
            "measured": [result.as_dict() for result in self.measured],
            "card": self.card.results,
            "gradient": {
                "images": self.jacobian.images,
                "log_b_low": self.jacobian.log_b_low,
                "mean_amplitude_rfft2": self.jacobian.amplitude.tolist(),
            },
        }


@dataclass(frozen=True)
class DemoMeasurements:
    """All that the page shows.

    ``gallery`` and ``balanced_gallery`` are the first images and their twins; ``natural`` and ``balanced`` summarise
    the spectra of all images there are; the models were measured on the first ``images`` of them.
    """

    source: str
    images: int
    seed: int
    gallery: ImageSet
    balanced_gallery: ImageSet
    natural: SpectrumSummary
    balanced: SpectrumSummary
    models: list[ModelMeasurements]
    provenance: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.provenance,
            "source": self.source,
            "images": self.images,
            "seed": self.seed,
            "spectra": {"natural": self.natural.as_dict(), "bass": self.balanced.as_dict()},
            "models": [model.as_dict() for model in self.models],
        }


def collect(
    dataset: ImageSet,
    models: Sequence[str],
    *,
    source: str,
    images: int | None = None,
    model_dir: str | Path = "./models",
    seed: int = 0,
    command: str = "",
    track: Track = lambda items, _what, _count: items,
) -> DemoMeasurements:
    """Measure images, their balanced twins, and models.

    Args:
        dataset: natural images, all of which the spectra are taken of.
        models: names of CIFAR-10 L∞ models, as ``load_model`` takes them.
        source: what the images are, in words.
        images: how many of the first images the models are measured on; all by default.
        model_dir: as for ``load_model``.
        seed: of the attacks' random starts.
        command: the command line that makes the page, for the record.
        track: wraps iterables in a progress bar.

    Raises:
        ValueError: more images asked for than there are, or fewer than one.
        FileNotFoundError, CheckpointError: a model is not there or is damaged.
    """
    images = len(dataset) if images is None else images
    if not 1 <= images <= len(dataset):
        raise ValueError(f"images: expected 1 to {len(dataset)} (the images there are), got {images}")
    twin = balance(dataset)
    chosen = dataset[:images]
    return DemoMeasurements(
        source=source,
        images=images,
        seed=seed,
        gallery=dataset[:GALLERY],
        balanced_gallery=twin[:GALLERY],
        natural=summarise_spectrum(dataset.images),
        balanced=summarise_spectrum(twin.images),
        models=[_measure_model(name, chosen, model_dir, seed, track) for name in sorted(models, key=_family)],
        provenance=provenance(command),
    )


def summarise_spectrum(images: Tensor) -> SpectrumSummary:
    """The summary of (N, C, H, W) images, uint8 or float in [0, 1]. Raises ValueError for none, or constant ones."""
    boundary = split(images)
    profile = power_profile(images)
    return SpectrumSummary(
        images=len(images),
        frequencies=boundary.rings.radii,
        power=radial_power(images, mean=True).double().flatten(0, -2).mean(0),
        cumulative=profile.cumsum(0),
        split=boundary,
        power_law=fit_power_law(images),
        entropy=spectral_entropy(profile).item(),
        largest_entropy=log(len(profile) - 1),
    )


def _measure_model(name: str, chosen: ImageSet, model_dir: str | Path, seed: int, track: Track) -> ModelMeasurements:
    model = load_model(name, model_dir)

    def named(items: Iterable, what: str, count: int) -> Iterable:
        return track(items, f"{name}: {what}", count)

    return ModelMeasurements(
        name=name,
        card=_card(name, model_dir),
        measured=evaluate(
            model, chosen.images, chosen.labels, protocols=PROTOCOLS, attacks=ATTACKS, seed=seed, track=named
        ),
        jacobian=jacobian_spectrum(model, chosen.images, chosen.labels),
    )


def _card(name: str, model_dir: str | Path) -> Card:
    """The model's card, or what its name says where weights came without one."""
    try:
        return load_card(name, model_dir)
    except FileNotFoundError:
        return Card(name, ModelName.parse(name).architecture)


def _family(name: str) -> tuple[int, str, int, str]:
    """Sorts a model beside those that differ from it by BaSS alone, undefended ones first."""
    try:
        parts = ModelName.parse(name)
    except ValueError:
        return len(DEFENSE_NAMES), "", 0, name
    return DEFENSE_NAMES.index(parts.defense), parts.architecture, (None, *VARIANTS).index(parts.variant), name
