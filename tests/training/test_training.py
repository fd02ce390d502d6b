"""Training for real on a handful of images: it learns, selects on validation data, and does what its recipe says."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from freqrob.data import DATASETS, ImageSet
from freqrob.data.pca import pca_components
from freqrob.defenses import pgd_at
from freqrob.models import load_model
from freqrob.models.cards import Card
from freqrob.models.checkpoints import add_results, card_path
from freqrob.models.front_ends import PCA, Blur, Normalize
from freqrob.spectral.balance import BaSS, bass
from freqrob.training import Recipe, run_images, train, trainer
from freqrob.training.launch import launch
from freqrob.training.run_folder import RunFolder
from tests.support.two_colours import two_colours, two_colours_split

pytestmark = pytest.mark.usefixtures("tiny")

WEAK = {"steps": 1}


@pytest.fixture
def asked(monkeypatch):
    """Which splits the trainer asked for; it gets 96 images to train on and 40 to validate on."""
    splits = []

    def load(name, split, data_dir, **_):
        splits.append(split)
        return two_colours_split(split, DATASETS[name].size)

    monkeypatch.setattr(run_images, "load_dataset", load)
    return splits


@pytest.fixture
def batches_of(asked, monkeypatch):
    """The arguments that ``Batches`` was made with, as one dict a run."""
    given, make = [], run_images.Batches
    monkeypatch.setattr(
        run_images, "Batches", lambda data, *a, **k: given.append({"data": data, **k}) or make(data, *a, **k)
    )
    return given


@pytest.fixture
def validated_on(asked, monkeypatch):
    given, validate = [], trainer._validate
    monkeypatch.setattr(trainer, "_validate", lambda model, data, *a: given.append(data) or validate(model, data, *a))
    return given


def recipe(name="standard_tiny", **changes):
    return Recipe(name, **{"epochs": 3, "batch_size": 16, "lr": 0.02, "precision": "32-true", **changes})


def history(path):
    return [json.loads(line) for line in (path.with_suffix("") / "metrics.jsonl").read_text().splitlines()]


def copied(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


class TestRun:
    def test_learns_and_loads(self, asked, tmp_path):
        lines = []
        path = train(recipe(epochs=6), model_dir=tmp_path, log=lines.append)
        began, _, note = lines[0].partition("; ")
        assert began == "trains standard_tiny on cpu, 32-true, 96 images, 36 steps" and len(lines) == 1 + 6
        assert note.startswith("no paper or preset gives settings for standard_tiny on cifar10; its defaults are")
        assert set(asked) == {"train", "val"}, "test data has no part in training or selection"
        epochs = history(path)
        assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
        card = Card.read(path.with_suffix(".json"))
        assert card.recipe["selected"]["val_clean"] == max(line["val_clean"] for line in epochs) > 0.9
        test = two_colours(50, seed=9)
        logits = load_model("standard_tiny", tmp_path)(test.images.float() / 255)
        assert (logits.argmax(1) == test.labels).float().mean() > 0.9

    def test_leaves_no_run_where_there_is_no_data(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="data_dir"):
            train(recipe(), data_dir=tmp_path / "absent", model_dir=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_reads_the_checkpoint_while_no_other_process_can_write_it(self, asked, tmp_path, monkeypatch):
        read, tried = RunFolder.read, []

        def reading(run, steps_per_epoch):
            with pytest.raises(Timeout):
                FileLock(run.folder / ".lock", is_singleton=False).acquire(timeout=0)
            tried.append(run)
            return read(run, steps_per_epoch)

        monkeypatch.setattr(RunFolder, "read", reading)
        train(recipe(epochs=1), model_dir=tmp_path)
        assert tried

    def test_leaves_metrics_and_curves(self, asked, tmp_path):
        path = train(recipe("fgsm_tiny", epochs=2), model_dir=tmp_path)
        lines, folder = history(path), path.with_suffix("")
        assert [line["epoch"] for line in lines] == [1, 2]
        assert set(lines[0]) == {"format", "epoch", "loss", "val_clean", "val_pgd10", "selection", "lr", "images_per_s"}
        assert all(line["selection"] == line["val_pgd10"] and line["images_per_s"] > 0 for line in lines)
        assert [line["lr"] for line in lines] == [recipe(epochs=2).lr_at(step, 6) for step in (5, 11)]
        with open(folder / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        of_lines = [{key: value for key, value in line.items() if key != "format"} for line in lines]
        assert [{key: float(value) for key, value in row.items()} for row in rows] == of_lines
        with Image.open(folder / "curves.png") as image:
            image.load()
            assert image.width > 500 and len(image.convert("RGB").getcolors(10**6)) > 3
        present = {file.name for file in folder.iterdir()}
        present -= {".lock"}
        assert present == {
            "last.ckpt", "last.safetensors", "last.json", "best.safetensors", "best.json", "metrics.jsonl",
            "metrics.csv", "curves.png",
        }  # fmt: skip

    def test_a_finished_run_is_not_trained_again(self, asked, tmp_path):
        path = train(recipe(), model_dir=tmp_path)
        before, lines = path.read_bytes(), []
        assert train(recipe(), model_dir=tmp_path, log=lines.append) == path
        assert not lines and path.read_bytes() == before

    def test_a_folder_that_cannot_be_written_is_named_before_the_work(self, asked, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="model_dir: .*file/models.* is a file.*expected a folder"):
            train(recipe(), model_dir=tmp_path / "file" / "models")
        assert not asked

    def test_an_accelerator_that_is_not_there_is_named(self, asked, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(ValueError, match="accelerator: cannot start 1 processes on 1 nodes with 'cuda'"):
            train(recipe(), model_dir=tmp_path, accelerator="cuda")

    def test_weights_that_were_removed_are_missed(self, asked, tmp_path):
        path = train(recipe(epochs=1), model_dir=tmp_path)
        published = path.read_bytes()
        path.unlink()
        assert train(recipe(epochs=1), model_dir=tmp_path).read_bytes() == published, "the run still has them"
        (path.with_suffix("") / "best.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="best.safetensors: missing.*remove"):
            train(recipe(epochs=1), model_dir=tmp_path)

    def test_the_name_is_given_when_the_run_is_finished(self, asked, tmp_path):
        """A model from an earlier run stays until then; measurements on a finished model's card stay for good."""
        path, seen = train(recipe(epochs=1), model_dir=tmp_path), []
        add_results(path, [{"protocol": "natural", "attack": "clean", "images": 1, "accuracy": 1.0}])
        train(recipe(epochs=1), model_dir=tmp_path)
        assert Card.read(card_path(path)).results
        earlier = path.read_bytes()
        shutil.rmtree(path.with_suffix(""))
        train(recipe(epochs=3, seed=1), model_dir=tmp_path, log=lambda _: seen.append(path.read_bytes()))
        assert len(seen) == 4 and set(seen[:-1]) == {earlier}
        assert path.read_bytes() == (path.with_suffix("") / "best.safetensors").read_bytes() != earlier

    def test_the_seed_decides_where_it_starts(self, asked, tmp_path):
        first, again, other = (
            load_file(train(recipe(epochs=1, lr=1e-9, seed=seed), model_dir=tmp_path / name))["3.bias"]
            for name, seed in (("first", 0), ("again", 0), ("other", 1))
        )
        assert torch.equal(first, again) and (first - other).abs().max() > 1e-3

    @pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
    def test_a_seed_may_have_more_than_32_bits(self, asked, tmp_path, seed):
        low, high = (
            load_file(train(recipe(epochs=1, lr=1e-9, seed=one), model_dir=tmp_path / str(one)))["3.bias"]
            for one in (seed % 2**32, seed)
        )
        assert (low - high).abs().max() > 1e-3

    def test_compile(self, asked, tmp_path, monkeypatch):
        compiled = []
        monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
        for name in ("jafr_tiny", "grad_align_tiny"):
            with pytest.raises(ValueError, match="compile: (jafr|grad_align)"):
                train(recipe(name), model_dir=tmp_path, compile=True)
        assert not asked and not compiled, "refused before the work"
        train(recipe(epochs=1), model_dir=tmp_path)
        assert not compiled
        train(recipe(epochs=1, seed=1), model_dir=tmp_path / "compiled", compile=True)
        assert len(compiled) == 1 and isinstance(compiled[0], nn.Sequential), "the network behind its front ends"


