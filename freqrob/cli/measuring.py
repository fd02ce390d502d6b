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
from freqrob.cli.progress import Progress, progress_bars
from freqrob.runtime.files import check_file
from freqrob.runtime.launched import launched
from freqrob.runtime.parameters import check_choices
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
FOLDER = "folder"  # value of --dataset for a folder of photographs
_NAME, _FILE = re.compile(r"\w[\w.+-]*"), re.compile(r"\w[\w.+-]*=(.+)")  # a model given as NAME, and as NAME=FILE


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
    """Device of that name; "auto" is a GPU if there is one, a different GPU for each launched process.

    Raises ValueError if it cannot be used.
    """
    import torch

    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name == "auto":
        launch = launched()
        name = f"cuda:{launch.local_rank % torch.cuda.device_count()}" if launch else "cuda"
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # fails on the meta device, which has no values
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


@dataclass(frozen=True)
class Images:
    """The options of a command that choose the images to measure on.

    Attributes:
        dataset, split, data, download: as for ``load_dataset``; the data set ``folder`` stands for photographs in
            ``data``.
        count: use the first ``count`` images; None for all.
        classes, labels: files, as for ``load_photographs``.
        resize, crop, interpolation: the preprocessing of photographs, instead of the model's.
    """

    dataset: str
    split: str
    data: Path
    download: bool
    count: int | None = None
    classes: Path | None = None
    labels: Path | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.labels and self.dataset != FOLDER:
            raise ValueError(f"labels: expected --labels only with --dataset {FOLDER}, got it for {self.dataset}")

    @property
    def preprocessing(self) -> Preprocessing | None:
        from freqrob.data import Preprocessing

        if self.resize is None and self.crop is None:
            return None
        return Preprocessing(self.resize, self.crop, cast("Interpolation", self.interpolation))

    def as_options(self) -> dict[str, Any]:
        """The options of photographs that were given."""
        given = {f"--{name}": getattr(self, name) for name in ("classes", "labels", "resize", "crop")}
        return given | ({"--interpolation": self.interpolation} if self.preprocessing else {})

    def __str__(self) -> str:
        """For files: "cifar10 test", "folder photographs"."""
        return f"{self.dataset} {self.data.resolve().name if self.dataset == FOLDER else self.split}"

    def in_words(self, count: int) -> str:
        """For tables: "1,000 images of cifar10's test split"."""
        source = self.data if self.dataset == FOLDER else f"{self.dataset}'s {self.split} split"
        return f"{count:,} images of {source}"

    def read(self) -> Subject:
        """Load the images (photographs are only listed), and choose the classes and the first ``count`` images."""
        from freqrob.data import load_photographs, select_classes
        from freqrob.data.photographs import preprocessed, read_classes

        classes = read_classes(self.classes) if self.classes else ()
        if self.dataset == FOLDER:
            images = load_photographs(self.data, classes=classes or None, labels=self.labels)
            all_classes = imagenet_or(images.classes)
        else:
            images = self._load()
            all_classes = images.classes
            images = select_classes(images, classes) if classes else images
        if self.count is not None and self.count > len(images):
            source = "the folder" if self.dataset == FOLDER else f"the {self.split} split"
            raise ValueError(f"images: expected 1 to {len(images)} (size of {source}), got {self.count}")
        images = replace(images, images=preprocessed(images.images, self.preprocessing))[: self.count]
        chosen = tuple(map(all_classes.index, images.classes)) if images.classes != all_classes else ()
        return Subject(images, chosen, len(all_classes))

    def _load(self) -> ImageSet:
        """Load the images of a split. Rank 0 downloads and decodes missing files."""
        from freqrob.data import load_dataset
        from freqrob.runtime.processes import rank_zero_first

        with progress_bars(quiet=rank() > 0) as (progress, _log), rank_zero_first():
            split = cast("Split", self.split)
            return load_dataset(self.dataset, split, self.data, download=self.download, progress=progress)


@dataclass(frozen=True)
class Subject:
    """The images to measure on, and their classes among the models' classes.

    Attributes:
        images: the images.
        chosen: indices of the images' classes among the data set's ``num_classes``, if they are a subset; else empty.
        num_classes: number of classes of the whole data set.
    """

    images: ImageSet
    chosen: tuple[int, ...] = ()
    num_classes: int = 0


def imagenet_or(classes: tuple[str, ...]) -> tuple[str, ...]:
    """ImageNet's classes if ``classes`` are some of them, otherwise ``classes``."""
    from freqrob.data.photographs import imagenet_wnids

    return imagenet_wnids() if set(classes) <= set(imagenet_wnids()) else classes


