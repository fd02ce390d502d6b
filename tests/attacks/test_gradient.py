"""FGSM and PGD: inside the ball, uphill, and as strong as the exact maximum where that is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.attacks import FGSM, PGD, Clean, fgsm, input_gradient, pgd
from freqrob.attacks.balls import L2Ball, LinfBall
from freqrob.attacks.band import band_pgd
from freqrob.attacks.gradient import classified
from freqrob.models.state import device_of, evaluating

EPS = 8 / 255


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)).eval()


def batch(count=16, classes=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 8, 8, generator=generator), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("start", [False, True])
def test_stays_in_the_ball_and_in_range(network, start):
    x, y = batch(classes=10)
    x[0], x[1] = 0, 1
    attacked = pgd(network, x, y, steps=5, random_start=start)
    assert (attacked - x).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert not attacked.requires_grad


def test_reaches_the_exact_maximum_of_a_linear_model(linear):
    """For two classes the worst point of the box is its corner against the weights' difference."""
    x, y = batch()
    weight = linear[1].weight
    towards = torch.where(y[:, None] == 0, weight[1] - weight[0], weight[0] - weight[1]).reshape(x.shape)
    worst = (x + EPS * towards.sign()).clamp(0, 1)
    assert torch.allclose(pgd(linear, x, y, steps=20), worst, atol=1e-6)
    assert torch.allclose(fgsm(linear, x, y), worst, atol=1e-6)


def test_more_steps_raise_the_loss(network):
    x, y = batch(64, 10)
    losses = [F.cross_entropy(network(pgd(network, x, y, steps=s, random_start=False)), y).item() for s in (0, 1, 10)]
    assert losses[0] < losses[1] < losses[2]


def test_stopping_when_fooled_fools_no_fewer(network):
    x, y = batch(200, 10)
    y[:100] = network(x[:100]).argmax(1)

    def robust(stop):
        attacked = pgd(network, x, y, eps=1 / 255, step_size=1 / 255, steps=8, stop_when_fooled=stop,
                       generator=torch.Generator().manual_seed(0))  # fmt: skip
        return network(attacked).argmax(1) == y

    stopped, full = robust(True), robust(False)
    assert (stopped <= full).all()
    assert 0 < stopped.sum() < 200


