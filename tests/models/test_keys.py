"""What stands for models and data in the cache: what changes a hash, and of what nothing is cached."""

import importlib
import logging
import os
import subprocess
import sys
import warnings
from argparse import Namespace
from collections import defaultdict
from contextlib import contextmanager
from functools import lru_cache, partial, partialmethod
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import Compose, GaussianBlur, Normalize

from freqrob.attacks import FGSM, PGD, Clean, Transfer
from freqrob.evaluation import evaluate
from freqrob.models import keys
from freqrob.models.front_ends import with_front_ends
from freqrob.models.keys import model_hash, shared_cache, subject_key, usable_cache
from freqrob.models.registry import create_network
from freqrob.runtime.tensors import data_hash


class Holding(nn.Identity):
    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)


def closing_over(value):
    return lambda x: x + value


def chained(length):
    """Objects in objects."""
    return Namespace(next=chained(length - 1)) if length else None


def doubled(times, leaf):
    """A list that holds a list twice that holds a list twice …"""
    found = [leaf]
    for _ in range(times):
        found = [found, found]
    return found


def cached(tmp_path, *subjects, cache_key=None):
    """Whether anything is cached of them, and the warning if not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = usable_cache(tmp_path, cache_key, *subjects)
    assert (folder is None) == bool(caught) and (folder is None or folder == tmp_path)
    return str(caught[0].message) if caught else "cached"


# The hash


def test_a_model_is_known_by_classes_and_all_its_tensors():
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    same = nn.Linear(3, 2)
    same.load_state_dict(linear.state_dict())
    assert model_hash(linear) == model_hash(same)
    with torch.no_grad():
        same.bias[0] += 1e-7
    shift = nn.BatchNorm2d(1, affine=False)
    hashes = [model_hash(linear), model_hash(same), model_hash(shift), model_hash(nn.BatchNorm1d(1, affine=False))]
    shift.running_mean += 1
    hashes += [model_hash(shift), model_hash(nn.Sequential(shift)), model_hash(shift.double())]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            hashes += [model_hash(linear), model_hash(shift)]
    assert len(set(hashes)) == len(hashes) == 11


class Ordered(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.one, self.other = nn.ReLU(), nn.ReLU()
        self.order = [self.one, self.other][::first]


def test_a_model_is_known_by_the_order_in_which_it_holds_its_modules():
    assert model_hash(Ordered(1)) == model_hash(Ordered(1)) != model_hash(Ordered(-1))


def test_a_model_has_one_hash_in_all_processes():
    """Texts have another order in a set, and objects other addresses."""
    code = (
        "import logging, numpy as np, torch\nfrom torch import nn\nfrom freqrob.models.keys import model_hash\n"
        "class Net(nn.Module):\n    pass\n"
        "net = Net()\nnet.a, net.b, net.c = {'x', 'y', 'z', frozenset('uvw')}, np.random.default_rng(0), {Net, print}\n"
        "net.d, net.e = logging.getLogger('a'), lambda x: x in {'p', 'q', 'r'}\n"
        "print(model_hash(net))"
    )
    found = set()
    for seed in "12":  # these order all three sets differently
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
        found.add(run.stdout)
    assert len(found) == 1


def test_a_call_of_a_compiled_model_does_not_change_its_hash():
    model = nn.Sequential(nn.Linear(2, 2))
    model.compile(backend="eager")
    before = model_hash(model)
    model(torch.rand(1, 2))
    assert model_hash(model) == before


def test_a_model_that_holds_itself_is_known_too():
    found = []
    for size in (4, 4, 5):
        holding = Namespace(size=size)
        model = Holding(holding=holding)
        holding.model = holding.me = model
        found.append(model_hash(model))
    assert found[0] == found[1] != found[2]


PLAIN = [
    {}, {"levels": 4}, {"levels": 2}, {"other": 4}, {"levels": 4.0}, {"levels": "4"}, {"levels": [4]},
    {"levels": {"a": 4}}, {"levels": torch.tensor(4)}, {"levels": torch.tensor(2)}, {"levels": np.array([4])},
    {"levels": np.array([2])}, {"levels": np.array([[2]])}, {"levels": np.float32(2)}, {"levels": [torch.tensor(2)]},
    {"levels": None}, {"levels": True}, {"levels": torch.float16}, {"levels": torch.float32}, {"levels": {2, 3}},
    {"levels": {2, 4}}, {"levels": torch.Size([2])}, {"levels": range(2)}, {"levels": (4,)},
    {"activation": F.relu}, {"activation": F.gelu}, {"activation": torch.tanh}, {"activation": torch.sigmoid},
    {"made_by": partial(F.avg_pool2d, kernel_size=1)}, {"made_by": partial(F.avg_pool2d, kernel_size=5)},
    {"made_by": Compose([Normalize(0.5, 0.25)])}, {"made_by": Compose([Normalize(0.5, 0.5)])},
    {"made_by": Compose([Normalize(0.5, 0.25), GaussianBlur(3)])}, {"made_by": nn.LayerNorm},
    {"made_by": logging.getLogger("a.b")}, {"made_by": F}, {"made_by": Namespace(size=4).__eq__},
    {"made_by": Namespace(size=4)}, {"made_by": Namespace(size=5)},
    {"made_by": Namespace(net=nn.Softmax(1))}, {"made_by": Namespace(net=nn.Softmax(2))}, {"made_by": [[1], 2]},
    {"made_by": [[1, 2]]}, {"made_by": doubled(20, 1)}, {"made_by": doubled(20, 2)},
]  # fmt: skip
FOREIGN = [
    {"made_by": lambda x: x + 1}, {"made_by": closing_over(1)}, {"made_by": closing_over(Holding())},
    {"made_by": partial(chained, 1)}, {"made_by": [{"a": chained}]}, {"made_by": Holding}, {"made_by": {doubled}},
    {"made_by": Namespace(net=Holding())}, {"made_by": np.random.default_rng(0)}, {"made_by": sys.modules[__name__]},
    {"made_by": chained(300)}, {"made_by": torch.eye(2).to_sparse()}, {"made_by": torch.empty(2, device="meta")},
    {"made_by": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, {"made_by": torch.Generator()},
    {"made_by": np.array([Holding()])}, {"made_by": Holding().forward},
    {"made_by": Random(0)}, {"made_by": defaultdict(lambda: 1)}, {"made_by": lru_cache(chained)},
    {"made_by": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
]  # fmt: skip


def with_attributes(attributes):
    model = nn.Sequential(nn.ReLU())
    vars(model[0]).update(attributes)
    return model


def test_a_model_is_known_by_its_attributes(tmp_path):
    """Temperature, mean, number of levels: what changes the answer and is no parameter, of torch's classes too."""
    models = [with_attributes(one) for one in PLAIN]
    hashes = [model_hash(model) for model in models]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [model_hash(with_attributes(one)) for one in PLAIN]
    assert {cached(tmp_path, model) for model in models} == {"cached"}


