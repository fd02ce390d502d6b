"""MinimalPerturbationSearch: targets, starts, failures of single images, repeats, and runs that resume."""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

fb = pytest.importorskip("foolbox")
ep = pytest.importorskip("eagerpy")

from foolbox.attacks.base import MinimizationAttack, get_criterion  # noqa: E402
from foolbox.distances import linf  # noqa: E402
from freqrob_foolbox import LinfBandMinimization, MinimalPerturbationSearch, Start  # noqa: E402

import freqrob.attacks  # noqa: E402
from freqrob.attacks import MinimalAttack  # noqa: E402
from freqrob.data.hybrid import derange  # noqa: E402

COUNT, SIZE, CLASSES = 12, 8, 4
KEY = "these tests"  # in caches, for attacks of their own


class Walk(MinimizationAttack):
    """From the start towards the image, as far as a random draw goes; fails on the whole batch as Brendel-Bethge does.

    ``fragile`` are grey levels of a first pixel that it cannot stand. ``batches`` holds the images of each call.
    """

    distance = linf

    def __init__(self, fragile=(), steps=40):
        self.fragile, self.steps = fragile, steps

    batches: list = []

    def run(self, model, inputs, criterion, *, starting_points=None, early_stop=None, **kwargs):
        x, restore = ep.astensor_(inputs)
        images, starts = x.raw, ep.astensor(starting_points).raw
        self.batches.append(images)
        if any(grey in images[:, 0, 0, 0].tolist() for grey in self.fragile):
            raise AssertionError
        meets = get_criterion(criterion)
        assert meets(starts, model(starts)).all()
        best, reach = starts, torch.rand(len(images), 1, 1, 1)
        for share in torch.linspace(0, 1, self.steps):
            points = torch.lerp(starts, images, share * reach)
            best = torch.where(meets(points, model(points))[:, None, None, None], points, best)
        return restore(ep.astensor(best))


@pytest.fixture(autouse=True)
def _forget():
    Walk.batches.clear()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    linear = nn.Linear(3 * SIZE * SIZE, CLASSES)
    with torch.no_grad():
        linear.weight.mul_(5)
        linear.bias.copy_(-linear.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear).eval()


@pytest.fixture
def images():
    return torch.rand(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels(network, images):
    labels = network(images).argmax(1)
    assert labels.bincount().max() <= COUNT / 2
    return labels


def search(*fragile, **options):
    return MinimalPerturbationSearch(Walk(fragile), **{"batch_size": 4, **options})


def test_every_image_reaches_the_label_of_another_one(network, images, labels):
    found = search()(network, images, labels)
    assert found.success.all()
    assert torch.equal(found.classes.sort().values, labels.sort().values)
    assert (found.classes != labels).all()
    assert torch.equal(network(found.perturbed).argmax(1), found.classes)
    assert torch.equal(found.distances, (found.perturbed - images).abs().amax((1, 2, 3)))
    assert found.perturbed.min() >= 0 and found.perturbed.max() <= 1
    assert (found.starts == Start.PGD).all()


def test_untargeted_runs_leave_the_label(network, images, labels):
    found = search(targeted=False)(network, images, labels)
    assert found.success.all() and (network(found.perturbed).argmax(1) != labels).all()
    assert torch.equal(found.classes, labels)


def test_the_seed_gives_the_targets(network, images, labels):
    one, same, other = (search(seed=seed)(network, images, labels) for seed in (0, 0, 1))
    assert torch.equal(one.perturbed, same.perturbed)
    assert not torch.equal(one.classes, other.classes)


def test_targets_may_be_given(network, images, labels):
    targets = (labels + 1) % CLASSES
    found = search()(network, images, labels, targets=targets)
    assert torch.equal(found.classes, targets) and found.success.all()


def test_without_pgd_starts_are_other_images(network, images, labels):
    found = search(start_eps=None)(network, images, labels)
    assert found.success.all() and (found.starts == Start.OTHER).all()


def test_where_pgd_fails_the_start_is_another_image(network, images, labels):
    found = search(start_eps=1e-4)(network, images, labels)
    assert found.success.all() and (found.starts == Start.OTHER).all()


def test_an_image_without_a_start_is_reported_and_the_others_go_on(network, images, labels):
    """No image is of class 4, and nothing leads there."""
    linear = nn.Linear(3 * SIZE * SIZE, CLASSES + 1)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([network[1].weight, torch.zeros(1, 3 * SIZE * SIZE)]))
        linear.bias.copy_(torch.cat([network[1].bias, torch.tensor([-100.0])]))
    network = nn.Sequential(nn.Flatten(), linear).eval()
    targets = derange(labels)
    targets[2] = CLASSES
    reachable = targets != CLASSES
    for start_eps in (None, 0.5):
        with pytest.warns(UserWarning, match="image 2: no starting point was found"):
            found = search(start_eps=start_eps)(network, images, labels, targets=targets)
        assert found.starts[2] == Start.NONE and not found.success[2] and found.distances[2] == torch.inf
        assert torch.equal(found.perturbed[2], images[2])
        assert (found.starts[reachable] != Start.NONE).all()
        assert found.success[reachable].all()


