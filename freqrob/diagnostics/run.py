"""Run all diagnostics on a model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks.checks import explained, warn_of_model
from freqrob.data.datasets import to_pixels
from freqrob.data.streams import Images, ImageStream, in_memory, select
from freqrob.diagnostics.measurement import Measurement, check_about
from freqrob.diagnostics.per_sample import Counted
from freqrob.diagnostics.registry import Diagnostic, Preset, all_diagnostics, get_diagnostic, list_diagnostics
from freqrob.models.keys import model_hash, shared_cache
from freqrob.models.preprocessing import Data, inputs_of
from freqrob.models.sources import as_module
from freqrob.models.state import bare, channels_last, default_batch_size, device_of, measuring
from freqrob.runtime.files import check_file, expanded
from freqrob.runtime.html import html_table
from freqrob.runtime.parameters import Count, checked, fits, nearest_names, shown_hint, to_python
from freqrob.runtime.process_state import random_state
from freqrob.runtime.processes import propagate_failure, rank_and_world
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.warning import warn

Settings = Mapping[str, Mapping[str, Any]]
NONE: Settings = MappingProxyType({})
PROBED = 20  # images on which a model is tried before it is measured


class Diagnosis(dict[str, Measurement]):
    """Measurements by the diagnostic's name; notebooks show the numbers as a table."""

    def _repr_html_(self) -> str:
        rows = [
            [name, column.label, column.shown(measured)]
            for name, measured in self.items()
            for column in get_diagnostic(name).columns
            if column.label
        ]
        return html_table(["diagnostic", "number", "value"], rows)


@checked
def expected_seconds(
    model: nn.Module,
    data: Data,
    labels: Tensor | None = None,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Settings = NONE,
    classes: Count | None = None,
    batch_size: Count | None = None,
) -> float:
    """Estimate the seconds that ``diagnose`` takes, from the time to read one batch and the time of a forward pass.

    Only the first images are read. Raises as ``diagnose``.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model, samples = freqrob.load_model("standard_rn20"), sample_images()
    >>> expected_seconds(model, samples.images, samples.labels, only=["jacobian"]) < 60
    True
    """
    model = as_module(model)
    images, labels, classes = inputs_of(model, data, labels, classes)
    batch_size = batch_size or default_batch_size(model, images)
    size = images.shape[-2], images.shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = _planned(preset, only, settings, size)
        _check_model(plans, model, images, labels, classes, batch_size)
    if rank_and_world()[1] == 1:
        _try_settings(plans, model, images, labels[_order(labels)])
    each_pass, each_read = _seconds_per_image(model, images, batch_size)
    seconds = 0.0
    for name, plan in plans.items():
        diagnostic = get_diagnostic(name)
        given = {**diagnostic.defaults, **plan, "images": min(plan["images"] or len(images), len(images))}
        seconds += given["images"] * (each_pass * diagnostic.cost(given, size) + each_read * diagnostic.reads(given))
    return seconds


def _seconds_per_image(model: nn.Module, images: Images, batch_size: int) -> tuple[float, float]:
    """The times per image of a forward pass and of reading, measured on a batch of at most 64 images."""
    probed = torch.arange(min(64, batch_size, len(images)))
    began = time.perf_counter()
    batch = to_pixels(images[probed]).to(device_of(model, images))
    reading = time.perf_counter() - began
    with explained(batch_size), random_state(), measuring(model) as subject, channels_last(subject), torch.no_grad():
        subject(batch)
        began = time.perf_counter()
        subject(batch).sum().item()
        passing = time.perf_counter() - began
    return passing / len(batch), reading / len(batch)


