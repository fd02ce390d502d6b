"""All diagnostics of a model at once, as quick as a look or as long as a paper takes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from freqrob.attacks import bare, device_of, measuring, random_state
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.diagnostics.band_accuracy import band_accuracy
from freqrob.diagnostics.fourier_heatmap import coarseness, fourier_frequencies, fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import loss_landscape
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.minimal_perturbation import minimal_perturbation
from freqrob.diagnostics.per_sample import Counted, Track, untracked
from freqrob.diagnostics.sensitivity import sensitivity
from freqrob.evaluation.checks import explained, warn_of_model
from freqrob.evaluation.keys import model_hash, shared_cache
from freqrob.files import as_json, check_file
from freqrob.models.layout import channels_last
from freqrob.models.sources import as_module
from freqrob.parameters import check_counts, checked, fits, keyword_hints, nearest_names, shown_hint, to_python
from freqrob.runtime.processes import propagate_failure, rank_and_world
from freqrob.spectral.longtail import split

Preset = Literal["quick", "full"]
Settings = Mapping[str, Mapping[str, Any]]
NONE: Settings = MappingProxyType({})
PROBED = 20  # images on which a model is tried before it is measured


@dataclass(frozen=True)
class Diagnostic:
    """A measurement that a preset plans.

    Attributes:
        measure: called as measure(model, images, labels, **settings).
        passes: how often the network sees each image, of the settings, ``images`` and ``size`` (height, width). A
            backward pass counts as two, what is not the network's as so many passes of an rn20 as take the time.
        sees: makes of the images what is measured on.
        gradients: whether it needs the gradient with respect to the images.
        package: what it needs besides freqrob's own dependencies.
    """

    measure: Callable[..., Measurement]
    passes: Callable[..., float]
    sees: Callable[[Tensor], Tensor] = lambda images: images
    gradients: bool = False
    package: str = ""

    @property
    def is_possible(self) -> bool:
        return not self.package or find_spec(self.package) is not None

    @property
    def hints(self) -> dict[str, Any]:
        """The types of its settings by name, the number of images among them."""
        hints = {"images": int, **keyword_hints(self.measure)}
        return {name: hint for name, hint in hints.items() if name not in ("cache", "cache_key", "track")}

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in signature(self.measure).parameters.items()}


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
    return min(2 * coarseness(height, width), max(1, max(height, width) // 2))


def _gradient_passes(**_: Any) -> float:
    return 3


def _hybrid_passes(*, frequencies: Sequence[float], seeds: Sequence[int], **_: Any) -> float:
    return len(frequencies) * len(seeds)


def _perturbation_passes(*, repeats: int, steps: int, **_: Any) -> float:
    return repeats * (200 + steps)  # 200 for the starts


def _band_passes(*, images: int, attacked: int | None, steps: int, **_: Any) -> float:
    share = min(images if attacked is None else attacked, images) / images
    return 70 + share * 5 * 3 * steps  # 3 filters of some 23 rings; 5 bands


def _heatmap_passes(*, size: tuple[int, int], every: int | None, **_: Any) -> float:
    return len(fourier_frequencies(*size, every or coarseness(*size)))


def _landscape_passes(*, points: int, **_: Any) -> float:
    return points**2


DIAGNOSTICS = {
    "jacobian": Diagnostic(jacobian_spectrum, _gradient_passes, gradients=True),
    "sensitivity": Diagnostic(sensitivity, _gradient_passes, gradients=True),
    "hybrid": Diagnostic(hybrid_reliance, _hybrid_passes),
    "minimal_perturbation": Diagnostic(minimal_perturbation, _perturbation_passes, gradients=True, package="foolbox"),
    "band_accuracy": Diagnostic(band_accuracy, _band_passes, gradients=True),
    "fourier_heatmap": Diagnostic(fourier_heatmap, _heatmap_passes),
    "loss_landscape_low": Diagnostic(loss_landscape, _landscape_passes, low_half),
    "loss_landscape_high": Diagnostic(loss_landscape, _landscape_passes, high_half),
}
# Settings, with how many images (all if 0); those that depend on the images' size are functions of (height, width).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "jacobian": {"images": 500},
        "sensitivity": {"images": 500},
        "hybrid": {"images": 300, "seeds": (0,)},
        "minimal_perturbation": {"images": 20, "steps": 50, "repeats": 1, "batch_size": 20},
        "band_accuracy": {"images": 100, "steps": 10, "attacked": 40},
        "fourier_heatmap": {"images": 60, "every": twice_as_coarse},
        "loss_landscape_low": {"images": 60, "points": 9},
        "loss_landscape_high": {"images": 60, "points": 9},
    },
    "full": {
        "jacobian": {"images": 0},
        "sensitivity": {"images": 0},
        "hybrid": {"images": 0},
        "minimal_perturbation": {"images": 1000, "batch_size": 20},
        "band_accuracy": {"images": 0, "attacked": 1000},
        "fourier_heatmap": {"images": 1000},
        "loss_landscape_low": {"images": 1000},
        "loss_landscape_high": {"images": 1000},
    },
}


@checked
def expected_seconds(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Settings = NONE,
    classes: int | None = None,
    batch_size: int | None = None,
) -> float:
    """About how long ``diagnose`` takes, from the time of one batch. Raises what it does before it measures."""
    check_labelled(images, labels)
    batch_size = default_batch_size(images) if batch_size is None else batch_size
    check_counts(batch_size=batch_size)
    plans, model = _planned(preset, only, settings, tuple(images.shape[-2:])), as_module(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_model(plans, model, images, labels, classes, batch_size)
    if rank_and_world()[1] == 1:
        _try_settings(plans, model, images, labels[_order(labels)])
    batch = to_pixels(images[: min(64, batch_size)]).to(device_of(model, images))
    with explained(batch_size), random_state(), measuring(model) as subject, channels_last(subject), torch.no_grad():
        subject(batch)
        began = time.perf_counter()
        subject(batch).sum().item()
        each = (time.perf_counter() - began) / len(batch)
    size, seen = tuple(images.shape[-2:]), 0
    for name, its in plans.items():
        given = {**DIAGNOSTICS[name].defaults, **its, "images": min(its["images"] or len(images), len(images))}
        seen += given["images"] * DIAGNOSTICS[name].passes(size=size, **given)
    return each * seen


@checked
def diagnose(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Settings = NONE,
    classes: int | None = None,
    out: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    cache: str | Path | None = None,
    cache_key: str | None = None,
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
        only: the diagnostics to run, of ``DIAGNOSTICS``; all by default, but those whose package is not installed, of
            which a warning tells.
        settings: what replaces the preset's, by diagnostic: ``{"fourier_heatmap": {"norm": 2.0, "images": 200}}``; the
            names are those of the diagnostic's function, and ``"images"`` is how many (0 for all).
        classes: as for ``evaluate``.
        out: a folder where each is saved, as ``<name>.npz`` and ``<name>.json``; a layer's as ``<name>_<layer>``. The
            JSON says which network it was (``model_hash``), and whether all of it came ``from_cache``.
        about: what the JSON says besides, such as the model's name and the provenance.
        batch_size: images at a time; by default 250 of 32×32 pixels, fewer of larger ones.
        cache: a folder where what is measured is kept, so that a run that was stopped goes on.
        cache_key: as for ``evaluate``.
        track: wraps iterables in a progress bar.

    Returns:
        What was measured, by the diagnostic's name.

    Raises:
        TypeError: no model.
        ValueError: before anything is measured: an unknown preset, diagnostic or setting, or one out of range; images
            and labels that do not fit, or are too small or too few for a diagnostic; a model that does not give logits
            of the images, for each class, or no gradient where a diagnostic needs it; an ``about`` that JSON cannot
            hold.
        OSError: ``out`` cannot be written; found out before anything is measured, except for a full disk.
        torch.OutOfMemoryError: too many images at a time for the memory.
        ImportError: one of ``only`` needs a package that is not installed.

    Warns of a model whose numbers mislead, as ``checks.warn_of_model`` finds out, and where nothing can be cached.
    """
    check_labelled(images, labels)
    plans, found = _planned(preset, only, settings, tuple(images.shape[-2:])), {}
    for name in () if only else DIAGNOSTICS.keys() - plans.keys():
        warnings.warn(f"{name} is left out: it needs {DIAGNOSTICS[name].package}", stacklevel=3)
    batch_size = default_batch_size(images) if batch_size is None else batch_size
    check_counts(batch_size=batch_size)
    with propagate_failure():
        if out is not None:
            as_json(dict(about or {}), "about")
            for path in (Path(out) / f"{name}.{kind}" for name in plans for kind in ("npz", "json")):
                check_file(path)
    model, order = as_module(model), _order(labels)
    cache = shared_cache(cache, cache_key, rank_and_world()[1], bare(model))
    _check_model(plans, model, images, labels, classes, batch_size)
    images, labels = images[order], labels[order]
    _try_settings(plans, model, images, labels, cache, cache_key)
    about = {**(about or {}), "model_hash": model_hash(model)} if out is not None else {}
    for name, its in plans.items():
        chosen, measured = slice(its.pop("images") or None), Counted(track)
        how = {"batch_size": batch_size, "cache": cache, "cache_key": cache_key, "track": measured, **its}
        diagnostic = DIAGNOSTICS[name]
        found[name] = diagnostic.measure(model, diagnostic.sees(images[chosen]), labels[chosen], **how)
        from_cache = not measured.any  # of all processes, one of which saves
        with propagate_failure():
            if out is not None:
                found[name].save(out, name, {**about, "from_cache": from_cache})
    return found


