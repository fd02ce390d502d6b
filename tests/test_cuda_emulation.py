"""The fused CUDA kernels' arithmetic (csrc/cuda/plane.h, csrc/cuda/plane_ops.h), run by the CPU thread after thread.

Whatever order the threads take between two barriers, the result must be the same, bit for bit: then no thread reads
what another one writes without a barrier between them.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sysconfig
from types import ModuleType

import numpy as np
import pytest
import torch

from freqrob.spectral import build, reference
from freqrob.spectral.rings import RingMap

pybind11 = pytest.importorskip("pybind11")

SIZES = (32, 64)
AMPLITUDE, PRODUCT = 0, 1


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    module = tmp_path_factory.mktemp("emulation") / "freqrob_emulation.so"
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    source = build.source_folder() / "testing" / "emulation.cpp"
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++20", "-O1", "-shared", "-fPIC"]
    try:
        subprocess.run([*command, *includes, str(source), "-o", str(module)], check=True)
    except FileNotFoundError:
        pytest.skip("no C++ compiler")
    spec = importlib.util.spec_from_file_location("freqrob_emulation", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(params=[False, True], ids=["line a thread", "line on many threads"])
def split(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def run(emulation: ModuleType, split: bool):
    """Calls an op with its threads in order and in reverse."""

    def both(op: str, *arguments) -> torch.Tensor:
        one, two = (
            getattr(emulation, op)(*arguments, emulation.Options(split=split, backwards=backwards))
            for backwards in (False, True)
        )
        np.testing.assert_array_equal(one, two)
        return torch.from_numpy(one)

    return both


def images(size: int, planes: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth random planes in [0, 1]: their spectra fall with frequency."""
    noise = torch.randn(planes, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / (1 + RingMap(size, size).half), s=(size, size))
    return (0.5 + 0.2 * smooth / smooth.std()).clamp(0, 1)


