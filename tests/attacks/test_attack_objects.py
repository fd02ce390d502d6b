"""The attacks of an evaluation: what each finds, draws, says of itself, and how a command line names it."""

import pytest
import torch
from torch import nn

from freqrob.attacks import FGSM, PGD, Attack, AutoAttack, Clean, Square, Transfer, parse_attack
from freqrob.attacks.gradient import classify


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()


@pytest.fixture
def batch(network):
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return images, network(images).argmax(1)


@pytest.mark.parametrize("norm, eps", [("Linf", 2 / 255), ("L2", 0.1)])
@pytest.mark.parametrize("kind", [FGSM, PGD])
def test_finds_misclassified_images_in_the_ball(network, batch, kind, norm, eps):
    attack = kind(eps=eps, norm=norm)
    found = attack(network, *batch)
    offsets = (found - batch[0]).flatten(1)
    assert (offsets.abs().amax(1) if norm == "Linf" else offsets.norm(dim=1)).max() <= eps + 1e-6
    broken = network(found).argmax(1) != batch[1]
    assert 0 < broken.sum() < 40
    assert torch.equal(attack.robust_mask(network, *batch), ~broken)


def test_pgd_is_no_weaker_with_more_restarts(network, batch):
    few, many = (PGD(3, 1 / 255, restarts=restarts).robust_mask(network, *batch) for restarts in (1, 8))
    assert (many <= few).all() and 0 < many.sum() < few.sum()


def test_each_restart_starts_elsewhere_and_keeps_what_it_broke(network, batch):
    """With no steps to speak of, an image falls if any of its starts is misclassified."""
    noise = PGD(1, 12 / 255, 0.0, restarts=6)
    found = noise(network, *batch, seed=3)
    starts = [noise.ascend(network, *batch, torch.arange(40), 3, restart) for restart in range(6)]
    assert len({start.sum().item() for start in starts}) == 6
    stands = torch.stack([classify(network, start, batch[1]) for start in starts]).all(0)
    assert torch.equal(classify(network, found, batch[1]), stands) and 0 < stands.sum() < 40


def test_random_starts_depend_on_seed_and_number_alone(network, batch):
    attack, (images, labels) = PGD(1, step_size=0.0), batch
    whole = attack(network, images, labels, seed=5)
    some = torch.tensor([7, 3, 31])
    assert torch.equal(attack(network, images[some], labels[some], indices=some, seed=5), whole[some])
    assert not torch.equal(attack(network, images, labels, seed=6), whole)
    noise = whole - images
    assert not torch.equal(noise[0], noise[1])


def test_without_a_random_start_pgd_starts_at_the_image(network, batch):
    images, labels = batch
    assert torch.equal(PGD(1, step_size=0.0, random_start=False)(network, images, labels), images)
    one = PGD(1, 2 / 255, 2 / 255, random_start=False)(network, images, labels)
    assert torch.equal(one, FGSM(2 / 255)(network, images, labels))


def test_transfer_ascends_on_the_source_to_the_end(network, batch):
    """Also where the source is fooled from the start."""
    images, labels = batch
    source = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    wrong = (source(images).argmax(1) + 1) % 10
    found = Transfer(source, PGD(10, 8 / 255))(network, images, wrong)
    gain = [source(x)[torch.arange(40), wrong] for x in (found, images)]
    assert (gain[0] < gain[1]).all()
    assert (found - images).abs().amax((1, 2, 3)).min() > 7 / 255, "the full ball, though the source was fooled at once"


def test_what_leaves_the_ball_breaks_nothing(network, batch):
    class Cheat(FGSM):
        def run(self, model, images, labels, *, indices, seed):
            found = images.clone()
            found[0], found[1], found[2, 0, 0, 0], found[3] = 1 - images[0], float("nan"), 1.01, images[4]
            return found

    with pytest.warns(UserWarning, match="FGSM: 4 of its images left the ball"):
        assert Cheat(eps=1e-3).robust_mask(network, *batch).all()


def test_names_are_those_of_papers():
    named = {
        "clean": Clean(),
        "FGSM": FGSM(),
        "PGD-1": PGD(steps=1, eps=0.1, step_size=0.1),
        "PGD-20": PGD(),
        "PGD-50-10": PGD(50, restarts=10),
        "PGD-20 from the image": PGD(random_start=False),
        "transferred PGD-20": Transfer(nn.Identity()),
        "AutoAttack": AutoAttack(),
        "AutoAttack rand": AutoAttack("rand"),
        "AutoAttack apgd-ce+square": AutoAttack("custom", ("apgd-ce", "square")),
        "Square": Square(),
        "Square-100": Square(100),
    }
    assert {attack.name: attack for attack in named.values()} == named


def test_as_dict_has_every_parameter_even_those_left_to_defaults():
    assert PGD(10, 0.5, norm="L2").as_dict() == {
        "attack": "PGD-10", "steps": 10, "eps": 0.5, "step_size": 0.125, "restarts": 1, "norm": "L2",
        "random_start": True, "loss": "ce", "targeted": False,
    }  # fmt: skip
    assert Clean().as_dict() == {"attack": "clean", "eps": 0.0}
    torch.manual_seed(0)
    one, other = (Transfer(nn.Linear(2, 2)).as_dict() for _ in range(2))
    assert one["source"] != other["source"] and one["steps"] == 20


