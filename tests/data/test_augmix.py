"""AugMix against Pillow, which its authors use, and its loss against NumPy."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from freqrob.data.augmix import GEOMETRIC, Op, _draw, _mix, _step, augmix
from freqrob.defenses import augmix as defense
from freqrob.defenses.augmix import AugMix, jensen_shannon
from freqrob.spectral.balance import bass

SIZES = [(32, 32), (64, 64), (33, 47)]


def photographs(count, height=32, width=32, seed=0):
    """Smooth images with a little noise, (N, 3, H, W) uint8: Pillow's operations do something to all of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = 0.05 * torch.randn(smooth.shape, generator=generator)
    return ((0.8 * smooth + 0.1 + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def with_pillow(image, op, level, sign):
    """One operation on (C, H, W) uint8 as google-research/augmix describes it."""
    picture = Image.fromarray(image.transpose(1, 2, 0))
    width, height = picture.size

    def of_ten(largest):
        return int(level * largest / 10)

    def affine(*matrix):
        return picture.transform((width, height), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    shear = sign * level * 0.3 / 10
    made = {
        Op.NONE: lambda: picture,
        Op.AUTOCONTRAST: lambda: ImageOps.autocontrast(picture),
        Op.EQUALIZE: lambda: ImageOps.equalize(picture),
        Op.POSTERIZE: lambda: ImageOps.posterize(picture, 4 - of_ten(4)),
        Op.SOLARIZE: lambda: ImageOps.solarize(picture, 256 - of_ten(256)),
        Op.ROTATE: lambda: picture.rotate(sign * of_ten(30), resample=Image.Resampling.BILINEAR),
        Op.SHEAR_X: lambda: affine(1, shear, 0, 0, 1, 0),
        Op.SHEAR_Y: lambda: affine(1, 0, 0, shear, 1, 0),
        Op.TRANSLATE_X: lambda: affine(1, 0, sign * of_ten(width / 3), 0, 1, 0),
        Op.TRANSLATE_Y: lambda: affine(1, 0, 0, 0, 1, sign * of_ten(height / 3)),
    }[op]()
    return np.asarray(made).transpose(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", list(Op)[1:], ids=lambda op: op.name.lower())
def test_each_operation_is_pillows(op, size):
    images = photographs(24, *size)
    rng = np.random.default_rng(1)
    levels, signs = rng.uniform(0.1, 9.9, 24), rng.choice([-1, 1], 24)
    ours = images.clone()
    _step(ours, np.full(24, op), levels, signs)
    draws = zip(images.numpy(), levels, signs.tolist(), strict=True)
    theirs = np.stack([with_pillow(image, op, level, sign) for image, level, sign in draws])
    assert (theirs != images.numpy()).mean() > 0.05, "the test would pass without the operation"
    error = np.abs(ours.numpy().astype(int) - theirs)
    assert error.max() <= 1 and (error > 0).mean() < 0.03


@pytest.mark.parametrize("size", SIZES)
def test_the_mixture_is_that_of_a_loop_over_images(size):
    images = photographs(16, *size)
    draws = _draw(16, severity=5, width=3, depth=-1, alpha=1.0, generator=torch.Generator().manual_seed(3))
    expected = np.empty(images.shape)
    for i, image in enumerate(images.numpy()):
        mixture = np.zeros(image.shape)
        for k in range(3):
            end = image
            for step in range(3):
                op, sign = draws.ops[step, k, i], draws.signs[step, k, i].item()
                end = with_pillow(end, op, draws.levels[step, k, i], sign)
            mixture += draws.weights[k, i] * end
        expected[i] = (1 - draws.mixing[i]) * image + draws.mixing[i] * mixture
    error = np.abs(_mix(images.float() / 255, draws).numpy() * 255 - expected)
    assert np.abs(images.numpy() - expected).mean() > 5, "the test would pass without the mixture"
    # A grey level's difference before solarize or equalize is more of one after.
    assert np.median(error) < 0.01 and error.mean() < 0.3


def test_the_same_seed_gives_the_same_images():
    images = photographs(8)
    first, again, other = (augmix(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(1)
    default = augmix(images)
    assert not torch.equal(default, augmix(images)), "the default generator moves on"
    torch.manual_seed(1)
    assert torch.equal(default, augmix(images))


def test_an_image_does_not_depend_on_the_others():
    images = photographs(12) / 255
    draws = _draw(12, severity=3, width=3, depth=-1, alpha=1.0, generator=torch.Generator().manual_seed(0))
    together = _mix(images, draws)
    for i in (0, 5, 11):
        alone = replace(draws, **{name: value[..., i : i + 1] for name, value in vars(draws).items()})
        assert torch.equal(_mix(images[i : i + 1], alone)[0], together[i])


def test_each_image_has_draws_of_its_own():
    mixed = augmix(photographs(1).expand(16, -1, -1, -1), generator=torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in mixed}) == 16


def test_the_draws_are_the_authors():
    draws = _draw(4000, severity=3, width=3, depth=-1, alpha=1.0, generator=torch.Generator().manual_seed(0))
    assert draws.ops.shape == (3, 3, 4000)
    depths = (draws.ops != Op.NONE).sum(0)
    assert np.allclose(np.bincount(depths.ravel())[1:] / depths.size, 1 / 3, atol=0.02)
    assert ((draws.ops == Op.NONE) == (np.arange(3)[:, None, None] >= depths)).all(), "a chain ends once"
    of_op = np.bincount(draws.ops.ravel())[1:]
    assert np.allclose(of_op / of_op.sum(), 1 / 9, atol=0.01)
    assert draws.levels.min() >= 0.1 and 2.99 < draws.levels.max() < 3
    assert abs(draws.levels.mean() - 1.55) < 0.02 and abs(draws.signs.mean()) < 0.02
    assert np.allclose(draws.weights.sum(0), 1) and abs(draws.weights.var() - 1 / 18) < 0.003  # Dirichlet(1, 1, 1)
    assert abs(draws.mixing.mean() - 1 / 2) < 0.02 and abs(draws.mixing.var() - 1 / 12) < 0.003  # uniform


def test_depth_width_and_alpha():
    draws = _draw(500, severity=1, width=5, depth=4, alpha=50.0, generator=torch.Generator().manual_seed(0))
    assert draws.ops.shape == (4, 5, 500) and draws.ops.min() == Op.AUTOCONTRAST and draws.levels.max() <= 1
    assert draws.weights.shape == (5, 500) and abs(draws.weights - 0.2).max() < 0.15
    assert abs(draws.mixing - 0.5).max() < 0.25


def test_the_least_severity_leaves_alone_what_has_a_whole_magnitude():
    images = photographs(4).clamp(max=250)  # solarize starts from white, at 254
    for op in Op:
        out = images.clone()
        _step(out, np.full(4, op), np.full(4, 0.1), np.ones(4))
        unchanged = op in (Op.NONE, Op.SOLARIZE, Op.ROTATE, Op.TRANSLATE_X, Op.TRANSLATE_Y)
        assert torch.equal(out, images) == unchanged, op
        if op in GEOMETRIC:
            assert (out.int() - images.int())[..., 1:-1, 1:-1].abs().max() < 12, op


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
def test_dtype_and_memory_format_stay(dtype):
    source = photographs(6)
    images = source if dtype == torch.uint8 else (source.double() / 255).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    mixed = augmix(images, generator=torch.Generator().manual_seed(0))
    assert mixed.dtype == dtype and mixed.shape == images.shape
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before), "the images themselves stay"
    expected = augmix(source.float() / 255, generator=torch.Generator().manual_seed(0))
    ours = mixed.float() / 255 if dtype == torch.uint8 else mixed.float()
    assert expected.min() >= 0 and expected.max() <= 1
    if dtype == torch.uint8:
        assert torch.equal(mixed, (expected * 255).round().byte())
    # bfloat16 does not hold every grey level, and an operation makes more of that.
    assert (ours - expected).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.002)


def test_grey_images_and_none_at_all():
    assert augmix(photographs(4)[:, :1]).shape == (4, 1, 32, 32)
    assert augmix(photographs(4)[:0]).shape == (0, 3, 32, 32)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_agrees_with_cpu():
    images = photographs(64)
    here, there = (augmix(x, generator=torch.Generator().manual_seed(0)) for x in (images, images.cuda()))
    assert there.is_cuda and (here.int() - there.cpu().int()).abs().float().mean() < 0.05


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"severity": 0}, "severity: expected a level from 0.1 to 10, got 0"),
        ({"severity": 11}, "severity"),
        ({"severity": "3"}, "severity"),
        ({"width": 0}, "width: expected an integer ≥ 1, got 0"),
        ({"width": 2.5}, "width"),
        ({"depth": 0}, "depth: expected an integer ≥ 1, or -1"),
        ({"depth": True}, "depth"),
        ({"alpha": 0}, "alpha: expected a positive number, got 0"),
        ({"alpha": float("nan")}, "alpha"),
    ],
)
def test_parameters_out_of_range(changes, message):
    for use in (AugMix, lambda **parameters: augmix(photographs(1), **parameters)):
        with pytest.raises(ValueError, match=message):
            use(**changes)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"images: expected \(N, C, H, W\), got \(3, 32, 32\)"):
        augmix(photographs(1)[0])
    with pytest.raises(TypeError, match="images"):
        augmix(photographs(1).int())
    with pytest.raises(ValueError, match="^images: expected 1 or 3 channels, got 4"):
        augmix(torch.rand(2, 4, 32, 32))


