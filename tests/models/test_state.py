"""The layout in which networks get their images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from freqrob.models.front_ends import FrontEnded, Normalize
from freqrob.models.state import channels_last


class Seeing(nn.Module):
    """A convolution and what follows it; keeps of each call whether the images were in channels_last."""

    def __init__(self, follows):
        super().__init__()
        self.convolution, self.follows, self.seen = nn.Conv2d(3, 4, 3, padding=1), follows, []

    def forward(self, images, scale=1.0):
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        return scale * self.follows(self.convolution(images)) + torch.rand(())


class ViewedGradient(torch.autograd.Function):
    @staticmethod
    def forward(_context, features):
        return features.clone()

    @staticmethod
    def backward(_context, gradient):
        return gradient.view(len(gradient), -1).view_as(gradient)


def planes(features):
    count, channels, height, width = features.shape
    return features.view(count * channels, height * width).reshape(count, -1)


def not_one(features):
    assert len(features) != 1
    return features.flatten(1)


TAKES_IT = {"flatten": lambda features: features.flatten(1), "not one": not_one}
CANNOT = {
    "view": lambda features: features.view(len(features), -1),
    "planes": planes,
    "gradient": lambda features: F.conv2d(ViewedGradient.apply(features), torch.ones(2, 4, 3, 3)).flatten(1),
}
BOTH = {**TAKES_IT, **CANNOT}


def gradient(model, images):
    torch.manual_seed(0)
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images).square().sum(), images)[0]


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BOTH)
def test_a_network_that_takes_it_gets_it(name, images):
    model = Seeing(BOTH[name])
    expected = gradient(model, images)
    model.seen.clear()
    with channels_last(model):
        found = gradient(model, images)
        model(images)
    torch.testing.assert_close(found, expected, msg="the trial draws nothing from the generator either")
    assert model.seen == [True, *[name in TAKES_IT] * 2], "the first is the trial"
    model(images)
    assert not model.seen[-1]


def test_behind_front_ends_it_is_the_network_that_gets_it(images):
    class Contiguous(nn.Module):
        def forward(self, images):
            return images.contiguous()

    network = Seeing(torch.flatten)
    model = FrontEnded([Contiguous()], FrontEnded([Normalize((0.5,) * 3, (0.5,) * 3)], network))
    with channels_last(model), torch.no_grad():
        model(images)
    assert network.seen == [True, True]


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel])
def test_inside_of_wrappers_too(images, wrap):
    class Contiguous(nn.Module):
        def forward(self, images):
            assert images.is_contiguous(), "before the front ends nothing changes"
            return images.contiguous()

    model = wrap(FrontEnded([Contiguous()], Seeing(torch.flatten)))
    with channels_last(model), torch.no_grad():
        model(images)
    assert model.module.network.seen == [True, True]


def test_other_arguments_are_left_alone(images):
    model = Seeing(TAKES_IT["flatten"])
    with channels_last(model):
        for given, named in (((images, 0.0), {}), ((images,), {"scale": 0.0}), ((), {"images": images, "scale": 0.0})):
            assert (model(*given, **named).diff() == 0).all()
    assert model.seen == [True, True, True, False]


def test_under_inference_mode_and_with_one_image(images):
    model = Seeing(TAKES_IT["flatten"])
    with torch.inference_mode(), channels_last(model):
        model(images[:1])
    assert model.seen == [True, True]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_and_compiled_networks_are_as_they_were(images):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    expected = network(images)
    scripted = torch.jit.script(network)
    with channels_last(scripted):
        assert torch.equal(scripted(images), expected)
    network.compile(fullgraph=True, backend="eager")
    with channels_last(network):
        assert torch.equal(network(images), expected)


def test_a_network_that_fails_anyhow_raises(images):
    def fails(_features):
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"), channels_last(model := Seeing(fails)):
        model(images)
    assert not model._forward_pre_hooks
