"""BaSS against the authors' output, on degenerate images, as a module and as an augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from freqrob.spectral import reference
from freqrob.spectral.balance import BaSS, bass
from freqrob.spectral.longtail import fit_power_law
from freqrob.spectral.rings import RingMap

NATURAL = 60  # of the golden images; then a constant, a ramp and two noise images


@pytest.fixture(scope="module")
def golden(golden_bass):
    return {name: torch.from_numpy(array) for name, array in golden_bass.items()}


@pytest.fixture(scope="module")
def images(golden):
    return golden["images"].permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def expected(golden):
    return golden["bass"].permute(0, 3, 1, 2)


@pytest.fixture(params=["auto", "off"])
def policy(request, monkeypatch):
    """The native kernels where there are any, and plain PyTorch."""
    monkeypatch.setenv("FREQROB_NATIVE", request.param)


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_reference_is_the_authors_bit_for_bit(images, expected):
    assert torch.equal(reference.balance(images, RingMap(32, 32))[:NATURAL], expected[:NATURAL])


def test_degenerate_images_like_the_authors_when_asked(images, expected):
    assert torch.equal(bass(images, empty_rings="as_published"), expected)


def test_profile_and_weights_are_the_authors(golden, images):
    red = images[:8, 0].double()
    rings = RingMap(32, 32)
    profile = reference.bass_profile(red, rings, "amplitude")
    assert torch.allclose(profile[:, 1:-1], golden["ring_amplitude"], rtol=1e-8)
    weights = reference.bass_weights(profile)[:, rings.shifted.long()]
    assert torch.allclose(weights, golden["weights"], rtol=1e-8)


def test_fast_path_agrees_with_the_authors(images, expected):
    difference = (bass(images).int() - expected.int())[:NATURAL].abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() >= 0.999


def test_float_is_the_same_before_truncation(images, expected):
    balanced = bass(images.float() / 255)[:NATURAL] * 255
    assert (balanced - expected[:NATURAL]).min() > -0.01
    assert (balanced - expected[:NATURAL]).max() < 1.01


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (31, 33), (32, 32), (64, 64)])
@pytest.mark.parametrize("weighting", ["amplitude", "power"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_channels_come_back(size, weighting, value, policy):
    constant = torch.full((2, 3, *size), value, dtype=torch.uint8)
    assert torch.equal(bass(constant, weighting=weighting), constant)
    pixels = constant.float() / 255
    assert torch.equal(bass(pixels, weighting=weighting), pixels)


def test_empty_rings_keep_their_coefficients():
    ramp = (torch.arange(32.0) / 40).expand(1, 1, 32, 32)  # no power beyond ring 16
    rings = RingMap(32, 32)
    balanced = bass(ramp.double())
    assert torch.isfinite(balanced).all()
    power = reference.ring_sum(balanced * 255, rings)
    assert power[..., 18:].max() < power[..., 1].max()
    profile = reference.bass_profile(ramp.double() * 255, rings, "amplitude")
    assert (reference.bass_weights(profile)[profile <= 1] == 1).all()


def azimuthal_integral(image, ring):
    """Eq. 1 of Lin et al.: ∫ ‖X[r cos φ, r sin φ]‖² dφ over [0, 2π], the coefficients of a ring at equal angles."""
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    height, width = image.shape
    on_ring = (
        np.trunc(np.hypot(*np.ogrid[-(height // 2) : (height + 1) // 2, -(width // 2) : (width + 1) // 2])) == ring
    )
    values = np.abs(spectrum[on_ring]) ** 2
    return np.sum(values * 2 * np.pi / len(values))


def test_power_is_equations_1_and_4_as_printed():
    """π̂_i = log AI(r_i) / Σ_j log AI(r_j) (Eq. 4) of the image is the share of ring i in Σ AI of the result."""
    image = torch.nn.functional.avg_pool2d(noise(1, 1, 36, 36, dtype=torch.float64), 5, 1) * 0.1 + 0.45
    balanced = bass(image, weighting="power")
    before, after = (
        np.array([azimuthal_integral(255 * x[0, 0].numpy(), ring) for ring in range(1, 22)]) for x in (image, balanced)
    )
    assert np.allclose(after / after.sum(), np.log(before) / np.log(before).sum())
    assert after.sum() == pytest.approx(before.sum()), "and Σ AI is conserved"


def test_power_of_cifar10_against_ring_sums(images):
    """Means over rings give other images than sums over rings, and a flatter spectrum."""

    def of_sums(v):
        rings = RingMap(32, 32)
        weights = reference.bass_weights(reference.ring_sum(v, rings, "power"))
        return reference.ring_filter(v, weights.sqrt(), rings).clamp(0, 255)

    natural = images[:NATURAL].double()
    printed, summed = bass(natural / 255, weighting="power") * 255, of_sums(natural)
    assert (printed - summed).abs().mean().item() == pytest.approx(22, abs=2)
    alphas = [fit_power_law(x / 255).alpha for x in (printed, summed)]
    assert alphas == pytest.approx([0.57, 1.15], abs=0.05)


def test_amplitude_is_conserved_by_the_official_reading():
    smooth = torch.nn.functional.avg_pool2d(noise(4, 1, 36, 36, dtype=torch.float64), 5, 1) * 0.1 + 0.45
    rings = RingMap(32, 32)
    before, after = (reference.bass_profile(x * 255, rings, "amplitude")[..., 1:-1] for x in (smooth, bass(smooth)))
    assert torch.allclose(after.sum(-1), before.sum(-1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from(["amplitude", "power"]),
    st.booleans(),
)
def test_any_image_comes_back_in_its_form(leading, height, width, dtype, weighting, transposed):
    x = noise(*leading, height, width)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    x = x.transpose(-1, -2) if transposed else x
    y = bass(x, weighting=weighting)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.isfinite(y.float()).all()
    assert y.numel() == 0 or (y.min() >= 0 and y.max() <= (255 if dtype == torch.uint8 else 1))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [32, 48, 64])
def test_what_is_not_finite_stays_in_its_channel(poison, size, policy):
    x = noise(3, 3, size, size)
    clean = bass(x)
    x[1, 1, 2, 3] = poison
    y = bass(x)
    assert torch.isnan(y[1, 1]).all()
    others = torch.ones(3, 3, dtype=torch.bool)
    others[1, 1] = False
    assert torch.allclose(y[others], clean[others], atol=1e-6)


def test_out_is_written_and_returned(policy):
    x = noise(5, 3, 32, 32)
    out = torch.empty_like(x)
    assert bass(x, out=out) is out
    assert torch.equal(out, bass(x))
    assert bass(x, empty_rings="as_published", out=out) is out


@pytest.mark.parametrize(
    "images, options, error, message",
    [
        ([[1.0]], {}, TypeError, "images.*list"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), {}, TypeError, "images.*int32"),
        (torch.zeros(4), {}, ValueError, r"images.*\(4,\)"),
        (torch.zeros(1, 3, 0, 4), {}, ValueError, "images"),
        (torch.zeros(1, 4, 4), {"weighting": "amplitudes"}, ValueError, "weighting.*amplitudes"),
        (torch.zeros(1, 4, 4), {"empty_rings": "drop"}, ValueError, "empty_rings"),
        (torch.zeros(1, 4, 4), {"pixel_scale": 0}, ValueError, "pixel_scale"),
        (torch.zeros(1, 4, 4), {"pixel_scale": float("inf")}, ValueError, "pixel_scale"),
        (torch.zeros(1, 4, 4), {"pixel_scale": float("nan")}, ValueError, "pixel_scale"),
        (torch.zeros(1, 4, 4), {"out": torch.zeros(1, 4, 5)}, ValueError, "out"),
        (torch.zeros(1, 4, 4), {"out": torch.zeros(1, 4, 4, dtype=torch.uint8)}, TypeError, "out"),
        (torch.zeros(1, 4, 4), {"out": torch.zeros(1, 4, 5), "empty_rings": "as_published"}, ValueError, "out"),
    ],
)
def test_bad_input(images, options, error, message):
    with pytest.raises(error, match=message):
        bass(images, **options)


class TestModule:
    @pytest.mark.parametrize("weighting", ["amplitude", "power"])
    def test_same_image_with_and_without_gradient(self, weighting):
        x = noise(3, 3, 32, 32)
        module = BaSS(weighting)
        assert torch.allclose(module(x.clone().requires_grad_()), module(x), atol=1e-5)

    @pytest.mark.parametrize("weighting", ["amplitude", "power"])
    @pytest.mark.parametrize("size", [(8, 8), (7, 9)])
    def test_differentiates_twice(self, weighting, size):
        x = (noise(1, 2, *size, dtype=torch.float64) * 0.1 + 0.45).requires_grad_()
        assert gradcheck(BaSS(weighting), x)
        assert gradgradcheck(BaSS(weighting), x)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        x = noise(2, 3, 32, 32).to(dtype).requires_grad_()
        y = BaSS()(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        assert torch.allclose(y.float(), BaSS()(x.detach()).float(), atol=0.01)

    def test_compiles_whole_with_its_gradient(self, policy):
        x = noise(2, 3, 32, 32).requires_grad_()
        compiled = torch.compile(BaSS(), fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), BaSS()(x), atol=1e-5)

    def test_constant_image_has_a_finite_gradient(self):
        x = torch.full((1, 3, 32, 32), 0.3, requires_grad=True)
        BaSS()(x).sum().backward()
        assert torch.isfinite(x.grad).all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match="weighting"):
            BaSS("log")
        with pytest.raises(ValueError, match="pixel_scale"):
            BaSS(pixel_scale=-1)
        with pytest.raises(TypeError, match="images"):
            BaSS()(None)
