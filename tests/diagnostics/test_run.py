"""All diagnostics of a model: what is refused before anything is measured, and what the model and its user see."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.diagnostics.fourier_heatmap import fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.diagnostics.loss_landscape import LossLandscape
from freqrob.diagnostics.registry import get_diagnostic, list_diagnostics
from freqrob.diagnostics.run import diagnose, expected_seconds
from freqrob.runtime.parameters import keyword_hints
from tests.support.every_diagnostic import MINIMAL, equal
from tests.support.waves import SIZE, Linear, of_waves, wave


def test_all_diagnostics_of_a_model_on_real_images(real, tmp_path):
    model, images, labels = real
    names = [name for name in list_diagnostics() if "landscape" not in name and name != "fourier_heatmap"]
    found = diagnose(model, images[:4], labels[:4], only=names, out=tmp_path)
    assert list(found) == names
    for name, measured in found.items():
        again = type(measured).load(tmp_path, name)
        assert again.scalars() == measured.scalars() and measured.images == 4


@pytest.mark.parametrize(
    "size, every, points",
    [((64, 64), 4, (16, 16)), ((224, 224), 14, (16, 16)), ((45, 40), 2, (23, 20)), ((16, 17), 2, (8, 9))],
)
def test_every_diagnostic_takes_images_of_any_size(size, every, points, tmp_path):
    shorter = {MINIMAL: {"steps": 5}, "loss_landscape_low": {"points": 5}, "loss_landscape_high": {"points": 5}}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model.append(nn.Linear(16, 2))
    images, labels = 0.3 + 0.4 * torch.rand(4, 3, *size), torch.tensor([0, 1, 0, 1])
    found = diagnose(model, images, labels, settings=shorter, out=tmp_path, cache=tmp_path / "cache")
    assert list(found) == list_diagnostics()
    for name, measured in found.items():
        assert measured.images == 4
        assert type(measured).load(tmp_path, name).scalars().keys() == measured.scalars().keys()
    heatmap, bands = found["fourier_heatmap"], found["band_accuracy"]
    assert heatmap.every == every and heatmap.change.shape == points and heatmap.change.isfinite().all()
    assert (heatmap.horizontal[1] - heatmap.horizontal[0]).item() == pytest.approx(every / size[1])
    assert len(bands.frequencies) <= 33 and bands.low[-1] == bands.accuracy and len(bands.robust) == 5
    assert found["jacobian"].amplitude.shape == (size[0], size[1] // 2 + 1)
    assert found[MINIMAL].power.shape == size
    assert expected_seconds(model, images, labels) > 0


def test_images_that_come_class_by_class_are_mixed():
    """The first three hundred images of ImageNet are of six classes of a thousand."""
    images, labels = of_waves(3, 600)[0], torch.arange(600) // 200
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    settings = {"hybrid": {"frequencies": (0.1, 0.2)}}
    assert expected_seconds(model, images, labels, only=["hybrid"], settings=settings) > 0
    assert diagnose(model, images, labels, only=["hybrid"], settings=settings)["hybrid"].images == 300
    found = diagnose(model, images, labels, only=["hybrid"])["hybrid"]
    assert found.images == get_diagnostic("hybrid").presets["quick"]["images"] == 300
    assert torch.equal(found.low, diagnose(model, images, labels, only=["hybrid"])["hybrid"].low)


@pytest.mark.parametrize(
    "forward, message",
    [
        (lambda logits: (logits, logits), "model: expected logits .N, K., got a tuple"),
        (lambda logits: logits.argmax(1), r"model: expected logits .N, K., got \(12,\) torch.int64 of 12"),
        (lambda logits: logits[:, :1], "model: expected at least 2 classes, because labels go up to 1, got 1"),
        (lambda logits: logits.half() @ logits, r"model: it fails on images \(12, 3, 32, 32\) torch.float32: Runtime"),
        (lambda logits: logits.detach(), "no gradient with respect to the images .* needed by jacobian, sensitivity"),
        (lambda logits: torch.zeros_like(logits, requires_grad=True), "no gradient with respect to the images"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused_before_anything_is(forward, message, tmp_path):
    class Odd(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return forward(super().forward(images))

    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match=message):
            call(Odd(wave(3)), *of_waves(3))
    assert not list(tmp_path.iterdir())
    if "gradient" in message:
        assert diagnose(Odd(wave(3)), *of_waves(3), only=["hybrid"], out=tmp_path)


def test_a_model_that_works_in_place_leaves_the_callers_images(tmp_path):
    class InPlace(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.sub_(0.5).add_(0.25))

    images, labels = of_waves(3)
    before = images.clone()
    diagnose(InPlace(wave(3)), images, labels, only=["hybrid"])
    assert torch.equal(images, before)


def test_the_model_is_left_as_it_was(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 30 * 30, 2))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    diagnose(model, *of_waves(3), only=[MINIMAL, "hybrid"], settings={MINIMAL: {"steps": 2}})
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(weight.grad is None for weight in model.parameters())
    assert [weight.requires_grad for weight in model.parameters()] == [False, *[True] * 5]


def test_data_that_one_diagnostic_cannot_take_are_refused_before_any_measures(tmp_path):
    images, _ = of_waves(3)
    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match="hybrid: labels: more than half of them are 0"):
            call(Linear(wave(3)), images, torch.zeros(12, dtype=torch.int64), only=["jacobian", "hybrid"])
    assert not list(tmp_path.iterdir())


def test_a_model_is_tried_on_no_more_images_than_are_measured_at_a_time():
    class Small(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 5:
                raise torch.OutOfMemoryError("6 images are too many")
            return super().forward(images)

    assert diagnose(Small(wave(3)), *of_waves(3), only=["hybrid"], batch_size=5)["hybrid"].images == 12
    with pytest.raises(torch.OutOfMemoryError):
        diagnose(Small(wave(3)), *of_waves(3), only=["hybrid"])


def test_the_callers_inference_mode_changes_nothing():
    names = ["jacobian", "hybrid", "loss_landscape_low"]
    model = Linear(wave(3))
    expected = diagnose(model, *of_waves(3), only=names)
    with torch.inference_mode():
        found, made_here = diagnose(model, *of_waves(3), only=names), Linear(wave(3))
    assert all(equal(found[name], expected[name]) for name in names)
    with pytest.raises(ValueError, match="model: its weights were created under torch.inference_mode"):
        diagnose(made_here, *of_waves(3), only=names[2:])


def test_zero_gradients_are_told_and_have_no_frequency():
    class Saturated(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).clamp(-1e-3, 1e-3)

    with pytest.warns(UserWarning, match="the gradient of the loss is zero at 12 of 12 images"):
        found = diagnose(Saturated(wave(3)), *of_waves(3), only=["jacobian", "sensitivity"])
    assert np.isnan(found["jacobian"].log_b_low) and np.isnan(found["sensitivity"].mean_high_share)


def test_what_is_saved_says_which_network_it_was_and_whether_it_was_kept(tmp_path):
    def said(weight):
        settings = {"loss_landscape_low": {"points": 5}}
        diagnose(Linear(weight), *of_waves(3), only=["hybrid", *settings], settings=settings, out=tmp_path / "out",
                 cache=tmp_path / "cache", cache_key="1")  # fmt: skip
        found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
        return {one["model_hash"] for one in found}, [one["from_cache"] for one in found]

    (first, new), (again, kept), (other, _) = said(wave(3)), said(wave(3)), said(wave(4))
    assert new == [False, False] and kept == [True, True]
    assert first == again != other and len(first) == len(other) == 1


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("loss_landscape_high", {"points": 4}, "points: expected an odd number"),
        ("fourier_heatmap", {"layer": "block9"}, "layer: "),
        ("sensitivity", {"ranks": [544]}, "ranks: expected some of 0 to 543"),
        ("sensitivity", {"boundary_ring": "6"}, r"boundary_ring: expected int \| None, got '6'"),
        ("minimal_perturbation", {"norm": "L1"}, "norm: expected"),
        ("band_accuracy", {"width": 2}, "width: expected an odd number"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_measured(name, given, message, tmp_path):
    for call in (partial(diagnose, out=tmp_path), expected_seconds):
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            call(Linear(wave(3)), *of_waves(3), settings={name: given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, longer",
    [
        ("hybrid", {"seeds": (0, 1)}), ("band_accuracy", {"steps": 20}), ("fourier_heatmap", {"every": 1}),
        ("loss_landscape_low", {"points": 21}), ("minimal_perturbation", {"repeats": 3}), ("jacobian", {"images": 0}),
    ],
)  # fmt: skip
def test_the_time_depends_on_the_settings(name, longer, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("freqrob.diagnostics.run.time.perf_counter", lambda: next(clock))
    short, long = (
        expected_seconds(Linear(wave(3)), *of_waves(3, 600), only=[name], settings=settings)
        for settings in ({}, {name: longer})
    )
    assert long > 1.15 * short


def test_logits_that_are_not_finite_are_errors(tmp_path):
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2] * torch.nan

    data = of_waves(3)
    with pytest.warns(UserWarning, match="its logits are NaN or infinite at 12 of 12 images"):
        found = diagnose(Broken(), *data, only=["hybrid", "band_accuracy", "loss_landscape_low"], out=tmp_path)
    assert (found["hybrid"].low == 0).all() and (found["hybrid"].high == 0).all()
    bands = found["band_accuracy"]
    assert bands.accuracy == 0 and (bands.robust == 0).all() and (bands.low == 0).all()
    assert np.isnan(found["loss_landscape_low"].variation)
    assert np.isnan(LossLandscape.load(tmp_path, "loss_landscape_low").variation), "null in the JSON"
    assert (fourier_heatmap(Broken(), *data, every=16).change == 1).all()


def test_one_image_is_enough_for_what_needs_no_other():
    names = ["jacobian", "sensitivity", "band_accuracy", "loss_landscape_low"]
    found = diagnose(Linear(wave(3)), *(tensor[:1] for tensor in of_waves(3)), only=names)
    assert [measured.images for measured in found.values()] == [1] * 4
    with pytest.raises(ValueError, match="labels: more than half of them are 0"):
        hybrid_reliance(Linear(wave(3)), *(tensor[:1] for tensor in of_waves(3)))


def test_settings_replace_the_presets():
    settings = {"hybrid": {"seeds": (1, 3), "frequencies": (0.1, 0.2), "images": 6}, "band_accuracy": {"images": 0}}
    data = of_waves(3, 300)[0], torch.arange(300) % 2
    found = diagnose(Linear(wave(3)), *data, only=list(settings), settings=settings)
    alone = hybrid_reliance(Linear(wave(3)), *(tensor[:6] for tensor in data), seeds=(1, 3), frequencies=(0.1, 0.2))
    assert found["hybrid"].scalars() == alone.scalars() and torch.equal(found["hybrid"].high, alone.high)
    assert found["band_accuracy"].images == 300 and found["band_accuracy"].steps == 10


@pytest.mark.parametrize("name", list_diagnostics())
@pytest.mark.parametrize("value", ["none", -1, 1.5, True, float("nan"), ["a"], [-1], [float("nan")], {}, None])
def test_settings_of_another_type_are_named(name, value):
    """Of every setting, but those that may be None, 1.5 or −1."""
    data, takes = of_waves(3, 4), {"norm": [1.5, None], "span": [1.5], "every": [None], "boundary_ring": [None]}
    takes |= {"ranks": [None], "batch_size": [] if name == "minimal_perturbation" else [None]}
    takes |= {"attacked": [None], "seed": [-1] if "landscape" in name else []}
    for key in ["images", *keyword_hints(get_diagnostic(name).measure).keys() - {"cache", "cache_key", "progress"}]:
        if value not in takes.get(key, []):
            with pytest.raises(ValueError, match=key):
                diagnose(Linear(wave(3)), *data, only=[name], settings={name: {key: value}})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data: diagnose(Linear(wave(3)), *data, preset="long"), "preset: expected one of quick, full"),
        (lambda data: diagnose(Linear(wave(3)), *data, only=["hibrid"]), "only: got 'hibrid', .* Nearest: hybrid"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hibrid": {}}), "not measured.* Nearest: hybrid"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hybrid": {"seed": [0]}}), "no setting .* seeds"),
        (lambda data: diagnose(Linear(wave(3)), *data, settings={"hybrid": {"seeds": 0}}), "expected .*, got 0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(of_waves(3))
