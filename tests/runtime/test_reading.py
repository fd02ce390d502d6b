"""Damaged and hostile files are refused by name, in one line, without waiting, executing or filling memory."""

import argparse
import codecs
import datetime
import json
import os
import pickle
import re
import subprocess
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import Struct
from PIL import Image
from safetensors.torch import save_file

from freqrob.runtime import reading
from freqrob.runtime.reading import (
    decode_json,
    map_npy,
    read_bytes,
    read_image,
    read_json,
    read_npz,
    read_safetensors,
    read_text,
    read_torch,
)
from tests.support.damage import npz_that_declares, refusal

pytestmark = pytest.mark.usefixtures("never_waits")
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def save_png(path):
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)).save(path)


KINDS = {
    "a.json": (lambda path: path.write_text(json.dumps({"a": [1, 2, 3]})), read_json),
    "a.npz": (lambda path: np.savez(path, a=ARRAY), read_npz),
    "a.npy": (lambda path: np.save(path, ARRAY), map_npy),
    "a.png": (save_png, read_image),
    "a.jpg": (save_png, read_image),
    "a.pt": (lambda path: torch.save({"a": torch.ones(3)}, path), read_torch),
    "a.safetensors": (lambda path: save_file({"a": torch.ones(3)}, path), read_safetensors),
}


