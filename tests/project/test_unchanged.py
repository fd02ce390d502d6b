"""Evaluations, diagnostics and attacks leave the caller's model and process as they found them."""

import random
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from freqrob import attacks
from freqrob.attacks import FGSM, PGD, AutoAttack, Clean, Square, Transfer
from freqrob.attacks.autoattack import COMPONENTS
from freqrob.attacks.band import band_pgd
from freqrob.data.corruption_arrays import CorruptionArrays
from freqrob.diagnostics import diagnose, expected_seconds
from freqrob.diagnostics.registry import all_diagnostics
from freqrob.evaluation import PROTOCOLS, check_masking, evaluate
from freqrob.evaluation.corruptions import evaluate_corruptions
from freqrob.models.front_ends import Blur, FrontEnded
from freqrob.spectral.balance import BaSS

EPS, TINY, SIZE, CLASSES = 4 / 255, 1e-5, 16, 5
DIAGNOSTICS = all_diagnostics()


class Network(nn.Module):
    """Has something of everything that a measurement might change, and draws from every global generator."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Linear(196, CLASSES)
        self.register_buffer("shift", torch.zeros(1))
        self.scale = torch.ones(1, requires_grad=True)  # neither a parameter nor a buffer
        self.updates = 0

    def forward(self, images):
        noise = torch.rand(()) + np.random.rand() + random.random()
        features = self.norm(self.conv(images) + self.shift).relu()
        return self.linear(features.flatten(1)) * self.scale + 0 * noise


@pytest.fixture
def network():
    """In train mode but for its batch norm, with gradients of an earlier step, hooks, and a frozen bias."""
    torch.manual_seed(0)
    network = Network().train()
    network.norm.eval()
    network(torch.rand(2, 3, SIZE, SIZE)).sum().backward()
    network.linear.bias.requires_grad_(False)
    network.conv.weight.grad = None
    network.linear.register_forward_hook(lambda *_: None)

    def update(weight):  # as an optimizer that steps during the backward pass
        network.updates += 1

    network.linear.weight.register_post_accumulate_grad_hook(update)
    network.weight_of_channels_last = nn.Parameter(torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))
    return network


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, SIZE, SIZE, generator=generator)
    return images, torch.arange(6) % CLASSES


@pytest.fixture
def standing(network, batch):
    """Images that the network classifies correctly, and that tiny perturbations do not change."""
    modes = [module.training for module in network.modules()]
    with torch.no_grad(), torch.random.fork_rng():
        labels = network.eval()(batch[0]).argmax(1)
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    return batch[0], labels


def tensor_state(tensor):
    gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
    layout = tensor.data_ptr(), tensor.stride(), tensor.dtype, tensor.requires_grad
    return layout, tensor.detach().tolist(), gradient


def process_state():
    """The generators, and the switches that a library may have thrown."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
        "python": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "threads": torch.get_num_threads(),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
    }


