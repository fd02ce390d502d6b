"""Steps shared by the commands that measure models: checks, loading, progress, errors, messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from freqrob.cli.printing import print_line, print_resume_hint, print_warning, rank, warnings_as_lines
from freqrob.cli.progress import Track, progress_bars
from freqrob.runtime.files import check_file
from freqrob.runtime.launched import launched
from freqrob.runtime.reading import brief

if TYPE_CHECKING:
    import torch
    from torch import nn

    from freqrob.data import Preprocessing
    from freqrob.data.corruption_arrays import CorruptionArrays
    from freqrob.data.corruption_folders import CorruptionFolders
    from freqrob.data.datasets import ImageSet, Split
    from freqrob.data.preprocessing import Interpolation


INTERRUPTED = 130  # an exit code
FOLDER = "folder"  # the --dataset of a folder of photographs
_FILE = re.compile(r"\w[\w.+-]*=(.+)")  # a model given as NAME=FILE


def in_process_group(*, gpus: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command to run as one process group (``process_group``) if several processes were launched."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def together(*arguments: Any, **options: Any) -> None:
            if launched() is None:
                command(*arguments, **options)
                return
            from freqrob.runtime.processes import process_group

            with process_group(gpus=gpus):
                command(*arguments, **options)

        return together

    return decorate


def named_dataset(dataset: str, grayscale: bool) -> str:
    """Name of a data set, or of the same one in grey levels."""
    from freqrob.data.grayscale import grayscale_name

    return grayscale_name(dataset) if grayscale else dataset


def usable_device(name: str) -> torch.device:
    """Device of that name; "auto" is a GPU if there is one. Raises ValueError if it cannot be used."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # the meta device has no values
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:  # ImportError: of a device's own package
        raise ValueError(f"device: cannot use {name!r} ({brief(str(error), 150)})") from error


def results_folder(cache: Path | None, no_cache: bool) -> Path | None:
    """The cache directory for finished batches, freqrob's own by default; None with ``no_cache``.

    Raises ValueError if both are given, OSError if no folder can be written.
    """
    if cache and no_cache:
        raise ValueError("cache: expected --cache or --no-cache, got both")
    if no_cache:
        return None
    from freqrob.runtime.cache import check_cache, usable_folder

    if cache:
        check_cache(cache)
        return cache
    remedy = "pass --cache DIR, set FREQROB_CACHE, or pass --no-cache"
    try:
        folder, reasons = usable_folder("results")
    except OSError as error:
        raise OSError(f"cache: {error}; {remedy}") from error
    launch = launched()
    if reasons and launch and launch.world_size > launch.local_world_size:
        raise OSError(f"cache: {'; '.join(reasons)}, and the machines share no temporary folder; {remedy}")
    if reasons and rank() == 0:
        message = f"Results are cached in {folder}, perhaps only until the next boot: {'; '.join(reasons)}"
        print_line(f"{message}. To change that, {remedy}.", stderr=True)
    return folder


def key_of(name: str, cache_key: str | None) -> str | None:
    """Cache key of one of several models, whose code differs."""
    return cache_key and f"{name} {cache_key}"


def check_outputs(results: Sequence[Path], samples: Path | None, inputs: Iterable[Path]) -> None:
    """Raise ValueError or OSError for output files that cannot be written or are also inputs."""
    inputs = list(inputs)
    for path in results:
        if path.suffix not in (".json", ".csv"):
            raise ValueError(f"out: expected a name ending in .json or .csv, got {path}")
        check_file(path, "out", inputs)
    if samples is not None:
        if samples.suffix != ".csv":
            raise ValueError(f"samples: expected a name ending in .csv, got {samples}")
        check_file(samples, "samples", inputs)
        if os.path.realpath(samples) in map(os.path.realpath, results):
            raise ValueError(f"samples: expected a different file than --out, got {samples} for both")


def on_first_rank(check: Callable[..., None], *arguments: Any) -> None:
    """Call a check on rank 0 only; if it fails, all processes end."""
    from freqrob.runtime.processes import propagate_failure

    with propagate_failure():
        if rank() == 0:
            check(*arguments)


def card_paths(models: Iterable[str], model_dir: Path, dataset: str, threat_model: str) -> Iterator[Path]:
    """Paths of the cards of models given by name or as ``NAME=weights.pt``; they may not exist."""
    from freqrob.models.checkpoints import card_path
    from freqrob.models.loading import checkpoint_path

    for spec in models:
        if re.fullmatch(r"\w[\w.+-]*", spec):
            yield card_path(checkpoint_path(spec, model_dir, dataset, threat_model))
        elif checkpoint := _FILE.fullmatch(spec):
            yield card_path(Path(checkpoint[1]))


