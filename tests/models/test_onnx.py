"""onnx:FILE, a source without gradients."""

import copy
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.attacks import PGD, Clean, Square
from freqrob.attacks.projected_gradient import pgd
from freqrob.diagnostics import diagnose
from freqrob.evaluation import evaluate
from freqrob.models.front_ends import InputSize, Normalize
from freqrob.models.keys import model_hash, usable_cache
from freqrob.models.sources import open_model
from freqrob.models.sources.onnx import Session
from tests.support.command_line import error_of, run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(5)
KINDS = {"float": (onnx.TensorProto.FLOAT, np.float32), "half": (onnx.TensorProto.FLOAT16, np.float16)}


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval()


def write(path: Path, shape=("N", 3, 8, 8), kind="float", classes=10, outputs=1, **external) -> Path:
    """The network as an ONNX file, for images of this shape."""
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = KINDS.get(kind, (TensorProto.UINT8, np.uint8))
    layer = network(classes)[1]
    constants = {"weight": layer.weight.detach().T.numpy(), "bias": layer.bias.detach().numpy()}
    nodes = [helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Flatten", ["floats"], ["flat"])]
    nodes += [helper.make_node("Gemm", ["flat", "weight", "bias"], [f"logits{i}"]) for i in range(outputs)]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(f"logits{i}", TensorProto.FLOAT, (shape[0], classes)) for i in range(outputs)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path, **external)
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write(tmp_path / "net.onnx")


@torch.no_grad()
@pytest.mark.parametrize("shape", [("N", 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8), (7, 3, 8, 8), ("N", "C", "H", "W")])
def test_it_gives_the_network_s_logits_for_any_batch(tmp_path, shape):
    model = open_model(f"onnx:{write(tmp_path / 'net.onnx', shape)}")
    assert not model.training
    for count in (5, 2, 1):
        torch.testing.assert_close(model(IMAGES[:count]), network()(IMAGES[:count]), rtol=1e-4, atol=1e-5)
    assert model(IMAGES.double()).dtype == torch.float64


@torch.no_grad()
def test_images_are_resized_and_normalised(file):
    model = open_model(f"onnx:{file}?mean=(0.1,0.2,0.3)&std=(0.5,0.6,0.7)")
    size, normalize = model.front_ends
    assert isinstance(size, InputSize) and size.size == (8, 8) and isinstance(normalize, Normalize)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(model(images), network()(normalize(size(images))), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_are_converted_to_half_precision(tmp_path):
    model = open_model(f"onnx:{write(tmp_path / 'net.onnx', kind='half')}")
    torch.testing.assert_close(model(IMAGES), network()(IMAGES.half().float()), rtol=1e-4, atol=1e-5)


def test_black_box_attacks_and_hybrid_images_are_measured(file):
    model, labels = open_model(f"onnx:{file}"), network()(IMAGES).argmax(1)
    clean, square = evaluate(model, IMAGES, labels, attacks=[Clean(), Square(200, 0.5)], protocols=["natural"])
    assert clean.accuracy == 1 and square.accuracy < 1
    own = diagnose(network(), IMAGES, labels, only=["hybrid", "fourier_heatmap"])
    found = diagnose(model, IMAGES, labels, only=["hybrid", "fourier_heatmap"])
    assert torch.equal(found["hybrid"].low, own["hybrid"].low) and torch.equal(found["hybrid"].high, own["hybrid"].high)


def test_gradient_attacks_are_refused(file):
    model = open_model(f"onnx:{file}")
    message = "model: its logits have no gradient with respect to the images, because ONNX Runtime computes none"
    with pytest.raises(ValueError, match=f"{message}, which is needed by PGD-2; measure clean or square instead"):
        evaluate(model, IMAGES, LABELS, attacks=[Clean(), PGD(2)])
    with pytest.raises(ValueError, match=f"{message}, which is needed by jacobian"):
        diagnose(model, IMAGES, LABELS, only=["jacobian"])
    with pytest.raises(ValueError, match=message):
        pgd(model, IMAGES, LABELS, steps=1)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"classes": 100}, "has 100 classes, the data set has 10"),
        ({"shape": ("N", 1, 24, 8)}, "takes images with 1 channel, cifar10 has 3"),
        ({"shape": ("N", 8, 8, 3)}, r"expected images \(N, C, H, W\), got \(N, H, W, C\), images .*\['N', 8, 8, 3\]"),
        ({"shape": ("N", 192)}, r"expected a network of images .* got images tensor\(float\) \['N', 192\] to logits0"),
        ({"kind": "bytes"}, r"expected a network of images .* got images tensor\(uint8\)"),
        ({"outputs": 2}, "expected a network of images .* to logits0 .*, logits1"),
    ],
)
def test_other_networks_are_refused(tmp_path, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_model(f"onnx:{write(tmp_path / 'net.onnx', **options)}")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"not a network", "ONNX Runtime cannot open it: "),
        (b"", "ONNX Runtime cannot open it: "),
        (b"version https://git-lfs.github.com/spec/v1", "ONNX Runtime cannot open it: it is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "ONNX Runtime cannot open it: it is an HTML page"),
    ],
)
def test_other_files_are_refused(tmp_path, content, complaint):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=f"net.onnx: {complaint}"):
        open_model(f"onnx:{tmp_path / 'net.onnx'}")


