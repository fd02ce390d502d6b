"""load_model: where it looks, and what it says."""

import enum
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from freqrob.models import checkpoints, create_network, list_models, load_model, loading
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.front_ends import with_front_ends
from tests.support.saved_models import CARD, IMAGES, NAME, NORMALIZE, logits, same, write_model

pytestmark = pytest.mark.usefixtures("nothing_shipped")


def test_loads_what_was_saved(tmp_path):
    write_model(tmp_path, seed=3)
    model = load_model(NAME, tmp_path)
    assert not any(module.training for module in model.modules())
    assert next(model.parameters()).device.type == "cpu"
    for _ in range(2):
        assert same(model, logits(3))
    assert not same(model, logits(3, front_ends=()))
    images = IMAGES.clone().requires_grad_()
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_default_model_dir_is_in_the_working_directory():
    write_model(Path("models"), seed=3)
    assert same(load_model(NAME), logits(3))


def test_custom_checkpoint_then_model_dir_then_package(tmp_path):
    write_model(tmp_path / "shipped", seed=1)
    assert same(load_model(NAME, tmp_path / "mine"), logits(1))
    write_model(tmp_path / "mine", seed=2)
    assert same(load_model(NAME, tmp_path / "mine"), logits(2))
    custom, _ = write_model(tmp_path / "custom", seed=3)
    assert same(load_model(NAME, tmp_path / "mine", "cifar10", "Linf", custom), logits(3))
    assert same(load_model(NAME, tmp_path / "mine", custom_checkpoint=str(custom)), logits(3))


def test_custom_checkpoint_without_card(tmp_path):
    torch.manual_seed(4)
    torch.save(create_network("rn20").state_dict(), tmp_path / "mine.pt")
    with pytest.warns(UserWarning, match=r"mine.pt has no card: loaded as rn20 on pixels"):
        model = load_model(NAME, custom_checkpoint=tmp_path / "mine.pt")
    assert same(model, logits(4, front_ends=()))
    with pytest.raises(FileNotFoundError, match="no.pt: no such checkpoint"):
        load_model(NAME, custom_checkpoint=tmp_path / "no.pt")
    with pytest.raises(ValueError, match="model_name: got 'mine'"):
        load_model("mine", custom_checkpoint=tmp_path / "mine.pt")
    with (
        pytest.raises(CheckpointError, match="mine.pt: not the weights of rn18"),
        pytest.warns(UserWarning, match="no card"),
    ):
        load_model("pgd_at_rn18", custom_checkpoint=tmp_path / "mine.pt")


@pytest.mark.parametrize("name, checkpoint", [("mine.pt", ""), ("mine", "mine.pt")])
def test_a_file_of_no_known_architecture_is_opened_by_a_function(name, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(2)}, "mine.pt")
    with pytest.raises((FileNotFoundError, ValueError), match=r"your own code is opened as package.module:function"):
        load_model(name, custom_checkpoint=checkpoint)


def test_a_name_of_ones_own(tmp_path):
    write_model(tmp_path, replace(CARD, name="my-model.v2"), seed=5)
    assert same(load_model("my-model.v2", tmp_path), logits(5))
    assert list_models(model_dir=tmp_path) == ["my-model.v2"]


@pytest.mark.parametrize("name", ["../pgd_at_rn20", "a/b", "", ".hidden", "a\\b", "a\n"])
def test_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="model_name: got"):
        load_model(name, tmp_path)


def test_a_card_of_something_else_is_refused(tmp_path):
    path, card = write_model(tmp_path)
    for change, complaint in {
        (
            "dataset",
            "cifar100",
        ): "expected dataset 'cifar10', its card has 'cifar100'; use dataset='cifar100' \\(--",
        ("threat_model", "L2"): "expected threat_model 'Linf', its card has 'L2'; use threat_model='L2'$",
        ("architecture", "rn18"): "expected architecture 'rn20', its card has 'rn18'$",
        ("num_classes", 100): r"not the weights of rn20: linear.weight is \(10, 64\), expected \(100, 64\)",
        ("num_classes", 10**12): r"not the weights of rn20: linear.weight is \(10, 64\), expected \(10{12}, 64\)",
        ("num_classes", 0): r"Expected `int` >= 1 - at `\$.num_classes`",
    }.items():
        checkpoints.card_path(path).write_text(replace(card, **dict([change])).to_json())
        with pytest.raises(CheckpointError, match=f"pgd_at_rn20.(safetensors|json): .*{complaint}"):
            load_model(NAME, tmp_path)


# Front ends