def test_torchvision_is_imported_only_when_used():
    code = "import sys, freqrob.defenses.augmix; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def in_numpy(clean, first, second, labels, weight):
    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p = [softmax(z) for z in (clean, first, second)]
    m = np.clip((p[0] + p[1] + p[2]) / 3, 1e-7, 1)
    kl = [(q * (np.log(q) - np.log(m))).sum(1).mean() for q in p]
    return -np.log(p[0][np.arange(len(labels)), labels]).mean() + weight * sum(kl) / 3


@pytest.mark.parametrize("scale", [1, 5, 12])
def test_the_loss_is_the_papers(scale):
    rng = np.random.default_rng(0)
    views, labels = scale * rng.normal(size=(3, 20, 10)), rng.integers(10, size=20)
    ours = AugMix(weight=7.0).loss(*torch.from_numpy(views), torch.from_numpy(labels))
    assert ours.item() == pytest.approx(in_numpy(*views, labels, 7.0), rel=1e-9)


def test_the_divergence_of_equal_views_is_nothing_and_of_certain_ones_finite():
    logits = torch.randn(5, 10)
    assert jensen_shannon(logits, logits, logits).item() == pytest.approx(0, abs=1e-6)
    certain = [300 * torch.eye(10)[[k]] for k in range(3)]
    views = [view.requires_grad_() for view in certain]
    divergence = jensen_shannon(*views)
    assert divergence.item() == pytest.approx(np.log(3))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(divergence, views))


