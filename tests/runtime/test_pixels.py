"""Images that are not what a function expects are refused, or warned of where an attack may make them."""

from __future__ import annotations

import math
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.transforms.v2.functional import to_pil_image

import freqrob
from freqrob import bass, diagnose, evaluate, load_model, radial_power
from freqrob.attacks import FGSM, PGD, Clean, fgsm, input_gradient, pgd
from freqrob.attacks.band import Band, band_pgd
from freqrob.attacks.minimal_perturbation import MinimalPerturbationSearch
from freqrob.data import ImageSet, balance
from freqrob.data.augmix import augmix
from freqrob.data.corruptions import corrupt
from freqrob.data.datasets import to_pixels
from freqrob.data.hybrid import derange, hybrid_images, partners
from freqrob.data.samples import sample_images
from freqrob.data.transforms import RandomBaSS
from freqrob.diagnostics import corruption_spectrum, spectrum
from freqrob.models.cards import CheckpointError
from freqrob.models.front_ends import PCA, Blur, FrontEnded, InputSize, Normalize
from freqrob.runtime.pixels import has_channels_last
from freqrob.spectral.balance import BaSS
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.longtail import fit_power_law, mean_power, power_profile, spectral_entropy, split
from freqrob.spectral.perturbation import analyze_spectrum

torch.manual_seed(0)
IMAGES = torch.rand(6, 3, 32, 32)
LABELS = torch.arange(6) % 3
NETWORK = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
HALF = [0.5] * 3
WEIGHTS = Path(freqrob.__file__).parent / "models/weights/cifar10/Linf/pgd_at_rn20.safetensors"


# (N, H, W, C)

OF_IMAGES = {
    "bass": bass,
    "BaSS": lambda x: BaSS()(x),
    "BaSS with a gradient": lambda x: BaSS()(x.clone().requires_grad_() if x.is_floating_point() else x),
    "RandomBaSS": lambda x: RandomBaSS()(x),
    "radial_power": radial_power,
    "mean_power": mean_power,
    "power_profile": power_profile,
    "split": split,
    "fit_power_law": fit_power_law,
    "spectrum": spectrum,
    "corruption_spectrum": lambda x: corruption_spectrum(x, [x.flip(0)]),
    "augmix": augmix,
    "balance": lambda x: balance(ImageSet((x * 255).byte(), LABELS, ())),
    "ImageSet": lambda x: ImageSet((x * 255).byte(), LABELS, ()),
    "hybrid_images": lambda x: hybrid_images(x, x, 0.1),
    "evaluate": lambda x: evaluate(NETWORK, x, LABELS, protocols=["natural"], attacks=[Clean()]),
    "diagnose": lambda x: diagnose(NETWORK, x, LABELS, only=["jacobian"]),
    "pgd": lambda x: pgd(NETWORK, x, LABELS),
    "band_pgd": lambda x: band_pgd(NETWORK, x, LABELS, [1], steps=1),
    "input_gradient": lambda x: input_gradient(NETWORK, x, LABELS),
}


@pytest.mark.parametrize("call", OF_IMAGES.values(), ids=OF_IMAGES)
def test_channels_in_the_last_place_are_refused(call):
    call(IMAGES)
    with pytest.raises(ValueError, match=r"(images|low): .*C, H, W.* \(6, 32, 32, 3\), .*movedim"):
        call(IMAGES.movedim(1, -1))


@pytest.mark.parametrize("call", [bass, radial_power, spectrum], ids=["bass", "radial_power", "spectrum"])
def test_the_remedy_gives_the_right_numbers(call):
    real = sample_images().images
    with pytest.raises(ValueError, match=r"use images.movedim\(-1, -3\)"):
        call(real.movedim(1, -1))
    found, expected = call(real.movedim(1, -1).movedim(-1, -3)), call(real)
    assert torch.equal(getattr(found, "power", found), getattr(expected, "power", expected))


