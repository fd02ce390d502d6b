"""AutoAttack through its package: the same images as by hand, one attack after the other, each kept when it is done."""

import importlib.util
import random
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from freqrob.attacks import AutoAttack, Clean, Square, autoattack
from freqrob.evaluation import evaluate

pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
EPS = 4 / 255


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()


@pytest.fixture
def batch(network):
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(1)
    labels[3] = (labels[3] + 1) % 10
    return images, labels


@pytest.fixture
def short(monkeypatch):
    """The package with few iterations and queries, for all who use it."""
    original = pyautoattack.AutoAttack.__init__

    def created(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.apgd.n_iter = self.apgd_targeted.n_iter = 6
        self.fab.n_iter, self.square.n_queries = 3, 20

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", created)


def by_hand(network, images, labels, version="standard", attacks=None, norm="Linf", eps=EPS, seed=0):
    adversary = pyautoattack.AutoAttack(network, norm=norm, eps=eps, seed=seed, version=version, attacks=attacks)
    return adversary.run_standard_evaluation(images, labels, batch_size=len(images))[0]


@pytest.mark.parametrize(
    "version, attacks, norm, eps",
    [
        ("standard", (), "Linf", EPS),
        ("standard", (), "L2", 0.15),
        ("rand", (), "Linf", EPS),
        ("plus", (), "Linf", EPS),
        ("custom", ("square", "apgd-dlr"), "Linf", EPS),
    ],
)
def test_finds_the_very_images_of_the_package(network, batch, short, version, attacks, norm, eps):
    attack = AutoAttack(version, attacks, eps, norm)
    expected = by_hand(network, *batch, version, list(attacks) or None, norm, eps, seed=5)
    assert torch.equal(attack(network, *batch, seed=5), expected)
    stands = network(expected).argmax(1) == batch[1]
    (result,) = evaluate(network, *batch, protocols=["natural"], attacks=[attack], seed=5)
    assert torch.equal(result.correct, stands) and 0 < stands.sum() < 11


def test_inference_mode_changes_nothing(network, batch, short):
    attack = AutoAttack("custom", ("apgd-ce", "square"), EPS)
    with torch.inference_mode():
        found = attack(network, *(tensor.clone() for tensor in batch))
    assert torch.equal(found.clone(), attack(network, *batch))


def test_parameters_are_those_of_the_version(network, batch, monkeypatch):
    """What the package's objects are set to when each attack runs."""
    seen = []

    def note(self, images, labels, batch_size):
        (name,) = self.attacks_to_run
        seen.append((name, self.apgd.n_restarts, self.apgd.eot_iter, self.fab.n_restarts, self.square.n_queries))
        seen.append((self.apgd_targeted.n_target_classes, self.apgd.n_iter, self.epsilon, self.norm, self.seed))
        return images, labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", note)
    evaluate(network, *batch, protocols=["natural"], attacks=[AutoAttack(eps=EPS)], seed=3)
    assert [one[0] for one in seen[::2]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert {one[1:] for one in seen[::2]} == {(1, 1, 1, 5000)} and set(seen[1::2]) == {(9, 100, EPS, "Linf", 3)}
    seen.clear()
    evaluate(network, *batch, protocols=["natural"], attacks=[AutoAttack("rand"), Square(7)])
    assert [one[0] for one in seen[::2]] == ["apgd-ce", "apgd-dlr", "square"]
    assert [one[2] for one in seen[:4:2]] == [20, 20] and seen[4][4] == 7


def test_the_random_numbers_of_others_are_left_alone(network, batch, short):
    torch.manual_seed(4)
    random.seed(4)
    before = torch.get_rng_state()
    AutoAttack(eps=EPS)(network, *batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_that_was_stopped_between_two_attacks_goes_on(network, batch, short, tmp_path):
    asked = {"protocols": ["natural"], "attacks": [AutoAttack(eps=EPS)], "batch_size": 5}
    whole = evaluate(network, *batch, **asked)
    did = []

    def stop(items, what, count, _images):
        for item in items:
            if len(did) == 3 + 5:
                raise InterruptedError
            yield item
            did.append(item)

    with pytest.raises(InterruptedError):
        evaluate(network, *batch, **asked, cache=tmp_path, progress=stop)
    left = []
    resumed = evaluate(network, *batch, **asked, cache=tmp_path, progress=lambda items, *_: left.extend(items) or items)
    assert torch.equal(resumed[0].correct, whole[0].correct) and len(left) == 3 * 4 - 5
    left.clear()
    again = evaluate(network, *batch, **asked, cache=tmp_path, progress=lambda items, *_: left.extend(items) or items)
    assert again == whole and not left
    assert len(list(tmp_path.glob("AutoAttack-*.safetensors"))) == 4, "one for each attack of the ensemble"


def test_batches_of_another_size_are_another_measurement(network, batch, short, tmp_path):
    """The package draws for a batch."""
    asked = {"protocols": ["natural"], "attacks": [Square(3, EPS)], "cache": tmp_path}
    for batch_size in (5, 12):
        evaluate(network, *batch, **asked, batch_size=batch_size)
    assert len(list(tmp_path.glob("Square*"))) == 2 and len(list(tmp_path.glob("clean*"))) == 1


def test_the_record_names_the_package(network, batch, short):
    (result,) = evaluate(network, *batch, protocols=["natural"], attacks=[AutoAttack("rand", eps=EPS)])
    record = result.as_dict()
    assert record["package"] == f"pyautoattack {pyautoattack.__version__}"
    assert (record["attacks"], record["version"]) == (["apgd-ce", "apgd-dlr"], "rand")


def test_the_package_s_warnings_are_not_repeated_for_each_batch(network, batch, short, caplog, capfd):
    softmax = nn.Sequential(network, nn.Softmax(1))
    with pytest.warns(UserWarning, match="returns probabilities") as warned:
        evaluate(softmax, *batch, protocols=["natural"], attacks=[AutoAttack(eps=EPS)], batch_size=4)
    assert sum("probabilities" in str(one.message) for one in warned) == 1
    assert not caplog.records and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("attack", ["pgd-1", "autoattack", "autoattack:fab", "square-2"])
def test_a_single_logit_is_refused_with_the_remedy(attack):
    network, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), torch.rand(4, 3, 8, 8), torch.zeros(4)
    with pytest.raises(ValueError, match="^model: expected logits of 2 classes or more, got 1; .* torch.cat"):
        evaluate(network, images, labels.long(), protocols=["natural"], attacks=[attack])


@pytest.mark.parametrize("height, width", [(1, 16), (2, 2), (4, 8)])
def test_square_in_l2_names_the_height_that_it_needs(height, width):
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 4)), torch.rand(4, 3, height, width)
    labels = network(images).argmax(1)
    with pytest.raises(ValueError, match="^images: Square in L2 needs a height of 5 pixels or more, got shape"):
        Square(2, 0.5, "L2")(network, images, labels)
    assert Square(2, 0.1, "Linf")(network, images, labels).shape == images.shape


