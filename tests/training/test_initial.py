"""Training from given weights: they are the initial network, behind the recipe's front ends."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from freqrob.data import DATASETS
from freqrob.models import load_model, registry
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.checkpoints import save
from freqrob.models.front_ends import Blur, FrontEnded, Normalize
from freqrob.spectral.balance import BaSS
from freqrob.training import Recipe, initial, run_images, train
from tests.support.two_colours import two_colours_split

pytestmark = pytest.mark.usefixtures("tiny", "data")


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setattr(run_images, "load_dataset", lambda name, split, *_, **__: two_colours_split(split))


@pytest.fixture
def trained(tmp_path):
    """A model in the folder ``models``."""
    return train(recipe("standard_tiny", epochs=2, lr=0.02), model_dir=tmp_path / "models")


def recipe(name="standard_tiny", **changes):
    """So small a learning rate that the weights stay what they were."""
    return Recipe(name, **{"epochs": 1, "batch_size": 16, "lr": 1e-9, "precision": "32-true", **changes})


def test_a_model_by_name_behind_another_front_end(trained, tmp_path):
    lines = []
    path = train(
        recipe("blur_standard_tiny", initial_weights="standard_tiny"), model_dir=tmp_path / "models", log=lines.append
    )
    assert "32-true, from standard_tiny, 96 images" in lines[0]
    torch.testing.assert_close(load_file(path)["3.weight"], load_file(trained)["3.weight"], rtol=1e-3, atol=1e-4)
    assert [type(part) for part in load_model("blur_standard_tiny", tmp_path / "models").front_ends] == [
        Blur,
        Normalize,
    ]
    card = Card.read(path.with_suffix(".json")).recipe
    assert card["initial_weights"] == "standard_tiny" and len(card["initial_sha256"]) == 64


def test_the_random_network_is_another(trained, tmp_path):
    """Otherwise the tests above and below would show nothing."""
    path = train(recipe("blur_standard_tiny"), model_dir=tmp_path / "models")
    assert (load_file(path)["3.weight"].float() - load_file(trained)["3.weight"].float()).abs().max() > 0.01
    assert not {"initial_sha256"} & Card.read(path.with_suffix(".json")).recipe.keys()


def test_the_hash_is_that_of_the_weights(trained, tmp_path):
    """The same for a name and for the file, another one for other weights."""
    of = {
        source: initial.read_initial_weights(recipe(initial_weights=source), 2, tmp_path / "models").sha256
        for source in ("standard_tiny", str(trained))
    }
    assert len({*of.values()}) == 1
    state = {**load_file(trained)}
    state["3.bias"] = state["3.bias"] + 1
    save_file(state, tmp_path / "other.safetensors")
    other = recipe(initial_weights=str(tmp_path / "other.safetensors"))
    assert initial.read_initial_weights(other, 2, tmp_path).sha256 not in of.values()


def test_a_file_of_another_program(trained, tmp_path):
    """Nested, with the prefix of a wrapper, and without a card that says how pixels were normalised."""
    state = load_file(trained)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "own.PTH")
    path = train(
        recipe("bassfront_standard_tiny", initial_weights=str(tmp_path / "own.PTH")), model_dir=tmp_path / "models"
    )
    torch.testing.assert_close(load_file(path)["3.weight"], state["3.weight"], rtol=1e-3, atol=1e-4)
    front_ends = load_model("bassfront_standard_tiny", tmp_path / "models").front_ends
    assert [type(part) for part in front_ends] == [BaSS, Normalize]


def test_a_model_of_a_source(tmp_path, monkeypatch):
    """Its own input size and the like are left out; the hash does not need the network's keys."""
    network = registry.create_network("tiny", 2)
    about = DATASETS["cifar10"]
    source = FrontEnded([Normalize(about.mean, about.std)], network)
    monkeypatch.setitem(registry.SOURCES, "zoo", lambda name, target: source)
    path = train(recipe(initial_weights="zoo:net"), model_dir=tmp_path)
    torch.testing.assert_close(load_file(path)["3.weight"].float(), network[3].weight, rtol=1e-3, atol=1e-4)


