"""Front ends: what they do to pixels, their gradients, their precision."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from freqrob.data import DATASETS
from freqrob.models import create_network, front_ends
from freqrob.models.front_ends import (
    PCA,
    Blur,
    FrontEnded,
    InputSize,
    Normalize,
    front_ends_of,
    network_of,
    variant_front_ends,
    without_front_end,
)
from freqrob.models.wrappers import as_module
from freqrob.spectral.balance import BaSS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pca(components: int = 7, shape: tuple[int, int, int] = (3, 4, 5)) -> PCA:
    module = PCA(components, shape)
    basis = torch.linalg.qr(torch.rand(math.prod(shape), components, generator=generator(), dtype=torch.float64)).Q
    module.double().set_components(torch.rand(shape, generator=generator(1)), basis.T)
    return module


def test_normalize():
    mean, std = DATASETS["cifar10"].mean, DATASETS["cifar10"].std
    normalize = front_ends.Normalize(mean, std)
    images = torch.tensor(mean).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(normalize(images), torch.zeros(2, 3, 4, 4))
    whiter = images + torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalize(whiter), torch.ones(2, 3, 4, 4))


class TestBlur:
    @pytest.mark.parametrize("size", [(32, 32), (15, 22), (9, 8), (3, 5), (1, 1), (2, 40)])
    @pytest.mark.parametrize("sigma", [1.5, 0.8])
    def test_is_the_sum_over_shifts_of_the_periodic_image(self, size, sigma):
        images = torch.rand(2, 3, *size, generator=generator(), dtype=torch.float64)
        reach = math.ceil(2.5 * sigma)
        offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
        weights = torch.tensor([math.exp(-(i * i + j * j) / (2 * sigma**2)) for i, j in offsets]).double()
        shifted = torch.stack([images.roll(offset, (2, 3)) for offset in offsets], -1)
        expected = shifted @ (weights / weights.sum())
        torch.testing.assert_close(Blur(sigma)(images), expected, rtol=0, atol=1e-7)

    def test_an_impulse_becomes_the_papers_kernel(self):
        image = torch.zeros(1, 3, 32, 32)
        image[0, 1, 0, 31] = 1
        blurred = Blur()(image)
        assert (blurred[0, 1] > 0).sum() == 81 and blurred[0, 1].sum().item() == pytest.approx(1)
        assert not blurred[0, 0].any() and not blurred[0, 2].any(), "channels do not mix"
        assert blurred[0, 1].argmax() == 31 and blurred[0, 1, 4, 3] > 0 and blurred[0, 1, 5, 31] == 0
        total = sum(math.exp(-(i**2) / 4.5) for i in range(-4, 5))
        assert blurred[0, 1, 0, 31].item() == pytest.approx(1 / total**2)

    def test_a_constant_stays(self):
        torch.testing.assert_close(Blur(3.0)(torch.full((1, 3, 7, 6), 0.7)), torch.full((1, 3, 7, 6), 0.7))

    @pytest.mark.parametrize("sigma", [0, -1.0, math.inf, math.nan])
    def test_bad_sigma(self, sigma):
        with pytest.raises(ValueError, match="sigma: got"):
            Blur(sigma)


class TestPCA:
    def test_projects_on_the_components_about_the_mean(self):
        module = pca()
        mean, components = module.mean, module.components
        images = torch.rand(4, 3, 4, 5, generator=generator(2), dtype=torch.float64)
        out = module(images)
        scores = torch.einsum("kd,nd->nk", components, (images - mean).flatten(1))
        torch.testing.assert_close(out, mean + torch.einsum("nk,kd->nd", scores, components).view(4, 3, 4, 5))
        torch.testing.assert_close(module(out), out)
        assert (components @ (images - out).flatten(1).T).abs().max() < 1e-12, "what is lost is orthogonal"
        torch.testing.assert_close(module(mean[None]), mean[None])

    def test_all_components_lose_nothing(self):
        images = torch.rand(2, 3, 4, 5, generator=generator(), dtype=torch.float64)
        torch.testing.assert_close(pca(components=60)(images), images)

    def test_without_components_it_shows(self):
        module = PCA(2, (1, 2, 2))
        assert module(torch.rand(1, 1, 2, 2)).isnan().all()
        assert all(value.isnan().all() for value in module.state_dict().values())
        assert {key: value.shape for key, value in module.state_dict().items()} == {
            "mean": (1, 2, 2),
            "components": (2, 4),
        }

    @pytest.mark.parametrize(
        "parameters, message",
        [
            ({"components": 49, "shape": (3, 4, 4)}, "components: got 49, expected an integer from 1 to 48"),
            ({"components": 0}, "components: got 0"),
            ({"components": 2.0}, "components: got 2.0"),
            ({"shape": (3, 32)}, r"shape: got \(3, 32\), expected positive integers"),
            ({"shape": (3, 0, 32)}, "shape: got"),
        ],
    )
    def test_bad_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            PCA(**parameters)

    def test_bad_components_and_images(self):
        module = PCA(2, (1, 2, 2))
        mean, components = torch.zeros(1, 2, 2), torch.eye(2, 4)
        with pytest.raises(ValueError, match=r"mean: got shape \(4,\), expected finite \(1, 2, 2\)"):
            module.set_components(mean.flatten(), components)
        with pytest.raises(ValueError, match=r"components: got shape \(4, 2\), expected finite \(2, 4\)"):
            module.set_components(mean, components.T)
        with pytest.raises(ValueError, match="components: got shape .* expected finite"):
            module.set_components(mean, components / 0)
        with pytest.raises(ValueError, match=r"images: got \(5, 1, 2, 3\), expected \(N, 1, 2, 2\)"):
            module(torch.rand(5, 1, 2, 3))


@pytest.fixture(params=["blur", "pca", "normalize"])
def module(request) -> nn.Module:
    """A front end for images (N, 3, 4, 5), in float64."""
    made = {"blur": Blur, "pca": pca, "normalize": lambda: front_ends.Normalize([0.5] * 3, [0.2] * 3)}
    return made[request.param]().double()


IMAGES = torch.rand(2, 3, 4, 5, generator=generator(), dtype=torch.float64)


def test_differentiable_twice(module):
    class Squared(nn.Module):  # a linear front end's own second derivative is zero
        def forward(self, images):
            return module(images).square()

    images = IMAGES.clone().requires_grad_()
    assert gradcheck(Squared(), (images,))
    assert gradgradcheck(Squared(), (images,))


def test_channels_last(module):
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(last), module(IMAGES), rtol=1e-12, atol=1e-12)


def test_autocast_leaves_the_pixels_alone(module):
    module, images = module.float(), IMAGES.float().requires_grad_()
    expected = module(images)
    (gradient,) = torch.autograd.grad(expected.square().sum(), images)
    with torch.autocast("cpu", torch.bfloat16):
        found = FrontEnded([module], nn.Identity())(images)
        logits = FrontEnded([module], nn.Conv2d(3, 2, 3))(images)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found.square().sum(), images)[0], gradient)
    assert logits.dtype == torch.bfloat16, "the network is cast as before"


def test_half_precision_images(module):
    out = module.float()(IMAGES.bfloat16()).float()
    torch.testing.assert_close(out, module(IMAGES.bfloat16().float()), rtol=0.02, atol=0.02)


def test_meta_tensors(module):
    assert FrontEnded([module.float().to("meta")], nn.Identity())(IMAGES.float().to("meta")).shape == IMAGES.shape


def test_front_ends_come_in_order_and_leave_the_networks_keys_alone():
    network = create_network("rn20")
    halve, shift = {"mean": [0.0] * 3, "std": [2.0] * 3}, {"mean": [1.0] * 3, "std": [1.0] * 3}
    model = front_ends.with_front_ends(network, [{"name": "normalize", **halve}, {"name": "normalize", **shift}])
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model.front_ends(images), images / 2 - 1)
    assert model.network.state_dict().keys() == network.state_dict().keys()
    assert set(model.state_dict()) == {f"network.{key}" for key in network.state_dict()}


def test_only_pca_has_a_state():
    for name in ("bass", "blur", {"name": "normalize", "mean": [0.5], "std": [0.5]}):
        assert not front_ends.create_front_end(name).state_dict()
    assert front_ends.create_front_end("pca").state_dict().keys() == {"mean", "components"}


def test_specs_of_a_variant():
    assert all(variant_front_ends(variant, (3, 8, 8)) == [] for variant in (None, "bass", "bassmix"))
    (blur,) = map(front_ends.create_front_end, variant_front_ends("blur", (3, 8, 8)))
    assert isinstance(blur, Blur) and blur.sigma == 1.5
    (wider,) = map(front_ends.create_front_end, variant_front_ends("blur", (3, 8, 8), blur_sigma=3))
    assert wider.sigma == 3
    (pca,) = map(front_ends.create_front_end, variant_front_ends("pca", torch.Size((3, 8, 8)), components=9))
    assert pca.mean.shape == (3, 8, 8) and pca.components.shape == (9, 192)
    (bass,) = map(front_ends.create_front_end, variant_front_ends("bassfront", (3, 8, 8), weighting="power"))
    assert bass.weighting == "power"


def test_front_end_errors():
    with pytest.raises(ValueError, match="front_end: got 'bas', expected one of bass, blur"):
        front_ends.create_front_end("bas")
    with pytest.raises(ValueError, match=r"front_end: 'normalize' does not take \{'means'"):
        front_ends.create_front_end({"name": "normalize", "means": [0.5]})
    with pytest.raises(ValueError, match="mean, std"):
        front_ends.Normalize([0.5, 0.5], [0.5])
    with pytest.raises(ValueError, match="mean, std"):
        front_ends.Normalize([0.5], [0.0])


# Where a model has them


def foolbox_model(model: nn.Module, **options) -> object:
    foolbox = pytest.importorskip("foolbox")
    preprocessing = {"mean": [0.5] * 3, "std": [2.0] * 3, "axis": -3}
    return foolbox.PyTorchModel(model, (-1, 3), "cpu", preprocessing).transform_bounds((0, 255), **options)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "Sequential": lambda model: nn.Sequential(model, nn.Softplus()),
    "named stages": lambda model: nn.Sequential(OrderedDict(size=InputSize((16, 16)), model=model, head=nn.Softplus())),
    "FrontEnded": lambda model: FrontEnded([Normalize([0.1] * 3, [0.9] * 3)], model),
    "Foolbox": lambda model: as_module(foolbox_model(model)),
    "Foolbox twice": lambda model: as_module(foolbox_model(model, wrapper=True)),
    "several": lambda model: nn.Sequential(nn.DataParallel(torch.compile(FrontEnded([], model), backend="eager"))),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_front_end_is_found_and_taken_out_behind_every_wrapper(wrap, group):
    own, blur = BaSS("power"), Blur(0.7)
    images, net = torch.rand(3, 3, 16, 16, generator=generator()), network()
    model = FrontEnded([blur, own], net)
    model(images)  # which gives the lazy layer its size
    whole, shorter = wrap(model.eval()).eval(), wrap(FrontEnded([blur], net).eval()).eval()
    before, expected = whole(images), shorter(images)
    (found,) = (module for module in front_ends_of(whole) if isinstance(module, BaSS))
    assert found.weighting == "power" and (found is own or wrap is WRAPPERS["AveragedModel"]), "which has a copy"
    changed = without_front_end(whole, found)
    torch.testing.assert_close(changed(images), expected, rtol=0, atol=0)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert [type(one) for one in front_ends_of(changed)] == [type(one) for one in front_ends_of(shorter)]
    torch.testing.assert_close(whole(images), before, rtol=0, atol=0, msg="the caller's model is as it was")
    assert list(model.front_ends) == [blur, own]


def test_front_ends_come_in_the_order_of_the_image():
    size, normalize, bass, blur, convolution = (
        InputSize((8, 8)),
        Normalize([0.5], [0.5]),
        BaSS(),
        Blur(),
        nn.Conv2d(1, 1, 1),
    )
    inner = nn.Sequential(size, nn.Sequential(normalize, FrontEnded([blur], nn.Sequential(convolution, PCA()))))
    assert front_ends_of(FrontEnded([bass], inner)) == [bass, size, normalize, blur]
    assert front_ends_of(FrontEnded([convolution, bass], nn.Identity())) == [convolution, bass], "any module may be one"
    assert front_ends_of(nn.Sequential(bass, blur)) == [bass, blur]
    assert front_ends_of(nn.Sequential(convolution, bass)) == front_ends_of(nn.Sequential()) == []


@pytest.mark.parametrize("index", range(4))
def test_any_of_several_front_ends_is_taken_out(index):
    model = FrontEnded(
        [BaSS(), Blur(0.5)], nn.Sequential(InputSize((8, 8)), Normalize([0.5] * 3, [0.5] * 3), network())
    )
    found = front_ends_of(model)
    rest = [one for one in found if one is not found[index]]
    changed, images = without_front_end(model, found[index]), torch.rand(2, 3, 16, 16, generator=generator())
    assert front_ends_of(changed) == rest and front_ends_of(model) == found
    torch.testing.assert_close(changed(images), network_of(model)[2](nn.Sequential(*rest)(images)))
    with pytest.raises(ValueError, match="front_end: got Blur, expected one of front_ends_of"):
        without_front_end(model, Blur(0.5))


def test_a_sequential_that_runs_its_stages_otherwise_is_left_alone():
    class Backwards(nn.Sequential):
        def forward(self, images):
            for stage in reversed(self):
                images = stage(images)
            return images

    assert front_ends_of(Backwards(BaSS(), nn.Identity())) == []


def test_a_model_of_another_class_stays_one_and_keeps_its_hooks():
    class Doubled(FrontEnded):
        def forward(self, images):
            return 2 * super().forward(images)

    own, calls = BaSS(), []
    model = Doubled([own], nn.Identity())
    model.register_forward_hook(lambda *_: calls.append(1))
    changed, images = without_front_end(model, own), torch.rand(1, 3, 8, 8, generator=generator())
    assert torch.equal(changed(images), 2 * images) and calls == [1]
    changed.register_forward_hook(lambda *_: calls.append(2))
    model(images)
    assert calls == [1, 1], "a hook of the copy is not one of the caller's model"


def test_front_ends_of_a_foolbox_model_are_those_of_its_network():
    foolbox = pytest.importorskip("foolbox")
    blur = Blur()
    model = foolbox.PyTorchModel(FrontEnded([blur], nn.Flatten()).eval(), bounds=(0, 1))
    assert front_ends_of(model) == [blur]
    with pytest.raises(TypeError, match="model: got function, expected an nn.Module"):
        front_ends_of(lambda images: images)
