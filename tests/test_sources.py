"""open_model and as_module: models from files, functions, timm, torch.hub and Foolbox."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from freqrob.models import load_model
from freqrob.models.front_ends import Normalize
from freqrob.models.keys import model_hash, usable_cache
from freqrob.models.sources import InputSize, _arguments, as_module, open_model, tensors_only

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

    weights = loading.checkpoint_path("standard_rn20", loading._shipped())
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
    assert _arguments(f"own_nets:net?width=3&kind={value}") == ("own_nets:net", {"width": 3, "kind": value})


@pytest.mark.parametrize(
    ("code", "cause", "said"),
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
    ("spec", "kind", "complaint"),
    [
        (":net", ValueError, "model: got ':net', expected a name"),
        ("net:", ValueError, "model: got 'net:', expected a name"),
        ("no_such_module:net", ImportError, "got 'no_such_module:net', expected a name.* Cannot import 'no_such_mod"),
        ("torch.nn:Identty", ValueError, "torch.nn has no 'Identty'. Nearest: Identity"),
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


# torch.hub


@pytest.fixture
def repository(here) -> str:
    folder = here / "me" / "zoo"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text("open('executed', 'w').close()\n" + NET.format(name="net"))
    return str(folder)


def test_code_of_torch_hub_is_not_run_unless_the_user_trusts_it(here, repository):
    with pytest.raises(ValueError, match=r"would run the code of .*zoo on this machine.*net\?width=2&trust_repo=True"):
        open_model(f"hub:{repository}:net?width=2")
    assert not (here / "executed").exists()


def test_a_trusted_repository_of_torch_hub(here, repository, capsys):
    model = open_model(f"hub:{repository}:net?width=2&trust_repo=True")
    assert model.weight.shape[0] == 20 and not model.training
    captured = capsys.readouterr()
    assert f"Running the code of {repository}" in captured.err
    assert captured.out == ""


def test_a_model_that_a_repository_of_torch_hub_does_not_have(here, repository):
    with pytest.raises(ValueError, match="zoo:nett.trust_repo=True cannot be loaded: Cannot find callable nett"):
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


def test_images_of_the_right_size_are_not_resampled():
    assert InputSize((32, 32))(IMAGES) is IMAGES


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_no_pickle_runs_code_where_only_tensors_are_read(here, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"weights": Malicious()}, here / "weights.pt")
    with tensors_only(), pytest.raises(Exception, match="weights_only|Weights only"):
        torch.load(here / "weights.pt", weights_only=False)
    assert not (here / "executed").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Models that Python holds


def test_a_module_comes_back_as_it_is():
    model = nn.Identity()
    assert as_module(model) is model
    with pytest.raises(TypeError, match="model: got function, expected an nn.Module or a Foolbox model"):
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