def ring_map(size: int, rule: str = "trunc") -> RingMap:
    return RingMap(size, size, rule=rule)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Within the tolerance of the largest number of each plane."""
    assert found.shape == expected.shape
    scale = expected.abs().amax(tuple(range(1, expected.ndim)), keepdim=True)
    error = (found.double() - expected).abs() / scale.clamp_min(1e-300)
    assert error.max() < tolerance, error.max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("of", ["power", "amplitude"])
@pytest.mark.parametrize("rule", ["trunc", "round"])
def test_ring_sum(run, size, of, rule):
    x, rings = images(size) - 0.3, ring_map(size, rule)
    found = run("ring_sum", x.numpy(), rings.half.numpy(), rings.rings, of == "amplitude")
    expected = reference.ring_sum(x.double(), rings, of)
    close(found, expected)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_ring_filter(run, size):
    x, rings = images(size), ring_map(size)
    weights = torch.randn(len(x), rings.rings, generator=torch.Generator().manual_seed(1))
    found = run("ring_filter", x.numpy(), weights.numpy(), rings.half.numpy(), 1.0)
    close(found, reference.ring_filter(x.double(), weights.double(), rings))


@pytest.mark.parametrize("size", SIZES)
def test_ring_dot(run, size):
    x, y, rings = images(size), images(size, seed=1), ring_map(size)
    found = run("ring_dot", x.numpy(), y.numpy(), rings.half.numpy(), rings.rings)
    close(found, reference.ring_dot(x.double(), y.double(), rings))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("teams", [1, 3])
def test_mean_amplitude(run, size, teams):
    x = images(size, 5) - 0.4
    found = run("mean_amplitude", x.numpy(), teams)
    torch.testing.assert_close(found.double(), reference.mean_amplitude(x.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighting", ["amplitude", "power"])
def test_bass(run, size, weighting):
    x, rings = images(size), ring_map(size)
    found = run("bass", x.numpy(), rings.half.numpy(), rings.rings, weighting == "power", 255.0)
    expected = reference.balance(x.double(), rings, weighting=weighting)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert 0.02 < (expected - x).abs().mean()


@pytest.mark.parametrize("size", SIZES)
def test_bass_of_bytes(run, size):
    x, rings = (255 * images(size)).to(torch.uint8), ring_map(size)
    found = run("bass", x.numpy(), rings.half.numpy(), rings.rings, False, 255.0).int()
    difference = (found - reference.balance(x, rings).int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_bass_of_bfloat16(run, size):
    x, rings = images(size).bfloat16(), ring_map(size)
    bits = run("bass", x.view(torch.uint16).numpy(), rings.half.numpy(), rings.rings, False, 255.0)
    exact = reference.balance(x.double(), rings)
    torch.testing.assert_close(bits.view(torch.bfloat16).double(), exact, rtol=2**-8, atol=1e-5)
    near = (bits.view(torch.bfloat16) == exact.float().bfloat16()).float().mean()
    assert near > 0.99  # but for values that lie between two


@pytest.mark.parametrize("size", SIZES)
def test_a_plane_without_two_rings_to_balance_is_unchanged(run, size):
    rings = ring_map(size)
    x = torch.full((2, size, size), 0.3)
    x[1] += 0.2 * torch.cos(2 * torch.pi * 5 * torch.arange(size) / size)  # rings 0 and 5
    found = run("bass", x.numpy(), rings.half.numpy(), rings.rings, False, 255.0)
    torch.testing.assert_close(found, x, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_plane_that_is_not_finite_is_nan_and_alone(run, size, bad):
    rings, x = ring_map(size), images(size)
    clean = run("bass", x.numpy(), rings.half.numpy(), rings.rings, False, 255.0)
    x[1, 3, 7] = bad
    found = run("bass", x.numpy(), rings.half.numpy(), rings.rings, False, 255.0)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], clean[[0, 2]], rtol=0, atol=0)
    sums = run("ring_sum", x.numpy(), rings.half.numpy(), rings.rings, True)
    assert not sums[1].isfinite().any() and sums[[0, 2]].isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_a_plane_whose_profile_overflows_is_nan(run, size):
    x, rings = images(size), ring_map(size)
    x[1] *= 3e35
    found = run("bass", x.numpy(), rings.half.numpy(), rings.rings, False, 255.0)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_any_map_that_agrees_with_its_mirror(run, size):
    """Rings unlike those of a radius: quadrants that differ, coefficients on no ring, an entry out of range."""
    generator = torch.Generator().manual_seed(2)
    full = torch.randint(-1, 7, (size, size), generator=generator)
    index = (-torch.arange(size)) % size
    mirror = full[index][:, index]
    half = torch.maximum(full, mirror)[:, : size // 2 + 1].int().contiguous()
    x, y = images(size), images(size, seed=3)
    weights = torch.randn(len(x), 7, generator=generator)

    found = run("ring_filter", x.numpy(), weights.numpy(), half.numpy(), 0.5)
    gains = torch.cat([weights.double(), torch.full((len(x), 1), 0.5)], 1)[:, half.long()]
    expected = torch.fft.irfft2(torch.fft.rfft2(x.double()) * gains, s=(size, size))
    close(found, expected)

    product = (torch.fft.fft2(x.double()) * torch.fft.fft2(y.double()).conj()).real / size**2
    ring = torch.maximum(full, mirror)
    expected = torch.stack([(product * (ring == i)).sum((1, 2)) for i in range(7)], 1)
    close(run("ring_dot", x.numpy(), y.numpy(), half.numpy(), 7), expected)

    out_of_range = half.clone()
    out_of_range[out_of_range == -1] = 1000
    found = run("ring_dot", x.numpy(), y.numpy(), out_of_range.numpy(), 7)
    close(found, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e25, 1e30])
def test_amplitudes_whose_squares_do_not_fit_a_float(run, size, scale):
    x, rings = scale * images(size), ring_map(size)
    found = run("ring_sum", x.numpy(), rings.half.numpy(), rings.rings, True)
    close(found, reference.ring_sum(x.double(), rings, "amplitude"))
    found = run("mean_amplitude", x.numpy(), 2)
    torch.testing.assert_close(found.double(), reference.mean_amplitude(x.double()), rtol=1e-5, atol=1e-5 * scale)


PLANES = [(224, 224), (48, 31), (400, 400)]  # the last has more rings than a team sums at a time


def in_both_orders(function, *arguments):
    one, two = (function(*arguments, backwards) for backwards in (False, True))
    np.testing.assert_array_equal(one, two)
    return torch.from_numpy(one)


@pytest.mark.parametrize("size", PLANES, ids=str)
@pytest.mark.parametrize("parts", [1, 5])
def test_passes_over_rings(emulation, size, parts):
    rings = RingMap(*size)
    x, y = (torch.randn(2, *size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    fx, fy = (torch.fft.rfft2(of).numpy() for of in (x, y))
    rest = (rings.half.numpy(), size[1], rings.rings, parts)
    found = in_both_orders(emulation.ring_pass, fx, fx, *rest, AMPLITUDE)
    close(found, reference.ring_sum(x.double(), rings, "amplitude"))
    found = in_both_orders(emulation.ring_pass, fx, fy, *rest, PRODUCT)
    close(found / (size[0] * size[1]), reference.ring_dot(x.double(), y.double(), rings))


@pytest.mark.parametrize("size", PLANES, ids=str)
@pytest.mark.parametrize("weighting", ["amplitude", "power"])
def test_passes_of_bass(emulation, size, weighting):
    rings = RingMap(*size)
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    x[1] = 0.3
    spectra = torch.fft.rfft2(x).numpy()
    weighed, changes = emulation.bass_pass(
        spectra, rings.half.numpy(), size[1], rings.rings, weighting == "power", 255.0, False
    )
    assert changes.tolist() == [True, False, True]
    found = torch.fft.irfft2(torch.from_numpy(weighed), s=size).clamp(0, 1)
    torch.testing.assert_close(
        found.double(), reference.balance(x.double(), rings, weighting=weighting), rtol=0, atol=2e-5
    )


def test_the_emulation_sees_a_missing_barrier(emulation):
    """SerialTeam's two orders differ where a thread reads what its neighbour writes without a barrier."""
    assert emulation.race(False) != emulation.race(True)
