"""Models and tensors that cannot be measured: one error that names the argument and says what to do."""

import re
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from freqrob import cli
from freqrob.attacks import FGSM, PGD, AutoAttack, Clean, Square, fgsm, input_gradient, pgd
from freqrob.attacks.band import band_pgd
from freqrob.data.corruption_arrays import CorruptionArrays
from freqrob.data.datasets import ImageSet
from freqrob.diagnostics import diagnose, expected_seconds
from freqrob.diagnostics.registry import all_diagnostics
from freqrob.evaluation import evaluate
from freqrob.evaluation.corruptions import evaluate_corruptions

SIZE, CLASSES = 8, 3
DIAGNOSTICS = all_diagnostics()
NEEDS_AUTOATTACK = pytest.mark.skipif(find_spec("pyautoattack") is None, reason="pyautoattack is not installed")
NEEDS_FOOLBOX = pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
NEEDS_ROBUSTBENCH = pytest.mark.skipif(find_spec("robustbench") is None, reason="robustbench is not installed")


def network(classes=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, classes)).eval()


@pytest.fixture
def batch():
    images = torch.rand(12, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(12) % CLASSES


class Wrapped(nn.Module):
    """A network whose ``forward`` is something else."""

    def __init__(self, forward):
        super().__init__()
        self.network, self.change = network(), forward

    def forward(self, images):
        return self.change(self.network, images)


def without_gradient(net, images):
    with torch.no_grad():
        return net(images)


def quantised():
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization"):
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)


BLIND = {
    "no_grad": lambda: Wrapped(without_gradient),
    "detached images": lambda: Wrapped(lambda net, images: net(images.detach())),
    "detached logits": lambda: Wrapped(lambda net, images: net(images).detach()),
    "rounded": lambda: Wrapped(lambda net, images: net((images * 8).int() / 8)),
    "quantised": quantised,
}


@pytest.mark.parametrize("name", BLIND)
class TestWithoutGradient:
    """Models that pass no gradient to the images."""

    message = "model: its logits have no gradient with respect to the images .*torch.no_grad.*quantised"

    @pytest.mark.parametrize("attack", [FGSM(), PGD(2), pytest.param(AutoAttack(), marks=NEEDS_AUTOATTACK)])
    def test_are_refused_by_evaluations(self, name, batch, attack):
        message = f"{self.message}.*which is needed by {attack.name}; measure clean or square instead"
        with pytest.raises(ValueError, match=message):
            evaluate(BLIND[name](), *batch, attacks=[Clean(), attack])

    def test_are_measured_by_attacks_that_need_none(self, name, batch):
        attacks = [Clean(), Square(2)] if find_spec("pyautoattack") else [Clean()]
        assert len(evaluate(BLIND[name](), *batch, protocols=["natural"], attacks=attacks)) == len(attacks)

    @pytest.mark.parametrize("call", [diagnose, expected_seconds])
    def test_are_refused_by_diagnostics(self, name, batch, call):
        message = f"{self.message}.*needed by jacobian, sensitivity; measure hybrid, fourier_heatmap, .* instead"
        with pytest.raises(ValueError, match=message):
            call(BLIND[name](), *batch, only=["jacobian", "sensitivity", "hybrid"])

    @pytest.mark.parametrize("call", [pgd, fgsm, input_gradient, partial(band_pgd, rings=range(2))])
    def test_are_refused_by_functions(self, name, batch, call):
        with pytest.raises(ValueError, match=self.message):
            call(BLIND[name](), *batch)

    @NEEDS_AUTOATTACK
    @pytest.mark.parametrize("component", ["apgd-ce", "apgd-dlr", "fab"])
    def test_are_refused_by_each_attack_of_autoattack(self, name, batch, component):
        with pytest.raises(ValueError, match=f"{self.message}.*by {component}; measure square instead"):
            AutoAttack("custom", (component,))(BLIND[name](), *batch)

    @NEEDS_FOOLBOX
    @pytest.mark.parametrize("attack", ["LinfAutoAttack", "LinfBandPGD", "L2BandMinimization", "L2BrendelBethgeAttack"])
    def test_are_refused_by_attacks_for_foolbox(self, name, batch, attack):
        import foolbox
        import freqrob_foolbox

        if attack == "LinfAutoAttack" and not find_spec("pyautoattack"):
            pytest.skip("pyautoattack is not installed")
        model, (images, _) = foolbox.PyTorchModel(BLIND[name](), bounds=(0, 1), device="cpu"), batch
        labels = model(images).argmax(1)
        options = {"rings": range(4)} if "Band" in attack else {}
        with pytest.raises(ValueError, match=self.message):
            getattr(freqrob_foolbox, attack)(**options)(model, images, labels, epsilons=[0.1])

    @NEEDS_ROBUSTBENCH
    @NEEDS_AUTOATTACK
    def test_are_refused_by_robustbench_s_autoattack(self, name, batch):
        from freqrob_robustbench.autoattack import AutoAttack as Adapter

        adversary = Adapter(BLIND[name](), verbose=False, version="custom", attacks_to_run=["apgd-ce", "square"])
        with pytest.raises(ValueError, match=f"{self.message}.*needed by apgd-ce; measure square instead"):
            adversary.run_standard_evaluation(*batch)