@checked
def diagnose(
    model: nn.Module,
    data: Data,
    labels: Tensor | None = None,
    *,
    preset: Preset = "quick",
    only: Sequence[str] = (),
    settings: Settings = NONE,
    classes: Count | None = None,
    out: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: Count | None = None,
    cache: str | Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> Diagnosis:
    """Run the frequency diagnostics on a model.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model; measured in eval mode.
        data, labels: as for ``evaluate``. Costly diagnostics measure only the first images; images sorted by class,
            such as ImageNet's, are therefore shuffled in a fixed order.
        preset: ``"quick"`` takes under a minute for a small model on two cores, and measures every other frequency of
            the heat map; ``"full"`` has the papers' settings.
        only: the diagnostics to run, from ``list_diagnostics()``; by default all with installed packages, with a
            warning about the others.
        settings: settings that override the preset's, by diagnostic: ``{"fourier_heatmap": {"norm": 2.0, "images":
            200}}``; the names are the parameters of the diagnostic's function, and ``"images"`` is the number of images
            (0 for all).
        classes: as for ``evaluate``.
        out: folder for ``<name>.npz`` and ``<name>.json`` of each diagnostic, ``<name>_<layer>`` for a layer. The JSON
            has the model's hash (``model_hash``) and says whether all results came ``from_cache``.
        about: more entries of the JSON, such as the model's name and the provenance.
        batch_size: images per batch; ``default_batch_size`` by default.
        cache: cache directory, from which an interrupted run resumes.
        cache_key: as for ``evaluate``.
        progress: wraps iterables in a progress bar, as ``freqrob.runtime.progress.progress_bar`` does.

    Returns:
        The measurements by the diagnostic's name.

    Raises:
        TypeError: ``model`` is not a model.
        ValueError: before anything is measured, for an unknown preset, diagnostic or setting, or one out of range;
            invalid images or labels, or images too small or too few for a diagnostic; a model that does not return one
            logit for each image and class, or without a gradient that a diagnostic needs; an ``about`` that JSON cannot
            hold.
        OSError: ``out`` cannot be written; checked before anything is measured, except for a full disk.
        torch.OutOfMemoryError: a batch is too large for the memory.
        ImportError: one of ``only`` needs a package that is not installed.

    Warns about models whose numbers would mislead (``checks.warn_of_model``), and if nothing can be cached.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> list(diagnose(model, samples.images, samples.labels, only=["jacobian"]))
    ['jacobian']
    """
    images, labels, classes = inputs_of(as_module(model), data, labels, classes, progress)
    plans, measurements = _planned(preset, only, settings, (images.shape[-2], images.shape[-1])), Diagnosis()
    for name, diagnostic in {} if only else all_diagnostics().items():
        if name not in plans:
            warn(f"{name} is left out: it needs {diagnostic.package}")
    with propagate_failure():
        if out is not None:
            out = expanded(out, "out")
            check_about(about)
            for path in (out / f"{name}.{kind}" for name in plans for kind in ("npz", "json")):
                check_file(path)
    model, order = as_module(model), _order(labels)
    batch_size = batch_size or default_batch_size(model, images)
    cache = shared_cache(cache, cache_key, rank_and_world()[1], bare(model))
    _check_model(plans, model, images, labels, classes, batch_size)
    images, labels = select(images, order), labels[order]
    _try_settings(plans, model, images, labels, cache, cache_key)
    about = {**(about or {}), "model_hash": model_hash(model)} if out is not None else {}
    for name, plan in plans.items():
        chosen, measured = slice(plan.pop("images") or None), Counted(progress)
        common = {"batch_size": batch_size, "cache": cache, "cache_key": cache_key, "progress": measured, **plan}
        diagnostic = get_diagnostic(name)
        shown = images[chosen] if diagnostic.streams else diagnostic.sees(in_memory(images[chosen]))
        measurements[name] = diagnostic.measure(model, shown, labels[chosen], **common)
        from_cache = not measured.any  # a collective call; only one process saves
        with propagate_failure():
            if out is not None:
                measurements[name].save(out, name, {**about, "from_cache": from_cache})
    return measurements


def _order(labels: Tensor) -> Tensor | slice:
    """A fixed random order for images that are sorted by class; the given order for others."""
    if (labels.diff() < 0).any():
        return slice(None)
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))


