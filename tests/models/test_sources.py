"""open_model and as_module: models from files, functions, timm, torch.hub and Foolbox."""

import hashlib
import importlib
import os
import re
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from traceback import format_exception
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from freqrob.data.datasets import DATASETS, DatasetInfo, register_dataset
from freqrob.data.preprocessing import Preprocessing
from freqrob.models import load_model, registry
from freqrob.models.cards import CheckpointError
from freqrob.models.front_ends import InputSize, Normalize
from freqrob.models.keys import model_hash, usable_cache
from freqrob.models.preprocessing import preprocessing_of
from freqrob.models.sources import (
    Target,
    as_module,
    list_sources,
    open_model,
    register_source,
    tensors_only,
)
from freqrob.models.sources.common import read_arguments
from freqrob.spectral.balance import BaSS

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NET = "from torch import nn\n\ndef {name}(num_classes=10, width=1):\n    return nn.Conv2d(3, num_classes * width, 1)\n"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(one, other) -> bool:
    with torch.no_grad():
        return torch.equal(one(IMAGES), other(IMAGES))


def test_a_name_and_a_file_of_weights_are_freqrobs(here):
    import freqrob.models.loading as loading

    weights = loading.checkpoint_path("standard_rn20", loading.shipped_folder())
    assert same(open_model("standard_rn20"), load_model("standard_rn20"))
    assert same(open_model(f"standard_rn20={weights}"), load_model("standard_rn20"))


def test_a_function_of_the_working_directory(here):
    (here / "own_nets.py").write_text(NET.format(name="net"))
    before = list(sys.path)
    model = open_model("own_nets:net", dataset="cifar100")
    assert not model.training and model.weight.shape[0] == 100
    assert open_model("own_nets:net?width=3").weight.shape[0] == 30
    assert sys.path == before
    del sys.modules["own_nets"]


@pytest.mark.parametrize(
    "value",
    ["0x", pytest.param("{[]:1}", id="TypeError"), pytest.param("-" * 5000 + "1", id="RecursionError in 3.11")],
)
def test_an_argument_that_is_not_a_literal_is_text(value):
    assert read_arguments(f"own_nets:net?width=3&kind={value}") == ("own_nets:net", {"width": 3, "kind": value})


@pytest.mark.parametrize(
    "code, cause, said",
    [
        ("def net(): return {}['x']", KeyError, "KeyError: 'x'"),
        ("def net(): raise RuntimeError('sizes:\\n\\tmissing')", RuntimeError, "RuntimeError: sizes: missing"),
        ("def net(): assert False", AssertionError, "AssertionError"),
        ("import torch; torch.absent", AttributeError, "AttributeError: module 'torch' has no attribute 'absent'"),
        ("def net(:", SyntaxError, r"SyntaxError: .* \(failing_nets.py, line 1\)"),
    ],
)
def test_code_that_fails_is_named_in_one_line(here, code, cause, said):
    (here / "failing_nets.py").write_text(code)
    sys.modules.pop("failing_nets", None)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=f"^model: failing_nets:net failed: {said}$") as raised:
        open_model("failing_nets:net")
    assert isinstance(raised.value.__cause__, cause)


@pytest.mark.parametrize(
    "spec, kind, complaint",
    [
        (":net", ValueError, "model: got ':net', expected a name"),
        ("net:", ValueError, "model: got 'net:', expected a name"),
        ("no_such_module:net", ImportError, "got 'no_such_module:net', expected a name.* Cannot import 'no_such_mod"),
        ("torch.nn:Identty", ValueError, "torch.nn has no 'Identty'. Nearest: Identity"),
        ("mine/nets.py:net", ImportError, "got 'mine/nets.py:net'; write mine.nets:net"),
        ("torch.nn:Identity=a.pt", ValueError, r"no 'Identity=a.pt'. Arguments are written Identity\?name=value."),
        ("mine.pt", FileNotFoundError, "put a name with its architecture before it: standard_rn18=mine.pt"),
        ("torch.nn:Identity?width", ValueError, "expected arguments as .name=value&name=value, got 'width'"),
        ("pgd_at_rn20=absent.pt", FileNotFoundError, "absent.pt: no such checkpoint"),
        ("pgd_at_rn21", FileNotFoundError, "no model 'pgd_at_rn21' .*Nearest: pgd_at_rn20"),
        ("hub:me:net", ValueError, "got 'hub:me:net', expected hub:OWNER/REPO:MODEL"),
    ],
)
def test_a_spec_that_names_nothing_says_what_came_and_what_was_expected(here, spec, kind, complaint):
    with pytest.raises(kind, match=f"(?s){complaint}"):
        open_model(spec)


