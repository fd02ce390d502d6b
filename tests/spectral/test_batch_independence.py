"""The result of a plane is the same, bit for bit, alone and in any batch: at any place, beside any neighbours, in any
memory layout, on any number of threads and at every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from freqrob.spectral import native, ops
from freqrob.spectral.balance import BaSS
from freqrob.spectral.rings import RingMap
from tests.support.kernels import run

SIZES = [(32, 32), (64, 64), (224, 224), (12, 9), (31, 33), (48, 80), (1, 6)]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.uint8]
PLANES = 37  # more than two groups of the widest vectors, and some over

each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
needs_native = pytest.mark.skipif(not native.load(), reason="no native library")
pytestmark = pytest.mark.usefixtures("one_thread")


def filtered(x: Tensor) -> Tensor:
    """Filter each plane with weights of its own."""
    rings = RingMap(*x.shape[-2:]).rings
    phase = x[..., 0, :1].float() * torch.arange(rings)
    return ops.ring_filter(x, phase.cos().to(x.dtype))


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "power": ops.ring_sum,
    "amplitude": lambda x: ops.ring_sum(x, of="amplitude"),
    "filter": filtered,
    "dot": lambda x: ops.ring_dot(x, x.flip(-1)),
    "mean": lambda x: torch.stack([ops.mean_amplitude(plane) for plane in x]),
    "BaSS": ops.balance,
    "BaSS, power": lambda x: ops.balance(x, weighting="power"),
}


def gradient(op: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gradient of a weighted sum of what ``op`` returns, the same weights for each plane."""

    def of(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        y = op(x)
        upstream = torch.linspace(-1, 2, y.shape[1:].numel(), dtype=y.dtype).view(y.shape[1:])
        return torch.autograd.grad((y * upstream).sum(), x)[0]

    return of


GRADIENTS = {name: gradient(OPS[name]) for name in ("power", "amplitude", "filter", "dot")} | {
    "BaSS": gradient(BaSS()),
    "BaSS of power": gradient(BaSS("power")),
}
BASS = ["BaSS", "BaSS, power"]
OF_EACH_PLANE = [name for name in OPS if name != "mean"]


def ops_for(dtype: torch.dtype) -> list[str]:
    return BASS if dtype == torch.uint8 else OF_EACH_PLANE


def pictures(size: tuple[int, int], dtype: torch.dtype, planes: int = PLANES) -> Tensor:
    """Planes with a natural fall of the spectrum, of different contrast, one of them constant."""
    generator = torch.Generator().manual_seed(planes * size[0] + size[1])
    height, width = size
    frequency = torch.fft.fftfreq(height)[:, None].hypot(torch.fft.rfftfreq(width)) + 1 / max(size)
    x = torch.fft.irfft2(torch.fft.rfft2(torch.randn(planes, *size, generator=generator)) / frequency, s=size)
    contrast = torch.linspace(0.02, 0.4, planes)[:, None, None]
    x = (0.5 + contrast * x / x.std().clamp_min(1e-6)).clamp(0, 1).nan_to_num(0.5)
    x[planes // 2] = 0.3
    return (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def count(size: tuple[int, int]) -> int:
    return PLANES if size[0] * size[1] < 20000 else 5


def bits(x: Tensor) -> Tensor:
    """The memory of ``x``, so that equal NaNs are equal and 0 is not -0."""
    return x.detach().contiguous().view(torch.uint8)


def assert_same(found: Tensor, expected: Tensor, what: object = "") -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    same = (bits(found) == bits(expected)).flatten(1).all(1)
    assert same.all(), f"{what}: {(~same).sum()} of {len(same)} planes differ: {torch.nonzero(~same).flatten()[:8]}"


def one_by_one(op: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([op(plane[None].clone()) for plane in x])


@needs_native
@each_size
@each_dtype
def test_a_plane_alone_and_in_any_batch(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(size, dtype, count(size))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    parts = [slice(0, 2), slice(1, 4), slice(3, 20), slice(5, None, 2), slice(len(x) - 1, None)]
    batches = [slice(None), *parts, shuffled]
    for name in ops_for(dtype):
        expected = one_by_one(OPS[name], x)
        for batch in batches:
            assert_same(OPS[name](x[batch]), expected[batch], (name, batch))
        images = x[: len(x) // 3 * 3].view(-1, 3, *size)
        assert_same(OPS[name](images).flatten(0, 1), expected[: len(images) * 3], (name, "as images"))


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (64, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_every_number_of_planes(size: tuple[int, int], dtype: torch.dtype) -> None:
    """A few planes go one by one, more of them side by side."""
    x = pictures(size, dtype)
    for name in ops_for(dtype):
        expected = one_by_one(OPS[name], x)
        for planes in range(2, 22):
            assert_same(OPS[name](x[-planes:]), expected[-planes:], (name, planes))


@needs_native
@pytest.mark.parametrize("size", [(32, 32), (64, 64)], ids=str)
@pytest.mark.parametrize("rings", [1, 7, 31, 32, 63, 64, 150])
def test_any_ring_map(size: tuple[int, int], rings: int) -> None:
    """Rings without order, some empty, and coefficients on none; some pixels are so faint that their power is 0."""
    columns = size[1] // 2 + 1
    half = torch.randint(-1, rings, (size[0], columns), dtype=torch.int32)
    for column in (0, columns - 1):
        half[columns:, column] = half[1 : columns - 1, column].flip(0)
    x = pictures(size, torch.float32, 19)
    x[3, 1:], x[3, 0, 1:] = 1e-21 * x[4, 1:], 0
    x[5, :], x[5, 0, 0], x[5, size[0] // 2, 0], x[5, 1, 1:4] = 0, 1, -1, 3e-21
    weights, op = torch.randn(len(x), rings), torch.ops.freqrob
    calls = {
        "power": lambda x, w: op.ring_sum(x, half, rings, False),
        "amplitude": lambda x, w: op.ring_sum(x, half, rings, True),
        "filter": lambda x, w: op.ring_filter(x, w, half, 0.25),
        "gradient": lambda x, w: op.ring_amplitude_backward(w, x, half),
        "dot": lambda x, w: op.ring_dot(x, x.flip(-1), half, rings),
        "BaSS": lambda x, w: op.bass(x, half, rings, False, 255.0),
        "BaSS, power": lambda x, w: op.bass(x, half, rings, True, 255.0),
    }
    for name, call in calls.items():
        expected = torch.cat([call(*pair) for pair in zip(x.split(1), weights.split(1), strict=True)])
        assert_same(call(x, weights), expected, name)


@needs_native
@each_size
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_alone_and_in_any_batch(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(size, dtype, count(size))
    for name, of in GRADIENTS.items():
        expected = one_by_one(of, x)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for batch in (slice(None), slice(0, 2), slice(3, 20), slice(1, None, 2)):
                assert_same(of(x[batch]), expected[batch], (name, batch, threads))
        torch.set_num_threads(1)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="measured with MKL only")
@each_size
@each_dtype
def test_a_plane_alone_and_in_any_batch_in_plain_pytorch(
    size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQROB_NATIVE", "off")
    test_a_plane_alone_and_in_any_batch(size, dtype)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_the_first_of_five_hundred_images(dtype: torch.dtype) -> None:
    x = pictures((32, 32), dtype, 1500).view(500, 3, 32, 32)
    for name in BASS:
        together = OPS[name](x)
        assert_same(OPS[name](x[:100]), together[:100])
        for i in (0, 1, 249, 499):
            assert_same(OPS[name](x[i : i + 1]), together[i : i + 1])


@needs_native
@each_size
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 6e4, 0.0])
def test_neighbours_of_any_value_change_nothing(size: tuple[int, int], dtype: torch.dtype, value: float) -> None:
    x = pictures(size, dtype, count(size))
    neighbour = torch.zeros(len(x), dtype=torch.bool)
    neighbour[[0, 3, 4, len(x) - 1]] = True
    beside = x.clone()
    beside[neighbour] = value
    for name in ops_for(dtype):
        found = OPS[name](beside)
        assert_same(found[~neighbour], OPS[name](x)[~neighbour], (name, value))
        if value != value:
            assert not found[neighbour].isfinite().any()


def stepped(x: Tensor) -> Tensor:
    return torch.stack([torch.full_like(x, 9), x], -1)[..., 1]


def at(offset: int) -> Callable[[Tensor], Tensor]:
    """Puts a tensor at an address that is no multiple of more than its elements' size."""
    return lambda x: torch.cat([x.new_zeros(offset), x.flatten()])[offset:].view(x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "planes last": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3),
    "stepped": stepped,
    **{f"at {offset}": at(offset) for offset in (1, 2, 3, 7, 16)},
}


@needs_native
@each_size
@each_dtype
def test_any_memory_layout(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(size, dtype, min(5, count(size)))
    for name in ops_for(dtype):
        expected = OPS[name](x)
        for layout, lay in LAYOUTS.items():
            assert_same(OPS[name](lay(x)), expected, (name, layout))
    for weighting in ("amplitude", "power"):
        expected = ops.balance(x, weighting=weighting)
        for layout in ("at 1", "at 3", "stepped"):
            out = LAYOUTS[layout](torch.zeros_like(x))
            assert_same(ops.balance(x, weighting=weighting, out=out), expected, ("out=", layout))
        assert_same(ops.balance(x[1:2], weighting=weighting, out=x[1:2]), expected[1:2], "in place")


@needs_native
@each_size
@each_dtype
def test_any_number_of_threads(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(size, dtype, count(size))
    names = ops_for(dtype) + ["mean"] * (dtype != torch.uint8)
    expected = {name: OPS[name](x) for name in names}
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for name in names:
            assert_same(OPS[name](x), expected[name], (name, threads))
            assert_same(OPS[name](x[4:5]), expected[name][4:5], (name, threads, "alone"))


@needs_native
@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_instruction_set(isa: str) -> None:
    done = run(
        f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import torch
from tests.spectral import test_batch_independence as t
torch.set_num_threads(1)
for size in t.SIZES:
    for dtype in t.DTYPES:
        t.test_a_plane_alone_and_in_any_batch(size, dtype)
        t.test_any_memory_layout(size, dtype)
    if size in ((32, 32), (64, 64)):
        t.test_every_number_of_planes(size, torch.float32)
        t.test_every_number_of_planes(size, torch.uint8)
        for rings in (7, 63, 150):
            t.test_any_ring_map(size, rings)
    t.test_neighbours_of_any_value_change_nothing(size, torch.float32, float("nan"))
    t.test_gradients_alone_and_in_any_batch(size, torch.float32)
print(torch.ops.freqrob.isa())
""",
        FREQROB_ISA=isa,
    )
    if "which this CPU or build does not have" in done.stderr:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
