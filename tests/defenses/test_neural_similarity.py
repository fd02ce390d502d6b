"""Neural similarity: the loss against NumPy, its effect on a network, and the checks of its file."""

import json
import os
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from freqrob.defenses import stimuli
from freqrob.defenses.neural_similarity import NeuralSimilarity, load_targets, similarity, similarity_loss
from freqrob.defenses.stimuli import find_layer
from freqrob.models import create_network
from freqrob.models.front_ends import with_front_ends
from freqrob.training import recipe_for

K = 12


def cosines(responses):
    """(K, K), from responses (K, neurons)."""
    centred = responses - responses.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def arrays(seed=0, size=8):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(K, 3, size, size), dtype=np.uint8)
    return {"images": images, "similarity": cosines(rng.normal(size=(K, 6)))}


@pytest.fixture
def targets(tmp_path):
    path = tmp_path / "brain.npz"
    np.savez(path, **arrays())
    return str(path)


def tiny():
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
    return nn.Sequential(convolutions, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))


def two_colours(count=40):
    torch.manual_seed(1)
    labels = torch.randint(2, (count,))
    images = 0.5 * torch.rand(count, 3, 8, 8)
    images[torch.arange(count), labels * 2] += 0.3
    return images, labels


def in_numpy(features, target):
    """The mean over pairs, one pair at a time."""
    flat = features.reshape(len(features), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    pairs = []
    for i in range(len(flat)):
        for j in range(i + 1, len(flat)):
            cosine = flat[i] @ flat[j] / np.sqrt((flat[i] @ flat[i]) * (flat[j] @ flat[j]))
            s, t = np.clip([cosine, target[i, j]], -0.9999, 0.9999)
            pairs.append((np.arctanh(s) - np.arctanh(t)) ** 2)
    return np.mean(pairs)


@pytest.mark.parametrize("correlation", [0.0, 0.9, 1.0])
def test_the_similarity_loss_is_the_papers(correlation):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 4, 3, 3)).astype(np.float32)
    features[1] = correlation * features[0] + (1 - correlation) * features[1]
    target = cosines(rng.normal(size=(7, 2)))
    target[2, 3] = target[3, 2] = 1
    ours = similarity_loss(torch.from_numpy(features), torch.from_numpy(target).float())
    assert ours.item() == pytest.approx(in_numpy(features, target), rel=1e-4)


def test_the_loss_is_cross_entropy_and_similarity(targets):
    model, (images, labels) = tiny(), two_colours()
    seen = []
    model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    loss = NeuralSimilarity(targets, layer="0", weight=3.0)(model, images, labels)
    assert len(seen) == 1 and torch.equal(seen[0][:40], images)
    stimuli = torch.from_numpy(arrays()["images"]) / 255
    assert torch.equal(seen[0][40:], stimuli)
    with torch.no_grad():
        logits, features = model(images).double().numpy(), model[0](stimuli).numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(40), labels.numpy()].mean() + 3 * in_numpy(features, arrays()["similarity"])
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert not any(module._forward_hooks for module in model.modules()), "the hook is gone"


def test_training_makes_the_network_like_the_brain_while_it_learns(targets):
    images, labels = two_colours()
    stimuli, target = load_targets(targets)

    def trained(weight):
        model, defence = tiny(), NeuralSimilarity(targets, layer="0", weight=weight, stimuli=8)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)

        def measure():
            with torch.no_grad():
                apart = (similarity(model[0](stimuli / 255)) - target).abs().mean().item()
                return apart, F.cross_entropy(model(images), labels).item()

        before = measure()
        for _ in range(150):
            optimizer.zero_grad()
            defence(model, images, labels).backward()
            optimizer.step()
        return before, measure()

    (apart, entropy), (apart_after, entropy_after) = trained(weight=1.0)
    _, (apart_without, entropy_without) = trained(weight=0.0)
    assert apart_after < 0.4 * apart and apart_after < 0.5 * apart_without
    assert entropy_after < 0.4 * entropy and entropy_without < 0.4 * entropy


def test_a_step_draws_its_stimuli(targets):
    images, target = load_targets(targets)
    defence = NeuralSimilarity(targets, stimuli=5)
    torch.manual_seed(0)
    (first, s), (second, _) = defence.draw(), defence.draw()
    assert first.shape == (5, 3, 8, 8) and not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(defence.draw()[0], first)
    which = [int((images == image).flatten(1).all(1).nonzero()) for image in first]
    assert len(set(which)) == 5
    assert torch.equal(s, target[which][:, which])
    assert torch.equal(NeuralSimilarity(targets, stimuli=50).draw()[0], images)


