"""Loading data sets: layouts, splits, the cache of decoded images, downloads from a server on this machine."""

import errno
import functools
import hashlib
import http.server
import io
import pickle
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from freqrob.data import DATASETS, DatasetInfo, ImageSet, datasets, image_files, imagenet, load_dataset
from freqrob.data.archives import Archive
from freqrob.data.image_files import ImageFiles, decode
from tests.support.image_sets import images

WNIDS = [f"n{10_000_000 + 7 * i}" for i in range(1000)]


def no_bar(items, *_):
    return items


def write_image(path, colour, size=(64, 64)):
    """One colour, losslessly, whatever the file is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")


def always_warning(call):
    """``call`` with the warnings that torch gives once in a process, given each time."""

    def warning(*arguments):
        torch.set_warn_always(True)
        try:
            return call(*arguments)
        finally:
            torch.set_warn_always(False)

    return warning


def colours(dataset) -> list[tuple[int, ...]]:
    assert (dataset.images == dataset.images[:, :, :1, :1]).all()
    return [tuple(colour) for colour in dataset.images[:, :, 0, 0].tolist()]


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory):
    """Tiny ImageNet in the archive's layout, each image of a colour (class, number, 0 in train or 255 in val)."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS[:200]):
        for i in range(2):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (label, i, 0))
    order = np.random.default_rng(0).permutation(200)
    for i, label in enumerate(order):
        write_image(root / "val" / "images" / f"val_{i}.JPEG", (label, i, 255))
    lines = (f"val_{i}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n" for i, label in enumerate(order))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS[:200])))
    (root / "words.txt").write_text(f"{WNIDS[0]}\tgoldfish, Carassius auratus\nn00001740\tentity\n")
    return root


@pytest.fixture
def tiny(tiny_source, tmp_path):
    """The same in a folder of the test's own; files are hard links, so remove them rather than write into them."""
    for source in tiny_source.rglob("*.*"):
        target = tmp_path / source.relative_to(tiny_source.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source)
    return tmp_path


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Fills a folder with CIFAR-10 or CIFAR-100 in its own format, small, torchvision's checksums set to match."""

    def make(kind, batches, test, labels, classes, root=tmp_path):
        folder, random = root / kind.base_folder, np.random.default_rng(0)
        folder.mkdir(parents=True)
        for name in [*batches, test]:
            data = random.integers(0, 256, (1200, 3072), dtype=np.uint8)
            targets = random.integers(0, classes, 1200).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": data, labels: targets}))
        names = {kind.meta["key"]: [f"class {i}" for i in range(classes)]}
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
        md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name in batches])
        monkeypatch.setattr(kind, "test_list", [[test, md5[test]]])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})
        return root

    return make


@pytest.fixture
def cifar10(cifar_files):
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    return functools.partial(cifar_files, torchvision.datasets.CIFAR10, batches, "test_batch", "labels", 10)


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """SVHN in its own format, 40 training and 20 test images."""
    from scipy.io import savemat

    random = np.random.default_rng(0)
    lists = {}
    for part, number in (("train", 40), ("test", 20)):
        pixels = random.integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
        savemat(
            tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": (np.arange(number) % 10 + 1).astype(np.uint8)[:, None]}
        )
        md5 = hashlib.md5((tmp_path / f"{part}_32x32.mat").read_bytes()).hexdigest()
        lists[part] = [f"http://example.invalid/{part}_32x32.mat", f"{part}_32x32.mat", md5]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    return tmp_path


class TestSplits:
    def test_are_disjoint_and_fixed(self, cifar10):
        folder = cifar10()
        train, val, test = (load_dataset("cifar10", split, folder) for split in ("train", "val", "test"))
        assert (len(train), len(val), len(test)) == (5400, 600, 1200)
        rows = {split.images[i].numpy().tobytes() for split in (train, val) for i in range(len(split))}
        assert len(rows) == 6000, "no image in both"
        again = load_dataset("cifar10", "val", folder)
        assert torch.equal(again.images, val.images) and torch.equal(again.labels, val.labels)
        assert val.classes == tuple(f"class {i}" for i in range(10))

    def test_of_cifar10_s_size_are_what_they_were(self):
        val, train = datasets.members(50_000, "val"), datasets.members(50_000, "train")
        assert (len(val), len(train)) == (5000, 45_000)
        digest = hashlib.sha256(val.numpy().astype("<i8").tobytes()).hexdigest()
        assert digest.startswith("f2300dbb1ea311ef"), "another validation split than models were selected on"

    @pytest.mark.parametrize("count, held_out", [(100_000, 5000), (49_999, 4999), (100, 10)])
    def test_hold_out_a_tenth_but_at_most_5000(self, count, held_out):
        assert len(datasets.members(count, "val")) == held_out
        assert len(datasets.members(count, "train")) == count - held_out


