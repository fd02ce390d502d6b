"""The Jacobian's spectrum: models that see one wave, white noise, and a transcription on real images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.attacks import input_gradient
from freqrob.diagnostics.drawing import shared_limits
from freqrob.diagnostics.jacobian import (
    JacobianSpectrum,
    jacobian_map,
    jacobian_pictures,
    jacobian_spectrum,
    plot_jacobian,
    shifted_map,
)
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import mean_amplitude
from tests.support.waves import SIZE, Linear, of_waves, wave


@pytest.mark.parametrize("cycles", [0, 3, 16])
def test_the_jacobian_of_a_model_that_sees_one_wave(cycles):
    images, labels = of_waves(3)
    found = jacobian_spectrum(Linear(1e-3 * wave(cycles)), images, labels, batch_size=5)
    assert found.amplitude.shape == (32, 17) and found.images == 12
    assert divmod(int(found.amplitude.argmax()), 17) == (0, cycles)
    assert found.amplitude.sum().item() == pytest.approx(found.amplitude.max().item(), rel=1e-3)


def test_the_jacobian_is_that_of_a_batch_of_the_size_asked_for():
    (images, labels), model = of_waves(3), Linear(1e-3 * wave(4))
    expected = mean_amplitude(input_gradient(model, images, labels) / 8)
    found = jacobian_spectrum(model, images, labels, batch=8, batch_size=5)
    assert torch.allclose(found.amplitude, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert found.log_b_low == pytest.approx(log_b_low(found.amplitude).item())


def test_the_jacobian_on_real_images_transcribed(real):
    model, images, labels = real
    found = jacobian_spectrum(model, images, labels, batch=len(labels), batch_size=5)
    pixels = (images.float() / 255).requires_grad_()
    F.cross_entropy(model(pixels), labels).backward()
    amplitude = np.abs(np.fft.rfft2(pixels.grad.double().numpy())).mean((0, 1))
    assert found.amplitude.numpy() == pytest.approx(amplitude, rel=1e-2, abs=1e-6)
    m, alpha = amplitude[:17] + 1e-5, np.linspace(1, -1, 17) + 1e-5
    b_low = (m**alpha).prod(1).sum() + (m ** alpha[:, None]).prod(0).sum()
    assert found.log_b_low == pytest.approx(np.log(b_low), abs=1e-2)


def test_white_noise_gradients_have_log_b_low_of_white_noise():
    class Noisy(nn.Module):
        """Each image's gradient is noise of its own."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(len(images)))
            score = ((images - images.detach()) * noise).flatten(1).sum(1)
            return torch.stack([-score, score], 1)

    images, labels = torch.rand(400, 3, SIZE, SIZE), torch.arange(400) % 2
    found = jacobian_spectrum(Noisy(), images, labels, batch=1, batch_size=400)
    assert found.log_b_low == pytest.approx(np.log(34), abs=0.02)


def test_low_frequencies_raise_log_b_low():
    low, high = (jacobian_spectrum(Linear(1e-3 * wave(cycles)), *of_waves(3)).log_b_low for cycles in (1, 15))
    assert low > high


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: jacobian_spectrum(Linear(wave(3)), *data, batch=0), "batch: expected an integer ≥ 1"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


@pytest.mark.parametrize("height, width", [(32, 32), (8, 6), (5, 7), (6, 5)])
def test_shifted_map_is_the_whole_spectrum(height, width):
    image = torch.randn(height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.fft.fftshift(torch.fft.fft2(image)).abs()
    torch.testing.assert_close(shifted_map(torch.fft.rfft2(image).abs(), width), expected)


def test_jacobians_share_a_scale_that_holds_them(axes):
    steep = torch.ones(8, 5)
    steep[0, 0] = 100
    flat, steep = (JacobianSpectrum(amplitude, 3.5, 128, 10) for amplitude in (torch.ones(8, 5), steep))
    limits = shared_limits([jacobian_map(one) for one in (flat, steep)])
    image = plot_jacobian(axes, steep, limits)
    assert image.get_clim() == limits and image.get_array().max() == pytest.approx(limits[1])
    assert image.get_array()[4, 4] == image.get_array().max(), "DC in the middle"


def test_a_dead_gradient_is_drawn(axes):
    assert (plot_jacobian(axes, JacobianSpectrum(torch.zeros(32, 17), 0.0, 128, 10)).get_array() == 0).all()


def test_pictures_of_jacobians_are_the_gradients_around_grey():
    images, labels = of_waves(3)
    pictures = jacobian_pictures(Linear(wave(3)), images, labels)
    assert pictures.shape == images.shape and pictures.min() >= 0 and pictures.max() <= 1
    gradient = input_gradient(Linear(wave(3)), images, labels)
    for picture, one in zip(pictures, gradient, strict=True):
        torch.testing.assert_close((picture - 0.5) * 2 * one.abs().max(), one)


def test_a_constant_model_has_a_grey_jacobian():
    assert (jacobian_pictures(Linear(torch.zeros_like(wave(3))), *of_waves(3)) == 0.5).all()
