"""The spectral ops on a GPU against float64 on the CPU. Without a GPU, test_cuda_emulation.py beside it runs the same
arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from freqrob.spectral import native, ops, reference
from freqrob.spectral.rings import RingMap

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]

DEVICE = "cuda"
SIZES = [(32, 32), (64, 64), (224, 224), (48, 80), (31, 33), (1, 1)]
MANY = 1500  # planes: more than are few on any GPU, so that a line is one thread's
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    assert native.load(), native.status().reason
    assert ops._registered(DEVICE), native.status().notes


def pictures(*shape: int, seed: int = 0) -> Tensor:
    """Smooth noise in [0, 1]."""
    height, width = shape[-2:]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / (1 + RingMap(height, width).half), s=(height, width))
    return (0.5 + 0.2 * smooth / smooth.std().clamp_min(1e-6)).clamp(0, 1).nan_to_num(0.5)


def filtered(x: Tensor) -> Tensor:
    """ring_filter with weights that depend on nothing but the shape."""
    rings = RingMap(*x.shape[-2:]).rings
    weights = torch.randn(*x.shape[:-2], rings, generator=torch.Generator().manual_seed(7))
    return ops.ring_filter(x, weights.to(x.device, x.dtype))


def shifted(x: Tensor) -> Tensor:
    return x.roll(1, -1) - 0.2 * x


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: ops.ring_sum(x),
    "amplitude": lambda x: ops.ring_sum(x, of="amplitude"),
    "filter": filtered,
    "dot": lambda x: ops.ring_dot(x, shifted(x)),
    "mean": lambda x: ops.mean_amplitude(x),
    "BaSS": lambda x: ops.balance(x),
    "BaSS, power": lambda x: ops.balance(x, weighting="power"),
}
DIFFERENTIABLE = ["power", "amplitude", "filter", "dot", "mean"]


def assert_near(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    error = (found.cpu().double() - expected.cpu().double()).abs().max()
    assert error <= tolerance * expected.abs().max().clamp_min(1e-30), (error, expected.abs().max())


@pytest.mark.parametrize("planes", [(3,), (2, 3), (MANY,)], ids=["3", "2x3", "many"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_agrees_with_float64(name: str, size: tuple[int, int], planes: tuple[int, ...]) -> None:
    if planes == (MANY,) and size not in ((32, 32), (64, 64)):
        planes = (50,)
    x = pictures(*planes, *size)
    assert_near(OPS[name](x.to(DEVICE)), OPS[name](x.double()))


@pytest.mark.parametrize("planes", [5, MANY])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_bass_of_bytes_and_of_bfloat16(size: int, planes: int) -> None:
    x = pictures(planes if size < 224 else 5, size, size)
    in_bytes = (255 * x).to(torch.uint8)
    difference = (
        ops.balance(in_bytes.to(DEVICE)).cpu().int() - reference.balance(in_bytes, RingMap(size, size)).int()
    ).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3
    rough = x.bfloat16()
    found = ops.balance(rough.to(DEVICE))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.cpu().double(), ops.balance(rough.double()), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (12, 9)], ids=str)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str, size: tuple[int, int]) -> None:
    def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_()
        y = OPS[name](x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return first.detach(), second

    x = pictures(2, 3, *size) + 0.1
    for found, expected in zip(gradients(x.to(DEVICE)), gradients(x.double()), strict=True):
        assert_near(found, expected, 1e-4)


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", OPS)
def test_any_strides_and_addresses(name: str, size: int) -> None:
    x = pictures(4, size, size)
    expected = OPS[name](x.double())
    wide = torch.zeros(4, size, 2 * size, device=DEVICE)
    wide[..., ::2] = x.to(DEVICE)
    off_by_one = torch.zeros(x.numel() + 1, device=DEVICE)[1:].view(x.shape)  # at no multiple of 8 bytes
    off_by_one.copy_(x)
    for strange in (wide[..., ::2], x.mT.contiguous().to(DEVICE).mT, off_by_one):
        assert_near(OPS[name](strange), expected)


@pytest.mark.parametrize("size", [32, 224])
def test_bass_into_a_tensor(size: int) -> None:
    x = pictures(4, size, size).to(DEVICE)
    expected = ops.balance(x)
    odd = torch.zeros(x.numel() + 1, device=DEVICE)[1:].view(x.shape)
    for out in (torch.empty_like(x), odd):
        assert ops.balance(x, out=out) is out
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert ops.balance(x, out=x) is x
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


@pytest.mark.parametrize("planes", [7, MANY])
@pytest.mark.parametrize("name", OPS)
def test_twice_the_same_bits(name: str, planes: int) -> None:
    x = pictures(planes, 32, 32).to(DEVICE)
    assert torch.equal(OPS[name](x), OPS[name](x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("planes", [5, MANY])
@pytest.mark.parametrize("size", [32, 64, 48])
def test_a_plane_that_is_not_finite_stays_alone(size: int, planes: int, bad: float) -> None:
    x = pictures(planes if size != 48 else 5, size, size).to(DEVICE)
    clean, sums = ops.balance(x), ops.ring_sum(x)
    x[1, 3, 5] = bad
    found, found_sums = ops.balance(x), ops.ring_sum(x)
    assert found[1].isnan().all() and not found_sums[1].isfinite().any()
    others = torch.arange(len(x), device=DEVICE) != 1
    torch.testing.assert_close(found[others], clean[others], rtol=0, atol=0)
    torch.testing.assert_close(found_sums[others], sums[others], rtol=0, atol=0)


@pytest.mark.parametrize("size", [32, 64, 48])
def test_a_flat_plane_is_left_bit_for_bit(size: int) -> None:
    x = torch.full((3, size, size), 0.3, device=DEVICE)
    assert torch.equal(ops.balance(x), x)


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("scale", [1e-24, 1e-12, 1e12, 1e24])
def test_small_and_large_amplitudes(size: int, scale: float) -> None:
    x = scale * pictures(3, size, size)
    assert_near(ops.ring_sum(x.to(DEVICE), of="amplitude"), ops.ring_sum(x.double(), of="amplitude"))
    assert_near(ops.mean_amplitude(x.to(DEVICE)), ops.mean_amplitude(x.double()))


@pytest.mark.parametrize("name", OPS)
def test_an_empty_batch(name: str) -> None:
    x = torch.empty(0, 3, 32, 32, device=DEVICE)
    if name == "mean":
        with pytest.raises(ValueError, match="at least one plane"):
            OPS[name](x)
    else:
        assert OPS[name](x).numel() == 0


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", OPS)
def test_graph_capture(name: str, size: int) -> None:
    x = pictures(4, size, size).to(DEVICE)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):  # cuFFT plans, cached constants
            OPS_IN_PLACE[name](x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = OPS_IN_PLACE[name](x)
    x.copy_(pictures(4, size, size, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    assert_near(y, OPS_IN_PLACE[name](x.cpu().double()))


# As OPS, without copies from the host, which no graph captures.
OPS_IN_PLACE = OPS | {
    "filter": lambda x: ops.ring_filter(x, 1 + ops.ring_sum(x).log1p()),
}


@pytest.mark.parametrize("name", OPS)
def test_two_streams(name: str) -> None:
    batches = [pictures(MANY, 32, 32, seed=seed).to(DEVICE) for seed in range(2)]
    expected = [OPS_IN_PLACE[name](x) for x in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    found: list[list[Tensor]] = [[], []]
    for _ in range(20):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                found[i].append(OPS_IN_PLACE[name](batches[i]))
    torch.cuda.synchronize()
    for i in range(2):
        assert all(torch.equal(y, expected[i]) for y in found[i])


def test_the_last_of_several_gpus() -> None:
    last = torch.cuda.device_count() - 1
    if last == 0:
        pytest.skip("one GPU")
    x = pictures(4, 32, 32)
    assert_near(ops.balance(x.to(f"cuda:{last}")), ops.balance(x.double()))


@pytest.mark.parametrize("size", [(32, 32), (12, 9)], ids=str)
def test_opcheck(size: tuple[int, int]) -> None:
    x = pictures(2, 3, *size).to(DEVICE)
    half, rings = RingMap(*size).half_on(x.device), RingMap(*size).rings
    weights = torch.randn(2, 3, rings, device=DEVICE)
    tracked = x.clone().requires_grad_()
    for op, arguments in (
        ("ring_sum", (tracked, half, rings, False)),
        ("ring_sum", (tracked, half, rings, True)),
        ("ring_filter", (tracked, weights.clone().requires_grad_(), half)),
        ("ring_dot", (tracked, x.clone().requires_grad_(), half, rings)),
        ("mean_amplitude", (tracked,)),
        ("bass", (x, half, rings, False, 255.0)),
        ("bass_out", (x, half, rings, False, 255.0, torch.empty_like(x))),
    ):
        torch.library.opcheck(getattr(torch.ops.freqrob, op).default, arguments)


def test_a_map_with_entries_out_of_range_reads_nothing_else() -> None:
    x = pictures(3, 32, 32).to(DEVICE)
    half = RingMap(32, 32).half_on(x.device).clone()
    half[[5, 27]] = 10_000
    half[[6, 26]] = -7
    kept = (half >= 0) & (half < 23)
    doubled = torch.tensor([1.0] + 15 * [2.0] + [1.0], device=DEVICE, dtype=torch.float64)
    power = torch.fft.rfft2(x.double()).abs().square()
    sums = torch.ops.freqrob.ring_sum(x, half, 23, False)
    assert_near(sums.sum(1), (power * kept * doubled).sum((1, 2)))


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    planes = 2**31 // 1024 + 3
    if torch.cuda.mem_get_info()[0] < 3 * planes * 1024:
        pytest.skip("not enough memory")
    x = torch.zeros(planes, 32, 32, dtype=torch.uint8, device=DEVICE)
    x[-3:] = (255 * pictures(3, 32, 32)).to(torch.uint8).to(DEVICE)
    y = ops.balance(x, out=x.clone())
    assert torch.equal(y[-3:], ops.balance(x[-3:].clone())) and not y[:-3].any()
