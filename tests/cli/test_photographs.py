"""`freqrob evaluate` and `freqrob diagnose` on ImageNet as it is unpacked, and on folders of photographs."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from freqrob.data import Preprocessing, load_photographs
from freqrob.data.photographs import imagenet_wnids
from freqrob.data.samples import sample_images
from freqrob.evaluation import evaluate
from freqrob.models import load_model
from freqrob.models.sources import open_model
from tests.support.command_line import error_of, run

CLASSES = imagenet_wnids()[5:8]
OPTIONS = ["--protocol", "natural", "--attack", "clean", "--attack", "fgsm", "--eps", "1/255", "--batch-size", "3"]


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory):
    """torchvision's ResNet-18 with random weights, in the place of the published ones."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("torch")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    url = models.ResNet18_Weights.DEFAULT.value.url
    torch.save(models.resnet18().state_dict(), folder / "hub" / "checkpoints" / url.rpartition("/")[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory, torch_home):
    """Twelve images of the classes that the network takes some of them for."""
    root = tmp_path_factory.mktemp("imagenet")
    pixels = (torch.rand(12, 7, 9, 3, generator=torch.Generator().manual_seed(1)) * 255).byte()
    model = open_model("torchvision:resnet18", dataset="imagenet")
    for number, few in enumerate(pixels):
        image = Image.fromarray(few.numpy()).resize((300 + number, 280))
        with torch.no_grad():
            likely = model(Preprocessing(256, 224)(image)[None] / 255).argmax().item()
        wnid = imagenet_wnids()[likely] if number % 3 else CLASSES[0]
        path = root / "val" / wnid / f"ILSVRC2012_val_{number + 1:08}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95)
    return root


def command(imagenet, tmp_path, *launcher):
    script = [*launcher, "-m", "freqrob", "evaluate", "torchvision:resnet18", "--dataset", "imagenet", *OPTIONS]
    paths = ["--data", imagenet, "--cache", tmp_path / "cache", "--out", tmp_path / "r.json", "--device", "cpu"]
    return [sys.executable, *map(str, [*script, *paths])]


def results_of(tmp_path):
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["source"] == "imagenet test" and "--dataset imagenet" in found["command"]
    return [(row["attack"], row["accuracy"], row["images"], row["preprocessing"]) for row in found["results"]]


@pytest.fixture(scope="module")
def expected(imagenet):
    model = open_model("torchvision:resnet18", dataset="imagenet")
    photographs = load_photographs(imagenet / "val", preprocessing=Preprocessing(256, 224))
    found = evaluate(model, photographs.tensor, photographs.labels, protocols=["natural"], attacks=["clean", "fgsm"])
    assert 0 < found[0].accuracy < 1
    return found[0].accuracy


def test_a_model_of_torchvision_on_imagenet(imagenet, expected, tmp_path, own_cache, wide_terminal):
    assert run(*command(imagenet, tmp_path)[3:]).exit_code == 0
    clean, fgsm = results_of(tmp_path)
    assert clean == ("clean", expected, 12, "resize 256 (bilinear), center crop 224") and fgsm[1] <= expected


def test_two_processes_measure_what_one_does(imagenet, expected, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run(command(imagenet, tmp_path, *launcher), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert results_of(tmp_path)[0][:3] == ("clean", expected, 12)


def test_a_killed_run_goes_on(imagenet, expected, tmp_path):
    with subprocess.Popen(command(imagenet, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        end = time.monotonic() + 300
        while not list((tmp_path / "cache").glob("*.safetensors")) and child.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        child.kill()
    assert not (tmp_path / "r.json").exists() and list((tmp_path / "cache").glob("clean-*.safetensors"))
    ran = subprocess.run(command(imagenet, tmp_path), capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert results_of(tmp_path)[0][1] == expected


@pytest.mark.usefixtures("own_cache", "wide_terminal")
class TestFolders:
    def test_the_models_preprocessing_and_another(self, imagenet, expected, tmp_path):
        given = ["--dataset", "folder", "--data", imagenet / "val", *OPTIONS, "--out", tmp_path / "r.json"]
        result = run("evaluate", "torchvision:resnet18", *given)
        assert result.exit_code == 0 and f"12 images of {imagenet / 'val'}" in result.output.replace("\n", "")
        found = json.loads((tmp_path / "r.json").read_text())
        assert found["results"][0]["accuracy"] == expected and found["source"] == "folder val"
        result = run("evaluate", "torchvision:resnet18", *given, "--resize", "224", "--crop", "200", "--images", "2")
        assert result.exit_code == 0, result.output
        found = json.loads((tmp_path / "r.json").read_text())
        assert found["results"][0]["preprocessing"] == "resize 224 (bilinear), center crop 200"
        assert "--resize 224 --crop 200" in found["command"]

    def test_some_of_imagenets_classes(self, imagenet, tmp_path):
        """Among three classes, the network decides for one of the three."""
        (tmp_path / "classes.txt").write_text("\n".join(reversed(CLASSES)))
        given = ["--data", imagenet, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "r.json", *OPTIONS]
        result = run("evaluate", "torchvision:resnet18", "--dataset", "imagenet", *given)
        assert result.exit_code == 0, result.output
        model = open_model("torchvision:resnet18", dataset="imagenet")
        photographs = load_photographs(imagenet / "val", classes=CLASSES, preprocessing=Preprocessing(256, 224))
        with torch.no_grad():
            predicted = model(photographs.tensor / 255)[:, 5:8].argmax(1)
        rows = json.loads((tmp_path / "r.json").read_text())["results"]
        assert rows[0]["accuracy"] == (predicted == photographs.labels).double().mean().item()
        assert rows[0]["images"] == len(photographs) == 4

    def test_diagnose(self, imagenet, tmp_path):
        given = ["--dataset", "folder", "--data", imagenet / "val", "--out", tmp_path / "d", "--only", "jacobian"]
        result = run("diagnose", "torchvision:resnet18", *given, "--batch-size", "6")
        assert result.exit_code == 0, result.output
        (file,) = (tmp_path / "d").glob("*/jacobian.json")
        assert json.loads(file.read_text())["source"] == "folder val"

    def test_what_does_not_fit(self, imagenet, tmp_path):
        (tmp_path / "classes.txt").write_text("cat\n")
        model, folder = "torchvision:resnet18", ["--dataset", "folder", "--data"]
        assert "no folder" in error_of("evaluate", model, *folder, tmp_path / "none")
        assert "1 classes" in error_of(
            "evaluate", model, *folder, imagenet / "val", "--classes", tmp_path / "classes.txt"
        )
        assert "expected 1 to 12" in error_of("evaluate", model, *folder, imagenet / "val", "--images", "13")
        wrong = error_of("evaluate", "standard_rn20", *folder, imagenet / "val", "--resize", "32", "--crop", "32")
        assert "for imagenet, Linf" in wrong and "add --trained-on cifar10" in wrong
        assert "got --dataset folder" in error_of("evaluate", model, *folder, imagenet / "val", "--card")
        wrong = error_of("evaluate", model, "--dataset", "imagenet", "--data", imagenet, "--labels", "x.csv")
        assert "labels: expected --labels only with --dataset folder" in wrong


@pytest.fixture
def animals(tmp_path):
    """Five of the sample images in folders of their classes, and the ten classes of CIFAR-10."""
    samples = sample_images()
    for number in range(5):
        path = tmp_path / "animals" / samples.classes[samples.labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.tensor[number].permute(1, 2, 0).numpy()).save(path)
    (tmp_path / "classes.txt").write_text("\n".join(samples.classes))
    return ["--dataset", "folder", "--data", tmp_path / "animals", "--classes", tmp_path / "classes.txt", "--no-cache"]


def test_models_of_another_data_set_are_measured_by_name(animals, tmp_path):
    out, samples = tmp_path / "r.json", sample_images()[:5]
    given = [*animals, "--protocol", "natural", "--attack", "clean", "--out", out]
    result = run("evaluate", "pgd_at_rn20", *given, "--trained-on", "cifar10")
    assert result.exit_code == 0, result.output
    (expected,) = evaluate(
        load_model("pgd_at_rn20"), samples.images, samples.labels, protocols=["natural"], attacks=["clean"]
    )
    (found,) = json.loads(out.read_text())["results"]
    assert (found["accuracy"], found["images"]) == (expected.accuracy, 5)
    assert "--trained-on cifar10" in json.loads(out.read_text())["command"]
    assert "trained_on: expected one of cifar10" in error_of("evaluate", "pgd_at_rn20", *given, "--trained-on", "cifar")
    assert "imagenet" in error_of("evaluate", "pgd_at_rn20", *given)


def test_they_are_diagnosed_by_name(animals, tmp_path):
    given = [*animals, "--only", "jacobian", "--out", tmp_path / "d"]
    result = run("diagnose", "pgd_at_rn20", *given, "--trained-on", "cifar10")
    assert result.exit_code == 0 and (tmp_path / "d" / "pgd_at_rn20" / "jacobian.json").is_file(), result.output
