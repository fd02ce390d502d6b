"""The spectral ops against the plain PyTorch reference: values, derivatives, dtypes, layouts, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from freqrob.spectral import ops, reference
from freqrob.spectral.rings import RingMap
from tests.support.kernels import OPS, RULES, Case, assert_near, pictures, run, value_and_gradients

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [(32, 32), (64, 64), (1, 1), (31, 33), (48, 48), (8, 64)]
SMALL = [(6, 5), (4, 4), (1, 3)]
GROUPS = [1, 3, 16, 17, 31, 33, 65]  # the fused kernels take 16, 8 or 4 planes at a time
GOLDEN = Path(__file__).parents[1] / "golden" / "bass_official_cifar10.npz"

needs_native = pytest.mark.skipif(not ops._registered("cpu"), reason="no native library")


@pytest.fixture(params=[pytest.param("auto", marks=needs_native), "off"], ids=["native", "reference"])
def policy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FREQROB_NATIVE", request.param)
    return request.param


# Values and derivatives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPS)
def test_value_and_gradients(name: str, size: tuple[int, int], rule: str, dtype: torch.dtype, policy: str) -> None:
    case = Case(name, size, rule, planes=(3, 11))
    found = value_and_gradients(case.op, tuple(x.to(dtype) for x in case.inputs))
    expected = value_and_gradients(case.reference, tuple(x.double() for x in case.inputs))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


@needs_native
@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("name", OPS)
def test_derivatives_by_differences(name: str, size: tuple[int, int]) -> None:
    case = Case(name, size, planes=(2,))
    inputs = tuple(x.double().requires_grad_() for x in case.inputs)
    assert gradcheck(case.op, inputs)
    assert gradgradcheck(case.op, inputs)


@pytest.mark.parametrize("name", ["amplitude", "mean"])
def test_amplitude_of_nothing_has_gradient_zero(name: str, policy: str) -> None:
    x = torch.zeros(2, 8, 8, dtype=torch.float64, requires_grad=True)
    value = Case(name, (8, 8)).op(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert (gradient == 0).all() and (second == 0).all()


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (6, 5)])
def test_coefficients_on_no_ring(size: tuple[int, int]) -> None:
    rings = RingMap(*size)
    half = rings.half.clone()
    half[half == 2] = -1
    x, y = torch.randn(2, *size), torch.randn(2, *size)
    without = torch.ones(2, rings.rings)
    without[:, 2] = 0
    assert_near(torch.ops.freqrob.ring_sum(x, half, rings.rings, False), reference.ring_sum(x, rings) * without)
    assert_near(torch.ops.freqrob.ring_dot(x, y, half, rings.rings), reference.ring_dot(x, y, rings) * without)
    w = torch.randn(2, rings.rings)
    for outside in (1.0, 0.0):
        expected = torch.where(without == 0, outside, w)
        assert_near(torch.ops.freqrob.ring_filter(x, w, half, outside), reference.ring_filter(x, expected, rings))


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (9, 12)])
def test_what_is_kept_of_a_ring_map_is_not_used_for_another(size: tuple[int, int]) -> None:
    maps = [RingMap(*size).half, RingMap(*size, "round").half]
    images, rings, op = pictures(2, *size), RingMap(*size, "round").rings, torch.ops.freqrob
    expected = [op.ring_sum(images, half, rings, False) for half in maps]
    changing = maps[0].clone()
    for i in (1, 0, 0, 1):
        op.mean_amplitude(images)
        op.ring_sum(images.double(), maps[0], rings, False)
        assert torch.equal(op.ring_sum(images, changing.copy_(maps[i]), rings, False), expected[i])
        op.bass(images, maps[1 - i], rings, False, 255.0)
        assert torch.equal(op.ring_sum(images, changing, rings, False), expected[i])
    with pytest.raises(RuntimeError, match="half: expected rings from -1 to"):
        op.ring_sum(images, changing.fill_(rings), rings, False)


@needs_native
@pytest.mark.parametrize("amplitude", [False, True])
def test_derivatives_beside_coefficients_on_no_ring(amplitude: bool) -> None:
    rings = RingMap(6, 5)
    half = rings.half.clone()
    half[half == 1] = -1
    x, y = (torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = torch.randn(2, rings.rings, dtype=torch.float64, requires_grad=True)
    op = torch.ops.freqrob
    assert gradgradcheck(lambda x: op.ring_sum(x, half, rings.rings, amplitude), (x,))
    assert gradgradcheck(lambda x, y: op.ring_dot(x, y, half, rings.rings), (x, y))
    assert gradgradcheck(lambda x, w: op.ring_filter(x, w, half), (x, w))
    for function, inputs in (
        (lambda x: op.ring_sum(x, half, rings.rings, amplitude), (x,)),
        (lambda x, y: op.ring_dot(x, y, half, rings.rings), (x, y)),
        (lambda x, w: op.ring_filter(x, w, half), (x, w)),
    ):
        assert gradcheck(function, inputs)


# PyTorch's own rules for ops


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (6, 5)])
def test_opcheck(size: tuple[int, int]) -> None:
    rings = RingMap(*size)
    half, n = rings.half, rings.rings
    x, y = (torch.rand(2, *size, requires_grad=True) for _ in range(2))
    w = torch.rand(2, n, requires_grad=True)
    op, check = torch.ops.freqrob, torch.library.opcheck
    for amplitude in (False, True):
        check(op.ring_sum.default, (x, half, n, amplitude))
    check(op.ring_filter.default, (x, w, half))
    check(op.ring_filter.default, (x, w, half, 0.0))
    check(op.ring_dot.default, (x, y, half, n))
    check(op.mean_amplitude.default, (x,))
    for images in (x.detach(), (x.detach() * 255).to(torch.uint8)):
        check(op.bass.default, (images, half, n, False, 255.0))
        check(op.bass_out.default, (images, half, n, False, 255.0, torch.empty_like(images)))


@needs_native
def test_compiles_to_one_graph() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        profile = ops.ring_sum(x, of="amplitude") + ops.ring_sum(x).sqrt() + ops.ring_dot(x, 2 * x)
        return ops.ring_filter(x, w * profile) * ops.mean_amplitude(x).sum() + ops.balance(x.detach())

    inputs = torch.rand(3, 32, 32), torch.rand(3, RingMap(32, 32).rings)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        value_and_gradients(compiled, inputs), value_and_gradients(function, inputs), strict=True
    ):
        assert_near(found, expected)
    larger = torch.rand(2, 48, 48), torch.rand(2, RingMap(48, 48).rings)
    assert_near(compiled(*larger), function(*larger))


# Layouts, dtypes, numbers of planes


@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
@pytest.mark.parametrize("name", OPS)
def test_any_strides(name: str, size: tuple[int, int], policy: str) -> None:
    case = Case(name, size)
    expected = case.reference(*(x.double() for x in case.inputs))
    strided = tuple(torch.stack([x, x], -1)[..., 0] for x in case.inputs)
    assert not any(x.is_contiguous() for x in strided)
    assert_near(case.op(*strided), expected)
    constant = tuple(torch.ones(()).expand(x.shape) for x in case.inputs)
    assert_near(case.op(*constant), case.reference(*(x.double() for x in constant)))


@pytest.mark.parametrize("planes", GROUPS)
@pytest.mark.parametrize("name", OPS)
def test_any_number_of_planes(name: str, planes: int, policy: str) -> None:
    case = Case(name, (32, 32), planes=(planes,))
    assert_near(case.op(*case.inputs), case.reference(*(x.double() for x in case.inputs)))


def test_leading_dimensions(policy: str) -> None:
    rings = RingMap(32, 32)
    x, w = torch.randn(4, 1, 32, 32), torch.randn(3, rings.rings)
    assert_near(ops.ring_filter(x, w), reference.ring_filter(x.double(), w.double(), rings))
    assert ops.ring_sum(x[0, 0]).shape == (rings.rings,)
    assert_near(ops.mean_amplitude(x[0, 0]), torch.fft.rfft2(x[0, 0].double()).abs())


def test_the_gradient_of_broadcast_weights_is_summed(policy: str) -> None:
    rings = RingMap(32, 32)
    x, w = torch.randn(4, 3, 32, 32), torch.randn(rings.rings)
    found = value_and_gradients(lambda x, w: ops.ring_filter(x, w), (x, w))
    expected = value_and_gradients(lambda x, w: reference.ring_filter(x, w, rings), (x.double(), w.double()))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("size", [(32, 32), (6, 5)])
def test_an_empty_batch(size: tuple[int, int], policy: str) -> None:
    rings = RingMap(*size)
    x = torch.zeros(0, 3, *size)
    assert ops.ring_sum(x).shape == ops.ring_dot(x, x).shape == (0, 3, rings.rings)
    assert ops.ring_filter(x, torch.zeros(0, 3, rings.rings)).shape == x.shape
    assert ops.balance(x).shape == ops.balance(x.to(torch.uint8)).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, policy: str) -> None:
    x = torch.rand(2, 32, 32).to(dtype)
    w = torch.rand(2, RingMap(32, 32).rings).to(dtype)
    assert ops.ring_sum(x).dtype == ops.ring_dot(x, x).dtype == ops.mean_amplitude(x).dtype == torch.float32
    assert ops.ring_filter(x, w).dtype == ops.balance(x).dtype == dtype
    assert_near(ops.ring_sum(x), reference.ring_sum(x.double(), RingMap(32, 32)))


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
def test_mean_amplitude_does_not_depend_on_the_threads(size: tuple[int, int]) -> None:
    x = torch.randn(300, *size)
    alone = ops.mean_amplitude(x)
    torch.set_num_threads(2)
    assert torch.equal(ops.mean_amplitude(x), alone)


# Planes share vector lanes; nothing of one may show in another


@pytest.mark.parametrize("scale", [1e-3, 1e-12, 1e12])
@pytest.mark.parametrize("planes", [1, 3, 33])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (12, 9)])
def test_small_and_large_values_keep_their_digits(
    size: tuple[int, int], planes: int, scale: float, policy: str
) -> None:
    """Lanes without a plane must not add what leaks into them to the mean."""
    x = torch.randn(planes, *size) * scale
    assert_near(ops.mean_amplitude(x), reference.mean_amplitude(x.double()))
    ring_map = RingMap(*size)
    assert_near(ops.ring_sum(x, of="amplitude"), reference.ring_sum(x.double(), ring_map, "amplitude"))
    w = torch.rand(planes, ring_map.rings)
    assert_near(ops.ring_filter(x, w), reference.ring_filter(x.double(), w.double(), ring_map))


@needs_native
@pytest.mark.parametrize("scale", [1e-24, 1e24])
@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
def test_amplitudes_whose_squares_do_not_fit_a_float(size: tuple[int, int], scale: float) -> None:
    x = torch.randn(3, *size) * scale
    for of in (x, x[0]):
        assert_near(ops.mean_amplitude(of), reference.mean_amplitude(of.double().view(-1, *size)))
        assert_near(ops.ring_sum(of, of="amplitude"), reference.ring_sum(of.double(), RingMap(*size), "amplitude"))


@needs_native
def test_a_plane_of_zeros_stays_zero_beside_others() -> None:
    x = torch.randn(64, 32, 32) * 1e-6
    x[::2] = 0
    assert ops.ring_sum(x, of="amplitude")[::2].max() == 0
    assert_near(ops.mean_amplitude(x), reference.mean_amplitude(x.double()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
@pytest.mark.parametrize("name", ["power", "amplitude", "filter", "dot", "bass"])
def test_a_plane_that_is_not_finite_stays_alone(name: str, size: tuple[int, int], bad: float, policy: str) -> None:
    if name == "bass":
        function, inputs = ops.balance, (torch.rand(65, *size),)
    else:
        case = Case(name, size, planes=(65,))
        function, inputs = case.op, case.inputs
    expected = function(*inputs)
    spoilt = [3, 20, 64]
    inputs[0][spoilt, 2, 1] = bad
    found = function(*inputs)
    assert not found[spoilt].isfinite().flatten(1).all(1).any()
    kept = [plane for plane in range(65) if plane not in spoilt]
    assert_near(found[kept], expected[kept])


def test_weights_that_are_not_finite_spoil_their_plane_only(policy: str) -> None:
    case = Case("filter", (32, 32), planes=(65,))
    x, w = case.inputs
    expected = case.op(x, w)
    w[7, 3] = float("nan")
    found = case.op(x, w)
    assert not found[7].isfinite().any()
    assert_near(found[torch.arange(65) != 7], expected[torch.arange(65) != 7])


@pytest.mark.parametrize("name", ["power", "amplitude", "filter", "dot"])
def test_a_faint_plane_keeps_its_digits(name: str, policy: str) -> None:
    """Per-sample gradients differ by many orders of magnitude within a batch."""
    case = Case(name, (32, 32), planes=(40,))
    scale = torch.tensor([1.0, 1e-9, 1e7, 1e-12, 1e12] * 8)
    inputs = tuple(x * scale.view(-1, *[1] * (x.ndim - 1)) for x in case.inputs)
    found, expected = case.op(*inputs), case.reference(*(x.double() for x in inputs))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


# BaSS


@pytest.mark.parametrize("weighting", ["amplitude", "power"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_bass(size: tuple[int, int], rule: str, weighting: str, policy: str) -> None:
    rings = RingMap(*size, rule)
    x = pictures(7, 5, *size)
    found = ops.balance(x, rings, weighting=weighting)
    expected = reference.balance(x.double(), rings, weighting=weighting)
    assert found.dtype == torch.float32 and found.shape == x.shape
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (31, 33)])
@pytest.mark.parametrize("planes", GROUPS)
def test_bass_of_bytes(planes: int, size: tuple[int, int], policy: str) -> None:
    x = (255 * pictures(planes, *size)).to(torch.uint8)
    found, expected = ops.balance(x), reference.balance(x, RingMap(*size))
    difference = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8 and difference.max() <= 1
    assert (difference == 0).double().mean() > 0.999


@pytest.mark.parametrize("pixel_scale", [1.0, 100.0])
def test_bass_on_another_pixel_scale(pixel_scale: float, policy: str) -> None:
    x = pictures(3, 32, 32)
    expected = reference.balance(x.double(), RingMap(32, 32), pixel_scale=pixel_scale)
    assert (ops.balance(x, pixel_scale=pixel_scale) - expected).abs().max() < 1e-5


def test_bass_is_the_authors_on_natural_images(policy: str) -> None:
    golden = np.load(GOLDEN)
    images, expected = (torch.from_numpy(golden[key][:60]).permute(0, 3, 1, 2) for key in ("images", "bass"))
    difference = (ops.balance(images).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference == 0).double().mean() > 0.999


@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_bass_leaves_flat_planes_bit_for_bit(dtype: torch.dtype, size: tuple[int, int], policy: str) -> None:
    x = (255 * pictures(40, *size)).to(torch.uint8).to(dtype)
    x = x / 255 if dtype == torch.float32 else x
    flat = torch.arange(0, 40, 3)
    x[flat] = x[flat, :1, :1].clone().expand(-1, *size)
    assert torch.equal(ops.balance(x)[flat], x[flat])


@pytest.mark.parametrize("size", [(32, 32), (12, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_bass_into_a_tensor(dtype: torch.dtype, size: tuple[int, int], policy: str) -> None:
    x = (255 * pictures(37, *size)).to(torch.uint8)
    x[5] = 9
    x = x / 255 if dtype == torch.float32 else x
    expected = ops.balance(x)
    out = torch.empty_like(x)
    assert ops.balance(x, out=out) is out and torch.equal(out, expected)
    strided = torch.empty(*x.shape, 2, dtype=dtype)[..., 0]
    assert torch.equal(ops.balance(x, out=strided), expected) and torch.equal(strided, expected)
    assert ops.balance(x, out=x) is x and torch.equal(x, expected)


# Properties


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    planes=st.integers(1, 5),
    rule=st.sampled_from(RULES),
    transposed=st.booleans(),
    exponent=st.integers(-12, 12),
)
def test_rings_hold_all_of_the_energy(
    height: int, width: int, planes: int, rule: str, transposed: bool, exponent: int
) -> None:
    rings = RingMap(height, width, rule)
    shape = (planes, width, height) if transposed else (planes, height, width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(height)) * 10.0**exponent
    x = x.mT if transposed else x
    energy = x.double().square().sum((1, 2))
    assert_near(ops.ring_sum(x, rings).sum(-1), energy * height * width)
    assert_near(ops.ring_dot(x, x, rings).sum(-1), energy)
    ones = torch.ones(planes, rings.rings)
    assert_near(ops.ring_filter(x, ones, rings), x)
    assert_near(ops.ring_filter(x, 0 * ones, rings) + x, x)


@settings(max_examples=20, deadline=None)
@given(data=st.lists(st.integers(0, 255), min_size=1, max_size=64), size=st.sampled_from([32, 64, 7]))
def test_bass_of_any_bytes_is_the_reference(data: list[int], size: int) -> None:
    pixels = torch.tensor(data, dtype=torch.uint8).repeat(size * size // len(data) + 1)[: size * size]
    x = pixels.view(1, size, size)
    profile = reference.bass_profile(x.double(), RingMap(size, size), "amplitude")
    if ((profile > 0.5) & (profile < 2) | (profile < 1e-6) & (profile > 0)).any():
        return  # on the brink of eligibility rounding decides
    assert (ops.balance(x).int() - reference.balance(x, RingMap(size, size)).int()).abs().max() <= 1


# Instruction sets


@needs_native
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_instruction_set(isa: str) -> None:
    here = repr(str(Path(__file__).parents[2]))
    done = run(
        f"""