def replaced(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut to a half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut to a byte": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "text": lambda path: path.write_text("not what it is called"),
    "brackets": lambda path: path.write_bytes(b"[" * 100_000),
    "a zip of nothing": lambda path: zipfile.ZipFile(path, "w").close(),
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "nothing": replaced(lambda path: None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_by_name(tmp_path, name, damage):
    write, read = KINDS[name]
    write(tmp_path / name)
    assert read(tmp_path / name) is not None
    damage(tmp_path / name)
    if damage is DAMAGES["a zip of nothing"] and name == "a.npz":
        assert read(tmp_path / name) == {}
    else:
        refusal(read, tmp_path / name)


@pytest.mark.parametrize("name", KINDS)
def test_cut_anywhere(tmp_path, name):
    """A file without its end is refused, or read as if it were whole where the end says nothing."""
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 40, dtype=int):
        path.write_bytes(content[:size])
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert name in ("a.png", "a.jpg") and size > 0.99 * len(content)


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_byte_anywhere(tmp_path, name):
    """Is read, or refused by name."""
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    content = path.read_bytes()
    for place in range(0, min(len(content), 2000), 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        assert "Permission denied" in refusal(read_json, path)
    finally:
        os.seteuid(user)


class TestText:
    def test_byte_order_mark_and_line_ends(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes(codecs.BOM_UTF8 + b'{\r\n "a": "\xc3\xa4"\r\n}\r\n')
        assert read_json(path) == {"a": "ä"}
        assert read_text(path) == '{\r\n "a": "ä"\r\n}\r\n'

    @pytest.mark.parametrize(
        "content",
        [
            b'{"a": 1',
            b'{"a": 1} {"b": 2}',
            b'{"a": NaN}',
            b'{"a": Infinity}',
            b'{"a": 1e999}',
            b'{"a": "\\ud800"}',
            b'{"a": "\xff"}',
            b'{"a": ' + 10_000 * b"9" + b"}",
            b"{'a': 1}",
            codecs.BOM_UTF16 + '{"a": 1}'.encode("utf-16"),
            100_000 * b'{"a":',
            100_000 * b"[" + 100_000 * b"]",
        ],
    )
    def test_what_is_not_json(self, tmp_path, content):
        (tmp_path / "a.json").write_bytes(content)
        assert refusal(read_json, tmp_path / "a.json").endswith("; replace or remove it")

    def test_other_encodings(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("naïve".encode("latin-1"))
        assert "not a UTF-8 text file (byte 2)" in refusal(read_text, tmp_path / "a.txt")

    def test_far_too_much(self, tmp_path):
        with (tmp_path / "a.json").open("wb") as file:
            file.truncate(1 << 40)
        message = refusal(read_json, tmp_path / "a.json")
        assert "1,099,511,627,776 bytes, expected at most 16,777,216" in message
        assert "expected at most 10" in refusal(lambda path: read_bytes(path, 10), tmp_path / "a.json")

    def test_a_schema_says_where_what_is_wrong(self):
        class Pair(Struct):
            left: int
            right: list[reading.Label] = []

        assert decode_json(b'{"left": 1, "more": 2}', "f", Pair) == Pair(1)
        for content, message in {
            b"{}": "f: Object missing required field `left`; replace",
            b'{"left": 1.5}': r"f: Expected `int`, got `float` - at `\$.left`",
            b'{"left": true}': r"f: Expected `int`, got `bool` - at `\$.left`",
            b'{"left": 1, "right": ["a", null]}': r"f: Expected `str`, got `null` - at `\$.right\[1\]`",
            b'{"left": 1, "right": ["a\\nb"]}': r"f: Expected `str` matching regex .* - at `\$.right\[0\]`",
            b'{"left": 1, "right": ["a\\u001b[31m"]}': r"f: Expected `str` matching regex .*",
            b'{"left": 1, "right": ["' + 100_000 * b"a" + b'"]}': r"f: Expected `str` of length <= 200",
        }.items():
            with pytest.raises(ValueError, match=message):
                decode_json(content, "f", Pair)


class TestBombs:
    def test_an_npz_that_declares_more_than_it_may_have(self, tmp_path):
        npz_that_declares(tmp_path / "a.npz", (10**12,))
        assert "4,000,000,000,000 bytes, expected at most" in refusal(read_npz, tmp_path / "a.npz")
        npz_that_declares(tmp_path / "a.npz", (1000,), data=bytes(4000))
        assert refusal(lambda path: read_npz(path, at_most=3999), tmp_path / "a.npz")
        assert len(read_npz(tmp_path / "a.npz", at_most=4000)["a"]) == 1000
        assert read_npz(tmp_path / "a.npz", names=["b"], at_most=0) == {}, "what is not wanted is not read"

    def test_negative_sizes_do_not_make_room_for_others(self, tmp_path):
        npz_that_declares(tmp_path / "a.npz", (1000,), data=bytes(4000))
        npz_that_declares(tmp_path / "b.npz", (-1000,))
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as both, zipfile.ZipFile(tmp_path / "b.npz") as negative:
            both.writestr("b.npy", negative.read("a.npy"))
        assert "an array of shape (-1000,)" in refusal(lambda path: read_npz(path, at_most=3999), tmp_path / "a.npz")

    def test_many_arrays_count_together(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", **{f"a{n}": np.zeros(1000) for n in range(10)})
        assert "80,000 bytes, expected at most 79,999" in refusal(
            lambda path: read_npz(path, at_most=79_999), tmp_path / "a.npz"
        )

    @pytest.mark.parametrize("shape", [(10**12,), (10**30,), (-5,)])
    def test_arrays_that_are_shorter_than_they_say(self, tmp_path, shape):
        content = npz_that_declares(tmp_path / "a.npz", shape, data=bytes(16))
        (tmp_path / "a.npy").write_bytes(content)
        refusal(read_npz, tmp_path / "a.npz")
        refusal(map_npy, tmp_path / "a.npy")

    def test_an_image_is_measured_before_it_is_decoded(self, tmp_path):
        Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size < 100_000
        with pytest.warns(Image.DecompressionBombWarning):
            message = refusal(read_image, tmp_path / "a.png")
        assert "12,000 × 12,000 pixels, expected at most 67,108,864" in message

    @pytest.mark.parametrize("kind", ["GIF", "EPS", "BMP", "TIFF"])
    def test_other_kinds_of_images_are_not_even_tried(self, tmp_path, kind):
        """Pillow runs Ghostscript on some."""
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png", kind)
        assert "cannot identify" in refusal(read_image, tmp_path / "a.png")

    def test_compressed_tensors(self, tmp_path):
        torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "whole.pt")
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "a.pt", "w", 8) as packed:
            for name in whole.namelist():
                packed.writestr(name, whole.read(name))
        assert (tmp_path / "a.pt").stat().st_size < 50_000
        assert "its header declares more data than the file has" in refusal(read_torch, tmp_path / "a.pt")

    @pytest.mark.parametrize(
        "tensors",
        [
            {"a": torch.zeros(1).expand(10**12)},
            {str(number): torch.zeros(1000).as_strided((1000,), (1,)) for number in range(3)}
            | {f"{number} again": tensor for tensor in [torch.zeros(100_000)] for number in range(40)},
        ],
    )
    def test_tensors_that_share_their_values(self, tmp_path, tensors):
        torch.save(tensors, tmp_path / "a.pt")
        assert "far larger than the file" in refusal(read_torch, tmp_path / "a.pt")

    def test_tied_weights_are_read(self, tmp_path):
        tied = torch.rand(1000)
        torch.save({"in": tied, "out": tied, "turned": tied.view(10, 100).T}, tmp_path / "a.pt")
        assert torch.equal(read_torch(tmp_path / "a.pt")["out"], tied)

    @pytest.mark.parametrize(
        "make",
        [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, lambda tensor: tensor.to("meta"),
         lambda tensor: torch.nested.nested_tensor([tensor]),
         lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8)],
        ids=["sparse", "csr", "meta", "nested", "quantized"],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore")
    def test_tensors_that_are_not_dense(self, tmp_path, make):
        torch.save([{"deep": [make(torch.eye(3))]}], tmp_path / "a.pt")
        assert "sparse, nested, quantized or meta" in refusal(read_torch, tmp_path / "a.pt")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestNothingIsExecuted:
    @pytest.mark.parametrize("save, read, name", [
        (lambda trap, path: torch.save({"a": trap}, path), read_torch, "a.pt"),
        (lambda trap, path: path.write_bytes(pickle.dumps(trap)), read_torch, "a.pt"),
        (lambda trap, path: np.save(path, np.array([trap]), allow_pickle=True), map_npy, "a.npy"),
        (lambda trap, path: np.savez(path, a=np.array([trap])), read_npz, "a.npz"),
        (lambda trap, path: path.write_bytes(pickle.dumps(trap)), read_npz, "a.npz"),
        (lambda trap, path: path.write_bytes(pickle.dumps(trap)), map_npy, "a.npy"),
    ])  # fmt: skip
    def test_of_a_pickle(self, tmp_path, save, read, name):
        save(Trap(tmp_path / "sprung"), tmp_path / name)
        refusal(read, tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    def test_and_the_message_does_not_tell_how(self, tmp_path):
        torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "a.pt")
        message = refusal(read_torch, tmp_path / "a.pt")
        assert "not executed" in message and "weights_only" not in message

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        "content, types",
        [
            ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
            (
                torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Tanh()),
                "torch.nn.modules.container.Sequential",
            ),
            ({"accuracy": np.float64(0.5)}, r"numpy\._?core.multiarray.scalar"),
            ({"day": datetime.date(2020, 1, 1)}, "datetime.date"),
        ],
    )
    def test_types_that_are_not_read_are_named_with_the_safe_way(self, tmp_path, content, types, zipped):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        message = refusal(read_torch, tmp_path / "a.pt")
        assert re.search(f"a.pt: it contains {types}[, ].*torch.save.model.state_dict", message)
        assert re.search(rf"torch.serialization.add_safe_globals\(\[{types}", message)
        assert (", …])" in message) == ("more types" in message) == (zipped and isinstance(content, torch.nn.Module))
        assert "weights_only" not in message

    def test_what_the_user_allows_is_read(self, tmp_path):
        torch.save({"args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt")
        with torch.serialization.safe_globals([argparse.Namespace]):
            assert read_torch(tmp_path / "a.pt") == {"args": argparse.Namespace(lr=0.1)}

    @pytest.mark.parametrize(
        "call, name",
        [
            ((eval, ("1",)), "eval"),
            ((os.mkdir, ("a",)), "posix.mkdir"),
            ((subprocess.Popen, ("a",)), r"\w+.Popen"),
        ],
    )
    def test_no_way_is_told_to_calls(self, tmp_path, call, name):
        class Calls:
            def __reduce__(self):
                return call

        torch.save({"a": Calls(), "b": argparse.Namespace()}, tmp_path / "a.pt")
        message = refusal(read_torch, tmp_path / "a.pt")
        assert re.search(f"it calls {name}, which could run any code and was not executed", message)
        assert "safe_globals" not in message and "weights_only" not in message

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
    def test_scripted_models_are_named(self, tmp_path):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
        message = refusal(read_torch, tmp_path / "a.pt")
        assert "it is a TorchScript archive" in message and "weights_only" not in message

    def test_no_traceback_shows_how(self, tmp_path):
        torch.save({"a": argparse.Namespace()}, tmp_path / "a.pt")
        (tmp_path / "b.pt").write_bytes(pickle.dumps({"a": argparse.Namespace()}))
        for name in ("a.pt", "b.pt"):
            with pytest.raises(ValueError, match=name) as raised:
                read_torch(tmp_path / name)
            assert "weights_only" not in "".join(traceback.format_exception(raised.value))