def test_what_is_missing_is_named(file, monkeypatch):
    with pytest.raises(FileNotFoundError, match="model: onnx:absent.onnx: no such file"):
        open_model("onnx:absent.onnx")
    for arguments in ("?mean=(0.5,0.5,0.5)", "?width=3"):
        with pytest.raises(ValueError, match="takes the arguments mean and std only, both or none"):
            open_model(f"onnx:{file}{arguments}")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs onnxruntime, which is not installed: pip install onnxruntime"):
        open_model(f"onnx:{file}")


def test_a_network_that_fails_is_named(file):
    model = open_model(f"onnx:{file}").network
    with pytest.raises(ValueError, match="model: it fails on images .*ONNX Runtime fails on"):
        evaluate(model, torch.rand(5, 3, 9, 9), LABELS, attacks=[Clean()], protocols=["natural"])


def test_results_are_cached_by_the_file_s_content(file, tmp_path):
    model = open_model(f"onnx:{file}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert usable_cache(tmp_path, None, model) == tmp_path
    assert model_hash(open_model(f"onnx:{file}")) == model_hash(copy.deepcopy(model)) == model_hash(model)
    before = model_hash(model)
    assert model_hash(open_model(f"onnx:{write(file, kind='half')}")) != before


@torch.no_grad()
def test_weights_in_a_file_of_their_own_are_part_of_the_content(tmp_path):
    path = tmp_path / "net.onnx"
    write(path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = open_model(f"onnx:{path}")
    torch.testing.assert_close(model(IMAGES), network()(IMAGES), rtol=1e-4, atol=1e-5)
    before, pickled, content = model_hash(model), pickle.dumps(model), (tmp_path / "net.data").read_bytes()
    assert torch.equal(pickle.loads(pickled)(IMAGES), model(IMAGES))
    (tmp_path / "net.data").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert model_hash(open_model(f"onnx:{path}")) != before
    with pytest.raises(ValueError, match="net.onnx: it has changed since the model was opened; open it again"):
        pickle.loads(pickled)


def test_the_session_says_its_version(file):
    import onnxruntime

    assert Session(str(file)).version == onnxruntime.__version__


@pytest.mark.usefixtures("wide_terminal")
def test_it_is_evaluated_from_the_command_line(tmp_path, monkeypatch):
    from freqrob.data.datasets import ImageSet

    images = ImageSet((IMAGES * 255).byte(), network()(IMAGES).argmax(1), tuple("abcdefghij"))
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: images)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "net.onnx")
    asked = ["--protocol", "natural", "--cache", tmp_path / "cache"]
    shown = run("evaluate", "onnx:net.onnx", *asked, "--attack", "clean", "--attack", "square-5")
    assert shown.exit_code == 0 and "onnx:net.onnx" in shown.stdout and "nothing is cached" not in shown.stderr
    message = "because ONNX Runtime computes none, which is needed by PGD-20; measure clean or square instead"
    assert message in error_of("evaluate", "onnx:net.onnx", *asked, "--attack", "pgd-20")


@pytest.fixture
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