class TestTensorBoard:
    def test_is_off_by_default_and_asked_for_only_where_it_is(self, asked, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        path = train(recipe(epochs=1), model_dir=tmp_path)
        assert not (path.with_suffix("") / "tensorboard").exists()
        asked.clear()
        with pytest.raises(ValueError, match="tensorboard: .*pip install"):
            train(recipe(epochs=1), model_dir=tmp_path / "other", tensorboard=True)
        assert not asked, "said before the work"

    def test_writes_the_metrics(self, asked, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        path = train(recipe(epochs=2), model_dir=tmp_path, tensorboard=True)
        events = EventAccumulator(str(path.with_suffix("") / "tensorboard")).Reload()
        for key in ("loss", "val_clean", "lr"):
            found = [(event.step, event.value) for event in events.Scalars(key)]
            assert found == [(line["epoch"], pytest.approx(line[key])) for line in history(path)]


class TestSelection:
    def test_the_best_epoch_by_validation_is_kept(self, asked, tmp_path, monkeypatch):
        scores, seen = iter([0.5, 0.9, 0.7]), []

        def validate(model, *_):
            seen.append(copied(model.network))
            return {"val_clean": 0.1, "selection": next(scores)}

        monkeypatch.setattr(trainer, "_validate", validate)
        path = train(recipe(), model_dir=tmp_path)
        kept = load_file(path)
        assert Card.read(path.with_suffix(".json")).recipe["selected"]["epoch"] == 2
        assert [torch.equal(kept["3.bias"], epoch["3.bias"]) for epoch in seen] == [False, True, False]

    def test_robust_defences_are_selected_by_robust_accuracy(self):
        class Constant(nn.Module):
            def forward(self, images):
                return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), 0.5)], 1)

        grey = torch.arange(118, 138, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
        val = ImageSet(grey, (grey[:, 0, 0, 0] < 128).long(), ("bright", "dark"))
        fabric = launch("32-true", "cpu")
        for name, selection in (("standard_tiny", 1.0), ("pgd_at_tiny", 0.2)):
            scores = trainer._validate(Constant(), val, recipe(name), fabric, lambda items, *_: items)
            assert scores["val_clean"] == 1.0 and scores["selection"] == selection

    @pytest.mark.parametrize("images, attacked", [(7, [7]), (0, [16, 16, 8]), (99, [16, 16, 8]), (20, [16, 4])])
    def test_only_so_many_images_are_attacked(self, images, attacked, monkeypatch):
        sizes, attack = [], trainer.pgd
        monkeypatch.setattr(run_images, "VALIDATION_BATCH", 16)
        monkeypatch.setattr(trainer, "pgd", lambda model, x, y, **k: sizes.append(len(x)) or attack(model, x, y, **k))
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        scores = trainer._validate(
            model, two_colours_split("val", 8), recipe("fgsm_tiny", selection_images=images),
            launch("32-true", "cpu"), lambda items, *_: items,
        )  # fmt: skip
        assert sizes == attacked
        assert (scores["val_pgd10"] * sum(attacked)) % 1 == pytest.approx(0, abs=1e-9)


class TestVariants:
    def test_bass_trains_and_validates_on_balanced_images(self, batches_of, validated_on, tmp_path):
        train(recipe("bass_standard_tiny", epochs=1, weighting="power"), model_dir=tmp_path)
        for balanced, split in ((batches_of[0]["data"], "train"), (validated_on[0], "val")):
            assert torch.equal(balanced.images, bass(two_colours_split(split).images, weighting="power"))
        assert batches_of[0]["transform"] is None
        assert [type(part) for part in load_model("bass_standard_tiny", tmp_path).front_ends] == [Normalize]

    def test_bassmix_is_an_augmentation_with_probability_gamma(self, batches_of, validated_on, tmp_path):
        for name in ("bassmix_standard_tiny", "standard_tiny"):
            train(recipe(name, epochs=1, gamma=0.25, weighting="power"), model_dir=tmp_path)
        mixed, plain = (given["transform"] for given in batches_of)
        images = two_colours(200, seed=5).images / 255
        balanced = (mixed(images, torch.Generator().manual_seed(0)) != images).flatten(1).any(1)
        assert plain is None and 0.15 < balanced.float().mean() < 0.35
        assert torch.equal(
            mixed(images, torch.Generator().manual_seed(0))[balanced], bass(images[balanced], weighting="power")
        )
        assert torch.equal(validated_on[0].images, two_colours_split("val").images)
        assert [type(part) for part in load_model("bassmix_standard_tiny", tmp_path).front_ends] == [Normalize]

    def test_bassfront_is_trained_attacked_and_loaded_through(self, batches_of, tmp_path, monkeypatch):
        attacked, attack = [], pgd_at.pgd
        monkeypatch.setattr(pgd_at, "pgd", lambda model, *a, **k: attacked.append(model) or attack(model, *a, **k))
        path = train(recipe("bassfront_pgd_at_tiny", epochs=1, weighting="power", defense=WEAK), model_dir=tmp_path)
        assert torch.equal(batches_of[0]["data"].images, two_colours_split("train").images)
        loaded = load_model("bassfront_pgd_at_tiny", tmp_path)
        for model in (attacked[0], loaded):
            assert [type(part) for part in model.front_ends] == [BaSS, Normalize]
            assert model.front_ends[0].weighting == "power"
        images, last = two_colours(8, seed=3).images / 255, attacked[-1].eval()
        torch.testing.assert_close(loaded(images), last(images), rtol=0.01, atol=0.01)  # stored in half precision
        assert set(load_file(path)) == set(last.network.state_dict())

    def test_blur(self, batches_of, tmp_path):
        train(recipe("blur_standard_tiny", epochs=1), model_dir=tmp_path)
        assert torch.equal(batches_of[0]["data"].images, two_colours_split("train").images)
        blur, normalize = load_model("blur_standard_tiny", tmp_path).front_ends
        assert isinstance(blur, Blur) and blur.sigma == 1.5 and isinstance(normalize, Normalize)
        train(recipe("blur_standard_tiny", epochs=1, blur_sigma=2), model_dir=tmp_path / "wider")
        assert load_model("blur_standard_tiny", tmp_path / "wider").front_ends[0].sigma == 2

    def test_pca_is_that_of_the_training_images(self, asked, tmp_path, monkeypatch):
        monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], size=8))
        seen, validate = [], trainer._validate
        monkeypatch.setattr(trainer, "_validate", lambda model, *a: seen.append(model) or validate(model, *a))
        path = train(recipe("pca_standard_rn20", epochs=1, components=5), model_dir=tmp_path)
        mean, components = pca_components(two_colours_split("train", 8), 5)
        assert {"front_ends.0.mean", "front_ends.0.components"} < set(load_file(path))
        loaded = load_model("pca_standard_rn20", tmp_path)
        for model in (seen[0], loaded):
            pca, normalize = model.front_ends
            assert isinstance(pca, PCA) and isinstance(normalize, Normalize)
            torch.testing.assert_close(pca.mean, mean, rtol=0, atol=1e-3)
            torch.testing.assert_close(pca.components, components, rtol=0, atol=1e-3)

    def test_bass_augmix_balances_inside_of_the_augmentation(self, batches_of, validated_on, tmp_path):
        made = recipe("bass_augmix_tiny", epochs=1)
        assert made.make_defense().bass_view and not recipe("augmix_tiny").make_defense().bass_view
        path = train(made, model_dir=tmp_path)
        for data, split in ((batches_of[0]["data"], "train"), (validated_on[0], "val")):
            assert torch.equal(data.images, two_colours_split(split).images)
        assert Card.read(path.with_suffix(".json")).recipe["defense"]["bass_view"] is True

    def test_bass_augmix_in_another_reading_or_on_balanced_images(self):
        assert recipe("bass_augmix_tiny", weighting="power").make_defense().weighting == "power"
        assert not recipe("bass_augmix_tiny").on_balanced_images
        assert recipe("bass_augmix_tiny", defense={"bass_view": False}).on_balanced_images
        assert not recipe("augmix_tiny", defense={"bass_view": True}).on_balanced_images
        assert recipe("augmix_tiny", weighting="power", defense={"bass_view": True}).make_defense().weighting == "power"
        with pytest.raises(ValueError, match="weighting: got 'amplitude', but the defence's is 'power'"):
            recipe("bass_augmix_tiny", defense={"weighting": "power"})


