"""Accuracy on corrupted images, its means by the papers' groups of types, and mCE."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks import Clean
from freqrob.data.corruption_arrays import CorruptionArrays
from freqrob.data.corruption_folders import CorruptionFolders
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES
from freqrob.data.datasets import DATASETS
from freqrob.evaluation.accuracy import evaluate
from freqrob.models.keys import usable_cache
from freqrob.models.sources import as_module
from freqrob.models.state import bare
from freqrob.runtime.html import html_table
from freqrob.runtime.parameters import checked, fits
from freqrob.runtime.progress import Progress, no_progress


def _groups() -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name, corruption in CORRUPTIONS.items():
        groups.setdefault(corruption.group, []).append(name)
    for band in ("low", "medium", "high"):
        groups[band] = [name for name, corruption in CORRUPTIONS.items() if corruption.band == band]
    groups["15 types"] = [name for name, corruption in CORRUPTIONS.items() if not corruption.extra]
    groups["19 types"] = [*CORRUPTIONS]
    return {group: tuple(names) for group, names in groups.items()}


GROUPS = _groups()
"""Groups of types: noise 4, blur 5, weather 4 and digital 6, which reproduce the means of Lin et al. 2023, Table 4 (the
benchmark's groups have 3, 4, 4 and 4); Li et al.'s bands (2023; low, medium, high); RobustBench's 15 types; and all 19
(Chan et al. 2022)."""


ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}  # fmt: skip
"""AlexNet's published error on each type of ImageNet-C, averaged over severities: hendrycks/robustness."""


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Accuracy of a model on corrupted images.

    Attributes:
        dataset: name of the data set.
        protocol: as in ``evaluate``.
        images: number of images at each severity of each type.
        bass: weighting of BaSS, if the images were balanced before they were corrupted, or None.
        generated: whether freqrob made the corruptions; otherwise they are the published ones.
        accuracies: by type, the accuracies at severity 1 to 5.
        standard_errors: those of ``means()`` and of each type's mean over severities; the corrupted versions of one
            image count as one sample.
        from_cache: by type, whether the accuracies at severity 1 to 5 came from the cache.
    """

    dataset: str
    protocol: str
    images: int
    bass: str | None
    generated: bool
    accuracies: dict[str, tuple[float, ...]]
    standard_errors: dict[str, float] = field(default_factory=dict)
    from_cache: dict[str, tuple[bool, ...]] = field(default_factory=dict, compare=False)

    def of_type(self, name: str) -> float:
        """The mean over severities. Raises KeyError for a type that was not measured."""
        return _mean(self.accuracies[name])

    def means(self) -> dict[str, float]:
        """The mean over types and severities of ``all`` and of each fully measured group of ``GROUPS``.

        ``"15 types"`` is the mean that RobustBench reports; ``"all"`` includes all measured types.
        """
        groups = _whole_groups(self.accuracies)
        return {group: _mean([self.of_type(name) for name in types]) for group, types in groups.items()}

    def mce_to_alexnet(self) -> float:
        """The mCE as defined for ImageNet-C: over its 15 types, relative to AlexNet's errors, ``ALEXNET``.

        Raises ValueError for another data set, for images made by freqrob, or if not all of the 15 types were measured.
        """
        if self.dataset != "imagenet":
            raise ValueError(f"dataset: expected imagenet, on which AlexNet's errors were measured, got {self.dataset}")
        if self.generated:
            raise ValueError("baseline: AlexNet's errors were measured on the published images, not on generated ones")
        if missing := [name for name in ALEXNET if name not in self.accuracies]:
            raise ValueError(f"types: the published mCE is over 15 types; not measured: {', '.join(missing)}")
        return _mean([(1 - self.of_type(name)) / error for name, error in ALEXNET.items()])

    def mce(self, baseline: CorruptionAccuracy) -> float:
        """The mean over the measured types of the error divided by the baseline's; 1 for the baseline itself.

        Compare it with values over the same types only: the benchmark's mCE is over 15, Chan et al.'s over 19 (in
        percent).

        Raises:
            ValueError: the baseline was measured under other conditions, or makes no error on one type.

        Source: Hendrycks & Dietterich, ICLR 2019, section 4.
        """
        for name in ("dataset", "images", "bass", "generated"):
            expected, other = getattr(self, name), getattr(baseline, name)
            if other != expected:
                raise ValueError(f"baseline: was measured with {name} {other}, expected {expected}")
        if self.accuracies.keys() != baseline.accuracies.keys():
            raise ValueError(f"baseline: was measured on {', '.join(baseline.accuracies)}, not on the same types")
        if flawless := [name for name in baseline.accuracies if baseline.of_type(name) == 1]:
            raise ValueError(f"baseline: makes no error on {flawless[0]}, so mCE is undefined; choose another baseline")
        return _mean([(1 - self.of_type(name)) / (1 - baseline.of_type(name)) for name in self.accuracies])

    def _repr_html_(self) -> str:
        rows = [
            [name, f"{100 * share:.1f}", f"{100 * error:.1f}" if (error := self.standard_errors.get(name)) else ""]
            for name, share in {**self.means(), **{name: self.of_type(name) for name in self.accuracies}}.items()
        ]
        caption = f"{self.dataset}, {self.images:,} images a severity, protocol {self.protocol}"
        return html_table(["corruptions", "accuracy (%)", "standard error"], rows, caption)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        by_type = {key: {name: [*at] for name, at in vars(self)[key].items()} for key in ("accuracies", "from_cache")}
        return {**vars(self), **by_type, "means": self.means()}


@checked
def evaluate_corruptions(
    model: nn.Module,
    corruptions: CorruptionArrays | CorruptionFolders,
    *,
    n_images: int | None = None,
    protocol: str = "natural",
    batch_size: int | None = None,
    cache: str | Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> CorruptionAccuracy:
    """Measure a model on every severity of every type in ``corruptions``.

    Each is one ``evaluate`` of the clean accuracy: with a ``cache``, an interrupted run resumes, and the processes of
    an initialised ``torch.distributed`` group share the work.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        corruptions: from ``load_corruptions`` or ``load_corruption_folders``.
        n_images: use the first images of each severity, as many as this; None for all.
        protocol, batch_size, cache, cache_key: as for ``evaluate``.
        progress: wraps the types and severities in a progress bar.

    Raises:
        ValueError: more images than available, an unknown protocol, or a model with another number of classes.
        OSError: the cache cannot be written.

    Source: Hendrycks & Dietterich, ICLR 2019; RobustBench, ``clean_accuracy`` on the severities' slices.
    """
    count = len(corruptions.labels)
    if n_images is not None and (not fits(n_images, int) or not 1 <= n_images <= count):
        raise ValueError(f"n_images: expected 1 to {count} (images of each severity), got {n_images}")
    labels, model = corruptions.labels[:n_images], as_module(model)
    known = DATASETS[corruptions.dataset].classes if corruptions.dataset in DATASETS else None
    classes = len(corruptions.classes) or known
    cache = usable_cache(cache, cache_key, bare(model))
    sets = [(name, severity) for name in corruptions.types for severity in SEVERITIES]
    accuracies: dict[str, tuple[float, ...]] = {}
    from_cache: dict[str, tuple[bool, ...]] = {}
    correct: dict[str, Tensor] = {}  # for each image, the share of severities at which it is correct
    for name, severity in progress(sets, f"{protocol} corruptions", len(sets), len(sets) * len(labels)):
        (result,) = evaluate(
            model, corruptions.images(name, severity)[:n_images], labels, protocols=[protocol], attacks=[Clean()],
            classes=classes,
            batch_size=batch_size, cache=cache, cache_key=cache_key,
        )  # fmt: skip
        accuracies[name] = (*accuracies.get(name, ()), result.accuracy)
        from_cache[name] = (*from_cache.get(name, ()), result.from_cache)
        correct[name] = correct.get(name, 0) + result.correct.double() / len(SEVERITIES)
    errors = {
        group: torch.stack([correct[name] for name in types]).mean(0).std(correction=0).item() / len(labels) ** 0.5
        for group, types in [*_whole_groups(accuracies).items(), *((name, (name,)) for name in accuracies)]
    }
    generated = corruptions.generated or {}
    return CorruptionAccuracy(
        corruptions.dataset, protocol, len(labels), generated.get("bass"), bool(generated), accuracies, errors,
        from_cache,
    )  # fmt: skip


def _whole_groups(measured: Collection[str]) -> dict[str, tuple[str, ...]]:
    """``all``, and the groups of ``GROUPS`` with all types measured."""
    groups = {group: types for group, types in GROUPS.items() if set(types) <= set(measured)}
    return {**groups, "all": tuple(measured)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