@pytest.mark.parametrize("classes, attack", [(2, "apgd-dlr"), (3, "apgd-t")])
def test_too_few_classes_for_a_loss_are_named(classes, attack):
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(192, classes)), torch.rand(4, 3, 8, 8)
    expected = f"attacks: {attack} needs at least {classes + 1} classes, the model has {classes}"
    with pytest.raises(ValueError, match=expected):
        AutoAttack("custom", (attack,))(network, images, network(images).argmax(1))


def test_fewer_classes_than_targets_are_all_aimed_at(short):
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval(), torch.rand(8, 3, 8, 8)
    labels = network(images).argmax(1)
    stands = AutoAttack(eps=EPS).robust_mask(network, images, labels)
    assert (stands <= AutoAttack("custom", ("apgd-t",), EPS).robust_mask(network, images, labels)).all()


def test_no_images_are_left_alone(network):
    nothing = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)
    assert AutoAttack()(network, *nothing).shape == (0, 3, 8, 8)


def test_without_a_package_both_are_named(monkeypatch, network, batch):
    def missing(name):
        raise autoattack.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(autoattack.metadata, "version", missing)
    for attack in (AutoAttack(), Square()):
        with pytest.raises(ImportError, match=r"pip install 'freqrob\[autoattack\]'"):
            evaluate(network, *batch, protocols=["natural"], attacks=[attack])
    assert evaluate(network, *batch, protocols=["natural"], attacks=[Clean()])[0].accuracy == 11 / 12


def test_the_authors_package_is_preferred(monkeypatch, network, batch, short):
    """Its arguments have other names, and it returns images alone."""

    class TheirAutoAttack(pyautoattack.AutoAttack):
        def __init__(self, model, norm="Linf", eps=0.3, seed=None, verbose=True, attacks_to_run=(), version="standard",
                     is_tf_model=False, device="cuda", log_path=None):  # fmt: skip
            assert not verbose
            super().__init__(
                model, norm=norm, eps=eps, seed=seed, version=version, device=device, attacks=attacks_to_run or None
            )

        def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False):
            return super().run_standard_evaluation(x_orig, y_orig, batch_size=bs)[0]

    theirs = ModuleType("autoattack")
    theirs.AutoAttack = TheirAutoAttack
    theirs.__spec__ = importlib.util.spec_from_loader("autoattack", None)
    monkeypatch.setitem(sys.modules, "autoattack", theirs)
    monkeypatch.setattr(autoattack.metadata, "version", lambda name: "0.1")
    attack = AutoAttack("custom", ("apgd-ce", "square"), EPS)
    assert attack.as_dict()["package"] == "autoattack 0.1"
    expected = by_hand(network, *batch, "custom", ["apgd-ce", "square"])
    assert torch.equal(attack(network, *batch), expected)


@pytest.mark.slow
def test_a_shipped_model_is_as_robust_as_by_hand():
    """AutoAttack standard, unabridged, on 20 of CIFAR-10's test images."""
    from freqrob import load_model
    from freqrob.data.samples import sample_images

    sample = sample_images()
    images, labels, model = sample.images / 255, sample.labels, load_model("pgd_at_rn20")
    adversary = pyautoattack.AutoAttack(model, eps=8 / 255, seed=0)
    stands = model(adversary.run_standard_evaluation(images, labels)[0]).argmax(1) == labels
    (result,) = evaluate(model, sample.images, labels, protocols=["natural"], attacks=[AutoAttack()])
    assert torch.equal(result.correct, stands)
