"""Batches that workers read are those of one process, at any step."""

from itertools import islice
from random import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from freqrob.data import ImageSet, load_photographs
from freqrob.data.batches import Batches
from freqrob.data.grayscale import to_grayscale
from freqrob.data.streamed_batches import (
    StreamedBatches,
    items,
    read_in_order,
    training_transform,
    validation_transform,
)
from freqrob.data.transforms import RandomBaSS
from freqrob.spectral.balance import bass

CPU = torch.device("cpu")
IMAGES = torch.randint(256, (23, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23) % 5
SET = ImageSet(IMAGES, LABELS, tuple("abcde"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eleven photographs of several sizes in folders of two classes."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(11):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(256, size=(40 + number, 60 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number:02}.png")
    return load_photographs(folder)


def batches(transform=None, images=SET, batch_size=6, **options):
    transform = transform or training_transform(32, "reflect", flip=True)
    return StreamedBatches(items(images), batch_size, transform, **{"workers": 0, **options})


def first(made, count, step=0):
    pixels, labels = zip(*islice(made.from_step(step), count), strict=True)
    return torch.stack(pixels), torch.stack(labels)


def assert_same(one, other):
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


class TestSteps:
    def test_each_epoch_has_other_images_in_another_order(self):
        made = batches(training_transform(32, None, flip=False))
        pixels, labels = first(made, 2 * len(made))
        assert len(made) == 3 and pixels.shape == (6, 6, 3, 32, 32)
        found = [{tuple(image.flatten()[:9].tolist()) for image in epoch} for epoch in pixels.flatten(0, 1).chunk(2)]
        assert len(found[0]) == len(found[1]) == 18 and found[0] != found[1]
        position = {
            tuple((image / 255).flatten()[:9].tolist()): label for image, label in zip(IMAGES, LABELS, strict=True)
        }
        expected = [position[tuple(image.flatten()[:9].tolist())] for image in pixels.flatten(0, 1)]
        assert torch.equal(labels.flatten(), torch.stack(expected))

    def test_the_order_is_that_of_batches_in_memory(self):
        plain = Batches(SET, 6, seed=3, crop=None, flip=False)
        streamed = batches(training_transform(32, None, flip=False), seed=3)
        assert_same(first(streamed, 5), first(plain, 5))

    def test_a_later_step_has_what_it_would_have_had(self, photographs):
        transform = training_transform(32, "resized", flip=True)
        whole = first(batches(transform, photographs, 4), 7)
        assert_same(first(batches(transform, photographs, 4), 3, step=4), tuple(part[4:] for part in whole))

    def test_workers_do_not_matter(self, photographs):
        transform = training_transform(32, "resized", flip=True)
        assert_same(*(first(batches(transform, photographs, 4, workers=number), 4) for number in (0, 2)))

    def test_the_shares_of_processes_are_one_batch(self, photographs):
        transform = training_transform(32, "resized", flip=True, last=RandomBaSS(0.5))
        whole = first(batches(transform, photographs, 4), 3)
        shares = [first(batches(transform, photographs, 4, rank=rank, world_size=2), 3) for rank in range(2)]
        assert_same(whole, tuple(torch.cat(parts, 1) for parts in zip(*shares, strict=True)))

    def test_the_seed_matters_and_the_callers_random_numbers_do_not(self):
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        one = first(batches(), 2)
        assert torch.equal(torch.rand(1), expected), "they do not advance either"
        assert_same(one, first(batches(), 2))
        assert not torch.equal(one[0], first(batches(seed=1), 2)[0])

    def test_random_numbers_of_the_data_set_are_reproducible(self):
        class Noisy(TensorDataset):
            def __getitem__(self, number):
                image, label = super().__getitem__(number)
                return torch.full_like(image, random() * np.random.rand()), label

        noisy = Noisy(torch.zeros(9, 3, 32, 32), LABELS[:9])
        one = first(batches(images=noisy, batch_size=4), 2)
        assert_same(one, first(batches(images=noisy, batch_size=4, workers=1), 2))
        assert len(one[0].unique()) == 8


class TestTransforms:
    def test_resized_crops_differ_and_have_the_size(self, photographs):
        pixels, labels = first(batches(training_transform(24, "resized", flip=False), photographs, 5), 4)
        assert pixels.shape == (4, 5, 3, 24, 24) and set(labels.flatten().tolist()) == {0, 1}
        assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.01

    @pytest.mark.parametrize("crop, border", [("zeros", True), ("reflect", False)])
    def test_padded_crops(self, crop, border):
        white = ImageSet(torch.full_like(IMAGES, 255), LABELS, tuple("abcde"))
        pixels, _ = first(batches(training_transform(32, crop, flip=False), white), 3)
        assert (pixels == 0).any() == border and pixels.shape[-1] == 32

    def test_flips_about_half(self):
        left = torch.zeros_like(IMAGES)
        left[..., :16] = 255
        pixels, _ = first(batches(training_transform(32, None, flip=True), ImageSet(left, LABELS, ())), 6)
        assert 0.2 < pixels[..., 0].mean() < 0.8

    def test_balances_last(self):
        pixels, labels = first(batches(training_transform(32, None, flip=False, last=RandomBaSS(1.0))), 1)
        plain, _ = first(batches(training_transform(32, None, flip=False)), 1)
        assert torch.equal(pixels[0], bass((255 * plain[0]).round().byte()) / 255)

    def test_grey_levels_of_a_stream(self, photographs):
        stream = photographs.images.map(to_grayscale, "grayscale", 1)
        pixels, _ = first(
            batches(training_transform(32, "resized", flip=False), ImageSet(stream, photographs.labels, ())), 2
        )
        assert pixels.shape == (2, 6, 1, 32, 32)

    def test_validation_is_central_and_in_order(self, photographs):
        read = read_in_order(
            items(photographs), validation_transform(28, "resized"), [range(4), range(4, 11)], workers=0, device=CPU
        )
        pixels, labels = zip(*read, strict=True)
        assert [len(part) for part in pixels] == [4, 7] and torch.equal(torch.cat(labels), photographs.labels)
        with Image.open(photographs.images.reader.files.root / photographs.images.reader.files.names[5]) as image:
            expected = validation_transform(28, "resized")(image)
        assert torch.equal(pixels[1][1], expected / 255) and expected.shape == (3, 28, 28)


class TestErrors:
    def test_photographs_without_a_resized_crop(self, photographs):
        made = batches(training_transform(32, "reflect", flip=True), photographs, 4)
        with pytest.raises(
            ValueError, match=r"crop: got an image of shape \(3, .*expected \(C, 32, 32\).*crop='resized'"
        ):
            first(made, 1)

    def test_a_workers_error_is_as_short_as_ones_own(self, photographs):
        made = batches(training_transform(32, "reflect", flip=True), photographs, 4, workers=1)
        with pytest.raises(ValueError, match="crop") as raised:
            first(made, 1)
        assert str(raised.value).startswith("crop: got an image") and "Traceback" not in str(raised.value)

    def test_labels_out_of_range(self):
        with pytest.raises(ValueError, match=r"labels: image \d+ has [34], expected 0 to 2"):
            first(batches(classes=3), 3)

    def test_batches_that_cannot_be(self):
        with pytest.raises(ValueError, match="batch_size: expected at most 23"):
            batches(batch_size=24)
        with pytest.raises(ValueError, match="multiple of world_size"):
            batches(batch_size=5, world_size=2)
