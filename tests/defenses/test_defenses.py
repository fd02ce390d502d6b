"""Each defence against its paper's equation written out again, its gradients against finite differences, and what it
asks of a model. AugMix and neural similarity have files of their own."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.data.samples import sample_images
from freqrob.defenses import DEFENSES, FGSM, fgsm, grad_align, pgd_at
from freqrob.models import create_network

ELSEWHERE = {"augmix", "neural_similarity", "neural_response"}
STEPS = 3
ITERATED = ("pgd_at", "trades", "mart")
ATTACK = {"eps": 0.1, "step_size": 0.04, "steps": STEPS}


def make(name, **changes):
    """The defence, with few steps of attack and weights large enough to show."""
    parameters = {}
    if name in ITERATED:
        parameters = dict(ATTACK)
    if "fgsm" in name or name == "grad_align":
        parameters = {"eps": 0.1}
    if name == "grad_align" or "jafr" in name:
        parameters["weight"] = -0.3 if name.endswith("minus") else 0.3
    return DEFENSES[name](**{**parameters, **changes})


def network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(196, 3)
    return nn.Sequential(*layers).to(dtype)


def batch(dtype=torch.float64, count=6):
    """Images that reach 0 and 1, and labels."""
    generator = torch.Generator().manual_seed(1)
    images = (1.4 * torch.rand(count, 3, 16, 16, generator=generator, dtype=dtype) - 0.2).clamp(0, 1)
    return images, torch.arange(count) % 3


def gradient_of(loss, x):
    return torch.autograd.grad(loss, x, create_graph=True)[0]


def ascend(x, start, eps, step_size, loss):
    """PGD as Madry et al. write it."""
    adversarial = start
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        adversarial = adversarial + step_size * gradient_of(loss(adversarial), adversarial).sign()
        adversarial = torch.min(torch.max(adversarial, x - eps), x + eps).clamp(0, 1)
    return adversarial.detach()


def kl(p, q):
    return (p * (p / q).log()).sum(1)


class Published:
    """The losses as their papers or their authors' code have them, for networks without batch norm."""

    @staticmethod
    def standard(f, x, y):
        return -f(x).log_softmax(1)[range(len(y)), y].mean()

    @staticmethod
    def pgd_at(f, x, y):
        start = (x + 0.1 * (2 * torch.rand(x.shape, dtype=x.dtype) - 1)).clamp(0, 1)
        attacked = ascend(x, start, 0.1, 0.04, lambda z: F.cross_entropy(f(z), y))
        return F.cross_entropy(f(attacked), y)

    @staticmethod
    def trades(f, x, y, beta=6):
        start = (x + 0.001 * torch.randn(x.shape, dtype=x.dtype)).clamp(0, 1)
        clean = f(x).softmax(1)
        attacked = ascend(x, start, 0.1, 0.04, lambda z: kl(clean.detach(), f(z).softmax(1)).sum())
        return F.cross_entropy(f(x), y) + beta * kl(clean, f(attacked).softmax(1)).mean()

    @staticmethod
    def mart(f, x, y, beta=5):
        start = (x + 0.001 * torch.randn(x.shape, dtype=x.dtype)).clamp(0, 1)
        attacked = ascend(x, start, 0.1, 0.04, lambda z: F.cross_entropy(f(z), y))
        return Published.mart_of(f(x).softmax(1), f(attacked).softmax(1), y, beta)

    @staticmethod
    def mart_of(p, q, y, beta=5):
        losses = []
        for p_n, q_n, y_n in zip(p, q, y.tolist(), strict=True):
            worst = max(q_n[k] for k in range(len(q_n)) if k != y_n)
            bce = -q_n[y_n].log() - (1.0001 - worst + 1e-12).log()
            divergence = (p_n * (p_n.log() - (q_n + 1e-12).log())).sum()
            losses.append(bce + beta * divergence * (1.0000001 - p_n[y_n]))
        return sum(losses) / len(losses)

    @staticmethod
    def fgsm(f, x, y):
        z = x.clone().requires_grad_()
        delta = (1.25 * 0.1 * gradient_of(F.cross_entropy(f(z), y), z).sign()).clamp(-0.1, 0.1)
        return F.cross_entropy(f((x + delta).clamp(0, 1).detach()), y)

    @staticmethod
    def grad_align(f, x, y, weight=0.3):
        here, there = x.clone().requires_grad_(), (x + 0.1 * (2 * torch.rand_like(x) - 1)).requires_grad_()
        a, b = (gradient_of(F.cross_entropy(f(z), y, reduction="sum"), z).flatten(1) for z in (here, there))
        a = a.detach()
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        return Published.fgsm(f, x, y) + weight * (1 - cosine.mean())

    @staticmethod
    def log_b_low(f, x, y):
        """Powers and products, in a forward pass of its own, as the authors compute it."""
        z = x.clone().requires_grad_()
        jacobian = gradient_of(F.cross_entropy(f(z), y), z)
        half = 1 + x.shape[-2] // 2
        m = torch.fft.rfft2(jacobian).abs().mean((0, 1))[:half] + 1e-5
        alpha = torch.linspace(1, -1, half, dtype=x.dtype) + 1e-5
        rows, columns = m.pow(alpha).prod(1), m.pow(alpha[:, None]).prod(0)
        return (rows.sum() + columns.sum()).log()

    @staticmethod
    def jafr(f, x, y, weight=0.3):
        return Published.standard(f, x, y) - weight * Published.log_b_low(f, x, y)

    @staticmethod
    def fgsm_jafr(f, x, y, weight=0.3):
        return Published.fgsm(f, x, y) - weight * Published.log_b_low(f, x, y)

    jafr_minus = staticmethod(partial(jafr.__func__, weight=-0.3))
    fgsm_jafr_minus = staticmethod(partial(fgsm_jafr.__func__, weight=-0.3))


