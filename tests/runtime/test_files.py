"""Files that are written: temporary files of killed writers are removed, those in use are not; a full disk is named."""

import errno
import fcntl
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from freqrob import diagnose, evaluate
from freqrob.data import ImageSet, load_cifar_b, load_dataset
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.corruptions import find_frost
from freqrob.data.hybrid import write_hybrids
from freqrob.data.image_files import ImageFiles, decode
from freqrob.diagnostics import spectrum
from freqrob.models import list_models, load_model
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.models.downloads import download
from freqrob.report import write_report
from freqrob.runtime import files
from freqrob.runtime.files import (
    temporary_beside,
    temporary_folder_beside,
    write_bytes,
    write_npy,
    write_text,
    write_torch,
)
from freqrob.runtime.result_store import Samples
from freqrob.training.curves import draw_curves
from freqrob.training.run_folder import RunFolder
from tests.support.users import STRANGER, as_user, needs_root

forks = multiprocessing.get_context("fork")
TWO_DAYS = 2 * 24 * 60 * 60


def images(count=20):
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % 10, tuple("abcdefghij"))


def pair():
    return torch.rand(2, 1, 2, 2), torch.tensor([0, 1])


def killed(write, *arguments):
    """Run ``write``, which kills its own process, in a process of its own."""
    child = forks.Process(target=write, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def temporaries(folder):
    return sorted(path.name for ending in ("tmp", "folder") for path in folder.rglob(f".*.{ending}"))


def kill_in_file(path):
    with temporary_beside(path) as new:
        new.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def kill_in_folder(path):
    with temporary_folder_beside(path) as new:
        (new / "part").mkdir()
        (new / "part" / "file").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


class TestKilledWriters:
    def test_the_next_writer_of_the_same_file_removes_what_they_left(self, tmp_path):
        killed(kill_in_file, tmp_path / "fog.npy")
        killed(kill_in_file, tmp_path / "fog.npy")
        killed(kill_in_file, tmp_path / "snow.npy")
        assert [name.split(".")[1] for name in temporaries(tmp_path)] == ["fog", "snow"]
        write_text(tmp_path / "fog.npy", "whole")
        (left,) = temporaries(tmp_path)
        assert left.startswith(".snow.npy."), "what a writer of another file left is none of its business"

    def test_a_writer_of_a_folder_removes_their_folder(self, tmp_path):
        killed(kill_in_folder, tmp_path / "CIFAR-10-C")
        assert list(tmp_path.rglob("file"))
        with temporary_folder_beside(tmp_path / "CIFAR-10-C") as new:
            assert not list(tmp_path.rglob("file"))
            (new / "inside").mkdir()
            os.replace(new / "inside", tmp_path / "CIFAR-10-C")
        assert [path.name for path in tmp_path.iterdir()] == ["CIFAR-10-C"]

    def test_corruptions(self, tmp_path):
        def kill_before_the_first_block(*_):
            os.kill(os.getpid(), signal.SIGKILL)
            yield

        def write(progress):
            write_corruptions(images(), tmp_path, ["fog"], about={}, progress=progress)

        killed(write, kill_before_the_first_block)
        (left,) = temporaries(tmp_path)
        assert left.startswith(".fog.npy.")
        write(lambda items, *_: items)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [".lock", "fog.npy", "generated.json", "labels.npy"]

    def test_a_file_name_with_the_signs_of_a_pattern(self, tmp_path):
        killed(kill_in_file, tmp_path / "a[1]*.json")
        write_text(tmp_path / "a[1]*.json", "whole")
        assert [path.name for path in tmp_path.iterdir()] == ["a[1]*.json"]

    def test_a_file_of_the_user_is_left_alone(self, tmp_path):
        for name in (".fog.npy.tmp", ".fog.npy.mine.tmp", ".fog.npy.01234567.89abcdef.tmp.old"):
            (tmp_path / name).touch()
        write_text(tmp_path / "fog.npy", "whole")
        assert len(list(tmp_path.iterdir())) == 4


class TestLivingWriters:
    def test_keep_their_files(self, tmp_path):
        path = tmp_path / "fog.npy"
        with temporary_beside(path) as first, temporary_folder_beside(path) as folder:
            first.write_bytes(b"first")
            (folder / "file").touch()
            os.utime(first, (0, 0))
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"from freqrob.runtime.files import *; write_text(Path({str(path)!r}), 'second')",
                ],
                check=True,
            )
            write_text(path, "third")
            assert (folder / "file").exists()
            os.replace(first, path)
        assert path.read_bytes() == b"first"
        assert [one.name for one in tmp_path.iterdir()] == ["fog.npy"]

    def test_many_of_one_file_at_once(self, tmp_path):
        """Some are killed in the middle of writing, the others never fail."""
        path, start = tmp_path / "file", forks.Event()

        def write(letter):
            start.wait()
            for _ in range(50):
                write_bytes(path, 1000 * letter)

        def dying():
            start.wait()
            for number in range(20):
                write_bytes(path, 1000 * b"x")
                if number == 19:
                    kill_in_file(path)

        writers = [forks.Process(target=write, args=(bytes([letter]),)) for letter in b"abc"]
        writers += [forks.Process(target=dying) for _ in range(3)]
        for writer in writers:
            writer.start()
        start.set()
        for writer in writers:
            writer.join()
        assert [writer.exitcode for writer in writers] == [0] * 3 + [-signal.SIGKILL] * 3
        assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 1000
        write_text(path, "")
        assert [one.name for one in tmp_path.iterdir()] == ["file"]