def check_only(only: Sequence[str]) -> None:
    """Raise ValueError, with the nearest names, unless these are names of diagnostics."""
    if isinstance(only, str):
        raise ValueError(f"only: expected a sequence of names, such as [{only!r}], got {only!r}")
    for name in only:
        if name not in (known := list_diagnostics()):
            raise ValueError(f"only: got {name!r}, expected some of {', '.join(known)}.{nearest_names(name, known)}")


def _planned(
    preset: Preset, only: Sequence[str], settings: Settings, size: tuple[int, int]
) -> dict[str, dict[str, Any]]:
    """Settings of each diagnostic, with names and types checked."""
    check_only(only)
    if only:
        chosen = {name: get_diagnostic(name) for name in only}
    else:
        chosen = {name: diagnostic for name, diagnostic in all_diagnostics().items() if diagnostic.is_possible}
    for name in settings:
        if name not in chosen:
            hint = nearest_names(name, chosen)
            raise ValueError(f"settings: {name!r} is not measured, expected any of {', '.join(chosen)}.{hint}")
    plans = {}
    for name, diagnostic in chosen.items():
        plan = {"images": 0, **diagnostic.presets.get(preset, {}), **_as_settings(diagnostic, settings.get(name, {}))}
        plans[name] = {key: value(*size) if callable(value) else value for key, value in plan.items()}
    return plans


def _as_settings(diagnostic: Diagnostic, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and types of settings, and convert NumPy and PyTorch numbers to Python's."""
    name, hints, settings = diagnostic.name, diagnostic.hints, {}
    for key, value in given.items():
        if key not in hints:
            hint = nearest_names(key, hints)
            raise ValueError(f"{name}: no setting {key!r}, expected any of {', '.join(hints)}.{hint}")
        settings[key] = to_python(value, hints[key])
        if not fits(settings[key], hints[key]):
            raise ValueError(f"{name}: {key}: expected {shown_hint(hints[key])}, got {value!r}")
    if settings.get("images", 0) < 0:
        raise ValueError(f"{name}: images: expected a count, or 0 for all, got {settings['images']}")
    return settings


class _Begins(Exception):
    """Raised when a diagnostic has checked its settings and starts to measure."""


def _try_settings(
    plans: Mapping[str, dict[str, Any]],
    model: nn.Module,
    images: Images,
    labels: Tensor,
    cache: Path | None = None,
    cache_key: str | None = None,
) -> None:
    """Raise ValueError for settings out of range, by running each diagnostic up to its first ``progress``."""

    def begin(*_: Any) -> Iterable:
        raise _Begins

    shared = cache if rank_and_world()[1] > 1 else None  # several processes must have one
    common = {"progress": begin, "cache": shared, "cache_key": cache_key}
    for name, plan in plans.items():
        chosen, diagnostic = slice(plan["images"] or None), get_diagnostic(name)
        tried = images[chosen]
        if isinstance(tried, ImageStream) and not diagnostic.streams:
            tried = torch.zeros((), dtype=tried.dtype).expand(tried.shape)  # reads no image, takes no memory
        given = {key: value for key, value in plan.items() if key != "images"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                diagnostic.measure(model, tried, labels[chosen], **given, **common)
        except _Begins:
            continue
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_model(
    plans: Iterable[str], model: nn.Module, images: Images, labels: Tensor, classes: int | None, batch_size: int
) -> None:
    """Raise and warn as ``warn_of_model`` about a model that these diagnostics cannot measure."""
    device, probed = device_of(model, images), torch.arange(min(PROBED, batch_size, len(images)))
    batch = to_pixels(images[probed]).to(device), labels[probed].to(device)
    needing = ", ".join(name for name in plans if get_diagnostic(name).needs_gradients)
    alternatives = ", ".join(name for name, diagnostic in all_diagnostics().items() if not diagnostic.needs_gradients)
    with explained(batch_size), random_state(), measuring(model) as subject, channels_last(subject):
        warn_of_model(subject, *batch, all_labels=labels, classes=classes, needed_by=needing, alternative=alternatives)
