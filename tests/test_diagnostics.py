"""The diagnostics against cases with a known answer, independent transcriptions, and what a user may do to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.attacks import input_gradient
from freqrob.data.hybrid import MIXING_FREQUENCIES, derange, hybrid_images, partners
from freqrob.data.samples import sample_images
from freqrob.diagnostics.band_accuracy import BandAccuracy, band_accuracy
from freqrob.diagnostics.fourier_heatmap import fourier_basis, fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance, rises_through_zero
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import loss_landscape
from freqrob.diagnostics.run import PRESETS, diagnose
from freqrob.diagnostics.sensitivity import sensitivity
from freqrob.models import load_model
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.ops import mean_amplitude

SIZE = 32


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


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
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


def test_where_a_curve_rises_through_zero():
    x = torch.tensor([0.0, 1, 2, 3])
    assert rises_through_zero(x, torch.tensor([-1.0, -0.5, 1.5, 1])) == 1.25
    assert rises_through_zero(x, torch.tensor([-1.0, 0, 1, -1])) == 1
    assert rises_through_zero(x, torch.tensor([1.0, 2, 3, 4])).isnan()
    assert rises_through_zero(x, torch.tensor([-1.0, -2, -3, -4])).isnan()


# Fourier heat map


@pytest.mark.parametrize("convention", ["yin", "gatheluck"])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (6, 9)])
def test_the_basis_is_orthonormal_and_complete(convention, size):
    places, waves = fourier_basis(*size, convention)
    assert torch.allclose(waves.flatten(1).norm(dim=1), torch.ones(len(waves)), atol=1e-6)
    spectrum = torch.fft.fftshift(torch.fft.fft2(waves), dim=(-2, -1)).abs()
    for (y, x), amplitude in zip(places.tolist(), spectrum, strict=True):
        assert amplitude[y, x] > 0.99 * amplitude.max() and (amplitude > 1e-3).sum() <= 2
    if convention == "yin":
        gram = waves.flatten(1) @ waves.flatten(1).T
        assert len(waves) == size[0] * size[1] and torch.allclose(gram, torch.eye(len(waves)), atol=1e-5)
    else:
        real = sum((-ky % size[0], -kx % size[1]) == (ky, kx) for ky in range(size[0]) for kx in range(size[1]))
        assert len(waves) == (size[0] * size[1] + real) // 2


@pytest.mark.parametrize("convention", ["yin", "gatheluck"])
def test_a_model_that_sees_one_wave_errs_at_its_frequency_alone(convention):
    images, labels = of_waves(3)
    found = fourier_heatmap(Linear(wave(3)), images, labels, norm=8.0, convention=convention)
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
    found = fourier_heatmap(model, images, torch.tensor([0, 1]), norm=0.01, convention="yin", layer="0")
    kernel = torch.zeros(2, 8, 8)
    kernel[:, :3, :3] = layer.weight.detach().sum(1).flip(-1, -2)
    gain = torch.fft.fftshift(torch.fft.fft2(kernel), dim=(-2, -1)).abs().square().sum(0).sqrt()
    assert torch.allclose(found.change, 0.01 * gain.double(), rtol=1e-3, atol=1e-6)


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


def test_a_model_that_sees_one_frequency_needs_its_ring():
    images, labels = of_waves(7)
    found = band_accuracy(Linear(wave(7)), images, labels, width=3)
    ring = torch.arange(len(found.low))
    for accuracy, has in ((found.low, ring >= 7), (found.high, ring <= 7), (found.band, (ring - 7).abs() <= 1)):
        assert (accuracy[has] == 1).all() and (accuracy[~has] < 0.95).all()


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
    assert found.rise == pytest.approx(near.mean().item())
    assert found.sharpness == pytest.approx(near.max().item() / (1 + found.loss[2, 2].item()))


def test_the_landscape_leaves_the_model_as_it_was():
    model = load_model("standard_rn20").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss_landscape(model, torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 1]), points=3)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# What all have in common

EACH = {
    "jacobian": lambda model, data, **more: jacobian_spectrum(model, *data, **more),
    "hybrid": lambda model, data, **more: hybrid_reliance(model, *data, frequencies=(0.05, 0.2), seeds=(0,), **more),
    "heatmap": lambda model, data, **more: fourier_heatmap(model, *data, norm=1.0, **more),
    "sensitivity": lambda model, data, **more: sensitivity(model, *data, **more),
    "bands": lambda model, data, **more: band_accuracy(model, *data, **more),
    "landscape": lambda model, data, **more: loss_landscape(model, *data, points=3, **more),
}


@pytest.mark.parametrize("name", EACH)
def test_a_second_call_measures_nothing_and_a_stopped_one_goes_on(name, tmp_path):
    model, data = Counting(Linear(wave(3))), of_waves(3)

    def stops(items, *_):
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        EACH[name](model, data, batch_size=4, cache=tmp_path, track=stops)
    part, model.calls = model.calls, 0
    first = EACH[name](model, data, batch_size=4, cache=tmp_path)
    rest, model.calls = model.calls, 0
    again = EACH[name](model, data, batch_size=4, cache=tmp_path)
    assert part > 0 and rest > 0 and model.calls == 0
    whole = EACH[name](model, data, batch_size=4)
    assert model.calls == part + rest, "what was done before the stop was not done again"
    for one, other in ((first, again), (first, whole)):
        assert all(torch.equal(value, other.tensors()[key]) for key, value in one.tensors().items())


@pytest.mark.parametrize("name", EACH)
def test_saved_and_loaded(name, tmp_path):
    found = EACH[name](Linear(wave(3)), of_waves(3))
    path = found.save(tmp_path, about={"model": "linear"})
    assert json.loads(path.read_text())["model"] == "linear"
    loaded = type(found).load(tmp_path)
    assert loaded.scalars() == found.scalars()
    assert all(torch.equal(value, loaded.tensors()[key]) for key, value in found.tensors().items())


def test_all_diagnostics_of_a_model_on_real_images(tmp_path):
    dataset = sample_images()
    names = [name for name in PRESETS["quick"] if name != "fourier_heatmap"]
    found = diagnose(load_model("fgsm_rn20"), dataset.images, dataset.labels, only=names, out=tmp_path)
    assert list(found) == names
    for name, measured in found.items():
        again = type(measured).load(tmp_path, name)
        assert again.scalars() == measured.scalars() and measured.images == len(dataset)


def test_the_presets_measure_the_same():
    assert PRESETS["quick"].keys() == PRESETS["full"].keys()


@pytest.mark.parametrize("damage", [lambda text: text[:30], lambda text: "{}", lambda text: text.replace("width", "w")])
def test_a_damaged_measurement_is_named(tmp_path, damage):
    path = band_accuracy(Linear(wave(3)), *of_waves(3)).save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match="band_accuracy.json: not a measurement of band_accuracy"):
        BandAccuracy.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        BandAccuracy.load(tmp_path / "absent")


@pytest.mark.parametrize("name", EACH)
def test_no_images_are_an_error(name):
    with pytest.raises(ValueError, match="images: expected"):
        EACH[name](Linear(wave(3)), (torch.rand(0, 3, SIZE, SIZE), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: jacobian_spectrum(Linear(wave(3)), *data, batch=0), "batch: expected at least 1"),
        (lambda data: diagnose(Linear(wave(3)), *data, preset="long"), "preset: expected one of quick, full"),
        (lambda data: diagnose(Linear(wave(3)), *data, only=["hibrid"]), "only: got 'hibrid', .* Nearest: hybrid"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=()), "frequencies: expected at least one"),
        (lambda data: hybrid_reliance(Linear(wave(3)), *data, frequencies=(0.2, 0.1)), "frequencies: .* ascending"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, norm=0), "norm: expected a positive number"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, convention="mine"), "convention: expected one of yin"),
        (lambda data: sensitivity(Linear(wave(3)), *data, boundary_ring=23), "boundary_ring: expected 1 to 22"),
        (lambda data: sensitivity(Linear(wave(3)), *data, ranks=(544,)), "ranks: expected some of 0 to 543"),
        (lambda data: band_accuracy(Linear(wave(3)), *data, width=4), "width: expected an odd number"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points=4), "points: expected an odd number"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, span=0), "span: expected a positive number"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))
