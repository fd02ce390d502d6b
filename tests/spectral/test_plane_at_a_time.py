"""The fused CPU kernels of each kind (a plane to a lane, a plane at a time) at every instruction set this CPU has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from freqrob.spectral import native, ops, reference
from freqrob.spectral.rings import RingMap
from tests.support.kernels import OPS, RULES, Case, assert_near, pictures, run, value_and_gradients

SIZES = [(32, 32), (64, 64), (224, 224), (48, 48)]

each_size = pytest.mark.parametrize("size", SIZES, ids=str)

pytestmark = [
    pytest.mark.skipif(not native.load(), reason="no native library"),
    pytest.mark.usefixtures("one_thread"),
]


@each_size
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OPS)
def test_value_and_gradients(size: tuple[int, int], name: str, rule: str) -> None:
    case = Case(name, size, rule)
    found = value_and_gradients(case.op, case.inputs)
    expected = value_and_gradients(case.reference, tuple(x.double() for x in case.inputs))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


def impulses(size: tuple[int, int], planes: int) -> Tensor:
    """Planes whose coefficients are all far from 0, so that each has digits to keep."""
    x = 0.01 * torch.randn(planes, *size)
    x[:, size[0] // 2, size[1] // 6] += 12
    return x


@each_size
@pytest.mark.parametrize("of", ["power", "amplitude"])
def test_every_ring_keeps_its_digits(size: tuple[int, int], of: str) -> None:
    x, rings = impulses(size, 3), RingMap(*size)
    expected = reference.ring_sum(x.double(), rings, of)
    assert ((ops.ring_sum(x, rings, of) - expected).abs() / expected).max() < 1e-5


@each_size
def test_every_mean_amplitude_keeps_its_digits(size: tuple[int, int]) -> None:
    x = impulses(size, 6)  # the kernel adds four planes first
    expected = reference.mean_amplitude(x.double())
    assert ((ops.mean_amplitude(x) - expected).abs() / expected).max() < 1e-5


@each_size
@pytest.mark.parametrize("weighting", ["amplitude", "power"])
@pytest.mark.parametrize("rule", RULES)
def test_bass(size: tuple[int, int], rule: str, weighting: str) -> None:
    x, rings = pictures(2, 3, *size), RingMap(*size, rule)
    expected = reference.balance(x.double(), rings, weighting=weighting)
    assert (ops.balance(x, rings, weighting=weighting) - expected).abs().max() < 1e-5


@each_size
def test_bass_of_bytes(size: tuple[int, int]) -> None:
    x = (255 * pictures(5, *size)).to(torch.uint8)
    difference = (ops.balance(x).int() - reference.balance(x, RingMap(*size)).int()).abs()
    assert difference.max() <= 1
    assert (difference == 0).double().mean() > 0.999


@each_size
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_bass_into_a_tensor_and_of_flat_planes(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(4, *size)
    x[1] = 0.3 + 1e-6 * torch.rand(size)  # no ring but DC has an amplitude above 1
    x[3] = 9
    x = x if dtype == torch.float32 else (255 * x).to(torch.uint8)
    expected, out = ops.balance(x), torch.empty_like(x)
    assert torch.equal(expected[1::2], x[1::2]) and not torch.equal(expected[::2], x[::2])
    assert ops.balance(x, out=out) is out and torch.equal(out, expected)
    assert ops.balance(x, out=x) is x and torch.equal(x, expected)


def any_map(size: tuple[int, int]) -> Tensor:
    """Rings without order, some coefficients on none; ring(-k) = ring(k)."""
    middle = size[0] // 2
    half = torch.randint(-1, 7, (size[0], middle + 1), dtype=torch.int32)
    for column in (0, middle):
        half[middle + 1 :, column] = half[1:middle, column].flip(0)
    return half


@each_size
def test_any_symmetric_map(size: tuple[int, int]) -> None:
    half, op = any_map(size), torch.ops.freqrob
    x, y, w = torch.randn(3, *size), torch.randn(3, *size), torch.randn(3, 7)
    exact = [torch.fft.rfft2(v.double()) for v in (x, y)]
    times = RingMap(*size).multiplicity

    def sums(values: Tensor) -> Tensor:
        rings = torch.zeros(3, 8, dtype=torch.float64)
        return rings.index_add_(-1, half.flatten().long() + 1, (values * times).flatten(-2))[:, 1:]

    assert_near(op.ring_sum(x, half, 7, False), sums(exact[0].abs().square()))
    assert_near(op.ring_sum(x, half, 7, True), sums(exact[0].abs()))
    assert_near(op.ring_dot(x, y, half, 7), sums((exact[0] * exact[1].conj()).real) / (size[0] * size[1]))
    phases = exact[0] / exact[0].abs()
    gains = torch.cat([torch.zeros(3, 1), w], -1).double()[:, half.long() + 1]
    expected = torch.fft.irfft2(gains * phases, norm="forward")
    assert_near(op.ring_amplitude_backward(w, x, half), expected)
    for outside in (1.0, 0.25):
        gains = torch.cat([torch.full((3, 1), outside), w], -1).double()[:, half.long() + 1]
        assert_near(op.ring_filter(x, w, half, outside), torch.fft.irfft2(gains * exact[0]))


@each_size
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["power", "amplitude", "filter", "dot", "bass"])
def test_a_plane_that_is_not_finite_stays_alone(size: tuple[int, int], name: str, bad: float) -> None:
    case = Case("power" if name == "bass" else name, size, planes=(4,))
    function = ops.balance if name == "bass" else case.op
    expected = function(*case.inputs)
    case.inputs[0][2, 10, 31] = bad
    found = function(*case.inputs)
    assert found[2].isnan().all() if name in ("bass", "filter") else not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


@each_size
def test_weights_that_are_not_finite_spoil_their_plane_only(size: tuple[int, int]) -> None:
    case = Case("filter", size, planes=(3,))
    x, w = case.inputs
    expected = case.op(x, w)
    w[1, 3] = float("nan")
    found = case.op(x, w)
    assert found[1].isnan().all() and torch.equal(found[::2], expected[::2])


@each_size
def test_weights_of_any_size_keep_their_digits(size: tuple[int, int]) -> None:
    case = Case("filter", size, planes=(2,))
    x, w = case.inputs
    for scale in (1e-36, 1e36):
        found = case.op(x / scale, w * scale)
        assert_near(found, case.reference(x.double() / scale, w.double() * scale))


@each_size
def test_a_profile_that_overflows_is_not_a_number(size: tuple[int, int]) -> None:
    x, rings = pictures(2, *size), RingMap(*size)
    x[1] *= 3e38
    assert torch.ops.freqrob.bass(x, rings.half, rings.rings, True, 1e300).isnan().all()


@each_size
@pytest.mark.parametrize("name", ["power", "amplitude", "filter", "dot"])
def test_faint_and_strong_planes_keep_their_digits(size: tuple[int, int], name: str) -> None:
    case = Case(name, size, planes=(5,))
    scale = torch.tensor([1.0, 1e-12, 1e12, 1e-18, 1e14])
    inputs = tuple(x * scale.view(-1, *[1] * (x.ndim - 1)) for x in case.inputs)
    found, expected = case.op(*inputs), case.reference(*(x.double() for x in inputs))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


@each_size
def test_the_threads_change_nothing(size: tuple[int, int]) -> None:
    x = torch.rand(7, *size)
    alone = ops.mean_amplitude(x), ops.balance(x), ops.ring_sum(x)
    torch.set_num_threads(2)
    for one, other in zip((ops.mean_amplitude(x), ops.balance(x), ops.ring_sum(x)), alone, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_instruction_set(isa: str) -> None:
    done = run(
        f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import torch
from tests.spectral import test_plane_at_a_time as t
print(torch.ops.freqrob.isa())
torch.set_num_threads(1)
torch.manual_seed(0)
for size in t.SIZES:
    for name in t.OPS:
        t.test_value_and_gradients(size, name, "trunc")
    t.test_every_ring_keeps_its_digits(size, "power")
    t.test_every_ring_keeps_its_digits(size, "amplitude")
    t.test_every_mean_amplitude_keeps_its_digits(size)
    t.test_any_symmetric_map(size)
    t.test_bass(size, "trunc", "amplitude")
    t.test_bass(size, "round", "power")
    t.test_bass_of_bytes(size)
    t.test_bass_into_a_tensor_and_of_flat_planes(size, torch.uint8)
    t.test_a_plane_that_is_not_finite_stays_alone(size, "bass", float("nan"))
    t.test_faint_and_strong_planes_keep_their_digits(size, "filter")
""",
        FREQROB_ISA=isa,
    )
    if "which this CPU or build does not have" in done.stderr:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
