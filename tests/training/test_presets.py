"""Presets against facts/papers.md and the authors' scripts, and three steps of each on real images."""

import json
import math
from dataclasses import replace

import pytest
import torch

from freqrob.data import DATASETS
from freqrob.data.batches import Batches
from freqrob.data.cifar_b import balance
from freqrob.data.samples import sample_images
from freqrob.models.front_ends import with_front_ends
from freqrob.models.registry import create_network
from freqrob.training import Recipe
from freqrob.training.presets import list_presets, preset, recipe_for

PRESETS = list_presets()
EPOCH_STEPS = 45_000 // 128


def spell(found):
    return f"{found.recipe.name}-{found.recipe.dataset}"


@pytest.mark.parametrize("found", PRESETS, ids=spell)
def test_every_preset_is_found_and_whole(found):
    recipe = found.recipe
    assert preset(recipe.name, recipe.dataset, recipe.threat_model) is found
    assert recipe_for(recipe.name, recipe.dataset, recipe.threat_model) == recipe
    assert json.loads(json.dumps(recipe.as_dict()))["defense"].items() >= recipe.defense.items()
    assert all(epoch < recipe.epochs for epoch in recipe.milestones)
    assert (found.paper == "freqrob") == (recipe.parsed.architecture == "rn20")


def test_names_are_unique():
    names = [(p.recipe.name, p.recipe.dataset, p.recipe.threat_model) for p in PRESETS]
    assert len(set(names)) == len(names) > 50


LIN = {"momentum": 0.9, "batch_size": 128, "flip": True, "precision": "32-true"}
CHAN = {"momentum": 0.9, "batch_size": 128, "weight_decay": 5e-4, "epochs": 30, "schedule": "triangle", "crop": "zeros",
        "flip": True, "normalize": False, "precision": "32-true"}  # fmt: skip
AUGMIX_LOSS = {"severity": 3, "width": 3, "depth": -1, "alpha": 1, "weight": 12, "weighting": "amplitude"}
AUGMIX = {"lr": 0.1, "schedule": "cosine", "nesterov": True, "momentum": 0.9, "batch_size": 128, "crop": "zeros"}


