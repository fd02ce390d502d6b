"""AutoAttack and band-limited attacks: Foolbox's contract, the band, and exact answers where they are known."""

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.attacks.band import TOLERANCE, Band, BandBall
from freqrob.data.samples import sample_images
from freqrob.models import load_model
from freqrob.spectral.rings import RingMap

fb = pytest.importorskip("foolbox")
ep = pytest.importorskip("eagerpy")

from freqrob_foolbox import (  # noqa: E402
    L2AutoAttack,
    L2BandMinimization,
    L2BandPGD,
    LinfAutoAttack,
    LinfBandMinimization,
    LinfBandPGD,
)

SIZE, CLASSES = 8, 6
BAND = range(1, 4)
MINIMAL = {"binary_search_steps": 4, "steps": 5}
BAND_LIMITED = [
    LinfBandPGD(BAND, steps=5),
    L2BandPGD(BAND, steps=5),
    LinfBandMinimization(BAND, **MINIMAL),
    L2BandMinimization(BAND, **MINIMAL),
]
ATTACKS = [
    *BAND_LIMITED,
    LinfAutoAttack("custom", attacks=["apgd-ce"]),
    L2AutoAttack("custom", attacks=["apgd-ce"]),
]
BALLS = {LinfBandPGD: 0.1, L2BandPGD: 1.0}


def named(attack):
    return type(attack).__name__


def is_minimal(attack):
    return isinstance(attack, fb.attacks.base.MinimizationAttack)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    linear = nn.Linear(3 * SIZE * SIZE, CLASSES)
    nn.init.normal_(linear.weight, std=0.3)
    return nn.Sequential(nn.Flatten(), linear).eval()


@pytest.fixture
def model(network):
    return fb.PyTorchModel(network, bounds=(0, 1), device="cpu")


@pytest.fixture
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(network, images):
    return network(images).argmax(1)


def radii(attack):
    return [0.02, 0.1] if attack.distance == fb.distances.linf else [0.2, 1.0]


# Foolbox's contract


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_a_sequence_of_radii_gives_lists(attack, model, images, labels):
    raw, clipped, success = attack(model, images, labels, epsilons=radii(attack))
    assert isinstance(raw, list) and isinstance(clipped, list) and len(raw) == len(clipped) == 2
    assert success.shape == (2, 6) and success.dtype == torch.bool
    assert success[1].any()
    for eps, found, fooled in zip(radii(attack), clipped, success, strict=True):
        assert found.shape == images.shape and found.dtype == images.dtype
        assert (attack.distance(images, found) <= eps * (1 + 1e-5)).all()
        assert found.min() >= 0 and found.max() <= 1
        assert torch.equal(model(found).argmax(1) != labels, fooled)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_one_radius_gives_tensors(attack, model, images, labels):
    eps = radii(attack)[1]
    raw, clipped, success = attack(model, images, fb.Misclassification(labels), epsilons=eps)
    assert raw.shape == clipped.shape == images.shape
    assert success.shape == (6,)
    if not is_minimal(attack):
        assert torch.allclose(raw, clipped, atol=1e-6), "what it finds is in the ball before it is clipped"


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_no_radius_means_minimal_or_is_refused(attack, model, images, labels):
    if not is_minimal(attack):
        with pytest.raises(NotImplementedError):
            attack(model, images, labels, epsilons=None)
        return
    raw, clipped, success = attack(model, images, labels, epsilons=None)
    assert raw is clipped and success.all()
    raws, _, mixed = attack(model, images, labels, epsilons=[None, 1e-6])
    assert len(raws) == 2 and mixed[0].all() and not mixed[1].any()


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_eagerpy_goes_in_and_out(attack, model, images, labels):
    raw, clipped, success = attack(model, ep.astensor(images), ep.astensor(labels), epsilons=radii(attack)[1])
    assert all(isinstance(value, ep.Tensor) for value in (raw, clipped, success))


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_an_unknown_argument_is_refused(attack, model, images, labels):
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        attack(model, images, labels, epsilons=radii(attack)[1], step=3)