def open_corruptions(
    dataset: str, data: Path, types: Sequence[str] | None, download: bool, classes_file: Path | None
) -> tuple[CorruptionArrays | CorruptionFolders, Subject | None]:
    """Open corrupted images on disk; image files and arrays with chosen classes also as a ``Subject``, others None."""
    from freqrob.data.corruption_arrays import load_corruptions
    from freqrob.data.corruption_folders import FOLDERS, load_corruption_folders
    from freqrob.data.datasets import ImageSet
    from freqrob.data.grayscale import colour_name
    from freqrob.data.photographs import read_classes
    from freqrob.runtime.processes import rank_zero_first

    with rank_zero_first():
        if colour_name(dataset) not in FOLDERS:
            arrays = load_corruptions(data, dataset, types, download=download)
            return _with_classes(arrays, read_classes(classes_file)) if classes_file else (arrays, None)
        every = load_corruption_folders(data, dataset, types)
        some = replace(every, classes=read_classes(classes_file)) if classes_file else every
    all_classes = imagenet_or(some.classes) if dataset == FOLDER else every.classes
    for name in some.classes:
        check_choices(all_classes, classes=name)
    images = ImageSet(some.images(some.types[0], 1), some.labels, some.classes)
    positions = tuple(map(all_classes.index, some.classes)) if some.classes != all_classes else ()
    return some, Subject(images, positions, len(all_classes))


def _with_classes(arrays: CorruptionArrays, classes: Sequence[str]) -> tuple[CorruptionArrays, Subject]:
    """The images of some classes, and the subject of models with all classes."""
    from freqrob.data.datasets import ImageSet

    some = arrays.select_classes(classes)
    images = ImageSet(some.images(some.types[0], 1), some.labels, some.classes)
    return some, Subject(images, tuple(map(arrays.classes.index, some.classes)), len(arrays.classes))


def models_dataset(dataset: str, trained_on: str | None) -> str:
    """The data set that the models are named and stored under."""
    from freqrob.data.datasets import DATASETS

    if trained_on is not None:
        if trained_on not in DATASETS:
            raise ValueError(
                f"trained_on: expected one of {', '.join(DATASETS)}, got {trained_on!r}; a data set of yours needs "
                "an entry point of the group freqrob.datasets"
            )
        return trained_on
    return "imagenet" if dataset == FOLDER else dataset


@dataclass(frozen=True)
class Models:
    """The models that a command measures, by name or as ``NAME=weights.pt``.

    ``dataset`` is the one that they are stored under; ``weights`` chooses a state dict in each weights file.
    """

    names: Sequence[str]
    folder: Path
    dataset: str
    threat_model: str
    weights: str | None = None

    def cards(self) -> Iterator[Path]:
        """The paths of their cards, which may not exist."""
        from freqrob.models.checkpoints import card_path

        for spec in self.names:
            if _NAME.fullmatch(spec):
                yield card_path(self.path(spec))
            elif checkpoint := _FILE.fullmatch(spec):
                yield card_path(Path(checkpoint[1]))

    def path(self, name: str, folder: Path | None = None) -> Path:
        """The path of a model's weights, by default in the command's folder of models."""
        from freqrob.models.loading import checkpoint_path

        return checkpoint_path(name, folder or self.folder, self.dataset, self.threat_model)

    def open_with(self, images: Images) -> tuple[dict[str, nn.Module], Subject]:
        """Open the models and read the images; the images first if the models' classes depend on them."""
        subject = images.read() if images.dataset == FOLDER or images.classes else None
        return self.open(subject), subject or images.read()

    def open(self, subject: Subject | None = None) -> dict[str, nn.Module]:
        """Load the models. Rank 0 downloads missing weights. Warns if a model is the one shipped with freqrob.

        They return logits for the classes of ``subject``, by default for the data set's. Raises ValueError for
        ``weights`` if no model is given as ``NAME=FILE``.
        """
        from freqrob.models.loading import shipped_folder
        from freqrob.models.sources import open_model
        from freqrob.models.sources.common import with_classes
        from freqrob.runtime.processes import rank_zero_first

        given: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
        chosen = {name: given for name in self.names if given and _FILE.fullmatch(name)}
        if self.weights is not None and not chosen:
            got = ", ".join(self.names)
            raise ValueError(f"weights: expected a model NAME=FILE for --weights {self.weights}, got {got}")
        classes: dict[str, Any] = {}
        if subject:
            classes = {"num_classes": len(subject.images.classes) or None, "subset_of": subject.num_classes or None}
        where = self.folder, self.dataset, self.threat_model
        with warnings_as_lines(), rank_zero_first():
            networks = {name: open_model(name, *where, **classes, **chosen.get(name, {})) for name in self.names}
        if subject and subject.chosen:
            selected = subject.chosen, subject.num_classes
            networks = {name: with_classes(model, *selected) for name, model in networks.items()}
        for name in filter(_NAME.fullmatch, networks):
            shipped, trained = self.path(name, shipped_folder()), self.path(name)
            if shipped.is_file() and not trained.is_file() and trained.parent.is_dir():  # where one may be expected
                print_warning(f"{name}: not in {self.folder}; using the model shipped with freqrob")
        return networks


def class_count(dataset: str, images: ImageSet) -> int | None:
    """Number of classes of loaded images, whose classes may have no names; None if it is unknown."""
    from freqrob.data.datasets import DATASETS

    return len(images.classes) or (DATASETS[dataset].classes if dataset in DATASETS else None)


@contextmanager
def progress_of(results: Path | None, show: Callable[[], None] = lambda: None) -> Iterator[Progress]:
    """Show a progress bar while models are measured; after Ctrl-C, print how to resume from ``results``.

    After Ctrl-C and after an error, ``show`` prints the numbers of finished models, which may not be saved yet.
    """
    try:
        with progress_bars(quiet=rank() > 0) as (progress, _log):
            yield progress
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
