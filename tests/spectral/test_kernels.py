"""The parts of the native kernels, at every instruction set this CPU has: transforms, transpositions, rings, gains."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from freqrob.spectral import native, reference
from freqrob.spectral.rings import RingMap

ISAS = ("baseline", "avx2", "avx512")


@pytest.fixture(scope="module")
def internals(compile_module: Callable[..., ModuleType]) -> ModuleType:
    """``csrc/testing/bindings.cpp``, linked against the library that the ops use."""
    if not native.load():
        pytest.skip(f"no native library: {native.status().reason}")
    return compile_module("freqrob_internals", "bindings.cpp", "-fvisibility=hidden", str(native.status().path))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, internals: ModuleType) -> str:
    try:
        internals.lanes(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    return request.param


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("inverse", [False, True])
def test_fft(internals: ModuleType, isa: str, size: int, inverse: bool) -> None:
    lines = random(internals.lanes(isa), size, 2).view(np.complex64)[..., 0]
    expected = np.fft.ifft(lines, norm="forward") if inverse else np.fft.fft(lines)
    found = internals.fft(isa, lines, inverse)
    assert np.abs(found - expected).max() < 5e-7 * np.abs(expected).max()


LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 28, 31, 32, 48, 49, 75, 96, 100, 128, 143, 211, 224, 256, 299, 384, 1024]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_fft_of_any_length(internals: ModuleType, isa: str, dtype: type, inverse: bool) -> None:
    is_double = dtype == np.complex128
    transform = internals.any_fft_double if is_double else internals.any_fft
    lanes, tolerance = internals.lanes(isa) // (1 + is_double), 1e-15 if is_double else 5e-7
    for size in LENGTHS:
        parts = np.random.default_rng(size).standard_normal((lanes, size, 2))
        lines = parts.view(np.complex128)[..., 0].astype(dtype)
        exact = lines.astype(np.complex128)
        expected = np.fft.ifft(exact, norm="forward") if inverse else np.fft.fft(exact)
        error = np.abs(transform(isa, lines, inverse) - expected).max() / np.abs(expected).max()
        assert error < tolerance, f"{size}: {error:.2e}"


def test_transpose(internals: ModuleType, isa: str) -> None:
    lanes = internals.lanes(isa)
    block = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    assert np.array_equal(internals.transpose(isa, block), block.T)
    block = block[: lanes // 2, : lanes // 2].astype(np.float64)
    assert np.array_equal(internals.transpose_double(isa, block), block.T)


def test_log(internals: ModuleType, isa: str) -> None:
    near_one = 1 + np.arange(-256, 256) * 2.0**-20
    values = np.concatenate([np.logspace(-37, 38, 4096), near_one]).astype(np.float32)
    exact = np.log(values.astype(np.float64))
    ulp = np.spacing(np.maximum(np.abs(exact), 1e-7).astype(np.float32))
    assert (np.abs(internals.log(isa, values) - exact) / ulp).max() < 2


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (1, 1), (31, 33), (8, 64)])
@pytest.mark.parametrize("rule", ["trunc", "round"])
def test_ring_geometry(internals: ModuleType, size: tuple[int, int], rule: str) -> None:
    rings = RingMap(*size, rule)
    half, width = rings.half.numpy(), size[1]
    assert [internals.multiplicity(kx, width) for kx in range(width // 2 + 1)] == rings.multiplicity.tolist()
    assert internals.ring_counts(half, width, rings.rings).tolist() == rings.counts.tolist()
    assert internals.is_valid(half, width, rings.rings)
    assert not internals.is_valid(half, width, rings.rings - 1)
    assert internals.is_valid(np.full_like(half, -1), width, rings.rings)
    assert not internals.is_valid(np.full_like(half, -2), width, rings.rings)
    assert internals.ring_counts(np.full_like(half, -1), width, rings.rings).sum() == 0


def test_bass_norm(internals: ModuleType) -> None:
    """The mean of |F|, and Eq. 1 of Lin et al.: 2π times the mean of |F|²."""
    assert internals.bass_norm(12, 255, False) == 255 / 12
    assert internals.bass_norm(12, 255, True) == pytest.approx(2 * np.pi * 255**2 / 12)


@pytest.mark.parametrize("of_power", [False, True])
def test_bass_gains(internals: ModuleType, of_power: bool) -> None:
    profile = np.exp(np.random.default_rng(1).uniform(-2, 12, 23))
    weighable = np.ones(23, dtype=bool)
    weighable[[0, -1]] = False
    expected = reference.bass_weights(torch.from_numpy(profile)).numpy()
    found, eligible = internals.bass_gains(profile, weighable, of_power)
    assert np.allclose(found, np.sqrt(expected) if of_power else expected, rtol=1e-12)
    assert eligible == (profile[1:-1] > 1).sum()


def test_bass_gains_of_a_degenerate_profile(internals: ModuleType) -> None:
    found, eligible = internals.bass_gains(np.array([5.0, 0.0, 1.0, 0.5, 7.0]), np.ones(5, dtype=bool), False)
    assert eligible == 2 and found[1] == found[2] == found[3] == 1
    found, eligible = internals.bass_gains(np.zeros(5), np.ones(5, dtype=bool), True)
    assert eligible == 0 and (found == 1).all()


def test_an_unknown_instruction_set_is_named(internals: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="expected 'avx512', 'avx2' or 'baseline', got 'sse9'"):
        internals.lanes("sse9")
