"""Every registered attack keeps the contract; losses and targets of PGD; attacks by name, own and of other packages."""

import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from freqrob.attacks import (
    PGD,
    Attack,
    AutoAttack,
    BandPGD,
    Clean,
    Transfer,
    list_attacks,
    parse_attack,
    pgd,
    register_attack,
)
from freqrob.attacks.balls import BALLS
from freqrob.attacks.gradient import classified
from freqrob.attacks.losses import LOSSES
from freqrob.attacks.registry import ATTACKS
from freqrob.evaluation import evaluate

NAMES = {
    "clean": "clean", "fgsm": "fgsm", "pgd": "pgd-3-2", "square": "square-20", "autoattack": "autoattack:apgd-ce",
    "band_pgd": "band_pgd-3:0-2", "foolbox": "foolbox:LinfPGD",
}  # fmt: skip
PACKAGES = {"square": "pyautoattack", "autoattack": "pyautoattack", "foolbox": "foolbox"}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).train()


@pytest.fixture
def batch(network):
    images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network.eval()
    labels = network(images).argmax(1)
    network.train()
    return images, labels


def named(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return parse_attack(NAMES[name], eps=2 / 255)


def test_every_registered_attack_is_tried():
    assert set(list_attacks()) == set(NAMES)
    assert list_attacks("*pgd*") == ["band_pgd", "pgd"]


@pytest.mark.parametrize("name", NAMES)
def test_stays_in_its_ball_and_keeps_the_mask(network, batch, name):
    attack, (images, labels) = named(name), batch
    adversarial = attack(network, images, labels, seed=3)
    assert adversarial.shape == images.shape and not adversarial.requires_grad
    assert BALLS[attack.norm].length(adversarial - images).max() <= attack.eps + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    mask = attack.robust_mask(network, images, labels, seed=3)
    assert network.training
    assert torch.equal(mask, classified(network.eval()(adversarial), labels))
    assert mask.all() if name == "clean" else 0 < mask.sum() < 30


@pytest.mark.parametrize("name", NAMES)
def test_leaves_nothing_behind(network, batch, name):
    attack = named(name)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    network[4].weight.requires_grad_(False)
    state, random = {key: value.clone() for key, value in network.state_dict().items()}, torch.random.get_rng_state()
    attack(network, *batch)
    assert network.training and not network[4].weight.requires_grad
    assert (network[0].weight.grad == 1).all() and network[4].bias.grad is None
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.mark.parametrize("name", NAMES)
def test_takes_no_images(network, name):
    images = torch.zeros(0, 3, 8, 8)
    assert named(name)(network, images, torch.zeros(0, dtype=torch.int64)).shape == images.shape


def test_a_generator_draws_the_seed(network, batch):
    attack = PGD(1, step_size=0.0)
    first, again = (attack(network, *batch, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    other = attack(network, *batch, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluate_takes_names(network, batch):
    by_name = evaluate(network, *batch, attacks=["clean", "pgd-2"], protocols=["natural"])
    by_value = evaluate(network, *batch, attacks=[Clean(), PGD(2)], protocols=["natural"])
    assert by_name == by_value
    with pytest.raises(ValueError, match="attack: got 'pgdd', expected one such as"):
        evaluate(network, *batch, attacks=["pgdd"])


# Losses and targets


LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 5.0, 4.0, 1.0]])
LABELS, TARGETS = torch.tensor([0, 2]), torch.tensor([1, 0])


@pytest.mark.parametrize(
    "loss, labels_only, targeted",
    [
        ("cw", (2 - 3) + (5 - 4), (1 - 3) + (0 - 5)),
        ("dlr", (2 - 3) / (3 - 1) + (5 - 4) / (5 - 1), (1 - 3) / (3 - 0) + (0 - 4) / (5 - 0.5)),
    ],
)
def test_losses_are_those_of_the_papers(loss, labels_only, targeted):
    assert LOSSES[loss](LOGITS, LABELS).item() == pytest.approx(labels_only)
    assert LOSSES[loss](LOGITS, LABELS, TARGETS).item() == pytest.approx(targeted)


def test_cw_climbs_as_in_the_jafr_repository():
    """Its loss is the mean of −relu(z_y − max_{i≠y} z_i + 50)."""
    for loss in (LOSSES["cw"], lambda z, y: -torch.relu(z[range(2), y] - torch.stack([z[0, 2], z[1, 1]]) + 50).mean()):
        logits = LOGITS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, LABELS), logits)
        assert gradient.sign().tolist() == [[-1, 0, 1, 0], [0, 1, -1, 0]]


