"""Models of other packages, with a package that pip installs."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from freqrob.models import list_models, load_model, plugins
from freqrob.models.plugins import build
from freqrob.models.sources import open_model

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the example package in it, installed by pip."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(Path(__file__).parent / "example_plugin", source, dirs_exist_ok=True)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return target


@pytest.fixture
def installed(site, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("example_plugin", None)


def test_models_of_plugins_are_listed_without_importing_them(installed):
    assert list_models("mean*", "cifar10") == ["mean_colour"]
    assert list_models("mean*", threat_model="L2") == []
    assert "example_plugin" not in sys.modules


@torch.no_grad()
def test_models_of_plugins_are_loaded_for_their_data_set(installed):
    model = load_model("mean_colour", dataset="cifar100")
    assert not model.training and model(IMAGES).shape == (2, 100)
    assert torch.equal(load_model("mean_colour")(IMAGES), open_model("mean_colour")(IMAGES))


@torch.no_grad()
def test_a_front_end_comes_before_a_plugins_model(installed):
    adaptive, plain = load_model("mean_colour", front_end="bass"), load_model("mean_colour")
    torch.testing.assert_close(adaptive(IMAGES), plain(adaptive.front_ends[0](IMAGES)))
    assert not torch.equal(adaptive(IMAGES), plain(IMAGES))


def test_a_plugin_never_takes_the_place_of_a_shipped_model(installed):
    assert type(load_model("pgd_at_rn20").network).__name__ == "CifarResNet"
    with pytest.warns(UserWarning, match="'pgd_at_rn20' .* of package freqrob-example-plugin: .* freqrob's own"):
        assert list_models("pgd_at_rn20") == ["pgd_at_rn20"]


def test_names_that_cannot_be_are_left_out_with_a_warning(installed):
    with pytest.warns(UserWarning, match="'elsewhere' for cifar-10, Linf .* left out, expected a data set"):
        assert "elsewhere" not in list_models()
    with pytest.warns(UserWarning, match="freqrob-example-plugin: entry point 'malformed' .* is left out"):
        assert "malformed" not in list_models()


def test_a_plugin_that_cannot_be_imported_is_named(installed):
    with pytest.raises(ImportError, match="'broken' for cifar10, Linf of package freqrob-example-plugin cannot be imp"):
        load_model("broken")


def test_a_plugin_that_fails_is_named(installed, monkeypatch):
    monkeypatch.setattr("freqrob.models.plugins.build", lambda *_: {}["weights"])
    complaint = "^model 'mean_colour' for cifar10, Linf of package freqrob-example-plugin failed: KeyError: 'weights'$"
    with pytest.raises(ValueError, match=complaint):
        load_model("mean_colour")


def test_two_packages_with_one_name_are_both_named(installed, monkeypatch):
    found = plugins.plugin_models()
    monkeypatch.setattr(plugins, "plugin_models", lambda: [*found, *(replace(one, package="other") for one in found)])
    with pytest.raises(ValueError, match="'mean_colour' .* offered by freqrob-example-plugin and other"):
        load_model("mean_colour")


def test_the_command_line_says_whose_model_it_is(installed, monkeypatch):
    from freqrob import cli

    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(cli.app, ["models", "mean*"])
    assert "of package freqrob-example-plugin, cifar100, Linf" in result.output


def test_build_gives_the_number_of_classes_to_who_asks():
    def wide(num_classes, width=1):
        return torch.nn.Linear(width, num_classes)

    assert build(wide, "it", 7, {"width": 3}).weight.shape == (7, 3)
    assert build(wide, "it", 7, {"num_classes": 2}).weight.shape == (2, 1)
    assert isinstance(build(lambda: torch.nn.Identity(), "it", 7), torch.nn.Identity)


@pytest.mark.parametrize(
    ("builder", "complaint"),
    [
        (lambda: 3, "it gives a int, expected an nn.Module"),
        (lambda width: 3, "it cannot be called with no arguments: missing a required argument: 'width'"),
        ("net", "it cannot be called .* 'net' is not a callable object"),
    ],
)
def test_build_says_what_is_wrong_with_a_builder(builder, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(builder, "it", 10)
