"""State dicts of other programs: nests, averages and prefixes."""

import argparse
import re

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from freqrob.models import create_network, load_model, load_weights, open_model
from freqrob.models.cards import CheckpointError
from freqrob.models.checkpoints import load
from freqrob.models.front_ends import with_front_ends
from freqrob.models.state_dicts import fit_keys, select_state
from tests.support.networks import randomise

STATE = {"conv.weight": torch.ones(2), "bn.running_mean": torch.zeros(2), "bn.num_batches_tracked": torch.tensor(5)}
AVERAGE = {key: value + 1 for key, value in STATE.items()}
RANDOM = {"cpu": torch.zeros(9)}


def same(state, expected) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("nest", ["", "state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema"])
def test_state_dicts_are_found_in_their_nests(nest):
    content = {nest: STATE, "epoch": 3, "optimizer": {"state": {0: RANDOM}}} if nest else STATE
    state, key, others = select_state(content, "a.pt")
    assert same(state, STATE) and key == nest and not others


def test_a_nest_in_a_nest_and_a_single_one_of_any_name():
    assert select_state({"model": {"state_dict": STATE, "epoch": 3}}, "a.pt")[1] == "model.state_dict"
    assert select_state({"params": STATE, "rng": RANDOM}, "a.pt")[1:] == ("params", [])


@pytest.mark.parametrize("ema", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "net_ema"])
def test_averaged_weights_are_a_choice(ema):
    content = {ema: AVERAGE, "state_dict": STATE, "rng": RANDOM}
    assert select_state(content, "a.pt")[1:] == ("state_dict", [ema])
    for weights in ("ema", ema):
        state, key, _ = select_state(content, "a.pt", weights)
        assert same(state, AVERAGE) and key == ema
    assert same(select_state(content, "a.pt", "state_dict")[0], STATE)


def test_weights_that_are_not_there():
    with pytest.raises(ValueError, match="weights: a.pt has no averaged weights, but state_dict$"):
        select_state({"state_dict": STATE}, "a.pt", "ema")
    with pytest.raises(ValueError, match="weights: a.pt has no 'best', but last$"):
        select_state({"last": STATE}, "a.pt", "best")
    with pytest.raises(ValueError, match="weights: a.pt has no averaged weights, but a single state dict$"):
        select_state(STATE, "a.pt", "ema")


def test_several_of_unknown_names_are_listed():
    with pytest.raises(CheckpointError, match='several state dicts, last, best; choose one with weights="last"'):
        select_state({"last": STATE, "best": AVERAGE}, "a.pt")
    assert same(select_state({"last": STATE, "best": AVERAGE}, "a.pt", "best")[0], AVERAGE)


@pytest.mark.parametrize(
    "content, got",
    [
        ([torch.zeros(1)], "a list$"),
        ({}, "a dict of nothing$"),
        ({**STATE, "epoch": 3}, r"a dict of epoch \(int\), conv.weight \(Tensor\), "),
        ({"state_dict": {}, "args": argparse.Namespace()}, r"a dict of state_dict \(dict\), args \(Namespace\)$"),
    ],
)
def test_files_without_a_state_dict_say_what_they_hold(content, got):
    with pytest.raises(CheckpointError, match=rf"a.pt: expected a state dict \(tensors by name\), got {got}"):
        select_state(content, "a.pt")


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 1}])
def test_a_whole_model_whose_types_are_allowed_is_a_state_dict(tmp_path, wrap):
    model = nn.Sequential(nn.Linear(2, 3))
    torch.save(wrap(model), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="it contains torch.nn.modules.container.Sequential, .*add_safe_globals"):
        load(tmp_path / "a.pt")
    with torch.serialization.safe_globals([nn.Sequential, nn.Linear]):
        state, _ = load(tmp_path / "a.pt")
    assert same(state, model.state_dict())


# Prefixes


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "_orig_mod.module.model."]
)
def test_prefixes_of_wrappers_are_removed(prefix):
    fitted, found = fit_keys({prefix + key: value for key, value in STATE.items()}, STATE)
    assert same(fitted, STATE) and found == prefix


def test_keys_that_fit_are_left_alone():
    own = {f"model.net.{key}": value for key, value in STATE.items()}
    assert same(fit_keys(own, own)[0], own)
    fitted, found = fit_keys({f"module.{key}": value for key, value in own.items()}, own)
    assert same(fitted, own) and found == "module."


def test_other_keys_stay():
    """Such as a normalisation's, without which the model would be another one."""
    fitted, prefix = fit_keys({"mean": torch.ones(3), **{f"model.{key}": v for key, v in STATE.items()}}, STATE)
    assert prefix == "model." and fitted.keys() == STATE.keys() | {"mean"}
    both = {"conv.weight": torch.zeros(1), **{f"model.{key}": value for key, value in STATE.items()}}
    assert fit_keys(both, STATE)[0].keys() == STATE.keys() | {"model.conv.weight"}
    other = {"features.0.weight": torch.zeros(1)}
    assert same(fit_keys(other, ["conv.weight"])[0], other)
    assert fit_keys({}, ["conv.weight"]) == ({}, "")