def test_it_is_imported_without_any_of_the_packages():
    packages = ("timm", "foolbox", "robustbench", "autoattack", "pyautoattack", "eagerpy", "typer", "rich")
    code = f"import sys\nsys.modules.update(dict.fromkeys({packages}))\nfrom freqrob.models.sources import open_model\n"
    code += "try: open_model('timm:resnet18')\nexcept ImportError as error: print(error)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert run.returncode == 0, run.stderr
    assert run.stdout == "model: timm:resnet18 needs timm, which is not installed: pip install timm\n"


# Sources


def test_sources_are_listed_and_a_wrong_one_gets_the_nearest(here):
    assert {"hub", "onnx", "robustbench", "timm", "torchvision"} <= set(list_sources())
    assert list_sources("t*") == ["timm", "torchvision"]
    with pytest.raises(ImportError, match="Cannot import 'torchvison:.*Nearest: torchvision"):
        open_model("torchvison:resnet18")


@pytest.fixture
def sources(monkeypatch):
    """A registry that forgets what a test registers."""
    monkeypatch.setattr(registry.SOURCES, "_own", dict(registry.SOURCES._own))
    monkeypatch.setattr(registry.SOURCES, "_homes", dict(registry.SOURCES._homes))


def test_a_source_of_ones_own(here, sources):
    targets = []

    @register_source("mine")
    def mine(name, target):
        targets.append((name, target))
        return nn.Conv2d(3, target.num_classes, 1)

    assert "mine" in list_sources()
    assert open_model("mine:a:b?c=1", "there", "cifar100", "L2").weight.shape[0] == 100
    assert load_model("a", source="mine", threat_model="corruptions_3d", front_end="bass")(IMAGES).shape[1] == 10
    assert targets == [
        ("a:b?c=1", Target("cifar100", "L2", 100, Path("there"))),
        ("a", Target("cifar10", "corruptions", 10, Path("models"))),
    ]
    with pytest.raises(ValueError, match="'mine' is already registered by .*test_sources"):
        register_source("mine")(lambda name, target: None)
    assert register_source("mine")(mine) is mine, "as when a notebook's cell runs again"


def test_bass_does_not_come_before_a_model_of_a_source_that_has_it_inside(sources):
    register_source("mine")(lambda name, _: nn.DataParallel(nn.Sequential(BaSS(), nn.Conv2d(3, 10, 1))))
    assert load_model("a", source="mine")(IMAGES).shape[1] == 10
    with pytest.raises(ValueError, match="front_end: a already has BaSS as a front end"):
        load_model("a", source="mine", front_end="bass")


@pytest.mark.parametrize("name", ["", "two words", "a:b", "1st"])
def test_what_a_source_cannot_be_called(name):
    with pytest.raises(ValueError, match="name: got .*, expected letters.* a letter first"):
        register_source(name)


def test_what_a_source_cannot_be(sources):
    with pytest.raises(TypeError, match="source 'mine': got 3, expected a callable"):
        register_source("mine")(3)


# torch.hub


@pytest.fixture
def repository(here) -> str:
    folder = here / "me" / "zoo"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text("open('executed', 'w').close()\n" + NET.format(name="net"))
    return str(folder)


def test_code_of_torch_hub_is_not_run_unless_the_user_trusts_it(here, repository):
    with pytest.raises(ValueError, match=r"code of .*zoo on .*net\?width=2&trust_repo=True"):
        open_model(f"hub:{repository}:net?width=2")
    assert not (here / "executed").exists()


