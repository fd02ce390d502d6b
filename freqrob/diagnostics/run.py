"""All diagnostics of a model at once, as quick as a look or as long as a paper takes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from freqrob.attacks import device_of, evaluating
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.diagnostics.band_accuracy import band_accuracy
from freqrob.diagnostics.fourier_heatmap import coarseness, fourier_frequencies, fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import loss_landscape
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.minimal_perturbation import minimal_perturbation
from freqrob.diagnostics.per_sample import Track, untracked
from freqrob.diagnostics.sensitivity import sensitivity
from freqrob.models.layout import channels_last
from freqrob.models.registry import nearest_names
from freqrob.models.sources import as_module
from freqrob.parameters import fits, keyword_hints, shown_hint
from freqrob.spectral.longtail import split

Preset = Literal["quick", "full"]


@dataclass(frozen=True)
class Plan:
    """How a preset measures: on how many images (all if 0), with which settings, how often the network sees each.

    ``passes`` counts forward passes of an image; a backward pass counts as two, what is not the network's as so many
    passes of an rn20 as take the time. Passes and settings that depend on the images' size are functions of (height,
    width). ``sees`` makes of the images what is measured on; ``package`` is what it needs besides freqrob's own
    dependencies.
    """

    measure: Callable[..., Measurement]
    images: int
    passes: int | Callable[[int, int], int]
    settings: dict[str, Any] = field(default_factory=dict)
    sees: Callable[[Tensor], Tensor] = lambda images: images
    package: str = ""

    @property
    def is_possible(self) -> bool:
        return not self.package or find_spec(self.package) is not None

    def with_settings(self, given: Mapping[str, Any]) -> Plan:
        """The plan with other settings, the number of images among them. Raises ValueError."""
        known = {"images": int, **keyword_hints(self.measure)}
        del known["cache"], known["track"]
        settings = {**self.settings, **given}
        for name, value in given.items():
            if name not in known:
                near = nearest_names(name, known)
                raise ValueError(f"no setting {name!r}, expected any of {', '.join(known)}.{near}")
            if not fits(value, known[name]):
                raise ValueError(f"{name}: expected {shown_hint(known[name])}, got {value!r}")
        images = settings.pop("images", self.images)
        if images < 0:
            raise ValueError(f"images: expected how many, or 0 for all, got {images}")
        return replace(self, images=images, settings=settings)


def low_half(images: Tensor) -> Tensor:
    """The low frequencies (LFC) of images, clipped to [0, 1], as Lin et al.'s Fig. 1 has them."""
    pixels = to_pixels(images)
    return split(pixels).low_pass(pixels).clamp(0, 1)


def high_half(images: Tensor) -> Tensor:
    """The high frequencies (HFC) of images, clipped to [0, 1]."""
    pixels = to_pixels(images)
    return split(pixels).high_pass(pixels).clamp(0, 1)


def twice_as_coarse(height: int, width: int) -> int:
    """Of how many frequencies a quick heat map measures one."""
    return 2 * coarseness(height, width)


def waves(height: int, width: int, every: Callable[[int, int], int] = coarseness) -> int:
    """How many waves a heat map has."""
    return len(fourier_frequencies(height, width, every(height, width)))


PRESETS: dict[str, dict[str, Plan]] = {
    "quick": {
        "jacobian": Plan(jacobian_spectrum, 500, 3),
        "sensitivity": Plan(sensitivity, 500, 3),
        "hybrid": Plan(hybrid_reliance, 300, 18, {"seeds": (0,)}),
        "minimal_perturbation": Plan(
            minimal_perturbation, 20, 250, {"steps": 50, "repeats": 1, "batch_size": 20}, package="foolbox"
        ),
        "band_accuracy": Plan(band_accuracy, 100, 130, {"steps": 10, "attacked": 40}),
        "fourier_heatmap": Plan(fourier_heatmap, 60, partial(waves, every=twice_as_coarse), {"every": twice_as_coarse}),
        "loss_landscape_low": Plan(loss_landscape, 60, 81, {"points": 9}, low_half),
        "loss_landscape_high": Plan(loss_landscape, 60, 81, {"points": 9}, high_half),
    },
    "full": {
        "jacobian": Plan(jacobian_spectrum, 0, 3),
        "sensitivity": Plan(sensitivity, 0, 3),
        "hybrid": Plan(hybrid_reliance, 0, 72, {"seeds": (0, 1, 2, 3)}),
        "minimal_perturbation": Plan(minimal_perturbation, 1000, 3400, {"batch_size": 20}, package="foolbox"),
        "band_accuracy": Plan(band_accuracy, 0, 100, {"attacked": 1000}),
        "fourier_heatmap": Plan(fourier_heatmap, 1000, waves),
        "loss_landscape_low": Plan(loss_landscape, 1000, 441, sees=low_half),
        "loss_landscape_high": Plan(loss_landscape, 1000, 441, sees=high_half),
    },
}