MODULES = {
    "Normalize": Normalize([0.5] * 3, [0.5] * 3), "Blur": Blur(), "InputSize": InputSize((16, 16)),
    "FrontEnded": FrontEnded([], NETWORK), "a front end": FrontEnded([Normalize([0.5] * 3, [0.5] * 3)], NETWORK),
    "Band": Band([1]).project, "a shipped model": load_model("pgd_at_rn20"),
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_models_and_front_ends_refuse_channels_in_the_last_place(module):
    module(IMAGES)
    with pytest.raises(ValueError, match=r"images: .* got shape \(6, 32, 32, 3\), .*; use images.movedim\(-1, -3\)"):
        module(IMAGES.movedim(1, -1))


def test_corruptions_refuse_the_other_layout_and_floats():
    grey_levels = (IMAGES * 255).byte()
    with pytest.raises(ValueError, match=r"got shape \(6, 32, 32, 3\), .*; use images.movedim\(-1, -3\)"):
        corrupt(grey_levels.movedim(1, -1), "fog", 1)
    with pytest.raises(TypeError, match=r"got torch.float32; use \(images \* 255\).round\(\).byte\(\)"):
        corrupt(IMAGES, "fog", 1)


def test_a_model_refuses_images_that_are_not_a_batch():
    model = MODULES["a shipped model"]
    for shape, remedy in (((3, 32, 32), r"; use images\[None\] for a single image$"), ((32, 32), "$")):
        got = re.escape(f"images: expected (N, C, H, W), got shape {shape}")
        with pytest.raises(ValueError, match=got + remedy):
            model(torch.rand(shape))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_channels_are_not_broadcast(channels):
    images = torch.rand(6, channels, 32, 32)
    message = rf"images: expected \(N, 3, H, W\) to match the model's mean and std, got shape \(6, {channels}, 32, 32\)"
    grey = "; use colour images .without --grayscale.; if grey images are meant, use images.expand.-1, 3, -1, -1.$"
    message += grey if channels == 1 else "$"
    for name in ("Normalize", "a front end", "a shipped model"):
        with pytest.raises(ValueError, match=message):
            MODULES[name](images)
    with pytest.raises(ValueError, match=f"model: it fails on images .*{message}"):
        evaluate(MODULES["a front end"], images, LABELS, attacks=[Clean()])
    one = Normalize([0.5], [0.25])
    torch.testing.assert_close(one(images), (images - 0.5) / 0.25)


class Broadcasting(nn.Module):
    """A colour network with a normalisation of its own, which takes grey images without a word."""

    def forward(self, images):
        return NETWORK((images - torch.full((1, 3, 1, 1), 0.5)) / 0.5)


class Grey(nn.Module):
    """A network for grey images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 32)

    def forward(self, images):
        return self.layer(images).flatten(1)


def test_grey_images_that_a_model_repeats_are_warned_of(recwarn):
    grey = IMAGES[:, :1]
    with pytest.warns(
        UserWarning, match=r"model: the images have one channel, .*three.* images.expand\(-1, 3, -1, -1\)"
    ):
        evaluate(Broadcasting(), grey, LABELS, attacks=[Clean()], protocols=["natural"])
    with pytest.warns(UserWarning, match="model: the images have one channel"):
        diagnose(Broadcasting(), grey, LABELS, only=["hybrid"])
    recwarn.clear()
    evaluate(Broadcasting(), IMAGES, LABELS, attacks=[Clean()], protocols=["natural"])
    evaluate(Grey().eval(), grey, LABELS, attacks=[Clean()], protocols=["natural"])
    assert not [warning for warning in recwarn if "channel" in str(warning.message)]


# Arrays


@pytest.mark.parametrize(
    "change, remedy",
    [
        (lambda x: x.numpy(), r"ndarray; use torch.from_numpy\((images|data)\)$"),
        (lambda x: x.movedim(1, -1).numpy(), r"ndarray; use torch.from_numpy\((images|data)\).movedim\(-1, -3\)$"),
        (lambda x: to_pil_image(x[0]), r"Image; use torchvision.*pil_to_tensor\((images|data)\)\[None\]$"),
        (list, r"list; use torch.stack\((images|data)\)$"),
        (lambda x: {"images": x}, "dict$"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        bass, radial_power, spectrum, OF_IMAGES["mean_power"], OF_IMAGES["evaluate"], OF_IMAGES["diagnose"],
        MODULES["a shipped model"], MODULES["Blur"], OF_IMAGES["pgd"],
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_refused_with_the_call_that_makes_one(call, change, remedy):
    with pytest.raises(TypeError, match=rf"(images|data): expected a torch.Tensor( \| .*)?, got {remedy}"):
        call(change(IMAGES))


def test_one_image_with_channels_in_the_last_place_is_refused():
    for call in (bass, radial_power, lambda x: RandomBaSS()(x)):
        with pytest.raises(ValueError, match=r"got shape \(32, 32, 3\)"):
            call(IMAGES[0].movedim(0, -1))


@pytest.mark.parametrize(
    "shape, looks",
    [
        ((6, 32, 32, 3), True), ((6, 32, 32, 1), True), ((6, 224, 224, 4), True), ((28, 28, 1), True),
        ((2, 6, 32, 32, 3), True), ((0, 8, 8, 3), True),
        ((6, 3, 32, 32), False), ((6, 1, 28, 28), False), ((32, 32), False), ((32, 3), False), ((6, 3, 32, 4), False),
        ((64, 64, 3, 3), False), ((64, 64, 1, 1), False), ((6, 512, 4, 4), False), ((6, 512, 2, 2), False),
        ((3, 32, 3), False), ((33, 7, 1), False), ((6, 7, 7, 3), False), ((6, 32, 32, 0), False),
        ((6, 32, 32, 5), False),
    ],
)  # fmt: skip
def test_what_looks_like_channels_in_the_last_place(shape, looks):
    assert has_channels_last(shape) is looks
    if not looks and shape[-1]:
        assert radial_power(torch.zeros(shape)).shape[:-1] == shape[:-2]


def test_narrow_planes_have_a_mean_power():
    planes = torch.rand(8, 1, 9, 4)
    assert torch.allclose(mean_power(planes), radial_power(planes, mean=True).double().mean((0, 1)))


@pytest.mark.skipif(find_spec("foolbox") is None, reason="needs Foolbox")
def test_foolbox_attacks_and_spectra_refuse_the_other_format():
    from foolbox import PyTorchModel
    from freqrob_foolbox import LinfBandPGD, analyze_spectrum

    last, model = IMAGES.movedim(1, -1), PyTorchModel(NETWORK, (0, 1), device="cpu")
    with pytest.raises(ValueError, match=r"inputs: expected .*got shape \(6, 32, 32, 3\)"):
        LinfBandPGD([1], steps=1)(model, last, LABELS, epsilons=0.1)
    for raw, inputs, given, other in ((last.flip(1), last, "first", "last"), (IMAGES.flip(2), IMAGES, "last", "first")):
        with pytest.raises(ValueError, match=f"data_format: .*{given}', .* like 'channels_{other}'"):
            analyze_spectrum(raw, inputs, data_format=f"channels_{given}")
    with pytest.raises(ValueError, match=r"epsilons: expected pixels in \[0, 1\], .*got 8.0"):
        LinfBandPGD([1], steps=1)(model, IMAGES, LABELS, epsilons=8)


# 0–255 and other dtypes


@pytest.mark.parametrize(
    "name", ["bass", "spectrum", "corruption_spectrum", "augmix", "hybrid_images", "evaluate", "diagnose", "pgd",
             "band_pgd", "input_gradient"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_grey_levels_as_floats_are_refused(name, dtype):
    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], got .*; use (images|low) / 255"):
        OF_IMAGES[name]((IMAGES * 255).to(dtype))


def test_one_of_two_in_grey_levels_is_refused():
    with pytest.raises(ValueError, match="corrupted: .*use corrupted / 255"):
        corruption_spectrum((IMAGES * 255).byte(), [IMAGES.flip(0) * 255])
    with pytest.raises(ValueError, match="high: .*use high / 255"):
        hybrid_images(IMAGES, IMAGES * 255, 0.1)


@pytest.mark.parametrize(
    "make", [lambda: BaSS(), lambda: FrontEnded([], NETWORK), lambda: FrontEnded([Blur()], NETWORK)]
)
@pytest.mark.parametrize("grad", [True, False])
def test_a_module_refuses_grey_levels_as_floats_and_warns_of_what_may_be_some(make, grad):
    module, remedy = make(), r"images: expected floats .*, got {}; use images / 255"
    for levels in ((IMAGES * 255).round(), (IMAGES * 2.4).round()):  # dark ones too
        with pytest.raises(ValueError, match=remedy.format("2.*")):
            module(levels.requires_grad_(grad))
    with pytest.warns(UserWarning, match=remedy.format("2.*")):
        module((IMAGES * 255).requires_grad_(grad))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (
            IMAGES,
            IMAGES[:0],
            IMAGES + 3 * torch.randn_like(IMAGES).clamp(-3, 2),
            IMAGES * math.nan,
            IMAGES / 0,
        ):
            module(images.clone().requires_grad_(grad))


def test_a_shipped_model_refuses_grey_levels_and_bytes():
    model, real = load_model("pgd_at_rn20"), sample_images().images
    with torch.no_grad():
        with pytest.raises(ValueError, match="use images / 255"):
            model(real.float())
        with pytest.raises(TypeError, match="images: .*, got torch.uint8; use images / 255"):
            model(real)
        assert (model(real / 255).argmax(1) == sample_images().labels).float().mean() > 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.complex64])
@pytest.mark.parametrize(
    "module",
    [Normalize(HALF, HALF), Blur(), PCA(2, (3, 32, 32)), FrontEnded([], NETWORK), FrontEnded([BaSS()], NETWORK)],
    ids=lambda module: type(module).__name__,
)
def test_a_front_end_refuses_what_is_not_floats(module, dtype):
    with pytest.raises(TypeError, match=f"images: expected floats in .*, got {dtype}"):
        module(IMAGES.to(dtype))


@pytest.mark.parametrize(
    "change",
    [torch.Tensor.to_sparse, lambda x: torch.nested.as_nested_tensor(list(x))],
    ids=["sparse", "nested"],
)
@pytest.mark.parametrize(
    "module",
    [Normalize(HALF, HALF), Blur(), PCA(2, (3, 32, 32)), FrontEnded([], NETWORK), FrontEnded([BaSS()], NETWORK)],
    ids=lambda module: type(module).__name__,
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_front_end_refuses_what_is_not_dense(module, change):
    with pytest.raises(TypeError, match="images: expected a dense tensor, got a sparse or nested one"):
        module(change(IMAGES))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.complex64])
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_other_dtypes_are_not_pixels(dtype):
    with pytest.raises(TypeError, match=f"images: expected floats in .* or uint8, got {dtype}"):
        to_pixels(IMAGES.to(dtype))


# Checks of values do not break what has none

MODEL = FrontEnded([BaSS(), Normalize(HALF, HALF)], NETWORK).eval()
PLAIN = FrontEnded([Blur(), Normalize(HALF, HALF)], NETWORK).eval()


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_model_compiles_to_one_graph(dynamic):
    model = PLAIN if dynamic else MODEL
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGES), model(IMAGES))


@pytest.mark.parametrize("function", [bass, radial_power])
def test_functions_compile_to_one_graph(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGES), function(IMAGES))


def test_a_model_is_exported_and_traced():
    for model in (MODEL, PLAIN):
        exported = torch.export.export(model, (IMAGES,)).module()
        torch.testing.assert_close(exported(IMAGES), model(IMAGES))
    graph = make_fx(PLAIN, tracing_mode="symbolic", _allow_non_fake_inputs=True)(IMAGES)
    torch.testing.assert_close(graph(IMAGES), PLAIN(IMAGES))
    torch.testing.assert_close(torch.fx.symbolic_trace(Normalize(HALF, HALF))(IMAGES), Normalize(HALF, HALF)(IMAGES))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_front_ends_are_scripted_and_traced():
    for module in (Normalize(HALF, HALF), Blur()):
        torch.testing.assert_close(torch.jit.script(module)(IMAGES), module(IMAGES))
    torch.testing.assert_close(torch.jit.trace(PLAIN, IMAGES)(IMAGES), PLAIN(IMAGES))


def test_functional_transforms_go_through():
    torch.testing.assert_close(torch.func.vmap(bass)(IMAGES), bass(IMAGES))
    each = torch.func.vmap(lambda image: PLAIN(image[None])[0])(IMAGES)
    torch.testing.assert_close(each, PLAIN(IMAGES))
    assert torch.func.jacrev(lambda image: PLAIN(image)[0])(IMAGES[:1]).shape == (3, 1, 3, 32, 32)


def test_fake_and_meta_tensors_go_through():
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert bass(mode.from_tensor(IMAGES)).shape == IMAGES.shape
        assert PLAIN(mode.from_tensor(IMAGES)).shape == (6, 3)
    assert bass(IMAGES.to("meta")).shape == IMAGES.shape


# Tensors without dense values

VALUES = {
    **{name: ("images", OF_IMAGES[name]) for name in OF_IMAGES},
    "hybrid_images": ("low", lambda x: hybrid_images(x, IMAGES, 0.1)),
    "hybrid_images, high": ("high", lambda x: hybrid_images(IMAGES, x, 0.1)),
    "corruption_spectrum": ("images", lambda x: corruption_spectrum(x, [IMAGES])),
    "corruption_spectrum, corrupted": ("corrupted", lambda x: corruption_spectrum(IMAGES, [x])),
    "analyze_spectrum, raw": ("raw", lambda x: analyze_spectrum(x, IMAGES)),
    "analyze_spectrum, inputs": ("inputs", lambda x: analyze_spectrum(IMAGES, x)),
    "spectral_entropy": ("profile", spectral_entropy),
    "log_b_low": ("amplitude", log_b_low),
    "Band": ("images", lambda x: Band([1]).project(x)),
    "FGSM": ("images", lambda x: FGSM()(NETWORK, x, LABELS)),
    "derange": ("labels", derange),
    "partners": ("labels", partners),
    "pgd, targets": ("targets", lambda x: pgd(NETWORK, IMAGES, LABELS, targets=x)),
    "FGSM, indices": ("indices", lambda x: FGSM()(NETWORK, IMAGES, LABELS, indices=x)),
    "MinimalPerturbationSearch": ("targets", lambda x: MinimalPerturbationSearch()(NETWORK, IMAGES, LABELS, targets=x)),
}
del VALUES["balance"], VALUES["ImageSet"]  # which OF_IMAGES gives bytes
OF_LABELS = ("labels", "targets", "indices")
SHAPE_ONLY = ("bass", "BaSS", "BaSS with a gradient", "radial_power", "mean_power", "augmix", "Band")  # also on meta


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    "kind, change",
    [
        ("torch.sparse_coo", lambda x: x.to_sparse()),
        ("a nested one", lambda x: torch.nested.as_nested_tensor(list(x))),
        ("one on the meta device", lambda x: x.to("meta")),
    ],
    ids=["sparse", "nested", "meta"],
)
def test_tensors_without_dense_values_are_refused(name, kind, change):
    argument, call = VALUES[name]
    given = change(LABELS if argument in OF_LABELS else IMAGES)
    if given.is_meta and name in SHAPE_ONLY:
        assert call(given).is_meta
    elif given.is_meta and name.startswith("hybrid_images"):
        with pytest.raises(ValueError, match="^high: .*, as low, got .* on (cpu|meta)"):
            call(given)
    else:
        with pytest.raises(TypeError, match=f"^{argument}: expected a .*tensor.*, got {kind}"):
            call(given)


# Attacks

ATTACKS = {
    "pgd": pgd,
    "fgsm": lambda model, images, labels, **options: fgsm(model, images, labels, eps=options.get("eps", 0.1)),
    "PGD": lambda model, images, labels, **_: PGD(2)(model, images, labels),
    "FGSM": lambda model, images, labels, **_: FGSM()(model, images, labels),
    "Clean": lambda model, images, labels, **_: Clean().robust_mask(model, images, labels),
    "band_pgd": lambda model, images, labels, **_: band_pgd(model, images, labels, [1], steps=1),
    "input_gradient": lambda model, images, labels, **_: input_gradient(model, images, labels),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"images": IMAGES * 255}, ValueError, r"images: expected floats in \[0, 1\], got .*use images / 255"),
        ({"images": IMAGES - 0.5}, ValueError, r"images: expected floats in \[0, 1\]"),
        ({"images": IMAGES.index_fill(0, torch.tensor(5), math.nan)}, ValueError, "images: .* got nan to nan"),
        ({"images": IMAGES / 0}, ValueError, "images: .* got inf to inf"),
        ({"images": (IMAGES * 255).byte()}, TypeError, "images: .* got torch.uint8; use images / 255"),
        ({"images": IMAGES > 0.5}, TypeError, "images: .* got torch.bool"),
        ({"images": IMAGES.long()}, TypeError, "images: .* got torch.int64"),
        ({"images": IMAGES[0]}, ValueError, r"images: expected \(N, C, H, W\) .* got shape \(3, 32, 32\)"),
        ({"labels": LABELS[:5]}, ValueError, r"labels: expected \(6,\) int64, got \(5,\)"),
        ({"labels": LABELS[:, None]}, ValueError, "labels: expected"),
        ({"labels": LABELS.int()}, ValueError, r"labels: expected \(6,\) int64, got \(6,\) torch.int32"),
        ({"labels": LABELS * math.nan}, ValueError, r"labels: expected \(6,\) int64, got \(6,\) torch.float32"),
        ({"labels": LABELS - 1}, ValueError, "labels: expected classes ≥ 0, got -1"),
        ({"labels": LABELS + 1}, ValueError, "labels: expected classes below 3, got 3"),
        ({"model": lambda images: images}, ValueError, r"model: expected logits \(6, K\)"),
        ({"model": lambda images: [images]}, ValueError, r"model: expected logits \(6, K\), got a list"),
    ],
)  # fmt: skip
def test_an_attack_names_what_it_cannot_attack(attack, change, error, message):
    with pytest.raises(error, match=message):
        attack(**{"model": NETWORK, "images": IMAGES, "labels": LABELS, **change})


@pytest.mark.skipif(find_spec("pyautoattack") is None, reason="needs pyautoattack")
def test_robustbenchs_autoattack_names_what_it_cannot_attack():
    from freqrob_robustbench.autoattack import AutoAttack

    attack = AutoAttack(NETWORK, eps=8 / 255, verbose=False)
    for images, labels, message in ((IMAGES * 255, LABELS, "images: .* / 255"), (IMAGES, LABELS.float(), "labels")):
        with pytest.raises(ValueError, match=message):
            attack.run_standard_evaluation(images, labels)
    with pytest.raises(ValueError, match="eps: expected a number ≥ 0, got nan"):
        AutoAttack(NETWORK, eps=math.nan)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": 8}, r"eps: expected pixels in \[0, 1\], such as 8/255, got 8.0"),
        ({"eps": math.nan}, "eps: .* got nan"),
        ({"eps": math.nan, "norm": "L2"}, "eps: expected a length ≥ 0.* got nan"),
        ({"eps": math.inf, "norm": "L2"}, "eps: expected a length"),
        ({"step_size": math.nan}, "step_size: .* got nan"),
        ({"step_size": -0.1}, "step_size: .* got -0.1"),
        ({"steps": 1.5}, "steps: expected an integer ≥ 0, got 1.5"),
        ({"steps": -1}, "steps: expected an integer ≥ 0, got -1"),
        ({"norm": "L1"}, "norm: expected one of Linf, L2, got 'L1'"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images: expected .* with N ≥ 1"),
        ({"start": IMAGES[:3]}, r"start: expected \(6, 3, 32, 32\) torch.float32 on cpu like the images, got \(3,"),
        ({"start": (IMAGES * 255).byte()}, "start: .* got .* torch.uint8"),
        ({"start": IMAGES.double()}, "start: .* on cpu like the images, got .* torch.float64 on cpu; use"),
        ({"start": IMAGES.double(), "steps": 0}, "start: expected .* got .* torch.float64"),
        ({"start": IMAGES.to(torch.float8_e4m3fn)}, "start: .* got .* torch.float8_e4m3fn"),
        ({"start": IMAGES * math.nan}, "start: expected finite pixels"),
    ],
)
def test_pgd_names_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        pgd(**{"model": NETWORK, "images": IMAGES, "labels": LABELS, **options})


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(
    "change, got",
    [
        (lambda x: x.to("meta"), "one on the meta device"),
        (lambda x: x.to_sparse(), "torch.sparse_coo; use start.to_dense"),
        (lambda x: torch.nested.as_nested_tensor(list(x)), "a nested one"),
    ],
    ids=["meta", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_pgd_starts_from_dense_values_only(change, got, steps):
    with pytest.raises(TypeError, match=f"^start: expected .* got {got}"):
        pgd(NETWORK, IMAGES, LABELS, start=change(IMAGES), steps=steps)


def test_images_rounded_beyond_white_are_attacked():
    found = pgd(NETWORK, (IMAGES * 1.000001).clamp(max=1.000001), LABELS, steps=1)
    assert found.max() <= 1


class NotANumberOfSome(nn.Module):
    """NaN logits for images darker than the others."""

    def forward(self, images):
        return torch.where(images.mean((1, 2, 3))[:, None] < 0.2, math.nan, NETWORK(images))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "attack", [pgd, lambda *given, **how: band_pgd(*given, range(1, 5), **how)], ids=["pgd", "band"]
)
def test_images_with_nan_logits_stay_and_are_told_of(attack, norm):
    images = torch.cat([IMAGES[:4], IMAGES[4:] * 0.1])
    how = {"norm": norm, "steps": 2, "eps": 0.5 if norm == "L2" else 8 / 255}
    how |= {"random_start": False} if attack is pgd else {}
    with pytest.warns(UserWarning, match="model: its logits or gradients are NaN at 2 of 6 images"):
        found = attack(NotANumberOfSome(), images, LABELS, **how)
    assert torch.equal(found[4:], images[4:]) and found.isfinite().all()
    torch.testing.assert_close(found[:4], attack(NETWORK, images[:4], LABELS[:4], **how))


def test_infinite_gradients_have_a_direction():
    def steep(logits, labels):
        return (logits[:, 0] * 1e30 * 1e30).sum()

    for norm in ("Linf", "L2"):
        found = pgd(NETWORK, IMAGES, LABELS, loss=steep, norm=norm, eps=0.1, steps=1, random_start=False)
        assert found.isfinite().all() and (found != IMAGES).any()


# Weights


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_weights_that_are_not_floats_are_refused(dtype, tmp_path):
    state = safetensors.torch.load_file(WEIGHTS)
    key = next(key for key, value in state.items() if value.ndim == 4)
    path = tmp_path / "weights.pt"
    for changed in ({key: state[key].to(dtype)}, {name: value.to(dtype) for name, value in state.items()}):
        torch.save({**state, **changed}, path)
        with pytest.warns(UserWarning, match="no card"), pytest.raises(CheckpointError, match=f"is {dtype}, expected"):
            load_model("pgd_at_rn20", custom_checkpoint=path)
    torch.save(state, path)
    with pytest.warns(UserWarning, match="no card"):
        load_model("pgd_at_rn20", custom_checkpoint=path)
