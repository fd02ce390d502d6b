"""The check for gradient masking: red where gradients are hidden, green where they are not."""

import pytest
import torch
from torch import nn

from freqrob.attacks import PGD
from freqrob.evaluation import MaskingCheck, check_masking
from freqrob.evaluation.masking import AttackComparison, bare_network, has_front_end, sign_test
from freqrob.models.front_ends import Blur, FrontEnded, InputSize, Normalize

pytest.importorskip("pyautoattack", reason="pyautoattack, which has Square, is not installed")


class Quantised(nn.Module):
    """Sixteen grey levels, and a gradient that says nothing of where the image goes."""

    def forward(self, images):
        return (images * 15).round() / 15 + 1e-6 * (images - images.detach()) * torch.sin(1e4 * images.detach())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()


def checked(model, **options):
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return check_masking(model, images, model(images).argmax(1), white_box=PGD(10, 8 / 255), queries=50, **options)


def test_a_front_end_that_hides_gradients_is_found(network):
    found = checked(FrontEnded([Quantised()], network).eval())
    assert {one.attack for one in found.suspects} == {"Square-50", "transferred PGD-10"}
    assert str(found).startswith("gradient masking is suspected: Square-50 breaks ")
    assert found.as_dict()["masking_suspected"] is True


def test_a_front_end_that_lets_gradients_through_is_not_accused(network):
    found = checked(FrontEnded([Normalize([0.5] * 3, [0.2] * 3), Blur(0.6)], network).eval())
    assert not found.suspects and str(found).startswith("no sign of gradient masking: ")
    assert [one.attack for one in found.comparisons] == ["Square-50", "transferred PGD-10"]
    assert all(found.white_box.accuracy <= one.accuracy < 1 for one in found.comparisons)
    assert found.as_dict()["masking_suspected"] is False


def test_counts_are_of_images_that_one_attack_alone_breaks(network):
    found = checked(FrontEnded([Blur(0.6)], network).eval())
    for one in found.comparisons:
        difference = round(60 * (found.white_box.accuracy - one.accuracy))
        assert one.only_it_breaks - one.only_white_box_breaks == difference
        assert one.p_value == sign_test(one.only_it_breaks, one.only_white_box_breaks)


def test_transfer_comes_from_the_network_behind_its_normalisation(network):
    normalise, blur = Normalize([0.5] * 3, [0.2] * 3), Blur(1.0)
    bare = bare_network(FrontEnded([blur, normalise], network))
    assert list(bare.front_ends) == [normalise] and bare.network is network


def test_which_models_have_a_front_end(network):
    assert has_front_end(FrontEnded([Blur(1.0)], network))
    assert not has_front_end(FrontEnded([InputSize((8, 8)), Normalize([0.5] * 3, [0.2] * 3)], network))
    assert not has_front_end(network)
    with pytest.raises(ValueError, match="model: expected a FrontEnded with a front end"):
        checked(network)


@pytest.mark.parametrize(
    "more, fewer, p_value", [(0, 0, 1), (5, 0, 1 / 32), (0, 5, 1), (3, 1, 5 / 16), (10, 10, 0.588099)]
)
def test_the_sign_test_is_exact(more, fewer, p_value):
    assert sign_test(more, fewer) == pytest.approx(p_value, rel=1e-5)
    assert 0 < sign_test(6000, 4000) < 1e-80


def test_eight_images_against_none_are_more_than_noise_and_seven_are_not():
    def suspects(*counts):
        comparisons = tuple(AttackComparison("Square", 0.5, *pair, sign_test(*pair)) for pair in counts)
        return MaskingCheck(None, comparisons).suspects

    assert suspects((8, 0), (0, 9)) and suspects((0, 9), (8, 0)) and not suspects((7, 0), (0, 9))
    assert not suspects((8, 1), (9, 3))


def test_it_is_kept_too(network, tmp_path):
    model = FrontEnded([Blur(0.6)], network).eval()
    first = checked(model, cache=tmp_path)
    left = []
    assert checked(model, cache=tmp_path, progress=lambda items, *_: left.extend(items) or items) == first and not left