class TestRequests:
    @pytest.mark.parametrize(
        "arguments, error, message",
        [
            (("cifar11", "test"), ValueError, "dataset.*cifar100, svhn.*cifar11"),
            (("cifar10", "dev"), ValueError, "split.*dev"),
            (("cifar10", "test", "/nowhere"), FileNotFoundError, "data_dir.*nowhere.*--download.*toronto"),
            (("cifar100", "test", "/nowhere"), FileNotFoundError, "cifar-100-python/.*--download.*toronto"),
            (("svhn", "train", "/nowhere"), FileNotFoundError, "train_32x32.mat.*--download.*stanford"),
            (("tiny_imagenet", "val", "/nowhere"), FileNotFoundError, "tiny-imagenet-200/.*--download.*stanford"),
            (("restricted_imagenet", "val", "/nowhere"), FileNotFoundError, "(?s)/nowhere/train.*image-net.org"),
        ],
    )
    def test_that_cannot_be_met(self, arguments, error, message):
        with pytest.raises(error, match=message):
            load_dataset(*arguments)

    def test_what_is_known_of_data_sets(self):
        assert list(DATASETS) == ["cifar10", "cifar100", "svhn", "tiny_imagenet", "restricted_imagenet", "imagenet"]
        assert [info.classes for info in DATASETS.values()] == [10, 100, 10, 200, 9, 1000]
        assert [name for name, info in DATASETS.items() if not info.flip] == ["svhn"]


class TestRegistration:
    def test_any_map_style_dataset_is_read_into_memory(self, monkeypatch, tmp_path):
        images = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)

        def load(data_dir, part, download):
            return torch.utils.data.TensorDataset(images, torch.arange(10) % 2)

        info = DatasetInfo(2, 2, (0.5,), (0.25,), load=load)
        monkeypatch.setitem(DATASETS, "grey", info)
        random_state = torch.get_rng_state()
        found = load_dataset("grey", "test", tmp_path)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert torch.equal(found.images, images) and found.classes == ("0", "1") and info.channels == 1
        assert len(load_dataset("grey", "train", tmp_path)) == 9
        image, label = found[3]
        assert torch.equal(image, images[3]) and label == 1 and len(found[:4]) == 4

    @pytest.mark.parametrize(
        "dataset, message",
        [
            ([(Image.new("L", (2, 2)), 0)], "hold pairs of an image, uint8"),
            ([(torch.zeros(1, 2, 2, dtype=torch.uint8), 0, 7)], "hold pairs of an image, uint8"),
            ([(torch.zeros(1, n, 2, dtype=torch.uint8), 0) for n in (2, 3)], "hold pairs of an image, uint8"),
            ([(torch.zeros(1, 2, 2, dtype=torch.uint8), "cat")], "hold pairs of an image, uint8"),
            ([(torch.zeros(1, 2, 2), 0)], "hold pairs of an image, uint8"),
            ([], "hold pairs of an image, uint8"),
            (7, "hold pairs of an image, uint8"),
            ([(torch.zeros(3, 2, 2, dtype=torch.uint8), 0)], "3 channels, expected 1, as many as its mean has"),
            (ImageSet(torch.zeros(1, 1, 2, 2).byte(), torch.zeros(1).long(), ("a", "b", "c")), "3 classes, expected 2"),
        ],
        ids=["Pillow", "triples", "sizes", "names", "floats", "empty", "number", "channels", "classes"],
    )
    def test_other_data_sets_are_named(self, monkeypatch, tmp_path, dataset, message):
        info = DatasetInfo(2, 2, (0.5,), (0.25,), load=lambda *_: dataset)
        monkeypatch.setitem(DATASETS, "grey", info)
        with pytest.raises(ValueError, match=f"^dataset: .*grey.*{message}"):
            load_dataset("grey", "test", tmp_path)


