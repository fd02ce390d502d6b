"""The Brendel–Bethge attack: its steps are optimal, its results as good as Foolbox's, its failures soft."""

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.data.samples import sample_images
from freqrob.models import load_model

foolbox = pytest.importorskip("foolbox")
optimize = pytest.importorskip("scipy.optimize")

from freqrob_foolbox.brendel_bethge import L2BrendelBethgeAttack, LinfinityBrendelBethgeAttack  # noqa: E402

from freqrob.attacks.boundary_step import L2Step, LinfStep  # noqa: E402
from freqrob.attacks.brendel_bethge import BrendelBethge  # noqa: E402

STEPS = {"Linf": LinfStep, "L2": L2Step}
ATTACKS = {"Linf": LinfinityBrendelBethgeAttack, "L2": L2BrendelBethgeAttack}
both = pytest.mark.parametrize("norm", ["Linf", "L2"])


# The sub-problem


def subproblems(norm, count=24, dimensions=8, radius=None, target=None, dtype=torch.float64, seed=0):
    """Points in the unit box with some pixels at its faces, as in real images."""
    draw = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    original, point = ((1.4 * random(count, dimensions) - 0.2).clamp(0, 1) for _ in range(2))
    normal = 2 * random(count, dimensions) - 1
    normal /= normal.norm(dim=1, keepdim=True)
    target = 0.4 * random(count, 1) - 0.2 if target is None else torch.full((count, 1), target)
    radius = 0.02 + random(count, 1) if radius is None else torch.full((count, 1), radius)
    parts = (original - point, -point, 1 - point, normal, target, radius)
    return STEPS[norm](*(part.to(dtype) for part in parts))


def distance(norm, problem, step):
    return torch.linalg.vector_norm(problem.offset - step, ord=2 if norm == "L2" else torch.inf, dim=1)


def reach(problem, step):
    return (problem.normal * step).sum(1)


def best_by_scipy(norm, problem, i):
    """The optimum of one sample by SLSQP, and whether it is on the boundary or only as near to it as can be."""
    d, low, high, b, c, r = (getattr(problem, name)[i].double().numpy() for name in problem.__dataclass_fields__)
    size, box = len(d), list(zip(low, high, strict=True))

    def minimum(objective, constraints, bounds, start):
        options = {"maxiter": 500, "ftol": 1e-14}
        return optimize.minimize(objective, start, bounds=bounds, constraints=constraints, options=options).x

    ball = {"type": "ineq", "fun": lambda v: r[0] ** 2 - v[:size] @ v[:size]}
    plane = {"type": "eq", "fun": lambda v: b @ v[:size] - c[0]}
    farthest = minimum(lambda v: -np.sign(c[0]) * (b @ v), [ball], box, np.zeros(size))
    share = abs(c[0]) / max(abs(b @ farthest), 1e-12)
    if share > 1 + 1e-6:
        return torch.from_numpy(farthest), False
    start = share * farthest
    if norm == "L2":
        return torch.from_numpy(minimum(lambda v: (v - d) @ (v - d), [ball, plane], box, start)), True
    sides = {"type": "ineq", "fun": lambda v: np.r_[v[size] - (v[:size] - d), v[size] + (v[:size] - d)]}
    start = np.r_[start, np.abs(start - d).max()]
    return torch.from_numpy(minimum(lambda v: v[size], [ball, plane, sides], [*box, (0, None)], start)[:size]), True


def check_optimal(norm, problem, tolerance=2e-3):
    """Checks each step against SLSQP's; how many of them reach the boundary."""
    ours = problem.solve().double()
    assert (ours >= problem.low - 1e-6).all() and (ours <= problem.high + 1e-6).all()
    assert (ours.norm(dim=1) <= 1.002 * problem.radius[:, 0] + 1e-6).all()
    theirs, reachable = zip(*(best_by_scipy(norm, problem, i) for i in range(len(ours))), strict=True)
    theirs, reachable = torch.stack(theirs), torch.tensor(reachable)
    target = problem.target[:, 0].double()
    torch.testing.assert_close(reach(problem, ours)[reachable], target[reachable], rtol=2e-3, atol=2e-5)
    torch.testing.assert_close(reach(problem, ours)[~reachable], reach(problem, theirs)[~reachable], rtol=0, atol=2e-4)
    excess = distance(norm, problem, ours) - distance(norm, problem, theirs)
    assert (excess[reachable] <= tolerance * (1e-3 + distance(norm, problem, theirs)[reachable])).all()
    return int(reachable.sum())