class TestOtherMachines:
    """Whose locks may not be seen here, on a shared file system."""

    @pytest.fixture
    def left(self, tmp_path):
        left = tmp_path / ".fog.npy.01234567.89abcdef.tmp"
        left.write_bytes(b"half")
        return left

    def test_a_file_is_left_until_it_has_not_changed_for_a_day(self, tmp_path, left):
        write_text(tmp_path / "fog.npy", "")
        assert left.exists()
        os.utime(left, (time.time() - TWO_DAYS,) * 2)
        write_text(tmp_path / "fog.npy", "")
        assert not left.exists()

    def test_a_folder_in_which_a_file_changed_is_left(self, tmp_path, left):
        folder = left.with_suffix(".folder")
        folder.mkdir()
        (folder / "new").touch()
        for old in (left, folder):
            os.utime(old, (time.time() - TWO_DAYS,) * 2)
        write_text(tmp_path / "fog.npy", "")
        assert (folder / "new").exists() and left.exists()
        os.utime(folder / "new", (time.time() - TWO_DAYS,) * 2)
        write_text(tmp_path / "fog.npy", "")
        assert [path.name for path in tmp_path.iterdir()] == ["fog.npy"]

    def test_a_lock_that_is_seen_counts_however_old_the_file(self, tmp_path, left):
        os.utime(left, (time.time() - TWO_DAYS,) * 2)
        with left.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            write_text(tmp_path / "fog.npy", "")
            assert left.exists()
        write_text(tmp_path / "fog.npy", "")
        assert not left.exists()

    def test_without_locks_nothing_is_removed(self, tmp_path, left, monkeypatch):
        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        mine = tmp_path / f".fog.npy.{files._kernel()}.89abcdef.tmp"
        for one in (mine, left):
            one.touch()
            os.utime(one, (time.time() - TWO_DAYS,) * 2)
        monkeypatch.setattr(fcntl, "flock", no_locks)
        write_text(tmp_path / "fog.npy", "whole")
        assert mine.exists() and left.exists() and (tmp_path / "fog.npy").read_text() == "whole"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted only by root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def write_checkpoint(folder):
    save(folder / "m.safetensors", {"weight": torch.zeros(100, 1000)}, Card("m", "rn20"))


def write_samples(folder):
    Samples(folder, {}, 100_000).put(slice(None), value=torch.zeros(100_000))


def write_download(folder):
    (folder.parent / "from").write_bytes(bytes(100_000))
    card = Card("m", "rn20", url=(folder.parent / "from").as_uri(), sha256="0" * 64)
    download(card, folder / "m.safetensors")


def write_measurement(folder):
    spectrum(torch.rand(2, 3, 8, 8)).save(folder, about={"long": "x" * 100_000})


def write_decoded(folder):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(folder.parent / "image.png")
    decode(ImageFiles(folder.parent, ("image.png",), torch.tensor([0]), ("a",)), 200, folder / "cache", lambda i, *_: i)


def write_curves(folder):
    (folder / "other").write_bytes(bytes(60_000))
    draw_curves([{"epoch": 1, "loss": 1.0, "val_clean": 0.5, "selection": 0.5}], folder / "curves.png")


WRITERS = {
    "text": (lambda folder: write_text(folder / "file", "x" * 100_000), "file"),
    "json": (lambda folder: files.write_json(folder / "file", ["x" * 100_000]), "file"),
    "csv": (lambda folder: files.write_csv(folder / "file", [{"a": "x" * 100_000}], ["a"]), "file"),
    "torch": (lambda folder: write_torch(folder / "file", torch.zeros(100, 1000)), "file"),
    "npy": (lambda folder: write_npy(folder / "file", (100_000,), [np.zeros(100_000, np.uint8)]), "file"),
    "checkpoint": (write_checkpoint, "m.safetensors"),
    "run": (lambda folder: RunFolder(folder, {}).write({"network": torch.zeros(100, 1000)}), "last.ckpt"),
    "batch": (
        lambda folder: RunFolder(folder, {}).write_batch(torch.zeros(100, 1000), torch.zeros(1), 1, {}),
        "not_finite.pt",
    ),
    "curves": (write_curves, "curves.png"),
    "samples": (write_samples, "samples-44136fa355b3678a1146.safetensors"),
    "download": (write_download, "m.safetensors"),
    "measurement": (write_measurement, "spectrum.json"),
    "decoded": (write_decoded, "cache_*.npy"),
    "corruptions": (lambda folder: write_corruptions(images(), folder, ["fog"], about={}), "fog.npy"),
    "hybrids": (lambda folder: write_hybrids(images(), folder), "hybrid.npz"),
}
READ_FIRST = [WRITERS[name][0] for name in ("samples", "decoded", "corruptions")]