def test_an_attack_that_fails_on_one_image_goes_on_with_the_others(network, images, labels, tmp_path):
    fragile = images[5, 0, 0, 0].item()
    with pytest.warns(UserWarning, match="image 5: AssertionError; the others are attacked"):
        found = search(fragile)(network, images, labels, cache=tmp_path, cache_key=KEY)
    assert found.success.tolist() == [number != 5 for number in range(COUNT)]
    Walk.batches.clear()
    with pytest.warns(UserWarning, match="image 5"):
        search(fragile)(network, images, labels, cache=tmp_path, cache_key=KEY)
    assert [len(batch) for batch in Walk.batches] == [1], "only what failed is tried again"


def test_an_attack_that_fails_on_every_image_says_why(network, images, labels):
    with pytest.warns(UserWarning, match="image"), pytest.raises(AssertionError):
        search(*images[:, 0, 0, 0].tolist())(network, images, labels)


def test_what_meets_the_criterion_already_has_the_distance_zero(network, images, labels):
    wrong = labels.clone()
    wrong[3] = (labels[3] + 1) % CLASSES
    found = search(targeted=False)(network, images, wrong)
    assert found.distances[3] == 0 and found.success[3] and found.starts[3] == Start.IMAGE
    assert torch.equal(found.perturbed[3], images[3])
    assert sum(len(batch) for batch in Walk.batches) == COUNT - 1
    assert (found.distances[labels == wrong] > 0).all()


def test_the_smallest_of_the_repeats_is_kept(network, images, labels):
    once, thrice = (search(repeats=repeats)(network, images, labels) for repeats in (1, 3))
    assert (thrice.distances <= once.distances).all() and (thrice.distances < once.distances).any()
    assert torch.equal(thrice.distances, (thrice.perturbed - images).abs().amax((1, 2, 3)))
    assert torch.equal(network(thrice.perturbed).argmax(1), thrice.classes)


def test_more_repeats_reuse_those_that_are_there(network, images, labels, tmp_path):
    search(repeats=2)(network, images, labels, cache=tmp_path, cache_key=KEY)
    Walk.batches.clear()
    more = search(repeats=3)(network, images, labels, cache=tmp_path, cache_key=KEY)
    assert len(Walk.batches) == 3
    assert torch.equal(more.perturbed, search(repeats=3)(network, images, labels).perturbed)


def test_a_run_that_was_stopped_goes_on_to_the_same_result(network, images, labels, tmp_path):
    def stopping(items, _what, count, _images):
        assert count == 3
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    whole = search()(network, images, labels)
    with pytest.raises(KeyboardInterrupt):
        search()(network, images, labels, cache=tmp_path, cache_key=KEY, progress=stopping)
    Walk.batches.clear()
    resumed = search()(network, images, labels, cache=tmp_path, cache_key=KEY)
    assert len(Walk.batches) == 1
    for name in ("perturbed", "distances", "success", "classes", "starts"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name)), name


def test_a_second_call_attacks_nothing(network, images, labels, tmp_path):
    first = search()(network, images, labels, cache=tmp_path, cache_key=KEY)
    Walk.batches.clear()
    wrapped = fb.PyTorchModel(network, bounds=(0, 1), device="cpu")
    second = search()(network, images, labels, cache=tmp_path, cache_key=KEY)
    assert not Walk.batches and torch.equal(first.perturbed, second.perturbed)
    search()(wrapped, images, labels, cache=tmp_path, cache_key=KEY)
    count = len(Walk.batches)
    search()(wrapped, images, labels, cache=tmp_path, cache_key=KEY)
    assert len(Walk.batches) == count


@pytest.mark.parametrize("change", ["network", "images", "targets", "steps", "seed", "start_eps", "batch_size"])
def test_what_was_found_under_other_conditions_is_not_reused(network, images, labels, tmp_path, change):
    targets, options = derange(labels), {}  # targets that do not depend on the seed
    search()(network, images, labels, targets=targets, cache=tmp_path, cache_key=KEY)
    Walk.batches.clear()
    if change == "network":
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES)).eval()
    elif change == "images":
        images = images * 0.99
    elif change == "targets":
        targets = (labels + 1) % CLASSES
    elif change == "steps":
        options["attack"] = Walk(steps=20)
    else:
        options[change] = {"seed": 1, "start_eps": 0.4, "batch_size": 3}[change]
    MinimalPerturbationSearch(**{"attack": Walk(), "batch_size": 4, **options})(
        network, images, labels, targets=targets, cache=tmp_path, cache_key=KEY
    )
    assert Walk.batches


def test_global_random_numbers_are_left_as_they_were(network, images, labels):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    search()(network, images, labels)
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()


