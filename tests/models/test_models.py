"""Architectures, names, front ends, checkpoints."""

import errno
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqrob.models import checkpoints, create_network, list_architectures, registry
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.front_ends import FrontEnded, with_front_ends
from freqrob.models.registry import DEFENSES, VARIANTS, ModelName

PARAMETERS = {
    "rn20": 269_722,  # He et al. 2016, Table 6: 0.27 M
    "rn18": 11_173_962,  # 11.17 M
    "rn50": 23_520_842,  # 23.52 M
    "prn18": 11_172_170,  # 11.17 M
    "prn18_jafr": 11_171_146,  # without the final batch norm
    "wrn34": 46_160_474,  # 46.16 M
    "wrn28": 36_479_194,  # Zagoruyko and Komodakis 2016, Table 4: 36.5 M
    "wrn40_2": 2_243_546,  # Zagoruyko and Komodakis 2016, Table 4: 2.2 M
    "resnext29": 6_807_882,  # 4×32d: 6.81 M
    "densenet": 769_162,  # Huang et al. 2017, Table 2: DenseNet-BC, L = 100, k = 12, 0.8 M
}
CARD = Card("pgd_at_rn20", "rn20", recipe={"epochs": 2}, results=[{"protocol": "natural", "accuracy": 0.5}])


def randomise(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Batch norms that a swapped or forgotten one would betray, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            module.num_batches_tracked.fill_(7)
    return network.eval()


# Architectures


def test_every_architecture_has_a_published_parameter_count():
    assert list_architectures() == sorted(PARAMETERS)


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_parameters_and_shapes(architecture):
    with torch.device("meta"):
        network = create_network(architecture, num_classes=10)
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[architecture]
        for size in (32, 64):
            assert network(torch.empty(2, 3, size, size)).shape == (2, 10)
        assert create_network(architecture, num_classes=200)(torch.empty(2, 3, 64, 64)).shape == (2, 200)


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_images_of_one_channel(architecture):
    with torch.device("meta"):
        assert create_network(architecture, 4, in_channels=1)(torch.empty(2, 1, 32, 32)).shape == (2, 4)


def test_an_architecture_for_colour_images_only(tiny):
    with pytest.raises(ValueError, match="in_channels: tiny takes images of 3 channels only, got 1"):
        create_network("tiny", in_channels=1)
    with pytest.raises(ValueError, match="in_channels: expected an integer from 1 on, got 0"):
        create_network("rn20", in_channels=0)


@pytest.mark.parametrize("architecture", ["rn20", "prn18", "wrn40_2", "resnext29", "densenet"])
@torch.no_grad()
def test_channels_last_stays_channels_last(architecture):
    network = randomise(create_network(architecture)).double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    kept = []
    last_norm = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)][-1]
    last_norm.register_forward_pre_hook(
        lambda module, inputs: kept.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    out = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected)
    assert kept == [True]


def test_rn20_shortcut_is_option_a():
    shortcut = create_network("rn20").layer2[0].shortcut
    images = torch.rand(2, 16, 8, 8)
    out = shortcut(images)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def robustbench_architecture(file: str):
    """The module of an architecture in the installed robustbench, which itself does not import on a fresh install."""
    try:
        distribution = importlib.metadata.distribution("robustbench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("robustbench is not installed (pip install --no-deps robustbench)")
    path = distribution.locate_file(f"robustbench/model_zoo/architectures/{file}.py")
    spec = importlib.util.spec_from_file_location(f"robustbench_{file}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def robustbench_network(architecture: str) -> torch.nn.Module:
    if architecture == "wrn40_2":
        return robustbench_architecture("wide_resnet").WideResNet(depth=40, widen_factor=2)
    if architecture == "resnext29":
        resnext = robustbench_architecture("resnext")
        return resnext.CifarResNeXt(resnext.ResNeXtBottleneck, 29, cardinality=4, base_width=32, num_classes=10)
    resnet = robustbench_architecture("resnet")
    if architecture in ("rn18", "rn50"):
        return resnet.ResNet18() if architecture == "rn18" else resnet.ResNet50()
    usual = architecture == "prn18"
    return resnet.PreActResNet(resnet.PreActBlock, [2, 2, 2, 2], bn_before_fc=usual, out_shortcut=usual)


@pytest.mark.parametrize("architecture", ["rn18", "rn50", "prn18", "prn18_jafr", "wrn40_2", "resnext29"])
@torch.no_grad()
def test_state_dicts_are_robustbenchs(architecture):
    theirs = randomise(robustbench_network(architecture)).double()
    ours = create_network(architecture).double().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)  # robustbench's pool takes 32×32 only
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("architecture", ["wrn34", "wrn28"])
def test_big_wide_resnets_have_robustbenchs_keys(architecture):
    wide_resnet = robustbench_architecture("wide_resnet")
    with torch.device("meta"):
        theirs = wide_resnet.WideResNet(depth=34 if architecture == "wrn34" else 28, widen_factor=10)
        ours = create_network(architecture)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_jafr_initialisation():
    network = create_network("prn18_jafr")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert network.linear.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)
    assert not network.linear.bias.any()