def test_attacks_of_chans_tables():
    """Section 4.2: "PGD uses 50 gradient iterations and 10 restarts with a step size of ε/4"."""
    pgd, cw, fgsm = (parse_attack(name) for name in ("pgd-50-10", "pgd-50-10:cw", "fgsm"))
    for attack in (pgd, cw):
        assert (attack.steps, attack.restarts, attack.eps, attack.norm) == (50, 10, 8 / 255, "Linf")
        assert attack.step == attack.eps / 4 and attack.random_start
    assert cw.loss == "cw" and fgsm.as_dict()["step_size"] == fgsm.eps == 8 / 255


def test_dlr_does_not_depend_on_scale_or_shift():
    dlr = LOSSES["dlr"]
    for arguments in ((LABELS,), (LABELS, TARGETS)):
        assert dlr(100 * LOGITS - 7, *arguments).item() == pytest.approx(dlr(LOGITS, *arguments).item())
    with pytest.raises(ValueError, match="loss: dlr needs 3 classes or more, the model has 2"):
        dlr(LOGITS[:, :2], torch.tensor([0, 1]))


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_breaks_images_and_more_steps_break_more(network, batch, loss):
    one, many = (PGD(steps, 2 / 255, 0.5 / 255, loss=loss).robust_mask(network, *batch) for steps in (1, 20))
    assert many.sum() < one.sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_targets_are_reached(network, batch, loss):
    images, labels = batch
    targets = (labels + 1) % 10
    found = pgd(network.eval(), images, labels, eps=0.5, step_size=0.05, steps=30, loss=LOSSES[loss], targets=targets)
    logits = network(found)
    if loss == "dlr":  # which compares the target with the label only
        assert (logits.gather(1, targets[:, None]) > logits.gather(1, labels[:, None])).float().mean() > 0.8
    else:
        assert (logits.argmax(1) == targets).float().mean() > 0.8


def test_targets_that_the_model_does_not_have_are_named(network, batch):
    images, labels = batch
    with pytest.raises(ValueError, match="targets: expected classes below 10, got 10"):
        pgd(network.eval(), images, labels, targets=torch.full_like(labels, 10))
    with pytest.raises(ValueError, match=r"targets: expected \(30,\) int64 classes"):
        pgd(network.eval(), images, labels, targets=labels[:3])


def test_targeted_restarts_go_for_other_classes(network, batch, monkeypatch):
    given = []

    def spy(model, images, labels, *, targets, **options):
        given.append(targets)
        return images

    monkeypatch.setattr("freqrob.attacks.projected_gradient.pgd", spy)
    images, labels = batch
    PGD(1, restarts=20, targeted=True)(network, images, labels)
    order = network.eval()(images).argsort(1, descending=True)
    assert len(given) == 9, "no more than there are wrong classes"
    assert torch.equal(torch.stack(given, 1), order[:, 1:])


def test_targeted_and_losses_have_names():
    attack = parse_attack("pgd-20-9:dlr,targeted", eps=0.1)
    assert attack == PGD(20, 0.1, restarts=9, loss="dlr", targeted=True)
    assert attack.name == "targeted PGD-20-9 on dlr" and parse_attack("pgd-5:cw").name == "PGD-5 on cw"
    assert attack.as_dict()["loss"] == "dlr" and attack.as_dict()["targeted"] is True


# Band


def test_band_pgd_by_name():
    attack = parse_attack("band_pgd-20:0-2,5", eps=0.1)
    assert attack == BandPGD((0, 1, 2, 5), 20, 0.1) and attack.name == "band PGD-20 in rings 0 to 2, 5"
    for wrong in ("band_pgd", "band_pgd-20", "band_pgd-20:low", "band_pgd-20:3-"):
        with pytest.raises(ValueError, match="band_pgd-20:0-4"):
            parse_attack(wrong)
    with pytest.raises(ValueError, match="rings: expected integers"):
        parse_attack("band_pgd-20:4-2")


# Attacks of others


@dataclass(frozen=True)
class Brighten(Attack):
    eps: float = 0.1
    norm: str = field(default="Linf")
    name = "brighten"

    def run(self, model, images, labels, *, indices, seed):
        return (images + self.eps).clamp(max=1)


