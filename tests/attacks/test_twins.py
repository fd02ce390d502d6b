"""Attacks on twins: only what fools the model itself counts."""

import pytest
import torch
from torch import nn

from freqrob.attacks import PGD, AutoAttack, Clean
from freqrob.attacks import base as contract
from freqrob.attacks.gradient import classify
from freqrob.evaluation import accuracy, evaluate
from freqrob.models import load_model
from freqrob.models.twins import fast_gradients

IMAGES, LABELS = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(20).long()


class Fooled(nn.Module):
    """A model, but each image is given to the last class."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images) + torch.linspace(0, 1e6, 10)


@pytest.fixture(scope="module")
def model():
    return load_model("pgd_at_rn20").eval()


@pytest.fixture
def labels(model):
    return model(IMAGES).argmax(1)


def test_what_fools_only_a_twin_is_attacked_again(model, labels):
    attack = PGD(steps=3)
    alone = attack.robust_mask(model, IMAGES, labels, twins=())
    assert alone.any() and not alone.all()
    assert torch.equal(attack.robust_mask(model, IMAGES, labels, twins=(Fooled(model),)), alone)
    robust = attack.robust_mask(model, IMAGES, labels, twins=(fast_gradients(model, IMAGES),))
    assert (robust == alone).float().mean() >= 0.95  # rounding may decide an image


def test_a_call_attacks_the_twin_and_gives_what_fools_the_model(model, labels, monkeypatch):
    attacked = []
    run = PGD.run

    def recorded(self, subject, images, *arguments, **options):
        attacked.append((subject, len(images)))
        return run(self, subject, images, *arguments, **options)

    monkeypatch.setattr(PGD, "run", recorded)
    robust = ~classify(model, PGD(steps=3)(model, IMAGES, labels), labels)
    assert len(attacked) == 1 and attacked[0][0] is not model
    monkeypatch.setattr(contract, "fast_gradients", lambda model, images: Fooled(model))
    again = ~classify(model, PGD(steps=3)(model, IMAGES, labels), labels)
    assert attacked[2][0] is model and attacked[2][1] == len(IMAGES)
    assert (robust == again).float().mean() >= 0.95
    PGD(steps=3)(model, IMAGES[:4], labels[:4])
    assert attacked[3][0] is model, "four images do not repay a twin"


def test_an_evaluation_makes_its_twin_once(model, labels, monkeypatch):
    made = []
    monkeypatch.setattr(accuracy, "fast_gradients", lambda *given: made.append(1) or fast_gradients(*given))
    attacks = Clean(), PGD(steps=2)
    few, many = (
        evaluate(model, IMAGES, labels, protocols=["natural"], attacks=attacks, batch_size=size) for size in (3, 20)
    )
    assert len(made) == 2
    assert torch.equal(few[1].correct, many[1].correct)


def test_autoattack_takes_twins(model, labels):
    attack = AutoAttack("custom", ("apgd-ce",))
    twin = (fast_gradients(model, IMAGES[:4]),)
    masks = [attack.robust_mask(model, IMAGES[:4], labels[:4], twins=twins) for twins in ((), twin)]
    assert torch.equal(*masks)


def test_bfloat16_counts_what_fools_the_model_and_says_so(model, labels, tmp_path, monkeypatch):
    attacks, precisions = (Clean(), PGD(steps=3)), []
    monkeypatch.setattr(PGD, "run", _recorded(precisions))

    def measure(precision):
        return evaluate(
            model, IMAGES, labels, protocols=["natural"], attacks=attacks, precision=precision, cache=tmp_path,
            cache_key="test",
        )  # fmt: skip

    exact, low = measure("float32"), measure("bfloat16")
    assert "bfloat16" in precisions
    assert [result.as_dict()["precision"] for result in low] == ["float32", "bfloat16"], "the clean images are exact"
    assert not low[1].from_cache and low[0].from_cache and measure("bfloat16")[1].from_cache
    assert (exact[1].correct == low[1].correct).float().mean() >= 0.9


def _recorded(precisions):
    """PGD's ``run``, which also notes in what precision the model's convolutions compute."""
    run = PGD.run

    def recorded(self, model, images, labels, **options):
        conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        with conv.register_forward_hook(lambda _module, _inputs, output: precisions.append(str(output.dtype)[6:])):
            return run(self, model, images, labels, **options)

    return recorded


def test_what_fools_only_the_twin_in_bfloat16_is_attacked_in_float32(model, labels, monkeypatch):
    def robust(precision):
        attacks = [PGD(steps=3)]
        (result,) = evaluate(model, IMAGES, labels, protocols=["natural"], attacks=attacks, precision=precision)
        return result.correct

    exact = robust("float32")
    monkeypatch.setattr(accuracy, "in_bfloat16", Fooled)
    assert torch.equal(robust("bfloat16"), exact)


def test_bfloat16_needs_a_model_in_float32(labels):
    double = load_model("pgd_at_rn20").double().eval()
    with pytest.raises(ValueError, match="precision: expected float32 for one of float64 on cpu"):
        evaluate(double, IMAGES.double(), labels, attacks=["pgd-2"], protocols=["natural"], precision="bfloat16")
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'bf16'"):
        evaluate(double, IMAGES.double(), labels, precision="bf16")  # pyright: ignore[reportArgumentType]