def test_gradient_is_each_images_own(network):
    x, y = batch(4, 10)
    whole = input_gradient(network, x, y)
    alone = torch.cat([input_gradient(network, x[i : i + 1], y[i : i + 1]) for i in range(4)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert all(p.grad is None for p in network.parameters())


def test_works_in_inference_mode(network):
    x, y = batch(4, 10)
    with torch.inference_mode():
        inside = pgd(network, x, y, steps=2, random_start=False)
    assert torch.equal(inside.clone(), pgd(network, x, y, steps=2, random_start=False))


def test_result_carries_no_graph(network):
    x, y = batch(4, 10)
    assert not pgd(network, x.requires_grad_(), y, steps=2).requires_grad


def test_a_model_without_tensors_is_where_the_images_are():
    elsewhere = torch.empty(1, device="meta")
    assert device_of(nn.ReLU(), elsewhere) == torch.device("meta") and device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta"), torch.empty(1)) == device_of(nn.BatchNorm1d(1, device="meta"))


def test_a_submodule_called_module_is_no_wrapper():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Identity()

    model = Doubled()
    with evaluating(model) as bare:
        assert bare is model


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_classify_nothing(bad):
    logits = torch.tensor([[1.0, 0.0], [bad, 0.0]])
    assert classified(logits, torch.tensor([0, 0])).tolist() == [True, False]


def test_works_under_no_grad(network):
    x, y = batch(4, 10)
    with torch.no_grad():
        assert not torch.equal(pgd(network, x, y, steps=1), x)


def test_input_is_left_alone(network):
    x, y = batch(4, 10)
    before = x.clone()
    pgd(network, x, y, steps=2, random_start=False)
    assert torch.equal(x, before)


def test_random_start_is_seeded(network):
    x, y = batch(4, 10)
    starts = [pgd(network, x, y, steps=0, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("name", ["eps", "step_size", "steps"])
def test_negative_is_refused(network, name):
    with pytest.raises(ValueError, match=name):
        pgd(network, *batch(4, 10), **{name: -1})


def test_evaluating_restores_the_mode_and_keeps_the_statistics(network):
    network.train()
    mean = network[1].running_mean.clone()
    with pytest.raises(RuntimeError), evaluating(network) as bare:  # noqa: PT012
        bare(torch.rand(4, 3, 8, 8))
        assert not network.training
        raise RuntimeError
    assert network.training and torch.equal(network[1].running_mean, mean)


class TestL2:
    """The Euclidean ball."""

    @pytest.mark.parametrize("start", [False, True])
    def test_stays_in_the_ball_and_in_range(self, network, start):
        x, y = batch(classes=10)
        x[0], x[1] = 0, 1
        attacked = pgd(network, x, y, eps=0.5, step_size=0.2, steps=6, norm="L2", random_start=start)
        lengths = (attacked - x).flatten(1).norm(dim=1)
        assert lengths.max() <= 0.5 + 1e-6 and lengths[2:].min() > 0.3
        assert attacked.min() >= 0 and attacked.max() <= 1

    def test_reaches_the_exact_maximum_of_a_linear_model(self, linear):
        """The worst point is ε along the weights' difference, far from the edges of [0, 1]."""
        x, y = batch()
        x = 0.4 + 0.2 * x
        weight = linear[1].weight.detach()
        towards = torch.where(y[:, None] == 0, weight[1] - weight[0], weight[0] - weight[1])
        worst = x + 0.3 * (towards / towards.norm(dim=1, keepdim=True)).reshape(x.shape)
        assert torch.allclose(pgd(linear, x, y, eps=0.3, step_size=0.1, steps=40, norm="L2"), worst, atol=1e-4)

    def test_random_starts_are_uniform(self):
        """A share q of the points lies within q^(1/d) ε, and no direction is special."""
        centre = torch.full((4000, 1, 1, 3), 0.5)
        offsets = (L2Ball(centre, 0.4).random(torch.Generator().manual_seed(0)) - centre).flatten(1)
        shares = (offsets.norm(dim=1) / 0.4) ** 3
        assert (shares.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 1.63 / 4000**0.5, "KS at 1 %"
        assert offsets.mean(0).abs().max() < 4 * 0.4 / (5 * 4000) ** 0.5

    def test_tiny_gradients_make_whole_steps_and_none_makes_none(self):
        gradient = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        for scale in (1, 1e-20, 1e-36):
            assert torch.allclose(L2Ball.direction(gradient * scale).flatten(1).norm(dim=1), torch.ones(2))
        assert not L2Ball.direction(torch.zeros(2, 3, 4, 4)).any()

    def test_an_empty_ball_is_its_centre(self):
        x, _ = batch(4)
        for ball in (L2Ball(x, 0.0), LinfBall(x, 0.0)):
            assert torch.equal(ball.project(x + 0.1), x) and torch.equal(ball.project(x), x)

    def test_projection_keeps_what_is_inside(self):
        x, _ = batch(4)
        inside = (x + 0.2 * L2Ball.direction(torch.randn(x.shape))).clamp(0, 1)
        assert torch.allclose(L2Ball(x, 0.5).project(inside), inside, atol=1e-6)
        assert torch.equal(L2Ball(x, 0.5).project(inside[1:2], torch.tensor([1])), L2Ball(x, 0.5).project(inside)[1:2])


def test_evaluating_undoes_what_a_module_does_of_its_own():
    class Merging(nn.Linear):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(2, 2), nn.BatchNorm1d(2), nn.ReLU())
    model[1].eval()
    with evaluating(model):
        assert model[0].merged
    assert not model[0].merged and [module.training for module in model] == [True, False, True]


def test_an_unknown_norm_is_refused(network):
    with pytest.raises(ValueError, match="norm: expected one of Linf, L2, got 'L1'"):
        pgd(network, *batch(4, 10), norm="L1")


def test_training_draws_what_it_always_drew(network):
    x, y = batch(4, 10)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5))
    start = pgd(network, x, y, steps=0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(start, (x + EPS * (2 * noise - 1)).clamp(0, 1))


def convolution():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


ATTACKS = {
    "pgd": pgd,
    "fgsm": fgsm,
    "input_gradient": input_gradient,
    "band_pgd": lambda *given: band_pgd(*given, [1], steps=1),
    "FGSM": lambda *given: FGSM()(*given),
    "targeted PGD": lambda *given: PGD(1, targeted=True)(*given),
    "Clean": lambda *given: Clean().robust_mask(*given),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
class TestAModelThatFails:
    """The error says on which images, as that of evaluate, and keeps PyTorch's as its cause."""

    @pytest.mark.parametrize(
        "of_model, of_images, use",
        [
            (torch.float32, torch.float64, r"torch.float32: use images.to\(torch.float32\)"),
            (torch.float64, torch.float32, r"torch.float64: use model.float\(\)"),
            (torch.bfloat16, torch.float32, r"torch.bfloat16: use model.float\(\)"),
        ],
    )
    def test_for_the_dtype(self, attack, of_model, of_images, use):
        images, labels = batch(4)
        failure = rf"^model: it fails on images \(4, 3, 8, 8\) {of_images}: RuntimeError: .*\(its parameters are {use}"
        with pytest.raises(ValueError, match=failure) as raised:
            attack(convolution().to(of_model), images.to(of_images), labels)
        assert isinstance(raised.value.__cause__, RuntimeError)

    def test_for_the_channels(self, attack):
        images, labels = batch(4)
        with pytest.raises(ValueError, match=r"^model: .* \(4, 1, 8, 8\) .*RuntimeError: .*channels") as raised:
            attack(convolution(), images[:, :1], labels)
        assert isinstance(raised.value.__cause__, RuntimeError)

    def test_but_not_for_too_little_memory(self, attack):
        def model(images):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        with pytest.raises(torch.OutOfMemoryError, match="^CUDA out of memory"):
            attack(model, *batch(4))