def test_a_trusted_repository_of_torch_hub(here, repository, capsys):
    model = open_model(f"hub:{repository}:net?width=2&trust_repo=True")
    assert model.weight.shape[0] == 20 and not model.training
    captured = capsys.readouterr()
    assert f"Running the code of {repository}" in captured.err
    assert captured.out == ""


def test_a_model_that_a_repository_of_torch_hub_does_not_have(here, repository):
    with pytest.raises(ValueError, match="zoo:nett.trust_repo=True .*Cannot find callable nett"):
        open_model(f"hub:{repository}:nett?trust_repo=True")


# timm


@pytest.fixture(scope="module")
def timm_name(tmp_path_factory) -> str:
    """A small network that timm knows, with pretrained weights in a file."""
    timm = pytest.importorskip("timm")
    name, module = "freqrob_test_net", ModuleType("freqrob_test_nets")
    path = tmp_path_factory.mktemp("timm") / "weights.pt"

    def create(pretrained=False, **options):
        structure = {"block": timm.models.resnet.BasicBlock, "layers": (1, 1, 1, 1)}
        return timm.models.build_model_with_cfg(timm.models.resnet.ResNet, name, pretrained, **structure, **options)

    settings = {"input_size": (3, 24, 24), "num_classes": 10, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    settings |= {"file": str(path), "first_conv": "conv1", "classifier": "fc"}
    module.default_cfgs = timm.models.generate_default_cfgs({name: settings})
    create.__name__, create.__module__ = name, module.__name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        timm.models.register_model(create)
        torch.manual_seed(5)
        torch.save(timm.create_model(name).state_dict(), path)
        yield name
    timm.models._registry._model_entrypoints.pop(name)


@torch.no_grad()
def test_a_model_of_timm_stands_behind_its_input_size_and_normalisation(timm_name):
    import timm

    model, network = open_model(f"timm:{timm_name}"), timm.create_model(timm_name, pretrained=True).eval()
    small = functional.interpolate(IMAGES, (24, 24), mode="bilinear", antialias=True)
    expected = network(Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(small))
    assert not model.training
    torch.testing.assert_close(model(IMAGES), expected)


def test_a_model_of_timm_with_other_classes_is_refused_before_a_download(timm_name):
    with pytest.raises(ValueError, match=f"timm:{timm_name} has 10 classes, the data set has 100"):
        open_model(f"timm:{timm_name}", dataset="cifar100")
    with pytest.raises(ValueError, match=f"timm has no '{timm_name}s'. Nearest: {timm_name}"):
        open_model(f"timm:{timm_name}s")


def test_a_model_of_timm_on_a_data_set_of_ones_own(timm_name, monkeypatch):
    monkeypatch.setattr(DATASETS, "_own", dict(DATASETS._own))
    monkeypatch.setattr(DATASETS, "_homes", dict(DATASETS._homes))
    register_dataset("mine", DatasetInfo(10, 28, (0.5,) * 3, (0.5,) * 3))(lambda *_: None)
    register_dataset("grey", DatasetInfo(10, 28, (0.5,), (0.5,)))(lambda *_: None)
    assert open_model(f"timm:{timm_name}", dataset="mine")(torch.rand(2, 3, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match=f"timm:{timm_name} takes images with 3 channels, grey has 1; open"):
        open_model(f"timm:{timm_name}", dataset="grey")


@torch.no_grad()
def test_a_model_of_timm_on_the_hub(timm_name, monkeypatch):
    import timm

    settings = vars(timm.models.get_pretrained_cfg(timm_name)) | {"std": (0.9, 0.9, 0.9)}
    asked = []

    def config(name, *_, **__):
        asked.append(name)
        return dict(settings), timm_name, {}

    for module in (timm.models, timm.models._factory):
        monkeypatch.setattr(module, "load_model_config_from_hf", config)
    model = open_model(f"timm:hf-hub:me/{timm_name}")
    assert set(asked) == {f"me/{timm_name}"} and model.front_ends[1].std.unique() == torch.tensor(0.9)
    network = timm.create_model(timm_name, pretrained=True).eval()
    torch.testing.assert_close(model(IMAGES), network(model.front_ends(IMAGES)))
    with pytest.raises(ValueError, match="timm has no 'hf-hub:'"):
        open_model("timm:hf-hub:")


# torchvision


@pytest.fixture
def torchvision_name(tmp_path, monkeypatch) -> str:
    """A small network that torchvision knows, with two sets of pretrained weights in files."""
    from torchvision import models
    from torchvision.models._api import BUILTIN_MODELS, register_model
    from torchvision.transforms._presets import ImageClassification

    def network(classes):
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 11 * 11, classes))

    def weights(seed, classes):
        torch.manual_seed(seed)
        path = tmp_path / f"weights{seed}.pth"
        torch.save(network(classes).state_dict(), path)
        preset = partial(ImageClassification, crop_size=24, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
        return models.Weights(path.as_uri(), preset, {"categories": ["a"] * classes})

    class Test_Net_Weights(models.WeightsEnum):
        FIRST = weights(1, 10)
        SECOND = weights(2, 10)
        HUNDRED = weights(3, 100)
        DEFAULT = SECOND

    def freqrob_test_net(*, weights: Test_Net_Weights | None = None):
        made = network(len(weights.meta["categories"]) if weights else 10)
        if weights:
            made.load_state_dict(weights.get_state_dict())
        return made

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    freqrob_test_net.__module__ = "torchvision.models.test_net"
    register_model()(freqrob_test_net)
    yield "freqrob_test_net"
    del BUILTIN_MODELS["freqrob_test_net"]


@torch.no_grad()
@pytest.mark.parametrize(
    "query, seed", [("", 2), ("?weights=FIRST", 1), ("?weights=Test_Net_Weights.FIRST", 1), ("?weights=DEFAULT", 2)]
)
def test_a_model_of_torchvision_stands_behind_its_input_size_and_normalisation(torchvision_name, query, seed, tmp_path):
    model = open_model(f"torchvision:{torchvision_name}{query}")
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 11 * 11, 10))
    network.load_state_dict(torch.load(tmp_path / f"weights{seed}.pth"))
    small = functional.interpolate(IMAGES, (24, 24), mode="bilinear", antialias=True)
    assert not model.training
    torch.testing.assert_close(model(IMAGES), network(Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(small)))


