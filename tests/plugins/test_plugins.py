"""What other packages bring, of each kind, with a package that pip installs."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from freqrob import cli
from freqrob.attacks import Clean, list_attacks, parse_attack
from freqrob.data import DATASETS, ImageSet, list_datasets, load_dataset
from freqrob.data.samples import CIFAR10_CLASSES, sample_images
from freqrob.defenses import DEFENSES, list_defenses
from freqrob.diagnostics import Diagnostic, Measurement, diagnose, get_diagnostic, list_diagnostics
from freqrob.diagnostics.drawing import Panel, Picture
from freqrob.diagnostics.registry import DIAGNOSTICS, all_diagnostics, register_diagnostic
from freqrob.evaluation import evaluate
from freqrob.models import (
    create_network,
    list_architectures,
    list_models,
    list_sources,
    load_model,
    plugins,
    registry,
)
from freqrob.models.cards import Card
from freqrob.models.checkpoints import card_path
from freqrob.models.plugins import build
from freqrob.models.registry import ModelName
from freqrob.models.sources import open_model
from freqrob.report import write_report
from freqrob.reproduction import SCALES, Lab, get_experiment, list_experiments, reproduce
from freqrob.reproduction.experiment import EXPERIMENTS
from freqrob.runtime import registry as registry_module
from freqrob.runtime.registry import Registry
from freqrob.training import parse_settings, recipe_for, train

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the example package in it, installed by pip."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(Path(__file__).parents[1] / "example_plugin", source, dirs_exist_ok=True)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return target


@pytest.fixture
def installed(site, monkeypatch, tmp_path):
    list_experiments()  # imports freqrob's own, once for the whole process
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    for each in (
        registry._ARCHITECTURES,
        registry.SOURCES,
        DEFENSES,
        DATASETS,
        DIAGNOSTICS,
        EXPERIMENTS,
    ):  # which forget what is imported here
        monkeypatch.setattr(each, "_own", dict(each._own))
        monkeypatch.setattr(each, "_homes", dict(each._homes))
    yield
    for name in imported():
        del sys.modules[name]


def imported() -> list[str]:
    """The modules of the example package that were imported."""
    return sorted(name for name in sys.modules if name.partition(".")[0] == "example_plugin")


def test_models_of_plugins_are_listed_without_importing_them(installed):
    assert list_models("mean*", "cifar10") == ["mean_colour"]
    assert list_models("mean*", threat_model="L2") == []
    assert not imported()


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
    with pytest.warns(UserWarning, match="'pgd_at_rn20' .* freqrob-example-plugin: .* freqrob's own"):
        assert list_models("pgd_at_rn20") == ["pgd_at_rn20"]


def test_names_that_cannot_be_are_left_out_with_a_warning(installed):
    with pytest.warns(UserWarning, match="'elsewhere' for cifar-10, Linf .* expected a data set"):
        assert "elsewhere" not in list_models()
    with pytest.warns(UserWarning, match="plugin: entry point 'malformed' .* is left out"):
        assert "malformed" not in list_models()


def test_a_plugin_that_cannot_be_imported_is_named(installed):
    with pytest.raises(ImportError, match="'broken' for cifar10, Linf .* cannot be imp"):
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


# Everything else that a package can bring: one file and one entry point each


def test_what_plugins_bring_is_listed_without_importing_them(installed):
    assert list_architectures("p*") == ["patches", "prn18", "prn18_jafr"]
    assert "label_smoothing" in list_defenses() and list(DEFENSES)[-2:] == ["label_smoothing", "not_one"]
    assert list_datasets("t*") == ["tiny_imagenet", "two_colours"] and "constant" in list_sources()
    assert ModelName.parse("bass_label_smoothing_patches") == ModelName("bass", "label_smoothing", "patches")
    assert [*DEFENSES].index("label_smoothing") == 13
    assert not imported()


def test_a_plugins_defense_architecture_and_data_set_train_by_name(installed, tmp_path):
    settings = parse_settings("label_smoothing_patches", ["smoothing=0.2"])
    assert imported() == ["example_plugin", "example_plugin.defense"], "no more than is asked for"
    settings |= {"epochs": 1, "batch_size": 20, "precision": "32-true", "normalize": True}
    recipe = recipe_for("label_smoothing_patches", "two_colours", **settings)
    path = train(recipe, tmp_path / "no_data", tmp_path, accelerator="cpu")
    card = Card.read(card_path(path))
    assert (card.architecture, card.dataset, card.num_classes) == ("patches", "two_colours", 2)
    assert card.recipe["defense"] == {"smoothing": 0.2} and card.front_ends[0]["std"] == [0.25] * 3
    model, test = load_model(recipe.name, tmp_path, "two_colours"), load_dataset("two_colours", "test", tmp_path)
    (result,) = evaluate(model, test.images, test.labels, protocols=["natural"], attacks=[Clean()])
    assert result.accuracy > 0.8
    assert list_models("*smoothing*", "two_colours", model_dir=tmp_path) == ["label_smoothing_patches"]


def test_a_plugins_data_set_has_a_validation_split(installed, tmp_path):
    sets = [load_dataset("two_colours", split, tmp_path) for split in ("train", "val", "test")]
    assert all(isinstance(one, ImageSet) for one in sets) and [len(one) for one in sets] == [180, 20, 60]


@torch.no_grad()
def test_a_plugins_source_is_opened(installed, monkeypatch):
    assert open_model("constant:3")(IMAGES).argmax(1).tolist() == [3, 3]
    assert open_model("constant:1", dataset="two_colours")(IMAGES).shape == (2, 2)
    assert load_model("4", source="constant", front_end="bass")(IMAGES).argmax(1).tolist() == [4, 4]
    with pytest.raises(ValueError, match="freqrob, constant, robustbench. Nearest: constant"):
        load_model("4", source="constnat")


@torch.no_grad()
def test_a_plugins_attack_is_run_by_name(installed):
    assert "brighten" in list_attacks("b*")
    model, labels = load_model("mean_colour"), torch.tensor([0, 1])
    attack = parse_attack("brighten", eps=0.1)
    assert torch.equal(attack(model, IMAGES, labels), (IMAGES + 0.1).clamp(max=1))
    (result,) = evaluate(model, IMAGES, labels, attacks=["brighten"], protocols=["natural"], classes=10)
    assert result.attack.name == "brighter" and result.as_dict()["eps"] == 8 / 255
    with pytest.raises(ValueError, match="attack: got 'brihgten'.*Nearest: brighten"):
        parse_attack("brihgten")


def test_the_command_line_finds_what_a_plugin_brings(installed, tmp_path, monkeypatch):
    from freqrob import cli

    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke(cli.app, ["recipes", "label_smoothing_patches", "--dataset", "two_colours"])
    assert run.exit_code == 0 and "defence smoothing" in run.output
    options = ["--dataset", "two_colours", "--data", str(tmp_path), "--protocol", "natural", "--attack", "clean"]
    run = CliRunner().invoke(cli.app, ["evaluate", "constant:1", *options, "--no-cache"])
    assert run.exit_code == 0 and "50.0" in run.output, run.output


def test_broken_plugins_are_named_and_stop_nothing_else(installed):
    of_package = "of package freqrob-example-plugin"
    with pytest.raises(ImportError, match=f"'broken' {of_package} cannot be imported: ModuleNotFoundErr"):
        create_network("broken")
    with pytest.raises(ImportError, match=f"'not_one' {of_package}: .*expected a callable dataclass"):
        recipe_for("not_one_rn20")
    with pytest.warns(UserWarning, match=f"'mal-formed' {of_package}: .*expected letters"):
        assert "mal-formed" not in list_sources()
    with pytest.warns(UserWarning, match=f"architecture 'rn20' {of_package}: left out, freqrob has a"):
        assert "rn20" in list_architectures()
    assert type(create_network("rn20")).__name__ == "CifarResNet"


def test_what_is_imported_before_it_is_asked_for_is_the_same(installed):
    from example_plugin.dataset import two_colours

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DATASETS["two_colours"].load is two_colours
        assert list_datasets("two*") == ["two_colours"] and len(DATASETS) == 7


def test_unknown_names_get_the_nearest(installed):
    with pytest.raises(ValueError, match="defense: got 'label_smoothin', .* Nearest: label_smoothing"):
        ModelName(None, "label_smoothin", "rn20")
    with pytest.raises(ValueError, match="architecture: got 'patch', .* Nearest: patches"):
        create_network("patch")
    with pytest.raises(ValueError, match="dataset: .*'two_colour'. Nearest: two_colours"):
        load_dataset("two_colour", "test")


def test_of_two_packages_with_one_name_the_second_is_left_out(installed, monkeypatch):
    things = Registry("thing", "freqrob.sources")
    (one,) = (point for point in registry_module.installed("freqrob.sources") if point.name == "constant")
    monkeypatch.setattr(registry_module, "installed", lambda group: (one, one))
    with pytest.warns(UserWarning, match="left out, package freqrob-example-plugin .*uninstall"):
        assert list(things) == ["constant"]


def test_build_gives_the_number_of_classes_to_who_asks():
    def wide(num_classes, width=1):
        return torch.nn.Linear(width, num_classes)

    assert build(wide, "it", 7, {"width": 3}).weight.shape == (7, 3)
    assert build(wide, "it", 7, {"num_classes": 2}).weight.shape == (2, 1)
    assert isinstance(build(lambda: torch.nn.Identity(), "it", 7), torch.nn.Identity)


@pytest.mark.parametrize(
    "builder, complaint",
    [
        (lambda: 3, "it returns a int, expected an nn.Module"),
        (
            lambda width: 3,
            "it cannot be called with no arguments: missing .* argument: 'width'; it takes width$",
        ),
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
        ValueError,
        match="^diagnostic: got 'jacobean', .*Nearest: jacobian.$",
    ):
        get_diagnostic("jacobean")


def test_diagnostics_of_plugins_are_listed_without_importing_them(installed):
    assert list_diagnostics() == [*OWN, "absent", "brightness", "silent"]
    assert "example_plugin.diagnostic" not in sys.modules
    assert get_diagnostic("brightness").help == "accuracy when a constant is added to the images."
    assert list_diagnostics() == [*OWN, "absent", "brightness", "silent"]


def test_a_diagnostic_that_cannot_be_imported_is_named_and_breaks_no_other(installed):
    which = "diagnostic 'absent' of package freqrob-example-plugin cannot be imported: ModuleNotFoundError"
    with pytest.raises(ImportError, match=which):
        get_diagnostic("absent")
    silent = (
        "'silent' of package freqrob-example-plugin cannot be imported: example_plugin.model does not register 'silent'"
    )
    with pytest.warns(UserWarning, match=silent), pytest.warns(UserWarning, match=which):
        assert list(all_diagnostics()) == [*OWN, "brightness"]
    settings = {"brightness": {"offsets": [0.0]}, "jacobian": {"batch": 2}}
    with pytest.warns(UserWarning, match=which):
        found = diagnose(load_model("mean_colour"), IMAGES, torch.tensor([0, 1]), settings=settings)
    assert found.keys() >= {"jacobian", "brightness"}


def test_a_diagnostic_never_takes_the_place_of_freqrobs_own(installed):
    of_package = "of package freqrob-example-plugin"
    with pytest.warns(UserWarning, match=f"'hybrid' {of_package}: left out, freqrob has"):
        assert type(get_diagnostic("hybrid")).__module__ == "freqrob.diagnostics.hybrid" and list_diagnostics()
    with pytest.warns(UserWarning, match=f"'not-a-name' {of_package}: .*expected letters"):
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
        pytest.warns(UserWarning, match="^column worst_brightness of brightness .*KeyError"),
    ):
        page = write_report(["found"], "page", cards=False).read_text()
    assert 'id="figure-jacobian"' in page and "ln B<sub>low</sub>" in page


def test_a_figure_without_a_section_has_one_on_the_page(installed, monkeypatch):
    diagnose(load_model("mean_colour"), IMAGES, torch.tensor([0, 1]), only=["brightness"], out="found")
    plain = Picture("plain", "Nothing.", [Panel("", lambda axes: None)])
    monkeypatch.setattr(type(get_diagnostic("brightness")), "figures", lambda *_: [plain])
    page = write_report(["found"], "page", cards=False).read_text()
    assert '<section id="figures">' in page and 'id="figure-plain"' in page


def test_a_diagnostic_is_registered_once_and_has_what_it_needs(monkeypatch):
    for attribute in ("_own", "_homes"):
        monkeypatch.setattr(DIAGNOSTICS, attribute, dict(getattr(DIAGNOSTICS, attribute)))

    def measuring(model, data, labels, *, batch_size: int, cache: Path, cache_key: str, progress: object):
        raise NotImplementedError

    class Mine(Diagnostic):
        measure = staticmethod(measuring)
        measurement = Measurement

    assert register_diagnostic("mine")(Mine) is Mine and get_diagnostic("mine").name == "mine"
    register_diagnostic("mine")(Mine)  # as when a notebook's cell runs again
    with pytest.raises(ValueError, match="^name: diagnostic 'hybrid' is already registered"):
        register_diagnostic("hybrid")(Mine)
    with pytest.raises(ValueError, match="^name: got 'my-own', expected letters, digits and '_'"):
        register_diagnostic("my-own")
    with pytest.raises(TypeError, match="^mine: expected a subclass of Diagnostic"):
        register_diagnostic("mine")(type("Empty", (Diagnostic,), {}))
    with pytest.raises(TypeError, match="^mine: measure has no parameter 'batch_size'"):
        register_diagnostic("mine")(type("Other", (Mine,), {"measure": staticmethod(lambda *_: None)}))


def test_an_experiment_of_a_plugin_is_listed_measured_and_judged(installed, monkeypatch, tmp_path):
    monkeypatch.setattr("freqrob.reproduction.lab.load_dataset", lambda *_arguments, **_options: sample_images())
    assert list_experiments("roe2026:*") == ["roe2026:fig1"] and not imported()
    figure = get_experiment("roe2026:fig1")
    lab = Lab(SCALES["rn20"], model_dir=tmp_path / "models", cache=tmp_path / "cache")
    result = reproduce(figure, lab, tmp_path / "out")
    assert {row: (one.numbers["accuracy"].value, one.model) for row, one in result.rows.items()} == {
        "standard": (95.0, "standard_rn20"), "PGD-AT": (25.0, "pgd_at_rn20"),
    }  # fmt: skip
    assert [claim["verdict"] for claim in result.claims] == ["holds"]
    with pytest.warns(UserWarning, match=r"'nameless' .*left out, expected PAPER:TABLE"):
        list_experiments()
