"""ln B_low against the authors' values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import mean_amplitude


def test_authors_values():
    golden = np.load(Path(__file__).parents[1] / "golden" / "jafr_blow.npz")
    for array, value in (("jacobian", "noise8_1e-3"), ("images", "cifar_test_0_7")):
        spectrum = mean_amplitude(torch.from_numpy(golden[array]))
        assert log_b_low(spectrum).item() == pytest.approx(float(golden[value]), abs=2e-5)


def printed_b_low(gradient):
    """Eq. 6 to 10 as printed, of a Jacobian (3, h, w): M, α_1 = 1 to α_l = −1 in equal steps, the products."""
    maps = [np.abs(np.fft.fft2(channel)) for channel in gradient]
    m = ((maps[0] + maps[1] + maps[2]) / 3)[: gradient.shape[1] // 2 + 1, : gradient.shape[2] // 2 + 1]

    def alpha(count):
        steps = -2 / (count - 1)  # k of Eq. 9
        values = [1 + i * steps for i in range(count)]
        assert all(abs(a + b) < 1e-12 for a, b in zip(values, values[::-1], strict=True)), "Eq. 8"
        return values

    rows, columns = m.shape
    of_columns = sum(np.prod([m[i, j] ** alpha(rows)[i] for i in range(rows)]) for j in range(columns))
    of_rows = sum(np.prod([m[i, j] ** alpha(columns)[j] for j in range(columns)]) for i in range(rows))
    return of_columns + of_rows


@pytest.mark.parametrize("height, width", [(8, 8), (32, 32), (8, 12)])
def test_is_the_logarithm_of_the_printed_b_low(height, width):
    """Up to the authors' offset of 1e-5, which the paper does not mention."""
    gradient = np.random.default_rng(0).normal(size=(3, height, width)) * 100
    found = log_b_low(mean_amplitude(torch.from_numpy(gradient))).item()
    assert found == pytest.approx(np.log(printed_b_low(gradient)), abs=3e-3)


def test_does_not_depend_on_the_scale():
    """Eq. 8: α is antisymmetric, "so that it is independent of the sum of the components' magnitudes"."""
    amplitude = 1 + torch.rand(32, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert log_b_low(1e4 * amplitude).item() == pytest.approx(log_b_low(amplitude).item(), abs=2e-3)


@pytest.mark.parametrize("size, anchor", [(32, 34), (64, 66)])
def test_white_noise(size, anchor):
    noise = torch.randn(2000, 1, size, size, generator=torch.Generator().manual_seed(0))
    assert log_b_low(mean_amplitude(noise)).item() == pytest.approx(np.log(anchor), abs=0.03)


def test_scale_that_overflows_products():
    spectrum = torch.full((64, 33), 1.0)
    spectrum[:17, :17] = 1e6  # Π M^α exceeds float32's range
    assert torch.isfinite(log_b_low(spectrum))


def test_autocast_does_not_round_it():
    spectrum = 1e-3 * torch.rand(32, 17, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = log_b_low(spectrum)
    assert torch.equal(found, log_b_low(spectrum))


def test_low_frequencies_raise_it():
    falling = 1 / (1 + torch.arange(17.0))
    spectrum = falling[None] * torch.cat([falling, falling[1:-1].flip(0)])[:, None]
    assert log_b_low(spectrum) > np.log(34) > log_b_low(1 / spectrum)


def test_gradient():
    assert gradcheck(log_b_low, torch.rand(8, 5, dtype=torch.float64).add(0.1).requires_grad_())


@pytest.mark.parametrize("shape", [(32,), (1, 17), (2, 3, 4)])
def test_bad_input(shape):
    with pytest.raises(ValueError, match="amplitude"):
        log_b_low(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_only_amplitudes_are_taken(dtype):
    """A spectrum without ``abs`` would give a complex number."""
    with pytest.raises(TypeError, match=f"^amplitude: expected floats, got {dtype}; compute it by mean_amplitude"):
        log_b_low(torch.ones(8, 5, dtype=dtype))
