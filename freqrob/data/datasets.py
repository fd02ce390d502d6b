"""Image data sets as uint8 tensors, with a fixed validation split."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from freqrob.data import imagenet
from freqrob.data.archives import Archive, fetch_archive
from freqrob.data.grayscale import LUMA, SUFFIX, colour_name, to_grayscale
from freqrob.data.image_files import ImageFiles, decode
from freqrob.data.imagenet import Part
from freqrob.data.photographs import Photographs, find_photographs, read_classes
from freqrob.data.preprocessing import Preprocessing
from freqrob.data.streams import Images, ImageStream, in_memory, select
from freqrob.runtime.files import check_folder, expanded, temporary_folder_beside
from freqrob.runtime.parameters import Natural, check_choices, checked
from freqrob.runtime.pixels import check_channels_first, check_range
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.reading import brief
from freqrob.runtime.registry import Registry
from freqrob.runtime.tensors import FLOATS, check_values

Split = Literal["train", "val", "test", "robustbench"]
VALIDATION_IMAGES = 5000
SPLIT_SEED = 0
Loader = Callable[[Path, Part, bool], "Dataset | ImageFiles"]


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of a data set.

    Attributes:
        classes: number of classes.
        size: height and width of its images, in pixels.
        mean, std: the usual published values for each channel of the training set, for pixels in [0, 1]. Their number
            is ``channels``.
        flip: whether mirroring an image left to right keeps its class.
        train_images: number of images of the training part, for estimates of time; 0 if unknown.
        load: ``load(data_dir, part, download)`` reads the part ``"train"`` or ``"test"``: a map-style ``Dataset`` of
            uint8 images (C, H, W) and labels, with ``classes`` if these have names. Unless it is an ``ImageSet``, it is
            read into memory once.
        streamed: whether image files are decoded each time they are read, instead of once into a memory-mapped copy.

    >>> DatasetInfo(10, 32, mean=(0.5,), std=(0.25,)).channels
    1
    """

    classes: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    train_images: int = 0
    load: Loader | None = field(default=None, compare=False, repr=False)
    streamed: bool = False

    @property
    def channels(self) -> int:
        return len(self.mean)


class _DatasetRegistry(Registry[DatasetInfo]):
    """Data sets by name; ``<name>_grayscale`` is a colour data set in grey levels, without being registered."""

    def __getitem__(self, name: str) -> DatasetInfo:
        colours = None if super().__contains__(name) else self._colours(name)
        return super().__getitem__(name) if colours is None else _in_grayscale(colours)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._colours(name) is not None

    def _colours(self, name: object) -> DatasetInfo | None:
        """The colour data set that ``name`` has in grey levels."""
        if not isinstance(name, str) or not name.endswith(SUFFIX) or not super().__contains__(colour_name(name)):
            return None
        info = super().__getitem__(colour_name(name))
        return info if info.channels == len(LUMA) else None


def _in_grayscale(info: DatasetInfo) -> DatasetInfo:
    """The metadata of a colour data set in grey levels.

    The mean is the luma's. The standard deviation is the luma's if the channels are fully correlated, as those of
    photographs nearly are: .2466 for CIFAR-10, instead of .2392.
    """
    mean, std = (sum(w * v for w, v in zip(LUMA, values, strict=True)) for values in (info.mean, info.std))
    return replace(info, mean=(round(mean, 4),), std=(round(std, 4),))


DATASETS: Registry[DatasetInfo] = _DatasetRegistry(
    "dataset",
    "freqrob.datasets",
    lambda info: isinstance(info, DatasetInfo) and info.load is not None,
    "a DatasetInfo with load",
)


@checked
def register_dataset(name: str, info: DatasetInfo) -> Callable[[Loader], Loader]:
    """Decorator: ``load_dataset(name)`` calls the decorated function, which becomes ``info.load`` (``DatasetInfo``).

    Raises ValueError when the name is taken. Other packages: entry-point group ``freqrob.datasets``.
    """
    return DATASETS.register(name, lambda load: replace(info, load=load))


@checked
def list_datasets(pattern: str = "*") -> list[str]:
    """Sorted names of the data sets that match a shell-style pattern (``"cifar*"``).

    >>> list_datasets("cifar*")
    ['cifar10', 'cifar100']
    """
    return DATASETS.matching(pattern)


