"""Data sets, their balanced twins, batches and augmentation."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision

from freqrob.data import Batches, ImageSet, balance, load_dataset
from freqrob.data.batches import crop, flip
from freqrob.spectral.bass import bass


def images(count: int, size: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(count) % 10, tuple("abcdefghij"))


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """A folder in CIFAR-10's own format, small: 10 images a batch file, torchvision's checksums set to match."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        data = random.integers(0, 256, (1200, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": random.integers(0, 10, 1200).tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in [*names, "batches.meta"]}
    cifar10 = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(cifar10, "test_list", [[names[5], md5[names[5]]]])
    monkeypatch.setattr(cifar10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    return tmp_path


def test_splits_are_disjoint_and_fixed(cifar_folder):
    train, val, test = (load_dataset("cifar10", split, cifar_folder) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1000, 5000, 1200)
    rows = {split.images[i].numpy().tobytes() for split in (train, val) for i in range(len(split))}
    assert len(rows) == 6000, "no image in both"
    again = load_dataset("cifar10", "val", cifar_folder)
    assert torch.equal(again.images, val.images) and torch.equal(again.labels, val.labels)
    assert val.classes == tuple(f"class {i}" for i in range(10))


def test_a_changed_file_is_refused(cifar_folder):
    with (cifar_folder / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FileNotFoundError, match="no intact CIFAR-10"):
        load_dataset("cifar10", "test", cifar_folder)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cifar11", "test"), ValueError, "dataset.*cifar11"),
        (("cifar10", "dev"), ValueError, "split.*dev"),
        (("cifar10", "test", "/nowhere"), FileNotFoundError, "data_dir.*nowhere.*toronto"),
    ],
)
def test_bad_requests(arguments, error, message):
    with pytest.raises(error, match=message):
        load_dataset(*arguments)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "images.*float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels.*float32"),
    ],
)
def test_what_is_no_image_set(pixels, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(pixels, labels, ())


def test_balance_is_bass_of_every_image():
    dataset = images(70)
    balanced = balance(dataset, chunk=32)
    assert torch.equal(balanced.images, bass(dataset.images))
    assert torch.equal(balanced.labels, dataset.labels)


class TestBatches:
    def test_an_epoch_depends_on_seed_and_number_only(self):
        first, second = Batches(images(50), 8, seed=3), Batches(images(50), 8, seed=3)
        list(second.epoch(0))
        for (x, y), (again_x, again_y) in zip(first.epoch(1), second.epoch(1), strict=True):
            assert torch.equal(x, again_x) and torch.equal(y, again_y)
        assert not torch.equal(next(first.epoch(1))[0], next(first.epoch(2))[0])
        assert not torch.equal(next(first.epoch(1))[0], next(Batches(images(50), 8, seed=4).epoch(1))[0])

    def test_every_image_once(self):
        dataset = images(50)
        seen = torch.cat([x for x, _ in Batches(dataset, 10, augment=False).epoch(0)])
        assert len(Batches(dataset, 8)) == 6, "an incomplete batch is dropped"
        expected = dataset.images.float() / 255
        assert torch.equal(seen.flatten(1).sum(1).sort().values, expected.flatten(1).sum(1).sort().values)

    def test_labels_stay_with_their_images(self):
        dataset = images(50)
        by_sum = dict(zip(dataset.images.flatten(1).sum(1).tolist(), dataset.labels.tolist(), strict=True))
        for x, y in Batches(dataset, 10, augment=False).epoch(0):
            sums = (x * 255).round().flatten(1).sum(1).long().tolist()
            assert [by_sum[s] for s in sums] == y.tolist()

    def test_transform_comes_before_the_crop(self):
        batches = Batches(images(20), 5, transform=lambda x, _generator: x * 0)
        assert all((x == 0).all() for x, _ in batches.epoch(0))

    @pytest.mark.parametrize("size", [0, -1, 21])
    def test_bad_batch_size(self, size):
        with pytest.raises(ValueError, match="batch_size"):
            Batches(images(20), size)


def test_crop_takes_each_image_its_own_window():
    x = torch.arange(64 * 36, dtype=torch.float32).reshape(64, 1, 6, 6)
    padded = torch.nn.functional.pad(x, [4] * 4, mode="reflect")
    cropped = crop(x, torch.Generator().manual_seed(0))
    places = set()
    for image, whole in zip(cropped, padded, strict=True):
        found = [(i, j) for i in range(9) for j in range(9) if torch.equal(whole[:, i : i + 6, j : j + 6], image)]
        assert found, "every crop is a window of its padded image"
        places.update(found)
    assert len(places) > 20


def test_flip_mirrors_about_half():
    x = torch.rand(400, 1, 4, 4)
    flipped = flip(x, torch.Generator().manual_seed(0))
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    kept = (flipped == x).flatten(1).all(1)
    assert (mirrored | kept).all() and 150 < mirrored.sum() < 250