def expected_seconds(
    model: nn.Module,
    images: Tensor,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> float:
    """About how long ``diagnose`` takes, from the time of one batch; of settings, the images alone are counted.

    Raises ValueError as ``diagnose``.
    """
    plans, model = _chosen(preset, only, settings), as_module(model)
    batch = to_pixels(images[:64]).to(device_of(model, images))
    with evaluating(model) as subject, channels_last(subject), torch.no_grad():
        subject(batch)
        began = time.perf_counter()
        subject(batch).sum().item()
        each = (time.perf_counter() - began) / len(batch)
    return each * sum(
        _at_size(plan.passes, images) * min(plan.images or len(images), len(images)) for plan in plans.values()
    )


def diagnose(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    out: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    cache: str | Path | None = None,
    track: Track = untracked,
) -> dict[str, Measurement]:
    """Where in the spectrum a model is sensitive, by every diagnostic.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model; measured in eval mode.
        images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64. Diagnostics that are costly measure the
            first ones; of images that come class by class, as ImageNet's do, the first in a random order, always the
            same.
        preset: ``"quick"``, under a minute for a small model on two cores, with every other frequency of the heat map;
            ``"full"``, what a paper would show.
        only: the diagnostics to run, of ``PRESETS[preset]``; all by default, but those whose package is not installed,
            of which a warning tells.
        settings: what replaces the preset's, by diagnostic: ``{"fourier_heatmap": {"norm": 2.0, "images": 200}}``; the
            names are those of the diagnostic's function, and ``"images"`` is how many (0 for all).
        out: a folder where each is saved, as ``<name>.npz`` and ``<name>.json``; a layer's as ``<name>_<layer>``.
        about: what the JSON says besides, such as the model's name and the provenance.
        batch_size: images at a time; by default 250 of 32×32 pixels, fewer of larger ones.
        cache: a folder where what is measured is kept, so that a run that was stopped goes on.
        track: wraps iterables in a progress bar.

    Returns:
        What was measured, by the diagnostic's name.

    Raises:
        ValueError: an unknown preset, diagnostic or setting, or images and labels that do not fit.
        ImportError: one of ``only`` needs a package that is not installed.
    """
    check_labelled(images, labels)
    plans, found = _chosen(preset, only, settings), {}
    for name in () if only else PRESETS[preset].keys() - plans.keys():
        warnings.warn(f"{name} is left out: it needs {PRESETS[preset][name].package}", stacklevel=2)
    if batch_size is None:
        batch_size = max(8, min(250, 250 * 32 * 32 // images[0, 0].numel()))
    how = {"batch_size": batch_size, "cache": cache and Path(cache), "track": track}
    if (labels.diff() >= 0).all():
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        images, labels = images[order], labels[order]
    for name, plan in plans.items():
        chosen = slice(plan.images or None)
        its = {key: _at_size(value, images) for key, value in plan.settings.items()}
        found[name] = plan.measure(model, plan.sees(images[chosen]), labels[chosen], **{**how, **its})
        if out is not None:
            found[name].save(out, name, about)
    return found


def _at_size(value: Any, images: Tensor) -> Any:
    """What a plan says of images of this size."""
    return value(*images.shape[-2:]) if callable(value) else value


def _chosen(preset: Preset, only: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Plan]:
    if preset not in get_args(Preset):
        raise ValueError(f"preset: expected one of {', '.join(get_args(Preset))}, got {preset!r}")
    plans = PRESETS[preset]
    for name in only:
        if name not in plans:
            raise ValueError(f"only: got {name!r}, expected some of {', '.join(plans)}.{nearest_names(name, plans)}")
    chosen = {name: plans[name] for name in only or plans if only or plans[name].is_possible}
    for name, given in settings.items():
        if name not in chosen:
            near = nearest_names(name, chosen)
            raise ValueError(f"settings: {name!r} is not measured, expected any of {', '.join(chosen)}.{near}")
        try:
            chosen[name] = chosen[name].with_settings(given)
        except ValueError as error:
            raise ValueError(f"settings of {name}: {error}") from error
    return chosen