@pytest.mark.parametrize("attack", BAND_LIMITED, ids=named)
def test_targets_are_reached(attack, model, images, labels):
    targets = (labels + 1) % CLASSES
    raw, _, success = attack(model, images, fb.TargetedMisclassification(targets), epsilons=5 * radii(attack)[1])
    assert success.float().mean() > 0.5
    assert torch.equal(model(raw).argmax(1)[success], targets[success])


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a not in BAND_LIMITED], ids=named)
def test_autoattack_refuses_targets(attack, model, images, labels):
    with pytest.raises(ValueError, match="expected labels .* got TargetedMisclassification"):
        attack(model, images, fb.TargetedMisclassification(labels), epsilons=0.1)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_other_criteria_are_refused(attack, model, images, labels):
    both = fb.Misclassification(labels) & fb.Misclassification(labels)
    with pytest.raises(ValueError, match="criterion: expected .*, got _And"):
        attack(model, images, both, epsilons=0.1)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
@pytest.mark.parametrize("shift", [-0.1, 0.1, float("nan")])
def test_inputs_out_of_bounds_are_refused(attack, model, images, labels, shift):
    with pytest.raises(AssertionError):
        attack(model, images + shift, labels, epsilons=0.1)
    given = {} if is_minimal(attack) else {"epsilon": 0.1}
    with pytest.raises(ValueError, match="inputs: expected the model's bounds, 0 to 1, got"):
        attack.run(model, images + shift, labels, **given)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_bounds_are_the_models(attack, network, images, labels):
    """With grey levels from 0 to 255 all is 255 times as large."""
    grey = fb.PyTorchModel(network, bounds=(0, 255), device="cpu", preprocessing={"mean": 0, "std": 255})
    unit = fb.PyTorchModel(network, bounds=(0, 1), device="cpu")
    eps = radii(attack)[1]
    torch.manual_seed(0)
    expected, *_ = attack(unit, images, labels, epsilons=eps)
    torch.manual_seed(0)
    found, _, success = attack(grey, 255 * images, labels, epsilons=255 * eps)
    assert torch.allclose(found / 255, expected, atol=2e-3)
    assert success.any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x, y: (x.numpy(), y), TypeError, "inputs: expected a PyTorch tensor of floats, got float32 ndarray"),
        (lambda x, y: (x[:0], y[:0]), ValueError, r"inputs: expected \(N, C, H, W\), none of them 0"),
        (lambda x, y: (x[0], y), ValueError, r"inputs: expected \(N, C, H, W\)"),
        (lambda x, y: (x, y[:2]), ValueError, "criterion: expected a PyTorch tensor of 6 classes"),
        (lambda x, y: (x, y.numpy()), ValueError, "criterion: expected a PyTorch tensor of 6 classes, got ndarray"),
    ],
)
@pytest.mark.parametrize("attack", [BAND_LIMITED[0], ATTACKS[-1]], ids=named)
def test_what_it_cannot_take_is_refused_by_name(attack, model, images, labels, change, error, message):
    inputs, classes = change(images, labels)
    with pytest.raises(error, match=message):
        attack.run(model, inputs, classes, epsilon=0.1)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_caller_and_network_are_left_as_they_were(attack, network, model, images, labels):
    before = images.clone()
    with torch.no_grad():
        raw, *_ = attack(model, images, labels, epsilons=radii(attack)[1])
    assert torch.equal(images, before) and not raw.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_strided_images_and_a_single_one_are_fine(attack, model, images, labels):
    strided = images.to(memory_format=torch.channels_last)[:1]
    _, _, success = attack(model, strided, labels[:1], epsilons=5 * radii(attack)[1])
    assert success.shape == (1,)


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_inference_mode_changes_nothing(attack, model, images, labels):
    found = []
    for inference in (False, True):
        torch.manual_seed(0)
        with torch.inference_mode(inference):
            _, clipped, _ = attack(model, images.clone(), labels.clone(), epsilons=radii(attack)[1])
        found.append(clipped.clone())
    assert torch.equal(*found)


