"""Training for real on a handful of images: it learns, selects on validation data, and resumes to the same weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from freqrob.data import ImageSet
from freqrob.defenses import PGDAT
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
    make, validate = trainer.Batches, trainer._validate
    monkeypatch.setattr(trainer, "Batches", lambda data, *a, **k: given.append(data) or make(data, *a, **k))
    monkeypatch.setattr(trainer, "_validate", lambda model, data, *a: given.append(data) or validate(model, data, *a))
    train(recipe("bass_standard_rn20", epochs=1, reading="power"), model_dir=tmp_path)
    for balanced, (count, seed) in zip(given, [(96, 5), (40, 3)], strict=True):
        assert torch.equal(balanced.images, bass(two_colours(count, seed).images, reading="power"))


@pytest.mark.parametrize("name", ["bassmix_standard_rn20", "standard_rn20"])
def test_bassmix_is_an_augmentation_with_probability_gamma(seen, tmp_path, monkeypatch, name):
    transforms = []
    make = trainer.Batches
    monkeypatch.setattr(trainer, "Batches", lambda *a, **k: transforms.append(k["transform"]) or make(*a, **k))
    train(recipe(name, epochs=1, gamma=0.25, reading="power"), model_dir=tmp_path)
    if name == "standard_rn20":
        assert transforms == [None]
    else:
        assert (transforms[0].gamma, transforms[0].reading) == (0.25, "power")


def test_the_best_epoch_by_validation_is_kept(seen, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(trainer, "_validate", lambda *a: {"val_clean": 0.1, "selection": next(scores)})
    saved = []
    monkeypatch.setattr(trainer, "_checkpoint", lambda run, recipe, network, *a: saved.append(_copy(network)))
    path = train(recipe(), model_dir=tmp_path)
    kept = load_file(path)
    assert Card.read(path.with_suffix(".json")).recipe["selected"]["epoch"] == 2
    same = [torch.equal(kept["linear.bias"], epoch["linear.bias"]) for epoch in saved]
    assert same == [False, True, False]


def _copy(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_robust_defences_are_selected_by_robust_accuracy():
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), 0.5)], 1)

    grey = torch.arange(118, 138, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    val = ImageSet(grey, (grey[:, 0, 0, 0] < 128).long(), ("bright", "dark"))
    for name, selection in (("standard_rn20", 1.0), ("pgd_at_rn20", 0.2)):
        scores = trainer._validate(Constant(), val, recipe(name), torch.device("cpu"), lambda items, *_: items)
        assert scores["val_clean"] == 1.0 and scores["selection"] == selection


def test_pgd_at_trains_on_what_it_attacked_in_eval_mode(monkeypatch):
    modes = []

    class Spy(torch.nn.Linear):
        def forward(self, images):
            modes.append((self.training, images.detach().clone()))
            return super().forward(images.flatten(1))

    torch.manual_seed(0)
    model, images, labels = Spy(12, 2), torch.rand(8, 3, 2, 2), torch.zeros(8, dtype=torch.int64)
    loss = PGDAT(eps=0.1, step_size=0.05, steps=3)(model.train(), images, labels)
    assert [training for training, _ in modes] == [False, False, False, True]
    trained_on = modes[-1][1]
    assert 0.05 < (trained_on - images).abs().max() <= 0.1 + 1e-6
    assert loss > torch.nn.functional.cross_entropy(model(images), labels)


def test_a_loss_that_is_not_finite_stops_and_spares_the_last_epoch(seen, tmp_path, monkeypatch):
    train(recipe(epochs=1), model_dir=tmp_path)
    before = weights(tmp_path)
    monkeypatch.setattr(trainer, "_resume", _resumed_as_if_longer(trainer._resume))
    with pytest.raises(FloatingPointError, match="lr"):
        train(recipe(lr=1e30, epochs=2), model_dir=tmp_path)
    after = weights(tmp_path)
    assert all(torch.equal(before[key], after[key]) for key in before)


def _resumed_as_if_longer(resume):
    return lambda run, _recipe, network, optimizer: resume(run, recipe(epochs=1), network, optimizer)


def test_weights_that_were_removed_are_missed(seen, tmp_path):
    train(recipe(epochs=1), model_dir=tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match="remove"):
        train(recipe(epochs=1), model_dir=tmp_path)


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
        ({"name": "bassfront_standard_rn20"}, "bassfront"),
        ({"dataset": "imagenet"}, "dataset.*imagenet"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"selection_images": -5}, "selection_images"),
        ({"precision": "bf17"}, "precision"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"reading": "log"}, "reading"),
        ({"name": "pgd_at_rn20", "defense": {"eps": -1}}, "eps"),
        ({"name": "pgd_at_rn20", "defense": {"eps": "a"}}, "eps"),
        ({"lr": -1}, "lr"),
        ({"gamma": 2}, "gamma"),
        ({"defense": {"beta": 6}}, "beta"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{"name": "standard_rn20", **changes})
