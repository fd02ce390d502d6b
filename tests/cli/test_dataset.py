"""Corrupted and balanced data sets as files, and the command that writes them."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data import balance, corruption_arrays, load_cifar_b, load_dataset
from freqrob.data.archives import Archive
from freqrob.data.cifar_b import write_cifar_b
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, photographs
from freqrob.data.datasets import ImageSet
from freqrob.data.hybrid import hybrid_images, partners, write_hybrids
from freqrob.diagnostics import CorruptionSpectrum, Spectrum, corruption_spectrum, spectrum

COUNT = 30  # images in each file of the small CIFAR-10
ABOUT = {"dataset": "cifar10", "bass": None}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(photographs, "PACKAGES", ())


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder with CIFAR-10 of few images in the original's format, torchvision's checksums set to match."""
    kind, random = torchvision.datasets.CIFAR10, np.random.default_rng(0)
    folder = tmp_path / "data" / kind.base_folder
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        smooth = np.kron(random.integers(30, 220, (COUNT * 3, 8, 8)), np.ones((4, 4)))
        pixels = (smooth + random.integers(0, 20, smooth.shape)).astype(np.uint8).reshape(COUNT, 3072)
        batch = {"batch_label": name, "labels": random.integers(0, 10, COUNT).tolist(), "data": pixels}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=4))
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name in sorted(md5) if name.startswith("data")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5["batches.meta"]})
    return tmp_path / "data"


@pytest.fixture
def few():
    """Six labelled images."""
    images = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.tensor([3, 1, 4, 1, 5, 9]), tuple("abcdefghij"))


def run(*arguments):
    return CliRunner().invoke(cli.app, ["dataset", *map(str, arguments)])