def as_numpy(net, images):
    return net(torch.from_numpy(images.numpy()))


FAILING = {
    "NumPy": (lambda: Wrapped(as_numpy), r"with gradients it fails on images \(12, 3, 8, 8\).*Can't call numpy"),
    "float64": (lambda: network().double(), r"fails on images .* \(its parameters are torch.float64: use model.float"),
    "float16": (lambda: network().half(), "its parameters are torch.float16: use model.float"),
    "float8": (lambda: network().to(torch.float8_e4m3fn), "its parameters are torch.float8_e4m3fn: use model.float"),
    "meta": (lambda: network().to("meta"), "without values, on the meta device; load the model's weights first"),
    "sparse": (lambda: Wrapped(lambda net, x: net(x).to_sparse()), "logits .N, K., got a tensor of layout .*coo"),
    "nested": (
        lambda: Wrapped(lambda net, x: torch.nested.as_nested_tensor(list(net(x)))), "logits .N, K., got a nested tens"
    ),
    "float8 logits": (
        lambda: Wrapped(lambda net, x: net(x).to(torch.float8_e4m3fn)), r"logits .N, K., got \(12, 3\) torch.float8"
    ),
    "classes": (lambda: network(2), "expected at least 3 classes, because labels go up to 2, got 2"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", FAILING)
def test_models_that_fail_are_refused(name, batch):
    make, message = FAILING[name]
    for call in (evaluate, partial(evaluate, attacks=[Clean()]), diagnose, expected_seconds):
        if name == "NumPy" and call is not evaluate:
            continue
        with pytest.raises(ValueError, match=f"^model: .*{message}"):
            call(make(), *batch)


def test_the_largest_label_is_named_as_it_is(batch):
    with pytest.raises(ValueError, match="expected at least 9223372036854775808 classes"):
        evaluate(network(), batch[0], torch.full_like(batch[1], 2**63 - 1))


class InPlace(nn.Module):
    """Normalises its images in place, except where that would be an error."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, images):
        if images.requires_grad:
            return self.network(images)
        return self.network(images.sub_(0.5).div_(0.25))


def test_a_scripted_model_that_works_in_place_is_refused(batch):
    """Its first pass would spoil the images for the second, which then looked like noise, and for the attacks."""
    before = batch[0].clone()
    with pytest.raises(ValueError, match="model: it changes its images in place"):
        evaluate(torch.jit.script(InPlace()), *batch, attacks=[Clean()], protocols=["natural"])
    assert torch.equal(batch[0], before)


@pytest.mark.parametrize("attack", [Clean(), PGD(2), pytest.param(Square(5), marks=NEEDS_AUTOATTACK)], ids=repr)
def test_a_model_that_works_in_place_spoils_no_attack(batch, attack):
    """It is no more robust than evaluate says, which gives it copies; or it is refused."""
    (expected,) = evaluate(InPlace(), *batch, attacks=[attack], protocols=["natural"])
    try:
        found = attack.robust_mask(InPlace(), *batch)
    except ValueError as error:
        assert "in place" in str(error)
    else:
        assert torch.equal(found & expected.correct, found)


@NEEDS_AUTOATTACK
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_square_takes_logits_of_half_precision(dtype, batch):
    model = Wrapped(lambda net, images: net(images).to(dtype))
    labels = model(batch[0]).argmax(1)
    (square,) = evaluate(model, batch[0], labels, attacks=[Square(20, 0.2)], protocols=["natural"])
    assert 0 < square.accuracy < 1


@NEEDS_AUTOATTACK
@NEEDS_ROBUSTBENCH
def test_square_under_robustbench_takes_logits_of_half_precision(batch):
    from freqrob_robustbench.autoattack import AutoAttack as Benchmark

    model = Wrapped(lambda net, images: net(images).half())
    adversary = Benchmark(model, norm="Linf", eps=0.5, version="custom", attacks_to_run=["square"], verbose=False)
    assert adversary.run_standard_evaluation(*batch).shape == batch[0].shape


def test_a_model_that_fails_later_is_named_too(batch):
    """Here on the images that are left when the clean ones are classified."""

    def of_four(net, images):
        return net(images.view(-1, 4, 3, SIZE, SIZE).flatten(0, 1))

    images, labels = batch
    model = Wrapped(of_four)
    labels = torch.where(torch.arange(12) < 3, labels, (model(images).argmax(1) + 1) % CLASSES)
    with pytest.raises(ValueError, match=r"model: it fails on images \([123], 3, 8, 8\)"):
        evaluate(model, images, labels, attacks=[PGD(2)], protocols=["natural"])


def test_a_diagnostic_of_a_model_that_fails_later_names_it(batch):
    def of_five(net, images):
        return net(images.view(-1, 5, 3, SIZE, SIZE).flatten(0, 1))

    with pytest.raises(ValueError, match=r"model: it fails on images \(2, 3, 8, 8\)"):
        diagnose(Wrapped(of_five), *batch, only=["hybrid"], batch_size=5)


# Memory


def out_of_memory(net, images):
    if len(images) > 5:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return net(images)


def allocating(net, images):
    return net(images) + (torch.empty(2**52).sum() if len(images) > 5 else 0)


def of_numpy(net, images):
    return net(images) + (float(np.empty(2**52).sum()) if len(images) > 5 else 0)


@pytest.mark.parametrize("forward", [out_of_memory, allocating, of_numpy])
def test_where_memory_runs_out_the_batch_size_is_named(forward, batch):
    calls = [
        evaluate, partial(evaluate, attacks=[Clean()]), diagnose, expected_seconds,
        *(partial(DIAGNOSTICS[name].measure) for name in DIAGNOSTICS if DIAGNOSTICS[name].is_possible),
    ]  # fmt: skip
    for call in calls:
        message = r"^batch_size: 6 images at a time need too much memory; use fewer \(--batch-size\)\. \S"
        with pytest.raises(torch.OutOfMemoryError, match=message):
            call(Wrapped(forward), *batch, batch_size=6)
    assert len(evaluate(Wrapped(forward), *batch, batch_size=5)) == 6


@NEEDS_FOOLBOX
@NEEDS_AUTOATTACK
def test_where_memory_runs_out_in_a_plug_in_the_batch_size_is_named(batch):
    import foolbox
    from freqrob_foolbox import LinfAutoAttack

    model = foolbox.PyTorchModel(Wrapped(out_of_memory).eval(), bounds=(0, 1), device="cpu")
    with pytest.raises(torch.OutOfMemoryError, match="^batch_size: 6 images"):
        LinfAutoAttack("rand", batch_size=6).run(model, *batch, epsilon=0.1)


@NEEDS_ROBUSTBENCH
@NEEDS_AUTOATTACK
def test_where_memory_runs_out_under_robustbench_the_batch_size_is_named(batch):
    from freqrob_robustbench.autoattack import AutoAttack as Adapter

    adversary = Adapter(Wrapped(out_of_memory), verbose=False, version="rand")
    with pytest.raises(torch.OutOfMemoryError, match="^batch_size: 6 images"):
        adversary.run_standard_evaluation(*batch, bs=6)


def test_the_command_line_shows_no_traceback_where_memory_runs_out(monkeypatch):
    images = torch.randint(256, (8, 3, SIZE, SIZE), dtype=torch.uint8)
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: ImageSet(images, torch.arange(8) % 3, ("a",) * 3))
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_: Wrapped(out_of_memory))
    for command in ("evaluate", "diagnose"):
        result = CliRunner().invoke(cli.app, [command, "mine:net", "--no-cache", "--batch-size", "6"])
        assert result.exit_code == 2 and "Error: batch_size: 6 images at a time" in result.stderr, result.output
        assert isinstance(result.exception, SystemExit) and "--batch-size" in result.stderr


# Tensors


ODD = {
    "meta": (lambda x: x.to("meta"), "got one on the meta device"),
    "sparse": (lambda x: x.to_sparse(), r"got torch.sparse_coo; use \w+.to_dense"),
    "nested": (lambda x: torch.nested.as_nested_tensor(list(x)), "got a nested one; use torch.stack"),
    "jagged": (
        lambda x: torch.nested.as_nested_tensor(list(x.view(len(x), -1)), layout=torch.jagged), "got a nested one"
    ),
    "NumPy": (lambda x: x.numpy(), "expected a torch.Tensor.*, got ndarray"),
}  # fmt: skip
MEASURING = {
    "evaluate": evaluate, "diagnose": diagnose, "expected_seconds": expected_seconds,
    **{name: diagnostic.measure for name, diagnostic in DIAGNOSTICS.items() if diagnostic.is_possible},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("measure", MEASURING)
@pytest.mark.parametrize("name", ODD)
def test_tensors_without_dense_values_are_refused(name, measure, batch):
    images, labels = batch
    change, message = ODD[name]
    with pytest.raises(TypeError, match=f"^(images|data): .*{message}"):
        MEASURING[measure](network(), change(images), labels)
    if name not in ("nested", "jagged"):
        with pytest.raises(TypeError, match=f"^labels: .*{message}"):
            MEASURING[measure](network(), images, change(labels))


@pytest.mark.parametrize("measure", MEASURING)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int64, torch.bool])
def test_images_of_other_dtypes_are_refused(dtype, measure, batch):
    images, labels = batch
    with pytest.raises(TypeError, match=f"^images: expected floats in .0, 1. or uint8, got {dtype}"):
        MEASURING[measure](network(), images.to(dtype), labels)


@pytest.mark.parametrize("measure", MEASURING)
@pytest.mark.parametrize("empty", [0, 1, 2, 3])
def test_images_without_pixels_are_refused(empty, measure, batch):
    images, labels = batch
    nothing = images.narrow(empty, 0, 0)
    with pytest.raises(ValueError, match=f"^images: .*≥ 1.*{re.escape(str(tuple(nothing.shape)))}"):
        MEASURING[measure](network(), nothing, labels[: len(nothing)])


@NEEDS_FOOLBOX
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", ["meta", "sparse", "nested"])
def test_attacks_for_foolbox_refuse_tensors_without_dense_values(name, batch):
    import foolbox
    from freqrob_foolbox import LinfBandPGD

    images, labels = batch
    model, (change, message) = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu"), ODD[name]
    with pytest.raises(TypeError, match=f"^inputs: .*{message}"):
        LinfBandPGD(range(3)).run(model, change(images), labels, epsilon=0.1)
    with pytest.raises(TypeError, match="^inputs: .*tensor of floats, got torch.float8"):
        LinfBandPGD(range(3)).run(model, images.to(torch.float8_e4m3fn), labels, epsilon=0.1)


@NEEDS_ROBUSTBENCH
@NEEDS_AUTOATTACK
def test_robustbench_s_autoattack_refuses_tensors_without_dense_values(batch):
    from freqrob_robustbench.autoattack import AutoAttack as Adapter

    with pytest.raises(TypeError, match="^images: .*got one on the meta device"):
        Adapter(network(), verbose=False).run_standard_evaluation(batch[0].to("meta"), batch[1])
    with pytest.raises(ValueError, match="^model: .*use model.float"):
        Adapter(network().double(), verbose=False).run_standard_evaluation(*batch)


# The default dtype


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["evaluate", *(name for name in MEASURING if name in DIAGNOSTICS)])
def test_a_default_dtype_of_float64_changes_nothing(name, batch, request):
    def measured(model):
        if name == "evaluate":
            attacks = [Clean(), PGD(2, 0.02), PGD(2, 0.1, norm="L2", restarts=2)]
            if find_spec("pyautoattack"):
                attacks += [Square(5, 0.01), AutoAttack("custom", ("apgd-ce", "apgd-t", "fab-t"), 0.01)]
                attacks += [AutoAttack("custom", ("apgd-dlr", "fab"), 0.05, norm="L2")]
            return [result.correct for result in evaluate(model, *batch, attacks=attacks)]
        settings = {"minimal_perturbation": {"steps": 5, "repeats": 1}}.get(name, {})
        return list(DIAGNOSTICS[name].measure(model, *batch, **settings).tensors().values())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)).eval()
    expected = measured(model)
    request.getfixturevalue("float64")
    found = measured(model)
    assert torch.get_default_dtype() == torch.float64
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, equal_nan=True)


# Other classes


@pytest.fixture
def of_ten():
    """A model that knows a hundred classes, mostly others than the ten of the labels."""
    images, model = torch.rand(40, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), network(100)
    model[1].bias.data[10:] += 1
    return model, images, torch.arange(40) % 10


def test_a_model_of_more_classes_than_the_data_set_has_is_refused(of_ten):
    message = "^model: expected 10 classes like the data set, got 100; wrap the model"
    for call in (evaluate, diagnose, expected_seconds):
        with pytest.raises(ValueError, match=message):
            call(*of_ten, classes=10)
    assert len(evaluate(network(10), *of_ten[1:], classes=10, attacks=[Clean()])) == 3


def test_a_model_of_more_classes_than_the_labels_have_is_warned_of(of_ten):
    message = "it has 100 classes, the labels go from 0 to 9, and .* of 40 predictions are above them"
    with pytest.warns(UserWarning, match=message):
        evaluate(*of_ten, attacks=[Clean()])
    with pytest.warns(UserWarning, match="it has 100 classes, the labels go from 0 to 9"):
        diagnose(*of_ten, only=["hybrid"])


def test_few_labels_and_right_predictions_are_not_warned_of(of_ten, recwarn):
    model, images, _ = of_ten
    evaluate(model, images, model(images).argmax(1).clamp(max=98), attacks=[Clean()])
    evaluate(network(10), images[:4], torch.arange(4), attacks=[Clean()])
    assert not recwarn.list


def test_corruptions_of_a_known_data_set_refuse_a_model_of_other_classes():
    levels = np.random.default_rng(0).integers(0, 256, (5 * 20, SIZE, SIZE, 3), dtype=np.uint8)
    arrays = CorruptionArrays(None, "cifar10", {"fog": levels}, torch.arange(20) % 10, None)
    with pytest.raises(ValueError, match="^model: expected 10 classes like the data set, got 100"):
        evaluate_corruptions(network(100), arrays)
