"""The diagnostics against cases with a known answer, independent transcriptions, and what a user may do to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.attacks import BrendelBethge, MinimalPerturbation, input_gradient
from freqrob.data.hybrid import MIXING_FREQUENCIES, derange, hybrid_images, partners
from freqrob.data.samples import sample_images
from freqrob.diagnostics.band_accuracy import BandAccuracy, band_accuracy, octaves
from freqrob.diagnostics.fourier_heatmap import NORMS, fourier_frequencies, fourier_heatmap, fourier_wave
from freqrob.diagnostics.hybrid import hybrid_reliance, rises_through_zero
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import LossLandscape, loss_landscape
from freqrob.diagnostics.minimal_perturbation import minimal_perturbation
from freqrob.diagnostics.registry import get_diagnostic, list_diagnostics
from freqrob.diagnostics.run import diagnose, expected_seconds
from freqrob.diagnostics.sensitivity import sensitivity
from freqrob.models import load_model
from freqrob.runtime.parameters import keyword_hints
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import mean_amplitude
from freqrob.spectral.rings import RingMap

SIZE, MINIMAL = 32, "minimal_perturbation"


class Linear(nn.Module):
    """Two classes, told apart by the sign of Σ w·x − threshold."""

    def __init__(self, weight: torch.Tensor, threshold: float = 0.0) -> None:
        super().__init__()
        self.weight, self.threshold = nn.Parameter(weight), threshold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = (images * self.weight).flatten(1).sum(1) - self.threshold
        return torch.stack([-score, score], 1)


def wave(cycles: int, size: int = SIZE) -> torch.Tensor:
    """cos(2π · cycles · x / size) in all channels: (3, size, size)."""
    return torch.cos(2 * torch.pi * cycles * torch.arange(size) / size).expand(3, size, size)


def of_waves(cycles: int, count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images with a little noise whose class is the sign of a wave."""
    labels = torch.arange(count) % 2
    noise = 0.02 * torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return (0.5 + 0.1 * (2 * labels - 1)[:, None, None, None] * wave(cycles) + noise).clamp(0, 1), labels


@pytest.fixture(scope="module")
def real():
    """A shipped model and Foolbox's images, which it gets right in part."""
    dataset = sample_images()
    return load_model("fgsm_rn20"), dataset.images[:12], dataset.labels[:12]


class Counting(nn.Module):
    __slots__ = ("calls",)  # no attribute by which the model is known

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images) > 2  # with two, the layout is tried
        return self.model(images)


# Hybrid images


def test_a_hybrid_has_the_spectra_of_its_halves():
    low, high = 0.3 + 0.4 * torch.rand(2, 4, 3, SIZE, SIZE)
    mixed = torch.fft.fft2(hybrid_images(low, high, 0.2))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    inside = torch.from_numpy(radius <= 0.2)
    unclipped = torch.fft.ifft2(torch.where(inside, torch.fft.fft2(low), torch.fft.fft2(high))).real
    kept = ((unclipped > 0) & (unclipped < 1)).flatten(1).all(1)
    expected = torch.where(inside, torch.fft.fft2(low), torch.fft.fft2(high))
    assert kept.any() and (mixed - expected)[kept].abs().max() < 1e-3


def test_at_nyquist_the_corners_still_come_from_the_high_image():
    """Facts of the authors' masks: 229 of 1,024 coefficients lie beyond."""
    low, high = torch.rand(2, 1, 3, SIZE, SIZE)
    assert not torch.equal(hybrid_images(low, high, 0.5), low)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    assert (radius > 0.5).sum() == 229 and MIXING_FREQUENCIES[-1] == 0.5
    assert torch.allclose(hybrid_images(low, high, 0.71), low, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1, 2], [1] * 5 + [0] * 3 + [4] * 2, list(range(10)) * 7])
def test_a_derangement_keeps_no_label_and_all_of_them(labels):
    labels = torch.tensor(labels)
    for seed in range(20):
        targets = derange(labels, seed)
        assert (targets != labels).all() and torch.equal(targets.sort().values, labels.sort().values)
        assert torch.equal(labels[partners(labels, seed)], targets)
    assert torch.equal(derange(labels, 3), derange(labels, 3))


def test_no_derangement_of_mostly_one_label():
    with pytest.raises(ValueError, match="labels: more than half"):
        derange(torch.tensor([0, 0, 0, 1]))


@pytest.mark.parametrize("cycles", [2, 5, 11])
def test_a_model_that_sees_one_frequency_turns_where_it_changes_sides(cycles):
    images, labels = of_waves(cycles)
    frequencies = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
    found = hybrid_reliance(Linear(wave(cycles)), images, labels, frequencies=frequencies, seeds=(0, 1))
    above = next(f for f in frequencies if f >= cycles / SIZE)
    below = max(f for f in frequencies if f < cycles / SIZE)
    assert torch.equal(found.low[0], (torch.tensor(frequencies) >= cycles / SIZE).double())
    assert torch.equal(found.high, 1 - found.low) and found.images == 12
    assert torch.allclose(found.reversal, torch.tensor((above + below) / 2).double())


def test_a_low_pass_model_turns_where_half_of_what_it_sees_is_low():
    """A matched filter of a template without frequencies above 0.3: the half with more of its power decides."""
    radius = torch.from_numpy(np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)))
    noise = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    template = torch.fft.irfft2(torch.fft.rfft2(noise) * ((radius > 0) & (radius <= 0.3)), s=(SIZE, SIZE))
    labels = torch.arange(8) % 2
    images = 0.5 + 0.1 * (2 * labels - 1)[:, None, None, None] * template
    assert images.min() > 0 and images.max() < 1, "nothing is clipped"
    power = torch.from_numpy(np.abs(np.fft.fft2(template.numpy())) ** 2).sum(0).flatten()
    order = torch.from_numpy(np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)).flatten())
    frequencies = [0.01 * step for step in range(41)]
    below = [power[order <= f].sum() / power.sum() for f in frequencies]
    half = next(f for f, share in zip(frequencies, below, strict=True) if share > 0.5)
    found = hybrid_reliance(Linear(template), images, labels, frequencies=frequencies, seeds=(0,))
    assert 0.15 < half < 0.25 and found.reversal.item() == pytest.approx(half - 0.005)
    assert (found.low[0, 30:] == 1).all() and (found.high[0, :1] == 1).all()


