"""Resources of experiments: models that are loaded or trained, images, corruptions, accuracies."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from torch import nn

from freqrob.attacks import Attack
from freqrob.data import ImageSet, balance, load_dataset
from freqrob.data.corruption_arrays import PUBLISHED, CorruptionArrays, load_corruptions, write_corruptions
from freqrob.data.corruption_folders import FOLDERS, CorruptionFolders, load_corruption_folders
from freqrob.data.corruptions import CORRUPTIONS
from freqrob.data.datasets import DATASETS
from freqrob.data.grayscale import colour_name
from freqrob.data.photographs import preprocessed
from freqrob.evaluation import Result, evaluate
from freqrob.evaluation.corruptions import CorruptionAccuracy, evaluate_corruptions
from freqrob.models import load_model
from freqrob.models.front_ends import FrontEnded, create_front_end
from freqrob.models.loading import checkpoint_path, load_card
from freqrob.models.preprocessing import preprocessing_of
from freqrob.models.sources import open_model
from freqrob.reproduction.experiment import Number, Scale, Subject
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.warning import warn
from freqrob.training import train
from freqrob.training.cost import step_cost, training_steps


@dataclass(frozen=True)
class Lab:
    """Folders, device and settings of a reproduction.

    Attributes:
        scale: size of networks and measurements.
        data: folder of the data sets.
        model_dir: folder of models; new ones are trained into it.
        cache: folder of per-image results and of corrupted images; None caches no results.
        device: device for measurements.
        accelerator: accelerator for training, as Lightning Fabric names it.
        n_images: largest number of images of each measurement; None for the scale's.
        seed: random seed of attacks and draws.
        download: whether missing data sets are downloaded.
        may_train: whether missing models are trained.
        frost: folder of the photographs for the corruption ``frost``.
        progress: wraps iterables in a progress bar.
        log: receives lines of text.

    >>> from freqrob.reproduction import SCALES
    >>> lab = Lab(SCALES["rn20"], data=Path("data"), model_dir=Path("models"), n_images=100)
    >>> lab.scale.name, lab.n_images
    ('rn20', 100)
    """

    scale: Scale
    data: Path = Path("data")
    model_dir: Path = Path("models")
    cache: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    accelerator: str = "auto"
    n_images: int | None = None
    seed: int = 0
    download: bool = False
    may_train: bool = True
    frost: Path | None = None
    progress: Progress = no_progress
    log: Callable[[str], None] = lambda _line: None

    def count(self, kind: str, available: int) -> int:
        """The number of images for a kind of measurement, at most ``available``."""
        wanted = (self.scale.count(kind), self.n_images, available)
        return min(number for number in wanted if number is not None)

    def test_set(self, dataset: str, kind: str = "accuracy", model: nn.Module | None = None) -> ImageSet:
        """The first images of the test split, as many as this kind of measurement uses.

        Photographs go through the preprocessing of the ``model``.
        Raises FileNotFoundError, which says how to get it, if the data set is missing.
        """
        images = load_dataset(dataset, "test", self.data, download=self.download, progress=self.progress)
        if model is not None:
            images = replace(images, images=preprocessed(images.images, preprocessing_of(model)))
        return images[: self.count(kind, len(images))]

    def has_model(self, subject: Subject) -> bool:
        """Whether the model of a subject is trained, or another package's."""
        if subject.model or not subject.recipe:
            return True
        folder = training_folder(subject, self.model_dir)
        if subject.settings:  # load_card would also find the shipped model of the unchanged recipe
            return checkpoint_path(subject.recipe, folder, subject.dataset).is_file()
        try:
            load_card(subject.recipe, folder, subject.dataset)
        except FileNotFoundError:
            return False
        return True

    def model(self, subject: Subject) -> nn.Module:
        """The model of a subject on the device; it is trained first if it is missing.

        Warns if it was trained with other settings than the recipe's. Raises FileNotFoundError if it is missing and may
        not be trained, if its data set is not registered, or if another package's model cannot be downloaded; otherwise
        the errors of ``open_model`` and ``train``.
        """
        if subject.dataset not in DATASETS:
            raise FileNotFoundError(f"dataset: no data set {subject.dataset!r} is registered")
        if subject.model:
            try:
                model = open_model(subject.model, self.model_dir, subject.dataset, subject.threat_model)
            except OSError as error:  # such as a download that failed
                raise FileNotFoundError(str(error)) from error
            return _behind(subject.front_end, model).to(self.device)
        if not self.has_model(subject):
            self._train(subject)
        if changed := changed_settings(subject, self.model_dir):
            warn(f"{subject.model_name}: trained with {changed}")
        return load_model(subject.recipe, training_folder(subject, self.model_dir), subject.dataset).to(self.device)

    def training_hours(self, subject: Subject) -> float:
        """Estimated hours of a subject's training on the device, from a few measured steps; NaN if unknown.

        Raises FileNotFoundError if its defence needs a file that is missing.
        """
        recipe = subject.full_recipe()
        steps = training_steps(recipe)
        return nan if isnan(steps) else steps * step_cost(recipe, str(self.device)).seconds / 3600

    def _train(self, subject: Subject) -> None:
        if not self.may_train:
            command = shlex.join(training_command(subject, self.model_dir, self.data))
            raise FileNotFoundError(
                f"{subject.model_name} is not trained: `{command}`, or `freqrob reproduce` without --no-train"
            )
        folder = training_folder(subject, self.model_dir)
        train(
            subject.full_recipe(), self.data, folder, download=self.download, accelerator=self.accelerator,
            progress=self.progress, log=self.log,
        )  # fmt: skip

    def accuracies(
        self,
        model: nn.Module,
        subject: Subject,
        attacks: Sequence[Attack | str],
        *,
        protocol: str = "natural",
        kind: str = "accuracy",
    ) -> dict[str, Number]:
        """Accuracies in percent by attack name, on the test set of the subject's data set."""
        images = self.test_set(subject.dataset, kind)
        results = evaluate(
            model, images.images, images.labels, protocols=[protocol], attacks=attacks, seed=self.seed,
            classes=DATASETS[subject.dataset].classes, cache=self.cache, progress=self.progress,
        )  # fmt: skip
        return {result.attack.name: percentage(result) for result in results}

    def corruptions(
        self,
        model: nn.Module,
        subject: Subject,
        *,
        bass: bool = False,
        protocol: str = "natural",
        types: Sequence[str] = tuple(CORRUPTIONS),
    ) -> CorruptionAccuracy:
        """Accuracies on ``corruption_arrays`` under ``natural``, or ``natural+bass``, which first balances them."""
        arrays = self.corruption_arrays(subject.dataset, bass=bass, types=types)
        count = self.count("corruptions", len(arrays.labels))
        options = {"cache": self.cache, "progress": self.progress}
        return evaluate_corruptions(model, arrays, n_images=count, protocol=protocol, **options)

    def corruption_arrays(
        self, dataset: str, *, bass: bool = False, types: Sequence[str] = tuple(CORRUPTIONS)
    ) -> CorruptionArrays | CorruptionFolders:
        """Corrupted test images: the published arrays in ``data``, or else arrays that are made once, in the cache.

        With ``bass``, the images are balanced before they are corrupted, as in Lin et al.'s CIFAR10-B-C. For a data set
        in grey levels, the colour images are corrupted and then converted.
        """
        try:
            if bass:
                raise FileNotFoundError
            if colour_name(dataset) in FOLDERS:
                return load_corruption_folders(self.data, dataset, types)
            return load_corruptions(self.data, dataset, types)
        except FileNotFoundError:
            if colour_name(dataset) not in PUBLISHED:
                raise
            colours = colour_name(dataset)
            images = self.test_set(colours, "corruptions")
            weighting = "amplitude" if bass else None
            folder = (self.cache or self.model_dir) / "corruptions" / f"{colours}{'-b' if bass else ''}-{len(images)}"
            chosen = balance(images) if bass else images
            about = {"dataset": colours, "bass": weighting}
            write_corruptions(chosen, folder, types, about=about, frost=self.frost, progress=self.progress)
            return load_corruptions(folder, dataset, types)


