"""Models and diagnostics of other packages, with a package that pip installs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data.datasets import ImageSet
from freqrob.data.samples import CIFAR10_CLASSES
from freqrob.diagnostics import Diagnostic, Measurement, diagnose, get_diagnostic, list_diagnostics, registry
from freqrob.diagnostics.registry import all_diagnostics, register_diagnostic
from freqrob.models import list_models, load_model, plugins
from freqrob.models.plugins import build
from freqrob.models.sources import open_model
from freqrob.report import write_report

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
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    yield
    for name in ("example_plugin", "example_brightness"):
        sys.modules.pop(name, None)


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


# Diagnostics

OWN = [
    "jacobian", "sensitivity", "hybrid", "minimal_perturbation", "band_accuracy", "fourier_heatmap",
    "loss_landscape_low", "loss_landscape_high",
]  # fmt: skip


def test_diagnostics_are_listed_in_the_order_in_which_they_are_measured():
    assert list_diagnostics() == OWN
    assert list_diagnostics("loss*") == OWN[-2:] and list_diagnostics("none*") == []


def test_diagnostics_need_matplotlib_to_draw_only():
    code = "import sys; from freqrob.diagnostics.registry import all_diagnostics as every; every(); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "freqrob.diagnostics.jacobian" in shown
    assert not {"matplotlib", "freqrob.report", "freqrob.cli"} & set(shown)


def test_an_unknown_diagnostic_gets_the_nearest_names():
    with pytest.raises(
        ValueError, match="^name: got 'jacobean', expected one of jacobian, .*high. Nearest: jacobian.$"
    ):
        get_diagnostic("jacobean")


def test_diagnostics_of_plugins_are_listed_without_importing_them(installed):
    assert list_diagnostics() == [*OWN, "absent", "brightness", "silent"]
    assert "example_brightness" not in sys.modules
    assert get_diagnostic("brightness").help == "accuracy when a constant is added to the images."
    assert list_diagnostics() == [*OWN, "absent", "brightness", "silent"]


def test_a_diagnostic_that_cannot_be_imported_is_named_and_breaks_no_other(installed):
    which = "diagnostic 'absent' of package freqrob-example-plugin cannot be imported: ModuleNotFoundError"
    with pytest.raises(ImportError, match=which):
        get_diagnostic("absent")
    silent = "'silent' of package freqrob-example-plugin cannot be imported: it does not register 'silent'"
    with pytest.warns(UserWarning, match=silent), pytest.warns(UserWarning, match=which):
        assert list(all_diagnostics()) == [*OWN, "brightness"]
    settings = {"brightness": {"offsets": [0.0]}, "jacobian": {"batch": 2}}
    with pytest.warns(UserWarning, match=which):
        found = diagnose(load_model("mean_colour"), IMAGES, torch.tensor([0, 1]), settings=settings)
    assert found.keys() >= {"jacobian", "brightness"}


def test_a_diagnostic_never_takes_the_place_of_freqrobs_own(installed):
    with pytest.warns(
        UserWarning, match="freqrob-example-plugin: entry point 'hybrid' .* left out: freqrob.diagnostics"
    ):
        assert type(get_diagnostic("hybrid")).__module__ == "freqrob.diagnostics.hybrid" and list_diagnostics()
    with pytest.warns(UserWarning, match="'not-a-name' .* is left out: expected a name of letters, digits and _"):
        list_diagnostics()


def test_a_diagnostic_of_a_plugin_is_measured_and_shown_everywhere(installed, monkeypatch, tmp_path):
    images = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 10
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: ImageSet(images, labels, CIFAR10_CLASSES))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        return CliRunner().invoke(cli.app, ["diagnose", *words])

    shown = run("--help")
    assert "• brightness: accuracy when a constant is added to the images. offsets" in shown.output
    assert "diagnostic 'absent' of package freqrob-example-plugin cannot be imported" in shown.stderr
    only = ("--only", "jacobian", "--only", "brightness", "--set", "brightness.offsets=[-0.5,0,0.5]")
    done = run("mean_colour", "fgsm_rn20", *only, "--no-cache")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if "accuracy at the worst brightness" in line]
    saved = json.loads(Path("diagnosis/mean_colour/brightness.json").read_text())
    assert saved["values"] == {"images": 12} and saved["model"] == "mean_colour"
    found = diagnose(load_model("mean_colour"), images, labels, only=["brightness"], settings={
        "brightness": {"offsets": [-0.5, 0.0, 0.5]}})["brightness"]  # fmt: skip
    worst = found.accuracy.min().item()
    assert f"{100 * worst:.1f} %" in line
    page = write_report(["diagnosis"], "page", cards=False)
    text, numbers = page.read_text(), json.loads(Path("page/results.json").read_text())
    assert numbers["figures"] == ["jacobian", "brightness"], "freqrob's own come first"
    assert (tmp_path / "page/figures/brightness.svg").is_file()
    assert '<section id="brightness">' in text and '<a href="#brightness">accuracy by brightness</a>' in text
    assert "Accuracy when a constant is added to the images. 12 images of cifar10 test." in text
    assert "worst brightness" in text and f'data-value="{worst}"' in text
    measured = numbers["models"][0]["measurements"]["brightness"]
    assert measured["offsets"] == [-0.5, 0.0, 0.5] and len(measured["accuracy"]) == 3


def test_a_diagnostic_that_cannot_be_shown_spoils_no_report(installed, monkeypatch):
    def fails(*_, **__):
        raise KeyError("brightness")

    found = diagnose(load_model("mean_colour"), IMAGES, torch.tensor([0, 1]), only=["brightness", "jacobian"])
    for name, measured in found.items():
        measured.save("found", name, {"model": "mean_colour"})
    brightness = type(get_diagnostic("brightness"))
    monkeypatch.setattr(brightness, "columns", (replace(brightness.columns[0], value=fails),))
    for method in ("figures", "findings"):
        monkeypatch.setattr(brightness, method, fails)
    with (
        pytest.warns(UserWarning, match="^brightness was not drawn .KeyError"),
        pytest.warns(UserWarning, match="^findings of brightness was not drawn .KeyError"),
        pytest.warns(UserWarning, match="^column worst_brightness of brightness was not drawn .KeyError"),
    ):
        page = write_report(["found"], "page", cards=False).read_text()
    assert 'id="figure-jacobian"' in page and "ln B<sub>low</sub>" in page


def test_a_diagnostic_is_registered_once_and_has_what_it_needs(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))

    class Mine(Diagnostic):
        measure = staticmethod(lambda *_: None)
        measurement = Measurement

    assert register_diagnostic("mine")(Mine) is Mine and get_diagnostic("mine").name == "mine"
    register_diagnostic("mine")(Mine)  # as when a notebook's cell runs again
    with pytest.raises(ValueError, match="^name: 'hybrid' is registered by freqrob.diagnostics.hybrid; choose another"):
        register_diagnostic("hybrid")(Mine)
    with pytest.raises(ValueError, match="^name: expected letters, digits and _, got 'my-own'"):
        register_diagnostic("my-own")
    with pytest.raises(TypeError, match="^mine: expected a subclass of Diagnostic with measure and measurement, got"):
        register_diagnostic("mine")(type("Empty", (Diagnostic,), {}))
