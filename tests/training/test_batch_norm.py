"""Batch norm differentiated twice: PyTorch's numbers, from fewer passes."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from freqrob.models import create_network
from freqrob.training.batch_norm import differentiate_twice


def second_derivatives(network, images):
    """Of a loss that holds the gradient with respect to the images, with respect to everything."""
    images = images.clone().requires_grad_()
    loss = network(images).pow(3).sum()
    gradient = torch.autograd.grad(loss, images, create_graph=True)[0]
    wanted = [images, *network.parameters()]
    return torch.autograd.grad(loss + gradient.square().sum().sqrt(), wanted)


@pytest.mark.parametrize("channels_last", [False, True])
def test_second_derivatives_are_those_of_pytorch(channels_last):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4), nn.Flatten()).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    network[1].weight.data[0] = 0
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(5, 3, 6, 7, dtype=torch.float64).contiguous(memory_format=layout)
    other = differentiate_twice(deepcopy(network))
    expected, found = second_derivatives(network, images), second_derivatives(other, images)
    for one, two in zip(expected, found, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-9)
    for one, two in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), "the running statistics"


def test_a_whole_network_in_bfloat16():
    torch.manual_seed(0)
    network = create_network("rn20")
    other, images = differentiate_twice(deepcopy(network)), torch.rand(8, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = second_derivatives(network, images), second_derivatives(other, images)
    for one, two in zip(expected, found, strict=True):
        assert (one - two).norm() <= 0.05 * one.norm()


def test_evaluation_and_state_are_untouched():
    torch.manual_seed(0)
    network = create_network("rn20").eval()
    other, images = differentiate_twice(deepcopy(network)), torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), other(images))
    assert list(network.state_dict()) == list(other.state_dict())
    with torch.no_grad():
        assert torch.equal(network.train()(images), other.train()(images))


def test_others_are_left_alone():
    network = differentiate_twice(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm1d(3)))
    assert [type(module) for module in network] == [nn.BatchNorm2d, nn.BatchNorm1d]