def test_the_count_of_an_average_is_left_out():
    averaged = {"n_averaged": torch.tensor(7), **{f"module.{key}": value for key, value in STATE.items()}}
    assert same(fit_keys(averaged, STATE)[0], STATE)
    assert same(fit_keys({f"module.{key}": value for key, value in averaged.items()}, STATE)[0], STATE)
    assert "n_averaged" in fit_keys(averaged, ["n_averaged"])[0]


def test_missing_counts_of_batches_are_zero():
    old = {key: value for key, value in STATE.items() if not key.endswith("tracked")}
    fitted, _ = fit_keys(old, STATE)
    assert fitted.pop("bn.num_batches_tracked") == 0 and same(fitted, old)


# Files


@pytest.fixture(scope="module")
def network():
    return randomise(create_network("rn20"))


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def saved_by_ddp(network):
    return nn.DataParallel(network).state_dict()


def saved_by_an_average(network):
    return {"epoch": 1, "model": torch.zeros(()), "model_ema": AveragedModel(network).state_dict()}


def saved_by_lightning(network):
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    return {"state_dict": state, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}


def saved_compiled(network):
    return {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in network.state_dict().items()}}


def saved_as_loaded(network):
    return with_front_ends(network, [{"name": "normalize", "mean": [0.0] * 3, "std": [1.0] * 3}]).state_dict()


@torch.no_grad()
@pytest.mark.parametrize(
    "save, prefix",
    [
        (saved_by_ddp, "module."), (saved_by_an_average, "module."), (saved_by_lightning, "net."),
        (saved_compiled, "module._orig_mod."), (saved_as_loaded, ""),
    ],
)  # fmt: skip
def test_checkpoints_of_other_programs_load(tmp_path, network, images, save, prefix, recwarn):
    path = tmp_path / "mine.pth.tar"
    torch.save(save(network), path)
    model = open_model(f"standard_rn20={path}")
    torch.testing.assert_close(model(images), network(images))
    said = " ".join(str(warning.message) for warning in recwarn)
    assert (f"mine.pth.tar: loaded without the prefix '{prefix}' of its keys" in said) is bool(prefix)
    assert ("read model_ema" in said) is (save is saved_by_an_average)


@torch.no_grad()
def test_averaged_weights_are_loaded_where_they_are_asked_for(tmp_path, network, images):
    other, path = randomise(create_network("rn20"), seed=1), tmp_path / "mine.ckpt"
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": other.state_dict(), "epoch": 2}, path)
    with pytest.warns(UserWarning, match="mine.ckpt: read state_dict; it also has state_dict_ema, which weights="):
        torch.testing.assert_close(load_model("standard_rn20", custom_checkpoint=path)(images), network(images))
    for weights in ("ema", "state_dict_ema"):
        averaged = open_model(f"standard_rn20={path}", weights=weights)
        torch.testing.assert_close(averaged(images), other(images))
    with pytest.raises(ValueError, match="weights: .*mine.ckpt has no 'best', but state_dict, state_dict_ema"):
        load_model("standard_rn20", custom_checkpoint=path, weights="best")


def test_weights_are_chosen_from_files_only():
    for spec in ("standard_rn20", "torch.nn:Identity"):
        with pytest.raises(ValueError, match=f"weights: got 'ema' for {spec}.*NAME=FILE"):
            open_model(spec, weights="ema")
    with pytest.raises(ValueError, match="weights: got 'ema', .*: expected a custom_checkpoint too"):
        load_model("standard_rn20", weights="ema")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_are_loaded_into_a_network_of_ones_own(prefix, tmp_path):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Conv2d(3, 2, 1)  # an attribute that has the name of a wrapper's

    trained, path = Mine(), tmp_path / "mine.pt"
    torch.save({"state_dict": {prefix + key: value for key, value in trained.state_dict().items()}}, path)
    mine = load_weights(Mine(), path)
    assert same(mine.state_dict(), trained.state_dict())
    with pytest.raises(CheckpointError, match="mine.pt: not the weights of Linear"):
        load_weights(nn.Linear(2, 1), path)


def test_weights_of_another_network_are_refused_with_the_keys_and_the_remedy(tmp_path):
    torch.save({f"module.features.{key}": value for key, value in STATE.items()}, tmp_path / "mine.th")
    found = (
        r"mine.th: not the weights of rn20: conv1.weight is missing; .* and \d+ more. "
        r"Expected 116 keys \(conv1.weight, .*, …\), found \d+ keys \(module.features.conv.weight, .*\). "
        "Name the weights' own architecture, or open them as package.module:function"
    )
    with pytest.warns(UserWarning, match="no card"), pytest.raises(CheckpointError, match=found):
        open_model(f"standard_rn20={tmp_path / 'mine.th'}")


def test_weights_of_other_classes_are_refused(tmp_path):
    torch.save(create_network("rn20", 100).state_dict(), tmp_path / "mine.pt")
    found = re.escape("linear.weight is (100, 64), expected (10, 64)") + ".*choose the data set and the architecture"
    with pytest.warns(UserWarning, match="no card"), pytest.raises(CheckpointError, match=found):
        open_model(f"standard_rn20={tmp_path / 'mine.pt'}")
    with pytest.warns(UserWarning, match="no card"):
        assert (
            open_model(f"standard_rn20={tmp_path / 'mine.pt'}", dataset="cifar100").network.linear.out_features == 100
        )
