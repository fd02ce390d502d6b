"""Per-sample results: whole files, shared by processes, and what becomes of damaged ones."""

import errno
import json
import multiprocessing
import os

import pytest
import torch
from safetensors import safe_open

from freqrob.runtime import files
from freqrob.runtime.result_store import Samples

KEY = {"model": "abc", "attack": {"name": "PGD-20", "eps": 8 / 255}}


def samples(folder, count=6, **changes):
    return Samples(folder, {**KEY, **changes}, count, prefix="PGD-20 at ε")


def remaining(kept):
    """The indices of the samples that are not done."""
    return (~kept.done).nonzero().flatten().tolist()


def test_what_was_put_is_there_the_next_time(tmp_path):
    first = samples(tmp_path)
    first.put(slice(1, 3), size=torch.tensor([0.5, 0.25]), raw=torch.ones(2, 3, 4, 4))
    first.put(torch.tensor([5, 0]), size=torch.tensor([5.0, 7.0]), raw=torch.zeros(2, 3, 4, 4))
    again = samples(tmp_path)
    assert remaining(again) == [3, 4] == remaining(first)
    assert again["size"].tolist() == [7, 0.5, 0.25, 0, 0, 5]
    assert again["raw"].shape == (6, 3, 4, 4) and again["raw"].sum() == 2 * 48


def test_a_file_is_named_by_its_key_and_says_it(tmp_path):
    one, other = samples(tmp_path), samples(tmp_path, model="abd")
    assert one.path != other.path and one.path.name.startswith("PGD-20-at-")
    one.put(slice(None), correct=torch.ones(6, dtype=torch.bool))
    with safe_open(one.path, "pt") as file:
        assert json.loads(file.metadata()["key"]) == KEY
    assert not other.done.any() and not samples(tmp_path, model="abd").done.any()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = samples(None)
    kept.put(torch.arange(4), correct=torch.ones(4, dtype=torch.bool))
    assert remaining(kept) == [4, 5] and kept["correct"].sum() == 4
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
    assert not again.done.any()
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
    assert remaining(samples(tmp_path)) == [2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    kept = samples(tmp_path)
    left = tmp_path / f".{kept.path.name}.{files._kernel()}.01234567.tmp"
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
    assert remaining(kept) == [2, 3, 4, 5]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        samples(tmp_path / "file" / "cache")