@pytest.mark.parametrize("attributes", FOREIGN, ids=lambda one: type(one["made_by"]).__name__)
@pytest.mark.filterwarnings("ignore:.*prototype")
def test_of_a_model_with_attributes_that_no_hash_determines_nothing_is_cached(tmp_path, attributes):
    model = with_attributes(attributes)
    assert "(Sequential.0.made_by" in cached(tmp_path, model)
    assert cached(tmp_path, model, cache_key="a") == "cached" and model_hash(model) == model_hash(model)


def test_equal_tuples_are_one_whether_or_not_they_are_the_same_object():
    one, other = (1, 2), tuple(range(1, 3))
    assert one is not other and model_hash(Holding(a=one, b=one)) == model_hash(Holding(a=one, b=other))


def test_data_are_known_by_values_types_and_order():
    images, labels = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([0, 1])
    turned = images.flip(3).contiguous()
    found = [data_hash(images, labels), data_hash(images.flip(0), labels), data_hash(images, labels.flip(0))]
    found += [data_hash(images.float(), labels), data_hash(images.view(2, 3, 1, 4), labels)]
    assert len(set(found)) == 5
    assert data_hash(turned.flip(3), labels) == found[0], "also where the memory is not contiguous"


# Which code is known


@pytest.mark.parametrize(
    "build",
    [
        lambda: create_network("rn20"),
        lambda: with_front_ends(create_network("wrn28"), ["bass", {"name": "blur", "sigma": 1.0}]),
        resnet18,
        lambda: nn.TransformerEncoderLayer(8, 2),
        lambda: nn.DataParallel(nn.Linear(2, 2)),
    ],
)
def test_networks_of_installed_packages_are_cached(tmp_path, build):
    torch.manual_seed(0)
    model = build()
    assert cached(tmp_path, model) == "cached"
    torch.manual_seed(0)
    assert subject_key(model) == subject_key(build())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_networks_of_timm_are_cached(tmp_path, name):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name)
    assert cached(tmp_path, model) == "cached"
    assert any(release.startswith(f"timm {timm.__version__} ") for release in subject_key(model)["packages"])