import sys; sys.path.insert(0, {here})
import torch
from tests.spectral import test_ops as t
from freqrob.spectral import native
native.load()
print(torch.ops.freqrob.isa())
torch.set_num_threads(1)
for name in t.OPS:
    for size in ((32, 32), (64, 64)):
        case = t.Case(name, size, planes=(37,))
        t.assert_near(case.op(*case.inputs), case.reference(*(x.double() for x in case.inputs)))
t.test_bass((32, 32), "trunc", "amplitude", "auto")
t.test_bass((64, 64), "trunc", "power", "auto")
t.test_bass_of_bytes(37, (32, 32), "auto")
t.test_a_faint_plane_keeps_its_digits("power", "auto")
t.test_a_plane_that_is_not_finite_stays_alone("bass", (32, 32), float("nan"), "auto")
t.test_bass_is_the_authors_on_natural_images("auto")
""",
        FREQROB_ISA=isa,
    )
    if "which this CPU or build does not have" in done.stderr:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]


@needs_native
def test_a_misspelt_instruction_set_is_an_error() -> None:
    done = run("import torch; from freqrob.spectral import ops; ops.ring_sum(torch.rand(32, 32))", FREQROB_ISA="avx3")
    assert done.returncode != 0
    assert "FREQROB_ISA: expected 'avx512', 'avx2' or 'baseline', got 'avx3'" in done.stderr


# Bad input

X = torch.rand(2, 3, 8, 8)
W = torch.rand(2, 3, RingMap(8, 8).rings)
NESTED = torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.ring_sum([1.0]), TypeError, "x: expected a torch.Tensor, got list"),
        (lambda: ops.ring_sum(X.to(torch.uint8)), TypeError, "x: expected floats, got torch.uint8"),
        (lambda: ops.ring_sum(X.to(torch.complex64)), TypeError, "x: expected floats, got torch.complex64"),
        (lambda: ops.ring_sum(X[0, 0, 0]), ValueError, r"x: expected \(..., H, W\).* got shape \(8,\)"),
        (lambda: ops.ring_sum(X[..., :0]), ValueError, r"got shape \(2, 3, 8, 0\)"),
        (lambda: ops.ring_sum(X, of="energy"), ValueError, "of: expected 'power' or 'amplitude', got 'energy'"),
        (lambda: ops.ring_sum(X, RingMap(8, 9)), ValueError, r"ring_map: .*\(8, 8\).* got one of \(8, 9\)"),
        (lambda: ops.ring_sum(X, 3), TypeError, "ring_map: expected a RingMap, got int"),
        (lambda: ops.ring_filter(X, W.double()), TypeError, "weights: expected the dtype of x, torch.float32"),
        (lambda: ops.ring_filter(X, 2.0), TypeError, "weights: expected a torch.Tensor, got float"),
        (lambda: ops.ring_filter(X, W[..., 1:]), ValueError, "weights: expected .* one for each ring"),
        (lambda: ops.ring_filter(X, W[0, 0, 0]), ValueError, "weights: expected .* one for each ring"),
        (lambda: ops.ring_filter(X, W[:, :2]), ValueError, r"weights: .* broadcast .* got \(2, 2\) and \(2, 3\)"),
        (lambda: ops.ring_dot(X, X[:1]), ValueError, "y: expected the shape of x"),
        (lambda: ops.ring_dot(X, X.double()), TypeError, "y: expected the dtype of x"),
        (lambda: ops.mean_amplitude(X[:0]), ValueError, "x: expected at least one plane"),
        (lambda: ops.balance(X.int()), TypeError, "x: expected floats or uint8, got torch.int32"),
        (lambda: ops.balance(X, weighting="authors"), ValueError, "weighting: expected 'amplitude' or 'power'"),
        (lambda: ops.balance(X, pixel_scale=0), ValueError, "pixel_scale: expected .* float32's range, got 0"),
        (lambda: ops.balance(X, pixel_scale=float("nan")), ValueError, "pixel_scale"),
        (lambda: ops.balance(X, pixel_scale=1e39), ValueError, r"pixel_scale: .* float32's range, got 1e\+39"),
        (lambda: ops.balance(X, pixel_scale=10**400), ValueError, "pixel_scale: .* float32's range"),
        (lambda: ops.balance(X, pixel_scale="255"), TypeError, "pixel_scale: expected a number, got str"),
        (
            lambda: ops.balance(X, pixel_scale=torch.tensor(255.0)),
            TypeError,
            "pixel_scale: expected a number, got Tensor",
        ),
        (
            lambda: ops.balance(X, out=X[:1, :1].expand(X.shape)),
            ValueError,
            "out: expected separate memory .*strides",
        ),
        (lambda: ops.balance(X, out=X.to_sparse()), TypeError, "out: expected a dense tensor, got torch.sparse_coo"),
        (lambda: ops.ring_sum(X.to_sparse()), TypeError, "x: expected a dense tensor, got torch.sparse_coo"),
        (lambda: ops.ring_sum(X.to_mkldnn()), TypeError, "x: expected a dense tensor, got torch._mkldnn"),
        (lambda: ops.ring_sum(NESTED), TypeError, "x: expected a dense tensor, got a nested one"),
        (lambda: ops.ring_sum(X.to(torch.float8_e4m3fn)), TypeError, "x: expected floats, got torch.float8_e4m3fn"),
        (lambda: ops.balance(X, out=X.double()), TypeError, "out: expected the dtype of x"),
        (lambda: ops.balance(X, out=X[0]), ValueError, "out: expected the shape of x"),
        (lambda: ops.balance(X, out=X.clone().requires_grad_()), ValueError, "out: .* not require a gradient"),
    ],
)
def test_bad_input(call: Callable[[], Tensor], error: type[Exception], message: str, policy: str) -> None:
    with pytest.raises(error, match=message):
        call()


@needs_native
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda op, half: op.ring_sum(X, half.long(), 6, False), "half: expected a contiguous int32"),
        (lambda op, half: op.ring_sum(X, half[1:], 6, False), "half: expected the shape"),
        (lambda op, half: op.ring_sum(X, half, 3, False), "half: expected rings from -1 to 2"),
        (lambda op, half: op.ring_filter(X, W[:1], half), "weights: expected the leading dimensions"),
        (lambda op, half: op.ring_dot(X, X[:1], half, 6), "y: expected the shape of x"),
        (lambda op, half: op.ring_sum(X.half(), half, 6, False), "x: expected float32 or float64"),
        (
            lambda op, half: op.bass_out(X, half, 6, False, 255.0, torch.stack([X, X], -1)[..., 0]),
            "out: expected a contiguous",
        ),
    ],
)
def test_raw_ops_never_read_out_of_bounds(call: Callable[..., Tensor], message: str) -> None:
    ops.ring_sum(X)
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.freqrob, RingMap(8, 8).half)