def test_bass_front_end_comes_before_the_models_own(tmp_path):
    from freqrob.spectral.balance import bass

    write_model(tmp_path, seed=1)
    plain, adaptive = load_model(NAME, tmp_path), load_model(NAME, tmp_path, front_end="bass")
    assert [type(module).__name__ for module in adaptive.front_ends] == ["BaSS", "Normalize"]
    with torch.no_grad():
        torch.testing.assert_close(adaptive(IMAGES), plain(bass(IMAGES)))
        power = load_model(NAME, tmp_path, front_end={"name": "bass", "weighting": "power"})
        torch.testing.assert_close(power(IMAGES), plain(bass(IMAGES, weighting="power")))


def test_bassfront_has_bass_already(tmp_path):
    name = "bassfront_pgd_at_rn20"
    write_model(tmp_path, replace(CARD, name=name, front_ends=[{"name": "bass"}, NORMALIZE]))
    model = load_model(name, tmp_path)
    assert [type(module).__name__ for module in model.front_ends] == ["BaSS", "Normalize"]
    with pytest.raises(ValueError, match="front_end: bassfront_pgd_at_rn20 already has BaSS"):
        load_model(name, tmp_path, front_end="bass")


@pytest.mark.parametrize("variant, expected", [("bassfront", "bass"), ("blur", "blur"), ("bass", ""), ("bassmix", "")])
def test_the_name_gives_weights_without_card_their_front_end(tmp_path, variant, expected):
    torch.manual_seed(4)
    torch.save(create_network("rn20").state_dict(), tmp_path / "bare.pt")
    behind = f" behind {expected}" if expected else ""
    with pytest.warns(UserWarning, match=f"loaded as rn20{behind} on pixels"):
        model = load_model(f"{variant}_pgd_at_rn20", custom_checkpoint=tmp_path / "bare.pt")
    assert same(model, logits(4, front_ends=[expected] if expected else []))


def write_pca_model(folder: Path, card: Card) -> tuple[Path, torch.nn.Module]:
    """rn20 behind a normaliser and 20 principal components of 16×16 pixels, saved with ``card``; and the model."""
    torch.manual_seed(6)
    pca = {"name": "pca", "components": 20, "shape": [3, 16, 16]}
    model = with_front_ends(create_network("rn20"), [pca, *card.front_ends]).eval()
    model.front_ends[0].set_components(torch.rand(3, 16, 16), torch.linalg.qr(torch.rand(768, 20)).Q.T)
    path = loading.checkpoint_path(card.name, folder)
    checkpoints.save(path, checkpoints.checkpoint_state(model), replace(card, front_ends=[pca, *card.front_ends]))
    return path, model


@torch.no_grad()
def test_principal_components_are_loaded(tmp_path):
    name = "pca_standard_rn20"
    path, saved = write_pca_model(tmp_path, replace(CARD, name=name))
    loaded = load_model(name, tmp_path)
    assert [type(module).__name__ for module in loaded.front_ends] == ["PCA", "Normalize"]
    assert same(loaded, saved(IMAGES))
    adaptive = load_model(name, tmp_path, front_end="bass")
    assert [type(module).__name__ for module in adaptive.front_ends] == ["BaSS", "PCA", "Normalize"]
    torch.testing.assert_close(adaptive(IMAGES), saved(adaptive.front_ends[0](IMAGES)))


@torch.no_grad()
def test_principal_components_without_card(tmp_path):
    name = "pca_standard_rn20"
    path, saved = write_pca_model(tmp_path, replace(CARD, name=name, front_ends=[]))
    checkpoints.card_path(path).unlink()
    with pytest.warns(UserWarning, match="loaded as rn20 behind pca on pixels"):
        assert same(load_model(name, custom_checkpoint=path), saved(IMAGES))
    torch.save(create_network("rn20").state_dict(), tmp_path / "bare.pt")
    with (
        pytest.raises(CheckpointError, match="front_ends.0.mean is missing"),
        pytest.warns(UserWarning, match="loaded as"),
    ):
        load_model(name, custom_checkpoint=tmp_path / "bare.pt")
    with (
        pytest.raises(CheckpointError, match="front_ends.0.* is unexpected"),
        pytest.warns(UserWarning, match="loaded as"),
    ):
        load_model("standard_rn20", custom_checkpoint=path)


def test_front_ends_that_cannot_be_added(tmp_path):
    write_model(tmp_path)
    with pytest.raises(ValueError, match="front_end: got 'blurr', expected one of bass, blur"):
        load_model(NAME, tmp_path, front_end="blurr")
    with pytest.raises(ValueError, match="front_end: got 'pca', which only a model trained with it has"):
        load_model(NAME, tmp_path, front_end="pca")


def test_a_card_with_an_unknown_front_end(tmp_path):
    write_model(tmp_path, replace(CARD, front_ends=[{"name": "sharpen"}]))
    with pytest.raises(CheckpointError, match=r"pgd_at_rn20.safetensors: its card .*front_end: got 'sharpen'"):
        load_model(NAME, tmp_path)


