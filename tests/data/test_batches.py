"""Batches and their augmentation."""

from itertools import islice

import pytest
import torch

from freqrob.data import Batches, ImageSet, batches
from freqrob.data.batches import crop, flip
from freqrob.spectral.balance import balance_some
from tests.support.image_sets import images


def half_balanced(x, generator):
    """BaSS on about half of the images."""
    return balance_some(x, torch.rand(len(x), generator=generator) < 0.5)


def plain(*arguments, **options) -> Batches:
    return Batches(*arguments, crop=None, flip=False, **options)


def epoch(given: Batches, number: int = 0) -> list:
    return [given[number * len(given) + i] for i in range(len(given))]


class TestBatches:
    def test_a_step_depends_on_seed_and_number_only(self):
        in_order, resumed = Batches(images(50), 8, seed=3), Batches(images(50), 8, seed=3)
        steps = [in_order[step] for step in range(2 * len(in_order))]
        for step in (9, 3, 11, 0):
            x, y = resumed[step]
            assert torch.equal(x, steps[step][0]) and torch.equal(y, steps[step][1])

    def test_steps_epochs_and_seeds_differ(self):
        given, other = Batches(images(8), 8), Batches(images(8), 8, seed=1)
        drawn = [given[step][0] for step in range(5)] + [other[step][0] for step in range(5)]
        assert len({x.numpy().tobytes() for x in drawn}) == 10
        orders = {tuple(plain(images(8), 8, seed=seed)[step][1].tolist()) for seed in range(3) for step in range(3)}
        assert len(orders) == 9, "an order an epoch and seed"

    def test_every_image_once_an_epoch(self):
        dataset = images(50)
        assert len(Batches(dataset, 8)) == 6, "an incomplete batch is dropped"
        expected = (dataset.images.float() / 255).flatten(1).sum(1).sort().values
        for number in (0, 3):
            seen = torch.cat([x for x, _ in epoch(plain(dataset, 10), number)])
            assert torch.equal(seen.flatten(1).sum(1).sort().values, expected)

    def test_labels_stay_with_their_images(self):
        dataset = images(50)
        by_sum = dict(zip(dataset.images.flatten(1).sum(1).tolist(), dataset.labels.tolist(), strict=True))
        for x, y in epoch(plain(dataset, 10), 1):
            sums = (x * 255).round().flatten(1).sum(1).long().tolist()
            assert [by_sum[s] for s in sums] == y.tolist()

    def test_images_are_floats_in_0_1(self):
        x, _ = Batches(ImageSet(torch.full((8, 3, 8, 8), 255, dtype=torch.uint8), torch.arange(8), ()), 4)[0]
        assert x.dtype == torch.float32 and (x == 1).all()

    @pytest.mark.parametrize("world_size", [2, 4])
    @pytest.mark.parametrize("transform", [None, half_balanced])
    def test_processes_share_the_batch_of_one(self, world_size, transform):
        options = {"seed": 5, "transform": transform, "crop": "zeros"}
        one = Batches(images(40), 16, **options)
        ranks = [Batches(images(40), 16, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        for step in (0, 1, 5):
            x, y = zip(*(rank[step] for rank in ranks), strict=True)
            assert torch.equal(torch.cat(x), one[step][0]) and torch.equal(torch.cat(y), one[step][1])
            assert len(ranks) == world_size and len(x[0]) == 16 // world_size

    def test_a_bassmix_run_balances_some(self):
        dataset = images(16)
        natural = {image.numpy().tobytes() for image in dataset.images / 255}
        counts = []
        for step in range(8):
            x, _ = plain(dataset, 16, transform=half_balanced)[step]
            counts.append(sum(image.numpy().tobytes() not in natural for image in x))
        assert 40 < sum(counts) < 88 and len(set(counts)) > 1

    def test_transform_sees_the_whole_batch_before_the_crop(self):
        seen = []

        def transform(x, generator):
            seen.append((len(x), torch.rand((), generator=generator).item()))
            return x * 0 + 0.5

        given = Batches(images(20), 10, transform=transform, crop="zeros", rank=1, world_size=2)
        x, _ = given[0]
        assert set(x.unique().tolist()) == {0, 0.5} and len(x) == 5
        given[1], given[0]
        assert [n for n, _ in seen] == [10] * 3 and seen[0] == seen[2] != seen[1]

    @pytest.mark.parametrize("kind", [None, "reflect", "zeros"])
    def test_the_crop_asked_for(self, kind):
        white = ImageSet(torch.full((40, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64), ())
        assert (Batches(white, 40, crop=kind)[0][0] == 0).any() == (kind == "zeros")
        moved = (Batches(images(40), 40, crop=kind, flip=False)[0][0] != plain(images(40), 40)[0][0]).any()
        assert moved == (kind is not None)

    def test_no_flip_where_none_is_asked_for(self):
        ramp = torch.arange(32, dtype=torch.uint8).expand(40, 3, 32, 32)
        dataset = ImageSet(ramp, torch.zeros(40, dtype=torch.int64), ())
        assert torch.equal(Batches(dataset, 40, crop=None, flip=False)[0][0], ramp / 255)
        mirrored = (Batches(dataset, 40, crop=None)[0][0] == ramp.flip(-1) / 255).flatten(1).all(1).sum()
        assert 8 < mirrored < 32

    def test_images_that_would_fill_a_gpu_stay_on_the_host(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2 * 10 * 3 * 8 * 8, 10**9))
        gpu = torch.device("cuda", 0)
        assert batches._fits(images(10, 8).images, gpu)
        assert not batches._fits(images(11, 8).images, gpu)
        assert batches._fits(images(11, 8).images, torch.device("cpu"))

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
    @pytest.mark.parametrize("fits", [True, False])
    def test_a_gpu_gives_the_batches_of_the_cpu(self, monkeypatch, fits):
        monkeypatch.setattr(batches, "_fits", lambda *_: fits)
        on_cpu, on_gpu = Batches(images(40), 16), Batches(images(40), 16, device="cuda")
        assert on_gpu.images.is_cuda == fits
        for step in (0, 3):
            x, y = on_gpu[step]
            assert x.is_cuda and y.is_cuda
            torch.testing.assert_close(x.cpu(), on_cpu[step][0])
            assert torch.equal(y.cpu(), on_cpu[step][1])

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"batch_size": 0}, "batch_size"),
            ({"batch_size": -1}, "batch_size"),
            ({"batch_size": 21}, "batch_size.*20"),
            ({"batch_size": 9, "world_size": 2}, "batch_size.*multiple of world_size.*9"),
            ({"batch_size": 8, "rank": 2, "world_size": 2}, "rank.*2"),
            ({"batch_size": 8, "rank": -1}, "rank.*-1"),
            ({"batch_size": 8, "world_size": 0}, "rank"),
            ({"batch_size": 8, "crop": "mirror"}, "crop.*mirror"),
            ({"batch_size": 8, "seed": -1}, "seed.*-1"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Batches(images(20), **arguments)

    def test_no_step_before_the_first_and_no_endless_loop(self):
        with pytest.raises(IndexError, match="step.*-1"):
            Batches(images(20), 5)[-1]
        with pytest.raises(TypeError, match="not iterable"):
            list(islice(Batches(images(20), 5), 3))


@pytest.mark.parametrize("kind, mode", [("reflect", "reflect"), ("zeros", "constant")])
def test_crop_takes_the_window_at_each_image_s_place(kind, mode):
    x = torch.rand(81, 2, 6, 7)
    places = torch.cartesian_prod(torch.arange(9), torch.arange(9)).T
    padded = torch.nn.functional.pad(x, [4] * 4, mode=mode)
    for i, image in enumerate(crop(x, places, kind)):
        row, column = places[:, i]
        assert torch.equal(image, padded[i, :, row : row + 6, column : column + 7])


def test_crop_draws_every_place():
    x = torch.arange(1, 1025, dtype=torch.uint8).view(1, 1, 32, 32).expand(600, 1, 32, 32)
    given = Batches(ImageSet(x, torch.zeros(600, dtype=torch.int64), ()), 600, crop="zeros", flip=False)[0][0] > 0
    top, left = (given.any(axis).float().argmax(-1) for axis in (3, 2))
    bottom, right = (given.flip(2, 3).any(axis).float().argmax(-1) for axis in (3, 2))
    assert len(set(zip((top - bottom).flatten().tolist(), (left - right).flatten().tolist(), strict=True))) == 81


def test_flip_mirrors_those_that_are_marked():
    x = torch.rand(3, 1, 4, 4)
    flipped = flip(x, torch.tensor([True, False, True]))
    assert torch.equal(flipped, torch.stack([x[0].flip(-1), x[1], x[2].flip(-1)]))
