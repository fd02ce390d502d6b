"""Folders of photographs: layouts, classes, files of labels, preprocessing, and ImageNet as it is unpacked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.data import ImageStream, Preprocessing, load_dataset, load_photographs, select_classes
from freqrob.data.photographs import imagenet_wnids
from tests.support.image_sets import images

TENCH, GOLDFISH, SHARK = imagenet_wnids()[:3]


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG")


def reds(photographs) -> list[int]:
    return photographs.tensor[:, 0, 0, 0].tolist()


class TestClasses:
    def test_sub_folders_in_alphabetical_order_as_torchvisions_image_folder(self, tmp_path):
        from torchvision.datasets import ImageFolder

        for number, name in enumerate(["10", "2", "cat"]):
            write(tmp_path / name / "a.png", (number, 0, 0))
        found, expected = load_photographs(tmp_path), ImageFolder(str(tmp_path))
        assert found.classes == tuple(expected.classes) == ("10", "2", "cat")
        assert found.labels.tolist() == expected.targets == [0, 1, 2] == reds(found)

    def test_wordnet_ids_are_numbered_as_imagenets_classes(self, tmp_path):
        write(tmp_path / SHARK / "a.png", (1, 0, 0))
        write(tmp_path / GOLDFISH / "b.JPEG", (2, 0, 0))
        found = load_photographs(tmp_path)
        assert (found.labels.tolist(), len(found.classes), reds(found)) == ([1, 2], 1000, [2, 1])

    def test_wordnet_ids_in_the_names_of_files(self, tmp_path):
        write(tmp_path / f"{SHARK}_great_white.png", (1, 0, 0))
        write(tmp_path / f"{TENCH}_tench.png", (2, 0, 0))
        assert load_photographs(tmp_path).labels.tolist() == [0, 2]

    def test_some_classes_in_the_order_of_the_model(self, tmp_path):
        for number, name in enumerate(["cat", "dog", "owl"]):
            write(tmp_path / name / "a.png", (number, 0, 0))
        (tmp_path / "classes.txt").write_text("owl\nfish\ncat\n")
        for classes in (["owl", "fish", "cat"], tmp_path / "classes.txt"):
            found = load_photographs(tmp_path, classes=classes)
            assert (found.classes, found.labels.tolist(), reds(found)) == (("owl", "fish", "cat"), [2, 0], [0, 2])

    @pytest.mark.parametrize(
        "lines",
        [
            "a.png,cat\nb.png,dog\n",
            "b dog\na cat\n",
            "ImageId,PredictionString\na,cat 1 2 3\nb,dog 4 5\n",
            "cat\ndog\n",
        ],
    )
    def test_a_file_of_labels(self, tmp_path, lines):
        write(tmp_path / "images" / "a.png", (1, 0, 0))
        write(tmp_path / "images" / "b.png", (2, 0, 0))
        (tmp_path / "labels.csv").write_text(lines)
        found = load_photographs(tmp_path / "images", labels=tmp_path / "labels.csv", classes=["dog", "cat"])
        assert (found.labels.tolist(), reds(found)) == ([1, 0], [1, 2])

    def test_numbers_as_labels(self, tmp_path):
        write(tmp_path / "a.png", (1, 0, 0))
        (tmp_path / "labels.txt").write_text("a.png 417\n")
        found = load_photographs(tmp_path, labels=tmp_path / "labels.txt")
        assert (found.labels.tolist(), found.classes) == ([417], ())

    def test_are_chosen_from_any_image_set(self):
        some = select_classes(images(20), ["c", "a"])
        assert some.labels.tolist() == [1, 0, 1, 0] and some.classes == ("c", "a")
        assert torch.equal(some.images, images(20).images[[0, 2, 10, 12]])


class TestPreprocessing:
    def test_is_torchvisions(self, shared):
        from torchvision.transforms import v2

        root = shared / "data" / "imagenet_sample"
        found = load_photographs(root, preprocessing=Preprocessing(96, 80, "bicubic"))
        expected = v2.Compose([v2.Resize(96, v2.InterpolationMode.BICUBIC), v2.CenterCrop(80), v2.PILToTensor()])
        file = sorted(root.iterdir())[3]
        assert torch.equal(found[3][0], expected(Image.open(file).convert("RGB"))) and found.labels[3] == 30

    def test_photographs_of_several_sizes_need_it(self, tmp_path):
        write(tmp_path / "cat" / "a.png", (1, 0, 0))
        write(tmp_path / "cat" / "b.png", (1, 0, 0), (50, 40))
        found = load_photographs(tmp_path)
        with pytest.raises(ValueError, match=r"preprocessing: cat/b.png has 40×50 pixels, expected 40×40.*--re"):
            found.tensor  # noqa: B018 - it reads
        assert load_photographs(tmp_path, preprocessing=Preprocessing(32, 32)).tensor.shape == (2, 3, 32, 32)

    @pytest.mark.parametrize("wrong", [{"resize": 0}, {"crop": (3, -1)}, {"interpolation": "lanczos"}])
    def test_that_cannot_be(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Preprocessing(**wrong)


class TestStreams:
    @pytest.fixture
    def photographs(self, tmp_path):
        for number in range(7):
            write(tmp_path / "cat" / f"{number}.png", (number, 10, 20))
        return load_photographs(tmp_path)

    def test_are_read_when_they_are_indexed(self, photographs):
        stream = photographs.images
        assert isinstance(stream, ImageStream) and stream.shape == (7, 3, 40, 40)
        some = stream[2:6].select(torch.tensor([3, 0]))
        assert isinstance(some, ImageStream) and some[torch.tensor([1, 0])][:, 0, 0, 0].tolist() == [2, 5]
        assert stream[4][0, 0, 0] == 4 and [len(batch) for batch in stream.split(3)] == [3, 3, 1]
        assert photographs[1:3].labels.tolist() == [0, 0]

    def test_transforms_of_what_is_read(self, photographs):
        brighter = photographs.images.map(lambda batch: batch + 100, "plus 100")
        assert brighter[torch.tensor([3])][0, :, 0, 0].tolist() == [103, 110, 120]
        assert brighter.digest != photographs.images.digest

    def test_the_digest_sees_each_file_the_order_and_the_preprocessing(self, photographs, tmp_path):
        stream = photographs.images
        changed = load_photographs(tmp_path, preprocessing=Preprocessing(40, 40)).images
        digests = {stream.digest, stream[:6].digest, stream.select(torch.arange(7).flip(0)).digest, changed.digest}
        assert len(digests) == 4 and load_photographs(tmp_path).images.digest in digests
        write(tmp_path / "cat" / "3.png", (200, 10, 20), (40, 40))
        assert load_photographs(tmp_path).images.digest not in digests

    def test_a_damaged_file_is_named(self, photographs, tmp_path):
        (tmp_path / "cat" / "2.png").write_bytes(b"GIF89a")
        with pytest.raises(ValueError, match=r"cat/2.png: not an intact image"):
            list(photographs.images.split(2))


@pytest.mark.parametrize(
    "files, options, error, message",
    [
        ((), {}, FileNotFoundError, "no labelled images.*--labels"),
        (("a.png",), {}, FileNotFoundError, "no labelled images"),
        (("cat/a.png",), {"classes": ["dog"]}, ValueError, "classes: none of .*'cat'.*1 classes"),
        (("cat/a.png",), {"classes": "classes.txt"}, ValueError, "classes.txt.*dog twice"),
        (("a.png", "b.png"), {"labels": "labels.txt"}, ValueError, r"labels.txt has no line for b.png \(1 of 2"),
        (("a.png", "b.png"), {"labels": "one.txt"}, ValueError, "one.txt has 1 lines, expected 2"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, files, options, error, message):
    for name in files:
        write(tmp_path / "images" / name, (0, 0, 0))
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "labels.txt").write_text("a.png cat\n")
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    (tmp_path / "one.txt").write_text("cat\n")
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        load_photographs(tmp_path / "images", **given)


class TestImageNet:
    def test_in_folders_of_classes(self, tmp_path):
        for number, wnid in enumerate([TENCH, SHARK, GOLDFISH]):
            write(tmp_path / "ILSVRC2012" / "val" / wnid / f"ILSVRC2012_val_0000000{number + 1}.JPEG", (number, 0, 0))
            for copy in range(4):
                write(tmp_path / "ILSVRC2012" / "train" / wnid / f"{wnid}_{copy}.JPEG", (number, 0, 0))
        test = load_dataset("imagenet", "test", tmp_path)
        assert (test.labels.tolist(), reds(test), len(test.classes)) == ([0, 2, 1], [0, 1, 2], 1000)
        assert len(load_dataset("imagenet", "train", tmp_path)) == 11
        assert load_dataset("imagenet_grayscale", "test", tmp_path).tensor.shape == (3, 1, 40, 40)

    @pytest.fixture
    def flat(self, tmp_path):
        for number in (1, 2, 5):
            write(tmp_path / "imagenet" / "val" / f"ILSVRC2012_val_0000000{number}.JPEG", (number, 0, 0))
        return tmp_path / "imagenet"

    def test_as_published_with_its_ground_truth(self, flat):
        from scipy.io import savemat

        kind = [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)]
        synsets = np.array([(1, SHARK, 0), (2, TENCH, 0), (3, GOLDFISH, 0), (1001, "n00001740", 2)], dtype=kind)
        devkit = flat / "ILSVRC2012_devkit_t12" / "data"
        devkit.mkdir(parents=True)
        savemat(devkit / "meta.mat", {"synsets": synsets})
        (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n3\n1\n1\n2\n")
        test = load_dataset("imagenet", "test", flat.parent)
        assert (test.labels.tolist(), reds(test)) == ([2, 1, 0], [1, 2, 5])
        (devkit / "meta.mat").unlink()
        with pytest.raises(FileNotFoundError, match=r"numbered by meta.mat, expected .*data/meta.mat"):
            load_dataset("imagenet", "test", flat.parent)

    def test_as_kaggle_has_it(self, flat):
        rows = [f"ILSVRC2012_val_0000000{n},{wnid} 1 2 3 4" for n, wnid in ((5, SHARK), (1, TENCH), (2, GOLDFISH))]
        (flat / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
        assert load_dataset("imagenet", "test", flat.parent).labels.tolist() == [0, 1, 2]

    def test_robustbenchs_images(self, tmp_path):
        robustbench = pytest.importorskip("importlib.util").find_spec("robustbench")
        if robustbench is None:
            pytest.skip("robustbench is not installed")
        listed = Path(robustbench.submodule_search_locations[0]) / "helper_files" / "imagenet_test_image_ids.txt"
        names = listed.read_text().split()
        for name in [*names, f"{TENCH}/ILSVRC2012_val_00099999.JPEG"]:
            (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "val" / name).touch()
        write(tmp_path / "val" / names[0], (1, 0, 0))
        found = load_dataset("imagenet", "robustbench", tmp_path)
        assert len(found) == 5000 and found.labels[0] == imagenet_wnids().index(names[0].partition("/")[0])
        assert found[0][0][0, 0, 0] == 1
        (tmp_path / "val" / names[7]).unlink()
        with pytest.raises(FileNotFoundError, match=f"lacks 1 of RobustBench's 5,000 images, first .*{names[7][-12:]}"):
            load_dataset("imagenet", "robustbench", tmp_path)

    @pytest.mark.parametrize(
        "files, message",
        [
            ((), "no ImageNet in .*expected val/.*register at"),
            (("val/ILSVRC2012_val_00000001.JPEG",), "no file of labels.*LOC_val_solution.csv"),
            (("val/n99999999/ILSVRC2012_val_00000001.JPEG",), "n99999999 is not one of"),
        ],
    )
    def test_that_is_not_there(self, tmp_path, files, message):
        for name in files:
            write(tmp_path / name, (0, 0, 0))
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            load_dataset("imagenet", "test", tmp_path)
        with pytest.raises(ValueError, match="expected train, val or test for cifar10"):
            load_dataset("cifar10", "robustbench", tmp_path)