# The band


def test_a_band_is_a_projection():
    x = torch.rand(2, 3, 9, 16)
    band = Band([5, 2, 3, 3])
    once = band.project(x)
    assert torch.allclose(band.project(once), once, atol=1e-6)
    assert torch.allclose(band.outside(once), torch.zeros(2), atol=1e-10)
    assert torch.allclose(band.outside(x - once), torch.ones(2), atol=1e-6)
    spectrum = torch.fft.fft2(once).abs()
    outside = torch.tensor([ring not in (2, 3, 5) for ring in RingMap(9, 16).full.flatten()]).reshape(9, 16)
    assert spectrum[..., outside].max() < 1e-4 < spectrum[..., ~outside].max()
    assert band.outside(torch.zeros(1, 3, 9, 16)) == 0


@pytest.mark.parametrize("rings", [[], [-1], [1.5], ["1"]])
def test_a_band_of_no_rings_is_refused(rings):
    with pytest.raises(ValueError, match="rings: expected integers ≥ 0"):
        LinfBandPGD(rings)


def test_rings_that_images_do_not_have_are_named(model, images, labels):
    with pytest.raises(ValueError, match="rings: expected 0 to 5, those of 8×8 images, got 22"):
        LinfBandPGD(range(23))(model, images, labels, epsilons=0.1)


@pytest.mark.parametrize("rings", [range(2), range(1, 5), range(8, 23)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_settled_points_are_in_ball_bounds_and_band(norm, rings):
    """On real images with an eighth of them saturated, from points far outside."""
    images = sample_images().images[:8].float() / 255
    images[:, :, :8, :16] = torch.tensor([0.0, 1.0])[:, None, None, None].repeat(4, 1, 1, 1)
    eps = torch.full((8, 1, 1, 1), 0.03 if norm == "Linf" else 1.0)
    ball = BandBall(images, eps, norm, Band(rings))
    torch.manual_seed(0)
    noise = Band(rings).project(torch.randn_like(images))
    points = ball.settle(images + 2 * eps * noise / (noise.abs().amax() if norm == "Linf" else noise[0].norm()))
    offsets = (points - images).double()
    length = offsets.abs().amax((1, 2, 3)) if norm == "Linf" else offsets.flatten(1).norm(dim=1)
    assert (length <= eps.flatten() * (1 + 1e-5)).all()
    assert points.min() >= 0 and points.max() <= 1
    assert Band(rings).outside(offsets).max() <= TOLERANCE
    assert (length > 0.3 * eps.flatten()).all(), "and not merely the images themselves"


def test_nothing_fits_into_an_image_that_is_white():
    """Without DC a perturbation has pixels above zero, which white cannot take."""
    white = torch.ones(1, 3, 16, 16)
    ball = BandBall(white, torch.full((1, 1, 1, 1), 0.1), "Linf", Band(range(1, 4)))
    points = ball.settle(white + torch.randn(1, 3, 16, 16))
    assert points.max() <= 1 and (points - white).abs().max() < 1e-3


def test_the_projection_onto_band_and_l2_ball_is_exact_within_bounds():
    x = torch.full((3, 3, 16, 16), 0.5)
    band, eps = Band(range(2, 6)), torch.tensor([0.1, 0.3, 50.0]).reshape(3, 1, 1, 1)
    offsets = 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    inside = band.project(offsets)
    nearest = inside * (eps.flatten() / inside.flatten(1).norm(dim=1)).clamp(max=1).reshape(3, 1, 1, 1)
    found = BandBall(x, eps, "L2", band).project(x + offsets) - x
    assert torch.allclose(found, nearest, atol=1e-6)


# What the attacks find


@pytest.mark.parametrize("attack", [LinfBandPGD, L2BandPGD])
@pytest.mark.parametrize("random_start", [False, True])
def test_perturbations_lie_in_ball_bounds_and_band(attack, model, images, labels, random_start):
    raw, _, success = attack(BAND, steps=5, random_start=random_start)(model, images, labels, epsilons=BALLS[attack])
    assert (attack.distance(images, raw) <= BALLS[attack] * (1 + 1e-5)).all()
    assert Band(BAND).outside((raw - images).double()).max() <= TOLERANCE
    assert raw.min() >= 0 and raw.max() <= 1
    assert success.any()


def test_the_random_start_is_pytorchs():
    images, labels = torch.full((2, 3, SIZE, SIZE), 0.5), torch.tensor([0, 1])
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()  # no gradient in the band: the start remains
    model = fb.PyTorchModel(flat, bounds=(0, 1), device="cpu")

    def start(seed):
        torch.manual_seed(seed)
        return LinfBandPGD(BAND, steps=1)(model, images, labels, epsilons=0.1)[0]

    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))
    assert torch.allclose(start(0).sub(0.5).abs().amax((1, 2, 3)), torch.full((2,), 0.1), atol=1e-3)


