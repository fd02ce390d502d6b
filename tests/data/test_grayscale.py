"""Grey levels: PIL's luma, and data sets, corruptions and networks of one channel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.data import DATASETS, DatasetInfo, list_datasets, load_dataset, to_grayscale
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.corruptions import corrupt
from tests.support.image_sets import images


def test_grey_levels_are_pils():
    colours = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gray = to_grayscale(colours, batch_size=3)
    expected = [np.asarray(Image.fromarray(np.array(one.permute(1, 2, 0))).convert("L")) for one in colours]
    assert gray.shape == (7, 1, 32, 32) and torch.equal(gray[:, 0], torch.from_numpy(np.stack(expected)))
    assert to_grayscale(gray) is gray


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.uint8)])
def test_other_images_are_named(bad):
    with pytest.raises(ValueError, match=r"images: expected \(N, 3, H, W\) uint8"):
        to_grayscale(bad)


@pytest.fixture
def colour_set(monkeypatch):
    loaded = {"train": images(20), "test": images(10)}
    about = replace(DATASETS["cifar10"], load=lambda _folder, part, _download: loaded[part])
    monkeypatch.setitem(DATASETS, "cifar10", about)


def test_each_data_set_has_one_in_grey_levels(colour_set, tmp_path):
    for split in ("train", "test"):
        colours, gray = (load_dataset(name, split, tmp_path) for name in ("cifar10", "cifar10_grayscale"))
        assert torch.equal(gray.images, to_grayscale(colours.images)) and torch.equal(gray.labels, colours.labels)
    about = DATASETS["cifar10_grayscale"]
    assert (about.channels, about.size, about.classes) == (1, 32, 10)
    assert about.mean == (0.4809,) and about.std == (0.2466,), "of the luma of CIFAR-10's training set: .4809, .2392"
    assert "cifar10_grayscale" not in list_datasets() and "svhn_grayscale" in DATASETS
    assert not DATASETS["svhn_grayscale"].flip


def test_what_has_no_colours_has_no_grey_levels(monkeypatch):
    monkeypatch.setitem(DATASETS, "one_channel", DatasetInfo(2, 8, (0.5,), (0.2,), load=lambda *_: None))
    assert "one_channel_grayscale" not in DATASETS and "no_such_grayscale" not in DATASETS
    with pytest.raises(ValueError, match="dataset: .*one_channel_grayscale"):
        load_dataset("one_channel_grayscale", "test")


def test_corruptions_come_before_the_conversion(colour_set, tmp_path):
    colours = load_dataset("cifar10", "test", tmp_path)
    write_corruptions(colours, tmp_path, ["saturate", "gaussian_noise"], about={"dataset": "cifar10", "bass": None})
    arrays = load_corruptions(tmp_path, "cifar10_grayscale")
    for name in arrays.types:
        expected = to_grayscale(corrupt(colours.images, name, 3))
        assert torch.equal(arrays.images(name, 3), expected)
    assert load_corruptions(tmp_path, "cifar10").images("saturate", 1).shape == (10, 3, 32, 32)
