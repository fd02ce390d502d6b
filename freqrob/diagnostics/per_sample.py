"""Measure values of each image, with a cache, in one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks.checks import check_answers, explained
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.streams import Images
from freqrob.models.keys import shared_cache, subject_key
from freqrob.models.sources import as_module
from freqrob.models.state import bare, channels_last, default_batch_size, device_of, measuring
from freqrob.runtime.parameters import check_counts
from freqrob.runtime.process_state import random_state
from freqrob.runtime.processes import merged, propagate_failure, rank_and_world
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.result_store import Samples
from freqrob.runtime.tensors import data_hash

Measure = Callable[[nn.Module, Tensor, torch.device], dict[str, Tensor]]


class Counted:
    """A ``progress`` that counts its items."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.items = progress, 0

    def __call__(self, items: Iterable, quantity: str, count: int, images: int = 0) -> Iterable:
        self.items += count
        return self.progress(items, quantity, count, images)

    @property
    def any(self) -> bool:
        """Whether any process counted an item. Every process must call it."""
        return bool(merged([torch.tensor(self.items > 0)])[0])


def per_sample(
    measure: Measure,
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    key: Mapping[str, Any],
    quantity: str,
    batch_size: int | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> Samples:
    """Measure values of each image, batch by batch.

    With a ``cache``, each finished batch is cached: an interrupted run resumes, and a repeated call measures nothing.
    In an initialised ``torch.distributed`` group the processes share the batches and need a common cache.

    Args:
        measure: called as measure(model, indices, device) with the model in eval mode and the indices of some images;
            returns values (len(indices), …) by name.
        model: images (N, C, H, W) in [0, 1] to logits (N, K), an nn.Module or a Foolbox model; measured in eval mode,
            without gradients unless ``measure`` enables them.
        images, labels: (N, C, H, W), uint8 or float in [0, 1], a tensor or a stream, and (N,) int64.
        key: the settings that the values depend on, as values that JSON can hold.
        quantity: name of what is measured, for the progress bar and the file's name.
        batch_size: images per batch; ``default_batch_size`` by default.
        cache: the cache directory; None caches nothing.
        cache_key: as for ``evaluate``.
        progress: wraps iterables in a progress bar.

    Raises:
        TypeError, ValueError: not a model; invalid images or labels; several processes without a cache, or with a model
            that cannot be cached without a ``cache_key``.
        OSError: the cache cannot be written.
    """
    measure_batch, model, _, batches = _prepared(measure, model, images, labels, batch_size)
    common = {"key": key, "quantity": quantity, "cache": cache, "cache_key": cache_key, "progress": progress}
    return shared_out(measure_batch, model, images, labels, batches, images_each=1, **common)


def per_batch(
    measure: Measure,
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    key: Mapping[str, Any],
    batch_size: int | None = None,
    **common: Any,
) -> Samples:
    """As ``per_sample``, but ``measure`` returns values of the whole batch: (batches, …) by name.

    For values that are large per image, such as spectra.
    """
    measure_batch, model, batch_size, batches = _prepared(measure, model, images, labels, batch_size)

    def of_batch(subject: nn.Module, number: Tensor) -> dict[str, Tensor]:
        return {name: value[None] for name, value in measure_batch(subject, batches[number]).items()}

    numbers = torch.arange(len(batches)).split(1)
    each = {"images_each": batch_size, "key": {**key, "batch_size": batch_size}}
    return shared_out(of_batch, model, images, labels, numbers, **each, **common)


def _prepared(
    measure: Measure, model: nn.Module, images: Images, labels: Tensor, batch_size: int | None
) -> tuple[Callable[[nn.Module, Tensor], dict[str, Tensor]], nn.Module, int, tuple[Tensor, ...]]:
    """Check the arguments of ``per_sample``, and fill in what is not given.

    Returns ``measure`` on the model's device, with errors that explain a failing model or exhausted memory; the model
    as a module; the batch size; and the indices of each batch. Raises ValueError for images and labels that do not fit.
    """
    model = as_module(model)
    check_labelled(images, labels)
    batch_size = default_batch_size(model, images) if batch_size is None else batch_size
    check_counts(batch_size=batch_size)
    device = device_of(model, images)

    def measure_batch(subject: nn.Module, indices: Tensor) -> dict[str, Tensor]:
        def check() -> None:
            check_answers(subject, to_pixels(images[indices]).to(device), labels[indices].to(device))

        with explained(batch_size, check):
            return measure(subject, indices, device)

    return measure_batch, model, batch_size, torch.arange(len(images)).split(int(batch_size))


def shared_out(
    measure: Callable[[nn.Module, Tensor], dict[str, Tensor]],
    model: nn.Module,
    images: Images,
    labels: Tensor,
    chunks: Sequence[Tensor],
    *,
    key: Mapping[str, Any],
    quantity: str,
    cache: Path | None,
    cache_key: str | None,
    progress: Progress,
    images_each: int = 0,
) -> Samples:
    """As ``per_sample``, for any items with indices 0, 1, …; processes share the ``chunks`` of indices.

    The progress bar counts images if an item is ``images_each`` images, and otherwise chunks.
    """
    rank, world = rank_and_world()
    cache = shared_cache(cache, cache_key, world, bare(model))
    if cache is not None:
        key = {**subject_key(bare(model), cache_key), "data": data_hash(images, labels), **key}
    count = sum(map(len, chunks))
    with propagate_failure():
        samples = Samples(cache, key, count, quantity)
        remaining = [chunk[~samples.done[chunk]] for chunk in chunks[rank::world] if not samples.done[chunk].all()]
        with measuring(model) as subject, channels_last(subject), torch.no_grad():
            n_images = images_each * sum(map(len, remaining))
            for numbers in progress(remaining, quantity, len(remaining), n_images):
                with random_state(int(numbers[0])):
                    values = measure(subject, numbers)
                samples.put(numbers, **values)
    samples.gather()
    return samples