@pytest.mark.parametrize("write, name", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_named_with_the_remedy(small_disk, write, name):
    expected = rf"could not write {small_disk}/{name.replace('*', '.*')}: No space left on device. Free space there"
    with pytest.raises(OSError, match=expected) as raised:
        write(small_disk)
    assert raised.value.errno == errno.ENOSPC or isinstance(raised.value.__cause__, files.NoSpaceError)
    assert "intact" not in str(raised.value), "there was nothing before"
    assert not temporaries(small_disk)
    if write not in READ_FIRST:
        path = small_disk / name
        path.write_bytes(b"")
        with pytest.raises(OSError, match="Free space there, .* the earlier .* is intact"):
            write(small_disk)
        assert path.read_bytes() == b""


def test_a_size_limit_is_named_too(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match=f"{tmp_path}/file: File too large. Free space") as raised:
            write_text(tmp_path / "file", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_found_before_the_work(small_disk):
    def blocks():
        raise AssertionError("nothing is computed")
        yield

    with pytest.raises(OSError, match="No space left on device"):
        write_npy(small_disk / "file", (1 << 20,), blocks())


def test_another_error_stays_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file" / "inside", "")
    with pytest.raises(RuntimeError, match="mine"), temporary_beside(tmp_path / "new"):
        raise RuntimeError("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_network_goes_from_the_full_disk_as_it_was(small_disk):
    """The checkpoint of an epoch before is there, whole, when that of the next one has no room."""
    network = nn.Linear(4, 4)
    save(small_disk / "m.safetensors", network.state_dict(), Card("m", "rn20"))
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    with pytest.raises(OSError, match="the earlier m.safetensors is intact"):
        write_checkpoint(small_disk)
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before


def test_a_file_that_is_written_has_the_users_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(Path(tmp_path / "file"), "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_text_is_whole_or_absent(tmp_path):
    (tmp_path / "page.html").write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text(tmp_path / "page.html", "after")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "before"


@pytest.mark.parametrize("mode, expected", [(0o777, 0o666), (0o775, 0o664), (0o755, 0o644), (0o700, 0o600)])
def test_who_can_write_in_a_folder_can_lock_there(tmp_path, mode, expected):
    tmp_path.chmod(mode)
    with files.locked(tmp_path / ".lock"):
        assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == expected


@needs_root
def test_users_share_a_folder_of_results(common):
    common.chmod(0o777)
    Samples(common, {"a": 1}, 3).put(torch.arange(2), value=torch.ones(2))
    assert as_user(STRANGER, lambda: Samples(common, {"a": 1}, 3).done.tolist()) == [True, True, False]
    answer = as_user(STRANGER, lambda: write_corruptions(images(), common / "c", ["fog"], about={}))
    assert answer == ["fog"]


class TestHome:
    UNKNOWN = "~nobody-has-this-name/place"

    @pytest.mark.parametrize(
        "argument, call",
        [
            ("data_dir", lambda path: load_dataset("cifar10", "test", path)),
            ("data_dir", lambda path: load_cifar_b(path, "test")),
            ("folder", lambda path: load_corruptions(path, "cifar10")),
            ("folder", lambda path: write_corruptions(images(), path, ["fog"], about={})),
            ("folder", lambda path: write_hybrids(images(), path, frequencies=[0.1])),
            ("frost", lambda path: find_frost(path)),
            ("model_dir", lambda path: list_models(model_dir=path)),
            ("model_dir", lambda path: load_model("standard_rn20", path)),
            ("custom_checkpoint", lambda path: load_model("standard_rn20", custom_checkpoint=f"{path}.pt")),
            ("cache", lambda path: evaluate(nn.Flatten(), *pair(), cache=path)),
            ("out", lambda path: diagnose(nn.Flatten(), *pair(), out=path)),
            ("out", lambda path: write_report([], path)),
            ("folder", lambda path: spectrum(images().images).save(path)),
        ],
    )
    def test_one_that_is_not_known_is_an_error_that_names_the_argument(self, monkeypatch, tmp_path, argument, call):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=f"^{argument}: {self.UNKNOWN}.* unknown home folder"):
            call(self.UNKNOWN)
        assert not list(tmp_path.iterdir())

    def test_results_are_written_there(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        spectrum(images().images).save("~/spectra")
        assert (tmp_path / "spectra" / "spectrum.json").is_file()