@pytest.mark.parametrize(
    "text, attack",
    [
        ("clean", Clean()),
        ("fgsm", FGSM(0.1)),
        ("PGD-20", PGD(20, 0.1, 0.01)),
        ("pgd-50-10", PGD(50, 0.1, 0.01, 10)),
        ("square", Square(5000, 0.1)),
        ("square-300", Square(300, 0.1)),
        ("autoattack", AutoAttack("standard", (), 0.1)),
        ("autoattack-rand", AutoAttack("rand", (), 0.1)),
        ("autoattack-plus", AutoAttack("plus", (), 0.1)),
        ("autoattack:apgd-ce,square", AutoAttack("custom", ("apgd-ce", "square"), 0.1)),
        ("autoattack:fab", AutoAttack("custom", ("fab",), 0.1)),
    ],
)
def test_command_lines_name_attacks(text, attack):
    assert parse_attack(text, eps=0.1, step_size=0.01) == attack


def test_the_radius_is_robustbenchs_unless_given():
    assert parse_attack("fgsm").eps == 8 / 255
    assert parse_attack("fgsm", norm="L2") == FGSM(0.5, "L2") and parse_attack("fgsm", norm="L2", eps=2).eps == 2


@pytest.mark.parametrize(
    "text", ["", "pgd", "pgd-", "pgd-x", "pgd-1-2-3", "pgd-20:fab", "fgsm-2", "clean-1", "autoattack-fast",
             "autoattack-rand:fab", "square-a", "cw", "pgd--5", "pgd-5-", "pgd-x-5", "pgd-2.5", "pgd-1e3", "pgd-٢٠",
             "pgd-²", "pgd-1000000000", "square--5", "square-1_000", "clean:", "pgd-20:", "fgsm:x", "autoattack-plus:"],
)  # fmt: skip
def test_other_texts_are_refused_with_examples(text):
    with pytest.raises(ValueError, match=f"attack: got '{text}', expected one such as .*pgd-20"):
        parse_attack(text)


def test_a_missing_hyphen_is_suggested():
    for text, nearest in {"pgd20": "pgd-20", "square_500": "square-500", "band_pgd20:0-4": "band_pgd-20"}.items():
        with pytest.raises(ValueError, match=f"got '{text}', .* Nearest: {nearest}."):
            parse_attack(text)


def test_huge_texts_are_refused_in_a_line():
    with pytest.raises(ValueError, match="attack: got 'pgd-9{71,}'?\\.\\.\\., expected one such as") as error:
        parse_attack("pgd-" + "9" * 10_000)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["autoattack:", "autoattack:,", "autoattack:fab,,square", "autoattack:fab,"])
def test_a_part_of_autoattack_without_a_name_is_refused(text):
    with pytest.raises(ValueError, match="attacks: expected any of apgd-ce, .*, each once, got ''"):
        parse_attack(text)


@pytest.mark.parametrize("text", ["clean", "fgsm", "pgd-2", "autoattack", "square"])
@pytest.mark.parametrize("given", [{"eps": 8}, {"eps": float("nan")}, {"step_size": -1}, {"norm": "l2"}])
def test_what_an_attack_does_not_use_is_checked_too(text, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        parse_attack(text, **given)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PGD(0), "steps: expected an integer ≥ 1, got 0"),
        (lambda: PGD(restarts=0), "restarts"),
        (lambda: PGD(restarts=2, random_start=False), "restarts: expected 1 without a random start, got 2"),
        (lambda: PGD(eps=8), r"eps: expected pixels in \[0, 1\], such as 8/255, got 8"),
        (lambda: PGD(eps=None), "eps: expected pixels .*, got None"),
        (lambda: PGD(eps=True), "eps: expected pixels .*, got True"),
        (lambda: PGD(eps=-0.1, norm="L2"), "eps: expected a length ≥ 0, such as 0.5, got -0.1"),
        (lambda: PGD(step_size=float("nan")), "step_size"),
        (lambda: FGSM(norm="L1"), "norm: expected one of Linf, L2, got 'L1'"),
        (lambda: Square(0), "queries"),
        (lambda: Square(eps="8/255"), "eps"),
        (lambda: AutoAttack("fast"), "version: expected one of standard, plus, rand, custom, got 'fast'"),
        (lambda: AutoAttack("custom"), "attacks: version 'custom' needs some"),
        (lambda: AutoAttack("rand", ("fab",)), "attacks: version 'rand' takes none"),
        (lambda: AutoAttack("rand", component="fab"), "component: expected one of apgd-ce, apgd-dlr, got 'fab'"),
        (lambda: AutoAttack("custom", ("pgd",)), "attacks: expected any of apgd-ce, .*, got 'pgd'"),
        (lambda: AutoAttack("custom", ("fab", "fab")), "each once"),
        (lambda: Transfer(nn.Identity(), PGD(restarts=2)), "without restarts"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_without_a_logit_are_named(network, batch):
    with pytest.raises(ValueError, match="labels: expected classes below 10, got 11"):
        Clean().robust_mask(network, batch[0], torch.full((40,), 11))


def test_attacks_are_values():
    attacks: list[Attack] = [PGD(), PGD(20, 8 / 255), FGSM(), Clean(), AutoAttack()]
    assert len(set(attacks)) == 4
