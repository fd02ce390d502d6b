"""The conditions of measurements in words."""

import pytest

from freqrob.data.hybrid import MIXING_FREQUENCIES
from freqrob.diagnostics import HybridReliance
from freqrob.diagnostics.conditions import described, pixels


def test_unlike_conditions_give_unlike_words():
    base = {"images": 20, "source": "cifar10 test", "eps": 8 / 255, "frequencies": list(MIXING_FREQUENCIES)}
    words = HybridReliance.words
    assert described(base, words) == "20 images of cifar10 test, ε = 8/255, Li et al.’s frequencies"
    assert described({"eps": 0.0313, "norm": 2, "seed": 0}) == "ε = 0.0313, norm 2, seed 0"
    others = ({"images": 21}, {"source": ""}, {"eps": 8.1 / 255}, {"frequencies": [0.25, 0.5]}, {"frequencies": [0.25]})
    assert len({described(base | other, words) for other in others} | {described(base, words)}) == 6


@pytest.mark.parametrize(
    "value, words", [(8 / 255, "8/255"), (1 / 1020, "0.25/255"), (2.5 / 255, "2.5/255"), (0.031, "0.031"), (0.5, "0.5")]
)
def test_distances_are_in_grey_levels_where_these_are_round(value, words):
    assert pixels(value) == words