class TestRecipeReachesTheRun:
    @pytest.mark.parametrize("choice", [{"crop": None, "flip": False}, {"crop": "zeros"}, {"seed": 7}])
    def test_augmentation(self, batches_of, tmp_path, choice):
        train(recipe(epochs=1, **choice), model_dir=tmp_path)
        expected = {"crop": "reflect", "flip": True, "seed": 0, **choice}
        assert {key: batches_of[0][key] for key in expected} == expected

    def test_digits_are_not_mirrored(self, batches_of, tmp_path):
        train(recipe(epochs=1, dataset="svhn", flip=True), model_dir=tmp_path)
        assert batches_of[0]["flip"] is False

    @pytest.mark.parametrize("normalize", [True, False])
    def test_normalize(self, asked, tmp_path, normalize):
        train(recipe(epochs=1, dataset="cifar100", normalize=normalize), model_dir=tmp_path)
        front_ends = load_model("standard_tiny", tmp_path, dataset="cifar100").front_ends
        assert [type(part) for part in front_ends] == ([Normalize] if normalize else [])
        if normalize:
            assert front_ends[0].mean.flatten().tolist() == pytest.approx(DATASETS["cifar100"].mean)

    def test_the_optimizer(self, asked, tmp_path, monkeypatch):
        made, make = [], Recipe.make_optimizer
        monkeypatch.setattr(Recipe, "make_optimizer", lambda *a: made.append(make(*a)) or made[0])
        train(recipe(epochs=1, momentum=0.8, weight_decay=0.01, nesterov=True), model_dir=tmp_path)
        (group,) = made[0].param_groups
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, True)
        assert group["lr"] == recipe(epochs=1).lr_at(5, 6)

    def test_the_average_of_the_weights_is_validated_and_kept(self, asked, tmp_path, monkeypatch):
        steps, validated = [], []
        update, validate = trainer._State.update, trainer._validate

        def record(state, *a):
            update(state, *a)
            steps.append(copied(state.model.network))

        monkeypatch.setattr(trainer._State, "update", record)
        monkeypatch.setattr(
            trainer, "_validate", lambda model, *a: validated.append(copied(model)) or validate(model, *a)
        )
        path = train(recipe(epochs=1, ema=0.7), model_dir=tmp_path)
        average = steps[0]
        for now in steps[1:]:
            average = {key: 0.7 * average[key] + 0.3 * now[key] for key in now}
        kept = load_file(path)
        assert not torch.allclose(average["3.bias"], steps[-1]["3.bias"])
        torch.testing.assert_close(kept["3.bias"], average["3.bias"])
        torch.testing.assert_close(validated[0]["network.3.weight"], average["3.weight"])
        torch.testing.assert_close(kept["3.weight"].float(), average["3.weight"], rtol=1e-3, atol=1e-4)

    def test_triangle(self):
        made = recipe(epochs=10, lr=0.1)
        rates = [made.lr_at(step, 10) for step in range(100)]
        assert max(rates) == rates[39] == pytest.approx(0.1)
        assert rates[0] == pytest.approx(0.1 / 40) and rates[-1] == 0
        assert rates[69] == pytest.approx(0.05), "halfway down"

    def test_steps(self):
        made = recipe(epochs=6, lr=0.1, schedule="steps", milestones=(2, 4))
        rates = [made.lr_at(step, 10) for step in range(60)]
        assert rates == pytest.approx([0.1] * 20 + [0.01] * 20 + [0.001] * 20)

    def test_cosine(self):
        made = recipe(epochs=4, lr=0.1, schedule="cosine")
        rates = [made.lr_at(step, 10) for step in range(40)]
        assert rates[0] == pytest.approx(0.1) and rates[20] == pytest.approx(0.05)
        assert rates[10] == pytest.approx(0.1 * (2 + 2**0.5) / 4) and 0 < rates[39] < 2e-4
        assert rates == sorted(rates, reverse=True)

    @pytest.mark.parametrize("schedule", ["steps", "cosine"])
    def test_warmup(self, schedule):
        rates = [
            recipe(epochs=4, lr=0.1, schedule=schedule, warmup_epochs=epochs).lr_at(step, 10)
            for epochs in (1, 0.25)
            for step in range(12)
        ]
        assert rates[:11] == pytest.approx([0.01 * step for step in range(1, 11)] + [0.1])
        assert rates[12:15] == pytest.approx([0.04, 0.08, 0.1])
        assert max(rates) == pytest.approx(0.1)
        recipe(epochs=4, schedule=schedule, warmup_epochs=4).lr_at(40, 10)  # as after the last step of a run

    @pytest.mark.parametrize(
        "schedule, rate",
        [
            ("triangle", lambda step: 0.1 * min((step + 1) / 24, (60 - step - 1) / 36)),
            ("steps", lambda step: 0.1 * min((step + 1) / 5, 1) * 0.1 ** ((step >= 20) + (step >= 40))),
            ("cosine", lambda step: 0.05 * (1 + np.cos(np.pi * (step - 5) / 55)) if step >= 5 else 0.02 * (step + 1)),
        ],
    )
    @pytest.mark.parametrize("first", [0, 1, 17])
    def test_pytorchs_scheduler_gives_the_same_rates_also_of_a_resumed_run(self, schedule, rate, first):
        made = recipe(epochs=6, lr=0.1, schedule=schedule, milestones=(2, 4), warmup_epochs=0.5)
        optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "initial_lr": 0.1}], 0.1)
        scheduler = made.lr_scheduler(optimizer, 10, first)
        for step in range(first, 60):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate(step), rel=1e-12, abs=1e-15)
            assert optimizer.param_groups[0]["lr"] == made.lr_at(step, 10)
            optimizer.step()
            scheduler.step()