def test_hybrids_of_real_images_transcribed(real):
    """The authors' steps in NumPy: masks of the shifted plane's radius, clipped, shares of both labels."""
    model, images, labels = real
    found = hybrid_reliance(model, images, labels, frequencies=MIXING_FREQUENCIES[::4], seeds=(3,))
    pixels, other = images.double().numpy() / 255, partners(labels, 3)
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE))
    spectra = np.fft.fft2(pixels)
    for number, alpha in enumerate((0, 6, 13, 22, 57)):
        assert found.frequencies[number].item() == pytest.approx(alpha / 100 * 0.5)
        mask = radius <= alpha / 100 * 0.5
        mixed = np.clip(np.fft.ifft2(spectra * mask + spectra[other] * ~mask).real, 0, 1)
        seen = model(torch.from_numpy(mixed).float()).argmax(1)
        assert found.low[0, number] == (seen == labels).double().mean()
        assert found.high[0, number] == (seen == labels[other]).double().mean()


def test_where_a_curve_rises_through_zero():
    x = torch.tensor([0.0, 1, 2, 3])
    assert rises_through_zero(x, torch.tensor([-1.0, -0.5, 1.5, 1])) == 1.25
    assert rises_through_zero(x, torch.tensor([-1.0, 0, 1, -1])) == 1
    assert rises_through_zero(x, torch.tensor([1.0, 2, 3, 4])).isnan()
    assert rises_through_zero(x, torch.tensor([-1.0, -2, -3, -4])).isnan()


# Fourier heat map