@checked
@dataclass(frozen=True)
class ImageSet(Dataset):
    """Images with labels: ``images`` (N, C, H, W) uint8 in 0–255, ``labels`` (N,) int64, names of the ``classes``.

    ``image_set[3]`` is an image (C, H, W) and its label; slices and index tensors give an ``ImageSet``. The images of
    folders of photographs are an ``ImageStream``, which is read when it is indexed.

    >>> from freqrob.data.samples import sample_images
    >>> samples = sample_images()
    >>> len(samples), samples.images.shape, samples.classes[samples[0][1]]
    (20, torch.Size([20, 3, 32, 32]), 'cat')
    >>> samples
    ImageSet(20 images of 3 × 32 × 32, 10 classes)
    """

    images: Tensor | ImageStream
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_labelled(self.images, self.labels)
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected uint8, got {self.images.dtype}")
        if self.classes and self.labels.max() >= len(self.classes):
            known = f"classes below {len(self.classes)}, the number of names"
            raise ValueError(f"labels: expected {known}, got {self.labels.max().item()}")

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.images.shape[1:]))
        return f"{type(self).__name__}({len(self):,} images of {size}, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    @overload
    def __getitem__(self, index: Tensor | slice) -> ImageSet: ...

    def __getitem__(self, index: int | Tensor | slice) -> tuple[Tensor, int] | ImageSet:
        if isinstance(index, int):
            return self.images[index], int(self.labels[index])
        return replace(self, images=select(self.images, index), labels=self.labels[index])

    @property
    def tensor(self) -> Tensor:
        """The images in memory."""
        return in_memory(self.images)


@checked
def load_dataset(
    name: str,
    split: Split,
    data_dir: str | Path = "./data",
    *,
    download: bool = False,
    progress: Progress = no_progress,
) -> ImageSet:
    """Load a split of a data set.

    ``test`` is the data set's test set, or its validation set if the labels of the test set are not public (both
    ImageNets). ``val`` is a tenth of the training set but at most 5,000 images, drawn with a fixed seed, and ``train``
    is the rest, so that a model is never selected on test data.

    Data sets of image files are decoded once, into an uncompressed copy in ``data_dir`` (1.2 GB for tiny_imagenet,
    13 GB for restricted_imagenet), which is memory-mapped: do not write to their images.

    Args:
        name: one of ``list_datasets()``; with the suffix ``_grayscale``, its images in grey levels (``to_grayscale``),
            (N, 1, H, W), which are always in memory.
        split: ``"train"``, ``"val"`` or ``"test"``.
        data_dir: the folder that holds ``cifar-10-batches-py/``, ``cifar-100-python/``, ``train_32x32.mat`` and
            ``test_32x32.mat`` (svhn), ``tiny-imagenet-200/``, or ImageNet: ``train/`` and ``val/`` with its 1,000
            folders of classes, here or in ``imagenet/`` or ``ILSVRC2012/``.
        download: fetch the data set into ``data_dir`` if it is missing, with torchvision's progress bar and the
            published checksum (CIFAR 170 MB each, svhn 180 and 60 MB, tiny_imagenet 240 MB); not available for
            restricted_imagenet.
        progress: wraps the decoding of image files in a progress bar.

    Raises:
        ValueError: an unknown name or split, or a damaged image file.
        FileNotFoundError: the data set is not in ``data_dir`` and ``download`` is off.
        OSError: a failed download, or a full disk.
    """
    check_choices(DATASETS, dataset=name)
    folder = expanded(data_dir, "data_dir")
    if name not in list(DATASETS):  # in grey levels
        loaded = load_dataset(colour_name(name), split, folder, download=download, progress=progress)
        images = loaded.images
        grey = images.map(to_grayscale, "grayscale", 1) if isinstance(images, ImageStream) else to_grayscale(images)
        return replace(loaded, images=grey)
    load = DATASETS[name].load
    assert load is not None  # every registered data set has one
    if split == "robustbench" and name != "imagenet":
        raise ValueError(f"split: expected train, val or test for {name}, got 'robustbench', which only imagenet has")
    loaded = load(folder, "train" if split in ("train", "val") else "test", download)
    whole = loaded if isinstance(loaded, ImageSet | ImageFiles) else _in_memory(loaded, name)
    if isinstance(whole, ImageSet):
        _check_as_registered(whole, name)
    if split == "robustbench":
        assert isinstance(whole, ImageFiles)
        whole = imagenet.robustbench_part(whole)
    chosen = whole[members(len(whole), split)] if split in ("train", "val") else whole
    if isinstance(chosen, ImageSet):
        return chosen
    if DATASETS[name].streamed:
        return _streamed(chosen)
    size = DATASETS[name].size
    images = decode(chosen, size, folder / f"{name}_{split}_{size}px", progress)
    return ImageSet(images, chosen.labels, chosen.classes)


