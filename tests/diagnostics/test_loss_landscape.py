"""The loss around the weights, by hand and transcribed; the model stays as it was."""

import doctest
import math
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqrob.data.samples import sample_images
from freqrob.diagnostics.loss_landscape import (
    LossLandscape,
    component,
    landscape_limits,
    loss_landscape,
    plot_landscape,
)
from freqrob.models import load_model
from freqrob.spectral.longtail import radial_power, split
from tests.support.waves import SIZE, Linear, of_waves, wave

LANDSCAPE = LossLandscape(
    torch.linspace(-1, 1, 5).double(), torch.rand(5, 5).double() + 0.1, torch.rand(5, 5).double(), 0.1, 0.2, 10, 0
)


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
    assert found.offsets.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
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


def surface(loss_of, span=1.0, points=21):
    """The landscape of a function of (a, b)."""
    offsets = torch.linspace(-span, span, points, dtype=torch.float64)
    loss = loss_of(offsets[:, None], offsets)
    return LossLandscape(offsets, loss, torch.zeros_like(loss), 0.0, 0.0, 1, 0)


def test_steepness_and_distance_of_a_bowl():
    bowl = surface(lambda a, b: 2 + 3 * (a - 0.3) ** 2 + 0.5 * (b + 0.4) ** 2)
    assert bowl.steepness == pytest.approx(torch.tensor([3 * 2 * -0.3, 0.5 * 2 * 0.4]).norm().item())
    assert bowl.distance_to_minimum == pytest.approx(0.5)
    assert bowl.depth == pytest.approx(3 * 0.09 + 0.5 * 0.16)
    centred = surface(lambda a, b: 1 + a**2 + 9 * b**2, span=0.5, points=5)
    assert (centred.steepness, centred.distance_to_minimum, centred.depth) == (0, 0, 0)


def test_a_surface_that_is_not_finite_somewhere():
    broken = surface(lambda a, b: torch.where(a > 0.5, torch.nan, 1 + (a + 0.6).abs() + b.abs()))
    assert broken.distance_to_minimum == pytest.approx(0.6)
    assert math.isnan(surface(lambda a, b: a * b * torch.nan).distance_to_minimum)


def test_components_are_those_of_equation_2():
    """LFC + HFC is the image; the HFC has no coefficient of the low rings, unless it is clipped."""
    images = sample_images().images
    low, high = component(images, "low"), component(images, "high")
    boundary = split(images).boundary
    assert torch.allclose(low + high, images / 255, atol=1e-5)
    in_low_rings = [
        (radial_power(x)[..., : boundary + 1].sum() / radial_power(x).sum()).item()
        for x in (high, component(images, "high", clip=True))
    ]
    assert in_low_rings[0] < 1e-10 and in_low_rings[1] > 0.2
    clipped = component(images, "low", clip=True)
    assert torch.equal(clipped, low.clamp(0, 1)) and high.min() < -0.1
    with pytest.raises(ValueError, match="part: expected one of low, high, got 'middle'"):
        component(images, "middle")


def test_the_landscape_takes_components():
    images, labels = of_waves(3)
    found = loss_landscape(Linear(wave(3)), component(images, "high"), labels, points=5)
    assert found.loss.isfinite().all()


def test_examples_in_docstrings():
    assert doctest.testmod(sys.modules[component.__module__]).failed == 0


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
    with pytest.warns(UserWarning, match="it has no weights that can be changed, so its landscape is flat"):
        assert loss_landscape(nn.Flatten(), torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), points=5).variation == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: loss_landscape(Linear(wave(3)), *data, batch_size=0), "batch_size: expected an integer ≥ 1"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points=4), "points: expected an odd number ≥ 5"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points=3), "points: expected .* ≥ 5, got 3"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, points="5"), "points: expected .*, got '5'"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, span="1"), "span: expected a positive number, got '1'"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, seed=0.5), "seed: expected an integer .*, got 0.5"),
        (lambda data: loss_landscape(Linear(wave(3)), *data, span=0), "span: expected a positive number"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))


def test_a_landscape_has_its_model_in_the_middle(axes):
    contours = plot_landscape(axes, LANDSCAPE)
    assert len(contours.levels) == 12 and axes.get_lines()[0].get_xydata().tolist() == [[0, 0]]


def test_landscapes_share_a_scale_and_survive_losses_that_are_not_finite(axes):
    loss = torch.tensor([[1.0, torch.nan, torch.inf], [0.5, 0.1, 2], [1, 1, 1]]).double()
    wild = LossLandscape(torch.linspace(-1, 1, 3).double(), loss, loss, 0.1, 0.2, 10, 0)
    low, high = landscape_limits([wild, LANDSCAPE])
    assert (low, high) == (pytest.approx(0.1), 1000)
    assert plot_landscape(axes, wild, limits=(low, high)).levels[[0, -1]] == pytest.approx([low, high])
