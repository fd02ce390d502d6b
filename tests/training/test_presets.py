"""Presets against the papers' text and the authors' scripts, and three steps of each on real images."""

import json
import math
from dataclasses import replace

import pytest
import torch

from freqrob.data import DATASETS
from freqrob.data.batches import Batches
from freqrob.data.cifar_b import balance
from freqrob.data.samples import sample_images
from freqrob.models.front_ends import PCA, with_front_ends
from freqrob.models.registry import create_network
from freqrob.training import Recipe
from freqrob.training.presets import list_presets, preset, recipe_for, without_source

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
    assert (found.paper == "freqrob") == (recipe.name_parts.architecture == "rn20")


def test_names_are_unique():
    names = [(p.recipe.name, p.recipe.dataset, p.recipe.threat_model) for p in PRESETS]
    assert len(set(names)) == len(names) > 50


# Lin et al. 2023, Section 4.3: "The attack perturbation was bounded to ε = 8/255 with a step size of 2/255 in both the
# training and test processes of CIFAR-10 and CIFAR-100. For Restricted-ImageNet, ε = 4/255 with a step size of 1/255."
TABLE_1 = [
    (f"{variant}{defense}_{network}", dataset)
    for dataset in ("cifar10", "cifar100")
    for network in ("rn18", "wrn34")
    for defense in ("pgd_at", "trades", "mart")
    for variant in ("", "bass_")
]
TABLE_3 = ["pgd_at_rn50", "bass_pgd_at_rn50", "trades_rn50", "bass_trades_rn50"]
TABLE_4 = [
    (f"{variant}augmix_{network}", dataset)
    for dataset in ("cifar10", "cifar100")
    for network in ("wrn40_2", "densenet", "resnext29", "rn50")
    for variant in ("", "bass_")
]
SCRIPTS = {  # of PGD-AT and MART; TRADES has none
    "pgd_at": {"epochs": 110, "lr": 0.1, "weight_decay": 5e-4, "crop": "reflect", "normalize": True},
    "trades": {"epochs": 110, "lr": 0.1, "weight_decay": 2e-4, "crop": "zeros", "normalize": False},
    "mart": {"epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3, "crop": "zeros", "normalize": False},
}
ALL_OF_LIN = {"momentum": 0.9, "batch_size": 128, "flip": True, "precision": "32-true"}


def fields_of(recipe, like):
    return {field: getattr(recipe, field) for field in like}


@pytest.mark.parametrize("name, dataset", TABLE_1)
def test_table_1_of_lin(name, dataset):
    found, recipe = preset(name, dataset), preset(name, dataset).recipe
    assert found.paper == "Lin et al. 2023" and found.tables == ("Table 1",)
    attack = recipe.as_dict()["defense"]
    assert (attack["eps"], attack["step_size"], attack["steps"]) == (8 / 255, 2 / 255, 10)
    assert attack.get("beta") == {"pgd_at": None, "trades": 6, "mart": 5}[recipe.name_parts.defense]
    expected = ALL_OF_LIN | SCRIPTS[recipe.name_parts.defense]
    assert fields_of(recipe, expected) == expected
    assert recipe.on_balanced_images == name.startswith("bass_")


def test_the_attack_of_the_mart_script_is_stated_and_can_be_set():
    assert "eps=0.031 and step_size=0.007" in preset("mart_rn18").assumed
    assert recipe_for("mart_rn18", defense={"eps": 0.031, "step_size": 0.007}).make_defense().eps == 0.031


@pytest.mark.parametrize("name", TABLE_3)
def test_table_3_of_lin(name):
    found = preset(name, "restricted_imagenet")
    assert found.tables == ("Table 3",) and "not published" in found.assumed
    attack = found.recipe.make_defense()
    assert (attack.eps, attack.step_size, attack.steps) == (4 / 255, 1 / 255, 10)


@pytest.mark.parametrize("name, dataset", TABLE_4)
def test_table_4_of_lin(name, dataset):
    found, recipe = preset(name, dataset), preset(name, dataset).recipe
    assert found.tables == ("Table 4",)
    expected = ALL_OF_LIN | {"lr": 0.1, "schedule": "cosine", "nesterov": True, "crop": "zeros"}
    expected |= {"epochs": 100 if "wrn40_2" in name else 200, "weight_decay": 1e-4 if "densenet" in name else 5e-4}
    assert fields_of(recipe, expected) == expected
    assert recipe.as_dict()["defense"] == {
        "severity": 3, "width": 3, "depth": -1, "alpha": 1, "weight": 12, "weighting": "amplitude",
        "bass_view": name.startswith("bass_"),
    }  # fmt: skip
    assert not recipe.on_balanced_images, "one view is balanced, not the data (Section 4.4)"


@pytest.mark.parametrize("variant", ["", "bassmix_", "bass_"])
def test_figure_3_of_lin_is_standard_training_of_a_resnet_18(variant):
    found = preset(f"{variant}standard_rn18")
    assert "Fig. 3" in found.tables and "not published" in found.assumed
    assert recipe_for(f"{variant}standard_rn18", gamma=0.25).gamma == 0.25


# Chan et al. 2022, Section 4. Of each data set: epochs, and of each model the maximal learning rate and λ.
SECTION_4 = {
    "svhn": (15, {"standard": (0.05, None), "jafr": (0.05, 0.001), "fgsm": (0.05, None), "fgsm_jafr": (0.05, 0.05),
                  "grad_align": (0.05, 2.5), "pgd_at": (0.05, None)}),
    "cifar10": (30, {"standard": (0.2, None), "jafr": (0.2, 0.001), "fgsm": (0.2, None), "fgsm_jafr": (0.3, 0.001),
                     "grad_align": (0.3, 0.2), "pgd_at": (0.3, None)}),
    # λ of FGSM + JaFR: the script's; the text says 0.001
    "cifar100": (30, {"standard": (0.2, None), "jafr": (0.1, 0.001), "fgsm": (0.3, None), "fgsm_jafr": (0.3, 0.002),
                      "grad_align": (0.3, 0.2), "pgd_at": (0.3, None)}),
    "tiny_imagenet": (30, {"standard": (0.2, None), "jafr": (0.1, 0.002), "fgsm": (0.3, None),
                           "fgsm_jafr": (0.3, 0.002), "grad_align": (0.3, 0.2), "pgd_at": (0.3, None)}),
}  # fmt: skip
TABLES = {"svhn": "Table 3", "cifar10": "Table 4", "cifar100": "Table 5", "tiny_imagenet": "Table 6"}
CHAN = {"momentum": 0.9, "batch_size": 128, "weight_decay": 5e-4, "schedule": "triangle", "crop": "zeros",
        "flip": True, "normalize": False, "precision": "32-true"}  # fmt: skip


@pytest.mark.parametrize("dataset", SECTION_4)
def test_section_4_of_chan(dataset):
    epochs, models = SECTION_4[dataset]
    for defense, (lr, weight) in models.items():
        found = preset(f"{defense}_prn18_jafr", dataset)
        expected = CHAN | {"epochs": epochs, "lr": lr}
        assert found.paper == "Chan et al. 2022" and TABLES[dataset] in found.tables
        assert fields_of(found.recipe, expected) == expected, defense
        parameters = found.recipe.as_dict()["defense"]
        assert parameters.get("weight") == weight, defense
        assert parameters.get("eps") == (8 / 255 if found.recipe.make_defense().adversarial else None)
        if defense == "pgd_at":
            assert (parameters["step_size"], parameters["steps"]) == (2 / 255, 10)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("defense", ["jafr", "fgsm_jafr"])
def test_jafr_minus_is_jafr_with_the_other_sign(defense, dataset):
    minus, plus = (preset(f"{defense}{sign}_prn18_jafr", dataset).recipe for sign in ("_minus", ""))
    assert minus.defense == {**plus.defense, "weight": -plus.defense["weight"]}
    assert replace(minus, name=plus.name, defense=plus.defense) == plus


@pytest.mark.parametrize("name", ["blur_standard_rn18", "pca_standard_rn18"])
def test_models_of_li(name):
    found = preset(name)
    script = {"batch_size": 32, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "epochs": 48}
    assert found.paper == "Li et al. 2023" and fields_of(found.recipe, script) == script
    front_end, _ = found.recipe.front_ends
    assert front_end == ({"name": "blur", "sigma": 1.5} if name.startswith("blur") else
                         {"name": "pca", "components": 512, "shape": [3, 32, 32]})  # fmt: skip
    assert recipe_for("blur_standard_rn18", blur_sigma=3).front_ends[0]["sigma"] == 3


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
    def names(paper):
        return {(p.recipe.name, p.recipe.dataset) for p in PRESETS if p.paper == paper}

    chan = {(f"{defense}_prn18_jafr", dataset) for dataset, (_, models) in SECTION_4.items() for defense in models}
    minus = {(f"{one}_minus_prn18_jafr", on) for one in ("jafr", "fgsm_jafr") for on in ("cifar10", "cifar100")}
    assert names("Chan et al. 2022") == chan | minus
    figures = {(f"{variant}standard_rn18", "cifar10") for variant in ("", "bassmix_", "bass_")}
    restricted = {(name, "restricted_imagenet") for name in TABLE_3}
    assert names("Lin et al. 2023") == {*TABLE_1, *TABLE_4} | figures | restricted
    assert len(TABLE_1) == 24 and len(TABLE_4) == 16


def test_says_what_is_assumed():
    sourced = {"pgd_at", "standard", "jafr", "fgsm", "fgsm_jafr", "grad_align"}
    for found in PRESETS:
        model, dataset = found.recipe.name_parts, found.recipe.dataset
        complete = model.defense in sourced and dataset == "cifar10" and model.architecture != "rn18"
        complete &= (model.defense, model.architecture) != ("pgd_at", "prn18_jafr")
        complete |= (model.defense, dataset) == ("pgd_at", "cifar10") and model.architecture in ("rn18", "wrn34")
        complete |= model.defense in ("standard", "jafr", "grad_align") and dataset == "cifar100"
        assert bool(found.assumed) == (not complete and found.paper != "freqrob"), spell(found)
    assert "balanced" in preset("bass_augmix_densenet").assumed
    assert "0.001" in preset("fgsm_jafr_prn18_jafr", "cifar100").assumed
    assert preset("pgd_at_rn20").tables == ()


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
    "name, dataset, like, on",
    [
        ("pgd_at_densenet", "svhn", "pgd_at_rn18", "cifar10"),
        ("bassfront_mart_rn50", "tiny_imagenet", "mart_rn18", "cifar10"),
        ("mart_rn50", "restricted_imagenet", "mart_rn18", "cifar10"),
        ("augmix_rn18", "cifar100", "augmix_wrn40_2", "cifar100"),
        ("blur_standard_rn18", "cifar100", "blur_standard_rn18", "cifar10"),
        ("standard_wrn34", "cifar10", "standard_prn18_jafr", "cifar10"),
        ("bass_fgsm_jafr_prn18", "svhn", "fgsm_jafr_prn18_jafr", "svhn"),
        ("jafr_prn18_jafr", "restricted_imagenet", "jafr_prn18_jafr", "cifar10"),
        ("pca_pgd_at_rn20", "cifar100", "pgd_at_rn20", "cifar10"),
    ],
)
def test_without_a_preset_the_family_counts(name, dataset, like, on):
    assert preset(name, dataset) is None
    attack = {"eps": 4 / 255, "step_size": 1 / 255} if (name, dataset) == ("mart_rn50", "restricted_imagenet") else {}
    expected = preset(like, on).recipe
    expected = replace(expected, name=name, dataset=dataset, defense={**expected.defense, **attack})
    assert recipe_for(name, dataset) == expected
    assert f"no paper or preset gives settings for {name} on {dataset}" in without_source(expected)
    but = ", but for eps, step_size" if attack else ""
    assert without_source(expected).endswith(f"those of {like} on {on}{but}")