def _behind(front_end: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
    """The model with a front end before it, if one is given, for the same photographs."""
    if front_end is None:
        return model
    return FrontEnded([create_front_end(front_end)], model, preprocessing_of(model)).eval()


def percentage(result: Result) -> Number:
    """An accuracy in percent with its standard error over images."""
    return Number.percentage(result.accuracy, result.images)


def training_folder(subject: Subject, model_dir: Path) -> Path:
    """The folder of a subject's model; a recipe with changed settings has a folder of its own.

    ``freqrob train`` saves a model under its recipe's name, which recipes with other settings share.
    """
    return model_dir / "changed" / subject.model_name if subject.settings else model_dir


def training_command(subject: Subject, model_dir: Path, data: Path = Path("data")) -> list[str]:
    """The command that trains a subject's recipe; ``Lab.model`` then uses the finished run."""
    dataset = [] if subject.dataset == "cifar10" else ["--dataset", subject.dataset]
    changed = [part for text in subject.settings for part in ("--set", text)]
    folder = training_folder(subject, model_dir)
    elsewhere = [] if data == Path("data") else ["--data", str(data)]
    elsewhere += [] if folder == Path("models") else ["--model-dir", str(folder)]
    return ["freqrob", "train", subject.recipe, *dataset, *changed, *elsewhere]


def changed_settings(subject: Subject, model_dir: Path) -> str:
    """How the recipe on the card of a subject's model differs from the subject's recipe; "" if it does not."""
    trained = load_card(subject.recipe, training_folder(subject, model_dir), subject.dataset).recipe
    if not trained:
        return "unknown settings"
    skipped = ("precision", "seed", "selection_images")
    trained, wanted = (
        {**recipe, **recipe.get("defense", {}), "defense": None}
        for recipe in (trained, subject.full_recipe().as_dict())
    )
    shared = [key for key in wanted if key in trained and key not in skipped]  # older cards lack newer settings
    return ", ".join(f"{key} {trained[key]}, not {wanted[key]}" for key in shared if trained[key] != wanted[key])