def two_classes(weight):
    """A linear network with the margin w·(x − ½) + 0.2 of class 0 over class 1."""
    linear = nn.Linear(weight.numel(), 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([weight.flatten(), -weight.flatten()]) / 2)
        linear.bias.copy_(torch.tensor([0.1, -0.1]) + torch.tensor([-0.25, 0.25]) * weight.sum())
    return fb.PyTorchModel(nn.Sequential(nn.Flatten(), linear).eval(), bounds=(0, 1), device="cpu")


@pytest.mark.parametrize("rings", [range(2), range(2, 6)])
def test_l2_minimum_is_the_distance_to_the_plane_within_the_band(rings):
    weight = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images, labels = torch.full((1, 3, SIZE, SIZE), 0.5), torch.tensor([0])
    raw, _, success = L2BandMinimization(rings)(two_classes(weight), images, labels, epsilons=None)
    exact = 0.2 / Band(rings).project(weight).norm()
    assert success.all()
    assert 1 - 1e-3 <= (raw - images).norm() / exact <= 1.02


@pytest.mark.parametrize("rings", [range(2), range(2, 6)])
def test_linf_minimum_is_that_of_a_linear_program(rings):
    """min t with |δ| ≤ t, w·δ = −0.2 and δ in the band."""
    optimize = pytest.importorskip("scipy.optimize")
    weight = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    pixels = SIZE * SIZE
    columns = Band(rings).project(torch.eye(pixels).double().reshape(pixels, 1, SIZE, SIZE)).reshape(pixels, pixels)
    basis = np.linalg.svd(columns.numpy())[0][:, : round(columns.trace().item())]
    bound = -np.ones((pixels, 1))
    program = optimize.linprog(
        np.r_[np.zeros(basis.shape[1]), 1],
        A_ub=np.block([[basis, bound], [-basis, bound]]),
        b_ub=np.zeros(2 * pixels),
        A_eq=np.r_[weight.double().flatten().numpy() @ basis, 0][None],
        b_eq=[-0.2],
        bounds=(None, None),
    )
    images, labels = torch.full((1, 1, SIZE, SIZE), 0.5), torch.tensor([0])
    raw, _, success = LinfBandMinimization(rings)(two_classes(weight), images, labels, epsilons=None)
    assert success.all()
    assert 1 - 1e-3 <= (raw - images).abs().max() / program.fun <= 1.06


@pytest.mark.parametrize("attack", [LinfBandMinimization, L2BandMinimization])
def test_minimal_perturbations_end_at_the_boundary(attack, model, images, labels):
    raw, _, success = attack(BAND)(model, images, labels, epsilons=None)
    nearer = images + 0.98 * (raw - images)
    assert success.all() and (model(nearer).argmax(1) == labels).all()
    assert Band(BAND).outside((raw - images).double()).max() <= TOLERANCE


