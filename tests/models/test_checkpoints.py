"""Checkpoints: what is saved is loaded, and what is not whole is refused."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from freqrob.models import checkpoints, create_network
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.front_ends import FrontEnded, with_front_ends
from tests.support.networks import CARD, randomise


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
        with pytest.raises(CheckpointError, match=f"not the weights of rn20: {key} is missing\\. Expected"):
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
    (tmp_path / "x.tar").touch()
    with pytest.raises(CheckpointError, match=r"x.tar: expected a file ending in .safetensors, .pt, .*, .pth.tar"):
        checkpoints.load(tmp_path / "x.tar")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".th", ".pth.tar", ".PT", ".Pth.Tar", ".CKPT"])
def test_pickles_of_tensors(tmp_path, suffix):
    state = create_network("rn20").state_dict()
    for content in (state, {"state_dict": state, "epoch": 3}):
        torch.save(content, tmp_path / f"x{suffix}")
        found, card = checkpoints.load(tmp_path / f"x{suffix}")
        assert card is None and found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_safetensors_in_upper_case(tmp_path):
    path, network, _ = saved(tmp_path)
    path.rename(tmp_path / "other.SAFETENSORS")
    assert checkpoints.load(tmp_path / "other.SAFETENSORS")[0].keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "pgd_at_rn20.safetensors"])
@pytest.mark.parametrize(
    "content, called",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer.*git lfs",
        ),
        (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "an HTML page.*download it again"),
        (b"<!-- moved --><HTML></HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
    ],
)
def test_what_was_saved_in_place_of_weights_is_named(tmp_path, name, content, called):
    """With a card too, whose hash it does not have."""
    saved(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: .*it is {called}"):
        checkpoints.load(tmp_path / name)


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickles_of_anything_else_are_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="x.pt: it calls posix.mkdir, which .* was not executed"):
        checkpoints.load(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_list_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt: expected a state dict .* got a list"):
        checkpoints.load(tmp_path / "x.pt")


def test_state_that_does_not_fit_is_named():
    network = create_network("rn20")
    state = network.state_dict()
    with pytest.raises(CheckpointError, match=r"a.pt: not the weights of rn20: conv1.weight is missing\. Expected"):
        checkpoints.load_into(network, {k: v for k, v in state.items() if k != "conv1.weight"}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match="extra is unexpected\\. Expected"):
        checkpoints.load_into(network, {**state, "extra": torch.zeros(1)}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match=r"linear.bias is \(100,\), expected \(10,\)\. choose"):
        checkpoints.load_into(network, {**state, "linear.bias": torch.zeros(100)}, "a.pt", "rn20")
    with pytest.raises(CheckpointError, match=r"not the weights of rn20: .* and \d+ more\."):
        checkpoints.load_into(network, create_network("wrn40_2").state_dict(), "a.pt", "rn20")


def test_a_card_s_older_results_are_replaced_by_fuller_ones(tiny, tmp_path):
    path, old = tmp_path / "a.safetensors", {"protocol": "bass", "attack": "PGD-1", "images": 9, "accuracy": 0.5}
    results = [{**old, "step_size": 0.1}, {**old, "step_size": 0.2}, {**old, "images": 8}]
    checkpoints.save(path, create_network("tiny").state_dict(), Card("a", "tiny", results=results))
    new = {**old, "step_size": 0.1, "norm": "Linf", "accuracy": 0.4}
    assert checkpoints.add_results(path, [new]).results == [*results[1:], new]


def test_a_card_keeps_the_results_of_writers_at_one_time(tiny, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, create_network("tiny").state_dict(), Card("a", "tiny"))
    with ThreadPoolExecutor(4) as writers:
        [*writers.map(lambda seed: checkpoints.add_results(path, [{"protocol": "bass", "seed": seed}]), range(40))]
    assert sorted(result["seed"] for result in Card.read(path.with_suffix(".json")).results) == [*range(40)]