@pytest.mark.parametrize(
    "query, dataset, complaint",
    [
        ("", "cifar100", "torchvision:freqrob_test_net has 10 classes, the data set has 100"),
        ("?weights=THIRD", "cifar10", "has no weights 'THIRD', expected one of FIRST, SECOND, HUNDRED, DEFAULT"),
        ("?width=3", "cifar10", "takes only the argument weights, got width"),
        ("s", "cifar10", "torchvision has no 'freqrob_test_nets'. Nearest: freqrob_test_net"),
    ],
)
def test_what_torchvision_does_not_have(torchvision_name, query, dataset, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_model(f"torchvision:{torchvision_name}{query}", dataset=dataset)
    assert open_model("torchvision:freqrob_test_net?weights=HUNDRED", dataset="cifar100")(IMAGES).shape == (2, 100)


def test_torchvisions_own_models_are_for_imagenet():
    with pytest.raises(ValueError, match="torchvision:resnet18 has 1000 classes, the data set has 10"):
        open_model("torchvision:resnet18")


def test_a_download_of_torchvision_is_checked_against_its_hash(tmp_path, monkeypatch, capsys):
    from torchvision import models

    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(models.squeezenet1_1().state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value
    before = weights.url
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    try:
        for name in ("weights-00000000.pth", f"weights-{digest}.pth"):
            path = path.rename(tmp_path / name)
            object.__setattr__(weights, "url", path.as_uri())
            if "0000" in name:
                with pytest.raises(ValueError, match="torchvision:squeezenet1_1 cannot be loaded: invalid hash value"):
                    open_model("torchvision:squeezenet1_1", dataset="imagenet")
        model = open_model("torchvision:squeezenet1_1", dataset="imagenet")
    finally:
        object.__setattr__(weights, "url", before)
    assert model(IMAGES).shape == (2, 1000) and preprocessing_of(model) == Preprocessing(256, 224)
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(r"100(\.0)?%", captured.err), "torchvision's progress bar"


def test_images_of_the_right_size_are_not_resampled():
    assert InputSize((32, 32))(IMAGES) is IMAGES


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_no_pickle_runs_code_where_only_tensors_are_read(here, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"weights": Malicious()}, here / "weights.pt")
    with pytest.raises(CheckpointError, match="it calls .*open, which could run any code"), tensors_only():
        torch.load(here / "weights.pt", weights_only=False)
    assert not (here / "executed").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_way_to_run_a_pickle_is_not_told(here, timm_name):
    import timm

    path = timm.models.get_pretrained_cfg(timm_name).file
    tensors = Path(path).read_bytes()
    torch.save({"state_dict": {}, "args": Namespace()}, path)
    (here / "loading_nets.py").write_text(f"import torch\ndef net(): return torch.load({path!r}, weights_only=True)")
    complaint = "it contains argparse.Namespace, .*torch.serialization.add_safe_globals"
    try:
        for spec, failed in (
            (f"timm:{timm_name}", "cannot be loaded"),
            ("loading_nets:net", "failed: UnpicklingError"),
        ):
            with pytest.raises(ValueError, match=f"model: {spec} {failed}: {complaint}") as raised:
                open_model(spec)
            assert "weights_only" not in "".join(format_exception(raised.value)).partition("loading_nets.py")[0]
            assert "weights_only" not in str(raised.value)
    finally:
        Path(path).write_bytes(tensors)


# Models that Python holds


def test_a_module_comes_back_as_it_is():
    model = nn.Identity()
    assert as_module(model) is model
    with pytest.raises(TypeError, match="model: got function, expected an nn.Module"):
        as_module(lambda images: images)


@pytest.fixture
def foolbox_model():
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [2.0, 3.0, 4.0], "axis": -3}
    return foolbox.PyTorchModel(network, bounds=(-1, 3), preprocessing=preprocessing, device="cpu"), network