class TestResuming:
    @pytest.fixture
    def stopped(self, trained, tmp_path):
        """A run from given weights, stopped after two steps."""

        def stop(items, what, *_):
            for done, item in enumerate(items):
                if done == 2 and what != "validation":
                    raise KeyboardInterrupt
                yield item

        start = recipe("blur_standard_tiny", epochs=2, lr=0.02, initial_weights=str(trained))
        with pytest.raises(KeyboardInterrupt):
            train(start, model_dir=tmp_path / "stopped", checkpoint_minutes=0, progress=stop)
        return start, tmp_path / "stopped"

    def test_does_not_read_the_weights_again(self, stopped, trained, tmp_path):
        start, folder = stopped
        whole = train(start, model_dir=tmp_path / "whole")
        trained.unlink()
        path = train(start, model_dir=folder)
        assert path.read_bytes() == whole.read_bytes()
        found, expected = (Card.read(one.with_suffix(".json")).recipe for one in (path, whole))
        assert found["initial_sha256"] == expected["initial_sha256"] and len(found["initial_sha256"]) == 64

    def test_refuses_other_weights(self, stopped):
        start, folder = stopped
        for other in ("", "standard_tiny"):
            with pytest.raises(ValueError, match=r"holds a run with other settings \(initial_weights '.*', now"):
                train(recipe("blur_standard_tiny", epochs=2, lr=0.02, initial_weights=other), model_dir=folder)

    def test_a_checkpoint_of_an_older_version_has_the_defaults(self, tmp_path):
        path = train(recipe(), model_dir=tmp_path).with_suffix("") / "last.ckpt"
        state = torch.load(path, weights_only=True)
        del state["recipe"]["initial_weights"], state["initial_sha256"]
        torch.save(state, path)
        train(recipe(), model_dir=tmp_path)
        with pytest.raises(ValueError, match="initial_weights '', now 'x.pt'"):
            train(recipe(initial_weights="x.pt"), model_dir=tmp_path)


class TestErrors:
    def starts_with(self, error, match, source, tmp_path, name="standard_tiny"):
        with pytest.raises(error, match=match):
            train(recipe(name, initial_weights=str(source)), model_dir=tmp_path / "models")
        assert not list((tmp_path / "models").rglob("last.ckpt"))

    def test_another_number_of_classes(self, tmp_path):
        torch.save(registry.create_network("tiny", 5).state_dict(), tmp_path / "five.pt")
        expected = "initial_weights: .*five.pt has 5 classes, the images have 2; a classifier is not replaced"
        self.starts_with(CheckpointError, expected, tmp_path / "five.pt", tmp_path)

    def test_a_source_with_another_number_of_classes(self, tmp_path):
        expected = "initial_weights: model: torchvision:resnet18 has 1000 classes, the data set has 2; a classifier"
        self.starts_with(ValueError, expected, "torchvision:resnet18", tmp_path)

    def test_another_architecture(self, tmp_path):
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
        expected = "initial_weights: .*linear.pt: not the weights of tiny: 0.weight is missing"
        self.starts_with(CheckpointError, expected, tmp_path / "linear.pt", tmp_path)

    def test_pixels_that_were_normalised_in_another_way(self, tmp_path):
        card = Card(
            "standard_tiny", "tiny", num_classes=2, front_ends=[{"name": "normalize", "mean": [0.5], "std": [1]}]
        )
        save(tmp_path / "half.safetensors", registry.create_network("tiny", 2).state_dict(), card)
        expected = (
            "initial_weights: .* is for pixels with mean 0.5 and standard deviation 1, the recipe's have mean 0.49"
        )
        self.starts_with(ValueError, expected, tmp_path / "half.safetensors", tmp_path)

    def test_no_such_model(self, tmp_path):
        self.starts_with(FileNotFoundError, "no model 'absent'", "absent", tmp_path)
        self.starts_with(FileNotFoundError, "absent.pt: no such checkpoint", "absent.pt", tmp_path)
