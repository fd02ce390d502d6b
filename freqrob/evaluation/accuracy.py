"""Accuracy under attacks and the three protocols."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqrob.attacks import PGD, Attack, Clean, parse_attack
from freqrob.attacks.checks import check_model, explained, warn_of_model
from freqrob.data.datasets import to_pixels
from freqrob.data.photographs import preprocessing_in_words
from freqrob.data.streams import Images, ImageStream, batches
from freqrob.models.front_ends import FrontEnded, front_ends_of, without_front_end
from freqrob.models.keys import hash_of, subject_key, usable_cache
from freqrob.models.preprocessing import Data, inputs_of
from freqrob.models.sources import as_module
from freqrob.models.state import channels_last, default_batch_size, device_of, measuring
from freqrob.models.twins import COMPARED, Precision, fast_gradients, in_bfloat16
from freqrob.runtime.html import html_table
from freqrob.runtime.parameters import Count, Natural, check_choices, checked, pixels
from freqrob.runtime.process_state import random_state
from freqrob.runtime.processes import merged, propagate_failure, rank_and_world
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.result_store import Samples
from freqrob.runtime.statistics import wilson_interval
from freqrob.runtime.tensors import data_hash
from freqrob.spectral.balance import BaSS, bass

PROTOCOLS = ("natural", "natural+bass", "bass")


@dataclass(frozen=True)
class Result:
    """One measured accuracy, with everything that it depends on.

    ``accuracy`` is a share of ``images``; ``preprocessing`` is that of photographs ("resize 256 (bilinear), center crop
    224"), "" for other images; ``correct`` is the (N,) mask of the images that stay correctly classified;
    ``from_cache`` says whether the whole result came from the cache; ``precision`` is that of the attack's gradients.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> result = freqrob.evaluate(model, samples.images, samples.labels, protocols=["natural"], attacks=["pgd-2"])[0]
    >>> result.protocol, result.attack.name, result.images, result.seed
    ('natural', 'PGD-2', 4, 0)
    """

    protocol: str
    attack: Attack
    images: int
    seed: int
    accuracy: float
    correct: Tensor = field(compare=False, repr=False)
    from_cache: bool = field(default=False, compare=False)
    preprocessing: str = ""
    precision: Precision = "float32"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: protocol, attack, parameters, precision, images and preprocessing, seed, accuracy."""
        measured = {
            "precision": self.precision, "images": self.images, "seed": self.seed, "accuracy": self.accuracy,
        }  # fmt: skip
        prepared = {"preprocessing": self.preprocessing} if self.preprocessing else {}
        return {"protocol": self.protocol, **self.attack.as_dict(), **measured, **prepared}


class Results(list[Result]):
    """The results of ``evaluate``: a list that notebooks show as a table, with Wilson's 95 % intervals.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> samples, model = sample_images(), freqrob.load_model("pgd_at_rn20")
    >>> results = freqrob.evaluate(model, samples.images, samples.labels, protocols=["natural"], attacks=["clean"])
    >>> type(results).__name__, len(results)
    ('Results', 1)
    """

    def _repr_html_(self) -> str:
        header = ("protocol", "attack", "norm", "ε", "images", "seed", "accuracy (%)", "95 % interval")
        return html_table(header, map(self._cells, self), "Accuracy under attack")

    @staticmethod
    def _cells(result: Result) -> tuple[str, ...]:
        attack = result.attack
        ball = (attack.norm, pixels(attack.eps, attack.norm)) if attack.eps else ("", "")
        low, high = (f"{100 * bound:.1f}" for bound in wilson_interval(result.accuracy, result.images))
        accuracy = f"{100 * result.accuracy:.1f}", f"{low} to {high}"
        return result.protocol, attack.name, *ball, f"{result.images:,}", f"{result.seed}", *accuracy


@checked
def evaluate(
    model: nn.Module,
    data: Data,
    labels: Tensor | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    attacks: Sequence[Attack | str] = (Clean(), PGD()),
    classes: Count | None = None,
    batch_size: Count | None = None,
    seed: Natural = 0,
    precision: Precision = "float32",
    cache: str | Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> Results:
    """Measure a model's accuracy for each protocol and attack.

    ``natural``: the ball is around the natural image, and the gradient goes through the whole model. ``natural+bass``:
    the same with BaSS in front of the model; the attack differentiates through BaSS. ``bass``: the images are balanced
    first (as uint8), and the ball is around the balanced image, as in Lin et al., NeurIPS 2023.

    BaSS is never applied twice. If it is one of the model's front ends (``bassfront_``), ``natural+bass`` is
    ``natural``, and ``bass`` balances the images as that front end does and measures the model without it.

    An image counts as broken if the clean image or an adversarial example is misclassified: any iterate of PGD from any
    start, or the final point of each of AutoAttack's attacks. Broken images are not attacked again.

    Attacks of many steps use the model's twin (``freqrob.models.twins``), if it has one. An adversarial example counts
    only if it fools the model itself; images that fool only the twin are attacked again on the model.

    Clean, FGSM and PGD give the same numbers for any ``batch_size``; AutoAttack and Square do not, because their
    packages draw random numbers batch by batch.

    With a ``cache``, each finished batch is cached: an interrupted run resumes, and a repeated call measures nothing.
    Changes of hooks and of code outside installed releases, such as your own classes, are not detected: results of a
    model or attack with such code are only cached with a ``cache_key`` (see ``freqrob.models.keys``).

    In an initialised ``torch.distributed`` group, such as that of ``freqrob evaluate`` under torchrun, the processes
    share the batches. Each process must call this function, and each gets all results.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K), or a Foolbox model; measured in eval mode, then restored.
        data: images (N, C, H, W), uint8 or float in [0, 1], on any device; or an ``ImageSet`` (``load_dataset``,
            ``load_photographs``), or PyTorch's ``Dataset`` or ``DataLoader`` of pairs of an image and a label. All but
            tensors are read batch by batch, so that memory does not grow with their number. Photographs without a
            preprocessing of their own get the model's (``preprocessing_of``).
        labels: (N,) int64; only if ``data`` is a tensor or a stream, which have no labels.
        protocols: some of ``PROTOCOLS``.
        attacks: attacks in the order of the results; strings, such as "clean", "pgd-50-10" or "autoattack", are parsed
            by ``freqrob.attacks.parse_attack``.
        classes: number of classes of the data set, by default that of an ``ImageSet``; a model with another number of
            logits raises ValueError. If it is unknown, a model whose classes seem not to match the labels causes a
            warning.
        batch_size: images per batch; ``default_batch_size`` by default.
        seed: random seed, ≥ 0; each attack starts from it.
        precision: "bfloat16" runs attacks of many gradients on a twin in bfloat16 first. Its adversarial examples count
            if they fool the model; the other images are attacked again in float32. Faster on processors with bfloat16
            arithmetic; the accuracy stays an upper bound.
        cache: the cache directory; None caches nothing.
        cache_key: identifies code that the cache cannot see; change it along with that code. Changes of tensors,
            attributes and class names are always noticed.
        progress: wraps iterables in a progress bar, as ``freqrob.runtime.progress.progress_bar`` does.

    Returns:
        A result for each protocol and attack, in that order.

    Raises:
        TypeError: ``model`` is neither an nn.Module nor a Foolbox model.
        ValueError: an unknown protocol, attack or precision, bfloat16 for a model that is not in float32, no images,
            labels that do not match the images, a model that does not return one logit for each image and class, or a
            model without a gradient that an attack needs.
        torch.OutOfMemoryError: a batch is too large for the memory.
        ImportError: the package for AutoAttack or Square is not installed.
        OSError: the cache cannot be written.
        ProcessFailure: (an OSError) another process of the group failed.

    Warns about models whose numbers would mislead (``checks.warn_of_model``), if anything is measured; if nothing can
    be cached; and about damaged files in the cache, which are set aside.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()
    >>> results = evaluate(model, samples.images, samples.labels, attacks=["clean"])
    >>> [(result.protocol, result.images) for result in results]
    [('natural', 20), ('natural+bass', 20), ('bass', 20)]
    """
    for protocol in protocols:
        check_choices(PROTOCOLS, protocols=protocol)
    attacks = [parse_attack(attack) if isinstance(attack, str) else attack for attack in attacks]
    for attack in attacks:
        _check_described(attack)
    images, labels, classes = inputs_of(as_module(model), data, labels, classes, progress)
    batch_size, results = batch_size or default_batch_size(as_module(model), images), Results()
    with random_state(seed), measuring(as_module(model)) as bare:
        cache = usable_cache(cache, cache_key, bare, *attacks)
        measured: dict[str, list[tuple[Tensor, bool]]] = {}
        for protocol in protocols:
            same_as = "natural" if protocol == "natural+bass" and _bass_of(bare) else protocol
            if same_as not in measured:
                subject = _Subject(
                    *_under(same_as, bare, images), labels, classes, seed, precision, batch_size, cache, cache_key
                )
                with channels_last(subject.model):
                    measured[same_as] = _correct(subject, attacks, protocol, progress)
            results += [
                Result(
                    protocol,
                    attack,
                    len(images),
                    seed,
                    correct.sum().item() / len(images),
                    correct,
                    from_cache,
                    preprocessing_in_words(images),
                    precision_of(attack, precision),
                )
                for attack, (correct, from_cache) in zip(attacks, measured[same_as], strict=True)
            ]
    return results


def precision_of(attack: Attack, precision: Precision) -> Precision:
    """The precision in which an attack first runs in a measurement with ``precision``."""
    return precision if attack.uses_twins and attack.uses_gradients else "float32"


def _check_described(attack: Attack) -> None:
    """Raise TypeError for an attack that cannot be recorded in a result."""
    try:
        hash(attack)
        json.dumps(attack.as_dict(), default=operator.index)
    except ImportError:
        return  # the package is missing; the attack's run reports that
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"attack: expected a frozen dataclass with hashable fields, or with as_dict() that gives plain values, got "
            f"{type(attack).__name__} ({error})"
        ) from error


def _bass_of(model: nn.Module) -> BaSS | None:
    """The BaSS among the model's front ends, if there is one."""
    return next((module for module in front_ends_of(model) if isinstance(module, BaSS)), None)


def _under(protocol: str, model: nn.Module, images: Images) -> tuple[nn.Module, Images]:
    """The model and the images attacked under a protocol."""
    if protocol == "natural+bass":
        return FrontEnded([BaSS()], model).eval(), images
    if protocol == "bass":
        front_end = _bass_of(model)
        balanced = partial(_balanced, front_end=front_end or BaSS())
        described = f"balanced by {front_end or BaSS()}"
        images = images.map(balanced, described) if isinstance(images, ImageStream) else balanced(images)
        return (without_front_end(model, front_end) if front_end else model), images
    return model, images


def _balanced(images: Tensor, front_end: BaSS) -> Tensor:
    """BaSS on pixels rounded to uint8, as in the authors' test set."""
    grey = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return bass(grey, weighting=front_end.weighting, pixel_scale=front_end.pixel_scale)


@dataclass(frozen=True)
class _Subject:
    """A model, the images on which it is attacked, and the cache of results."""

    model: nn.Module
    images: Images
    labels: Tensor
    classes: int | None
    seed: int
    precision: Precision
    batch_size: int
    cache: Path | None
    cache_key: str | None

    def batch(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images as pixels, and labels, on the model's device."""
        device = device_of(self.model, self.images)
        return to_pixels(images).to(device), self.labels[index].to(device)

    def twins(self, attack: Attack) -> tuple[nn.Module, ...]:
        """Faster models to attack first, the fastest first."""
        folded = () if not attack.uses_twins or self._twin is self.model else (self._twin,)
        return (self._low, *folded) if precision_of(attack, self.precision) == "bfloat16" else folded

    @cached_property
    def _twin(self) -> nn.Module:
        few = torch.arange(min(len(self.images), COMPARED, self.batch_size))  # the first batch is read anyway
        return fast_gradients(self.model, self.batch(self.images[few], few)[0])

    @cached_property
    def _low(self) -> nn.Module:
        return in_bfloat16(self._twin)

    def samples(self, attack: Attack) -> Samples:
        """The cached results of an attack: ``correct`` of each image."""
        if self.cache is None:
            return Samples(None, {}, len(self.images))
        key = {
            **self._key, "seed": self.seed, "attack": attack.as_dict(), "attack_hash": hash_of(attack),
            "batch_size": self.batch_size if attack.batched else None,
            "precision": precision_of(attack, self.precision),
        }  # fmt: skip
        return Samples(self.cache, key, len(self.images), attack.name)

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {**subject_key(self.model, self.cache_key), "data": data_hash(self.images, self.labels)}


def _correct(
    subject: _Subject, attacks: Sequence[Attack], protocol: str, progress: Progress
) -> list[tuple[Tensor, bool]]:
    """Mask (N,) of the images that stay correctly classified, by attack, and whether all were cached."""
    with propagate_failure():
        kept, measured = _share(subject, attacks, protocol, progress)
    nothing = torch.zeros(len(subject.images), dtype=torch.bool)
    last = [kept[attack.stages[-1]] for attack in attacks]
    correct = merged([samples["correct"] if samples.done.any() else nothing for samples in last])
    (from_here,) = merged([torch.tensor([attack in measured for attack in attacks], dtype=torch.bool)])
    return list(zip(correct, (~from_here).tolist(), strict=True))


def _share(
    subject: _Subject, attacks: Sequence[Attack], protocol: str, progress: Progress
) -> tuple[dict[Attack, Samples], set[Attack]]:
    """Measure this process's batches. Returns all results by attack, and the attacks not fully cached."""
    rank, world = rank_and_world()
    chunks = torch.arange(len(subject.images)).split(int(subject.batch_size))[rank::world]
    kept: dict[Attack, Samples] = {}
    measured: set[Attack] = set()
    for attack in dict.fromkeys((Clean(), *attacks)):
        kept |= {stage: subject.samples(stage) for stage in attack.stages if stage not in kept}
        before_each = (None if attack == Clean() else Clean(), *attack.stages[:-1])
        missing = [
            (chunk, kept[before] if before else None, stage)
            for chunk in chunks
            for before, stage in zip(before_each, attack.stages, strict=True)
            if not kept[stage].done[chunk].all()
        ]
        if missing and not measured:
            needed_by = ", ".join(dict.fromkeys(attack.name for attack in attacks if attack.uses_gradients))
            with explained(subject.batch_size):
                warn_of_model(
                    subject.model, *subject.batch(subject.images[chunks[0]], chunks[0]), all_labels=subject.labels,
                    classes=subject.classes, needed_by=needed_by, alternative="clean or square",
                )  # fmt: skip
        measured |= {attack} if missing else set()
        of_share = len(chunks) * len(attack.stages), sum(map(len, chunks))
        tracked = progress(missing, f"{protocol} {attack.name}", *of_share)
        read = batches(subject.images, list(dict.fromkeys(chunk for chunk, *_ in missing)))
        for _, stages in groupby(tracked, lambda work: id(work[0])):
            images = next(read)
            for chunk, before, stage in stages:
                _measure(subject, stage, chunk, images, before, kept[stage])
    return kept, measured


def _measure(
    subject: _Subject, attack: Attack, chunk: Tensor, images: Tensor, before: Samples | None, kept: Samples
) -> None:
    """Attack the ``images`` of a chunk that are not yet measured and stay correctly classified under ``before``."""
    is_missing = ~kept.done[chunk]
    index = chunk[is_missing]
    is_robust = torch.ones(len(index), dtype=torch.bool) if before is None else before["correct"][index]
    remaining = index[is_robust]
    if len(remaining):
        batch = subject.batch(images[is_missing][is_robust], remaining)
        with explained(subject.batch_size, lambda: check_model(subject.model, *batch, attack.uses_gradients)):
            robust = attack.robust_mask(
                subject.model, *batch, indices=remaining, seed=subject.seed, twins=subject.twins(attack)
            )
        is_robust = is_robust.masked_scatter(is_robust, robust.cpu())
    kept.put(index, correct=is_robust)