def test_densenet_is_the_papers_cifar_network():
    """A 3×3 convolution feeds the first dense block at full resolution; three blocks of 16, compression one half."""
    network = create_network("densenet")
    sizes = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    network(torch.rand(1, 3, 32, 32))
    assert len(sizes) == 99 and sizes.count(32) == 1 + 33 and sizes.count(8) == 32, "L = 100 with the linear layer"
    assert network.features[0].kernel_size == (3, 3) and network.features[1] is network.features.denseblock1
    widths = [network.features.transition1, network.features.transition2]
    assert [(t.conv.in_channels, t.conv.out_channels) for t in widths] == [(24 + 192, 108), (108 + 192, 150)]


@pytest.mark.parametrize("architecture", ["resnext29", "densenet"])
def test_kernels_are_drawn_by_their_fan_out(architecture):
    for module in create_network(architecture).modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5_000:
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


# Names

PARTS = st.tuples(
    st.sampled_from([None, *VARIANTS]), st.sampled_from([*DEFENSES]), st.sampled_from(list_architectures())
)


NAMES = registry.all_model_names()


@given(PARTS)
def test_names_round_trip(parts):
    name = ModelName(*parts)
    assert ModelName.parse(str(name)) == name


@given(st.text() | st.builds("_".join, st.lists(st.sampled_from([*VARIANTS, *DEFENSES, *list_architectures()]))))
def test_names_are_parsed_or_refused(text):
    if text in NAMES:
        assert str(ModelName.parse(text)) == text
    else:
        with pytest.raises(ValueError, match="model_name: got "):
            ModelName.parse(text)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("pgd_at_rn20", (None, "pgd_at", "rn20")),
        ("bass_trades_wrn34", ("bass", "trades", "wrn34")),
        ("bassmix_fgsm_jafr_prn18_jafr", ("bassmix", "fgsm_jafr", "prn18_jafr")),
        ("bassfront_jafr_prn18", ("bassfront", "jafr", "prn18")),
        ("standard_wrn40_2", (None, "standard", "wrn40_2")),
        ("blur_standard_rn18", ("blur", "standard", "rn18")),
        ("pca_pgd_at_resnext29", ("pca", "pgd_at", "resnext29")),
        ("fgsm_jafr_minus_prn18_jafr", (None, "fgsm_jafr_minus", "prn18_jafr")),
        ("neural_similarity_rn50", (None, "neural_similarity", "rn50")),
    ],
)
def test_names_mean(text, parts):
    assert ModelName.parse(text) == ModelName(*parts)


def test_every_name_is_different():
    assert len(set(NAMES)) == 6 * 12 * len(PARAMETERS)


def test_name_errors_name_the_argument_and_what_is_near():
    with pytest.raises(ValueError, match=r"model_name: got 'bass_pgdat_rn20'.*Nearest: bass_pgd_at_rn20"):
        ModelName.parse("bass_pgdat_rn20")
    with pytest.raises(
        ValueError, match=r"model_name: got 'blur_rn20', expected \[bass_\|bassmix_\|bassfront_\|blur_\|pca_\]<d"
    ):
        ModelName.parse("blur_rn20")
    with pytest.raises(ValueError, match=r"variant: got 'bas'"):
        ModelName("bas", "pgd_at", "rn20")
    with pytest.raises(ValueError, match=r"defense: got 'trade'.*Nearest: trades"):
        ModelName(None, "trade", "rn20")
    with pytest.raises(ValueError, match=r"architecture: got 'wrn43'.*Nearest: wrn34"):
        ModelName(None, "trades", "wrn43")


def test_registry_errors():
    with pytest.raises(ValueError, match=r"architecture: got 'rn2'.*Nearest: rn20"):
        create_network("rn2")
    with pytest.raises(ValueError, match="num_classes: expected an integer from 1 on, got 0"):
        create_network("rn20", num_classes=0)
    with pytest.raises(ValueError, match="'rn20' is already registered"):
        registry.register_architecture("rn20")(lambda num_classes: None)
    assert list_architectures("wrn*") == ["wrn28", "wrn34", "wrn40_2"]


