"""RingMap against its definition, computed the slow way, and against the authors' map."""

from math import isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqrob.spectral.rings import RingMap

SIZES = [(1, 1), (1, 8), (2, 2), (5, 5), (8, 64), (31, 33), (32, 32), (64, 64), (224, 224)]
sizes = st.integers(1, 40)


def slow_ring(row: int, column: int, height: int, width: int, rule: str) -> int:
    """The ring of a coefficient of the shifted spectrum, in Python's exact integers."""
    ky, kx = row - height // 2, column - width // 2
    squared, unit = (ky * width) ** 2 + (kx * height) ** 2, min(height, width) ** 2
    return isqrt(squared // unit) if rule == "trunc" else (isqrt(4 * squared // unit) + 1) // 2


@pytest.mark.parametrize("rule", ["trunc", "round"])
@pytest.mark.parametrize("size", SIZES)
def test_definition(size, rule):
    rings = RingMap(*size, rule)
    expected = [[slow_ring(i, j, *size, rule) for j in range(size[1])] for i in range(size[0])]
    assert rings.shifted.tolist() == expected


def test_authors_map(golden_bass):
    assert (RingMap(32, 32).shifted.numpy() == golden_bass["ring_map"]).all()


@given(sizes, sizes, st.sampled_from(["trunc", "round"]))
def test_half_says_it_all(height, width, rule):
    rings = RingMap(height, width, rule)
    assert torch.equal(rings.full, rings.full.flip(0, 1).roll((1, 1), (0, 1))), "ring(-k) = ring(k)"
    assert torch.equal(rings.half, rings.full[:, : width // 2 + 1])
    assert rings.counts.sum() == height * width
    weighted = torch.zeros(rings.rings, dtype=torch.int64)
    weighted.index_add_(0, rings.half.flatten().long(), rings.multiplicity.expand_as(rings.half).flatten())
    assert torch.equal(weighted, rings.counts)


def test_units():
    rings = RingMap(32, 32)
    assert rings.rings == 23
    assert rings.radii[16] == 0.5, "Nyquist is 0.5 cycles/pixel"
    assert rings.counts[0] == 1 and rings.counts[-1] == 1
    # A wide image: one bin down is as far as eight bins across.
    assert RingMap(8, 64).full[1, 0] == RingMap(8, 64).full[0, 8] == 8


def test_equal_maps_share_their_tensors_and_nobody_spoils_them():
    cpu = torch.device("cpu")
    assert RingMap(32, 32).half_on(cpu) is RingMap(32, 32).half_on(cpu)
    assert RingMap(32, 32) != RingMap(32, 32, "round")
    RingMap(18, 18).half[0, 0] = 5
    RingMap(18, 18).counts[0] = 5
    assert RingMap(18, 18).half[0, 0] == 0 and RingMap(18, 18).counts[0] == 1


def test_made_in_inference_mode_it_serves_autograd():
    with torch.inference_mode():
        RingMap(22, 22).half_on(torch.device("cpu"))
    assert not RingMap(22, 22).half_on(torch.device("cpu")).is_inference()
    with torch.device("meta"):
        assert RingMap(13, 13).counts.sum() == 169


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 32), ValueError, "height"),
        ((32, -1), ValueError, "width"),
        ((32.0, 32), TypeError, "height"),
        ((32, True), TypeError, "width"),
        ((32, 32, "floor"), ValueError, "rule"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        RingMap(*arguments)
