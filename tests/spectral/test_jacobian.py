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
    with pytest.raises(TypeError, match=f"^amplitude: expected floats, got {dtype}; see mean_amplitude"):
        log_b_low(torch.ones(8, 5, dtype=dtype))