def error_of(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.output


class TestCorruptedArrays:
    def test_have_the_layout_of_the_benchmark(self, few, tmp_path):
        made = write_corruptions(few, tmp_path, ["fog", "contrast"], about=ABOUT, seed=3)
        assert made == ["fog", "contrast"]
        fog, labels = np.load(tmp_path / "fog.npy"), np.load(tmp_path / "labels.npy")
        assert (fog.shape, fog.dtype) == ((30, 32, 32, 3), np.uint8)
        assert (labels.tolist(), labels.dtype) == (5 * [3, 1, 4, 1, 5, 9], np.uint8)
        for severity in SEVERITIES:
            expected = corrupt(few.images, "fog", severity, seed=3).permute(0, 2, 3, 1).numpy()
            assert (fog[(severity - 1) * 6 : severity * 6] == expected).all()

    def test_do_not_depend_on_how_many_are_made_at_once(self, few, tmp_path, monkeypatch):
        write_corruptions(few, tmp_path / "a", ["glass_blur"], about=ABOUT)
        monkeypatch.setattr(corruption_arrays, "CHUNK", 4)
        write_corruptions(few, tmp_path / "b", ["glass_blur"], about=ABOUT)
        assert (tmp_path / "a" / "glass_blur.npy").read_bytes() == (tmp_path / "b" / "glass_blur.npy").read_bytes()

    def test_come_with_a_record_of_how_they_were_made(self, few, tmp_path):
        write_corruptions(few, tmp_path, ["contrast"], about=ABOUT, seed=3, command="freqrob dataset corrupt")
        record = json.loads((tmp_path / "generated.json").read_text())
        assert record["note"] == "made by freqrob, not the published arrays"
        assert (record["dataset"], record["bass"], record["seed"], record["images"]) == ("cifar10", None, 3, 6)
        assert record["types"]["contrast"]["severities"][0] == {"kept": 0.75}
        assert record["types"]["contrast"]["sha256"] == hashlib.sha256(
            (tmp_path / "contrast.npy").read_bytes()
        ).hexdigest()  # fmt: skip
        assert record["command"] == "freqrob dataset corrupt" and {"torch", "numpy"} < record["versions"].keys()

    def test_are_gone_on_with_after_an_interruption(self, few, tmp_path, monkeypatch):
        calls = []

        def stopped(images, name, severity, **options):
            if len(calls) == 7:
                raise KeyboardInterrupt
            calls.append((name, severity))
            return corrupt(images, name, severity, **options)

        monkeypatch.setattr(corruption_arrays, "corrupt", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_corruptions(few, tmp_path, ["fog", "contrast"], about=ABOUT)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "fog.npy", "generated.json", "labels.npy"]
        monkeypatch.setattr(corruption_arrays, "corrupt", corrupt)
        before = (tmp_path / "fog.npy").stat()
        assert write_corruptions(few, tmp_path, ["fog", "contrast"], about=ABOUT) == ["contrast"]
        assert (tmp_path / "fog.npy").stat() == before
        (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:-1])
        assert write_corruptions(few, tmp_path, ["fog", "contrast"], about=ABOUT) == ["fog"]
        assert write_corruptions(few, tmp_path, ["fog"], about=ABOUT) == []

    def test_of_something_else_are_not_mixed_in(self, few, tmp_path):
        write_corruptions(few, tmp_path, ["contrast"], about=ABOUT)
        with pytest.raises(ValueError, match="holds corruptions of seed 0, expected 1"):
            write_corruptions(few, tmp_path, ["fog"], about=ABOUT, seed=1)
        with pytest.raises(ValueError, match="holds corruptions of bass None, expected amplitude"):
            write_corruptions(few, tmp_path, ["fog"], about={**ABOUT, "bass": "amplitude"})
        for other in (replace(few, images=few.images.flip(0)), replace(few, labels=few.labels.flip(0))):
            with pytest.raises(ValueError, match="holds corruptions of other images; choose another folder"):
                write_corruptions(other, tmp_path, ["contrast"], about=ABOUT)
        (tmp_path / "generated.json").unlink()
        with pytest.raises(FileExistsError, match="holds contrast.npy, which freqrob did not make"):
            write_corruptions(few, tmp_path, ["fog"], about=ABOUT)

    def test_frost_of_other_photographs_is_not_taken_for_these(self, few, tmp_path):
        for folder, level in (("white", 255), ("black", 0)):
            (tmp_path / folder).mkdir()
            for n in range(1, 6):
                Image.new("RGB", (200, 200), (level,) * 3).save(tmp_path / folder / f"frost{n}.png")
        out = tmp_path / "out"
        options = {"about": ABOUT, "frost": tmp_path / "white"}
        assert write_corruptions(few, out, ["frost"], **options) == ["frost"]
        assert write_corruptions(few, out, ["frost"], **options) == [], "the same photographs"
        with pytest.raises(ValueError, match="frost: .* made of other photographs; choose another folder"):
            write_corruptions(few, out, ["frost"], about=ABOUT, frost=tmp_path / "black")

    def test_a_full_disk_is_an_error_and_leaves_what_was_whole(self, few, tmp_path, monkeypatch):
        write_corruptions(few, tmp_path, ["contrast"], about=ABOUT)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(_file):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("freqrob.runtime.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_corruptions(few, tmp_path, ["fog"], about=ABOUT)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_frost_without_photographs_fails_before_the_work(self, few, tmp_path):
        with pytest.raises(FileNotFoundError, match="imagecorruptions-imaug"):
            write_corruptions(few, tmp_path / "new", ["contrast", "frost"], about=ABOUT)
        assert not (tmp_path / "new").exists()


class TestReading:
    @pytest.fixture
    def folder(self, few, tmp_path):
        write_corruptions(few, tmp_path / "made", ["fog", "contrast"], about=ABOUT)
        return tmp_path / "made"

    def test_gives_back_images_and_labels(self, few, folder):
        found = load_corruptions(folder)
        assert found.types == ("fog", "contrast") and torch.equal(found.labels, few.labels)
        for severity in SEVERITIES:
            images = found.images("contrast", severity)
            assert images.is_contiguous() and torch.equal(images, corrupt(few.images, "contrast", severity))
        assert found.generated["seed"] == 0
        assert load_corruptions(folder, types=["contrast"]).types == ("contrast",)

    def test_of_the_published_layout(self, folder, tmp_path):
        (folder / "generated.json").unlink()
        folder.rename(tmp_path / "CIFAR-10-C")
        found = load_corruptions(tmp_path)
        assert found.generated is None and found.folder == tmp_path / "CIFAR-10-C"

    def test_does_not_hold_the_files_in_memory(self, folder):
        assert all(isinstance(array, np.memmap) for array in load_corruptions(folder).arrays.values())

    def test_says_what_is_missing(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match="has no snow.npy, spatter.npy. `freqrob dataset corrupt` makes"):
            load_corruptions(folder, types=["fog", "snow", "spatter"])
        with pytest.raises(ValueError, match="types: expected some of gaussian_noise, .* got 'rain'"):
            load_corruptions(folder, types=["rain"])
        with pytest.raises(FileNotFoundError, match="no corruptions of cifar10 in .*--download.*zenodo.org/records/25"):
            load_corruptions(tmp_path / "nothing")
        with pytest.raises(ValueError, match="dataset: expected one of cifar10, cifar100, got 'svhn'"):
            load_corruptions(folder, "svhn")
        with pytest.raises(ValueError, match="was made of cifar10, got 'cifar100'"):
            load_corruptions(folder, "cifar100")

    @pytest.mark.parametrize(
        "damage, message",
        [
            (lambda path: path.write_bytes(path.read_bytes()[:-1]), "fog.npy: not a whole .npy .*; replace or"),
            (lambda path: path.write_bytes(b""), "fog.npy: not a whole .npy .*; replace or"),
            (lambda path: np.save(path, np.array([print])), "fog.npy: not a whole .npy .*; replace or"),
            (lambda path: np.savez(path.open("wb"), np.zeros(3)), "fog.npy: not a whole .npy .*; replace or"),
            (lambda path: np.save(path, np.zeros((25, 32, 32, 3), np.uint8)), r"expected \(30, 32, 32, 3\) uint8"),
            (lambda path: np.save(path, np.zeros((30, 32, 32, 3))), r"got \(30, 32, 32, 3\) float64"),
        ],
    )
    def test_refuses_a_damaged_array(self, folder, damage, message):
        damage(folder / "fog.npy")
        with pytest.raises(ValueError, match=message):
            load_corruptions(folder)

    @pytest.mark.parametrize(
        "labels, message",
        [
            (np.arange(30) % 10, "expected the same integers 5 times"),
            (np.zeros(29, int), "expected the same integers 5 times"),
            (np.zeros(30), "expected the same integers 5 times"),
            (np.full(30, 10), "expected classes below 10, got 10 to 10"),
        ],
    )
    def test_refuses_labels_that_do_not_fit(self, folder, labels, message):
        np.save(folder / "labels.npy", labels)
        with pytest.raises(ValueError, match=message):
            load_corruptions(folder)

    @pytest.fixture
    def served(self, folder, tmp_path, monkeypatch):
        """The archive of a small CIFAR-10-C on a server of this machine."""
        (tmp_path / "www").mkdir()
        with tarfile.open(tmp_path / "www" / "CIFAR-10-C.tar", "w") as tar:
            for path in folder.glob("*.npy"):
                tar.add(path, f"CIFAR-10-C/{path.name}")
        md5 = hashlib.md5((tmp_path / "www" / "CIFAR-10-C.tar").read_bytes()).hexdigest()
        handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "www")) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/CIFAR-10-C.tar"
            monkeypatch.setitem(corruption_arrays.PUBLISHED, "cifar10", Archive("CIFAR-10-C", url, md5))
            yield tmp_path / "www" / "CIFAR-10-C.tar"
            server.shutdown()

    def test_fetches_the_published_arrays_where_asked(self, served, tmp_path):
        found = load_corruptions(tmp_path / "new", download=True)
        assert found.types == ("fog", "contrast") and found.generated is None
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["CIFAR-10-C"], "not the archive too"
        served.unlink()
        assert load_corruptions(tmp_path / "new", download=True).types == found.types, "not fetched again"

    def test_a_damaged_download_is_an_error_and_leaves_nothing(self, served, tmp_path):
        served.write_bytes(served.read_bytes()[:-1] + b"!")
        with pytest.raises(OSError, match="could not fetch CIFAR-10-C from http://127.0.0.1"):
            load_corruptions(tmp_path / "new", download=True)
        assert not list((tmp_path / "new").iterdir())