def test_import_is_light():
    code = "import freqrob.models, sys; print({'torchvision', 'lightning', 'matplotlib'} & sys.modules.keys())"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# Checkpoints


def saved(folder: Path, dtype: torch.dtype | None = None) -> tuple[Path, torch.nn.Module, Card]:
    network = randomise(create_network("rn20"))
    path = folder / "pgd_at_rn20.safetensors"
    return path, network, checkpoints.save(path, network.state_dict(), CARD, dtype)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_save_and_load(tmp_path):
    path, network, card = saved(tmp_path / "new" / "folder")
    state, loaded_card = checkpoints.load(path)
    assert loaded_card == card == replace(CARD, sha256=card.sha256, created=card.created)
    assert sorted(contents(path.parent)) == ["pgd_at_rn20.json", "pgd_at_rn20.safetensors"]
    assert state.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)
    assert state["bn1.num_batches_tracked"] == 7


def pca_model(seed: int = 0) -> FrontEnded:
    """rn20 behind a PCA of 4×4 pixels and a normaliser."""
    model = with_front_ends(
        randomise(create_network("rn20"), seed),
        [
            {"name": "normalize", "mean": [0.5] * 3, "std": [0.5] * 3},
            {"name": "pca", "components": 5, "shape": (3, 4, 4)},
        ],
    )
    components = torch.linalg.qr(torch.rand(48, 5, generator=torch.Generator().manual_seed(seed))).Q.T
    model.front_ends[1].set_components(torch.full((3, 4, 4), 0.1), components)
    return model.eval()


@torch.no_grad()
def test_principal_components_are_saved_with_the_network(tmp_path):
    model, path = pca_model(), tmp_path / "x.safetensors"
    state = checkpoints.checkpoint_state(model)
    in_front = {"front_ends.1.mean", "front_ends.1.components"}
    assert state.keys() == model.network.state_dict().keys() | in_front
    checkpoints.save(path, state, CARD, torch.float16)
    stored, _ = checkpoints.load(path)
    again = pca_model(seed=1)
    checkpoints.load_into(again, stored, path, "rn20")
    torch.testing.assert_close(again.front_ends[1].components, model.front_ends[1].components, rtol=1e-3, atol=1e-6)
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(again(images), model(images), rtol=1e-2, atol=1e-2)
    for key in in_front:
        with pytest.raises(CheckpointError, match=f"not the weights of rn20: {key} is missing$"):
            checkpoints.load_into(again, {k: v for k, v in stored.items() if k != key}, path, "rn20")
        with pytest.raises(CheckpointError, match=r"front_ends.1\..* is unexpected"):
            checkpoints.load_into(model.network, stored, path, "rn20")
    assert checkpoints.checkpoint_state(model.network).keys() == model.network.state_dict().keys()


def test_save_channels_last_parameters(tmp_path):
    network = create_network("rn20").to(memory_format=torch.channels_last)
    checkpoints.save(tmp_path / "x.safetensors", network.state_dict(), CARD)
    state, _ = checkpoints.load(tmp_path / "x.safetensors")
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def test_half_precision_on_disk_is_single_in_memory(tmp_path):
    path, network, _ = saved(tmp_path, torch.float16)
    full, _, _ = saved(tmp_path / "full")
    assert path.stat().st_size < 0.6 * full.stat().st_size
    state, _ = checkpoints.load(path)
    for key, value in network.state_dict().items():
        assert state[key].dtype == (torch.int64 if key.endswith("tracked") else torch.float32)
        exact = value.ndim < 2
        torch.testing.assert_close(state[key], value, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-7)


def test_half_precision_leaves_what_it_cannot_hold(tmp_path):
    state = {"large": torch.full((2, 2), 1e6), "integers": torch.arange(4).view(2, 2) + 2049}
    checkpoints.save(tmp_path / "x.safetensors", state, CARD, torch.float16)
    loaded, _ = checkpoints.load(tmp_path / "x.safetensors")
    for key, value in state.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value)


