"""Training for real on a handful of images: it learns, selects on validation data, and resumes to the same weights."""

import json

import pytest
import torch

from freqrob.data import ImageSet
from freqrob.models import load_model
from freqrob.models.cards import Card
from freqrob.spectral.bass import bass
from freqrob.training import Recipe, train, trainer


def two_colours(count: int, seed: int) -> ImageSet:
    """Red or blue noise: a task that a network learns in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), labels * 2] += 100
    return ImageSet(images, labels, ("red", "blue"))


@pytest.fixture
def seen(monkeypatch):
    """The data set, and which splits the trainer asked for."""
    splits = []

    def load(name, split, data_dir, *, download):
        splits.append(split)
        return two_colours({"train": 96, "val": 40}[split], seed=len(split))

    monkeypatch.setattr(trainer, "load_dataset", load)
    return splits


def recipe(name="standard_rn20", **changes):
    return Recipe(name, **{"epochs": 3, "batch_size": 16, "lr": 0.05, "precision": "32-true", **changes})


def weights(folder, name="standard_rn20"):
    return torch.load(folder / "cifar10" / "Linf" / name / "last.ckpt", weights_only=True)["network"]


def test_learns_and_loads(seen, tmp_path):
    lines = []
    path = train(recipe(epochs=6), model_dir=tmp_path, log=lines.append)
    assert len(lines) == 6
    assert set(seen) == {"train", "val"}, "test data has no part in training or selection"
    history = [json.loads(line) for line in (path.with_suffix("") / "metrics.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < history[0]["loss"]
    card = Card.read(path.with_suffix(".json"))
    assert card.recipe["selected"]["val_clean"] == max(line["val_clean"] for line in history) > 0.9
    test = two_colours(50, seed=9)
    logits = load_model("standard_rn20", tmp_path)(test.images.float() / 255)
    assert (logits.argmax(1) == test.labels).float().mean() > 0.9


@pytest.mark.parametrize("name", ["standard_rn20", "bassmix_standard_rn20", "bass_pgd_at_rn20"])
def test_resumes_to_the_same_weights(seen, tmp_path, name):
    changes = {"defense": {"steps": 1}, "selection_images": 20} if "pgd" in name else {}
    train(recipe(name, **changes), model_dir=tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(line):
        raise Killed

    with pytest.raises(Killed):
        train(recipe(name, **changes), model_dir=tmp_path / "cut", log=kill)
    epochs = []
    train(recipe(name, **changes), model_dir=tmp_path / "cut", log=epochs.append)
    assert len(epochs) == 2, "the first epoch is not trained again"
    whole, cut = weights(tmp_path / "whole", name), weights(tmp_path / "cut", name)
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_finished_run_is_not_trained_again(seen, tmp_path):
    path = train(recipe(), model_dir=tmp_path)
    before = path.read_bytes()
    lines = []
    assert train(recipe(), model_dir=tmp_path, log=lines.append) == path
    assert not lines and path.read_bytes() == before


def test_another_recipe_does_not_continue_a_run(seen, tmp_path):
    train(recipe(epochs=1), model_dir=tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        train(recipe(epochs=1, lr=0.01), model_dir=tmp_path)


def test_bass_trains_and_validates_on_balanced_images(seen, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(trainer, "Batches", lambda dataset, *a, **k: given.append(dataset) or Batches(dataset, *a, **k))
    from freqrob.data import Batches

    train(recipe("bass_standard_rn20", epochs=1), model_dir=tmp_path)
    assert torch.equal(given[0].images, bass(two_colours(96, seed=5).images))


def test_bassmix_balances_a_share_of_the_images():
    transform = trainer._bassmix(recipe("bassmix_standard_rn20", gamma=0.25))
    x = torch.rand(400, 3, 8, 8)
    y = transform(x.clone(), torch.Generator().manual_seed(0))
    changed = (x != y).flatten(1).any(1)
    assert 60 < changed.sum() < 140
    assert torch.equal(y[changed], bass(x[changed]))
    assert trainer._bassmix(recipe()) is None


def test_a_loss_that_is_not_finite_stops(seen, tmp_path):
    train(recipe(epochs=1), model_dir=tmp_path)
    before = weights(tmp_path)
    with pytest.raises(FloatingPointError, match="lr"):
        train(recipe(lr=1e30, epochs=2), model_dir=tmp_path / "other")
    assert all(torch.isfinite(value.float()).all() for value in before.values())
    assert not (tmp_path / "other" / "cifar10").exists()


def test_a_truncated_checkpoint_is_named(seen, tmp_path):
    train(recipe(epochs=1), model_dir=tmp_path)
    checkpoint = tmp_path / "cifar10" / "Linf" / "standard_rn20" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="last.ckpt"):
        train(recipe(epochs=1), model_dir=tmp_path)


def test_the_learning_rate_rises_and_falls():
    r = recipe(lr=0.1)
    rates = [r.lr_at(step, 100) for step in range(100)]
    assert max(rates) == rates[39] == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.1 / 40) and rates[-1] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "standard_rn99"}, "rn99"),
        ({"name": "trades_rn20"}, "trades"),
        ({"name": "bassfront_standard_rn20"}, "bassfront"),
        ({"dataset": "imagenet"}, "dataset.*imagenet"),
        ({"epochs": 0}, "epochs"),
        ({"lr": -1}, "lr"),
        ({"gamma": 2}, "gamma"),
        ({"defense": {"beta": 6}}, "beta"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{"name": "standard_rn20", **changes})
