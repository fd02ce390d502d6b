"""Photographs, PyTorch's data sets and its loaders give what their images give as tensors, batch by batch."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from freqrob.data import Preprocessing, load_photographs, photographs
from freqrob.data.streams import ImageStream
from freqrob.diagnostics import diagnose, expected_seconds, list_diagnostics
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.evaluation import evaluate
from freqrob.models.front_ends import FrontEnded, Normalize
from freqrob.runtime.reading import read_image

SIZE, COUNT = 16, 12
ATTACKS = ["clean", "fgsm", "pgd-2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve photographs of three classes, which the preprocessing makes 16×16."""
    root = tmp_path_factory.mktemp("photographs")
    pixels = torch.rand(COUNT, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    for number, few in enumerate(pixels):
        path = root / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((few * 255).byte().numpy()).resize((20 + number, 24)).save(path)
    return root


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))
    return FrontEnded([Normalize((0.5,) * 3, (0.2,) * 3)], network, Preprocessing(18, SIZE)).eval()


@pytest.fixture(scope="module")
def tensors(folder):
    found = load_photographs(folder, preprocessing=Preprocessing(18, SIZE))
    return found.tensor, found.labels


class Pairs(Dataset):
    """A user's data set: floats in [0, 1] with labels, and nothing else that is known."""

    def __init__(self, images, labels):
        self.images, self.labels = images / 255, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


def correct(results):
    return torch.stack([result.correct for result in results])


def test_photographs_go_through_the_models_preprocessing(model, folder, tensors):
    expected = evaluate(model, *tensors, attacks=ATTACKS, batch_size=5)
    found = evaluate(model, load_photographs(folder), attacks=ATTACKS, batch_size=5)
    assert torch.equal(correct(found), correct(expected)) and not correct(expected).all()
    assert {result.as_dict()["preprocessing"] for result in found} == {"resize 18 (bilinear), center crop 16"}
    assert "preprocessing" not in expected[0].as_dict()
    other = evaluate(model, load_photographs(folder, preprocessing=Preprocessing(16, 16)), attacks=["clean"])
    assert other[0].preprocessing == "resize 16 (bilinear), center crop 16"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda pairs: pairs,
        lambda pairs: DataLoader(pairs, 5, shuffle=True, drop_last=True),
        lambda pairs: DataLoader(pairs, 5, num_workers=1),
        lambda pairs: DataLoader(pairs, batch_size=None),
        lambda pairs: TensorDataset(pairs.images, pairs.labels),
    ],
)
def test_a_data_set_and_a_loader_give_what_their_images_give(model, tensors, wrap):
    expected = evaluate(model, tensors[0] / 255, tensors[1], attacks=ATTACKS, batch_size=5)
    state = torch.random.get_rng_state()
    found = evaluate(model, wrap(Pairs(*tensors)), attacks=ATTACKS, batch_size=5)
    assert torch.equal(correct(found), correct(expected))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_part_of_a_data_set_is_that_part(model, tensors):
    chosen = torch.tensor([1, 4, 6, 10])
    expected = evaluate(model, tensors[0][chosen] / 255, tensors[1][chosen], attacks=["clean"])
    pairs = Pairs(*tensors)
    for data in (Subset(pairs, chosen.tolist()), DataLoader(pairs, 3, sampler=chosen.flip(0).tolist())):
        assert torch.equal(correct(evaluate(model, data, attacks=["clean"])), correct(expected))


def test_every_diagnostic_of_photographs_is_that_of_their_pixels(model, folder, tensors, tmp_path):
    shorter = {"minimal_perturbation": {"steps": 2, "repeats": 1, "pgd_steps": 2}, "band_accuracy": {"steps": 2}}
    shorter |= {f"loss_landscape_{half}": {"points": 5} for half in ("low", "high")}
    expected = diagnose(model, *tensors, settings=shorter)
    found = diagnose(model, load_photographs(folder), settings=shorter, out=tmp_path)
    assert list(found) == list_diagnostics()
    for name, measured in found.items():
        for key, value in vars(expected[name]).items():
            if isinstance(value, torch.Tensor):
                assert torch.allclose(getattr(measured, key).double(), value.double(), equal_nan=True), (name, key)


def test_a_run_that_was_stopped_reads_only_what_is_left(model, folder, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(items, what, count, _images):
        for number, item in enumerate(items):
            if number == 2:
                raise Stopped
            yield item

    options = {"attacks": ["clean"], "protocols": ["natural"], "batch_size": 3, "cache": tmp_path}
    with pytest.raises(Stopped):
        evaluate(model, load_photographs(folder), progress=stop, **options)
    read = []
    monkeypatch.setattr(photographs, "read_image", lambda path, real=read_image: read.append(path) or real(path))
    (result,) = evaluate(model, load_photographs(folder), **options)
    assert len(set(read)) == 6 + 3, "the last two batches, and the first on which the model is tried"
    read.clear()
    assert evaluate(model, load_photographs(folder), **options)[0].from_cache and not read
    assert result.images == COUNT


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 8, 8), 0


