"""Accuracy on corruptions: what is measured, its means by groups, mCE, and the command."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks import corruptions as benchmark
from freqrob import cli
from freqrob.data.corruption_arrays import CorruptionArrays, load_corruptions, write_corruptions
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES
from freqrob.data.datasets import ImageSet
from freqrob.evaluation import evaluate
from freqrob.evaluation.corruptions import GROUPS, CorruptionAccuracy, evaluate_corruptions
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save

COUNT = 12
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


class Brightest(nn.Module):
    """The class is the tenth of [0, 1] in which the mean pixel lies."""

    __slots__ = ("seen",)  # no attribute by which the model is known

    def forward(self, images):
        self.seen = getattr(self, "seen", 0) + len(images)
        classes = (images.mean((1, 2, 3)) * 10).long().clamp(0, 9)
        return nn.functional.one_hot(classes, 10).float() * 20 - 10


@pytest.fixture
def arrays():
    """One type; of 12 images of class 3, one more is of another class with each severity."""
    pixels = np.full((5 * COUNT, 32, 32, 3), 90, np.uint8)
    for severity in SEVERITIES:
        pixels[(severity - 1) * COUNT : (severity - 1) * COUNT + severity] = 200
    return CorruptionArrays(None, "cifar10", {"fog": pixels}, torch.full((COUNT,), 3), None)


def of(dataset="cifar10", images=10_000, bass=None, generated=True, **accuracies):
    every = {name: (accuracies[name],) * 5 for name in CORRUPTIONS if name in accuracies}
    return CorruptionAccuracy(dataset, "natural", images, bass, generated, every)


def test_accuracy_is_that_of_each_severity(arrays):
    found = evaluate_corruptions(Brightest(), arrays)
    assert found.accuracies == {"fog": tuple((COUNT - s) / COUNT for s in SEVERITIES)}
    assert found.of_type("fog") == pytest.approx((COUNT - 3) / COUNT)
    assert (found.images, found.protocol, found.bass, found.generated) == (COUNT, "natural", None, False)
    assert evaluate_corruptions(Brightest(), arrays, n_images=4).accuracies["fog"] == (0.75, 0.5, 0.25, 0, 0)


def test_the_standard_error_counts_an_image_once(arrays):
    found = evaluate_corruptions(Brightest(), arrays)
    wrong = np.arange(COUNT)[:, None] < np.array(SEVERITIES)
    expected = (1 - wrong.mean(1)).std() / COUNT**0.5
    assert found.standard_errors == {"all": pytest.approx(expected), "fog": pytest.approx(expected)}
    assert found.as_dict()["standard_errors"]
    twice = dict.fromkeys(("fog", "snow"), arrays.arrays["fog"])
    alike = CorruptionArrays(None, "cifar10", twice, arrays.labels, None)
    assert evaluate_corruptions(Brightest(), alike).standard_errors["all"] == pytest.approx(expected)


def test_a_second_call_with_a_cache_does_not_call_the_model(arrays, tmp_path):
    model = Brightest()
    first = evaluate_corruptions(model, arrays, cache=tmp_path, cache_key="1")
    seen = model.seen
    again = evaluate_corruptions(model, arrays, cache=tmp_path, cache_key="1")
    assert again == first and model.seen == seen
    assert first.as_dict()["from_cache"] == {"fog": [False] * 5} and again.from_cache == {"fog": (True,) * 5}
    evaluate_corruptions(model, arrays)
    assert model.seen > seen


def test_of_a_model_of_ones_own_nothing_is_cached_and_one_warning_says_so(arrays, tmp_path):
    with pytest.warns(UserWarning, match="nothing is cached.*Brightest") as warned:
        evaluate_corruptions(Brightest(), arrays, cache=tmp_path)
    assert len(warned) == 1 and not list(tmp_path.iterdir())


def test_a_run_that_was_stopped_goes_on(arrays, tmp_path):
    def stopping(items, _what, *_):
        yield from list(items)[:3]
        raise KeyboardInterrupt

    model = Brightest()
    with pytest.raises(KeyboardInterrupt):
        evaluate_corruptions(model, arrays, cache=tmp_path, cache_key="1", progress=stopping)
    before = model.seen
    whole = evaluate_corruptions(model, arrays, cache=tmp_path, cache_key="1")
    again = Brightest()
    evaluate_corruptions(again, arrays)
    assert model.seen - before < again.seen / 2 and whole.accuracies["fog"][4] == (COUNT - 5) / COUNT


def test_the_protocol_is_that_of_evaluate(arrays):
    torch.manual_seed(0)
    network = create_network("tiny").eval()
    images = torch.randint(256, (5 * COUNT, 32, 32, 3), dtype=torch.uint8).numpy()
    noise = CorruptionArrays(None, "cifar10", {"fog": images}, torch.arange(COUNT) % 10, None)
    found = evaluate_corruptions(network, noise, protocol="natural+bass")
    expected = [
        evaluate(network, noise.images("fog", s), noise.labels, protocols=["natural+bass"])[0].accuracy
        for s in SEVERITIES
    ]
    assert found.accuracies["fog"] == tuple(expected) and found.protocol == "natural+bass"


def test_groups_are_those_of_the_papers():
    assert {group: len(types) for group, types in GROUPS.items()} == {
        "noise": 4, "blur": 5, "weather": 4, "digital": 6, "low": 5, "medium": 7, "high": 3,
        "15 types": 15, "19 types": 19,
    }  # fmt: skip
    assert set(GROUPS["15 types"]) == {*GROUPS["low"], *GROUPS["medium"], *GROUPS["high"]}
    extra = {"noise": "speckle_noise", "blur": "gaussian_blur"}
    assert all(name in GROUPS[group] for group, name in extra.items())
    assert {*GROUPS["19 types"]} - {*GROUPS["15 types"]} == {*extra.values(), "spatter", "saturate"}
    assert {"spatter", "saturate"} < set(GROUPS["digital"])


TABLE_4 = """
95.66 84.62 91.31 91.95 90.90 89.91
95.83 88.66 91.37 93.04 90.77 90.96
95.79 83.08 90.54 91.72 90.00 89.05
95.99 88.36 91.47 93.14 90.53 90.87
96.29 82.99 91.63 92.62 91.38 89.94
96.08 89.37 92.10 93.43 90.94 91.44
95.95 85.15 91.56 92.21 91.37 90.29
96.00 89.85 91.90 93.27 91.53 91.64
77.53 55.43 69.08 68.24 67.13 65.41
77.90 60.38 69.07 70.74 66.92 66.91
77.46 51.83 67.74 67.49 65.19 63.53
78.44 59.08 68.89 70.31 65.93 66.19
78.68 55.93 70.12 68.82 67.92 66.16
80.17 60.02 71.27 72.47 68.38 68.24
79.01 58.90 71.26 69.95 69.74 67.90
80.83 64.95 72.24 73.33 69.96 70.21
"""  # Lin et al. 2023: clean, noise, blur, weather, digital, mean; CIFAR-10, then CIFAR-100


@pytest.mark.parametrize("row", TABLE_4.split("\n")[1:-1])
def test_the_groups_reproduce_every_mean_of_lin_et_al(row):
    """The mean over 19 types from the printed means of the four groups, within rounding."""
    _, *groups, mean = map(float, row.split())
    sizes = [len(GROUPS[group]) for group in ("noise", "blur", "weather", "digital")]
    found = sum(size * value for size, value in zip(sizes, groups, strict=True)) / len(GROUPS["19 types"])
    assert found == pytest.approx(mean, abs=0.005)


def test_means_are_plain_and_only_over_whole_groups():
    shares = {name: i / 100 for i, name in enumerate(CORRUPTIONS)}
    means = of(**shares).means()
    assert means["15 types"] == pytest.approx(sum(range(15)) / 15 / 100)
    assert means["19 types"] == pytest.approx(0.09) and means["noise"] == pytest.approx((0 + 1 + 2 + 15) / 4 / 100)
    assert means["low"] == pytest.approx((7 + 8 + 9 + 10 + 11) / 5 / 100)
    del shares["frost"]
    assert of(**shares).means().keys() == {"noise", "blur", "digital", "medium", "high", "all"}
    assert of(**shares).means()["all"] == pytest.approx((sum(range(19)) - 8) / 18 / 100), "18 types, not 19"


def test_mce_is_the_mean_share_of_the_baselines_error():
    model, baseline = of(fog=0.9, snow=0.5, contrast=0.2), of(fog=0.8, snow=0.5, contrast=0.6)
    assert model.mce(baseline) == pytest.approx((0.1 / 0.2 + 0.5 / 0.5 + 0.8 / 0.4) / 3)
    assert baseline.mce(baseline) == 1
    severe = CorruptionAccuracy("cifar10", "natural", 10_000, None, True, {"fog": (1, 1, 1, 1, 0.5)})
    assert severe.mce(of(fog=0.8)) == pytest.approx(0.1 / 0.2), "of the mean over severities, not their mean"


@pytest.mark.parametrize(
    "baseline, message",
    [
        (of(fog=0.5, images=100), "baseline: was measured with images 100, expected 10000"),
        (of(fog=0.5, bass="amplitude"), "with bass amplitude, expected None"),
        (of(fog=0.5, generated=False), "with generated False, expected True"),
        (of(fog=0.5, snow=0.5), "was measured on snow, fog, not on the same types"),
        (of(fog=1.0), "makes no error on fog"),
    ],
)
def test_mce_needs_a_baseline_on_the_same(baseline, message):
    with pytest.raises(ValueError, match=message):
        of(fog=0.5).mce(baseline)


@pytest.mark.parametrize("n_images", [0, COUNT + 1])
def test_a_number_of_images_that_are_not_there(arrays, n_images):
    with pytest.raises(ValueError, match=f"n_images: expected 1 to {COUNT} .* got {n_images}"):
        evaluate_corruptions(Brightest(), arrays, n_images=n_images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """Corruptions and models of random weights."""
    folder = tmp_path_factory.mktemp("c")
    images = torch.randint(256, (COUNT, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    few = ImageSet(images, torch.arange(COUNT) % 10, tuple("abcdefghij"))
    write_corruptions(
        few, folder / "c", ("gaussian_noise", "shot_noise", "impulse_noise"), about={"dataset": "cifar10", "bass": None}
    )
    for name in ("standard_tiny", "pgd_at_tiny"):
        torch.manual_seed(len(name))
        weights = create_network("tiny").state_dict()
        save(folder / "models" / "cifar10" / "Linf" / f"{name}.safetensors", weights, Card(name, "tiny"))
    return folder


def run(folder, *arguments):
    where = ["--data", folder / "c", "--model-dir", folder / "models", "--cache", folder / "cache"]
    return CliRunner().invoke(cli.app, ["corruptions", *map(str, [*arguments, *where])])


def test_the_command_shows_and_writes_what_was_measured(folder, tmp_path):
    out = ["--out", tmp_path / "c.json", "--out", tmp_path / "c.csv"]
    result = run(folder, "pgd_at_tiny", "--baseline", "standard_tiny", *out)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "made by freqrob, not the published ones: 12 images each, protocol natural" in shown
    assert all(words in shown for words in ("gaussian_noise", "all 3 types", "mCE, 3 types", "100.0"))
    assert "15 types" not in shown
    record = json.loads((tmp_path / "c.json").read_text())
    model, baseline = record["results"]
    assert (model["model"], model["baseline"], baseline["mce"]) == ("pgd_at_tiny", "standard_tiny", 1)
    arrays, network = load_corruptions(folder / "c"), create_network("tiny")
    torch.manual_seed(len("pgd_at_tiny"))
    network = create_network("tiny").eval()
    expected = evaluate(network, arrays.images("shot_noise", 3), arrays.labels, protocols=["natural"])[0].accuracy
    assert model["accuracies"]["shot_noise"][2] == expected
    assert record["command"].startswith("freqrob corruptions pgd_at_tiny --dataset cifar10")
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert len(rows) == 2 * 3 * 5 and float(rows[7]["accuracy"]) == expected
    assert [rows[7][key] for key in ("model", "type", "severity")] == ["pgd_at_tiny", "shot_noise", "3"]


def test_the_command_says_what_was_measured_by_earlier_runs(folder, tmp_path):
    asked = ["pgd_at_tiny", "--images", 4, "--out", tmp_path / "c.csv"]
    first = run(folder, *asked[:3], "--type", "shot_noise")
    part, whole = (run(folder, *asked) for _ in range(2))
    assert "earlier runs" not in first.output
    assert f"pgd_at_tiny: shot_noise from earlier runs, cached in {folder / 'cache'}" in part.stderr
    assert "pgd_at_tiny: all results from earlier runs" in whole.stderr and part.stdout == whole.stdout
    assert {row["from_cache"] for row in csv.DictReader((tmp_path / "c.csv").open())} == {"True"}


def test_the_command_takes_types_and_a_number_of_images(folder, tmp_path):
    result = run(folder, "pgd_at_tiny", "--type", "shot_noise", "--images", 5)
    assert result.exit_code == 0, result.output
    assert "5 images each" in result.output and "gaussian_noise" not in result.output and "mCE" not in result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--type", "fog"], "has no fog.npy"),
        (["--images", "13"], "images: expected 1 to 12"),
        (["--protocol", "other"], "protocols: expected one of"),
        (["--dataset", "svhn"], "svhn"),
        (["--out", "c.txt"], "ending in .json or .csv"),
        (["--no-cache"], "expected --cache or --no-cache"),
    ],
)
def test_the_command_refuses_bad_input(folder, arguments, message):
    result = run(folder, "pgd_at_tiny", *arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output, result.output


def test_the_commands_help_teaches_by_example():
    shown = CliRunner().invoke(cli.app, ["corruptions", "--help"])
    assert shown.exit_code == 0 and "• freqrob corruptions" in shown.output


def test_the_benchmark_times_every_severity(monkeypatch):
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    row = benchmark.measure(images, "contrast", None, 0)
    assert len(row["seconds"]) == len(row["cpu_seconds"]) == 5 and min(row["seconds"]) > 0
    monkeypatch.setattr(benchmark, "quiet_sample", lambda call, _calls, _deadline: (call(), (0.02, True))[1])
    assert benchmark.measure(images, "contrast", None, 0)["seconds"] == [10.0] * 5