def default_batch_size(images: Tensor) -> int:
    """250 images of 32×32 pixels, fewer of larger ones."""
    return max(8, min(250, 250 * 32 * 32 // images[0, 0].numel()))


def _order(labels: Tensor) -> Tensor | slice:
    """A random order, always the same, of images that come class by class; of others the one they have."""
    if (labels.diff() < 0).any():
        return slice(None)
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))


def _planned(
    preset: Preset, only: Sequence[str], settings: Settings, size: tuple[int, int]
) -> dict[str, dict[str, Any]]:
    """The settings of each diagnostic, of the right names and types."""
    if preset not in get_args(Preset):
        raise ValueError(f"preset: expected one of {', '.join(get_args(Preset))}, got {preset!r}")
    if isinstance(only, str):
        raise ValueError(f"only: expected a sequence of names, such as [{only!r}], got {only!r}")
    for name in only:
        if name not in DIAGNOSTICS:
            near = nearest_names(name, DIAGNOSTICS)
            raise ValueError(f"only: got {name!r}, expected some of {', '.join(DIAGNOSTICS)}.{near}")
    chosen = [name for name in only or DIAGNOSTICS if only or DIAGNOSTICS[name].is_possible]
    for name, given in settings.items():
        if name not in chosen:
            near = nearest_names(name, chosen)
            raise ValueError(f"settings: {name!r} is not measured, expected any of {', '.join(chosen)}.{near}")
        _check_types(name, given)
    plans = {name: {**PRESETS[preset][name], **_as_python(name, settings.get(name, {}))} for name in chosen}
    return {
        name: {key: value(*size) if callable(value) else value for key, value in its.items()}
        for name, its in plans.items()
    }