class TestRecipe:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"name": "standard_rn99"}, "rn99"),
            ({"name": "bassback_standard_rn20"}, "bassback"),
            ({"name": "pca_standard_rn20", "dataset": "imagenet"}, "name: pca_ .* all 150,528 values of imagenet"),
            ({"threat_model": "L2"}, "threat_model.*Linf"),
            ({"epochs": 0}, "epochs"),
            ({"epochs": 1.5}, "epochs"),
            ({"epochs": True}, "epochs: expected an integer"),
            ({"flip": "False"}, "flip: expected true or false"),
            ({"lr": "high"}, "lr: expected a positive number"),
            ({"milestones": 5}, "milestones: expected integers"),
            ({"name": "jafr_rn20", "precision": "16-mixed"}, "precision.*underflow"),
            ({"batch_size": 0}, "batch_size"),
            ({"components": 0}, "components"),
            ({"blur_sigma": 0}, "blur_sigma"),
            ({"blur_sigma": 1001}, "blur_sigma"),
            ({"seed": -1}, "seed"),
            ({"selection_images": -5}, "selection_images"),
            ({"precision": "bf17"}, "precision"),
            ({"weight_decay": -1}, "weight_decay"),
            ({"momentum": float("nan")}, "momentum"),
            ({"warmup_epochs": -1}, "warmup_epochs"),
            ({"schedule": "linear"}, "schedule.*triangle"),
            ({"milestones": ("2",)}, "milestones"),
            ({"milestones": (0, 2)}, "milestones"),
            ({"crop": "mirror"}, "crop.*reflect"),
            ({"ema": 1}, "ema"),
            ({"weighting": "log"}, "weighting"),
            ({"name": "pgd_at_rn20", "defense": {"eps": -1}}, "eps"),
            ({"name": "pgd_at_rn20", "defense": {"eps": "a"}}, "eps"),
            ({"lr": -1}, "lr"),
            ({"lr": float("inf")}, "lr"),
            ({"gamma": 2}, "gamma"),
            ({"defense": {"beta": 6}}, "defense: standard has no parameter beta; it has none"),
            ({"name": "trades_rn20", "defense": {"betta": 6}}, "no parameter betta; it has .*beta"),
        ],
    )
    def test_what_cannot_be_trained_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            recipe(**{"name": "standard_rn20", **changes})

    def test_numpys_integers_are_pythons_in_what_is_kept(self):
        whole = np.int64
        made = recipe("pgd_at_tiny", seed=whole(1), milestones=(whole(2),), lr=whole(1), defense={"steps": whole(3)})
        kept = made.as_dict()
        for value in (kept["seed"], *kept["milestones"], kept["defense"]["steps"]):
            assert type(value) is int
        assert type(kept["lr"]) is float

    @pytest.mark.parametrize("name", ["bass_augmix_tiny", "trades_tiny"])
    def test_the_card_says_all_of_it(self, name):
        made = recipe(name, milestones=[1, 2], crop=None, ema=0.9)
        written = json.loads(json.dumps(made.as_dict()))
        assert Recipe(**written) == replace(made, defense=written["defense"])