@pytest.mark.parametrize("attack", [LinfBandMinimization, L2BandMinimization])
def test_each_image_is_minimised_for_itself(attack, model, images, labels):
    minimise = attack(BAND, binary_search_steps=6, steps=10)
    batches = list(zip(images.split(2), labels.split(2), strict=True))
    apart = torch.cat([minimise(model, *batch, epsilons=None)[0] for batch in batches])
    together, *_ = minimise(model, images, labels, epsilons=None)
    distances = [attack.distance(images, found) for found in (together, apart)]
    assert torch.allclose(*distances, rtol=0.02)


def test_an_image_that_is_misclassified_already_comes_back(model, images, labels):
    raw, _, success = LinfBandMinimization(BAND)(model, images, (labels + 1) % CLASSES, epsilons=None)
    assert torch.equal(raw, images) and success.all()


def test_where_nothing_can_be_found_the_image_comes_back(images):
    constant = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()  # its logits depend on DC alone
    model = fb.PyTorchModel(constant, bounds=(0, 1), device="cpu")
    labels = model(images).argmax(1)
    raw, _, success = L2BandMinimization(BAND, **MINIMAL)(model, images, labels, epsilons=None)
    assert torch.equal(raw, images) and not success.any()


def test_adversarial_training_protects_high_frequencies_most():
    """On real images: standard networks fall for the smaller perturbation at high frequencies, hardened ones at low."""
    samples = sample_images()
    images, distances = samples.images[:4].float() / 255, {}
    for name in ("standard_rn20", "pgd_at_rn20"):
        model = fb.PyTorchModel(load_model(name), bounds=(0, 1), device="cpu")
        labels = model(images).argmax(1)
        for band, rings in (("low", range(5)), ("high", range(10, 23))):
            attack = LinfBandMinimization(rings, steps=5, binary_search_steps=5)
            raw, _, success = attack(model, images, labels, epsilons=None)
            assert success.float().mean() > 0.7
            distances[name, band] = attack.distance(images, raw)[success].median()
    assert distances["standard_rn20", "high"] < distances["standard_rn20", "low"]
    assert distances["pgd_at_rn20", "low"] < distances["pgd_at_rn20", "high"]


# AutoAttack


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_autoattack_finds_what_its_package_finds_alone(norm, network, model, images, labels):
    pyautoattack = pytest.importorskip("pyautoattack")
    eps, parts = (0.02 if norm == "Linf" else 0.3), ["apgd-ce", "apgd-dlr"]
    attack = {"Linf": LinfAutoAttack, "L2": L2AutoAttack}[norm]
    raw, _, success = attack("custom", attacks=parts)(model, images, labels, epsilons=eps)
    alone = pyautoattack.AutoAttack(network, norm=norm, eps=eps, seed=0, version="custom", attacks=parts)
    alone.fab.n_target_classes = alone.apgd_targeted.n_target_classes = CLASSES - 1
    expected, _ = alone.run_standard_evaluation(images, labels)
    assert torch.equal(success, network(expected).argmax(1) != labels)
    assert torch.allclose(raw, expected, atol=1e-6)
    assert 0 < success.sum() < 6, "a radius at which some are broken and some are not"


def test_autoattack_goes_through_batches(model, images, labels):
    attack = LinfAutoAttack("custom", attacks=["apgd-ce"], batch_size=4)
    _, _, success = attack(model, images, labels, epsilons=0.1)
    assert success.shape == (6,) and success.all()


def test_autoattack_refuses_what_it_does_not_offer():
    with pytest.raises(ValueError, match="version"):
        LinfAutoAttack("quick")
    with pytest.raises(ValueError, match="batch_size"):
        LinfAutoAttack(batch_size=0)