@pytest.mark.parametrize(
    "name, dataset, fields, defense",
    [
        ("bass_pgd_at_wrn34", "cifar10",
         {**LIN, "epochs": 110, "lr": 0.1, "weight_decay": 5e-4, "crop": "reflect", "normalize": True},
         {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}),
        ("mart_rn18", "cifar100",
         {**LIN, "epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3, "crop": "zeros", "normalize": False},
         {"eps": 0.031, "step_size": 0.007, "steps": 10, "beta": 5}),
        ("trades_rn18", "cifar10",
         {**LIN, "epochs": 110, "lr": 0.1, "weight_decay": 2e-4, "crop": "zeros", "normalize": False},
         {"eps": 0.031, "step_size": 0.007, "steps": 10, "beta": 6}),
        ("augmix_wrn40_2", "cifar10", {**AUGMIX, "epochs": 100, "weight_decay": 5e-4},
         {**AUGMIX_LOSS, "bass_view": False}),
        ("bass_augmix_resnext29", "cifar10", {**AUGMIX, "epochs": 200, "weight_decay": 5e-4},
         {**AUGMIX_LOSS, "bass_view": True}),
        ("augmix_densenet", "cifar10", {**AUGMIX, "epochs": 200, "weight_decay": 1e-4},
         {**AUGMIX_LOSS, "bass_view": False}),
        ("standard_prn18_jafr", "cifar10", {**CHAN, "lr": 0.2}, {}),
        ("jafr_prn18_jafr", "cifar10", {**CHAN, "lr": 0.2}, {"weight": 0.001}),
        ("jafr_minus_prn18_jafr", "cifar10", {**CHAN, "lr": 0.2}, {"weight": -0.001}),
        ("fgsm_prn18_jafr", "cifar10", {**CHAN, "lr": 0.2}, {"eps": 8 / 255}),
        ("fgsm_jafr_prn18_jafr", "cifar10", {**CHAN, "lr": 0.3}, {"eps": 8 / 255, "weight": 0.001}),
        ("grad_align_prn18_jafr", "cifar10", {**CHAN, "lr": 0.3}, {"eps": 8 / 255, "weight": 0.2}),
        ("pgd_at_prn18_jafr", "cifar10", {**CHAN, "lr": 0.3}, {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}),
        ("standard_prn18_jafr", "cifar100", {**CHAN, "lr": 0.2}, {}),
        ("jafr_prn18_jafr", "cifar100", {**CHAN, "lr": 0.1}, {"weight": 0.001}),
        ("fgsm_jafr_prn18_jafr", "cifar100", {**CHAN, "lr": 0.3}, {"eps": 8 / 255, "weight": 0.002}),
        ("fgsm_jafr_minus_prn18_jafr", "cifar100", {**CHAN, "lr": 0.3}, {"eps": 8 / 255, "weight": -0.002}),
    ],
)  # fmt: skip
def test_has_the_papers_settings(name, dataset, fields, defense):
    recipe = preset(name, dataset).recipe
    assert {field: getattr(recipe, field) for field in fields} == fields
    assert recipe.as_dict()["defense"] == defense


@pytest.mark.parametrize(
    "name, rates",
    [
        ("pgd_at_rn18", {0: 0.1, 99: 0.1, 100: 0.01, 104: 0.01, 105: 0.001, 109: 0.001}),
        # from 1 on, as MART counts: 75, 90, 100
        ("mart_rn18", {0: 0.01, 73: 0.01, 74: 1e-3, 88: 1e-3, 89: 1e-4, 98: 1e-4, 99: 1e-5, 119: 1e-5}),
        ("fgsm_jafr_prn18_jafr", {0: 0.3 / 12 / EPOCH_STEPS, 6: 0.15, 12: 0.3, 21: 0.15}),
        ("augmix_wrn40_2", {0: 0.1, 50: 0.05}),
    ],
)
def test_learning_rates_follow_the_scripts(name, rates):
    recipe = recipe_for(name)
    for epoch, rate in rates.items():
        assert recipe.lr_at(epoch * EPOCH_STEPS, EPOCH_STEPS) == pytest.approx(rate, rel=0.01)


def test_which_rows_there_are():
    def names(paper, dataset):
        return {p.recipe.name for p in PRESETS if (p.paper, p.recipe.dataset) == (paper, dataset)}

    chan = {"standard", "pgd_at", "grad_align", "jafr", "jafr_minus", "fgsm_jafr", "fgsm_jafr_minus"}
    assert names("Chan et al. 2022", "cifar100") == {f"{defense}_prn18_jafr" for defense in chan}
    assert names("Chan et al. 2022", "cifar10") == {f"{defense}_prn18_jafr" for defense in chan | {"fgsm"}}
    assert names("Lin et al. 2023", "cifar100") == {"mart_rn18", "bass_mart_rn18"}
    lin = {"pgd_at_rn18", "pgd_at_wrn34", "trades_rn18", "trades_wrn34", "mart_rn18", "augmix_wrn40_2",
           "augmix_resnext29", "augmix_densenet"}  # fmt: skip
    assert names("Lin et al. 2023", "cifar10") == {f"{variant}{name}" for variant in ("", "bass_") for name in lin}
    assert {p.recipe.dataset for p in PRESETS} == {"cifar10", "cifar100"}, "no other has a script"


def test_says_what_is_assumed():
    open_questions = {"trades", "augmix", "jafr_minus", "fgsm_jafr_minus"}
    for found in PRESETS:
        model = found.recipe.parsed
        expected = model.defense in open_questions or (model.defense, model.architecture) == ("pgd_at", "prn18_jafr")
        expected |= (model.defense, found.recipe.dataset) == ("fgsm_jafr", "cifar100")
        assert bool(found.assumed) == (expected and found.paper != "freqrob"), spell(found)
    assert "balanced" in preset("bass_augmix_densenet").assumed
    assert preset("bass_trades_rn18").tables == ("Table 1",)
    assert preset("pgd_at_rn20").tables == preset("jafr_prn18_jafr").tables == ()


ATTACK = {"steps": 3, "step_size": 4 / 255}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("pgd_at_rn20", epochs=10, selection_images=1000, defense=ATTACK),
        Recipe("bassmix_pgd_at_rn20", epochs=10, selection_images=1000, defense=ATTACK),
        Recipe("bass_trades_rn20", epochs=10, selection_images=1000, defense=ATTACK),
        Recipe("mart_rn20", epochs=10, selection_images=1000, defense={**ATTACK, "eps": 8 / 255}),
        Recipe("fgsm_rn20", epochs=10, selection_images=1000),
        Recipe("bass_standard_rn20", epochs=20, selection_images=1000),
        Recipe("jafr_rn20", epochs=10, selection_images=1000),
        Recipe("augmix_rn20", epochs=10, selection_images=1000),
    ],
    ids=lambda recipe: recipe.name,
)
def test_quick_presets_are_what_the_shipped_models_were_trained_with(recipe):
    assert preset(recipe.name).recipe == recipe