# Names of data sets and threat models


class BenchmarkDataset(enum.Enum):
    cifar_100 = "cifar100"


class ThreatModel(enum.Enum):
    corruptions_3d = "corruptions_3d"


def test_robustbenchs_enums_and_positions(tmp_path):
    card = replace(CARD, dataset="cifar100", threat_model="corruptions", num_classes=100)
    path, _ = write_model(tmp_path, card)
    assert path == tmp_path / "cifar100" / "corruptions" / "pgd_at_rn20.safetensors"
    model = load_model(NAME, tmp_path, BenchmarkDataset.cifar_100, ThreatModel.corruptions_3d)
    assert model(IMAGES).shape == (2, 100)
    assert list_models("*", BenchmarkDataset.cifar_100, ThreatModel.corruptions_3d, tmp_path) == [NAME]


def test_unknown_dataset_and_threat_model(tmp_path):
    known = "cifar10, cifar100, svhn, tiny_imagenet, restricted_imagenet, imagenet"
    with pytest.raises(ValueError, match=f"dataset: got 'cifar-10', expected one of {known}"):
        load_model(NAME, tmp_path, dataset="cifar-10")
    with pytest.raises(ValueError, match="threat_model: got 'linf', expected one of Linf"):
        list_models(threat_model="linf")


# Not found


def test_not_found_says_where_it_looked_and_what_makes_it(tmp_path):
    write_model(tmp_path / "m y", replace(CARD, name="trades_rn20", threat_model="L2"))
    with pytest.raises(FileNotFoundError) as caught:
        load_model("trades_rn18", tmp_path / "m y", threat_model="L2")
    message = str(caught.value)
    assert str(tmp_path / "m y" / "cifar10" / "L2" / "trades_rn18.safetensors") in message
    assert str(tmp_path / "shipped" / "cifar10" / "L2" / "trades_rn18.safetensors") in message
    assert "Loadable here: trades_rn20. Nearest: trades_rn20." in message
    quoted = shlex.quote(str(tmp_path / "m y"))
    assert f"freqrob train trades_rn18 --threat-model L2 --model-dir {quoted}" in message


def test_not_found_for_a_name_that_nothing_makes():
    with pytest.raises(FileNotFoundError) as caught:
        load_model("bass_pgdat_rn20")
    assert "No recipe has this name either. Nearest: bass_pgd_at_rn20" in str(caught.value)
    assert "freqrob train" not in str(caught.value)


# Listing


def test_list_models(tmp_path):
    write_model(tmp_path / "mine", CARD)
    write_model(tmp_path / "mine", replace(CARD, name="bass_trades_rn20", threat_model="L2"))
    write_model(tmp_path / "shipped", replace(CARD, name="bass_pgd_at_rn20"))
    write_model(tmp_path / "shipped", CARD)
    cards = {"augmix_rn20": replace(CARD, url="https://example.org/x"), "mart_rn20": CARD}
    for name, card in cards.items():
        loading.checkpoint_path(name, tmp_path / "shipped").with_suffix(".json").write_text(card.to_json())
    (tmp_path / "mine" / "cifar10" / "Linf" / "broken_rn20.json").write_text("{")
    (tmp_path / "mine" / "cifar10" / "Linf" / "notes.txt").touch()
    mine = tmp_path / "mine"
    with pytest.warns(UserWarning, match="left out: .*broken_rn20.json: not usable JSON"):
        assert list_models(model_dir=mine) == ["augmix_rn20", "bass_pgd_at_rn20", "bass_trades_rn20", NAME]
    with pytest.warns(UserWarning, match="left out: .*broken_rn20.json: not usable JSON"):
        assert list_models("*bass*", model_dir=mine) == ["bass_pgd_at_rn20", "bass_trades_rn20"]
    assert list_models(threat_model="L2", model_dir=mine) == ["bass_trades_rn20"]
    assert list_models(dataset="svhn", model_dir=mine) == []


def test_load_card(tmp_path):
    _, card = write_model(tmp_path)
    assert loading.load_card(NAME, tmp_path) == card
    with pytest.raises(FileNotFoundError, match="no model 'mart_rn20'"):
        loading.load_card("mart_rn20", tmp_path)


def test_shipped_folder_is_in_the_package(monkeypatch):
    monkeypatch.undo()
    assert loading.shipped_folder() == Path(loading.__file__).parent / "weights"
    assert loading.shipped_folder().is_dir()


def test_a_malformed_card_is_named(tmp_path):
    path, _ = write_model(tmp_path)
    checkpoints.card_path(path).write_text(json.dumps({"name": NAME}))
    with pytest.raises(CheckpointError, match=r"pgd_at_rn20.json: .*missing required field `architecture`"):
        load_model(NAME, tmp_path)