def test_a_registered_attack_is_known_by_its_name(network, batch, monkeypatch):
    monkeypatch.setattr(ATTACKS, "_own", dict(ATTACKS._own))
    register_attack("brighten")(Brighten)
    assert "brighten" in list_attacks() and parse_attack("brighten", eps=0.2) == Brighten(0.2)
    (result,) = evaluate(network, *batch, attacks=["brighten"], protocols=["natural"])
    assert result.as_dict()["attack"] == "brighten" and 0 < result.accuracy < 1
    with pytest.raises(ValueError, match="brighten"):
        parse_attack("brighten-3")
    with pytest.raises(ValueError, match="already registered"):
        register_attack("pgd")(Brighten)
    with pytest.raises(ValueError, match="name: got 'My attack', expected letters"):
        register_attack("My attack")


def test_attacks_of_foolbox_are_called_by_name(network, batch):
    pytest.importorskip("foolbox")
    attack = parse_attack("foolbox:lInfDeepFoolAttack", eps=2 / 255)
    assert attack.name == "Foolbox LinfDeepFoolAttack" and attack.as_dict()["package"].startswith("foolbox ")
    with pytest.raises(ValueError, match="'linfdeepfol'.*Nearest: LinfDeepFoolAttack"):
        parse_attack("foolbox:linfdeepfol")
    with pytest.raises(ValueError, match="norm: expected LinfDeepFoolAttack's"):
        parse_attack("foolbox:LinfDeepFoolAttack", norm="L2")


def test_freqrobs_attacks_are_called_as_foolboxs(network, batch):
    foolbox = pytest.importorskip("foolbox")
    from freqrob_foolbox import FreqrobAttack

    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1))
    _, clipped, success = FreqrobAttack("pgd-5", batch_size=7)(model, *batch, epsilons=2 / 255)
    assert torch.equal(success, ~PGD(5, 2 / 255).robust_mask(network, *batch)) or 0 < success.sum() < 30
    assert (clipped - batch[0]).abs().max() <= 2 / 255 + 1e-6


@dataclass(frozen=True)
class Returns(Attack):
    """What ``give`` makes of the images."""

    give: object
    eps: float = 0.1
    norm: str = field(default="Linf")
    name = "returns"

    def run(self, model, images, labels, *, indices, seed):
        return self.give(images)


@pytest.mark.parametrize(
    "give, error, got",
    [
        (lambda images: None, TypeError, "NoneType"),
        (lambda images: (images, images), TypeError, "tuple"),
        (lambda images: images[:1], ValueError, r"\(1, 3, 8, 8\)"),
        (lambda images: (images * 255).byte(), ValueError, "torch.uint8"),
        (lambda images: images.double(), ValueError, "torch.float64"),
    ],
)
def test_what_an_attack_gives_is_checked(network, batch, give, error, got):
    for call in (Returns(give), Returns(give).robust_mask):
        with pytest.raises(error, match=f"attack: expected returns .*got .*{got}"):
            call(network, *batch)


def test_an_attack_that_works_in_place_does_not_move_its_ball(network, batch):
    images, labels = batch
    before = images.clone()
    attack = Returns(lambda images: images.mul_(0), eps=0.1)
    with pytest.warns(UserWarning, match="30 of its images left the ball"):
        assert attack.robust_mask(network, images, labels).all()
    attack(network, images, labels)
    assert torch.equal(images, before)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rounding_of_half_precision_leaves_no_ball(network, batch, dtype, norm, recwarn):
    images, labels = batch[0].to(dtype), batch[1]
    attack = PGD(5, 8 / 255 if norm == "Linf" else 0.5, norm=norm)
    mask = attack.robust_mask(network.to(dtype), images, labels)
    assert not [one for one in recwarn if "left the ball" in str(one.message)]
    network.eval()
    assert torch.equal(mask, classified(network(attack(network, images, labels)), labels))