class TestCIFARAndSVHN:
    def test_a_changed_file_is_refused(self, cifar10):
        folder = cifar10()
        with (folder / "cifar-10-batches-py" / "test_batch").open("ab") as file:
            file.write(b"x")
        with pytest.raises(FileNotFoundError, match="no intact CIFAR-10"):
            load_dataset("cifar10", "test", folder)

    def test_cifar100_has_its_fine_labels(self, cifar_files):
        folder = cifar_files(torchvision.datasets.CIFAR100, ["train"], "test", "fine_labels", 100)
        test = load_dataset("cifar100", "test", folder)
        stored = pickle.loads((folder / "cifar-100-python" / "test").read_bytes())
        assert test.labels.tolist() == stored["fine_labels"] and test.classes[99] == "class 99"
        assert torch.equal(test.images.flatten(1), torch.from_numpy(stored["data"]))

    def test_svhn_calls_zero_0(self, svhn):
        from scipy.io import loadmat

        test = load_dataset("svhn", "test", svhn)
        assert test.labels.tolist() == [*range(1, 10), 0] * 2 and test.classes == tuple("0123456789")
        pixels = loadmat(svhn / "test_32x32.mat")["X"]  # (32, 32, 3, N)
        assert torch.equal(test.images, torch.from_numpy(pixels).permute(3, 2, 0, 1)) and test.images.is_contiguous()
        assert [len(load_dataset("svhn", split, svhn)) for split in ("train", "val")] == [36, 4]


class TestTinyImageNet:
    def test_every_image_has_its_label(self, tiny):
        test = load_dataset("tiny_imagenet", "test", tiny)
        assert test.images.shape == (200, 3, 64, 64)
        assert [(label, i, 255) for i, label in enumerate(test.labels.tolist())] == colours(test), "val_0, val_1, ..."
        train, val = (load_dataset("tiny_imagenet", split, tiny) for split in ("train", "val"))
        seen = [pair for part in (train, val) for pair in zip(colours(part), part.labels.tolist(), strict=True)]
        assert sorted(seen) == [((label, i, 0), label) for label in range(200) for i in range(2)]
        assert (len(train), len(val)) == (360, 40)

    def test_the_first_few_of_the_validation_split_are_of_many_classes(self, tiny):
        assert len(load_dataset("tiny_imagenet", "val", tiny).labels[:20].unique()) > 15
        assert load_dataset("tiny_imagenet", "val", tiny).labels[:20].max() > 150

    def test_classes_are_named(self, tiny):
        assert load_dataset("tiny_imagenet", "test", tiny).classes[:2] == ("goldfish", WNIDS[1])

    @pytest.mark.parametrize("inside", ["", "images"])
    def test_a_sorted_validation_folder_gives_the_same(self, tiny, inside):
        before = load_dataset("tiny_imagenet", "test", tiny)
        val = tiny / "tiny-imagenet-200" / "val"
        for i, label in enumerate(before.labels.tolist()):
            (val / WNIDS[label] / inside).mkdir(parents=True)
            (val / "images" / f"val_{i}.JPEG").rename(val / WNIDS[label] / inside / f"val_{i}.JPEG")
        after = load_dataset("tiny_imagenet", "test", tiny)
        assert torch.equal(after.images, before.images) and torch.equal(after.labels, before.labels)

    def test_a_missing_class_is_not_passed_over(self, tiny):
        for file in (tiny / "tiny-imagenet-200" / "train" / WNIDS[7] / "images").iterdir():
            file.unlink()
        with pytest.raises(FileNotFoundError, match=f"train images of 1 of its 200 classes, .* {WNIDS[7]}"):
            load_dataset("tiny_imagenet", "train", tiny)

    def test_a_missing_validation_image_is_not_passed_over(self, tiny):
        (tiny / "tiny-imagenet-200" / "val" / "images" / "val_7.JPEG").unlink()
        expected = "lacks 1 of its 200 validation images, first val/images/val_7.JPEG; unpack it again"
        with pytest.raises(FileNotFoundError, match=expected):
            load_dataset("tiny_imagenet", "test", tiny)

    def test_an_image_without_annotation_is_named(self, tiny):
        annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
        lines = annotations.read_text().splitlines(keepends=True)
        annotations.unlink()
        annotations.write_text("".join(lines[:150] + lines[151:]))
        with pytest.raises(FileNotFoundError, match="does not label val/images/val_150.JPEG"):
            load_dataset("tiny_imagenet", "test", tiny)