def hooked(register):
    def change(model):
        getattr(model[1], register)(lambda *arguments: None)

    return change


def patched(model):
    forward = model[1].forward
    model[1].forward = lambda images: 2 * forward(images)


def of_my_own(model):
    model[1].__class__ = type("Linear", (nn.Linear,), {"forward": lambda self, images: images})


def without_a_place(model):
    model[1] = Holding()


@pytest.mark.parametrize(
    "change, reason",
    [
        (hooked("register_forward_hook"), "Sequential.1 has hooks"),
        (hooked("register_forward_pre_hook"), "Sequential.1 has hooks"),
        (hooked("register_full_backward_hook"), "Sequential.1 has hooks"),
        (patched, "Sequential.1.forward is tests.models.test_keys.patched.<locals>.<lambda>"),
        (of_my_own, "Sequential.1 is a tests.models.test_keys.Linear"),
        (without_a_place, "Sequential.1 is a tests.models.test_keys.Holding"),
        (lambda model: model.compile(backend="eager"), "Sequential is compiled"),
    ],
)
def test_of_a_changed_network_nothing_is_cached(tmp_path, change, reason):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    assert cached(tmp_path, model) == "cached"
    change(model)
    said = cached(tmp_path, model)
    assert said.startswith("cache: nothing is cached") and f"({reason})" in said
    assert said.endswith("cache_key=, or --cache-key")
    assert cached(tmp_path, model, cache_key="first") == "cached"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [torch.jit.script, lambda model: torch.jit.trace(model, torch.rand(1, 3)), torch.fx.symbolic_trace, torch.compile],
)
def test_of_scripted_traced_and_compiled_networks_nothing_is_cached(tmp_path, make):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    assert "nothing is cached" in cached(tmp_path, make(model))


def test_of_networks_under_hooks_for_all_modules_nothing_is_cached(tmp_path):
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert "there are hooks for all modules" in cached(tmp_path, nn.ReLU())
    assert cached(tmp_path, nn.ReLU()) == "cached"


def test_of_classes_of_torch_that_were_changed_nothing_is_cached(tmp_path, monkeypatch):
    before = model_hash(nn.ReLU6())
    for forward in (lambda self, images: images, partialmethod(lambda self, images: images), Holding()):
        with monkeypatch.context() as patch:
            patch.setattr(nn.ReLU6, "forward", forward)
            assert "(torch.nn.modules.activation.ReLU6.forward was replaced)" in cached(tmp_path, nn.ReLU6())
    assert model_hash(nn.ReLU6()) == before
    monkeypatch.setattr(nn.ReLU6, "limit", 5, raising=False)
    assert cached(tmp_path, nn.ReLU6()) == "cached" and model_hash(nn.ReLU6()) != before


@contextmanager
def another(package, folder):
    """A module of this name with a network, imported from a folder in place of the installed one."""
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    for name in loaded:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    keys._release.cache_clear()
    try:
        yield importlib.import_module(package)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[package]
        sys.modules.update(loaded)
        keys._release.cache_clear()


NET = "from torch import nn\n\n\nclass Net(nn.Module):\n    pass\n"


def test_an_editable_package_of_a_known_name_is_not_known(tmp_path):
    """Such as a checkout of timm, which changes while its version does not."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(NET)
    with another("timm", tmp_path) as module:
        assert "(Net is a timm.Net)" in cached(tmp_path, module.Net())


def test_a_module_that_is_named_as_one_of_python_s_own_is_not_known(tmp_path):
    (tmp_path / "statistics.py").write_text(NET)
    with another("statistics", tmp_path) as module:
        assert "(Net is a statistics.Net)" in cached(tmp_path, module.Net())


def test_the_key_names_the_code_that_measures(monkeypatch, tmp_path):
    """freqrob's sources too: a checkout changes while its version does not."""
    key = subject_key(resnet18())
    assert key["code"] == keys.code_version() and keys.code_version().startswith("0.")
    assert [release.partition(" ")[0] for release in key["packages"]] == ["python", "torch", "torchvision"]
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(keys, "_folder", lambda _: tmp_path)
    versions = []
    for content in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "module.py").write_text(content)
        keys.code_version.cache_clear()
        versions.append(keys.code_version())
    keys.code_version.cache_clear()
    assert versions[0] == versions[2] != versions[1]


