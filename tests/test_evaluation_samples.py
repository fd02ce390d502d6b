"""Per-sample results: whole files, shared by processes, and what becomes of damaged ones."""

import errno
import importlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from argparse import Namespace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torchvision.transforms import Compose, GaussianBlur, Normalize

from freqrob import files
from freqrob.evaluation.samples import Samples, data_hash, model_hash

KEY = {"model": "abc", "attack": {"name": "PGD-20", "eps": 8 / 255}}


def samples(folder, count=6, **changes):
    return Samples(folder, {**KEY, **changes}, count, prefix="PGD-20 at ε")


def test_what_was_put_is_there_the_next_time(tmp_path):
    first = samples(tmp_path)
    first.put(slice(1, 3), size=torch.tensor([0.5, 0.25]), raw=torch.ones(2, 3, 4, 4))
    first.put(torch.tensor([5, 0]), size=torch.tensor([5.0, 7.0]), raw=torch.zeros(2, 3, 4, 4))
    again = samples(tmp_path)
    assert again.remaining().tolist() == [3, 4] == first.remaining().tolist()
    assert again["size"].tolist() == [7, 0.5, 0.25, 0, 0, 5]
    assert again["raw"].shape == (6, 3, 4, 4) and again["raw"].sum() == 2 * 48


def test_a_file_is_named_by_its_key_and_says_it(tmp_path):
    one, other = samples(tmp_path), samples(tmp_path, model="abd")
    assert one.path != other.path and one.path.name.startswith("PGD-20-at-")
    one.put(slice(None), correct=torch.ones(6, dtype=torch.bool))
    with safe_open(one.path, "pt") as file:
        assert json.loads(file.metadata()["key"]) == KEY
    assert len(other.remaining()) == len(samples(tmp_path, model="abd").remaining()) == 6


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = samples(None)
    kept.put(torch.arange(4), correct=torch.ones(4, dtype=torch.bool))
    assert kept.remaining().tolist() == [4, 5] and kept["correct"].sum() == 4
    assert not list(tmp_path.iterdir())


def test_two_readers_see_each_others_samples(tmp_path):
    one, two = samples(tmp_path), samples(tmp_path)
    one.put(slice(0, 2), value=torch.tensor([1, 2]))
    two.put(slice(2, 4), value=torch.tensor([3, 4]))
    assert two["value"].tolist() == samples(tmp_path)["value"].tolist() == [1, 2, 3, 4, 0, 0]


