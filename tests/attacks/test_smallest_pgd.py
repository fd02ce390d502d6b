"""SmallestPGD on models with known smallest perturbations, and candidates of several attacks."""

from dataclasses import replace

import pytest
import torch

from freqrob.attacks import BrendelBethge, MinimalPerturbationSearch, SmallestPGD, closest
from freqrob.attacks.minimal import Problem
from tests.support.waves import Linear, of_waves, wave


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_smallest_perturbation_of_a_linear_model_is_found(norm):
    weight = 0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(4))
    images = 0.5 + 0.02 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    scores = (images * weight).flatten(1).sum(1)
    model = Linear(weight, threshold=scores.median().item() + 0.01)
    labels = model(images).argmax(1)
    torch.manual_seed(0)
    attack = SmallestPGD(norm)
    found = attack.run(Problem(model, images, 1 - labels, targeted=True))
    assert torch.equal(model(found).argmax(1), 1 - labels)
    exact = (scores - model.threshold).abs() / (weight.abs().sum() if norm == "Linf" else weight.norm())
    assert (attack.distance(images, found) / exact).tolist() == pytest.approx([1] * 6, abs=0.06)
    assert (attack.distance(images, found) >= 0.999 * exact).all()


def test_more_searches_come_closer_and_an_unreachable_goal_leaves_the_image():
    images, labels = of_waves(3)
    images, labels = images[:4].float(), labels[:4]
    model = Linear(wave(3))
    problem = Problem(model, images, 1 - labels, targeted=True)
    torch.manual_seed(0)
    few, many = (SmallestPGD(searches=n).run(problem) for n in (1, 9))
    assert (SmallestPGD().distance(images, many) < 0.7 * SmallestPGD().distance(images, few)).all()
    small = SmallestPGD(largest=1e-4, searches=2).run(problem)
    assert torch.equal(small, images)


def test_the_closest_of_all_candidates_is_kept():
    images, labels = of_waves(3)
    boundary = MinimalPerturbationSearch(BrendelBethge(steps=2), batch_size=4)
    searches = boundary, replace(boundary, attack=SmallestPGD())
    results = [search(Linear(wave(3)), images, labels) for search in searches]
    kept = closest(results)
    assert torch.equal(kept.distances, torch.minimum(*(one.distances for one in results)))
    assert torch.equal(kept.distances, (kept.perturbed - images.float()).abs().amax((1, 2, 3)))
    assert (results[0].distances != results[1].distances).any() and torch.equal(kept.classes, results[0].classes)
    with pytest.raises(ValueError, match="results: expected at least one, all of the same images and classes"):
        closest([results[0], replace(results[1], classes=1 - results[1].classes)])


@pytest.mark.parametrize("options", [{"norm": "L1"}, {"steps": 0}, {"searches": 0}, {"largest": 0.0}])
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SmallestPGD(**options)
