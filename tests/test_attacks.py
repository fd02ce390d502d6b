"""FGSM and PGD: inside the ball, uphill, and as strong as the exact maximum where that is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.attacks import classified, evaluating, fgsm, input_gradient, pgd

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


def test_works_under_no_grad_and_on_an_empty_batch(network):
    x, y = batch(4, 10)
    with torch.no_grad():
        assert not torch.equal(pgd(network, x, y, steps=1), x)
    assert pgd(network, x[:0], y[:0], steps=2).shape == (0, 3, 8, 8)


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
    with pytest.raises(RuntimeError), evaluating(network) as bare:
        bare(torch.rand(4, 3, 8, 8))
        assert not network.training
        raise RuntimeError
    assert network.training and torch.equal(network[1].running_mean, mean)
