"""Data sets that are balanced once, in memory and as files."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
import torch

from freqrob.data import ImageSet, balance, load_cifar_b, load_dataset
from freqrob.data.cifar_b import _balanced, _unpickled, write_cifar_b
from freqrob.spectral.balance import bass
from tests.support.image_sets import CIFAR10_COUNT, images


class TestBalance:
    def test_is_bass_of_every_image(self):
        dataset = images(70)
        balanced = balance(dataset, batch_size=32)
        assert torch.equal(balanced.images, bass(dataset.images))
        assert torch.equal(balanced.labels, dataset.labels)

    @pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
    def test_of_a_memory_mapped_data_set_is_in_memory(self, tmp_path):
        dataset = images(20)
        np.save(tmp_path / "images.npy", dataset.images.numpy())
        mapped = ImageSet(torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r")), dataset.labels, ())
        balanced = balance(mapped, weighting="power")
        assert torch.equal(balanced.images, bass(dataset.images, weighting="power"))
        assert torch.equal(mapped.images, dataset.images)
        balanced.images.zero_()  # kills the process where it is mapped


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
            write_cifar_b(cifar, tmp_path / "b", progress=stopping)
        assert not list((tmp_path / "b").iterdir())

    def test_a_killed_writer_leaves_nothing_to_the_next(self, cifar, tmp_path):
        def killing(*_):
            os.kill(os.getpid(), signal.SIGKILL)
            yield

        child = multiprocessing.get_context("fork").Process(
            target=write_cifar_b, args=(cifar, tmp_path / "b"), kwargs={"progress": killing}
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL and len(list((tmp_path / "b").iterdir())) == 2
        folder = write_cifar_b(cifar, tmp_path / "b")
        assert list((tmp_path / "b").iterdir()) == [folder]

    def test_never_replaces_anything(self, cifar, tmp_path):
        with pytest.raises(FileExistsError, match="already exists"):
            write_cifar_b(cifar, cifar)
        assert len(load_dataset("cifar10", "test", cifar)) == CIFAR10_COUNT

    def test_a_file_that_changed_is_refused(self, cifar, tmp_path):
        folder = write_cifar_b(cifar, tmp_path / "b")
        content = bytearray((folder / "test_batch").read_bytes())
        content[1000] ^= 1
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(ValueError, match="test_batch was changed"):
            load_cifar_b(tmp_path / "b", "test")
        assert len(load_cifar_b(tmp_path / "b", "val")) == 5 * CIFAR10_COUNT // 10

    def test_a_foreign_pickle_is_not_executed(self, cifar, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        folder = write_cifar_b(cifar, tmp_path / "b")
        (folder / "test_batch").write_bytes(pickle.dumps({"data": Trap()}, protocol=4))
        record = json.loads((folder / "cifar_b.json").read_text())
        record["sha256"]["test_batch"] = hashlib.sha256((folder / "test_batch").read_bytes()).hexdigest()
        (folder / "cifar_b.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=f"refers to {io.open.__module__}.open, .*not executed"):
            load_cifar_b(tmp_path / "b", "test")
        assert not (tmp_path / "sprung").exists()

    def test_bad_input_is_named(self, cifar, tmp_path):
        with pytest.raises(ValueError, match="dataset: expected one of cifar10, cifar100, got 'svhn'"):
            write_cifar_b(cifar, tmp_path / "b", "svhn")
        with pytest.raises(ValueError, match="weighting"):
            write_cifar_b(cifar, tmp_path / "b", weighting="neither")
        with pytest.raises(ValueError, match="split: expected one of train, val, test, robustbench, got 'all'"):
            load_cifar_b(tmp_path, "all")
        with pytest.raises(FileNotFoundError, match="freqrob dataset bass"):
            load_cifar_b(tmp_path, "test")

    def test_of_files_as_the_official_ones(self):
        """Python 2 wrote them: strings are bytes there, and the pixels one of them."""
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
        head = b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x03K\x01eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\n"
        array = b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00"
        content = head + array + state + pixels.tobytes() + b"tbu."
        assert (_unpickled(content)["data"] == pixels).all()
        balanced = _unpickled(_balanced(content, "amplitude"))
        assert balanced["labels"] == [3, 1] and (balanced["data"] != pixels).any()
        old = pickle.loads(_balanced(content, "amplitude"), encoding="bytes")
        assert old.keys() == {b"labels", b"data"}
