"""The smallest perturbations' spectrum: linear models, the authors' analysis transcribed, interruptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from freqrob.attacks import BrendelBethge, MinimalPerturbationSearch
from freqrob.diagnostics.drawing import shared_limits
from freqrob.diagnostics.minimal_perturbation import (
    minimal_perturbation,
    perturbation_map,
    plot_perturbation_profiles,
    plot_perturbation_sizes,
    plot_perturbation_spectrum,
    plot_success_rates,
)
from tests.support.every_diagnostic import Counting
from tests.support.figures import line
from tests.support.measurements import PERTURBATIONS, POWER
from tests.support.waves import SIZE, Linear, of_waves, wave


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
    how = MinimalPerturbationSearch(BrendelBethge(steps=10), seed=2)
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
        minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", progress=stops, **how)
    assert 0 < model.calls < calls
    model.calls = 0
    first = minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", **how)
    assert 0 < model.calls < calls
    model.calls = 0
    again = minimal_perturbation(model, *data, cache=tmp_path, cache_key="1", **how)
    assert model.calls == 0
    for one, other in ((first, again), (first, whole)):
        assert all(torch.equal(value, other.tensors()[key]) for key, value in one.tensors().items())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: minimal_perturbation(Linear(wave(3)), *data, steps="3"), "steps: expected .*, got '3'"),
        (lambda data: minimal_perturbation(Linear(wave(3)), *data, repeats=1.5), "repeats: expected .*, got 1.5"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


def test_perturbations_as_a_map_with_dc_in_the_middle(axes):
    whole = perturbation_map(PERTURBATIONS)
    limits = shared_limits([whole])
    image = plot_perturbation_spectrum(axes, PERTURBATIONS, limits)
    assert whole[16, 16] == 0 and whole.mean() == pytest.approx(1) and image.get_clim() == limits
    assert image.get_array()[16, 17] == POWER[0, 1] / POWER.mean()


def test_profiles_of_perturbations_are_cumulative(axes):
    plot_perturbation_profiles(axes, {"one": PERTURBATIONS})
    assert np.allclose(line(axes, "one"), np.stack([PERTURBATIONS.radii, PERTURBATIONS.cumulative], 1))
    assert axes.get_lines()[2].get_xdata()[0] == 0.25


def test_success_rates_rise_with_the_budget(axes):
    plot_success_rates(axes, {"one": PERTURBATIONS})
    budgets, rates = line(axes, "one").T
    for budget, rate in ((0.5, 0), (1.5, 0.25), (2.5, 0.5), (3.1, 0.75)):
        assert np.interp(budget, budgets, rates) == rate
    assert axes.get_lines()[2].get_xydata().tolist() == [[pytest.approx(2), 0.5]]
    assert axes.get_xlabel() == "L∞ budget (grey levels of 255)"


def test_mean_sizes_are_those_of_the_successes(axes):
    plot_perturbation_sizes(axes, {"one": PERTURBATIONS})
    point, _, (across, up) = axes.containers[0]
    assert point.get_xydata().tolist() == [[0.25, pytest.approx(2)]], "the mean of 1, 2 and 3 grey levels"
    assert np.allclose(across.get_segments()[0][:, 0], [0.2, 0.35])
    assert np.allclose(up.get_segments()[0][:, 1], [2 - 3**-0.5, 2 + 3**-0.5])
    assert axes.get_ylabel() == "L∞ distance (grey levels of 255)"


def test_sizes_in_two_norms_share_no_axis(axes):
    with pytest.raises(ValueError, match="models: expected sizes in one norm, got L2 and Linf"):
        plot_perturbation_sizes(axes, {"one": PERTURBATIONS, "l2": replace(PERTURBATIONS, norm="L2")})
