"""Neural response: a readout that recovers neurons of known receptive fields, and runs that keep it."""

import numpy as np
import pytest
import torch
from torch import nn

from freqrob.defenses import NeuralResponse
from freqrob.defenses.neural_response import SpatialReadout, load_responses, response_loss
from freqrob.models import create_network
from freqrob.models.checkpoints import load
from freqrob.training import recipe_for, run_images, train
from tests.training.test_training import two_colours_split

SIZE, NEURONS = 16, 5


def core():
    """Gabor-like filters: the features that the neurons read."""
    generator = torch.Generator().manual_seed(3)
    convolution = nn.Conv2d(1, 6, 5, padding=2)
    with torch.no_grad():
        convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator) / 2.5)
        convolution.bias.zero_()
    return nn.Sequential(convolution, nn.Tanh())


def network():
    features = core().requires_grad_(False)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(6 * SIZE * SIZE, 2))


def neurons(stimuli):
    """Responses to stimuli (K, 1, H, W) of neurons at known places with known features, and both."""
    generator = torch.Generator().manual_seed(7)
    place = torch.randint(3, SIZE - 3, (NEURONS, 2), generator=generator)
    weight = torch.randn(NEURONS, 6, generator=generator)
    features = core()(stimuli).detach()
    seen = torch.stack([features[:, :, y, x] for y, x in place.tolist()], 1)  # (K, neurons, 6)
    return nn.functional.elu((seen * weight).sum(2) + 1) + 1, place, weight


def stimuli(count, seed):
    return torch.randint(256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def targets(tmp_path):
    path, images = tmp_path / "monkey.npz", stimuli(2000, 1)
    np.savez(path, images=images.numpy(), responses=neurons(images / 255)[0].numpy())
    return str(path)


@pytest.mark.parametrize("loss", ["poisson", "mse"])
def test_the_readout_recovers_where_neurons_look_and_what_they_see(targets, loss):
    torch.manual_seed(0)
    model = network()
    defense = NeuralResponse(targets, layer="0", weight=1, sparsity=1e-3, stimuli=100, loss=loss)
    readout = defense.make_parts(model)
    optimizer = torch.optim.Adam([*model.parameters(), *readout.parameters()], 0.02)
    images, labels = stimuli(4, 9) / 255, torch.tensor([0, 1, 0, 1])
    for _ in range(200):
        optimizer.zero_grad()
        defense(model, images, labels, readout).backward()
        optimizer.step()
    held_out = stimuli(200, 2) / 255
    expected, place, weight = neurons(held_out)
    with torch.no_grad():
        predicted = readout(model[0](held_out))
    for neuron in range(NEURONS):
        assert np.corrcoef(predicted[:, neuron], expected[:, neuron])[0, 1] > 0.9
        peak = divmod(int(readout.mask[neuron].abs().argmax()), SIZE)
        assert max(abs(peak[0] - place[neuron, 0]), abs(peak[1] - place[neuron, 1])) <= 1
        features = readout.weight[neuron].detach() * readout.mask[neuron].flatten()[readout.mask[neuron].abs().argmax()]
        assert nn.functional.cosine_similarity(features, weight[neuron], dim=0) > 0.8, "shrunk by the sparsity"


def test_the_readout_transcribed():
    readout = SpatialReadout(2, (3, 4, 5))
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    features = torch.randn(6, 3, 4, 5)
    mask, weight, bias = (parameter.detach().numpy() for parameter in readout.parameters())
    for n in range(2):
        seen = (features.numpy() * mask[n]).sum((2, 3)) @ weight[n] + bias[n]
        expected = np.where(seen > 0, seen, np.exp(np.minimum(seen, 0)) - 1) + 1
        assert readout(features)[:, n].detach().numpy() == pytest.approx(expected, rel=1e-4)
    sparsity = [np.abs(mask[n]).sum() * np.abs(weight[n]).sum() for n in range(2)]
    assert readout.sparsity().item() == pytest.approx(np.mean(sparsity), rel=1e-5)


def test_the_poisson_loss_is_smallest_at_the_responses():
    responses = torch.tensor([[0.5, 2.0], [1.0, 3.0]])
    losses = [response_loss(scale * responses, responses, "poisson") for scale in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    expected = (responses - responses * responses.log()).mean()
    assert losses[1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_run_trains_saves_and_resumes_the_readout_but_keeps_it_out_of_the_classifier(tmp_path, monkeypatch):
    monkeypatch.setattr(run_images, "load_dataset", lambda name, split, *_, **__: two_colours_split(split, 32))
    rng, path = np.random.default_rng(0), tmp_path / "brain.npz"
    images = rng.integers(256, size=(12, 3, 32, 32), dtype=np.uint8)
    np.savez(path, images=images, responses=rng.random((12, 4)))
    recipe = recipe_for(
        "neural_response_rn20", epochs=1, batch_size=8, precision="32-true",
        defense={"targets": str(path), "layer": "layer1", "stimuli": 4},
    )  # fmt: skip
    whole = train(recipe, model_dir=tmp_path / "whole", accelerator="cpu")

    def stops(items, what, *_):
        for number, item in enumerate(items):
            if number == 1 and what == recipe.name:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        train(recipe, model_dir=tmp_path / "parts", accelerator="cpu", progress=stops, checkpoint_minutes=0)
    resumed = train(recipe, model_dir=tmp_path / "parts", accelerator="cpu")
    one, other = (load(weights)[0] for weights in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not any("mask" in key or "readout" in key for key in one)
    kept = [
        torch.load(weights.with_suffix("") / "last.ckpt", weights_only=True)["parts"] for weights in (whole, resumed)
    ]
    assert kept[0][0].keys() == {"mask", "weight", "bias"}
    assert all(torch.equal(kept[0][0][key], kept[1][0][key]) for key in kept[0][0])
    state = torch.load(whole.with_suffix("") / "last.ckpt", weights_only=True)
    network_parameters = sum(1 for _ in create_network("rn20").parameters())
    assert len(state["optimizer"]["state"]) == network_parameters + 3, "the readout is trained too"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"responses": np.full((2000, 5), -1.0)}, "negative or non-finite values"),
        ({"responses": np.zeros((3, 5))}, r"responses of .* expected \(2000, neurons\)"),
        ({"images": np.zeros((2000, SIZE, SIZE, 1), np.uint8)}, r"images of .*, expected \(K, C, H, W\)"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(targets, change, message):
    arrays = {**np.load(targets), **change}
    np.savez(targets, **arrays)
    with pytest.raises(ValueError, match=f"targets: .*{message}"):
        load_responses(targets)


def test_a_layer_that_has_no_map_of_features_is_refused(targets):
    with pytest.raises(ValueError, match=r"layer: expected '2' to return features \(N, C, H, W\)"):
        NeuralResponse(targets, layer="2").make_parts(network())
    with pytest.raises(ValueError, match="targets: expected the path"):
        NeuralResponse()