@pytest.fixture
def in_float64(monkeypatch):
    """TRADES and MART leave half precision by ``.float()``, which would round here."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)


NAMES = sorted(name for name in DEFENSES if name not in ELSEWHERE)


def test_no_defence_is_left_out():
    assert NAMES == sorted(name for name in vars(Published) if name in DEFENSES)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_and_its_gradient_are_the_published_ones(name, in_float64):
    found = []
    for loss in (make(name), getattr(Published, name)):
        model = network()
        torch.manual_seed(5)
        value = loss(model, *batch())
        found.append([value.detach(), *torch.autograd.grad(value, tuple(model.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    plain = Published.standard(network(), *batch())
    assert name == "standard" or abs(found[0][0] - plain) > 1e-3, "the defence does something here"


def test_mart_tells_right_from_wrong():
    generator = torch.Generator().manual_seed(0)
    clean, adversarial = torch.randn(2, 30, 3, generator=generator)
    labels = torch.arange(30) % 3
    assert 5 < (adversarial.argmax(1) == labels).sum() < 25
    expected = Published.mart_of(clean.double().softmax(1), adversarial.double().softmax(1), labels)
    assert make("mart").loss(clean, adversarial, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.fixture
def held(monkeypatch):
    """Attacks, and the gradient that is a constant to GradAlign, stay what they are first."""

    def first(compute):
        results = []

        def recall(*args, **kwargs):
            if not results:
                results.append(compute(*args, **kwargs))
            return results[0]

        return recall

    monkeypatch.setattr(pgd_at, "pgd", first(pgd_at.pgd))
    for module in (fgsm, grad_align):
        monkeypatch.setattr(module, "input_gradient", first(module.input_gradient))
    attacked = FGSM.attacked
    fixed = first(lambda images, gradient: attacked(FGSM(eps=0.1), images, gradient))
    monkeypatch.setattr(FGSM, "attacked", lambda _self, images, gradient: fixed(images, gradient))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name, held, in_float64):
    model, defence, (images, labels) = network(), make(name), batch()
    parameters = list(model.parameters())

    def loss():
        torch.manual_seed(5)
        return defence(model, images, labels)

    gradients = torch.autograd.grad(loss(), parameters)
    generator, h = torch.Generator().manual_seed(2), 1e-5
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        values = []
        for step in (h, -2 * h):
            with torch.no_grad():
                parameter += step * direction
            values.append(loss().item())
        with torch.no_grad():
            parameter += h * direction
        slope = (values[0] - values[1]) / (2 * h)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


TRAIN, EVAL = True, False
PASSES = {
    "standard": [TRAIN],
    "pgd_at": [EVAL] * STEPS + [TRAIN],
    "trades": [EVAL] * (1 + STEPS) + [TRAIN] * 2,
    "mart": [EVAL] * STEPS + [TRAIN] * 2,
    "fgsm": [TRAIN] * 2,
    "grad_align": [TRAIN] * 3,
    "jafr": [TRAIN],
    "jafr_minus": [TRAIN],
    "fgsm_jafr": [TRAIN] * 2,
    "fgsm_jafr_minus": [TRAIN] * 2,
}


class Spy(nn.Module):
    """Notes the mode and the images of each pass."""

    def __init__(self):
        super().__init__()
        self.network, self.passes = network(torch.float32), []

    def forward(self, images):
        self.passes.append((self.training, images.detach().clone()))
        return self.network(images)


@pytest.mark.parametrize("name", NAMES)
def test_attacks_see_the_network_as_their_authors_have_it(name):
    spy, (images, labels) = Spy(), batch(torch.float32)
    make(name)(spy.train(), images, labels).backward()
    assert [training for training, _ in spy.passes] == PASSES[name]
    assert spy.training and all(module.training for module in spy.modules()), "train mode is restored"
    if DEFENSES[name].adversarial:
        attacked = spy.passes[-1][1]
        assert 0.05 < (attacked - images).abs().max() <= 0.1 + 1e-6
        assert attacked.min() >= 0 and attacked.max() <= 1
    else:
        assert torch.equal(spy.passes[-1][1], images)
    assert images.grad is None and not images.requires_grad, "the caller's images are left alone"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_defence_says_of_itself(name):
    assert DEFENSES[name].adversarial == (name not in ("standard", "jafr", "jafr_minus"))
    assert DEFENSES[name].double_backward == ("jafr" in name or name == "grad_align")


def test_the_defaults_are_the_papers():
    defaults = {name: vars(DEFENSES[name]()) for name in NAMES}
    ball = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
    assert defaults == {
        "standard": {},
        "pgd_at": ball,
        "trades": {**ball, "beta": 6},
        "mart": {"eps": 0.031, "step_size": 0.007, "steps": 10, "beta": 5},
        "fgsm": {"eps": 8 / 255},
        "grad_align": {"eps": 8 / 255, "weight": 0.2},
        "jafr": {"weight": 0.001},
        "jafr_minus": {"weight": -0.001},
        "fgsm_jafr": {"eps": 8 / 255, "weight": 0.001},
        "fgsm_jafr_minus": {"eps": 8 / 255, "weight": -0.001},
    }


BAD = {
    "eps": [0, -0.1, 1.5, float("nan"), "8/255", None, True],
    "step_size": [0, 2, "a"],
    "steps": [0, 1.5, "3", True],
    "beta": [float("inf"), "6", None],
    "weight": [float("nan"), "a", False],
}


@pytest.mark.parametrize("name", NAMES)
def test_bad_parameters(name):
    for parameter in vars(make(name)):
        for value in BAD[parameter]:
            with pytest.raises(ValueError, match=f"^{parameter}: .*{value}"):
                make(name, **{parameter: value})


@pytest.fixture(scope="module")
def rn20():
    torch.manual_seed(0)
    return create_network("rn20", 10).train()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_on_64_pixels_is_close_to_float32(name, rn20):
    generator = torch.Generator().manual_seed(3)
    smooth = F.interpolate(torch.rand(8, 3, 8, 8, generator=generator), 64, mode="bilinear")
    losses = []
    for enabled in (False, True):
        model = copy.deepcopy(rn20)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = make(name)(model, smooth, torch.arange(8))
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_on_photographs(name, rn20):
    photographs = sample_images()
    images, labels = photographs.images / 255, photographs.labels
    model, defence = copy.deepcopy(rn20), DEFENSES[name](**({"steps": 2} if name in ITERATED else {}))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    torch.manual_seed(5)
    losses = []
    for _ in range(3):
        loss = defence(model, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert 0 < losses[2] < losses[0]