# Attacks


class Own(FGSM):
    pass


def test_of_attacks_of_ones_own_nothing_is_cached(tmp_path):
    model = nn.Linear(2, 2)
    assert cached(tmp_path, model, Clean(), PGD(), Transfer(nn.ReLU())) == "cached"
    assert "(Own is a tests.models.test_keys.Own)" in cached(tmp_path, model, Clean(), Own())
    assert "(Transfer.source is a tests.models.test_keys.Holding)" in cached(tmp_path, model, Transfer(Holding()))


# What users see


HELPERS = "def prepare(images):\n    return images{change}\n"
NETS = """
import helpers
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)
        self.linear.weight.data.copy_(self.linear.weight.new_tensor([[0.1] * 12, [-0.1] * 12]))
        self.linear.bias.data.zero_()

    def forward(self, images):
        return self.linear(helpers.prepare(images).flatten(1))

def net():
    return Net().eval()
"""


def evaluated_anew(folder, change, **options):
    """The accuracy that a new process finds after ``helpers.py`` was written, and what it warns of."""
    (folder / "helpers.py").write_text(HELPERS.format(change=change))
    (folder / "nets.py").write_text(NETS)
    code = (
        "import sys, warnings, torch, nets\nfrom freqrob.attacks import Clean\n"
        "from freqrob.evaluation import evaluate\n"
        "warnings.simplefilter('always')\n"
        "images = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(0))\n"
        "labels = (torch.arange(20) == 19).long()\n"
        "found, = evaluate(nets.net(), images, labels, protocols=['natural'], attacks=[Clean()], cache='cache', "
        f"**{options})\nprint(found.accuracy, found.from_cache)"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment, check=True
    )
    return run.stdout.split(), run.stderr


def test_an_edited_helper_function_gives_its_own_numbers(tmp_path):
    for change, accuracy in (("", "0.95"), (" - 1", "0.05")):
        found, said = evaluated_anew(tmp_path, change)
        assert found == [accuracy, "False"] and "cache: nothing is cached" in said and "(Net is a nets.Net)" in said
    assert not (tmp_path / "cache").exists()


def test_with_a_cache_key_the_caller_says_when_the_code_has_changed(tmp_path):
    assert evaluated_anew(tmp_path, "", cache_key="1") == (["0.95", "False"], "")
    assert evaluated_anew(tmp_path, "", cache_key="1") == (["0.95", "True"], "")
    assert evaluated_anew(tmp_path, " - 1", cache_key="2") == (["0.05", "False"], "")


def test_weights_are_seen_with_a_cache_key_too(tmp_path):
    images, labels = torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)
    asked = {"protocols": ["natural"], "attacks": [Clean()], "cache": tmp_path, "cache_key": "1"}
    from_cache = []
    for bias in (1.0, 1.0, -1.0):
        linear = nn.Linear(12, 2)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.copy_(torch.tensor([bias, 0]))
        (result,) = evaluate(nn.Sequential(Holding(), nn.Flatten(), linear), images, labels, **asked)
        from_cache.append((result.from_cache, result.accuracy))
    assert from_cache == [(False, 1.0), (True, 1.0), (False, 0.0)]


@pytest.mark.parametrize("cache_key", ["", 3, b"a"])
def test_a_cache_key_is_a_string(tmp_path, cache_key):
    with pytest.raises(ValueError, match="cache_key: expected a non-empty string, got"):
        usable_cache(tmp_path, cache_key, nn.ReLU())


def test_processes_that_share_results_need_a_cache_and_a_key(tmp_path):
    assert shared_cache(tmp_path, None, 2, nn.ReLU()) == tmp_path and shared_cache(None, None, 1, Holding()) is None
    with pytest.raises(ValueError, match="^cache: .*all processes share, got None"):
        shared_cache(None, None, 2, nn.ReLU())
    with pytest.raises(ValueError, match="^cache_key: .*expected a string"), pytest.warns(match="nothing is cached"):
        shared_cache(tmp_path, None, 2, Holding())