class TestCorruptCommand:
    def test_writes_what_reading_finds(self, cifar, tmp_path):
        options = ["--data", cifar, "--out", tmp_path / "c", "--type", "fog", "--type", "saturate", "--seed", 2]
        result = run("corrupt", *options)
        assert result.exit_code == 0, result.output
        assert f"Wrote 2 of 2 types: {tmp_path / 'c'}" in result.output
        test, found = load_dataset("cifar10", "test", cifar), load_corruptions(tmp_path / "c")
        assert torch.equal(found.images("fog", 4), corrupt(test.images, "fog", 4, seed=2))
        assert torch.equal(found.labels, test.labels)
        expected = "freqrob dataset corrupt --dataset cifar10 --type fog --type saturate --seed 2"
        assert found.generated["command"] == expected
        assert "Wrote 0 of 2 types, 2 already there" in run("corrupt", *options).output

    def test_of_balanced_images(self, cifar, tmp_path):
        result = run("corrupt", "--data", cifar, "--out", tmp_path / "c", "--type", "contrast", "--bass")
        assert result.exit_code == 0, result.output
        found = load_corruptions(tmp_path / "c")
        balanced = balance(load_dataset("cifar10", "test", cifar)).images
        assert torch.equal(found.images("contrast", 1), corrupt(balanced, "contrast", 1))
        assert found.generated["bass"] == "amplitude" and found.generated["command"].startswith(
            "freqrob dataset corrupt --bass"
        )  # fmt: skip

    def test_leaves_frost_out_where_it_cannot_be_made_and_says_so(self, cifar, tmp_path, monkeypatch):
        two = {name: CORRUPTIONS[name] for name in ("frost", "contrast")}
        for module in ("corruptions", "corruption_arrays"):
            monkeypatch.setattr(f"freqrob.data.{module}.CORRUPTIONS", two)
        result = run("corrupt", "--data", cifar, "--out", tmp_path / "c")
        assert result.exit_code == 0, result.output
        assert "Left out: frost: needs photographs" in result.output and "over 1 of 2" in result.output
        assert load_corruptions(tmp_path / "c").types == ("contrast",)
        assert "--frost DIR" in error_of("corrupt", "--data", cifar, "--out", tmp_path / "d", "--type", "frost")
        assert "not all five" in error_of("corrupt", "--data", cifar, "--out", tmp_path / "d", "--frost", tmp_path)

    def test_stopped_says_how_to_go_on(self, cifar, tmp_path, monkeypatch):
        def stopped(images, name, *given, **how):
            if name == "fog":
                raise KeyboardInterrupt
            return corrupt(images, name, *given, **how)

        monkeypatch.setattr(corruption_arrays, "corrupt", stopped)
        command = ["corrupt", "--data", cifar, "--out", tmp_path / "c"]
        result = run(*command, "--type", "fog")
        assert result.exit_code == 130 and "Nothing is kept; to start over, run the same command" in result.output
        result = run(*command, "--type", "contrast", "--type", "fog")
        assert result.exit_code == 130 and f"are in {tmp_path / 'c'}; to resume, run the same command" in result.output

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--type", "rain"], "types: expected some of gaussian_noise"),
            (["--dataset", "svhn"], "dataset: expected one of cifar10, cifar100, got 'svhn'"),
            (["--seed", "-1"], "seed: expected an integer from 0 on"),
            (["--type", "fog", "--device", "abacus"], "device: cannot use 'abacus'"),
            (["--type", "fog", "--data", "/nonexistent"], "no intact CIFAR-10"),
        ],
    )
    def test_refuses_bad_input(self, cifar, tmp_path, arguments, message):
        data = [] if "--data" in arguments else ["--data", cifar]
        assert message in error_of("corrupt", "--out", tmp_path / "c", *data, *arguments)

    @pytest.mark.parametrize("name", ["corrupt", "bass"])
    def test_help_teaches_by_example(self, name):
        shown = run(name, "--help")
        assert shown.exit_code == 0 and f"• freqrob dataset {name}" in shown.output


