"""Image sets, their balanced twins, batches and augmentation, principal components."""

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from freqrob.data import Batches, ImageSet, balance, batches, pca_components
from freqrob.data.batches import crop, flip
from freqrob.spectral.balance import balance_some, bass


def half_balanced(x, generator):
    """BaSS on about half of the images."""
    return balance_some(x, torch.rand(len(x), generator=generator) < 0.5)


def images(number: int, size: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(number) % 10, tuple("abcdefghij"))


def plain(*arguments, **options) -> Batches:
    return Batches(*arguments, crop=None, flip=False, **options)


def epoch(given: Batches, number: int = 0) -> list:
    return [given[number * len(given) + i] for i in range(len(given))]


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


class TestBalance:
    def test_is_bass_of_every_image(self):
        dataset = images(70)
        balanced = balance(dataset, chunk=32)
        assert torch.equal(balanced.images, bass(dataset.images))
        assert torch.equal(balanced.labels, dataset.labels)

    @pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
    def test_of_a_memory_mapped_data_set_is_in_memory(self, tmp_path):
        dataset = images(20)
        np.save(tmp_path / "images.npy", dataset.images.numpy())
        mapped = ImageSet(torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r")), dataset.labels, ())
        balanced = balance(mapped, weighting="power")
        assert torch.equal(balanced.images, bass(dataset.images, weighting="power"))
        assert torch.equal(mapped.images, dataset.images)
        balanced.images.zero_()  # kills the process where it is mapped


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


class TestPCA:
    def few(self) -> ImageSet:
        """Images whose components are known apart: values spread more along the first axes."""
        generator = torch.Generator().manual_seed(1)
        spread = torch.linspace(60, 1, 3 * 4 * 4).view(3, 4, 4)
        values = 128 + spread * torch.randn(300, 3, 4, 4, generator=generator)
        return ImageSet(values.clamp(0, 255).to(torch.uint8), torch.zeros(300, dtype=torch.int64), ())

    def test_is_numpys_svd(self, monkeypatch):
        monkeypatch.setattr("freqrob.data.pca._CHUNK", 64)
        dataset = self.few()
        mean, components = pca_components(dataset, 10)
        flat = dataset.images.double().flatten(1).numpy() / 255
        expected = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:10]
        signs = np.sign((components.numpy() * expected).sum(1, keepdims=True))
        assert mean.shape == (3, 4, 4) and mean.dtype == components.dtype == torch.float32
        np.testing.assert_allclose(mean.flatten(), flat.mean(0), rtol=1e-6)
        np.testing.assert_allclose(components.numpy() * signs, expected, atol=1e-6)

    def test_all_components_keep_the_image(self):
        mean, components = pca_components(self.few(), 48)
        x = torch.rand(2, 48)
        torch.testing.assert_close((x - mean.flatten()) @ components.T @ components + mean.flatten(), x)

    @pytest.mark.parametrize("number, wanted", [(300, 0), (300, 49), (20, 20), (1, 1)])
    def test_a_count_out_of_range(self, number, wanted):
        with pytest.raises(ValueError, match=f"count.*{wanted}$"):
            pca_components(self.few()[:number], wanted)