def test_finds_the_layer_behind_every_wrapper(targets, tmp_path):
    np.savez(targets, **arrays(size=32))
    network = create_network("rn20", 10)
    model = with_front_ends(network, [{"name": "normalize", "mean": [0.5] * 3, "std": [0.5] * 3}])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    wrapped, _ = fabric.setup(model, optimizer)
    assert find_layer(wrapped, "layer2") is network.layer2
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6)
    with fabric.autocast():
        loss = NeuralSimilarity(targets, layer="layer1.0.conv1")(wrapped, images, labels)
    assert loss.dtype == torch.float32 and loss.isfinite()
    fabric.backward(loss)
    assert network.layer1[0].conv1.weight.grad.abs().sum() > 0
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        assert find_layer(parallel, "layer2") is network.layer2
        assert find_layer(nn.DataParallel(parallel), "layer2") is network.layer2, "one wrapper in another"
        NeuralSimilarity(targets)(parallel, images, labels).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_similarity_is_computed_in_float32_under_autocast():
    features = torch.randn(6, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = similarity(features)
    assert inside.dtype == torch.float32 and torch.equal(inside, similarity(features))


@pytest.mark.parametrize("layer", ["layer9", "layer1.7", "network"])
def test_an_unknown_layer_lists_those_there_are(targets, layer):
    model = create_network("rn20", 10)
    with pytest.raises(ValueError, match=f"layer: .*{layer!r}, .*layer1.0.conv1.*, linear"):
        NeuralSimilarity(targets, layer=layer)(model, torch.rand(2, 3, 8, 8), torch.zeros(2).long())


def test_a_layer_that_is_not_called(targets):
    model = tiny()
    model.add_module("spare", nn.Linear(1, 1))
    model.forward = lambda images: nn.Sequential(*list(model)[:4])(images)
    with pytest.raises(ValueError, match="layer: the network does not call 'spare'"):
        NeuralSimilarity(targets, layer="spare")(model, *two_colours())


def test_sizes_must_agree(targets):
    with pytest.raises(ValueError, match=r"targets: .*\(3, 8, 8\), .*\(3, 32, 32\)"):
        NeuralSimilarity(targets)(tiny(), torch.rand(2, 3, 32, 32), torch.zeros(2).long())


def test_the_file_is_read_once_and_again_when_it_changes(targets, monkeypatch):
    reads, read = [], stimuli.read_npz
    monkeypatch.setattr(stimuli, "read_npz", lambda *given: reads.append(given) or read(*given))
    first = load_targets(targets)
    assert load_targets(targets)[0] is first[0]
    assert len(reads) == 1
    np.savez(targets, **arrays(seed=1))
    os.utime(targets, ns=(1, 1))
    assert not torch.equal(load_targets(targets)[0], first[0])


def test_a_recipe_tells_other_targets_in_the_same_file(targets):
    recipe = recipe_for("neural_similarity_rn20", defense={"targets": targets})
    before = recipe.as_dict()
    assert before["defense"]["targets"] == targets and recipe.as_dict() == before
    np.savez(targets, **arrays(seed=1))
    assert recipe.as_dict() != before


def changed(name, make):
    return lambda data: {**data, name: make(data[name])}


def put(index, value):
    def make(array):
        array[index] = value
        return array

    return make


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: {"images": data["images"]}, "has images, expected images and similarity"),
        (lambda data: {"other": data["images"]}, "has neither, expected images and similarity"),
        (changed("images", lambda x: x.astype(np.float32)), r"images of .* is float32 .*, expected uint8"),
        (
            changed("images", lambda x: x.transpose(0, 2, 3, 1)),
            r"images of .* \(12, 8, 8, 3\), expected \(K, C, H, W\)",
        ),
        (changed("images", lambda x: x[:2]), r"images .*\(2, 3, 8, 8\), expected .* K ≥ 3"),
        (changed("images", lambda x: np.uint8(0)), r"images .* uint8 \(\), expected"),
        (changed("similarity", lambda x: x[:, :-1]), r"similarity of .* \(12, 11\), expected \(12, 12\)"),
        (changed("similarity", lambda x: x.astype(int)), "similarity of .* int64 .*, expected floats"),
        (changed("similarity", put((0, 1), np.nan)), "NaN or infinity, expected finite"),
        (changed("similarity", put((0, 0), 1.5)), r"reaches ±1.5, expected \[-1, 1\]"),
        (changed("similarity", put((0, 1), 0.987)), "not symmetric"),
        (changed("similarity", lambda x: x.astype(object)), "not an .npz file of plain arrays"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "brain.npz"
    np.savez(path, **change(arrays()))
    with pytest.raises(ValueError, match=f"targets: .*{message}"):
        load_targets(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_no_npz(tmp_path, content):
    path = tmp_path / "brain.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="targets: .*: not an .npz"):
        load_targets(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="targets: .*: not an .npz"):
        load_targets(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError, match="targets: no file .*absent.npz"):
        load_targets(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": ""}, "targets: expected the path of an .npz file, got ''"),
        ({"targets": None}, "targets"),
        ({"layer": ""}, "layer: expected the name of a module"),
        ({"weight": float("nan")}, "weight"),
        ({"stimuli": 0}, "stimuli"),
        ({"stimuli": 2}, "stimuli: expected at least 3"),
    ],
)
def test_parameters_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        NeuralSimilarity(**{"targets": "brain.npz", **changes})


def test_the_defence_is_plain_values():
    made = NeuralSimilarity("brain.npz", layer="layer2", weight=5.0, stimuli=16)
    assert NeuralSimilarity(**json.loads(json.dumps(asdict(made)))) == made
    assert not made.adversarial and not made.double_backward