@pytest.mark.parametrize("found", PRESETS, ids=spell)
def test_a_preset_has_a_source(found):
    assert without_source(found.recipe) == ""


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
    assert [p.recipe.name for p in list_presets("bass_mart_rn*")] == ["bass_mart_rn18"] * 2 + ["bass_mart_rn20"]
    assert list_presets("nothing") == []


def distinct():
    """One preset of those that differ in data set and numbers alone; BaSS counts with the architectures below only."""
    found = {}
    for one in PRESETS:
        model = one.recipe.name_parts
        variant = model.variant if model.architecture in ("rn20", "wrn40_2") else None
        found.setdefault((model.defense.removesuffix("_minus"), model.architecture, variant), one)
    return list(found.values())


@pytest.fixture(scope="module")
def images():
    natural = sample_images()
    return {False: natural, True: balance(natural)}


@pytest.mark.parametrize("found", distinct(), ids=spell)
def test_steps_on_real_images(found, images):
    recipe, model = found.recipe, found.recipe.name_parts
    batch, steps = (16, range(3)) if model.architecture == "rn20" else (2, [1])
    if model.architecture != "rn20" and "steps" in recipe.defense:  # ten steps of attack would take minutes
        recipe = replace(recipe, defense={**recipe.defense, "steps": 1})
    source = images[recipe.on_balanced_images]
    batches = Batches(source, batch, crop=recipe.crop, flip=recipe.flip, transform=recipe.make_transform())
    torch.manual_seed(0)
    network = create_network(model.architecture, max(DATASETS[recipe.dataset].classes, 10))  # the images have ten
    whole, defense = with_front_ends(network, recipe.front_ends).train(), recipe.make_defense()
    for front_end in whole.front_ends:
        if isinstance(front_end, PCA):
            front_end.set_components(torch.zeros(3, 32, 32), torch.eye(512, 3 * 32 * 32))
    sgd = recipe.make_optimizer(network)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for step in steps:
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


@pytest.mark.parametrize(
    "settings, argument",
    [
        ({"schedule": "steps", "milestones": (5,)}, "milestones"),
        ({"schedule": "steps", "warmup_epochs": 5.5}, "warmup_epochs"),
        ({"schedule": "cosine", "warmup_epochs": 6}, "warmup_epochs"),
    ],
)
def test_a_schedule_that_does_not_fit_the_epochs_is_refused(settings, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected .*5"):
        Recipe("standard_rn20", epochs=5, **settings)


def test_milestones_of_few_epochs_are_those_within():
    assert recipe_for("mart_rn18", epochs=2).milestones == (1, 1)
    assert recipe_for("pgd_at_rn18", epochs=1).milestones == ()
