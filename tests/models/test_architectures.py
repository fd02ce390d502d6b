"""The architectures: their sizes, their drawn weights, and RobustBench's state dicts."""

import importlib.metadata
import importlib.util
import math

import pytest
import torch

from freqrob.models import create_network, list_architectures
from freqrob.models.sources import open_model
from tests.support.networks import PARAMETERS, randomise


def test_every_architecture_has_a_published_parameter_count():
    assert list_architectures() == sorted(PARAMETERS)


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_parameters_and_shapes(architecture):
    with torch.device("meta"):
        network = create_network(architecture, num_classes=10)
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[architecture]
        for size in (32, 64):
            assert network(torch.empty(2, 3, size, size)).shape == (2, 10)
        assert create_network(architecture, num_classes=200)(torch.empty(2, 3, 64, 64)).shape == (2, 200)


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_images_of_one_channel(architecture):
    with torch.device("meta"):
        assert create_network(architecture, 4, in_channels=1)(torch.empty(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("architecture", ["rn20", "prn18", "wrn40_2", "resnext29", "densenet"])
@torch.no_grad()
def test_channels_last_stays_channels_last(architecture):
    network = randomise(create_network(architecture)).double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    kept = []
    last_norm = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)][-1]
    last_norm.register_forward_pre_hook(
        lambda module, inputs: kept.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    out = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected)
    assert kept == [True]


def test_rn20_shortcut_is_option_a():
    shortcut = create_network("rn20").layer2[0].shortcut
    images = torch.rand(2, 16, 8, 8)
    out = shortcut(images)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def robustbench_architecture(file: str):
    """The module of an architecture in the installed robustbench, which itself does not import on a fresh install."""
    try:
        distribution = importlib.metadata.distribution("robustbench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("robustbench is not installed (pip install --no-deps robustbench)")
    path = distribution.locate_file(f"robustbench/model_zoo/architectures/{file}.py")
    spec = importlib.util.spec_from_file_location(f"robustbench_{file}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def robustbench_network(architecture: str) -> torch.nn.Module:
    if architecture == "wrn40_2":
        return robustbench_architecture("wide_resnet").WideResNet(depth=40, widen_factor=2)
    if architecture == "resnext29":
        resnext = robustbench_architecture("resnext")
        return resnext.CifarResNeXt(resnext.ResNeXtBottleneck, 29, cardinality=4, base_width=32, num_classes=10)
    resnet = robustbench_architecture("resnet")
    if architecture in ("rn18", "rn50"):
        return resnet.ResNet18() if architecture == "rn18" else resnet.ResNet50()
    usual = architecture == "prn18"
    return resnet.PreActResNet(resnet.PreActBlock, [2, 2, 2, 2], bn_before_fc=usual, out_shortcut=usual)


@pytest.mark.parametrize("architecture", ["rn18", "rn50", "prn18", "prn18_jafr", "wrn40_2", "resnext29"])
@torch.no_grad()
def test_state_dicts_are_robustbenchs(architecture):
    theirs = randomise(robustbench_network(architecture)).double()
    ours = create_network(architecture).double().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)  # robustbench's pool takes 32×32 only
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("architecture", ["wrn34", "wrn28"])
def test_big_wide_resnets_have_robustbenchs_keys(architecture):
    wide_resnet = robustbench_architecture("wide_resnet")
    with torch.device("meta"):
        theirs = wide_resnet.WideResNet(depth=34 if architecture == "wrn34" else 28, widen_factor=10)
        ours = create_network(architecture)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("architecture", ["rn18", "wrn40_2"])
def test_weights_in_the_layout_of_trades_and_mart_give_the_same_logits(architecture, tmp_path):
    """State dicts of DataParallel, with the unused ``sub_block1`` of TRADES' wide ResNets."""
    theirs = (
        robustbench_architecture("resnet").ResNet18()
        if architecture == "rn18"
        else robustbench_architecture("wide_resnet").WideResNet(depth=40, widen_factor=2, sub_block1=True)
    )
    torch.save({"state_dict": torch.nn.DataParallel(randomise(theirs)).state_dict()}, tmp_path / "trades.pt")
    with pytest.warns(UserWarning, match="without the prefix 'module.'"):
        model = open_model(f"bass_trades_{architecture}={tmp_path / 'trades.pt'}", "models", "cifar10", "Linf")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = model.network(images)
        torch.testing.assert_close(logits, theirs.eval()(images), rtol=1e-4, atol=1e-4 * logits.abs().max().item())


def test_jafr_initialisation():
    network = create_network("prn18_jafr")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert network.linear.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)
    assert not network.linear.bias.any()


def test_vgg19_is_torchvisions_without_its_large_head():
    """The same features at 32×32, where torchvision's are one pixel; at 64×64 their mean over space."""
    vgg = pytest.importorskip("torchvision").models.vgg19_bn(weights=None)
    ours = randomise(create_network("vgg19")).double()
    vgg.features.load_state_dict(ours.features.state_dict())
    vgg = vgg.double().eval()
    for size in (32, 64):
        images = torch.rand(2, 3, size, size, dtype=torch.float64)
        with torch.no_grad():
            features = vgg.features(images)
            assert features.shape[2:] == (size // 32, size // 32)
            torch.testing.assert_close(ours(images), ours.classifier(features.mean((2, 3))))


def test_densenet_is_the_papers_cifar_network():
    """A 3×3 convolution feeds the first dense block at full resolution; three blocks of 16, compression one half."""
    network = create_network("densenet")
    sizes = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    network(torch.rand(1, 3, 32, 32))
    assert len(sizes) == 99 and sizes.count(32) == 1 + 33 and sizes.count(8) == 32, "L = 100 with the linear layer"
    assert network.features[0].kernel_size == (3, 3) and network.features[1] is network.features.denseblock1
    widths = [network.features.transition1, network.features.transition2]
    assert [(t.conv.in_channels, t.conv.out_channels) for t in widths] == [(24 + 192, 108), (108 + 192, 150)]


@pytest.mark.parametrize("architecture", ["resnext29", "densenet"])
def test_kernels_are_drawn_by_their_fan_out(architecture):
    for module in create_network(architecture).modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5_000:
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