@pytest.mark.parametrize(
    "name, dataset, like",
    [
        ("pgd_at_densenet", "svhn", "pgd_at_rn18"),
        ("bassfront_mart_rn50", "tiny_imagenet", "mart_rn18"),
        ("augmix_rn18", "cifar100", "augmix_wrn40_2"),
        ("blur_standard_rn18", "cifar10", "standard_prn18_jafr"),
        ("bass_fgsm_jafr_prn18", "svhn", "fgsm_jafr_prn18_jafr"),
        ("pgd_at_prn18_jafr", "svhn", "pgd_at_prn18_jafr"),
        ("pca_pgd_at_rn20", "cifar100", "pgd_at_rn20"),
    ],
)
def test_without_a_preset_the_family_counts(name, dataset, like):
    assert preset(name, dataset) is None
    assert recipe_for(name, dataset) == replace(preset(like).recipe, name=name, dataset=dataset)


def test_neural_similarity_needs_its_targets():
    recipe = recipe_for("neural_similarity_rn18", defense={"targets": "mouse.npz"})
    assert replace(recipe, name="standard_rn18", defense={}) == recipe_for("standard_rn18")
    with pytest.raises(ValueError, match="targets"):
        recipe_for("neural_similarity_rn18")


def test_the_data_set_counts_without_a_preset_too():
    recipe = recipe_for("bass_fgsm_jafr_prn18_jafr", "cifar100")
    assert recipe.defense == preset("fgsm_jafr_prn18_jafr", "cifar100").recipe.defense


def test_overrides():
    recipe = recipe_for("mart_rn18", epochs=3, crop=None, milestones=[1], defense={"steps": 2})
    before = preset("mart_rn18").recipe
    assert recipe == replace(before, epochs=3, crop=None, milestones=(1,), defense={**before.defense, "steps": 2})
    assert before.defense["steps"] == 10, "the preset is as it was"
    assert recipe_for("jafr_prn18_jafr", "cifar100", defense={"weight": 1}, normalize=True, seed=0).normalize


def test_fewer_epochs_move_the_milestones():
    assert recipe_for("pgd_at_rn18", epochs=22).milestones == (20, 21)
    assert recipe_for("pgd_at_rn18", epochs=22, milestones=[5]).milestones == (5,)


def test_what_cannot_be_overridden():
    with pytest.raises(ValueError, match=r"no field epoch, lrs, .*\bepochs, .*\blr, "):
        recipe_for("mart_rn18", epoch=3, lrs=None, lr=0.1)
    with pytest.raises(ValueError, match="mart has no parameter gamma"):
        recipe_for("mart_rn18", defense={"gamma": 1})
    with pytest.raises(ValueError, match="epochs"):
        recipe_for("mart_rn18", epochs=0)
    with pytest.raises(ValueError, match="model_name"):
        recipe_for("mart_rn19")
    with pytest.raises(ValueError, match="dataset"):
        recipe_for("mart_rn18", "cifar11")


def test_finding_presets():
    assert preset("mart_rn19") is preset("mart_rn18", "svhn") is preset("mart_rn18", threat_model="L2") is None
    assert [p.recipe.name for p in list_presets("bass_mart*")] == ["bass_mart_rn18", "bass_mart_rn18", "bass_mart_rn20"]
    assert list_presets("nothing") == []


def distinct():
    """One preset of those that differ in data set and numbers alone; BaSS counts with the architectures below only."""
    found = {}
    for one in PRESETS:
        model = one.recipe.parsed
        variant = model.variant if model.architecture in ("rn20", "wrn40_2") else None
        found.setdefault((model.defense.removesuffix("_minus"), model.architecture, variant), one)
    return list(found.values())


@pytest.fixture(scope="module")
def images():
    natural = sample_images()
    return {False: natural, True: balance(natural)}


@pytest.mark.parametrize("found", distinct(), ids=spell)
def test_three_steps_on_real_images(found, images):
    recipe, model = found.recipe, found.recipe.parsed
    batch = 16 if model.architecture == "rn20" else 2
    if model.architecture != "rn20" and "steps" in recipe.defense:  # ten steps of attack would take minutes
        recipe = replace(recipe, defense={**recipe.defense, "steps": 1})
    source = images[recipe.on_balanced_images]
    batches = Batches(source, batch, crop=recipe.crop, flip=recipe.flip, transform=recipe.make_transform())
    torch.manual_seed(0)
    network = create_network(model.architecture, DATASETS[recipe.dataset].classes)
    whole, defense = with_front_ends(network, recipe.front_ends).train(), recipe.make_defense()
    sgd = recipe.make_optimizer(network)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for step in range(3):
        sgd.param_groups[0]["lr"] = recipe.lr_at(step, EPOCH_STEPS)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16-mixed"):
            loss = defense(whole, *batches[step])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        assert math.isfinite(loss.item())
    after = list(network.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), "every parameter learns"