@both
@pytest.mark.parametrize("radius", [None, 100.0, 0.1, 0.01])
def test_the_step_is_the_optimum(norm, radius):
    target = radius and min(0.1, radius / 3)
    problem = subproblems(norm, radius=radius, target=target, count=16 if radius is None else 6)
    assert check_optimal(norm, problem) >= len(problem.radius) / 2


@both
def test_a_step_in_single_precision_is_the_optimum_too(norm):
    assert check_optimal(norm, subproblems(norm, dtype=torch.float32, count=8, seed=1), tolerance=5e-3) >= 4


@both
def test_pixels_without_a_gradient_stay_where_they_may(norm):
    problem = subproblems(norm, count=8, radius=0.4, target=0.1)
    normal = problem.normal * (torch.arange(8) < 3)
    problem = replace(problem, normal=normal / normal.norm(dim=1, keepdim=True))
    assert check_optimal(norm, problem) >= 4


@both
def test_a_step_goes_as_far_as_it_can_towards_a_boundary_that_is_out_of_reach(norm):
    assert check_optimal(norm, subproblems(norm, target=-50.0, count=4)) == 0
    assert check_optimal(norm, subproblems(norm, target=0.5, radius=0.1, count=4)) == 0


@both
def test_a_step_goes_straight_to_an_original_on_the_boundary(norm):
    problem = subproblems(norm, radius=100.0)
    problem = replace(problem, target=(problem.normal * problem.offset).sum(1, keepdim=True))
    torch.testing.assert_close(problem.solve(), problem.offset)


@both
def test_no_step_is_taken_where_the_boundary_is_unknown_or_the_box_a_point(norm):
    problem = subproblems(norm)
    unknown = replace(problem, normal=torch.zeros_like(problem.normal))
    nothing = torch.zeros_like(problem.low)
    point = replace(problem, low=nothing, high=nothing, offset=nothing)
    assert unknown.solve().abs().max() == 0 and point.solve().abs().max() == 0


@both
@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0, 100.0])
def test_a_step_of_many_dimensions_is_feasible_and_no_worse_than_random_feasible_ones(norm, radius):
    problem = subproblems(norm, count=20, dimensions=3072, radius=radius, target=radius / 10, dtype=torch.float32)
    ours = problem.solve()
    assert (reach(problem, ours) / problem.target[:, 0]).sub(1).abs().max() < 5e-3
    assert (ours.norm(dim=1) <= 1.005 * radius).all()
    other = subproblems(norm, count=20, dimensions=3072, radius=radius, target=radius / 10, dtype=torch.float32, seed=9)
    for towards in (problem.offset, problem.low, problem.high, other.offset):  # feasible ways from ours, if short
        way = towards - ours
        way = way - problem.normal * (way * problem.normal).sum(1, keepdim=True)
        moved = (ours + 1e-3 * way).clamp(problem.low, problem.high)
        moved = moved * (ours.norm(dim=1) / moved.norm(dim=1)).clamp(max=1)[:, None]
        off = (reach(problem, moved) - reach(problem, ours)).abs()
        better = distance(norm, problem, ours) - distance(norm, problem, moved)
        assert (better <= 20 * off + 2e-3 * radius).all()


@both
def test_steps_of_a_batch_are_those_of_its_samples(norm):
    problem = subproblems(norm, count=10, dimensions=200)
    alone = [
        replace(problem, **{f.name: getattr(problem, f.name)[i : i + 1] for f in fields(problem)}) for i in range(10)
    ]
    torch.testing.assert_close(problem.solve(), torch.cat([one.solve() for one in alone]), rtol=1e-6, atol=1e-9)


# The attack