@checked
def load_photographs(
    folder: str | Path,
    *,
    classes: Sequence[str] | Path | None = None,
    labels: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageSet:
    """Your own photographs: PNG and JPEG files of any sizes, which are decoded when they are read.

    The class of a file is its sub-folder, or the WordNet id that its name begins with, or its line in ``labels``.

    Args:
        folder: of the files.
        classes: the classes in the order of the model's logits, or a file with one in each line; images of other
            classes are left out. By default ImageNet's 1,000 if all classes are WordNet ids of these, or else the
            sub-folders in alphabetical order, as for torchvision's ``ImageFolder``.
        labels: a file with lines of a file's name and its class (name, WordNet id, or number ≥ 0), separated by a
            comma or white space; or of a class, in the order of the files' names.
        preprocessing: resize and crop of each photograph; None leaves them to the measurement, which takes the model's
            (``preprocessing_of``), if it has one.

    Raises:
        FileNotFoundError: no folder, no labels, or no images with a class.
        ValueError: no image is of one of ``classes``, or labels do not match the files.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for kind in ("cat", "dog"):
    ...     (folder / kind).mkdir()
    ...     Image.new("RGB", (40, 30)).save(folder / kind / "1.png")
    >>> photographs = load_photographs(folder)
    >>> photographs.classes, photographs.labels
    (('cat', 'dog'), tensor([0, 1]))
    """
    names = read_classes(expanded(classes, "classes")) if isinstance(classes, str | Path) else classes or ()
    found = find_photographs(expanded(folder, "folder"), names, expanded(labels, "labels") if labels else None)
    return _streamed(found, preprocessing)


@checked
def select_classes(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Keep the images of some classes, which are renumbered in the order of ``classes``.

    Raises ValueError for a class that the set does not have, or that is given twice.

    >>> from freqrob.data.samples import sample_images
    >>> select_classes(sample_images(), ["ship", "frog"]).labels
    tensor([0, 0, 1, 1, 1, 0, 0, 1])
    """
    labels, index = chosen_labels(images.labels, images.classes, classes)
    return ImageSet(select(images.images, index), labels, tuple(classes))


def chosen_labels(labels: Tensor, names: Sequence[str], classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The labels of the images of some ``classes``, renumbered in their order, and the indices of these images.

    Raises ValueError as ``select_classes``.
    """
    check_choices(names, **{f"classes[{number}]": name for number, name in enumerate(classes)})
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes: expected each once, got {', '.join(classes) or 'none'}")
    number = torch.full((len(names),), -1)
    number[[names.index(name) for name in classes]] = torch.arange(len(classes))
    renumbered = number[labels]
    kept = (renumbered >= 0).nonzero().flatten()
    if not len(kept):
        raise ValueError(f"classes: no image is of one of these {len(classes)} classes")
    return renumbered[kept], kept


def _streamed(files: ImageFiles, preprocessing: Preprocessing | None = None) -> ImageSet:
    return ImageSet(ImageStream.of(Photographs(files, preprocessing)), files.labels, files.classes)


def _check_as_registered(images: ImageSet, name: str) -> None:
    """Raise ValueError unless channels and classes are the registered ones, for which models are created."""
    channels, names, info = images.images.shape[1], len(images.classes), DATASETS[name]
    if channels != info.channels:
        expected = f"{info.channels}, as many as its mean has"
        raise ValueError(f"dataset: the images of {name} have {channels} channels, expected {expected}")
    if names not in (0, info.classes):
        raise ValueError(f"dataset: {name} names {names} classes, expected {info.classes}, as it is registered with")


def _in_memory(dataset: Dataset, name: str) -> ImageSet:
    """All images of a map-style data set, with the names of its ``classes``, or numbers if they have none."""
    try:
        # The generator leaves the caller's random numbers unchanged
        loader = DataLoader(dataset, batch_size=1000, generator=torch.Generator())
        images, labels = map(torch.cat, zip(*loader, strict=True))
        return ImageSet(images, labels, tuple(getattr(dataset, "classes", map(str, range(DATASETS[name].classes)))))
    except (TypeError, ValueError, RuntimeError) as error:
        expected = "pairs of an image, uint8 (C, H, W) of one size, and an integer label"
        raise ValueError(f"dataset: expected {name} to hold {expected}: {brief(str(error))}") from error


@checked
def members(count: Natural, split: Split) -> Tensor:
    """Sorted indices of the training images in ``train`` or ``val``. Raises ValueError for another split."""
    check_choices(("train", "val"), split=split)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = min(VALIDATION_IMAGES, count // 10)
    return (order[:held_out] if split == "val" else order[held_out:]).sort().values


@register_dataset(
    "cifar10", DatasetInfo(10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), train_images=50_000)
)
def _cifar10(folder: Path, part: Part, download: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10  # half a second that `import freqrob` must not cost

    return _cifar(CIFAR10, "CIFAR-10", folder, part, download)


@register_dataset(
    "cifar100", DatasetInfo(100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), train_images=50_000)
)
def _cifar100(folder: Path, part: Part, download: bool) -> ImageSet:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, "CIFAR-100", folder, part, download)


def _cifar(kind: type, title: str, folder: Path, part: Part, download: bool) -> ImageSet:
    with explained(title, folder, f"{kind.base_folder}/", kind.url, download):
        if download:
            fetch_archive(Archive(kind.base_folder, kind.url, kind.tgz_md5), folder)
        source = kind(folder, train=part == "train", download=download)  # replaces a damaged one
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(source.targets), tuple(source.classes))


