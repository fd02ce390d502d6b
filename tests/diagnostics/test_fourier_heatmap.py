"""Fourier heat maps: the basis, models that see one wave, and both authors' bases transcribed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.diagnostics.fourier_heatmap import (
    NORMS,
    FourierHeatmap,
    fourier_frequencies,
    fourier_heatmap,
    fourier_wave,
    heatmap_limit,
    plot_heatmap,
)
from freqrob.diagnostics.run import diagnose
from tests.support.waves import SIZE, Linear, of_waves, wave

PLACES = torch.arange(-16, 16) / 32
HEATMAP = FourierHeatmap(torch.rand(32, 32).double(), PLACES, PLACES, 0.1, 4.0, "cosine", 1, "", 10, 0)


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


def test_a_quick_heat_map_of_tiny_images_has_every_wave():
    images, labels = torch.rand(4, 3, 3, 3), torch.arange(4) % 2
    found = diagnose(Linear(wave(1, 3)), images, labels, only=["fourier_heatmap"])
    assert found["fourier_heatmap"].every == 1 and found["fourier_heatmap"].change.isfinite().all()


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


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, norm=0), "norm: expected a positive number"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, every=17), "every: expected at most 16, half .*, got 17"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, basis="mine"), "basis: expected one of cosine_sine"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, precision="int8"), "precision: expected one of float32"),
        (lambda data: fourier_heatmap(Linear(wave(3)), *data, norm="4"), "norm: expected a positive number, got '4'"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


def test_heat_maps_share_a_scale(axes):
    image = plot_heatmap(axes, HEATMAP, largest=0.5)
    assert np.array_equal(image.get_array(), HEATMAP.change) and image.get_clim() == (0, 0.5)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (-0.5 - 0.5 / 32, 0.5 - 0.5 / 32) and (bottom, top) == (right, left)


def test_a_coarse_heat_map_has_its_frequencies(axes):
    every = slice(0, 32, 4)
    coarse = replace(HEATMAP, change=torch.rand(8, 8), vertical=PLACES[every], horizontal=PLACES[every], every=4)
    assert plot_heatmap(axes, coarse).get_extent() == [-0.5625, 0.4375, 0.4375, -0.5625]


def test_a_heat_map_that_is_not_finite_spoils_no_other():
    broken, sound = torch.full((4, 4), torch.nan), torch.arange(1.0, 17).view(4, 4)
    change = [replace(HEATMAP, change=one) for one in (broken, sound)]
    assert heatmap_limit(change) == heatmap_limit(change[::-1]) == 16
    assert heatmap_limit([replace(HEATMAP, change=0 * sound)]) == 1, "no scale of nothing"