def model_state(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    attributes = {f"{name}.{key}": value for name, module in model.named_modules()
                  for key, value in vars(module).items() if isinstance(value, torch.Tensor)}  # fmt: skip
    return {
        "tensors": {name: tensor_state(tensor) for name, tensor in {**tensors, **attributes}.items()},
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [
            {key: list(value) for key, value in vars(module).items() if key.endswith("hooks") and value}
            for module in model.modules()
        ],
    }


def assert_unchanged(call, models, batch, generators=True):
    """Run ``call`` and compare everything; without ``generators``, random numbers may be drawn."""
    before = [*map(model_state, models), process_state(), *map(tensor_state, batch)]
    call()
    after = [*map(model_state, models), process_state(), *map(tensor_state, batch)]
    for state in (before, after):
        for name in () if generators else ("torch", "numpy", "python"):
            del state[len(models)][name]
    for one, other in zip(before, after, strict=True):
        assert one == other
    assert all(getattr(model, "updates", 0) == 0 for model in models), "no parameter had a gradient accumulated"


NEEDS_AUTOATTACK = pytest.mark.skipif(find_spec("pyautoattack") is None, reason="pyautoattack is not installed")
NEEDS_FOOLBOX = pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
NEEDS_ROBUSTBENCH = pytest.mark.skipif(find_spec("robustbench") is None, reason="robustbench is not installed")

ATTACKS = [
    Clean(), FGSM(EPS), PGD(2, EPS), PGD(2, EPS, restarts=2), PGD(2, 0.5, norm="L2"),
    *(pytest.param(AutoAttack("custom", (name,), EPS), marks=NEEDS_AUTOATTACK) for name in COMPONENTS),
    pytest.param(Square(3, EPS), marks=NEEDS_AUTOATTACK),
]  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    """AutoAttack with few iterations and queries."""
    if find_spec("pyautoattack"):
        import pyautoattack

        original = pyautoattack.AutoAttack.__init__

        def created(self, *arguments, **options):
            original(self, *arguments, **options)
            self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = self.square.n_queries = 3

        monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", created)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_by_attacks(network, batch, short, attack):
    assert_unchanged(lambda: attack(network, *batch), [network], batch)
    assert_unchanged(lambda: attack.robust_mask(network, *batch), [network], batch)


def test_by_a_transfer_from_another_network(network, batch):
    torch.manual_seed(3)
    source = Network()
    assert_unchanged(lambda: Transfer(source, PGD(2, EPS))(network, *batch), [network, source], batch)


@pytest.mark.parametrize(
    "call",
    [attacks.fgsm, partial(attacks.pgd, steps=2, random_start=False), attacks.input_gradient,
     partial(band_pgd, rings=range(3), steps=2)],
    ids=["fgsm", "pgd", "input_gradient", "band_pgd"],
)  # fmt: skip
def test_by_functions(network, batch, call):
    network.eval()  # which these functions leave to the caller
    assert_unchanged(lambda: call(network, *batch), [network], batch, generators=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_by_an_evaluation(network, standing, short, protocol, tmp_path):
    chosen = [Clean(), FGSM(EPS), PGD(2, EPS)]
    if find_spec("pyautoattack"):
        chosen += [AutoAttack("plus", (), TINY), Square(3, EPS)]
    asked = {"protocols": [protocol], "attacks": chosen, "batch_size": 4}
    for cache in (None, tmp_path):
        assert_unchanged(partial(evaluate, network, *standing, **asked, cache=cache), [network], standing)


@NEEDS_AUTOATTACK
@pytest.mark.parametrize("front_end", [BaSS, Blur])
def test_by_a_check_for_masking(network, batch, short, front_end):
    model = FrontEnded([front_end()], network)
    assert_unchanged(lambda: check_masking(model, *batch, white_box=PGD(2, EPS), queries=3), [model], batch)


def test_by_accuracies_on_corruptions(network, batch):
    levels = np.random.default_rng(0).integers(0, 256, (5 * 6, SIZE, SIZE, 3), dtype=np.uint8)
    arrays = CorruptionArrays(None, "cifar10", {"fog": levels}, batch[1], None)
    network.linear = nn.Linear(196, 10)
    assert_unchanged(lambda: evaluate_corruptions(network, arrays), [network], batch)


SETTINGS = {
    "minimal_perturbation": {"steps": 3}, "band_accuracy": {"steps": 2}, "fourier_heatmap": {"every": 4},
    "hybrid": {"seeds": [0]}, "loss_landscape_low": {"points": 5}, "loss_landscape_high": {"points": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_by_a_diagnostic(network, batch, name):
    diagnostic = DIAGNOSTICS[name]
    if not diagnostic.is_possible:
        pytest.skip(f"{diagnostic.package} is not installed")
    measure = partial(diagnostic.measure, network, *batch, **SETTINGS.get(name, {}))
    assert_unchanged(measure, [network], batch)


@NEEDS_FOOLBOX
@pytest.mark.parametrize("call", [diagnose, expected_seconds])
def test_by_all_diagnostics(network, batch, call):
    assert_unchanged(lambda: call(network, *batch, settings=SETTINGS), [network], batch)


def test_by_a_heat_map_of_a_layer(network, batch):
    measure = partial(DIAGNOSTICS["fourier_heatmap"].measure, network, *batch, layer="conv", every=4)
    assert_unchanged(measure, [network], batch)


@NEEDS_FOOLBOX
@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
@pytest.mark.parametrize("name", ["LinfAutoAttack", "L2AutoAttack", "LinfBandPGD", "L2BandMinimization",
                                  "LinfinityBrendelBethgeAttack", "L2BrendelBethgeAttack"])  # fmt: skip
def test_by_attacks_for_foolbox(network, batch, short, name):
    """They may draw from the global generators, as all of Foolbox's attacks do."""
    import foolbox
    import freqrob_foolbox

    if "AutoAttack" in name and not find_spec("pyautoattack"):
        pytest.skip("pyautoattack is not installed")
    options = {"rings": range(4)} if "Band" in name else {}
    options |= {} if "AutoAttack" in name else {"steps": 3}
    attack = getattr(freqrob_foolbox, name)(**options)
    if "Brendel" in name:
        attack.init_attack = freqrob_foolbox.LinfBandMinimization(range(8), steps=3)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    if "AutoAttack" in name:  # without what Foolbox itself computes around it
        assert_unchanged(partial(attack.run, model, *batch, epsilon=EPS), [network], batch)
    assert_unchanged(partial(attack, model, *batch, epsilons=[EPS]), [network], batch, generators=False)


@NEEDS_FOOLBOX
@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
@pytest.mark.skipif(not find_spec("pyautoattack"), reason="pyautoattack is not installed")
def test_by_freqrobs_attacks_on_a_foolbox_model(network, batch):
    import foolbox

    model, attack = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu"), AutoAttack("custom", ("fab-t",), EPS)
    for call in (attack, attack.robust_mask):
        assert_unchanged(partial(call, model, *batch), [network], batch)


@NEEDS_FOOLBOX
@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
def test_by_an_initial_attack_that_calls_backward(network, batch):
    import foolbox
    import freqrob_foolbox

    attack = freqrob_foolbox.L2BrendelBethgeAttack(foolbox.attacks.L2CarliniWagnerAttack(1, 5), steps=2)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    assert_unchanged(lambda: attack(model, *batch, epsilons=None), [network], batch, generators=False)


@NEEDS_FOOLBOX
@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
def test_by_a_search_for_minimal_perturbations(network, batch):
    import foolbox
    from freqrob_foolbox import LinfinityBrendelBethgeAttack, MinimalPerturbationSearch

    search = MinimalPerturbationSearch(LinfinityBrendelBethgeAttack(steps=3))
    for model in (network, foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")):
        assert_unchanged(partial(search, model, *batch), [network], batch)


@NEEDS_ROBUSTBENCH
@NEEDS_AUTOATTACK
@pytest.mark.parametrize("version, chosen", [("standard", ()), ("custom", ["fab", "square"])])
def test_by_robustbench_s_autoattack(network, standing, short, version, chosen, tmp_path):
    from freqrob_robustbench.autoattack import AutoAttack as Adapter

    adversary = Adapter(network, eps=TINY, seed=0, verbose=False, version=version, attacks_to_run=chosen)
    for options in ({"bs": 4}, {"state_path": tmp_path / "state"}):
        assert_unchanged(partial(adversary.run_standard_evaluation, *standing, **options), [network], standing)


def test_after_an_error(network, batch):
    class Failing(Network):
        def forward(self, images):
            logits = super().forward(images)
            if images.requires_grad:
                raise KeyboardInterrupt
            return logits

    model = Failing()

    def stopped():
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, *batch, protocols=["natural"], attacks=[PGD(2, EPS)])

    assert_unchanged(stopped, [model], batch)


@NEEDS_AUTOATTACK
def test_an_optimizer_step_after_an_evaluation_changes_nothing(network, standing, short):
    """FAB would leave a gradient in every parameter."""
    network.zero_grad()
    before = [weight.clone() for weight in network.parameters()]
    (result,) = evaluate(network, *standing, protocols=["natural"], attacks=[AutoAttack(eps=TINY)])
    assert result.accuracy == 1, "every attack of the ensemble ran"
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    assert all(map(torch.equal, before, network.parameters()))
