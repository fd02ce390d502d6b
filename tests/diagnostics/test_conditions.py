"""The conditions of measurements in words."""

from freqrob.data.hybrid import MIXING_FREQUENCIES
from freqrob.diagnostics import HybridReliance
from freqrob.diagnostics.conditions import described


def test_unlike_conditions_give_unlike_words():
    base = {"images": 20, "source": "cifar10 test", "eps": 8 / 255, "frequencies": list(MIXING_FREQUENCIES)}
    words = HybridReliance.words
    assert described(base, words) == "20 images of cifar10 test, ε = 8/255, Li et al.’s frequencies"
    assert described({"eps": 0.0313, "norm": 2, "seed": 0}) == "ε = 0.0313, norm 2, seed 0"
    others = ({"images": 21}, {"source": ""}, {"eps": 8.1 / 255}, {"frequencies": [0.25, 0.5]}, {"frequencies": [0.25]})
    assert len({described(base | other, words) for other in others} | {described(base, words)}) == 6
