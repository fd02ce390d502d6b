"""Training on photographs that workers decode: it learns, resumes at the step, and is the same on two processes.

``python test_photographs.py FOLDER JOB`` is what each of two processes runs.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder

from freqrob.data import Preprocessing, load_photographs
from freqrob.data.photographs import imagenet_wnids
from freqrob.models import load_model
from freqrob.models.cards import Card
from freqrob.models.preprocessing import preprocessing_of
from freqrob.training import Recipe, recipe_for, run_images, train
from tests.support.command_line import error_of, run
from tests.support.pair import join_pair, leave_with, run_pair
from tests.support.photographs import SIZE, small_photographs, write_photographs
from tests.support.two_colours import two_colours

PHOTOGRAPHS, BATCH, EPOCHS = 80, 8, 2
EPOCH = 72 // BATCH  # a tenth is held out


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_photographs(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "train", PHOTOGRAPHS)


def recipe(name="standard_small", **changes):
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05, "precision": "32-true", "crop": "resized"}
    return Recipe(name, "imagenet", **{**settings, **changes})


def trained(folder, model_dir, name="standard_small", **options):
    options = {"workers": 0, "accelerator": "cpu", **options}
    return train(recipe(name), model_dir=model_dir, data=load_photographs(folder), **options)


def last(model_dir, name="standard_small"):
    return torch.load(model_dir / "imagenet" / "Linf" / name / "last.ckpt", weights_only=True)


def assert_same_end(one, other, rtol=0.0):
    one, other = last(one), last(other)
    assert one["step"] == other["step"] == EPOCHS * EPOCH
    torch.testing.assert_close(one["network"], other["network"], rtol=rtol, atol=rtol)
    torch.testing.assert_close(one["optimizer"]["state"], other["optimizer"]["state"], rtol=10 * rtol, atol=rtol)


def at_step(number, action):
    """A ``progress`` that acts when so many steps are done."""

    def progress(items, what, *_):
        for done, item in enumerate(items):
            if done == number and what != "validation":
                action()
            yield item

    return progress


def killed(folder, model_dir):
    """In a process of its own."""
    small_photographs(pytest.MonkeyPatch())
    kill = at_step(EPOCH + 4, lambda: os.kill(os.getpid(), signal.SIGKILL))
    trained(folder, model_dir, workers=2, checkpoint_minutes=0, progress=kill)


def two_processes(folder):
    """Together from the first step to the end, and from a step in the middle that one process reached."""
    trained(folder / "train", folder / "two", workers=1)
    trained(folder / "train", folder / "one_then_two", workers=1)


@pytest.fixture(scope="module")
def whole(folder):
    with pytest.MonkeyPatch.context() as patch:
        small_photographs(patch)
        trained(folder, folder.parent / "whole")
    return folder.parent / "whole"


class TestRun:
    def test_learns_and_loads(self, whole, folder, tmp_path):
        trained_model = load_model("standard_small", whole, "imagenet")
        card = Card.read(whole / "imagenet" / "Linf" / "standard_small.json")
        assert card.num_classes == 2 and card.recipe["selected"]["val_clean"] == 1.0
        assert preprocessing_of(trained_model) == Preprocessing.central(SIZE)
        others = load_photographs(write_photographs(tmp_path, 20, seed=1), preprocessing=Preprocessing.central(SIZE))
        assert (trained_model(others.tensor / 255).argmax(1) == others.labels).float().mean() > 0.9

    def test_the_number_of_workers_does_not_matter(self, whole, folder, tmp_path):
        trained(folder, tmp_path, workers=2)
        assert_same_end(whole, tmp_path)

    def test_a_killed_run_goes_on_at_its_step(self, whole, folder, tmp_path):
        process = multiprocessing.get_context("spawn").Process(target=killed, args=(folder, tmp_path))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL and last(tmp_path)["step"] == EPOCH + 4
        trained(folder, tmp_path)
        assert_same_end(whole, tmp_path)

    def test_two_processes_train_as_one(self, whole, folder, tmp_path, monkeypatch):
        """From the first step on, and from a step that one process has reached."""
        (tmp_path / "train").symlink_to(folder)

        class Stopped(Exception):
            pass

        def stop():
            raise Stopped

        with pytest.raises(Stopped):
            trained(folder, tmp_path / "one_then_two", checkpoint_minutes=0, progress=at_step(5, stop))
        assert last(tmp_path / "one_then_two")["step"] == 5
        torchrun = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "none"}
        run_pair(tmp_path, [__file__, tmp_path], **torchrun, MASTER_ADDR="localhost", MASTER_PORT=0)
        for other in ("two", "one_then_two"):
            assert_same_end(whole, tmp_path / other, rtol=1e-3)

    def test_bass_variants_balance_what_the_network_gets(self, folder, tmp_path, monkeypatch):
        made, make = [], run_images.training_transform
        monkeypatch.setattr(run_images, "training_transform", lambda *a: made.append(a[-1]) or make(*a))
        for name in ("bass_standard_small", "bassmix_standard_small", "standard_small"):
            trained(folder, tmp_path, name)
        assert [last and (last.p, last.weighting) for last in made] == [(1.0, "amplitude"), (0.5, "amplitude"), None]


class TestData:
    def test_a_data_set_of_torchvision(self, whole, folder, tmp_path):
        """The same photographs in the same order give the same run."""
        train(recipe(), model_dir=tmp_path, data=ImageFolder(str(folder)), workers=0)
        assert_same_end(whole, tmp_path)

    def test_a_loaders_data_set_and_workers(self, whole, folder, tmp_path, monkeypatch):
        counts, load = [], run_images.StreamedBatches
        monkeypatch.setattr(run_images, "StreamedBatches", lambda *a, **k: counts.append(k["workers"]) or load(*a, **k))
        train(recipe(), model_dir=tmp_path, data=DataLoader(ImageFolder(str(folder)), num_workers=1))
        assert counts == [1]
        assert_same_end(whole, tmp_path)

    def test_images_in_memory_stay_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(run_images, "StreamedBatches", None)
        path = train(recipe(crop="zeros"), model_dir=tmp_path, data=two_colours(60, seed=1))
        assert Card.read(path.with_suffix(".json")).num_classes == 2
        with pytest.raises(ValueError, match="crop: 'resized' is for images that are not in memory"):
            train(recipe(), model_dir=tmp_path / "other", data=two_colours(60, seed=1))

    def test_what_does_not_fit(self, tmp_path):
        def failing(data, **changes):
            train(recipe(**changes), model_dir=tmp_path, data=data, workers=0)

        with pytest.raises(ValueError, match="data: expected at least 10 images"):
            failing(two_colours(9, seed=1))

        class Endless(IterableDataset):
            def __iter__(self):
                return iter([])

        with pytest.raises(TypeError, match="data: expected a map-style data set.*got Endless"):
            failing(Endless())
        images = TensorDataset(torch.zeros(40, 3, SIZE, SIZE), torch.full((40,), 1000))
        with pytest.raises(ValueError, match=r"labels: image \d+ has 1000, expected 0 to 999"):
            failing(images, crop="zeros")
        assert not list(tmp_path.rglob("last.ckpt"))


def test_recipes_for_photographs_crop_and_normalize_them():
    for name in ("standard_resnet50", "bassfront_standard_resnet50", "trades_resnet50"):
        recipe = recipe_for(name, "imagenet")
        assert recipe.crop == "resized" and recipe.normalize, "as the trained networks that runs start from"
    assert not recipe_for("trades_resnet50", "tiny_imagenet").normalize
    assert recipe_for("pgd_at_resnet50", "imagenet").defense["eps"] == 4 / 255
    assert recipe_for("standard_resnet50", "tiny_imagenet").crop != "resized"


class TestCommand:
    OPTIONS = ("--epochs", "1", "--batch-size", "8", "--precision", "32-true", "--workers", "0", "--set", "lr=0.01")

    def test_imagenet_as_it_is_unpacked(self, tmp_path):
        wnids = imagenet_wnids()[:2]
        write_photographs(tmp_path / "imagenet" / "train", 40, wnids)
        write_photographs(tmp_path / "imagenet" / "val", 12, wnids, seed=1)
        common = "--dataset", "imagenet", "--data", tmp_path / "imagenet", "--model-dir", tmp_path / "models"
        result = run("train", "blur_standard_small", *common, *self.OPTIONS)
        assert result.exit_code == 0 and "36 images" in result.output
        card = Card.read(tmp_path / "models" / "imagenet" / "Linf" / "blur_standard_small.json")
        assert card.num_classes == 1000 and card.front_ends[0]["name"] == "blur"
        result = run("evaluate", "blur_standard_small", *common, "--attack", "clean", "--no-cache", "--device", "cpu")
        assert result.exit_code == 0 and "12 images" in result.output, (
            "with the preprocessing that it has from training"
        )

    def test_a_folder_and_its_train(self, folder, tmp_path):
        for data in (folder, folder.parent):
            common = "--dataset", "folder", "--data", data, "--model-dir", tmp_path / data.name
            result = run("train", "standard_small", *common, *self.OPTIONS)
            assert result.exit_code == 0 and "72 images" in result.output
        result = run(
            "evaluate", "standard_small", "--dataset", "folder", "--data", folder, "--model-dir", tmp_path / "train",
            "--attack", "clean", "--no-cache", "--device", "cpu",
        )  # fmt: skip
        assert result.exit_code == 0 and "80 images" in result.output

    def test_some_classes_of_a_folder(self, folder, tmp_path):
        (tmp_path / "classes.txt").write_text("red\nblue\n")
        options = "--classes", tmp_path / "classes.txt", "--model-dir", tmp_path, *self.OPTIONS
        assert run("train", "standard_small", "--dataset", "folder", "--data", folder, *options).exit_code == 0
        message = error_of("train", "standard_small", "--dataset", "imagenet", "--data", folder, *options)
        assert "classes: expected --classes only with --dataset folder" in message


if __name__ == "__main__":
    join_pair(Path(sys.argv[1]))
    with pytest.MonkeyPatch.context() as patch:
        small_photographs(patch)
        leave_with(two_processes(Path(sys.argv[1])), Path(sys.argv[1]))