@pytest.mark.parametrize("name", ["autoattack", "square"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_autoattack_takes_other_precisions(network, batch, name, dtype):
    attack, (images, labels) = named(name), (batch[0].to(dtype), batch[1])
    found = attack(network.to(dtype), images, labels)
    assert found.dtype == dtype
    assert torch.equal(attack.robust_mask(network, images, labels), classified(network.eval()(found), labels))


@pytest.mark.parametrize("name", NAMES)
def test_takes_channels_last(network, batch, name):
    images, labels = batch
    attack, other = named(name), images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attack(network, other, labels), attack(network, images, labels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("component", ["apgd-ce", "apgd-dlr", "apgd-t"])
def test_autoattack_takes_one_channels_last_image(network, batch, component):
    pytest.importorskip("pyautoattack")
    images, labels = (each[:1] for each in batch)
    for norm in ("Linf", "L2"):
        attack = AutoAttack("custom", (component,), 2 / 255, norm)
        assert attack(network, images.to(memory_format=torch.channels_last), labels).shape == images.shape


def test_another_attack_of_the_same_name_is_not_taken_from_the_cache(network, batch, tmp_path):
    @dataclass(frozen=True)
    class Other(Brighten):
        def run(self, model, images, labels, *, indices, seed):
            return images

    for attack in (Brighten(), Other()):
        (result,) = evaluate(network, *batch, attacks=[attack], protocols=["natural"], cache=tmp_path, cache_key="1")
        assert not result.from_cache


def test_an_attack_that_no_result_can_name_is_refused_before_it_runs(network, batch):
    def fail(*_, **__):
        raise AssertionError("measured")

    class Plain(Attack):
        eps, norm, name, run = 0.1, "Linf", "plain", fail

    for attack in (Plain(), Returns([1])):
        with pytest.raises(TypeError, match="attack: expected a frozen dataclass with hashable fields"):
            evaluate(network, *batch, attacks=[attack], protocols=["natural"])


def test_an_attack_of_foolbox_calls_no_hook_of_a_parameter(network, batch):
    attack, called = named("foolbox"), []
    handle = network[0].weight.register_hook(lambda _: called.append(1))
    attack(network, *batch)
    handle.remove()
    assert not called


def test_attacks_of_foolbox_that_need_more_say_what(network, batch):
    foolbox = pytest.importorskip("foolbox")
    from freqrob_foolbox import FoolboxAttack

    assert parse_attack("foolbox:LinearSearchContrastReductionAttack", norm="L2").norm == "L2"
    assert parse_attack("foolbox:L2PGD", norm="L2").norm == "L2"
    with pytest.raises(ValueError, match="norm: expected .* 'L2', got 'Linf'"):
        parse_attack("foolbox:L2PGD")
    with pytest.raises(ValueError, match="attack: .*distances in Linf or L2, got L0FMNAttack"):
        parse_attack("foolbox:L0FMNAttack")
    for kind in (foolbox.attacks.PointwiseAttack, foolbox.attacks.GaussianBlurAttack):
        with pytest.raises(ValueError, match=f"use {kind.__name__}\\(distance="):
            FoolboxAttack(kind())
    for name in ("GenAttack", "DatasetAttack", "BinarizationRefinementAttack"):
        attack = parse_attack(f"foolbox:{name}")
        with pytest.raises(ValueError, match=f"attack: Foolbox {name} fails .*needs no"):
            attack(network, *batch)
    with pytest.raises(ValueError, match="got 'foolbox', .*foolbox:LinfDeepFoolAttack"):
        parse_attack("foolbox")


def test_every_attack_of_freqrob_is_called_as_foolboxs(network, batch):
    foolbox = pytest.importorskip("foolbox")
    from freqrob_foolbox import FreqrobAttack

    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1))
    for attack in ("clean", Transfer(network), "band_pgd-3:0"):
        _, clipped, _ = FreqrobAttack(attack)(model, *batch, epsilons=2 / 255)
        assert (clipped - batch[0]).abs().max() <= 2 / 255 + 1e-6
    whole, parts = (FreqrobAttack("pgd-1", batch_size=size)(model, *batch, epsilons=2 / 255)[1] for size in (30, 7))
    torch.testing.assert_close(whole, parts)


def test_indices_that_do_not_fit_are_named(network, batch):
    for indices in (torch.arange(3), -torch.arange(30), torch.arange(30.0), torch.arange(30)[:, None]):
        with pytest.raises(ValueError, match=r"indices: expected \(30,\) int64 ≥ 0, got"):
            PGD(1)(network, *batch, indices=indices)


def test_an_attack_whose_package_is_missing_says_what_to_install(monkeypatch):
    for module in ("foolbox", "freqrob_foolbox.adapters"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Missing("foolbox"), *sys.meta_path])
    assert "foolbox" in list_attacks()
    with pytest.raises(ImportError, match=r"No module named 'foolbox'; pip install 'freqrob\[foolbox\]'"):
        parse_attack("foolbox:LinfPGD")
    with pytest.raises(ValueError, match="attack: got 'fooolbox', expected one such as"):
        parse_attack("fooolbox")


class _Missing:
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
