"""Twins compute what their models compute, and are refused where they may not."""

# pyright: reportIncompatibleMethodOverride=false, reportArgumentType=false, reportReturnType=false
# torch declares tensors of batch norms as optional, and ``backward`` with other names.

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from freqrob.attacks import input_gradient
from freqrob.models import create_network, fast_gradients, list_architectures
from freqrob.models.front_ends import PCA, FrontEnded, Normalize, with_front_ends
from freqrob.models.twins import SAME_GRADIENT, Folded, NoTwinError, folded_twin

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 0])
LARGE = ("wrn34", "wrn28", "rn50")


def trained(network: nn.Module) -> nn.Module:
    """The network in eval mode with batch norms as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.2)
    return network.eval()


def small(*layers: nn.Module) -> nn.Sequential:
    norm = [nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU()]
    return trained(nn.Sequential(*layers, *norm, nn.Flatten(), nn.Linear(512, 10)))


def assert_same(model: nn.Module, twin: nn.Module, images: Tensor = IMAGES) -> None:
    assert twin is not model
    with torch.no_grad():
        logits, twins = model(images), twin(images)
    assert ((twins - logits).norm(dim=1) <= 1e-5 * logits.norm(dim=1)).all()
    gradient, twins = (input_gradient(each, images, LABELS[: len(images)]) for each in (model, twin))
    difference = (twins - gradient).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    assert difference.median() < SAME_GRADIENT  # one image's may move through a ReLU's kink


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in list_architectures()]
)
def test_every_architecture_has_a_twin(name):
    torch.manual_seed(0)
    model = trained(create_network(name))
    assert_same(model, folded_twin(model, IMAGES))


@pytest.mark.parametrize("spec", ["bass", {"name": "blur", "sigma": 1.5}, "pca", {
    "name": "normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}], ids=str)  # fmt: skip
@pytest.mark.parametrize("in_sequence", [False, True])
def test_front_ends_stay(spec, in_sequence):
    model = with_front_ends(small(), [spec]).eval()
    (front_end,) = model.front_ends
    if isinstance(front_end, PCA):
        basis = torch.linalg.qr(torch.randn(3072, 512, generator=torch.Generator().manual_seed(0)))[0].T
        front_end.set_components(torch.zeros(3, 32, 32), basis)
    if in_sequence:
        model = nn.Sequential(front_end, model.network).eval()
    twin = folded_twin(model, IMAGES)
    assert_same(model, twin)
    assert any(module is front_end for module in twin.modules())


def test_front_ends_may_be_nested_and_models_averaged():
    model = FrontEnded([Normalize([0.1], [0.9])], AveragedModel(with_front_ends(small(), ["bass"]))).eval()
    assert_same(model, folded_twin(model, IMAGES))


def folded_layers(model: nn.Module) -> int:
    return sum(name.startswith("folded") for name, _ in Folded(model).network.named_children())


def test_layers_used_twice_are_folded_for_each_use():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.second(self.conv(self.first(self.conv(x))))
            return self.second(self.conv(x)).mean((2, 3))

    model = trained(Twice())
    assert_same(model, folded_twin(model, IMAGES))
    assert folded_layers(model) == 3


def test_a_convolution_whose_output_is_used_elsewhere_is_not_folded():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), small()

        def forward(self, x):
            x = self.conv(x)
            return self.last(x + self.norm(x))

    model = trained(Branch())
    assert_same(model, folded_twin(model, IMAGES))
    assert folded_layers(model) == 1


def test_the_model_is_left_as_it_was():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small()

        def forward(self, x):
            return self.network(x + torch.ones(1, 3, 1, 1))

    model = trained(Constant())
    before = {name: vars(module).copy() for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert_same(model, folded_twin(model, IMAGES))
    assert before == {name: vars(module) for name, module in model.named_modules()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_results_do_not_depend_on_the_batch():
    model = small()
    twin = folded_twin(model, IMAGES)
    assert torch.allclose(twin(IMAGES)[:1], twin(IMAGES[:1]), atol=1e-6)
    assert_same(model, twin, IMAGES[:1])


class OwnGradient(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Straight(nn.Module):
    def forward(self, x):
        return OwnGradient.apply(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape[1:])


def hooked() -> nn.Module:
    model = small()
    model[0].register_forward_hook(lambda *_: None)
    return model


def replaced() -> nn.Module:
    model = small()
    model[0].forward = lambda x: x[:, :, ::4, ::4].repeat(1, 3, 1, 1)[:, :8]
    return model


def compiled() -> nn.Module:
    model = small()
    model[2].compile()
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make, reason",
    [
        (hooked, "has hooks"),
        (replaced, "the forward of one of its modules was replaced"),
        (compiled, "is compiled"),
        (lambda: torch.jit.script(small()), "is scripted"),
        (lambda: small().train(), "is in training mode"),
        (lambda: small().double(), "torch.float64, not torch.float32"),
        (lambda: nn.DataParallel(small()).eval(), "is in DataParallel"),
        (lambda: small(Branches()), "cannot be traced"),
        (lambda: small(Straight()), "its gradient and its twin's differ"),
        (lambda: small(Draws()), "its logits and its twin's differ"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), "no batch norm after a convolution"),
        (lambda: trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))), "fails"),
    ],
)
def test_a_model_without_twin_is_used_itself(caplog, make, reason):
    model = make()
    with pytest.raises(NoTwinError, match=reason):
        folded_twin(model, IMAGES)
    with caplog.at_level(logging.INFO, "freqrob"):
        assert fast_gradients(model, IMAGES) is model
    (line,) = caplog.messages
    assert "attacked as it is, because it" in line and reason in line or reason.startswith("the")


def test_hooks_of_all_modules_are_honoured():
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        with pytest.raises(NoTwinError, match="hooks"):
            folded_twin(small(), IMAGES)


def test_the_callers_autocast_is_honoured():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(NoTwinError, match="autocast"):
        folded_twin(small(), IMAGES)


def test_images_of_another_type_are_left_to_the_model():
    with pytest.raises(NoTwinError, match="float64"):
        folded_twin(small(), IMAGES.double())
