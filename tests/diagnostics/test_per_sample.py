"""What every diagnostic does with batches: interruptions, the model's layout and mode, no images."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from freqrob.diagnostics.minimal_perturbation import minimal_perturbation
from tests.support.every_diagnostic import EACH, MINIMAL, Counting, equal
from tests.support.waves import SIZE, Linear, of_waves, wave


@pytest.mark.parametrize("name", EACH)
def test_a_second_call_measures_nothing_and_a_stopped_one_goes_on(name, tmp_path):
    model, data = Counting(Linear(wave(3))), of_waves(3)

    def stops(items, *_):
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        EACH[name](model, data, batch_size=4, cache=tmp_path, cache_key="1", progress=stops)
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


@pytest.mark.parametrize("name", [*EACH, MINIMAL])
def test_inference_mode_changes_nothing(name):
    each = {**EACH, MINIMAL: lambda model, data: minimal_perturbation(model, *data, steps=2, repeats=1)}
    model = Linear(wave(3))
    expected = each[name](model, of_waves(3)).tensors()
    with torch.inference_mode():
        found = each[name](model, of_waves(3)).tensors()
    assert all(torch.allclose(found[one], value, equal_nan=True) for one, value in expected.items())


@pytest.mark.parametrize("name", EACH)
def test_no_images_are_an_error(name):
    with pytest.raises(ValueError, match="images: expected"):
        EACH[name](Linear(wave(3)), (torch.rand(0, 3, SIZE, SIZE), torch.zeros(0, dtype=torch.int64)))