class TestCifarB:
    def test_differs_from_the_original_in_its_pixels_only(self, cifar, tmp_path):
        folder = write_cifar_b(cifar, tmp_path / "b")
        assert folder == tmp_path / "b" / "cifar-10-batches-py"
        for path in (cifar / "cifar-10-batches-py").iterdir():
            old, new = (pickle.loads(file.read_bytes()) for file in (path, folder / path.name))
            if path.name == "batches.meta":
                assert old == new
                continue
            assert len(path.read_bytes()) == len((folder / path.name).read_bytes())
            assert {key: value for key, value in old.items() if key != "data"} == {
                key: value for key, value in new.items() if key != "data"
            }  # fmt: skip
            natural = ImageSet(torch.from_numpy(old["data"]).view(-1, 3, 32, 32), torch.tensor(old["labels"]), ())
            assert (balance(natural).images.flatten(1).numpy() == new["data"]).all()
            assert (old["data"] != new["data"]).mean() > 0.5

    @pytest.mark.parametrize("weighting", ["amplitude", "power"])
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_is_read_back_in_the_splits_of_the_original(self, cifar, tmp_path, weighting, split):
        write_cifar_b(cifar, tmp_path / "b", weighting=weighting)
        found, natural = load_cifar_b(tmp_path / "b", split), load_dataset("cifar10", split, cifar)
        expected = balance(natural, weighting=weighting)
        assert torch.equal(found.labels, expected.labels) and found.classes == expected.classes
        # BaSS in single precision rounds by an image's place in its batch.
        assert (found.images.int() - expected.images.int()).abs().max() <= 1

    def test_is_no_original_to_torchvision(self, cifar, tmp_path):
        write_cifar_b(cifar, tmp_path / "b")
        with pytest.raises(FileNotFoundError, match="no intact CIFAR-10"):
            load_dataset("cifar10", "test", tmp_path / "b")

    def test_is_there_as_a_whole_or_not_at_all(self, cifar, tmp_path):
        def stopping(items, _what, _count):
            yield from list(items)[:2]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_cifar_b(cifar, tmp_path / "b", track=stopping)
        assert not list((tmp_path / "b").iterdir())

    def test_a_killed_writer_leaves_nothing_to_the_next(self, cifar, tmp_path):
        def killing(*_):
            os.kill(os.getpid(), signal.SIGKILL)
            yield

        child = multiprocessing.get_context("fork").Process(
            target=write_cifar_b, args=(cifar, tmp_path / "b"), kwargs={"track": killing}
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL and len(list((tmp_path / "b").iterdir())) == 2
        folder = write_cifar_b(cifar, tmp_path / "b")
        assert list((tmp_path / "b").iterdir()) == [folder]

    def test_never_replaces_anything(self, cifar, tmp_path):
        with pytest.raises(FileExistsError, match="already exists"):
            write_cifar_b(cifar, cifar)
        assert len(load_dataset("cifar10", "test", cifar)) == COUNT

    def test_a_file_that_changed_is_refused(self, cifar, tmp_path):
        folder = write_cifar_b(cifar, tmp_path / "b")
        content = bytearray((folder / "test_batch").read_bytes())
        content[1000] ^= 1
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(ValueError, match="test_batch was changed"):
            load_cifar_b(tmp_path / "b", "test")
        assert len(load_cifar_b(tmp_path / "b", "val")) == 5 * COUNT // 10

    def test_a_foreign_pickle_is_not_executed(self, cifar, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        folder = write_cifar_b(cifar, tmp_path / "b")
        (folder / "test_batch").write_bytes(pickle.dumps({"data": Trap()}, protocol=4))
        record = json.loads((folder / "cifar_b.json").read_text())
        record["sha256"]["test_batch"] = hashlib.sha256((folder / "test_batch").read_bytes()).hexdigest()
        (folder / "cifar_b.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=f"refers to {io.open.__module__}.open, which is not executed"):
            load_cifar_b(tmp_path / "b", "test")
        assert not (tmp_path / "sprung").exists()

    def test_bad_input_is_named(self, cifar, tmp_path):
        with pytest.raises(ValueError, match="dataset: expected one of cifar10, cifar100, got 'svhn'"):
            write_cifar_b(cifar, tmp_path / "b", "svhn")
        with pytest.raises(ValueError, match="weighting"):
            write_cifar_b(cifar, tmp_path / "b", weighting="neither")
        with pytest.raises(ValueError, match="split: expected one of train, val, test, got 'all'"):
            load_cifar_b(tmp_path, "all")
        with pytest.raises(FileNotFoundError, match="freqrob dataset bass"):
            load_cifar_b(tmp_path, "test")

    def test_the_command_says_where_it_is(self, cifar, tmp_path):
        result = run("bass", "--data", cifar, "--out", tmp_path / "b", "--weighting", "power")
        assert result.exit_code == 0, result.output
        assert f"Wrote {tmp_path / 'b' / 'cifar-10-batches-py'}" in result.output
        record = json.loads((tmp_path / "b" / "cifar-10-batches-py" / "cifar_b.json").read_text())
        assert (record["weighting"], record["dataset"]) == ("power", "cifar10")
        assert record["command"] == "freqrob dataset bass --dataset cifar10 --weighting power"
        assert "already exists" in error_of("bass", "--data", cifar, "--out", tmp_path / "b")

    def test_of_files_as_the_official_ones(self):
        """Python 2 wrote them: strings are bytes there, and the pixels one of them."""
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
        head = b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x03K\x01eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\n"
        array = b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00"
        content = head + array + state + pixels.tobytes() + b"tbu."
        from freqrob.data.cifar_b import _balanced, _unpickled

        assert (_unpickled(content)["data"] == pixels).all()
        balanced = _unpickled(_balanced(content, "amplitude"))
        assert balanced["labels"] == [3, 1] and (balanced["data"] != pixels).any()
        old = pickle.loads(_balanced(content, "amplitude"), encoding="bytes")
        assert old.keys() == {b"labels", b"data"}


# Hybrid images


def test_hybrid_images_are_those_that_models_are_measured_on(cifar, tmp_path):
    out = tmp_path / "hybrid"
    command = ["dataset", "hybrid", "--data", str(cifar), "--out", str(out), "--frequency", "0.1", "--frequency", "0.3"]
    result = CliRunner().invoke(cli.app, [*command, "--images", "20", "--seed", "3", "--png", "4", "--float"])
    assert result.exit_code == 0, result.output
    test = load_dataset("cifar10", "test", cifar)[:20]
    with np.load(out / "hybrid.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    other = partners(test.labels, 3)
    assert found["frequencies"].tolist() == [0.1, 0.3] and torch.equal(found["partners"], other)
    assert torch.equal(found["low_labels"], test.labels) and torch.equal(found["high_labels"], test.labels[other])
    assert (found["low_labels"] != found["high_labels"]).all()
    pixels = test.images / 255
    assert torch.equal(found["images"][1], hybrid_images(pixels, pixels[other], 0.3))
    about = json.loads((out / "hybrid.json").read_text())
    assert (about["images"], about["seed"], about["dtype"], about["dataset"]) == (20, 3, "float32", "cifar10")
    sheet = torch.from_numpy(np.array(Image.open(out / "hybrid.png"))).permute(2, 0, 1)
    assert sheet.shape == (3, 4 * 66 + 2, 4 * 66 + 2)
    assert (sheet[:, 2:66:2, 2:66:2].float() - test.images[0]).abs().max() <= 1, "the first is the low image"
    assert (sheet[:, 2:66:2, 200:264:2].float() - test.images[other[0]]).abs().max() <= 1, "the last is its partner"


def test_hybrid_images_of_bytes_are_rounded_and_whole_or_absent(few, tmp_path, monkeypatch):
    path = write_hybrids(few, tmp_path / "a", frequencies=(0.2,))
    with np.load(path) as file:
        images = torch.from_numpy(file["images"])
    assert images.dtype == torch.uint8 and not (tmp_path / "a" / "hybrid.png").exists()
    floats = few.images / 255
    expected = hybrid_images(floats, floats[partners(few.labels)], 0.2)
    assert (images[0] / 255 - expected).abs().max() <= 0.5001 / 255
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        write_hybrids(few, tmp_path / "a", frequencies=(0.1,))
    assert path.read_bytes() == before and len(list((tmp_path / "a").iterdir())) == 2
    with pytest.raises(ValueError, match="frequencies: expected at least one"):
        write_hybrids(few, tmp_path, frequencies=())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"frequencies": (0.1, -1)}, "frequencies: expected numbers from 0 to 0.707 .*, got -1"),
        ({"frequencies": (5,)}, "frequencies: expected numbers from 0 to 0.707 cycles.pixel, .* got 5"),
        ({"frequencies": (float("nan"),)}, "frequencies: expected numbers .*, got nan"),
        ({"frequencies": ("0.1",)}, "frequencies: expected numbers .*, got '0.1'"),
        ({"seed": -1}, "seed: expected an integer from 0 on, got -1"),
    ],
)
def test_hybrid_images_that_cannot_be_mixed_are_refused_before_anything_is_written(few, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write_hybrids(few, tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


def test_mixing_frequencies_are_written_as_fractions_too_up_to_the_corner(cifar, tmp_path):
    given = ["--frequency", "1/8", "--frequency", "0", "--frequency", str(0.5**0.5)]
    result = run("hybrid", "--data", cifar, "--out", tmp_path / "a", "--images", 10, "--float", *given)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "a" / "hybrid.npz") as file:
        assert file["frequencies"].tolist() == [0.125, 0, 0.5**0.5]
        assert np.allclose(file["images"][2], load_dataset("cifar10", "test", cifar)[:10].images / 255, atol=1e-6)
    assert "images: expected at most" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--images", 99999)
    assert "got 'low'" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--frequency", "low")
    assert "frequencies: expected" in error_of("hybrid", "--data", cifar, "--out", tmp_path / "b", "--frequency", "1")


# Spectra


def test_the_spectra_of_a_data_set_and_its_corruptions(cifar, tmp_path):
    test = load_dataset("cifar10", "test", cifar)
    write_corruptions(test[:20], tmp_path / "c", ["contrast", "gaussian_noise"], about=ABOUT)
    command = ["dataset", "spectrum", "--data", str(cifar), "--bass", "--corruptions", str(tmp_path / "c")]
    result = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = {name: Spectrum.load(tmp_path / "out", name) for name in ("natural", "bass", "contrast", "gaussian_noise")}
    assert [one.images for one in found.values()] == [30, 30, 100, 100]
    assert found["natural"].log_b_low == spectrum(test.images).log_b_low
    assert found["bass"].log_b_low == spectrum(balance(test).images).log_b_low
    noise = CorruptionSpectrum.load(tmp_path / "out", "gaussian_noise_change")
    assert noise.images == 20 and noise.log_b_low.shape == (5,)
    assert f"{noise.mean_log_b_low:.2f}" in result.output and f"{found['bass'].alpha:.2f}" in result.output
    about = json.loads((tmp_path / "out" / "contrast.json").read_text())
    assert about["set"] == "contrast" and about["source"] == "cifar10 test" and "--bass" in about["command"]


def test_what_was_added_to_balanced_images_is_measured_against_them(cifar, tmp_path):
    test = load_dataset("cifar10", "test", cifar)
    write_corruptions(balance(test), tmp_path / "c", ["contrast"], about={**ABOUT, "bass": "amplitude"})
    command = ["dataset", "spectrum", "--data", str(cifar), "--corruptions", str(tmp_path / "c")]
    assert CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")]).exit_code == 0
    found = CorruptionSpectrum.load(tmp_path / "out", "contrast_change")
    arrays = load_corruptions(tmp_path / "c")
    twins = (arrays.images("contrast", severity) for severity in SEVERITIES)
    assert found.mean_log_b_low == corruption_spectrum(balance(test).images, twins).mean_log_b_low


def test_corruptions_of_other_images_are_an_error(cifar, few, tmp_path):
    write_corruptions(few, tmp_path / "c", ["contrast"], about=ABOUT)
    command = ["dataset", "spectrum", "--data", str(cifar), "--corruptions", str(tmp_path / "c")]
    result = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "are not corruptions of cifar10's test set" in result.output
