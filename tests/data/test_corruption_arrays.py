"""Corrupted data sets as files: written as the benchmark's are, read, downloaded, and refused if damaged."""

import hashlib
import json
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.data import corruption_arrays
from freqrob.data.archives import Archive
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.corruptions import SEVERITIES, corrupt, photographs
from tests.support.command_line import run

ABOUT = {"dataset": "cifar10", "bass": None}


@pytest.fixture(autouse=True)
def no_photographs(monkeypatch):
    monkeypatch.setattr(photographs, "PACKAGES", ())


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

    def test_gives_the_images_of_some_classes(self, few, folder):
        """Renumbered in the given order: 3, 1, 4, 1, 5, 9 are cat, automobile, deer, automobile, dog, truck."""
        every = load_corruptions(folder)
        some = every.select_classes(["dog", "automobile"])
        assert some.labels.tolist() == [1, 1, 0] and some.classes == ("dog", "automobile")
        for severity in (1, 5):
            assert torch.equal(some.images("contrast", severity), every.images("contrast", severity)[[1, 3, 4]])
        with pytest.raises(ValueError, match="classes.*dogs.* Nearest: dog"):
            every.select_classes(["dogs"])
        with pytest.raises(ValueError, match="no image is of one of these 1 classes"):
            every.select_classes(["ship"])

    def test_of_some_classes_are_measured_by_the_logits_of_these(self, folder, tmp_path, monkeypatch):
        class Dogs(torch.nn.Module):
            """Dogs are the most likely, then automobiles, of ten classes."""

            def forward(self, images):
                logits = torch.zeros(len(images), 10)
                logits[:, 5], logits[:, 1] = 2, 1
                return logits

        monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_, **__: Dogs())
        given = ["corruptions", "timm:any", "--data", folder, "--type", "contrast", "--no-cache"]
        for classes, shares in (("automobile\ncat\n", 2 / 3), ("automobile\ndog\n", 1 / 3)):
            (tmp_path / "classes.txt").write_text(classes)
            result = run(*given, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "c.json")
            assert result.exit_code == 0, result.output
            (measured,) = json.loads((tmp_path / "c.json").read_text())["results"]
            assert measured["accuracies"]["contrast"] == pytest.approx([shares] * 5) and measured["images"] == 3

    def test_the_names_of_cifar100_are_in_order(self):
        names = corruption_arrays._class_names("cifar100")
        assert len(names) == 100 and names[:2] == ("apple", "aquarium_fish") and list(names) == sorted(names)

    def test_does_not_hold_the_files_in_memory(self, folder):
        assert all(isinstance(array, np.memmap) for array in load_corruptions(folder).arrays.values())

    def test_says_what_is_missing(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match="no snow.npy, spatter.npy. `freqrob dataset corrupt`"):
            load_corruptions(folder, types=["fog", "snow", "spatter"])
        with pytest.raises(ValueError, match="types: expected one of gaussian_noise, .* got 'rain'"):
            load_corruptions(folder, types=["rain"])
        with pytest.raises(FileNotFoundError, match="no corruptions of cifar10 .*--download"):
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