def device_of_rank(name: str) -> torch.device:
    """Device of that name; with "auto", each launched process uses its own GPU."""
    device, launch = usable_device(name), launched()
    if name == "auto" and device.type == "cuda" and launch:
        import torch

        return usable_device(f"cuda:{launch.local_rank % torch.cuda.device_count()}")
    return device


def open_models(
    models: Iterable[str],
    model_dir: Path,
    dataset: str,
    threat_model: str,
    weights: str | None = None,
    subject: Subject | None = None,
) -> dict[str, nn.Module]:
    """Load models by name. Rank 0 downloads missing weights. Warns if a model is the one shipped with freqrob.

    The models give logits for the classes of the ``subject``; by default for those of the data set.
    ``weights`` chooses a state dict in each file; raises ValueError if no model is given as ``NAME=FILE``.
    """
    from freqrob.models.class_subset import with_classes
    from freqrob.models.loading import checkpoint_path, shipped_folder
    from freqrob.models.sources import open_model
    from freqrob.runtime.processes import rank_zero_first

    models = list(models)
    chosen: dict[str, dict[str, Any]] = {
        name: {"weights": weights} for name in models if weights is not None and _FILE.fullmatch(name)
    }
    if weights is not None and not chosen:
        raise ValueError(f"weights: expected a model NAME=FILE for --weights {weights}, got {', '.join(models)}")
    with warnings_as_lines(), rank_zero_first():
        of: dict[str, Any] = (
            {"num_classes": len(subject.images.classes) or None, "subset_of": subject.of or None} if subject else {}
        )
        networks = {
            name: open_model(name, model_dir, dataset, threat_model, **{**of, **chosen.get(name, {})})
            for name in models
        }
    if subject and subject.chosen:
        networks = {name: with_classes(model, subject.chosen, subject.of) for name, model in networks.items()}
    for name in filter(re.compile(r"[\w.+-]+").fullmatch, networks):
        trained, shipped = (
            checkpoint_path(name, folder, dataset, threat_model) for folder in (model_dir, shipped_folder())
        )
        if shipped.is_file() and not trained.is_file():
            print_warning(f"{name}: not in {model_dir}; using the model shipped with freqrob")
    return networks


@dataclass(frozen=True)
class Selection:
    """What to read of photographs, and how: the options of a command.

    Attributes:
        classes, labels: files, as for ``load_photographs``.
        resize, crop, interpolation: the preprocessing, instead of the model's.
    """

    classes: Path | None = None
    labels: Path | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    @property
    def preprocessing(self) -> Preprocessing | None:
        from freqrob.data import Preprocessing

        if self.resize is None and self.crop is None:
            return None
        return Preprocessing(self.resize, self.crop, cast("Interpolation", self.interpolation))

    def as_options(self) -> dict[str, Any]:
        """The options that were given."""
        given = {f"--{name}": getattr(self, name) for name in ("classes", "labels", "resize", "crop")}
        chosen = {"--interpolation": self.interpolation} if self.preprocessing else {}
        return {**given, **chosen}


@dataclass(frozen=True)
class Subject:
    """The images to measure on, and which of the models' classes they have.

    Attributes:
        images: of the data set.
        chosen: the positions of the images' classes among all ``of`` classes, if they are some of them; else empty.
        of: the number of classes of the whole data set.
    """

    images: ImageSet
    chosen: tuple[int, ...] = ()
    of: int = 0


