"""`--grayscale`: one channel from the data set to the report, and errors where colours meet grey levels."""

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data import DATASETS
from freqrob.data.samples import sample_images
from freqrob.diagnostics import HybridReliance, JacobianSpectrum, MinimalPerturbationSpectrum
from freqrob.models import create_network, load_model
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.models.front_ends import with_front_ends


def run(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path, own_cache, wide_terminal):
    """Twenty images of CIFAR-10, and a model of colours and one of grey levels with the same name."""
    monkeypatch.chdir(tmp_path)
    about = replace(DATASETS["cifar10"], load=lambda *_: sample_images())
    monkeypatch.setitem(DATASETS, "cifar10", about)
    for dataset in ("cifar10", "cifar10_grayscale"):
        torch.manual_seed(0)
        front_ends = [{"name": "normalize", "mean": DATASETS[dataset].mean, "std": DATASETS[dataset].std}]
        network = create_network("rn20", in_channels=DATASETS[dataset].channels)
        card = Card("standard_rn20", "rn20", dataset, front_ends=front_ends)
        save(tmp_path / "models" / dataset / "Linf" / "standard_rn20.safetensors", network.state_dict(), card)


def test_models_are_measured_on_one_channel(tmp_path):
    few = ["--set", "hybrid.images=10", "--set", "jacobian.images=10", "--set", "minimal_perturbation.images=10"]
    short = ["--set", "minimal_perturbation.steps=5"]
    only = [part for name in ("hybrid", "jacobian", "minimal_perturbation") for part in ("--only", name)]
    result = run("diagnose", "standard_rn20", "--grayscale", *few, *short, *only)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "diagnosis" / "standard_rn20"
    for kind in (HybridReliance, JacobianSpectrum, MinimalPerturbationSpectrum):
        measured = kind.load(folder)
        assert measured.images == 10
    options = ["--protocol", "natural", "--protocol", "bass", "--attack", "clean", "--attack", "pgd-2", "--card"]
    result = run("evaluate", "standard_rn20", "--grayscale", *options, "--masking-images", 0)
    assert result.exit_code == 0 and "cifar10_grayscale" in result.output, result.output
    result = run("report", "diagnosis", "--grayscale", "--cards")
    page = (tmp_path / "report" / "index.html").read_text()
    assert result.exit_code == 0 and "cifar10_grayscale test" in page, result.output


def test_images_of_one_channel_are_written_and_measured(tmp_path):
    import numpy as np

    assert run("dataset", "hybrid", "--grayscale", "--out", "h", "--images", 4, "--frequency", 0.1).exit_code == 0
    assert np.load(tmp_path / "h" / "hybrid.npz")["images"].shape == (1, 4, 1, 32, 32)
    result = run("dataset", "spectrum", "--grayscale", "--bass")
    assert result.exit_code == 0, result.output


def test_corruptions_are_converted_after_they_were_made(tmp_path):
    assert run("dataset", "corrupt", "--type", "contrast", "--out", "c").exit_code == 0
    result = run("corruptions", "standard_rn20", "--grayscale", "--data", "c", "--out", "c.json")
    assert result.exit_code == 0 and "corruptions of cifar10_grayscale" in result.output, result.output
    result = run("dataset", "spectrum", "--grayscale", "--corruptions", "c")
    assert result.exit_code == 0, result.output


def test_a_model_for_other_images_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "models" / "cifar10_grayscale" / "Linf" / "standard_rn20.safetensors").rename("gray.safetensors")
    (tmp_path / "gray.py").write_text(
        "from freqrob.models import create_network\n"
        "def network(num_classes=10):\n    return create_network('rn20', num_classes, 1)\n"
        "def colours(num_classes=10):\n    return create_network('rn20', num_classes)\n"
    )
    for arguments, remedy in (
        (["standard_rn20", "--grayscale"], "It is there for cifar10: omit --grayscale."),
        (["gray:network"], "it takes grayscale images, --grayscale"),
        (["gray:colours", "--grayscale"], "it takes colour images, without --grayscale"),
    ):
        result = run("evaluate", *arguments, "--attack", "clean", "--masking-images", 0)
        assert result.exit_code and remedy in " ".join(result.output.split()), result.output
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\).*; use colour images \(without --grayscale\)"):
        with_front_ends(torch.nn.Identity(), ["bass", {"name": "normalize", "mean": [0.5] * 3, "std": [1] * 3}])(
            torch.rand(1, 1, 32, 32)
        )


def test_the_card_decides_the_channels():
    gray = load_model("standard_rn20", dataset="cifar10_grayscale")
    assert gray(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    path = "models/cifar10_grayscale/Linf/standard_rn20.safetensors"
    with pytest.raises(ValueError, match="expected dataset 'cifar10', .*; use dataset='cifar10_grayscale'"):
        load_model("standard_rn20", custom_checkpoint=path)