class Spy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(3 * 32 * 32, 10), []

    def forward(self, images):
        self.seen.append(images)
        return self.linear(images.flatten(1))


def test_one_forward_pass_sees_the_image_and_two_mixtures():
    model, labels = Spy(), torch.arange(6)
    images = (photographs(6) / 255).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(4)
    loss = AugMix()(model, images, labels)
    assert len(model.seen) == 1 and model.seen[0].is_contiguous(memory_format=torch.channels_last)
    clean, first, second = model.seen[0].chunk(3)
    torch.manual_seed(4)
    assert torch.equal(clean, images)
    assert torch.equal(first, augmix(images)) and torch.equal(second, augmix(images))
    logits = model(model.seen[0]).detach().double().numpy()
    assert loss.item() == pytest.approx(in_numpy(*np.split(logits, 3), labels.numpy(), 12.0), rel=1e-4)
    loss.backward()
    assert model.linear.weight.grad.abs().sum() > 0


def test_bass_view_mixes_the_balanced_image(monkeypatch):
    images = photographs(4) / 255
    given = []
    monkeypatch.setattr(defense, "augmix", lambda x, **parameters: given.append(parameters) or x)
    chosen = {"severity": 2, "width": 4, "depth": 1, "alpha": 0.5}
    power = {"bass_view": True, "weighting": "power"}
    for how, second in (({"bass_view": True}, bass(images)), (power, bass(images, weighting="power")), ({}, images)):
        views = AugMix(**chosen, **how).views(images)
        assert torch.equal(views[1], images) and torch.equal(views[2], second)
    assert given == [chosen] * 6


def test_the_loss_is_float32_whatever_the_logits():
    images, labels, model = photographs(4) / 255, torch.arange(4), Spy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AugMix(bass_view=True)(model, images, labels)
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss = AugMix()(lambda views: model(views).bfloat16(), images, labels)
    assert loss.dtype == torch.float32


def test_the_defence_is_plain_values():
    made = AugMix(severity=2, bass_view=True)
    assert AugMix(**json.loads(json.dumps(asdict(made)))) == made
    assert not made.adversarial and not made.double_backward
    with pytest.raises(ValueError, match="bass_view: expected true or false, got 1"):
        AugMix(bass_view=1)
    with pytest.raises(ValueError, match="weighting: expected one of amplitude, power, got 'mine'"):
        AugMix(weighting="mine")
    with pytest.raises(ValueError, match="weight"):
        AugMix(weight=float("inf"))
