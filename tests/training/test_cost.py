"""The measured step is the recipe's, and its time is scaled to the recipe's batch."""

from dataclasses import replace

import pytest
import torch

from freqrob.models.front_ends import PCA
from freqrob.training import Recipe, cost
from freqrob.training.cost import StepCost, TrainingStep, step_cost, step_flops
from freqrob.training.presets import list_presets

STANDARD = Recipe("standard_rn20", precision="32-true", lr=0.5, momentum=0.0, weight_decay=0.1, batch_size=64)
BATCH = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1, 2])


@pytest.fixture
def timed(monkeypatch):
    """Batch sizes of the measured steps, which take as many seconds as the list ``seconds`` says, in turn."""
    sizes, seconds = [], []

    def measured(step, number, repeat):
        sizes.extend(len(next(step.batches)[0]) for _ in range(repeat))
        return [seconds.pop(0) for _ in range(number * repeat)]

    monkeypatch.setattr(cost, "repeat", measured)
    return sizes, seconds


def test_a_step_is_one_of_sgd_on_the_defences_loss():
    torch.manual_seed(0)
    step = TrainingStep(STANDARD, iter([BATCH]))
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    step()
    for name, parameter in step.model.named_parameters():
        expected = before[name] - 0.5 * (parameter.grad + 0.1 * before[name])
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_a_step_attacks_as_the_recipe_says(monkeypatch):
    from freqrob.defenses import pgd_at

    seen, attack = [], pgd_at.pgd
    monkeypatch.setattr(pgd_at, "pgd", lambda *a, **k: seen.append((len(a[1]), k["steps"])) or attack(*a, **k))
    TrainingStep(Recipe("pgd_at_rn20", defense={"steps": 2}), iter([BATCH]))()
    assert seen == [(4, 2)]


def test_batches_grow_until_they_are_large_enough(timed):
    sizes, seconds = timed
    seconds += [5, 0.01, 0.05, 0.04, 2.7, 2.6, 2.65, 9]  # the first step of a process loads code
    assert step_cost(STANDARD) == StepCost(2.6 * 64 / 32, None)
    assert sizes == [2, 2, 8, 8, 32, 32]


def test_batches_grow_to_the_size_asked_for(timed):
    sizes, seconds = timed
    seconds += [0.01, 0.01, 0.01, 0.3, 0.2, 0.4]
    assert step_cost(STANDARD, batch_size=5, steps=3) == StepCost(0.2 * 64 / 5, None)
    assert sizes == [2, 2, 2, 5, 5, 5]


def test_slow_networks_are_measured_on_two_images(timed):
    sizes, seconds = timed
    seconds += [9, 2.5]
    assert step_cost(STANDARD) == StepCost(2.5 * 64 / 2, None) and sizes == [2, 2]


def test_flops_are_those_of_all_passes():
    """A forward pass of ResNet-20 has 40.55 million multiply-adds; a backward pass twice as many, half for the weights.

    The backward pass needs no gradient of the images (0.44 million), but that of each PGD step does, and not the
    weights'.
    """
    forward, first = 2 * 40_551_040, 2 * 442_368
    assert step_flops(STANDARD) == pytest.approx(64 * (3 * forward - first), rel=1e-3)
    attacked = step_flops(Recipe("pgd_at_rn20", batch_size=64, defense={"steps": 3}))
    assert attacked == pytest.approx(64 * ((3 + 3 * 2) * forward - first), rel=1e-3)


def test_images_have_the_data_sets_shape_and_the_recipes_augmentation():
    for recipe, size in ((STANDARD, 32), (replace(STANDARD, dataset="restricted_imagenet"), 128)):
        images, labels = next(cost._step(recipe, 3, "cpu").batches)
        assert images.shape == (3, 3, size, size) and labels.shape == (3,)
    plain, balanced = (
        next(cost._step(Recipe(name, gamma=1.0, crop=None, flip=False), 3, "cpu").batches)[0]
        for name in ("standard_rn20", "bassmix_standard_rn20")
    )
    assert not torch.equal(plain, balanced)


def test_principal_components_are_finite():
    step = cost._step(Recipe("pca_standard_rn20", components=7), 2, "cpu")
    (pca,) = (front_end for front_end in step.model.front_ends if isinstance(front_end, PCA))
    assert pca.components.isfinite().all()
    step()
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())


def test_the_callers_random_numbers_stay():
    before = torch.get_rng_state()
    found = step_cost(STANDARD, batch_size=2)
    assert found.seconds > 0 and found.peak_bytes is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"steps": 1}])
def test_wrong_counts(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        step_cost(STANDARD, **wrong)


@pytest.mark.parametrize("defense", sorted({found.recipe.name_parts.defense for found in list_presets("*_rn20")}))
def test_every_defence_has_a_cost(defense):
    assert step_cost(Recipe(f"{defense}_rn20"), batch_size=2).seconds > 0