def _put_own(folder, numbers, start):
    kept = samples(folder, 40)
    start.wait()
    for number in numbers:
        kept.put(slice(number, number + 1), value=torch.tensor([number]))


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    start = spawn.Barrier(2)
    writers = [spawn.Process(target=_put_own, args=(tmp_path, range(rank, 40, 2), start)) for rank in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert samples(tmp_path, 40)["value"].tolist() == list(range(40))


@pytest.mark.parametrize(
    "content", ["truncated", "foreign", b"", b"not at all", {"done": torch.zeros(3, dtype=torch.bool)}]
)
def test_an_unusable_file_is_set_aside_and_measured_anew(tmp_path, content):
    kept = samples(tmp_path)
    kept.put(slice(0, 4), value=torch.arange(4))
    if content == "truncated":
        content = kept.path.read_bytes()[:-9]
    elif content == "foreign":
        other = samples(tmp_path, model="other")
        other.put(slice(0, 4), value=torch.arange(4))
        content = other.path.read_bytes()
    elif isinstance(content, dict):
        import safetensors.torch

        content = safetensors.torch.save(content, {"key": kept.key})
    kept.path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{kept.path.name}: not usable"):
        again = samples(tmp_path)
    assert len(again.remaining()) == 6
    assert kept.path.with_suffix(".damaged").read_bytes() == content
    again.put(slice(0, 1), value=torch.tensor([3]))
    assert samples(tmp_path)["value"][0] == 3


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    kept = samples(tmp_path)
    kept.put(slice(0, 2), value=torch.arange(2))

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=f"could not write .*{kept.path.name}: No space left.*intact") as raised:
        kept.put(slice(2, 4), value=torch.arange(2))
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert samples(tmp_path).remaining().tolist() == [2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    kept = samples(tmp_path)
    left = tmp_path / f".{kept.path.name}.123.abc.tmp"
    left.write_bytes(b"half")
    samples(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "values: got"),
        ({"other": torch.zeros(2)}, "values: got other, expected value"),
        ({"done": torch.zeros(2)}, "values"),
        ({"value": torch.zeros(2, dtype=torch.int64)}, "value: got torch.int64.*expected torch.float32"),
        ({"value": torch.zeros(3)}, r"value: got .*\(3,\), expected .*\(2,\)"),
        ({"value": torch.zeros(2, 2)}, "value"),
    ],
)
def test_values_keep_their_names_types_and_shapes(values, message):
    kept = samples(None)
    kept.put(slice(0, 2), value=torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        kept.put(slice(2, 4), **values)
    assert kept.remaining().tolist() == [2, 3, 4, 5]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        samples(tmp_path / "file" / "cache")


class Shift(nn.Module):
    def __init__(self, by, activation=torch.relu):
        super().__init__()
        self.activation = activation
        self.register_buffer("by", torch.tensor(by), persistent=False)

    def extra_repr(self):
        return f"{self.activation}"


class Other(Shift):
    pass


Other.__name__ = "Shift"  # prints the same


def test_a_model_is_known_by_classes_and_all_its_tensors():
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    same = nn.Linear(3, 2)
    same.load_state_dict(linear.state_dict())
    assert model_hash(linear) == model_hash(same)
    with torch.no_grad():
        same.bias[0] += 1e-7
    hashes = [model_hash(linear), model_hash(same), model_hash(Shift(1.0)), model_hash(Shift(2.0))]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            hashes += [model_hash(linear), model_hash(Shift(1.0))]
    hashes += [model_hash(Other(1.0)), model_hash(Shift(1)), model_hash(nn.Sequential(Shift(1.0)))]
    assert len(set(hashes)) == len(hashes) == 11


def test_a_model_is_known_by_its_code(tmp_path, monkeypatch):
    """A forward pass that was changed is another model, whatever its weights."""
    monkeypatch.syspath_prepend(tmp_path)
    hashes = []
    for number, forward in enumerate(("x", "x", "x.round()")):
        code = f"from torch import nn\nclass Own(nn.Module):\n    def forward(self, x):\n        return {forward}\n"
        (tmp_path / f"own{number}.py").write_text(code)
        own = importlib.import_module(f"own{number}").Own
        own.__module__ = "own"
        sys.modules["own"] = sys.modules[f"own{number}"]
        hashes.append(model_hash(nn.Sequential(own())))
    del sys.modules["own"]
    assert hashes[0] == hashes[1] != hashes[2]


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


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


class Ordered(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.one, self.other = nn.ReLU(), nn.ReLU()
        self.order = [self.one, self.other][::first]


def test_a_model_is_known_by_the_order_in_which_it_holds_its_modules():
    assert model_hash(Ordered(1)) == model_hash(Ordered(1)) != model_hash(Ordered(-1))


def test_a_model_has_one_hash_in_all_processes(tmp_path):
    """Texts have another order in a set, and objects other addresses."""
    code = (
        "import logging, numpy as np, torch\nfrom torch import nn\nfrom freqrob.evaluation.samples import model_hash\n"
        "class Net(nn.Module):\n    pass\n"
        "net = Net()\nnet.a, net.b, net.c = {'x', 'y', 'z', frozenset('uvw')}, np.random.default_rng(0), {Net, print}\n"
        "net.d, net.e = logging.getLogger('a'), lambda x: x in {'p', 'q', 'r'}\n"
        "print(model_hash(net))"
    )
    found = set()
    for seed in "123":
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


def test_a_model_is_known_by_its_attributes():
    """Temperature, mean, number of levels: what changes the answer and is no parameter."""
    held = [
        {}, {"levels": 4}, {"levels": 2}, {"other": 4}, {"levels": 4.0}, {"levels": "4"}, {"levels": [4]},
        {"levels": {"a": 4}}, {"levels": torch.tensor(4)}, {"levels": torch.tensor(2)}, {"levels": np.array([4])},
        {"levels": np.array([2])}, {"levels": [torch.tensor(2)]}, {"levels": None}, {"levels": True},
        {"levels": torch.float16}, {"levels": torch.float32}, {"levels": {2, 3}}, {"levels": {2, 4}},
        {"made_by": lambda x: x + 1}, {"made_by": lambda x: x + 2}, {"made_by": lambda x, y=3: x + 1},
        {"made_by": closing_over(1)}, {"made_by": closing_over(2)}, {"made_by": closing_over(Shift(2.0))},
        {"made_by": partial(F.avg_pool2d, kernel_size=1)}, {"made_by": partial(F.avg_pool2d, kernel_size=5)},
        {"made_by": Compose([Normalize(0.5, 0.25)])}, {"made_by": Compose([Normalize(0.5, 0.5)])},
        {"made_by": Compose([Normalize(0.5, 0.25), GaussianBlur(3)])}, {"made_by": Namespace(size=4).__repr__},
        {"made_by": Namespace(size=4)}, {"made_by": Namespace(size=5)}, {"made_by": Namespace(net=Shift(1.0))},
        {"made_by": Namespace(net=Shift(2.0))}, {"made_by": [[1], 2]}, {"made_by": [[1, 2]]},
        {"made_by": Slotted(1)}, {"made_by": Slotted(2)}, {"made_by": torch.eye(2).to_sparse()},
        {"made_by": 2 * torch.eye(2).to_sparse()}, {"made_by": {closing_over(1)}}, {"made_by": {closing_over(2)}},
        {"made_by": np.random.default_rng(0)}, {"made_by": logging.getLogger("a.b")}, {"made_by": chained(300)},
        {"made_by": doubled(20, 1)}, {"made_by": doubled(20, 2)},
    ]  # fmt: skip
    hashes = [model_hash(nn.Sequential(Holding(**one))) for one in held]
    assert len(set(hashes)) == len(held)
    assert hashes == [model_hash(nn.Sequential(Holding(**one))) for one in held]


def test_a_model_is_known_by_the_code_it_inherits_and_of_its_graph(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    inherited, traced = [], []
    for number, forward in enumerate(("x", "x", "x.round()")):
        name = f"base{number}"
        code = f"from torch import nn\nclass Base(nn.Module):\n    def forward(self, x):\n        return {forward}\n"
        (tmp_path / f"{name}.py").write_text(code)
        base = importlib.import_module(name).Base
        own = type("Own", (base,), {"__module__": "own"})
        inherited.append(model_hash(own()))
        traced.append(model_hash(torch.fx.symbolic_trace(base())))
    assert inherited[0] == inherited[1] != inherited[2]
    assert traced[0] == traced[1] != traced[2]


def test_a_model_s_hash_ignores_addresses():
    class Named:
        pass

    one, two = Shift(1.0, Named()), Shift(1.0, Named())
    assert repr(one) != repr(two) and model_hash(one) == model_hash(two)


def test_data_are_known_by_values_types_and_order():
    images, labels = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([0, 1])
    turned = images.flip(3).contiguous()
    found = [data_hash(images, labels), data_hash(images.flip(0), labels), data_hash(images, labels.flip(0))]
    found += [data_hash(images.float(), labels), data_hash(images.view(2, 3, 1, 4), labels)]
    assert len(set(found)) == 5
    assert data_hash(turned.flip(3), labels) == found[0], "also where the memory is not contiguous"