def imagenet_or(classes: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's classes if these are some of them, or else the same."""
    from freqrob.data.photographs import imagenet_wnids

    return imagenet_wnids() if set(classes) <= set(imagenet_wnids()) else classes


def open_subject(
    dataset: str, split: str, data: Path, download: bool, count: int | None, selection: Selection
) -> Subject:
    """Load the images of a data set, or list those of ``folder``, and choose the classes and the first ``count``."""
    from freqrob.data import load_photographs, select_classes
    from freqrob.data.photographs import preprocessed, read_classes

    classes = read_classes(selection.classes) if selection.classes else ()
    if dataset == FOLDER:
        images = load_photographs(data, classes=classes or None, labels=selection.labels)
        all_classes = imagenet_or(images.classes)
    elif selection.labels:
        raise ValueError(f"labels: only --dataset {FOLDER} has none of its own, got --labels for {dataset}")
    else:
        images = load_images(dataset, split, data, download)
        all_classes = images.classes
        images = select_classes(images, classes) if classes else images
    if count is not None and count > len(images):
        of = "the folder" if dataset == FOLDER else f"the {split} split"
        raise ValueError(f"images: expected 1 to {len(images)} (size of {of}), got {count}")
    images = replace(images, images=preprocessed(images.images, selection.preprocessing))[:count]
    chosen = tuple(map(all_classes.index, images.classes)) if images.classes != all_classes else ()
    return Subject(images, chosen, len(all_classes))


def open_models_and_images(
    models: Iterable[str],
    model_dir: Path,
    dataset: str,
    threat_model: str,
    weights: str | None,
    read: Callable[[], Subject],
    selection: Selection,
) -> tuple[dict[str, nn.Module], Subject]:
    """Open the models, and the images by ``read``: before the models where their classes depend on them."""
    subject = read() if dataset == FOLDER or selection.classes else None
    of = "imagenet" if dataset == FOLDER else dataset
    networks = open_models(models, model_dir, of, threat_model, weights, subject)
    return networks, subject or read()


def open_corruptions(
    dataset: str, data: Path, types: Sequence[str] | None, download: bool, classes_file: Path | None
) -> tuple[CorruptionArrays | CorruptionFolders, Subject | None]:
    """Open corrupted images on disk, and those of files also as the subject of models, with the chosen classes."""
    from freqrob.data.corruption_arrays import load_corruptions
    from freqrob.data.corruption_folders import FOLDERS, load_corruption_folders
    from freqrob.data.datasets import ImageSet
    from freqrob.data.grayscale import colour_name
    from freqrob.data.photographs import read_classes
    from freqrob.runtime.parameters import check_choices
    from freqrob.runtime.processes import rank_zero_first

    with rank_zero_first():
        if colour_name(dataset) not in FOLDERS:
            if classes_file:
                raise ValueError(f"classes: only for image files, got --classes for the arrays of {dataset}")
            return load_corruptions(data, dataset, types, download=download), None
        every = load_corruption_folders(data, dataset, types)
        some = replace(every, classes=read_classes(classes_file)) if classes_file else every
    all_classes = imagenet_or(some.classes) if dataset == FOLDER else every.classes
    for name in some.classes:
        check_choices(all_classes, classes=name)
    images = ImageSet(some.images(some.types[0], 1), some.labels, some.classes)
    positions = tuple(map(all_classes.index, some.classes)) if some.classes != all_classes else ()
    return some, Subject(images, positions, len(all_classes))


def source_of(dataset: str, split: str, data: Path) -> str:
    """Description of the images: "cifar10 test", "folder photographs"."""
    return f"{dataset} {data.resolve().name}" if dataset == FOLDER else f"{dataset} {split}"


def images_in_words(count: int, dataset: str, split: str, data: Path) -> str:
    """For tables: "1,000 images of cifar10's test split"."""
    return f"{count:,} images of {data}" if dataset == FOLDER else f"{count:,} images of {dataset}'s {split} split"


def load_images(dataset: str, split: str, data: Path, download: bool) -> ImageSet:
    """Load the images of a split. Rank 0 downloads and decodes missing files."""
    from freqrob.data import load_dataset
    from freqrob.runtime.processes import rank_zero_first

    with progress_bars(quiet=rank() > 0) as (track, _log), rank_zero_first():
        return load_dataset(dataset, cast("Split", split), data, download=download, track=track)


def class_count(dataset: str, images: ImageSet) -> int | None:
    """Number of classes of loaded images, which may have no names for them; None if it is unknown."""
    from freqrob.data.datasets import DATASETS

    return len(images.classes) or (DATASETS[dataset].classes if dataset in DATASETS else None)


@contextmanager
def progress_of(results: Path | None, show: Callable[[], None] = lambda: None) -> Iterator[Track]:
    """Show a progress bar while models are measured; after Ctrl-C, print how to resume from ``results``.

    After Ctrl-C and after an error, ``show`` prints the numbers of finished models, which may not be saved.
    """
    try:
        with progress_bars(quiet=rank() > 0) as (track, _log):
            yield track
    except KeyboardInterrupt:
        show()
        kept = results is not None and any(results.glob("*.safetensors"))
        print_resume_hint(f"Finished batches are cached in {results}", kept)
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        show()
        raise


@contextmanager
def model_on(device: torch.device, name: str, network: nn.Module) -> Iterator[nn.Module]:
    """Move a model to a device and back; warnings and errors about it start with its name."""
    with warnings_as_lines(name):
        try:
            yield network.to(device)
        except ValueError as error:
            if not str(error).startswith("model:"):
                raise
            raise ValueError(f"{name}: {error}") from error
    network.cpu()


def call_all(*steps: Callable[[], Any]) -> None:
    """Call all steps in order, even if some fail; then raise."""
    with ExitStack() as stack:  # calls in reverse order
        for step in reversed(steps):
            stack.callback(step)


def print_cached(name: str, folder: Path | None, cached: list[str], count: int) -> None:
    """Print which of the ``count`` results of a model came from the cache."""
    if cached:
        subject = "all results" if len(cached) == count else ", ".join(cached)
        print_warning(f"{name}: {subject} from earlier runs, cached in {folder}; --no-cache measures again")