@pytest.mark.parametrize("basis", ["cosine_sine", "cosine"])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (6, 9)])
def test_the_basis_has_each_frequency_once(basis, size):
    frequencies = fourier_frequencies(*size)
    waves = torch.stack([fourier_wave(frequency, *size, basis) for frequency in frequencies])
    places = frequencies + torch.tensor([size[0] // 2, size[1] // 2])
    assert torch.allclose(waves.flatten(1).norm(dim=1), torch.ones(len(waves)), atol=1e-6)
    spectrum = torch.fft.fftshift(torch.fft.fft2(waves), dim=(-2, -1)).abs()
    for (y, x), amplitude in zip(places.tolist(), spectrum, strict=True):
        assert amplitude[y, x] > 0.99 * amplitude.max() and (amplitude > 1e-3).sum() <= 2
    gram = waves.flatten(1) @ waves.flatten(1).T
    assert torch.allclose(gram, torch.eye(len(waves)), atol=1e-5)
    real = sum((-ky % size[0], -kx % size[1]) == (ky, kx) for ky in range(size[0]) for kx in range(size[1]))
    assert len(waves) == (size[0] * size[1] + real) // 2


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (6, 9), (5, 7)])
def test_yins_waves_transcribed(size):
    """``_get_fourier_basis`` of google-research: the one of f and −f that comes first, from the top left, is kept."""
    expected = {}
    for y, x in np.ndindex(*size):
        mirror = tuple((n - p) % n if n % 2 == 0 else n - 1 - p for n, p in zip(size, (y, x), strict=True))
        shifted = np.zeros(size, complex)
        shifted[y, x] = 1 if mirror == (y, x) else 0.5 + 0.5j
        shifted[mirror] = np.conj(shifted[y, x])
        real = np.sqrt(size[0] * size[1]) * np.fft.ifft2(np.fft.ifftshift(shifted)).real
        expected[y, x] = expected.get(mirror, real)
    for ky, kx in fourier_frequencies(*size).tolist():
        ours = fourier_wave(torch.tensor([ky, kx]), *size, "cosine_sine")
        for y, x in ((ky, kx), (-ky, -kx)):
            place = (y + size[0] // 2) % size[0], (x + size[1] // 2) % size[1]
            assert np.allclose(ours, expected[place], atol=1e-6)


@pytest.mark.parametrize("basis", ["cosine_sine", "cosine"])
def test_a_model_that_sees_one_wave_errs_at_its_frequency_alone(basis):
    images, labels = of_waves(3)
    found = fourier_heatmap(Linear(wave(3)), images, labels, norm=8.0, basis=basis)
    wrong = found.change > 0
    at = [(SIZE // 2, SIZE // 2 + 3), (SIZE // 2, SIZE // 2 - 3)]
    assert wrong.nonzero().tolist() == sorted(map(list, at)) and found.unperturbed == 0


def test_a_model_that_sees_the_mean_errs_there():
    images = torch.cat([torch.full((6, 3, SIZE, SIZE), 0.4), torch.full((6, 3, SIZE, SIZE), 0.6)])
    mean = Linear(torch.ones(3, SIZE, SIZE), threshold=0.5 * 3 * SIZE * SIZE)
    found = fourier_heatmap(mean, images, torch.arange(12) // 6, norm=6.0)
    assert (found.change > 0).nonzero().tolist() == [[SIZE // 2, SIZE // 2]]


def test_the_signs_depend_on_the_image_and_not_on_the_batch():
    images, labels = of_waves(3)
    whole = fourier_heatmap(Linear(wave(3)), images, labels, norm=8.0)
    apart = fourier_heatmap(Linear(wave(3)), images, labels, norm=8.0, batch_size=5)
    assert torch.equal(whole.change, apart.change)
    others = [fourier_heatmap(Linear(wave(3)), images, labels, norm=8.0, seed=seed) for seed in (1, 2, 3)]
    assert any(not torch.equal(whole.change, other.change) for other in others)


def test_the_heat_map_of_a_linear_layer_is_its_filters_spectrum():
    layer = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular", bias=False)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(2 * 8 * 8, 2))
    images = torch.full((2, 3, 8, 8), 0.5)
    found = fourier_heatmap(model, images, torch.tensor([0, 1]), norm=0.01, basis="cosine_sine", layer="0")
    kernel = torch.zeros(2, 8, 8)
    kernel[:, :3, :3] = layer.weight.detach().sum(1).flip(-1, -2)
    gain = torch.fft.fftshift(torch.fft.fft2(kernel), dim=(-2, -1)).abs().square().sum(0).sqrt()
    assert torch.allclose(found.change, 0.01 * gain.double(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("basis", ["cosine_sine", "cosine"])
@pytest.mark.parametrize("size", [(16, 16), (15, 15), (12, 20)])
def test_a_coarser_grid_has_the_same_values(basis, size):
    images, labels = torch.rand(4, 3, *size), torch.tensor([0, 1, 0, 1])
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    model(images)
    how = {"norm": 0.1, "basis": basis, "layer": "0"}
    fine, coarse = (fourier_heatmap(model, images, labels, every=every, **how) for every in (1, 3))
    rows, columns = (
        torch.isin(all_of_them, some, assume_unique=True)
        for all_of_them, some in ((fine.vertical, coarse.vertical), (fine.horizontal, coarse.horizontal))
    )
    assert fine.change.shape == size and coarse.change.shape == (rows.sum(), columns.sum()) and coarse.every == 3
    assert coarse.vertical[len(coarse.vertical) // 2] == 0 == coarse.horizontal[len(coarse.horizontal) // 2]
    if basis == "cosine_sine":  # without signs
        assert torch.allclose(coarse.change, fine.change[rows][:, columns], rtol=1e-4)
    assert (coarse.change[len(coarse.change) // 2 :, :] > 0).any() and coarse.change.isfinite().all()


@pytest.mark.parametrize("basis", ["cosine_sine", "cosine"])
def test_a_wave_and_its_mirror_image_are_one(basis):
    images, labels = of_waves(5)
    change = fourier_heatmap(Linear(wave(5)), images, labels, norm=2.0, basis=basis).change
    assert change.isfinite().all() and torch.equal(change[1:, 1:], change[1:, 1:].flip(0, 1))


def test_bfloat16_runs_the_network_in_it_and_changes_little(real):
    model, images, labels = real
    found, seen = {}, []
    with model.network.conv1.register_forward_hook(lambda *args: seen.append(args[2].dtype)):
        for precision in ("float32", "bfloat16"):
            found[precision] = fourier_heatmap(model, images, labels, every=16, precision=precision)
    assert seen == [torch.float32] * (len(seen) // 2) + [torch.bfloat16] * (len(seen) // 2)
    assert found["bfloat16"].precision == "bfloat16" and found["bfloat16"].change.dtype == torch.float64
    assert (found["bfloat16"].change - found["float32"].change).abs().max() <= 1 / len(images)


def test_the_norm_grows_with_the_side_but_is_the_published_one_at_224():
    labels = torch.tensor([0, 1])
    for side, norm in ((32, 4.0), (48, 6.0), (64, 8.0)):
        model, images = Linear(torch.ones(1, side, side)), torch.rand(2, 1, side, side)
        found = fourier_heatmap(model, images, labels, every=side // 2)
        assert found.norm == norm and found.change.shape == (2, 2)
    assert NORMS[224] == 15.7


def test_waves_on_real_images_transcribed(real):
    """gatheluck's basis: one coefficient and its mirror, made real and normalised, for every sixteenth frequency."""
    model, images, labels = real
    found = fourier_heatmap(model, images, labels, every=16, norm=3.0, seed=5)
    pixels = images.double().numpy() / 255
    # In the order of the map; f and -f are one, the first of them in the order of the unshifted spectrum.
    frequencies = [(ky, kx) for ky in (-16, 0) for kx in (-16, 0)]
    signs = np.stack([np.random.default_rng((5, n)).integers(2, size=(4, 3)) * 2.0 - 1 for n in range(len(labels))])
    for number, (ky, kx) in enumerate(frequencies):
        spectrum = np.zeros((SIZE, SIZE))
        spectrum[ky, kx] = 1
        wave_ = np.fft.ifft2(spectrum).real
        wave_ /= np.linalg.norm(wave_)
        moved = np.clip(pixels + 3.0 * signs[:, number, :, None, None] * wave_, 0, 1)
        wrong = (model(torch.from_numpy(moved).float()).argmax(1) != labels).double().mean()
        assert found.change[(ky + 16) // 16, (kx + 16) // 16] == wrong
    assert found.unperturbed == (model(images / 255).argmax(1) != labels).double().mean()


def test_an_unknown_layer_is_named():
    images, labels = of_waves(3)
    with pytest.raises(ValueError, match="layer: the network has no module 'nose'"):
        fourier_heatmap(Linear(wave(3)), images, labels, layer="nose")


# The Jacobian's spectrum


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


# Sensitivity


def test_the_gradient_of_a_linear_model_has_its_weights_spectrum():
    weight = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images, labels = of_waves(2)
    found = sensitivity(Linear(0.001 * weight), images, labels, ranks=(0, 3))
    spectrum = np.abs(np.fft.rfft2(weight.mean(0).numpy()))
    order = np.argsort(-spectrum.flatten())
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)).flatten()
    sorted_spectrum = torch.from_numpy(spectrum.flatten()[order]).double()
    assert torch.allclose(found.magnitude / found.magnitude[0], sorted_spectrum / sorted_spectrum[0], atol=1e-5)
    assert torch.allclose(found.radii, torch.from_numpy(radius[order[[0, 3]]]).expand(12, 2))
    power = np.abs(np.fft.fft2(weight.mean(0).numpy())) ** 2
    distance = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) * SIZE
    assert found.high_share.mean().item() == pytest.approx(power[distance >= 5].sum() / power.sum(), rel=1e-5)
    assert found.boundary == 5 / SIZE


def test_sensitivity_is_the_mean_over_images_of_sorted_magnitudes():
    model = load_model("pgd_at_rn20")
    images, labels = torch.rand(4, 3, SIZE, SIZE), torch.tensor([0, 1, 2, 3])
    found = sensitivity(model, images, labels, batch_size=3)
    gradient = input_gradient(model, images, labels).mean(1)
    rows = [np.sort(np.abs(np.fft.rfft2(one)).flatten())[::-1] for one in gradient.numpy()]
    assert torch.allclose(found.magnitude, torch.from_numpy(np.mean(rows, 0)).double(), rtol=1e-3)


# Accuracy by band


def test_a_model_that_sees_the_mean_does_not_care_for_bands():
    images = torch.cat([torch.full((6, 3, SIZE, SIZE), 0.4), torch.full((6, 3, SIZE, SIZE), 0.6)])
    images = (images + 0.1 * torch.rand(images.shape)).clamp(0, 1)
    mean = Linear(torch.ones(3, SIZE, SIZE), threshold=0.55 * 3 * SIZE * SIZE)
    found = band_accuracy(mean, images, torch.arange(12) // 6)
    assert found.accuracy == 1 and (torch.stack([found.low, found.high, found.band]) == 1).all()


def test_bands_of_real_images_transcribed(real):
    model, images, labels = real
    found = band_accuracy(model, images, labels, attacked=0)
    spectra = np.fft.fft2(images.double().numpy() / 255)
    ring = (np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) * SIZE + 1e-9).astype(int)
    for i in (0, 4, 9, 22):
        for name, mask in (("low", ring <= i), ("high", ring >= i), ("band", np.abs(ring - i) <= 2)):
            filtered = np.clip(np.fft.ifft2(spectra * (mask | (ring == 0))).real, 0, 1)
            right = (model(torch.from_numpy(filtered).float()).argmax(1) == labels).double().mean()
            assert getattr(found, name)[i] == right, (name, i)


def test_a_model_that_sees_one_frequency_needs_its_ring():
    images, labels = of_waves(7)
    found = band_accuracy(Linear(wave(7)), images, labels, width=3)
    ring = torch.arange(len(found.low))
    for accuracy, has in ((found.low, ring >= 7), (found.high, ring <= 7), (found.band, (ring - 7).abs() <= 1)):
        assert (accuracy[has] == 1).all() and (accuracy[~has] < 0.95).all()


@pytest.mark.parametrize("size, count", [((32, 32), 5), ((64, 64), 5), ((224, 224), 5), ((31, 33), 5), ((8, 8), 4)])
def test_octaves_are_all_of_the_spectrum_once(size, count):
    rings = RingMap(*size)
    bands = octaves(rings)
    assert len(bands) == count and [ring for band in bands for ring in band] == list(range(rings.rings))


@pytest.mark.parametrize("cycles, broken", [(1, 0), (3, 1), (7, 2), (12, 3), (16, 4)])
def test_a_model_that_sees_one_frequency_is_broken_in_its_band_alone(cycles, broken):
    images, labels = of_waves(cycles)
    images = 0.5 + 0.2 * (images - 0.5)  # the wave's amplitude is 0.02, below ε
    found = band_accuracy(Linear(0.01 * wave(cycles)), images, labels, steps=10)
    assert found.robust.tolist() == [float(band != broken) for band in range(5)] and found.accuracy == 1
    assert found.robust_frequencies.tolist() == [0, 2 / 32, 4 / 32, 8 / 32, 16 / 32] and found.attacked == 12
    weaker = band_accuracy(Linear(0.01 * wave(cycles)), images, labels, steps=10, eps=1 / 255)
    assert (weaker.robust == 1).all()


def test_only_as_many_images_are_attacked_as_asked_for():
    images, labels = of_waves(3)
    labels[4:] = 1 - labels[4:]  # the first four are classified correctly, the others not
    some, none = (band_accuracy(Linear(wave(3)), images, labels, steps=2, attacked=count) for count in (4, 0))
    assert some.attacked == 4 and some.images == none.images == 12 and none.attacked == 0
    assert none.robust.shape == none.robust_frequencies.shape == (0,)
    assert (some.robust == 1).all() and some.accuracy == pytest.approx(1 / 3)


# The smallest perturbations


def test_the_spectrum_of_perturbations_of_a_linear_model_is_that_of_its_signs():
    """The smallest L∞ perturbation of a linear model is ε · sign w, in L2 it is along w."""
    weight = 0.1 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    images = 0.5 + 0.02 * torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    model = Linear(weight, threshold=(images * weight).flatten(1).sum(1).median().item() + 0.01)
    labels = model(images).argmax(1)
    images, labels = torch.cat([images, images.flip(0)]), torch.cat([labels, labels.flip(0)])
    margins = ((images * weight).flatten(1).sum(1) - model.threshold).abs()
    for norm, direction in (("Linf", weight.sign()), ("L2", weight)):
        found = minimal_perturbation(model, images, labels, norm=norm, steps=100, repeats=1)
        assert found.success.all() and found.images == 12 and found.norm == norm
        expected = margins / (weight.abs().sum() if norm == "Linf" else weight.norm())
        assert torch.allclose(found.distances, expected.float(), rtol=0.05)
        power = np.abs(np.fft.fft2(direction.double().numpy())) ** 2
        power = torch.from_numpy(power.mean(0))
        power[0, 0] = 0
        share, ideal = found.power / found.power.sum(), power / power.sum()
        assert (share - ideal).abs().sum() < 0.1
        radius = torch.from_numpy(np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE))))
        assert found.cumulative[12] == pytest.approx(ideal[radius <= found.radii[12] + 1e-9].sum().item(), abs=0.02)


def test_the_smallest_perturbations_of_real_images_transcribed(real):
    """Li et al.'s analysis in NumPy: channels' means off, mean power first, cumulative over 25 radii, interpolated."""
    model, images, labels = real
    images, labels = images[:4], labels[:4]
    found = minimal_perturbation(model, images, labels, steps=10, repeats=1, seed=2)
    how = MinimalPerturbation(BrendelBethge(steps=10), seed=2)
    perturbed = how(model, images, labels).perturbed.double().numpy()
    delta = (perturbed - images.double().numpy() / 255)[found.success.numpy()]
    power = (np.abs(np.fft.fft2(delta - delta.mean((2, 3), keepdims=True))) ** 2).mean((0, 1))
    radius = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE))
    radii = np.linspace(0, 0.5**0.5, 25)
    cumulative = np.array([power[(radius <= r + 1e-9) & (radius > 0)].sum() for r in radii])
    cumulative /= cumulative[-1]
    assert found.cumulative.numpy() == pytest.approx(cumulative, abs=1e-6)
    assert found.half_power_frequency == pytest.approx(np.interp(0.5, cumulative, radii), abs=1e-6)
    assert found.distances.numpy()[found.success] == pytest.approx(np.abs(delta).max((1, 2, 3)), abs=1e-6)


def test_perturbations_that_change_the_mean_alone_have_no_half_power_frequency(tmp_path):
    images = torch.cat([torch.full((2, 3, SIZE, SIZE), 0.45), torch.full((2, 3, SIZE, SIZE), 0.55)])
    mean = Linear(0.01 * torch.ones(3, SIZE, SIZE), threshold=0.5 * 0.01 * 3 * SIZE * SIZE)
    found = minimal_perturbation(mean, images, torch.tensor([0, 0, 1, 1]), steps=30, repeats=1)
    assert found.success.all() and torch.allclose(found.distances, torch.full((4,), 0.05), rtol=0.05)
    found.save(tmp_path)
    again = type(found).load(tmp_path)
    for spectrum in (found, again):
        assert np.isnan(spectrum.half_power_frequency) or spectrum.power.sum() < 1e-3 * 1024**2 * 0.05**2


def test_a_search_that_was_stopped_goes_on_and_a_second_one_attacks_nothing(tmp_path):
    model, data = Counting(Linear(wave(3))), of_waves(3)
    how = {"steps": 3, "repeats": 2, "batch_size": 4}

    def stops(items, *_):
        yield next(iter(items))
        raise KeyboardInterrupt

    whole = minimal_perturbation(model, *data, **how)
    calls, model.calls = model.calls, 0
    with pytest.raises(KeyboardInterrupt):
        minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", track=stops, **how)
    assert 0 < model.calls < calls
    model.calls = 0
    first = minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", **how)
    assert 0 < model.calls < calls
    model.calls = 0
    again = minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", **how)
    assert model.calls == 0
    for one, other in ((first, again), (first, whole)):
        assert all(torch.equal(value, other.tensors()[key]) for key, value in one.tensors().items())


# Loss landscape


def test_the_landscape_of_a_linear_model_by_hand():
    images, labels = of_waves(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))
    found = loss_landscape(model, images, labels, span=0.5, points=5, seed=3)
    own, generator = model[1].weight.detach(), torch.Generator().manual_seed(3)

    def direction():
        noise = torch.randn(own.shape, generator=generator)
        torch.randn(2, generator=generator)  # the bias's, which stays
        return noise / noise.norm(dim=1, keepdim=True) * own.norm(dim=1, keepdim=True)

    one, other = direction(), direction()
    moved = own - 0.25 * one + 0.5 * other
    expected = F.cross_entropy(images.flatten(1) @ moved.T + model[1].bias, labels)
    assert found.loss[1, 4].item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.loss[2, 2].item() == pytest.approx(F.cross_entropy(model(images), labels).item(), rel=1e-5)
    assert found.steps.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    near = torch.stack([found.loss[i, j] - found.loss[2, 2] for i, j in ((2, 2), (1, 2), (3, 2), (2, 1), (2, 3))])
    assert found.variation == pytest.approx(near.abs().mean().item())
    assert found.sharpness == pytest.approx(near.max().item() / (1 + found.loss[2, 2].item()))


def test_the_landscape_on_real_images_transcribed(real):
    """Each convolution's filters and the last layer's rows move by noise of their own length."""
    model, images, labels = real
    found = loss_landscape(model, images, labels, points=5, seed=1)
    moved, generator = deepcopy(model), torch.Generator().manual_seed(1)
    for number in range(2):
        for weight in moved.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            own = dict(model.named_parameters())
            original = own[next(name for name, value in moved.named_parameters() if value is weight)]
            if weight.ndim > 1 and number == 1:
                for row, (filter_, random) in enumerate(zip(original.data, noise, strict=True)):
                    weight.data[row] += random * filter_.norm() / random.norm()
    expected = F.cross_entropy(moved(images / 255), labels).item()
    assert found.loss[2, 4].item() == pytest.approx(expected, rel=1e-3)
    assert found.loss[2, 2].item() == pytest.approx(F.cross_entropy(model(images / 255), labels).item(), rel=1e-4)


def test_the_landscape_leaves_the_model_as_it_was():
    model = load_model("standard_rn20").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss_landscape(model, torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 1]), points=5)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("made_by", [torch.jit.script, lambda model: torch.jit.trace(model, torch.rand(2, 3, 8, 8))])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_landscape_of_a_scripted_model_is_that_of_the_model(made_by):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    scripted, data = made_by(model), (torch.rand(6, 3, 8, 8), torch.arange(6) % 2)
    expected, found = (loss_landscape(one, *data, points=5) for one in (model, scripted))
    torch.testing.assert_close(found.loss, expected.loss)
    assert expected.variation > 0 and torch.equal(scripted(data[0]), made_by(model)(data[0]))


def test_a_landscape_that_is_stopped_leaves_the_weights():
    class Stopping(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not torch.equal(self.weight, wave(3)):
                raise KeyboardInterrupt
            return super().forward(images)

    model = Stopping(wave(3).clone())
    with pytest.raises(KeyboardInterrupt):
        loss_landscape(model, *of_waves(3), points=5)
    assert torch.equal(model.weight, wave(3))


def test_a_landscape_without_weights_is_told():
    with pytest.warns(UserWarning, match="it has no weights to move, so its landscape is flat"):
        assert loss_landscape(nn.Flatten(), torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), points=5).variation == 0


# What all have in common

EACH = {
    "jacobian": lambda model, data, **more: jacobian_spectrum(model, *data, **more),
    "hybrid": lambda model, data, **more: hybrid_reliance(model, *data, frequencies=(0.05, 0.2), seeds=(0,), **more),
    "heatmap": lambda model, data, **more: fourier_heatmap(model, *data, norm=1.0, **more),
    "sensitivity": lambda model, data, **more: sensitivity(model, *data, **more),
    "bands": lambda model, data, **more: band_accuracy(model, *data, steps=2, **more),
    "landscape": lambda model, data, **more: loss_landscape(model, *data, points=5, **more),
}


def equal(one, other):
    """Whether two measurements have the same arrays; NaN is NaN."""
    return all(np.array_equal(value, other.tensors()[key], equal_nan=True) for key, value in one.tensors().items())


@pytest.mark.parametrize("name", EACH)
def test_a_second_call_measures_nothing_and_a_stopped_one_goes_on(name, tmp_path):
    model, data = Counting(Linear(wave(3))), of_waves(3)

    def stops(items, *_):
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        EACH[name](model, data, batch_size=4, cache=tmp_path, cache_key="1", track=stops)
    part, model.calls = model.calls, 0
    first = EACH[name](model, data, batch_size=4, cache=tmp_path, cache_key="1")
    rest, model.calls = model.calls, 0
    again = EACH[name](model, data, batch_size=4, cache=tmp_path, cache_key="1")
    assert part > 0 and rest > 0 and model.calls == 0
    whole = EACH[name](model, data, batch_size=4)
    assert model.calls == part + rest, "what was done before the stop was not done again"
    for one, other in ((first, again), (first, whole)):
        assert equal(one, other)


class Flattening(nn.Module):
    def __init__(self, flatten: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.convolution, self.flatten = nn.Conv2d(3, 2, 3, stride=SIZE // 2), flatten

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.flatten(self.convolution(images))


@pytest.mark.parametrize("name", EACH)
def test_a_model_that_cannot_read_channels_last_is_measured_too(name):
    torch.manual_seed(0)
    models = [Flattening(lambda x: x.flatten(1)), Flattening(lambda x: x.view(len(x), -1))]
    models[1].load_state_dict(models[0].state_dict())
    one, other = (EACH[name](model, of_waves(3)).tensors() for model in models)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_saved_and_loaded(name, tmp_path):
    found = EACH[name](Linear(wave(3)), of_waves(3))
    assert "ClassVar" not in type(found).__annotations__.values()  # Python 3.10 could not load it
    path = found.save(tmp_path, about={"model": "linear"})
    assert json.loads(path.read_text())["model"] == "linear"
    loaded = type(found).load(tmp_path)
    assert loaded.scalars() == found.scalars() and equal(loaded, found)


def test_all_diagnostics_of_a_model_on_real_images(real, tmp_path):
    model, images, labels = real
    names = [name for name in list_diagnostics() if "landscape" not in name and name != "fourier_heatmap"]
    found = diagnose(model, images[:4], labels[:4], only=names, out=tmp_path)
    assert list(found) == names
    for name, measured in found.items():
        again = type(measured).load(tmp_path, name)
        assert again.scalars() == measured.scalars() and measured.images == 4


@pytest.mark.parametrize(
    "size, every, points",
    [((64, 64), 4, (16, 16)), ((224, 224), 14, (16, 16)), ((45, 40), 2, (23, 20)), ((16, 17), 2, (8, 9))],
)
def test_every_diagnostic_takes_images_of_any_size(size, every, points, tmp_path):
    shorter = {MINIMAL: {"steps": 5}, "loss_landscape_low": {"points": 5}, "loss_landscape_high": {"points": 5}}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model.append(nn.Linear(16, 2))
    images, labels = 0.3 + 0.4 * torch.rand(4, 3, *size), torch.tensor([0, 1, 0, 1])
    found = diagnose(model, images, labels, settings=shorter, out=tmp_path, cache=tmp_path / "cache")
    assert list(found) == list_diagnostics()
    for name, measured in found.items():
        assert measured.images == 4
        assert type(measured).load(tmp_path, name).scalars().keys() == measured.scalars().keys()
    heatmap, bands = found["fourier_heatmap"], found["band_accuracy"]
    assert heatmap.every == every and heatmap.change.shape == points and heatmap.change.isfinite().all()
    assert (heatmap.horizontal[1] - heatmap.horizontal[0]).item() == pytest.approx(every / size[1])
    assert len(bands.frequencies) <= 33 and bands.low[-1] == bands.accuracy and len(bands.robust) == 5
    assert found["jacobian"].amplitude.shape == (size[0], size[1] // 2 + 1)
    assert found[MINIMAL].power.shape == size
    assert expected_seconds(model, images, labels) > 0


def test_a_quick_heat_map_of_tiny_images_has_every_wave():
    images, labels = torch.rand(4, 3, 3, 3), torch.arange(4) % 2
    found = diagnose(Linear(wave(1, 3)), images, labels, only=["fourier_heatmap"])
    assert found["fourier_heatmap"].every == 1 and found["fourier_heatmap"].change.isfinite().all()


def test_images_that_come_class_by_class_are_mixed():
    """The first three hundred images of ImageNet are of six classes of a thousand."""
    images, labels = of_waves(3, 600)[0], torch.arange(600) // 200
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    settings = {"hybrid": {"frequencies": (0.1, 0.2)}}
    assert expected_seconds(model, images, labels, only=["hybrid"], settings=settings) > 0
    assert diagnose(model, images, labels, only=["hybrid"], settings=settings)["hybrid"].images == 300
    found = diagnose(model, images, labels, only=["hybrid"])["hybrid"]
    assert found.images == get_diagnostic("hybrid").presets["quick"]["images"] == 300
    assert torch.equal(found.low, diagnose(model, images, labels, only=["hybrid"])["hybrid"].low)


@pytest.mark.parametrize(
    "forward, message",
    [
        (lambda logits: (logits, logits), "model: expected it to give logits .N, K., got a tuple"),
        (lambda logits: logits.argmax(1), r"model: expected it to give logits .N, K., got \(12,\) torch.int64 of 12"),
        (lambda logits: logits[:, :1], "model: expected 2 classes or more, as the labels have, got 1"),
        (lambda logits: logits.half() @ logits, r"model: it fails on images \(12, 3, 32, 32\) torch.float32: Runtime"),
        (lambda logits: logits.detach(), "no gradient with respect to the images .* needed by jacobian, sensitivity"),
        (lambda logits: torch.zeros_like(logits, requires_grad=True), "no gradient with respect to the images"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused_before_anything_is(forward, message, tmp_path):
    class Odd(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return forward(super().forward(images))

    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match=message):
            call(Odd(wave(3)), *of_waves(3))
    assert not list(tmp_path.iterdir())
    if "gradient" in message:
        assert diagnose(Odd(wave(3)), *of_waves(3), only=["hybrid"], out=tmp_path)


def test_a_model_that_works_in_place_leaves_the_callers_images(tmp_path):
    class InPlace(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.sub_(0.5).add_(0.25))

    images, labels = of_waves(3)
    before = images.clone()
    diagnose(InPlace(wave(3)), images, labels, only=["hybrid"])
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["heatmap", "landscape", "hybrid", "jacobian", "bands"])
def test_a_model_that_works_in_place_has_the_numbers_of_one_that_does_not(name):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(plain)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            images.mul_(2).sub_(0.5).add_(0.5).div_(2)
            return self.network(images.view(len(images), -1))  # which channels_last, a copy, would not allow

    images, labels = of_waves(3)
    before = images.clone()
    one, other = (EACH[name](model, (images, labels)) for model in (plain, InPlace()))
    assert torch.equal(images, before)
    for key, value in one.tensors().items():
        torch.testing.assert_close(value, other.tensors()[key], rtol=1e-3, atol=1e-5)


def test_the_model_is_left_as_it_was(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 30 * 30, 2))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    diagnose(model, *of_waves(3), only=[MINIMAL, "hybrid"], settings={MINIMAL: {"steps": 2}})
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(weight.grad is None for weight in model.parameters())
    assert [weight.requires_grad for weight in model.parameters()] == [False, *[True] * 5]


def test_a_layer_is_seen_before_what_follows_changes_it(real):
    model, images, labels = real
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))
    apart = nn.Sequential(layers[0], nn.ReLU(), *layers[2:])
    how = {"layer": "0", "every": 16}
    one, other = (fourier_heatmap(net, images, labels, **how) for net in (layers, apart))
    torch.testing.assert_close(one.change, other.change)


def test_layers_that_give_no_tensor_are_named():
    class Odd(Linear):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__(weight)
            self.unused, self.pair = nn.Identity(), nn.LSTM(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.pair(images[:, :, 0, 0])
            return super().forward(images)

    for layer, message in (("unused", "the network does not call 'unused'"), ("pair", "'pair' gives a tuple")):
        with pytest.raises(ValueError, match=f"layer: {message}"):
            fourier_heatmap(Odd(wave(3)), *of_waves(3), layer=layer)


@pytest.mark.parametrize("size", [3, 4, 8])
def test_tiny_images_have_the_ranks_that_there_are(size):
    images, labels = torch.rand(4, 3, size, size), torch.arange(4) % 2
    found = diagnose(Linear(wave(1, size)), images, labels, only=["sensitivity"])["sensitivity"]
    assert found.ranks == [rank for rank in (0, 9, 99) if rank < size * (size // 2 + 1)]


def test_data_that_one_diagnostic_cannot_take_are_refused_before_any_measures(tmp_path):
    images, _ = of_waves(3)
    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match="hybrid: labels: more than half of them are 0"):
            call(Linear(wave(3)), images, torch.zeros(12, dtype=torch.int64), only=["jacobian", "hybrid"])
    assert not list(tmp_path.iterdir())


def test_the_share_of_high_frequencies_does_not_depend_on_the_gradients_size():
    one, other = (sensitivity(Linear(scale * wave(3)), *of_waves(3)).high_share for scale in (1e-3, 1e-25))
    assert one.max() < 1e-6
    torch.testing.assert_close(other, one)


def test_a_model_is_tried_on_no_more_images_than_are_measured_at_a_time():
    class Small(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 5:
                raise torch.OutOfMemoryError("6 images are too many")
            return super().forward(images)

    assert diagnose(Small(wave(3)), *of_waves(3), only=["hybrid"], batch_size=5)["hybrid"].images == 12
    with pytest.raises(torch.OutOfMemoryError):
        diagnose(Small(wave(3)), *of_waves(3), only=["hybrid"])


def test_the_callers_inference_mode_changes_nothing():
    names = ["jacobian", "hybrid", "loss_landscape_low"]
    model = Linear(wave(3))
    expected = diagnose(model, *of_waves(3), only=names)
    with torch.inference_mode():
        found, made_here = diagnose(model, *of_waves(3), only=names), Linear(wave(3))
    assert all(equal(found[name], expected[name]) for name in names)
    with pytest.raises(ValueError, match="model: its weights were created under torch.inference_mode"):
        diagnose(made_here, *of_waves(3), only=names[2:])


def test_zero_gradients_are_told_and_have_no_frequency():
    class Saturated(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).clamp(-1e-3, 1e-3)

    with pytest.warns(UserWarning, match="the gradient of the loss is zero at 12 of 12 images"):
        found = diagnose(Saturated(wave(3)), *of_waves(3), only=["jacobian", "sensitivity"])
    assert np.isnan(found["jacobian"].log_b_low) and np.isnan(found["sensitivity"].mean_high_share)


def test_what_is_saved_says_which_network_it_was_and_whether_it_was_kept(tmp_path):
    def said(weight):
        settings = {"loss_landscape_low": {"points": 5}}
        diagnose(Linear(weight), *of_waves(3), only=["hybrid", *settings], settings=settings, out=tmp_path / "out",
                 cache=tmp_path / "cache", cache_key="1")  # fmt: skip
        found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
        return {one["model_hash"] for one in found}, [one["from_cache"] for one in found]

    (first, new), (again, kept), (other, _) = said(wave(3)), said(wave(3)), said(wave(4))
    assert new == [False, False] and kept == [True, True]
    assert first == again != other and len(first) == len(other) == 1


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("loss_landscape_high", {"points": 4}, "points: expected an odd number"),
        ("fourier_heatmap", {"layer": "block9"}, "layer: "),
        ("sensitivity", {"ranks": [544]}, "ranks: expected some of 0 to 543"),
        ("sensitivity", {"boundary_ring": "6"}, r"boundary_ring: expected int \| None, got '6'"),
        ("minimal_perturbation", {"norm": "L1"}, "norm: expected"),
        ("band_accuracy", {"width": 2}, "width: expected an odd number"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_measured(name, given, message, tmp_path):
    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            call(Linear(wave(3)), *of_waves(3), settings={name: given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, longer",
    [
        ("hybrid", {"seeds": (0, 1)}), ("band_accuracy", {"steps": 20}), ("fourier_heatmap", {"every": 1}),
        ("loss_landscape_low", {"points": 21}), ("minimal_perturbation", {"repeats": 3}), ("jacobian", {"images": 0}),
    ],
)  # fmt: skip
def test_the_time_depends_on_the_settings(name, longer, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("freqrob.diagnostics.run.time.perf_counter", lambda: next(clock))
    short, long = (
        expected_seconds(Linear(wave(3)), *of_waves(3, 600), only=[name], settings=settings)
        for settings in ({}, {name: longer})
    )
    assert long > 1.15 * short


def test_logits_that_are_not_finite_are_errors(tmp_path):
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2] * torch.nan

    data = of_waves(3)
    with pytest.warns(UserWarning, match="its logits are NaN or infinite at 12 of 12 images"):
        found = diagnose(Broken(), *data, only=["hybrid", "band_accuracy", "loss_landscape_low"], out=tmp_path)
    assert (found["hybrid"].low == 0).all() and (found["hybrid"].high == 0).all()
    bands = found["band_accuracy"]
    assert bands.accuracy == 0 and (bands.robust == 0).all() and (bands.low == 0).all()
    assert np.isnan(found["loss_landscape_low"].variation)
    assert np.isnan(LossLandscape.load(tmp_path, "loss_landscape_low").variation), "null in the JSON"
    assert (fourier_heatmap(Broken(), *data, every=16).change == 1).all()


def test_one_image_is_enough_for_what_needs_no_other():
    names = ["jacobian", "sensitivity", "band_accuracy", "loss_landscape_low"]
    found = diagnose(Linear(wave(3)), *(tensor[:1] for tensor in of_waves(3)), only=names)
    assert [measured.images for measured in found.values()] == [1] * 4
    with pytest.raises(ValueError, match="labels: more than half of them are 0"):
        hybrid_reliance(Linear(wave(3)), *(tensor[:1] for tensor in of_waves(3)))


def test_settings_replace_the_presets():
    settings = {"hybrid": {"seeds": (1, 3), "frequencies": (0.1, 0.2), "images": 6}, "band_accuracy": {"images": 0}}
    data = of_waves(3, 300)[0], torch.arange(300) % 2
    found = diagnose(Linear(wave(3)), *data, only=list(settings), settings=settings)
    alone = hybrid_reliance(Linear(wave(3)), *(tensor[:6] for tensor in data), seeds=(1, 3), frequencies=(0.1, 0.2))
    assert found["hybrid"].scalars() == alone.scalars() and torch.equal(found["hybrid"].high, alone.high)
    assert found["band_accuracy"].images == 300 and found["band_accuracy"].steps == 10


@pytest.mark.parametrize("name", list_diagnostics())
@pytest.mark.parametrize("value", ["none", -1, 1.5, True, float("nan"), ["a"], [-1], [float("nan")], {}, None])
def test_settings_of_another_type_are_named(name, value):
    """Of every setting, but those that may be None, 1.5 or −1."""
    data, takes = of_waves(3, 4), {"norm": [1.5, None], "span": [1.5], "every": [None], "boundary_ring": [None]}
    takes |= {"ranks": [None]}
    takes |= {"attacked": [None], "seed": [-1] if "landscape" in name else []}
    for key in ["images", *keyword_hints(get_diagnostic(name).measure).keys() - {"cache", "cache_key", "track"}]:
        if value not in takes.get(key, []):
            with pytest.raises(ValueError, match=key):
                diagnose(Linear(wave(3)), *data, only=[name], settings={name: {key: value}})


def test_the_presets_measure_the_same():
    assert all(get_diagnostic(name).presets.keys() == {"quick", "full"} for name in list_diagnostics())


@pytest.mark.parametrize("damage", [lambda text: text[:30], lambda text: "{}", lambda text: text.replace("width", "w")])
def test_a_damaged_measurement_is_named(tmp_path, damage):
    path = band_accuracy(Linear(wave(3)), *of_waves(3)).save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match="band_accuracy.json: not a measurement of band_accuracy"):
        BandAccuracy.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        BandAccuracy.load(tmp_path / "absent")


@pytest.mark.parametrize("name", [*EACH, MINIMAL])
def test_inference_mode_changes_nothing(name):
    each = {**EACH, MINIMAL: lambda model, data: minimal_perturbation(model, *data, steps=2, repeats=1)}
    model = Linear(wave(3))
    expected = each[name](model, of_waves(3)).tensors()
    with torch.inference_mode():
        found = each[name](model, of_waves(3)).tensors()
    assert all(torch.allclose(found[one], value, equal_nan=True) for one, value in expected.items())


@pytest.mark.parametrize(
    "measure, counts",
    [
        (jacobian_spectrum, {"batch": 16}),
        (hybrid_reliance, {"seeds": (0,), "frequencies": (0, 0.2)}),
        (fourier_heatmap, {"every": 8, "seed": 1}),
        (sensitivity, {"boundary_ring": 4, "ranks": (0, 3)}),
        (band_accuracy, {"width": 3, "steps": 2, "attacked": 4}),
        (loss_landscape, {"points": 5, "seed": 1}),
        (minimal_perturbation, {"steps": 2, "repeats": 2, "seed": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_numpys_integers_are_integers_to_the_end(measure, counts, tmp_path):
    def of_numpy(value):
        return tuple(map(of_numpy, value)) if isinstance(value, tuple) else np.array(value)[()]

    counts, written = {**counts, "batch_size": 5}, []
    for given in (counts, {name: of_numpy(value) for name, value in counts.items()}):
        path = measure(Linear(wave(3)), *of_waves(3), **given, cache=tmp_path / "cache", cache_key="1").save(tmp_path)
        written.append((path.read_text(), len(list((tmp_path / "cache").glob("*.safetensors")))))
    assert written[0] == written[1], "what is written, and under how many keys"


@pytest.mark.parametrize("name", EACH)
def test_no_images_are_an_error(name):
    with pytest.raises(ValueError, match="images: expected"):
        EACH[name](Linear(wave(3)), (torch.rand(0, 3, SIZE, SIZE), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: jacobian_spectrum(Linear(wave(3)), *data, batch=0), "batch: expected an integer from 1 on"),
        (lambda data: diagnose(Linear(wave(3)), *data, preset="long"), "preset: expected one of quick, full"),
        (lambda data: diagnose(Linear(wave(3)), *data, only=["hibrid"]), "only: got 'hibrid', .* Nearest: hybrid"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hibrid": {}}), "not measured.* Nearest: hybrid"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hybrid": {"seed": [0]}}), "no setting .* seeds"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hybrid": {"seeds": 0}}), "expected .*, got 0"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, batch_size=0), "batch_size: expected an integer from 1"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=()), "frequencies: expected at least one"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=(0.2, 0.1)), "frequencies: .* ascending"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=(0.2, 1)), "frequencies: .* 0.707 .*, got 1"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, seeds=(-1,)), "seeds.*: expected an integer .*, got -1"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, norm=0), "norm: expected a positive number"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, every=17), "every: expected at most 16, half .*, got 17"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, basis="mine"), "basis: expected one of cosine_sine"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, precision="int8"), "precision: expected one of float32"),
        (lambda data: sensitivity(Linear(wave(3)), *data, boundary_ring=23), "boundary_ring: expected 1 to 22"),
        (lambda data: sensitivity(Linear(wave(3)), *data, ranks=(544,)), "ranks: expected some of 0 to 543"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, width=4), "width: expected an odd number"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, width=5.0), "width: expected an odd number .*, got 5.0"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, attacked="3"), "attacked: expected an integer .*, got '3'"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, attacked=-1), "attacked: expected an integer from 0 on"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, norm="4"), "norm: expected a positive number, got '4'"),
        (lambda data: sensitivity(Linear(wave(3)), *data, boundary_ring=5.0), "boundary_ring: .* 1 to 22, got 5.0"),
        (lambda data: sensitivity(Linear(wave(3)), *data, ranks="0"), "ranks: expected some of 0 to 543, got '0'"),
        (lambda data: minimal_perturbation(Linear(wave(3)), *data, steps="3"), "steps: expected .*, got '3'"),
        (lambda data: minimal_perturbation(Linear(wave(3)), *data, repeats=1.5), "repeats: expected .*, got 1.5"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, seeds=("0",)), "seeds.*: expected .*, got '0'"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points=4), "points: expected an odd number from 5 on"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points=3), "points: expected .* from 5 on, got 3"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points="5"), "points: expected .*, got '5'"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, span="1"), "span: expected a positive number, got '1'"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, seed=0.5), "seed: expected an integer .*, got 0.5"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, span=0), "span: expected a positive number"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))