@contextmanager
def largest_file(size: int):
    """Writes beyond ``size`` bytes fail, as they do on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "room, recipe, file",
    [(100_000, {}, "pgd_at_rn20.safetensors"), (2_000_000, {"long": "x" * 3_000_000}, "pgd_at_rn20.json")],
)
def test_full_disk_keeps_the_earlier_files(tmp_path, room, recipe, file):
    path, network, _ = saved(tmp_path)
    before = contents(tmp_path)
    changed = {key: value + 1 for key, value in network.state_dict().items()}
    with (
        pytest.raises(OSError, match=rf"could not write .*{file}: .* the earlier {file} is intact"),
        largest_file(room),
    ):
        checkpoints.save(path, changed, replace(CARD, recipe=recipe))
    assert contents(tmp_path) == before


def test_full_disk_at_the_sync_keeps_the_earlier_files(tmp_path, monkeypatch):
    path, network, _ = saved(tmp_path)
    before = contents(tmp_path)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(path, network.state_dict(), CARD)
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path) == before


def test_a_card_that_is_not_json_keeps_the_earlier_files(tmp_path):
    path, network, _ = saved(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        checkpoints.save(path, network.state_dict(), replace(CARD, recipe={"bad": object()}))
    assert contents(tmp_path) == before


def test_save_wants_safetensors(tmp_path):
    with pytest.raises(ValueError, match=r"path: got .*x\.pt"):
        checkpoints.save(tmp_path / "x.pt", {}, CARD)


@pytest.mark.parametrize("with_card", [True, False])
def test_truncated_file(tmp_path, with_card):
    path, _, card = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    if not with_card:
        checkpoints.card_path(path).unlink()
    expected = f"the card expects {card.sha256}" if with_card else "not an intact safetensors file"
    with pytest.raises(CheckpointError, match=f"pgd_at_rn20.safetensors.*{expected}"):
        checkpoints.load(path)


def test_changed_weights_are_refused(tmp_path):
    path, _, _ = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 is"):
        checkpoints.load(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 half a zip"])
def test_corrupt_files(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x{suffix}: not an intact .*; replace or remove it"):
        checkpoints.load(path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x.safetensors: no such checkpoint"):
        checkpoints.load(tmp_path / "x.safetensors")
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"x.ckpt: expected a file ending in .safetensors, .pt, .pth"):
        checkpoints.load(tmp_path / "x.ckpt")


def test_pickles_of_tensors(tmp_path):
    network = create_network("rn20")
    parallel = {f"module.{key}": value for key, value in network.state_dict().items()}
    wrapped = {"state_dict": parallel, "epoch": 3}
    for name, content in {"plain.pt": network.state_dict(), "wrapped.pth": wrapped}.items():
        torch.save(content, tmp_path / name)
        state, card = checkpoints.load(tmp_path / name)
        assert card is None
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickles_of_anything_else_are_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: not an intact file of tensors .* not executed"):
        checkpoints.load(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_list_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: expected a state dict .* got list"):
        checkpoints.load(tmp_path / "x.pt")


def test_state_that_does_not_fit_is_named():
    network = create_network("rn20")
    state = network.state_dict()
    with pytest.raises(CheckpointError, match=r"a.pt: not the weights of rn20: conv1.weight is missing$"):
        checkpoints.load_into(network, {k: v for k, v in state.items() if k != "conv1.weight"}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match="extra is unexpected$"):
        checkpoints.load_into(network, {**state, "extra": torch.zeros(1)}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match=r"linear.bias is \(100,\), expected \(10,\)$"):
        checkpoints.load_into(network, {**state, "linear.bias": torch.zeros(100)}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match=r"not the weights of rn20: .* and \d+ more$"):
        checkpoints.load_into(network, create_network("wrn40_2").state_dict(), "a.pt", "rn20")


# Cards


def test_cards_round_trip_and_ignore_what_is_new():
    assert Card.from_json(CARD.to_json()) == CARD
    newer = json.dumps({**json.loads(CARD.to_json()), "since_next_year": 1})
    assert Card.from_json(newer) == CARD
    assert Card.from_json('{"name": "a", "architecture": "rn20"}') == Card("a", "rn20")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "not usable JSON"),
        ("[]", "Expected `object`, got `array`"),
        ('{"name": "a"}', "missing required field `architecture`"),
        ('{"name": "a", "architecture": "rn20", "num_classes": "10"}', "`int`, got `str` - at `$.num_classes`"),
        ('{"name": 1, "architecture": "rn20"}', "Expected `str`, got `int` - at `$.name`"),
    ],
)
def test_malformed_cards(tmp_path, text, complaint):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"a.json: .*{re.escape(complaint)}.*; replace or remove it"):
        Card.read(path)


def test_a_card_that_is_not_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"a.json: not usable JSON"):
        Card.read(tmp_path / "a.json")