EDGES = {
    "dog": (151, 268), "cat": (281, 285), "frog": (30, 32), "turtle": (33, 37), "bird": (80, 100),
    "primate": (365, 382), "fish": (389, 397), "crab": (118, 121), "insect": (300, 319),
}  # fmt: skip


@pytest.fixture(scope="module")
def imagenet_folder(tmp_path_factory):
    """The 1,000 class folders; those on both sides of each edge hold an image that tells the class's number."""
    root = tmp_path_factory.mktemp("imagenet")
    for inside, name in (("train", "{}_1.JPEG"), ("val", "ILSVRC2012_val_{:08}.JPEG")):
        for wnid in WNIDS:
            (root / inside / wnid).mkdir(parents=True)
        edges = {i for first, last in EDGES.values() for i in (first - 1, first, last, last + 1)}
        for i in sorted(edges):
            file = name.format(i) if inside == "val" else name.format(WNIDS[i])
            write_image(root / inside / WNIDS[i] / file, (i // 256, i % 256, 9), (30, 20))
    return root


class TestRestrictedImageNet:
    @pytest.mark.parametrize("place", ["", "imagenet", "ILSVRC2012"])
    def test_takes_both_ends_of_each_range_and_no_more(self, imagenet_folder, tmp_path, place):
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / place if place else tmp_path / "data2").symlink_to(imagenet_folder)
        test = load_dataset("restricted_imagenet", "test", folder if place else tmp_path / "data2")
        numbers = [256 * high + low for high, low, _ in colours(test)]
        found = set(zip(numbers, test.labels.tolist(), strict=True))
        expected = {(i, label) for label, edges in enumerate(EDGES.values()) for i in edges}
        assert found == expected and test.images.shape == (len(expected), 3, 128, 128)
        assert test.classes == tuple(EDGES)
        assert len(load_dataset("restricted_imagenet", "val", imagenet_folder)) == len(expected) // 10
        for cache in imagenet_folder.glob("*.npy"):
            cache.unlink()

    def test_needs_all_classes(self, imagenet_folder, tmp_path):
        (tmp_path / "imagenet" / "val").mkdir(parents=True)
        for wnid in WNIDS[:999]:
            (tmp_path / "imagenet" / "val" / wnid).mkdir()
        with pytest.raises(FileNotFoundError, match="(?s)1,000 class folders.*imagenet/val: 999 of them"):
            load_dataset("restricted_imagenet", "test", tmp_path, download=True)


class TestDecoding:
    def files(self, root, *names) -> ImageFiles:
        return ImageFiles(root, names, torch.zeros(len(names), dtype=torch.int64), ("a",))

    def test_resizes_as_torchvision_does(self, shared, tmp_path):
        root = shared / "data" / "imagenet_sample"
        names = sorted(path.name for path in root.iterdir())[:8]
        decoded = decode(self.files(root, *names), 128, tmp_path / "sample", no_bar)
        resize = torchvision.transforms.Resize((128, 128))
        for name, image in zip(names, decoded, strict=True):
            expected = np.array(resize(Image.open(root / name).convert("RGB")))
            assert np.array_equal(image.permute(1, 2, 0), expected), name

    def test_keeps_pixels_of_images_of_the_right_size(self, shared, tmp_path):
        root = shared / "data" / "tiny_imagenet_val"
        names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.JPEG"))[:300]
        decoded = decode(self.files(root, *names), 64, tmp_path / "tiny", no_bar)
        for name, image in zip(names, decoded, strict=True):
            assert np.array_equal(image.permute(1, 2, 0), np.array(Image.open(root / name).convert("RGB"))), name

    @pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
    def test_other_colour_modes_become_rgb(self, tmp_path, mode):
        file = "image.jpg" if mode == "CMYK" else "image.png"
        Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / file)
        decoded = decode(self.files(tmp_path, file), 8, tmp_path / "cache", no_bar)
        assert decoded.shape == (1, 3, 8, 8) and (decoded > 250).all()

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '.*gone.png'"):
            decode(self.files(tmp_path, "gone.png"), 8, tmp_path / "cache", no_bar)

    def test_grey_levels_of_16_bits_are_refused(self, tmp_path):
        """Pillow would clip them: nearly all would be white."""
        Image.fromarray(np.full((8, 8), 20_000, np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(ValueError, match=r"deep.png: not an intact .*16 bits"):
            decode(self.files(tmp_path, "deep.png"), 8, tmp_path / "cache", no_bar)

    @pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR broken"])
    def test_a_damaged_file_is_named_and_nothing_is_left(self, tmp_path, content):
        root = tmp_path / "root"
        write_image(root / "good.png", (1, 2, 3))
        (root / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match="bad.png: not an intact image"):
            decode(self.files(root, "good.png", "bad.png"), 64, tmp_path / "cache", no_bar)
        assert [path.name for path in tmp_path.iterdir()] == ["root"]

    def test_a_truncated_jpeg_is_named(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cut.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1000])
        with pytest.raises(ValueError, match="cut.jpg: not an intact image.*truncated"):
            decode(self.files(tmp_path, "cut.jpg"), 64, tmp_path / "cache", no_bar)

    def test_shows_its_progress(self, tiny, monkeypatch):
        monkeypatch.setattr(image_files, "_CHUNK", 150)
        shown = []
        progress = lambda items, what, *sizes: shown.append((what, *sizes, len(list(items)))) or items  # noqa: E731
        load_dataset("tiny_imagenet", "test", tiny, progress=progress)
        assert shown == [("decoding", 2, 200, 2)]


class TestCache:
    def test_is_memory_mapped_and_says_nothing(self, tiny, monkeypatch):
        monkeypatch.setattr(torch, "from_numpy", always_warning(torch.from_numpy))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            test = load_dataset("tiny_imagenet", "test", tiny)
        cache = next(tiny.glob("tiny_imagenet_test_64px_*.npy"))
        assert np.array_equal(np.load(cache), test.images)
        with cache.open("r+b") as file:
            file.seek(-1, io.SEEK_END)
            file.write(b"\x7b")
        assert test.images[-1, -1, -1, -1] == 0x7B

    def test_is_decoded_once(self, tiny, monkeypatch):
        before = {split: load_dataset("tiny_imagenet", split, tiny) for split in ("train", "val", "test")}
        monkeypatch.setattr(image_files, "_read", None)
        for split, dataset in before.items():
            again = load_dataset("tiny_imagenet", split, tiny)
            assert torch.equal(again.images, dataset.images) and torch.equal(again.labels, dataset.labels)

    @pytest.mark.parametrize("keep", [0, 60, 5000, -1])
    def test_a_truncated_one_is_made_again(self, tiny, keep):
        before = load_dataset("tiny_imagenet", "test", tiny).images.clone()
        cache = next(tiny.glob("*.npy"))
        content = cache.read_bytes()
        cache.unlink()
        cache.write_bytes(content[:keep])
        assert torch.equal(load_dataset("tiny_imagenet", "test", tiny).images, before)
        assert cache.read_bytes() == content

    def test_another_array_in_its_place_is_replaced(self, tiny):
        before = load_dataset("tiny_imagenet", "test", tiny).images.clone()
        cache = next(tiny.glob("*.npy"))
        for other in (np.zeros((1, 3, 64, 64), np.uint8), np.zeros(before.shape, np.int8)):
            cache.unlink()
            np.save(cache, other)
            assert torch.equal(load_dataset("tiny_imagenet", "test", tiny).images, before)

    def test_of_other_files_is_made_again(self, tiny):
        load_dataset("tiny_imagenet", "test", tiny)
        load_dataset("tiny_imagenet", "val", tiny)
        of_val, old = next(tiny.glob("*_val_*.npy")), next(tiny.glob("*_test_*.npy"))
        images = tiny / "tiny-imagenet-200" / "val" / "images"
        annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
        annotated = annotations.read_text()
        annotations.unlink()  # a link
        annotations.write_text(f"{annotated}val_200.JPEG\t{WNIDS[3]}\t0\n")
        write_image(images / "val_200.JPEG", (3, 200, 255))
        test = load_dataset("tiny_imagenet", "test", tiny)
        assert len(test) == 201 and colours(test)[200] == (3, 200, 255) and test.labels[200] == 3
        assert not old.exists() and of_val.exists()
        (images / "val_200.JPEG").rename(images / "val_201.JPEG")
        annotations.write_text(f"{annotated}val_201.JPEG\t{WNIDS[3]}\t0\n")
        current = next(tiny.glob("*_test_*.npy"))
        load_dataset("tiny_imagenet", "test", tiny)
        assert not current.exists(), "as many files, another name"

    def test_of_an_exchanged_file_is_made_again(self, tiny):
        load_dataset("tiny_imagenet", "test", tiny)
        old = next(tiny.glob("*.npy"))
        image = tiny / "tiny-imagenet-200" / "val" / "images" / "val_7.JPEG"
        image.unlink()  # a link
        write_image(image, (200, 100, 0))
        assert colours(load_dataset("tiny_imagenet", "test", tiny))[7] == (200, 100, 0)
        assert not old.exists()

    @pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES])
    def test_without_a_place_for_it_images_are_in_memory(self, tiny, monkeypatch, reason):
        def refuse(path):
            raise OSError(reason, "read-only", str(path))

        monkeypatch.setattr("freqrob.runtime.files.temporary_beside", refuse)
        monkeypatch.setattr(image_files, "_CHUNK", 30)
        with pytest.warns(UserWarning, match="read-only"):
            test = load_dataset("tiny_imagenet", "test", tiny)
        assert [(label, i, 255) for i, label in enumerate(test.labels.tolist())] == colours(test)
        assert not list(tiny.glob("*.npy"))

    def test_a_full_disk_is_an_error_and_leaves_nothing(self, tiny, monkeypatch):
        def full(_file):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(image_files.os, "fsync", full)
        with pytest.raises(OSError, match="could not keep 0.00246 GB.*_test_64px_.*No space.*Free") as raised:
            load_dataset("tiny_imagenet", "test", tiny)
        assert raised.value.errno == errno.ENOSPC
        assert [path.name for path in tiny.iterdir()] == ["tiny-imagenet-200"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; ``cut`` breaks files off in the middle, ``asked`` counts requests."""

    cut, asked = False, 0

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.cut else content)

    def send_head(self):
        type(self).asked += 1
        return super().send_head()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """A folder, the address it is served at, and its handler."""
    folder = tmp_path_factory.mktemp("served")
    handler = type("ThisHandler", (Handler,), {"cut": False, "asked": 0})
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


@pytest.fixture
def tiny_archive(server, tiny_source, monkeypatch):
    """Tiny ImageNet's zip on the server, and a function that says its checksum is that of what is served now."""
    folder, address, handler = server
    archive = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(tiny_source.rglob("*.*")):
            zipped.write(path, path.relative_to(tiny_source.parent))
        zipped.writestr("../outside.txt", "must not be written outside")

    def accept():
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        served = Archive("tiny-imagenet-200", f"{address}/{archive.name}", md5)
        monkeypatch.setattr(imagenet, "TINY_IMAGENET", served)

    accept()
    return archive, accept, handler


class TestDownloads:
    def test_tiny_imagenet(self, tiny_archive, tmp_path):
        folder = tmp_path / "new" / "data"
        test = load_dataset("tiny_imagenet", "test", folder, download=True)
        assert [(label, i, 255) for i, label in enumerate(test.labels.tolist())] == colours(test)
        assert not list(tmp_path.rglob("outside.txt"))
        handler, asked = tiny_archive[2], tiny_archive[2].asked
        load_dataset("tiny_imagenet", "val", folder, download=True)
        assert handler.asked == asked, "what is there is not fetched again"
        assert {path.name[:10] for path in folder.iterdir()} == {"tiny-image", "tiny_image"}, "no temporary folders"

    def test_nothing_is_fetched_unasked(self, tiny_archive, tmp_path):
        with pytest.raises(FileNotFoundError, match="download it with --download"):
            load_dataset("tiny_imagenet", "test", tmp_path)
        assert tiny_archive[2].asked == 0 and not list(tmp_path.iterdir())

    def test_a_wrong_checksum_is_refused(self, tiny_archive, tmp_path):
        archive, _, _ = tiny_archive
        archive.write_bytes(archive.read_bytes() + b"x")
        with pytest.raises(OSError, match=f"Tiny ImageNet from http.*into {tmp_path}.*corrupted"):
            load_dataset("tiny_imagenet", "test", tmp_path, download=True)
        assert not (tmp_path / "tiny-imagenet-200").exists()

    def test_a_transfer_that_breaks_off_is_refused_and_tried_again(self, tiny_archive, tmp_path):
        handler = tiny_archive[2]
        handler.cut = True
        with pytest.raises(OSError, match="could not fetch Tiny ImageNet"):
            load_dataset("tiny_imagenet", "test", tmp_path, download=True)
        assert not (tmp_path / "tiny-imagenet-200").exists()
        handler.cut = False
        assert len(load_dataset("tiny_imagenet", "test", tmp_path, download=True)) == 200

    def test_a_truncated_archive_leaves_no_folder(self, tiny_archive, tmp_path):
        archive, accept, _ = tiny_archive
        archive.write_bytes(archive.read_bytes()[:-3000])
        accept()
        with pytest.raises(OSError, match="could not fetch Tiny ImageNet.*zip"):
            load_dataset("tiny_imagenet", "test", tmp_path, download=True)
        assert [path.name for path in tmp_path.iterdir()] == ["tiny-imagenet-200.zip"]

    def test_no_server(self, tmp_path, monkeypatch):
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
        with pytest.raises(OSError, match="could not fetch CIFAR-100 from http://127.0.0.1:9.*refused"):
            load_dataset("cifar100", "test", tmp_path, download=True)

    @pytest.mark.parametrize("cut", [False, True])
    def test_cifar10(self, server, cifar10, tmp_path, tmp_path_factory, monkeypatch, cut):
        folder, address, handler = server
        source, archive = cifar10(root=tmp_path_factory.mktemp("cifar")), folder / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
        kind = torchvision.datasets.CIFAR10
        monkeypatch.setattr(kind, "url", f"{address}/{archive.name}")
        if cut:
            archive.write_bytes(archive.read_bytes()[:-1000])
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        if cut:
            with pytest.raises(OSError, match="could not fetch CIFAR-10"):
                load_dataset("cifar10", "test", tmp_path, download=True)
        else:
            fetched = load_dataset("cifar10", "test", tmp_path, download=True)
            assert torch.equal(fetched.images, load_dataset("cifar10", "test", source).images)

    def test_svhn(self, server, svhn, tmp_path_factory, monkeypatch):
        folder, address, _ = server
        lists = {
            part: [f"{address}/{file}", file, md5]
            for part, (_, file, md5) in torchvision.datasets.SVHN.split_list.items()
        }
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
        (folder / "test_32x32.mat").write_bytes((svhn / "test_32x32.mat").read_bytes())
        new = tmp_path_factory.mktemp("new")
        assert len(load_dataset("svhn", "test", new, download=True)) == 20
        with pytest.raises(OSError, match="could not fetch SVHN.*404"):
            load_dataset("svhn", "train", new, download=True)


@pytest.mark.parametrize(
    "pixels, labels, message",
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images.*float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels.*float32"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "images.*N ≥ 1"),
    ],
)
def test_what_is_no_image_set(pixels, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(pixels, labels, ())


def test_labels_without_a_name_are_refused():
    with pytest.raises(ValueError, match="labels: expected classes below 2, the number of names, got 2"):
        ImageSet(images(3).images, torch.arange(3), ("a", "b"))


def test_what_is_known_of_a_data_set_costs_no_kernels_and_no_torchvision():
    code = "import freqrob.data, sys; assert not {'torchvision', 'freqrob.spectral.ops'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