def test_a_network_in_training_mode_is_attacked_in_eval_mode(images, labels, network):
    modes = []
    network = nn.Sequential(deepcopy(network), nn.Dropout(0.0))
    network[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    search()(network.train(), images, labels)
    assert modes and not any(modes) and network.training


def test_a_foolbox_model_of_other_bounds_is_the_same_model(network, images, labels):
    grey = fb.PyTorchModel(network, bounds=(0, 255), device="cpu", preprocessing={"mean": 0, "std": 255})
    expected, found = (search()(model, images, labels) for model in (network, grey))
    assert torch.allclose(found.distances, expected.distances, atol=1e-3)


def test_bytes_are_images_too(network, images, labels):
    grey = (255 * images).round().byte()
    expected = search(targeted=False)(network, grey.float() / 255, labels)
    assert torch.equal(search(targeted=False)(network, grey, labels).perturbed, expected.perturbed)


def test_what_is_not_finite_is_no_success(network, images, labels):
    class Nan(Walk):
        def run(self, model, inputs, criterion, **options):
            return inputs * float("nan")

    always = nn.Sequential(network, nn.Hardtanh())  # argmax of a NaN is some class
    found = MinimalPerturbationSearch(Nan(), targeted=False)(always.eval(), images, labels)
    assert not found.success.any() and torch.equal(found.perturbed, images)
    assert found.distances.isinf().all()


@pytest.mark.parametrize(
    "attack",
    [
        fb.attacks.LInfFMNAttack(steps=30),
        fb.attacks.L2FMNAttack(steps=30),
        fb.attacks.DDNAttack(steps=30),
        fb.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=40, stepsize=0.05),
        fb.attacks.HopSkipJumpAttack(steps=2, initial_gradient_eval_steps=10, max_gradient_eval_steps=20),
        fb.attacks.BoundaryAttack(steps=30),
        LinfBandMinimization(range(6), binary_search_steps=4, steps=5),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_of_every_kind_run(attack, network, images, labels):
    found = MinimalPerturbationSearch(attack)(network, images, labels)
    assert found.success.all()
    assert torch.equal(network(found.perturbed).argmax(1), found.classes)
    starts = Start.PGD if type(attack).__name__ in ("HopSkipJumpAttack", "BoundaryAttack") else Start.IMAGE
    assert (found.starts == starts).all()


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"attack": fb.attacks.LinfPGD()},
            TypeError,
            "attack: expected MinimizationAttack, got LinfProj",
        ),
        ({"attack": Walk(), "repeats": 0}, ValueError, "repeats: expected an integer ≥ 1"),
        ({"attack": Walk(), "batch_size": 0}, ValueError, "batch_size"),
        ({"attack": Walk(), "start_eps": 8}, ValueError, "start_eps: expected pixels"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        MinimalPerturbationSearch(**options)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: {"images": x * 255}, r"images: expected floats in \[0, 1\]"),
        (lambda x, y: {"labels": y[:3]}, "labels: expected"),
        (lambda x, y: {"labels": 0 * y}, "labels: more than half of them are 0"),
        (lambda x, y: {"targets": y[:3]}, r"targets: expected \(12,\) int64"),
        (lambda x, y: {"targets": y.int()}, r"targets: expected \(12,\) int64, got \(12,\) torch.int32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(network, images, labels, change, message):
    with pytest.raises(ValueError, match=message):
        search()(**{"model": network, "images": images, "labels": labels, **change(images, labels)})


def test_targets_make_no_sense_untargeted(network, images, labels):
    with pytest.raises(ValueError, match="for an untargeted run"):
        search(targeted=False)(network, images, labels, targets=labels)


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda logits: (logits,), "expected logits .* got a tuple"),
        (lambda logits: logits[:, :0], "expected at least 10 classes"),
        (lambda logits: logits[:, :2], "expected at least 10 classes"),
        (lambda logits: logits.double() @ logits.T, "it fails on images .*: RuntimeError"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(images, labels, answer, message):
    class Network(nn.Module):
        def forward(self, images):
            return answer(images.flatten(1)[:, :10])

    with pytest.raises(ValueError, match=f"model: {message}"):
        MinimalPerturbationSearch(targeted=False)(Network(), images, torch.full_like(labels, 9))


@dataclass(frozen=True)
class Gives(MinimalAttack):
    """What ``give`` makes of the images."""

    give: object
    norm = "Linf"

    def run(self, problem, starts=None, *, early_stop=0.0):
        return self.give(problem.images)


def test_what_an_attack_gives_is_checked(network, images, labels):
    for give, got in (
        (lambda images: None, "NoneType"),
        (lambda images: images[:1], r"\(1, "),
        (lambda images: images.double(), "torch.float64"),
    ):
        with pytest.raises(TypeError, match=f"attack: expected Gives to give a tensor .* got .*{got}"):
            freqrob.attacks.MinimalPerturbationSearch(Gives(give), targeted=False)(network, images, labels)


def test_images_beyond_pixels_are_no_success(network, images, labels):
    predicted = network.eval()(images).argmax(1)
    search = freqrob.attacks.MinimalPerturbationSearch(Gives(lambda images: 50 - 100 * images), targeted=False)
    with pytest.warns(UserWarning, match=r"Gives: \d+ of its images left \[0, 1\]; they count as failed"):
        found = search(network, images, predicted)
    assert not found.success.any() and torch.equal(found.perturbed, images)