class Linear(nn.Module):
    """Two classes with the margin w·x + bias: every distance to the boundary is known."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x):
        margin = x.flatten(1) @ self.weight + self.bias
        return torch.stack([margin / 2, -margin / 2], 1)


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(6, 3, 8, 8, generator=generator)
    weight = torch.randn(192, generator=generator)
    model = Linear(weight, 1 - (x.flatten(1) @ weight).min())
    starts = torch.where(weight > 0, 0.0, 1.0).reshape(1, 3, 8, 8).expand_as(x).contiguous()
    return model.eval(), x, torch.zeros(6, dtype=torch.int64), starts


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    model = nn.Sequential(*layers).eval()
    x = torch.rand(8, 3, 8, 8)
    return model, x, model(x).argmax(1)


def wrapped(model, bounds=(0, 1), **options):
    return foolbox.PyTorchModel(model, bounds=bounds, device="cpu", **options)


@both
def test_finds_the_nearest_point_of_a_linear_boundary(norm, linear):
    model, x, y, starts = linear
    raw, _, success = ATTACKS[norm](steps=60)(wrapped(model), x, y, epsilons=None, starting_points=starts)
    weight, margin = model.weight.detach(), model(x).detach()[:, 0] * 2
    exact = margin / (weight.norm() if norm == "L2" else weight.abs().sum())
    assert success.all()
    torch.testing.assert_close(ATTACKS[norm].distance(x, raw), exact, rtol=2e-3, atol=0)


@both
def test_images_do_not_depend_on_their_batch(norm, network):
    model, x, y = network
    starts = x.roll(1, 0)
    keep = model(starts).argmax(1) != y
    x, y, starts = x[keep], y[keep], starts[keep]
    attack, model = ATTACKS[norm](steps=15), wrapped(model)
    whole = attack.run(model, x, y, starting_points=starts)
    alone = [
        attack.run(model, *(t[i : i + 1] for t in (x, y)), starting_points=starts[i : i + 1]) for i in range(len(x))
    ]
    ours, theirs = attack.distance(x, whole), attack.distance(x, torch.cat(alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@both
def test_keeps_the_contract_of_foolbox(norm, linear):
    model, x, y, starts = linear
    attack, criterion = ATTACKS[norm](steps=20), foolbox.Misclassification(y)
    raw, clipped, success = attack(wrapped(model), x, criterion, epsilons=[1e-4, None], starting_points=starts)
    assert len(raw) == len(clipped) == 2 and success.shape == (2, 6)
    assert not success[0].any() and success[1].all()
    assert (attack.distance(x, clipped[0]) <= 1.001e-4).all()
    assert not raw[0].requires_grad and raw[0].dtype == x.dtype
    assert model.weight.grad is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'start'"):
        attack(wrapped(model), x, y, epsilons=None, start=starts)
    with pytest.raises(ValueError, match="criterion"):
        attack(wrapped(model), x, criterion & criterion, epsilons=None, starting_points=starts)


@both
def test_reaches_the_target_class(norm, network):
    model, x, y = network
    targets = y.roll(1)
    starts = torch.stack([x[(y == target).nonzero()[0, 0]] for target in targets])
    criterion = foolbox.TargetedMisclassification(targets)
    raw, _, success = ATTACKS[norm](steps=20)(wrapped(model), x, criterion, epsilons=None, starting_points=starts)
    assert success.all() and (model(raw).argmax(1) == targets).all()
    apart = targets != y
    assert (ATTACKS[norm].distance(x, raw) < 0.6 * ATTACKS[norm].distance(x, starts))[apart].all()


@both
def test_an_image_that_is_misclassified_already_comes_back_as_it_is(norm, linear):
    model, x, y, starts = linear
    y[2] = 1
    raw, _, success = ATTACKS[norm](steps=5)(wrapped(model), x, y, epsilons=None, starting_points=starts)
    assert success.all() and torch.equal(raw[2], x[2]) and not torch.equal(raw[1], x[1])


@both
def test_a_start_that_is_not_adversarial_fails_only_its_own_image(norm, linear):
    model, x, y, starts = linear
    starts[1], starts[4] = x[1], torch.nan
    attack = ATTACKS[norm](steps=20)
    with pytest.warns(UserWarning, match="2 of 6 do not meet the criterion; images 1, 4"):
        raw, _, success = attack(wrapped(model), x, y, epsilons=None, starting_points=starts)
    assert success.tolist() == [True, False, True, True, False, True]
    assert torch.equal(raw[[1, 4]], x[[1, 4]])


@both
def test_an_image_whose_logits_become_nan_leaves_the_others_alone(norm, linear):
    model, x, y, starts = linear
    x[3] = 0.9 * x[3]  # its first pixel tells it apart
    x[3, 0, 0, 0], starts[3, 0, 0, 0] = 1, 0.5

    class Broken(nn.Module):
        def forward(self, points):
            return model(points) + torch.where(points[:, :1, 0, 0] > 0.8, torch.nan, 0.0)

    attack = ATTACKS[norm](steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken = attack.run(wrapped(Broken().eval()), x, y, starting_points=starts)
        whole = attack.run(wrapped(model), x, y, starting_points=starts)
    others = [0, 1, 2, 4, 5]
    assert broken.isfinite().all()
    torch.testing.assert_close(broken[others], whole[others], rtol=1e-3, atol=1e-4)


@both
def test_an_image_stops_once_it_is_near_enough(norm, linear):
    model, x, y, starts = linear
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    attack = ATTACKS[norm](steps=40)
    attack(wrapped(model), x, y, epsilons=[1000.0], starting_points=starts)
    few = len(calls)
    attack(wrapped(model), x, y, epsilons=None, starting_points=starts)
    assert few < 20 and len(calls) - few > 40


@both
def test_the_trust_region_follows_the_schedule_of_foolbox_with_patience_for_all_steps(norm, monkeypatch, linear):
    model, x, y, starts = linear
    attack, radii = ATTACKS[norm](steps=43, lr_num_decay=10, patience=43), []
    step = BrendelBethge._moved
    monkeypatch.setattr(BrendelBethge, "_moved", lambda *given: radii.append(given[-1]) or step(*given))
    attack(wrapped(model), x, y, epsilons=None, starting_points=starts)
    schedule = 0.02 * x[0].numel() * 0.5 ** (torch.arange(40) // 4)  # Foolbox's has 3 more of a thousandth of the first
    assert torch.equal(torch.stack(radii), schedule[:, None].expand(-1, len(x)))


@both
def test_an_image_that_comes_no_closer_goes_on_with_a_smaller_trust_region_and_stops(norm, linear):
    model, x, y, starts = linear
    distances, passes = [], []
    model.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    for patience in (200, 3):
        passes.append(0)
        raw, _, _ = ATTACKS[norm](steps=200, patience=patience)(
            wrapped(model), x, y, epsilons=None, starting_points=starts
        )
        distances.append((ATTACKS[norm].distance(x, raw), sum(passes)))
        passes.clear()
    (longer, many), (shorter, few) = distances
    assert few < 0.5 * many
    torch.testing.assert_close(shorter, longer, rtol=1e-3, atol=0)


@both
def test_finds_its_own_start_in_the_bounds_of_the_model(norm, network):
    model, x, y = network
    preprocessing = {"mean": 0, "std": 255.0}
    torch.manual_seed(0)
    at_255 = wrapped(model, (0, 255), preprocessing=preprocessing)
    raw, _, success = ATTACKS[norm](steps=20)(at_255, 255 * x, y, epsilons=None)
    assert success.all() and raw.max() <= 255 and raw.min() >= 0
    assert 0 < (raw - 255 * x).abs().amax() / 255 < 0.5


def test_starts_where_an_attack_that_needs_gradients_ends(network):
    model, x, y = network
    first = foolbox.attacks.DDNAttack(steps=10)
    raw, _, success = first(wrapped(model), x, y, epsilons=None)
    attack = L2BrendelBethgeAttack(first, steps=20)
    ours, _, ours_success = attack(wrapped(model), x, y, epsilons=None)
    assert success.all() and ours_success.all()
    assert (attack.distance(x, ours) <= attack.distance(x, raw)).all()


@both
def test_channels_last_inputs_reach_the_network_as_such(norm, network):
    model, x, y = network
    seen = set()
    model.register_forward_pre_hook(
        lambda _, given: seen.add(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    starts = x.roll(3, 0)
    attack = ATTACKS[norm](steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack.run(wrapped(model), x, y, starting_points=starts)
        assert seen == {False}
        seen.clear()
        last = x.contiguous(memory_format=torch.channels_last)
        attack.run(wrapped(model), last, y, starting_points=starts.contiguous(memory_format=torch.channels_last))
        assert seen == {True}


def test_bad_starts_and_parameters_are_named(linear):
    model, x, y, starts = linear
    attack = L2BrendelBethgeAttack(steps=1)
    with pytest.raises(ValueError, match="starting_points: expected the inputs' shape"):
        attack.run(wrapped(model), x, y, starting_points=starts[:3])
    with pytest.raises(TypeError, match="starting_points: expected a PyTorch tensor of torch.float32"):
        attack.run(wrapped(model), x, y, starting_points=starts.double())
    with pytest.raises(TypeError, match="inputs: expected a PyTorch tensor .*ndarray"):
        attack.run(wrapped(model), x.numpy(), y.numpy())
    with pytest.raises(ValueError, match="steps"):
        L2BrendelBethgeAttack(steps=0)
    with pytest.raises(ValueError, match="patience"):
        L2BrendelBethgeAttack(patience=0)


@pytest.mark.slow
@both
@pytest.mark.filterwarnings("ignore:At the first initialisation")
def test_is_at_least_as_near_as_foolbox_on_real_images(norm):
    pytest.importorskip("numba")
    model, samples = load_model("pgd_at_rn20"), sample_images()
    x, y = samples.images.float() / 255, samples.labels
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    torch.manual_seed(0)
    starts = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50).run(wrapped(model), x, y)
    theirs = {"L2": foolbox.attacks.L2BrendelBethgeAttack, "Linf": foolbox.attacks.LinfinityBrendelBethgeAttack}[norm]
    medians = []
    for attack in (ATTACKS[norm](steps=50), theirs(steps=50)):
        raw, _, success = attack(wrapped(model), x, y, epsilons=None, starting_points=starts)
        assert success.all()
        medians.append(attack.distance(x, raw).median())
    assert medians[0] <= medians[1] * 1.001