ZEROS = torch.zeros(4, 3, 8, 8)


@pytest.mark.parametrize(
    "data, labels, error, message",
    [
        (Endless(), None, TypeError, "data: expected a map-style data set.*Endless"),
        (ZEROS, None, ValueError, "labels: expected .* classes, got None"),
        (Pairs(ZEROS, torch.zeros(4)), torch.zeros(4).long(), ValueError, "labels: expected None"),
        (Pairs(ZEROS - 255, torch.zeros(4)), None, ValueError, r"data: images: expected floats in \[0, 1\].*Normalize"),
        ([ZEROS], None, TypeError, "data"),
        (Subset([(Image.new("RGB", (8, 8)), 0)], [0]), None, TypeError, "got PIL images; .*v2.PILToTensor"),
        (TensorDataset(ZEROS), None, ValueError, "data: expected pairs of an image and a label"),
        (Subset(Pairs(ZEROS, ZEROS[:, 0, 0, 0]), []), None, ValueError, "data: expected at least one image"),
    ],
)
def test_data_that_cannot_be_measured(model, data, labels, error, message):
    with pytest.raises(error, match=message):
        evaluate(model, data, labels)


MEASURE = """
import resource, sys, torch
from torch import nn
from freqrob.data import ImageSet, ImageStream
from freqrob.data.streams import ImageStream
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.evaluation import evaluate

class Reader:
    size, dtype = (3, 224, 224), torch.uint8
    def __len__(self): return {count}
    def keys(self, numbers): return [str(number) for number in numbers]
    def read(self, chunks):
        for chunk in chunks:
            yield torch.full((len(chunk), *self.size), chunk[0] % 256, dtype=torch.uint8)

model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
labels = torch.arange({count}) % 10
data = ImageSet(ImageStream.of(Reader()), labels, ())

class Images(torch.utils.data.Dataset):
    def __len__(self): return {count}
    def __getitem__(self, number): return torch.full(Reader.size, number % 256, dtype=torch.uint8), number % 10

data = Images() if sys.argv[1:] == ["dataset"] else data
evaluate(model, data, attacks=["clean"], protocols=["natural"], batch_size=50, classes=10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_memory(*arguments, count):
    """In MB, of a process that evaluates so many images."""
    command = [sys.executable, "-c", MEASURE.format(count=count), *arguments]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    few, many = (peak_memory(count=count) for count in (1_000, 50_000))
    assert many - few < 200, (few, many)


def test_memory_does_not_grow_with_the_length_of_a_data_set():
    few, many = (peak_memory("dataset", count=count) for count in (500, 5_000))
    assert many - few < 100, (few, many)


class Seen(nn.Module):
    """Logits of two classes; ``most`` is the largest batch so far."""

    def __init__(self):
        super().__init__()
        self.linear, self.most = nn.Linear(3, 2), 0

    def forward(self, images):
        self.most = max(self.most, len(images))
        return self.linear(images.mean((2, 3)))


@pytest.mark.parametrize("side, most", [(32, 10), (224, 8), (320, 3)])
def test_batches_shrink_with_the_size_of_the_images(side, most):
    images, labels = torch.rand(1, 3, side, side).expand(10, -1, -1, -1), torch.arange(10) % 2
    for measure in (
        partial(evaluate, attacks=["pgd-1"], protocols=["natural"]),
        partial(diagnose, only=["jacobian", "hybrid", "loss_landscape_low"], settings={"hybrid": {"seeds": [0]}}),
        hybrid_reliance,
    ):
        model = Seen()
        measure(model, images, labels)
        assert model.most == most


class Slow:
    """A reader that takes 20 ms for an image."""

    size, dtype = (3, 40, 40), torch.uint8

    def __init__(self):
        self.read_numbers = set()

    def __len__(self):
        return 1000

    def keys(self, numbers):
        return [*map(str, numbers)]

    def read(self, chunks):
        for chunk in chunks:
            self.read_numbers |= {*chunk}
            time.sleep(0.02 * len(chunk))
            yield torch.zeros(len(chunk), *self.size, dtype=torch.uint8)


def test_the_expected_time_counts_decoding_and_decodes_only_the_first_images():
    reader = Slow()
    settings = {"hybrid": {"images": 0, "seeds": [0, 1], "frequencies": [0.1]}}
    seconds = expected_seconds(
        Seen(), ImageStream.of(reader), torch.arange(1000) % 2, only=["hybrid"], settings=settings
    )
    assert 80 <= seconds < 120  # 1,000 images and their partners, for two seeds
    assert max(reader.read_numbers) < 64