@register_dataset(
    "svhn", DatasetInfo(10, 32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), flip=False, train_images=73_257)
)
def _svhn(folder: Path, part: Part, download: bool) -> ImageSet:
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    url, file, md5 = SVHN.split_list[part]
    with explained("SVHN", folder, file, url, download):
        if download and not (folder / file).is_file():
            with temporary_folder_beside(folder / file) as new:
                download_url(url, new, file, md5)
                (new / file).replace(folder / file)
        source = SVHN(folder, part, download=download)
    images = torch.from_numpy(source.data).contiguous()
    return ImageSet(images, torch.from_numpy(source.labels), tuple("0123456789"))


@register_dataset(
    "tiny_imagenet", DatasetInfo(200, 64, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), train_images=100_000)
)
def _tiny_imagenet(folder: Path, part: Part, download: bool) -> ImageFiles:
    if download:
        archive = imagenet.TINY_IMAGENET
        with explained("Tiny ImageNet", folder, f"{archive.folder}/", archive.url, download):
            fetch_archive(archive, folder)
    return imagenet.tiny_imagenet(folder, part)


@register_dataset("restricted_imagenet", DatasetInfo(9, 128, (0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)))
def _restricted_imagenet(folder: Path, part: Part, _download: bool) -> ImageFiles:
    return imagenet.restricted_imagenet(folder, part)


@register_dataset(
    "imagenet",
    DatasetInfo(1000, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), train_images=1_281_167, streamed=True),
)
def _imagenet(folder: Path, part: Part, _download: bool) -> ImageFiles:
    return imagenet.imagenet(folder, part)


@contextmanager
def explained(title: str, folder: Path, expected: str, url: str, download: bool) -> Iterator[None]:
    """Turn torchvision's errors into errors that name the missing files, their folder and the remedy."""
    broken_off = (OSError, HTTPException, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
    try:
        yield
    except (RuntimeError, *broken_off) as error:
        if download:
            check_folder(folder, "data_dir")
            raise OSError(f"could not fetch {title} from {url} into {folder.absolute()}: {error}") from error
        if not isinstance(error, RuntimeError):
            raise
        raise FileNotFoundError(
            f"data_dir: no intact {title} in {folder.absolute()} (expected {expected} there). Download it "
            f"with --download, or fetch {url} and unpack it there."
        ) from error


def to_pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 is divided by 255. Raises TypeError for other dtypes than uint8 and floats."""
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise TypeError(f"images: expected floats in [0, 1] or uint8, got {images.dtype}")
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_labelled(images: Images, labels: Tensor, *, tolerance: float = 0) -> None:
    """Raise unless there are N ≥ 1 valid images (N, C, H, W) with int64 labels (N,) ≥ 0.

    TypeError unless images are a dense tensor of floats or uint8, not on the meta device; ValueError for wrong shapes
    (also those that look like (N, H, W, C)), invalid labels, and floats outside [0, 1] by more than ``tolerance``. The
    pixels of a stream are checked when they are read.
    """
    check_values(labels, "labels")
    if isinstance(images, ImageStream):
        _check_labels(labels, len(images))
        return
    check_values(images, "images")
    if images.dtype not in FLOATS | {torch.uint8}:
        raise TypeError(f"images: expected floats in [0, 1] or uint8, got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape:
        sizes = "N ≥ 1, C ≥ 1, H ≥ 1 and W ≥ 1"
        raise ValueError(f"images: expected (N, C, H, W) with {sizes}, got shape {tuple(images.shape)}")
    check_channels_first(images)
    _check_labels(labels, len(images))
    check_range(images, tolerance=tolerance)


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.shape != (count,) or labels.dtype != torch.int64 or not count:
        raise ValueError(f"labels: expected ({count},) int64, got {tuple(labels.shape)} {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected classes ≥ 0, got {labels.min().item()}")