def test_a_foolbox_model_takes_pixels_in_0_1_and_passes_gradients(foolbox_model):
    model, network = as_module(foolbox_model[0]), foolbox_model[1]
    images = IMAGES.clone().requires_grad_()
    expected = network(Normalize((0.1, 0.2, 0.3), (2.0, 3.0, 4.0))(4 * images - 1))
    torch.testing.assert_close(model(images), expected)
    found, wanted = (torch.autograd.grad(logits.square().sum(), images)[0] for logits in (model(images), expected))
    torch.testing.assert_close(found, wanted)


def test_the_network_inside_a_foolbox_model_is_seen(foolbox_model):
    wrapped, network = foolbox_model
    for model in (wrapped, wrapped.transform_bounds((0, 255)), wrapped.transform_bounds((0, 255), wrapper=True)):
        assert list(as_module(model).parameters())[0] is network[1].weight


def test_of_foolbox_models_that_hide_their_network_nothing_is_cached(foolbox_model, tmp_path):
    class Hidden:
        bounds = (0, 1)

        def transform_bounds(self, bounds):
            return self

        def __call__(self, images):
            return images

    with pytest.warns(UserWarning, match="nothing is cached.*Hidden"):
        assert usable_cache(tmp_path, None, as_module(Hidden())) is None
    assert usable_cache(tmp_path, None, as_module(foolbox_model[0])) == tmp_path
    assert model_hash(as_module(foolbox_model[0])) == model_hash(as_module(foolbox_model[0]))


def test_foolbox_models_of_other_bounds_or_preprocessing_are_not_taken_for_one(foolbox_model):
    import foolbox

    one, network = foolbox_model
    others = [foolbox.PyTorchModel(network, bounds=(-1, 3), device="cpu"), foolbox.PyTorchModel(network, (0, 1), "cpu")]
    assert len({model_hash(as_module(model)) for model in (one, *others)}) == 3