def _check_types(name: str, given: Mapping[str, Any]) -> None:
    hints = DIAGNOSTICS[name].hints
    for key, value in given.items():
        if key not in hints:
            near = nearest_names(key, hints)
            raise ValueError(f"{name}: no setting {key!r}, expected any of {', '.join(hints)}.{near}")
        if not fits(to_python(value, hints[key]), hints[key]):
            raise ValueError(f"{name}: {key}: expected {shown_hint(hints[key])}, got {value!r}")
    if given.get("images", 0) < 0:
        raise ValueError(f"{name}: images: expected how many, or 0 for all, got {given['images']}")


def _as_python(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the right types with the numbers of NumPy and PyTorch as Python's."""
    hints = DIAGNOSTICS[name].hints
    return {key: to_python(value, hints[key]) for key, value in given.items()}


class _Begins(Exception):
    """A diagnostic has found its settings fit, and would begin to measure."""


def _try_settings(
    plans: Mapping[str, dict[str, Any]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    cache: Path | None = None,
    cache_key: str | None = None,
) -> None:
    """Raise ValueError for settings out of range, which a diagnostic finds out before it tracks what it measures.

    Several processes need the ``cache``, of which one alone has no use here.
    """

    def begin(*_: Any) -> Iterable:
        raise _Begins

    how = {"track": begin, "cache": cache if rank_and_world()[1] > 1 else None, "cache_key": cache_key}
    for name, its in plans.items():
        chosen = slice(its["images"] or None)
        given = {key: value for key, value in its.items() if key != "images"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                DIAGNOSTICS[name].measure(model, images[chosen], labels[chosen], **given, **how)
        except _Begins:
            continue
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_model(
    plans: Iterable[str], model: nn.Module, images: Tensor, labels: Tensor, classes: int | None, batch_size: int
) -> None:
    """Raise for a model that these diagnostics cannot measure, as ``warn_of_model`` does; warn as it does."""
    if classes is not None:
        check_counts(classes=classes)
    some = _some(model, images, labels, batch_size)
    needing = ", ".join(name for name in plans if DIAGNOSTICS[name].gradients)
    instead = ", ".join(name for name, diagnostic in DIAGNOSTICS.items() if not diagnostic.gradients)
    with explained(batch_size), random_state(), measuring(model) as subject, channels_last(subject):
        warn_of_model(subject, *some, all_labels=labels, classes=classes, needed_by=needing, instead=instead)


def _some(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """A few images as pixels of their own, and their labels, where the model is."""
    device, few = device_of(model, images), slice(min(PROBED, batch_size))
    return to_pixels(images[few].clone()).to(device), labels[few].to(device)
