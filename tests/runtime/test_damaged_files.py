"""Damaged and hostile files of each kind, through the functions that people call."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from freqrob_robustbench import export
from freqrob_robustbench.autoattack import EvaluationState
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data import ImageSet, load_dataset
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.image_files import ImageFiles, decode
from freqrob.diagnostics import corruption_spectrum, spectrum
from freqrob.models import create_network, list_models, load_model
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.checkpoints import card_path, checkpoint_state, save
from freqrob.models.front_ends import with_front_ends
from freqrob.models.loading import LONGEST_NAME, checkpoint_path, load_card
from freqrob.report import write_report
from freqrob.report.page import _figures_of
from freqrob.report.runs import read_runs
from freqrob.runtime.files import temporary_beside
from freqrob.runtime.result_store import Samples
from tests.support import measurements as made_up
from tests.support.damage import ABSENT, mutated, npz_that_declares, refusal

pytestmark = pytest.mark.usefixtures("tiny", "never_waits")

FRONT_ENDS = [
    {"name": "blur", "sigma": 1.5},
    {"name": "normalize", "mean": [0.1, 0.2, 0.3], "std": [0.1, 0.2, 0.3]},
    {"name": "pca", "components": 4, "shape": [3, 32, 32]},
]
RESULT = {"protocol": "natural", "attack": "clean", "images": 10, "seed": 0, "accuracy": 0.5, "eps": 0.0}
CARD = Card("standard_tiny", "tiny", front_ends=FRONT_ENDS, results=[RESULT], versions={"a": "1"}, recipe={"a": [1]})


@pytest.fixture
def model(tmp_path):
    """The weights of a model with a card."""
    path = checkpoint_path("standard_tiny", tmp_path)
    save(path, checkpoint_state(with_front_ends(create_network("tiny"), FRONT_ENDS)), CARD)
    return path


class TestCards:
    def test_any_value_at_any_place_is_read_or_refused_by_name(self, model, tmp_path):
        content, refused = json.loads(card_path(model).read_text()), 0
        for place, damaged in mutated(content, [None, -1, 10**30, "a" * 100_000, "a\n\x1b", [], {"a": 1}, ABSENT]):
            card_path(model).write_text(json.dumps(damaged))
            for read in (load_model, export_card):
                try:
                    read("standard_tiny", tmp_path)
                except CheckpointError as error:
                    message, refused = str(error), refused + 1
                    assert str(tmp_path) in message and "\n" not in message and len(message) < 1000, place
                except ValueError as error:
                    assert "standard_tiny is for" in str(error) and place == ("dataset",), place
        assert refused > 300

    @pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"{}", b'{"name": 1}'])
    def test_json_that_is_not_a_card_is_left_out_with_a_warning(self, model, tmp_path, content):
        other = card_path(model).with_name("x.json")
        other.write_bytes(content)
        with pytest.warns(UserWarning, match=f"left out: {other}: .*; replace or remove it"):
            assert list_models("*tiny", model_dir=tmp_path) == ["standard_tiny"]
        with (
            pytest.warns(UserWarning, match="left out"),
            pytest.raises(FileNotFoundError, match="no model 'standard_rn18'"),
        ):
            load_model("standard_rn18", tmp_path)
        listed = CliRunner().invoke(cli.app, ["models", "*tiny", "--model-dir", str(tmp_path)])
        assert listed.exit_code == 0 and "standard_tiny" in listed.stdout and "left out" in listed.stderr

    def test_what_is_not_a_file_is_not_a_model(self, model, tmp_path):
        folder = model.parent
        (folder / "a.safetensors").mkdir()
        os.mkfifo(folder / "b.safetensors")
        os.mkfifo(folder / "b.json")
        (folder / "c.json").symlink_to(folder / "c.json")
        (folder / "d\n.safetensors").touch()
        (folder / "e[red].safetensors").touch()
        assert [name for name in list_models(model_dir=tmp_path) if not name.endswith("_rn20")] == ["standard_tiny"]
        for name in ("a", "b", "c"):
            with pytest.raises(FileNotFoundError):
                load_model(name, tmp_path)

    def test_a_damaged_card_does_not_end_the_list(self, model, tmp_path):
        card_path(model).write_text("{")
        listed = CliRunner().invoke(cli.app, ["models", "*tiny", "--model-dir", str(tmp_path)], env={"COLUMNS": "200"})
        assert listed.exit_code == 0 and "card not usable" in listed.stdout and str(card_path(model)) in listed.stderr

    def test_markup_on_a_card_is_shown_as_it_is(self, model, tmp_path):
        content = json.loads(card_path(model).read_text())
        content["results"][0]["attack"] = "[red]clean[/red]"
        card_path(model).write_text(json.dumps(content))
        listed = CliRunner().invoke(cli.app, ["models", "*tiny", "--model-dir", str(tmp_path)], env={"COLUMNS": "200"})
        assert "[red]clean[/red] 50.0" in listed.stdout

    def test_memory_is_not_allocated_for_what_the_weights_do_not_hold(self, model, tmp_path):
        content = json.loads(card_path(model).read_text())
        large = {"name": "pca", "components": 10**7, "shape": [3, 10**4, 10**4]}
        for changes in ({"num_classes": 10**12}, {"front_ends": [*FRONT_ENDS[:2], large]}):
            card_path(model).write_text(json.dumps({**content, **changes}))
            with pytest.raises(CheckpointError, match=f"{model}: not the weights .*, expected .*0000"):
                load_model("standard_tiny", tmp_path)

    def test_a_name_that_no_file_can_have(self, tmp_path):
        for read in (load_model, load_card):
            with pytest.raises(ValueError, match=f"model_name: got 'a{{40}}'… of 100,000 .* {LONGEST_NAME}$"):
                read("a" * 100_000, tmp_path)
        save(checkpoint_path("ä" * 100, tmp_path), {"a": torch.zeros(1)}, CARD)


def export_card(name, folder):
    return export(name, folder / "out", folder)


class TestWeights:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("damage", [
        lambda value: value.to_sparse() if value.ndim > 1 else value, lambda value: value.to("meta"),
        lambda value: value.long(), lambda value: value.to(torch.complex64), lambda value: value[:0],
        lambda value: 1.0, lambda value: value.flatten()[:1].expand(10**12),
    ], ids=["sparse", "meta", "integers", "complex", "empty", "numbers", "huge"])  # fmt: skip
    def test_that_do_not_hold_numbers_are_refused(self, tmp_path, damage):
        path = tmp_path / "x.pt"
        torch.save({key: damage(value) for key, value in create_network("tiny").state_dict().items()}, path)
        with pytest.raises(CheckpointError, match=f"{path}: "):
            load_model("standard_tiny", tmp_path, custom_checkpoint=path)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("shape", [(), (3,), (3, 0, 32), (10**6, 3, 32, 32)])
    def test_of_a_pca_without_a_card(self, tmp_path, shape):
        state = {"front_ends.0.mean": torch.zeros(()).expand(shape), "front_ends.0.components": torch.zeros(())}
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="x.pt: "):
            load_model("pca_standard_tiny", tmp_path, custom_checkpoint=tmp_path / "x.pt")

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
    def test_are_not_downloaded_from_a_pipe(self, tmp_path, make):
        make(tmp_path / "weights")
        url = (
            (tmp_path / "weights").as_uri() if not (tmp_path / "weights").is_symlink() else f"file://{tmp_path}/weights"
        )
        path = card_path(checkpoint_path("standard_tiny", tmp_path))
        path.parent.mkdir(parents=True)
        path.write_text(Card("standard_tiny", "tiny", url=url, sha256="0" * 64).to_json())
        with pytest.raises(OSError, match=f"could not download {url}.*got a pipe"):
            load_model("standard_tiny", tmp_path)

    def test_are_not_downloaded_from_other_places(self, tmp_path):
        path = card_path(checkpoint_path("standard_tiny", tmp_path))
        path.parent.mkdir(parents=True)
        for url in ("ftp://127.0.0.1/x", "data:,x", "/etc/passwd"):
            path.write_text(Card("standard_tiny", "tiny", url=url, sha256="0" * 64).to_json())
            with pytest.raises(OSError, match="expected an http, https or file URL"):
                load_model("standard_tiny", tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder a kind of file that a report reads."""
    folder = tmp_path_factory.mktemp("runs")
    measurements = {**made_up.measurements(0), "minimal_perturbation": made_up.PERTURBATIONS}
    for kind, measured in measurements.items():
        measured.save(folder / kind, kind, {**made_up.ABOUT, "model": "pgd_at_tiny", "model_hash": "abc"})
    images, others = made_up.random(4, 3, 8, 8), made_up.random(4, 3, 8, 8, seed=1)
    spectrum(images).save(folder / "images", "natural", made_up.ABOUT)
    corruption_spectrum(images, [others]).save(folder / "fog", "fog", made_up.ABOUT)
    for name in ("evaluation", "corruptions"):
        (folder / name).mkdir()
    rows = [{**made_up.row("m", 0.5), "model_hash": "x"}, made_up.row("m", 0.7, **made_up.CLEAN)]
    made_up.evaluation(folder / "evaluation" / "e.json", rows, masking={"m": {"masking_suspected": True}})
    path = made_up.corrupted(folder / "corruptions" / "c.json", m=0.6)
    content = json.loads(path.read_text())
    accuracies = {"fog": [0.1, 0.2, 0.3, 0.4, 0.5]}
    content["results"][0] |= {"accuracies": accuracies, "mce": 0.5, "baseline": "b", "standard_errors": {"a": 0.1}}
    path.write_text(json.dumps(content))
    return folder


KINDS = (
    "band_accuracy", "corruptions", "evaluation", "fog", "fourier_heatmap", "hybrid", "images", "jacobian",
    "loss_landscape_low", "minimal_perturbation", "sensitivity",
)  # fmt: skip


class TestReports:
    @pytest.mark.parametrize("kind", KINDS)
    def test_any_value_at_any_place_is_read_or_left_out(self, runs, tmp_path, kind):
        shutil.copytree(runs / kind, tmp_path / kind)
        (path,) = (tmp_path / kind).glob("*.json")
        for place, damaged in mutated(json.loads(path.read_text())):
            path.write_text(json.dumps(damaged))
            try:
                read_runs([tmp_path / kind], cards=False)
            except ValueError as error:
                assert str(tmp_path / kind) in str(error) and len(str(error)) < 1500, place

    def test_a_number_that_is_missing_is_drawn_as_none(self, runs, tmp_path):
        shutil.copytree(runs / "band_accuracy", tmp_path / "run")
        path = tmp_path / "run" / "band_accuracy.json"
        content = json.loads(path.read_text())
        content["values"] |= {"eps": None, "accuracy": None}
        path.write_text(json.dumps(content))
        assert write_report([tmp_path / "run"], tmp_path / "out", cards=False).is_file()

    def test_a_layer_with_a_name_that_no_file_can_have(self, runs, tmp_path):
        shutil.copytree(runs / "fourier_heatmap", tmp_path / "run")
        path = tmp_path / "run" / "fourier_heatmap.json"
        content = json.loads(path.read_text())
        content["values"]["layer"] = "a" * 100_000
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="fourier_heatmap.json: .*layer: .* of length <= 200"):
            write_report([tmp_path / "run"], tmp_path / "out", cards=False)

    @pytest.mark.parametrize("kind, name, value", [
        ("sensitivity", "radii", np.nan), ("sensitivity", "magnitude", np.inf), ("fourier_heatmap", "change", -1.0),
        ("fourier_heatmap", "vertical", np.nan),
    ])  # fmt: skip
    def test_a_figure_that_cannot_be_drawn_does_not_end_a_report(self, runs, tmp_path, kind, name, value):
        for one in (kind, "jacobian"):
            shutil.copytree(runs / one, tmp_path / "run" / one)
        path = tmp_path / "run" / kind / f"{kind}.npz"
        arrays = dict(np.load(path))
        np.savez(path, **{**arrays, name: np.full_like(arrays[name], value)})
        with pytest.warns(UserWarning, match=f"{kind}.* was not drawn"):
            page = write_report([tmp_path / "run"], tmp_path / "out", cards=False).read_text()
        assert 'id="figure-jacobian"' in page and f'id="figure-{kind}"' not in page

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("corruptions", "evaluation")])
    def test_arrays_without_values_end_no_report(self, runs, tmp_path, kind):
        shutil.copytree(runs / kind, tmp_path / "run")
        (path,) = (tmp_path / "run").glob("*.npz")
        np.savez(path, **{name: np.zeros([0] * array.ndim, array.dtype) for name, array in np.load(path).items()})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write_report([tmp_path / "run"], tmp_path / "out", cards=False)
        except ValueError as error:
            assert str(path.with_suffix(".json")) in str(error)

    @pytest.mark.parametrize("kind, name", [("hybrid", "low"), ("minimal_perturbation", "success")])
    def test_arrays_of_another_type_are_refused(self, runs, tmp_path, kind, name):
        shutil.copytree(runs / kind, tmp_path / "run")
        path = tmp_path / "run" / f"{kind}.npz"
        arrays = dict(np.load(path))
        other = bool if arrays[name].dtype != bool else float
        np.savez(path, **{**arrays, name: arrays[name].astype(other)})
        with pytest.raises(ValueError, match=f"{kind}.json: not a measurement .*{name}: expected"):
            read_runs([tmp_path / "run"], cards=False)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_read_can_be_drawn(self, runs, tmp_path, kind):
        """Numbers of any size, in the fields that a file of this kind must have."""
        shutil.copytree(runs / kind, tmp_path / kind)
        (path,) = (tmp_path / kind).glob("*.json")
        content = json.loads(path.read_text())
        for key in content.get("values", ()):
            for value in (None, -1, 10**30):
                path.write_text(json.dumps({**content, "values": {**content["values"], key: value}}))
                try:
                    write_report([tmp_path / kind], tmp_path / "out", cards=False)
                except ValueError as error:
                    assert str(tmp_path / kind) in str(error), (key, value)

    @pytest.mark.parametrize("name", ["a" * 100_000, "a\nb", "a\x1b[31m", "a\x00"])
    def test_a_name_that_cannot_be_shown_is_left_out(self, runs, tmp_path, name):
        for kind in ("evaluation", "corruptions", "jacobian"):
            shutil.copytree(runs / kind, tmp_path / "run" / kind)
            (path,) = (tmp_path / "run" / kind).glob("*.json")
            content = json.loads(path.read_text())
            for row in content.get("results", [content]):
                row["model"] = name
            path.write_text(json.dumps(content))
        made_up.evaluation(tmp_path / "run" / "good.json", [made_up.row("<i>good</i>", 0.5)])
        with pytest.warns(UserWarning, match="left out because it is damaged: .*; replace or remove it") as warned:
            page = write_report([tmp_path / "run"], tmp_path / "out", cards=False).read_text()
        assert len(warned) == 3 and "&lt;i&gt;good&lt;/i&gt;" in page and "<i>good" not in page
        assert len(page) < 1_000_000

    def test_a_file_whose_name_cannot_be_shown_is_left_out(self, runs, tmp_path):
        good = made_up.evaluation(tmp_path / "good.json", [made_up.row("good", 0.5)])
        for name in (b"bad\xff.json", b"bad\n.json", b"bad\x1b[31m.json"):
            shutil.copy(good, os.path.join(os.fsencode(tmp_path), name))
        with pytest.warns(UserWarning, match="left out because it is damaged: .*bad") as warned:
            write_report([tmp_path], tmp_path / "out", cards=False)
        assert len(warned) == 3

    def test_arrays_are_measured_before_they_are_read(self, runs, tmp_path):
        shutil.copytree(runs / "jacobian", tmp_path / "run")
        npz_that_declares(tmp_path / "run" / "jacobian.npz", (1 << 30,))
        message = "jacobian.json: not a measurement of jacobian .*4,294,967,296 bytes, expected at most"
        with pytest.raises(ValueError, match=message):
            read_runs([tmp_path / "run"], cards=False)

    def test_pipes_and_folders_are_not_waited_for(self, runs, tmp_path):
        shutil.copytree(runs / "jacobian", tmp_path / "run")
        os.mkfifo(tmp_path / "run" / "pipe.json")
        (tmp_path / "run" / "folder.json").mkdir()
        (tmp_path / "run" / "loop.json").symlink_to("loop.json")
        assert len(read_runs([tmp_path / "run"], cards=False).models) == 1
        refusal(lambda path: read_runs([path], cards=False), tmp_path / "run" / "pipe.json")
        (tmp_path / "run" / "jacobian.npz").unlink()
        os.mkfifo(tmp_path / "run" / "jacobian.npz")
        with pytest.raises(ValueError, match="jacobian.npz: expected a file, got a pipe or a device"):
            read_runs([tmp_path / "run"], cards=False)

    def test_a_damaged_card_is_left_out(self, runs, tmp_path, model):
        made_up.evaluation(tmp_path / "good.json", [made_up.row("standard_tiny", 0.5)])
        card_path(model).write_text("[" * 100_000)
        with pytest.warns(UserWarning, match=f"a card was left out: {card_path(model)}"):
            write_report([tmp_path / "good.json"], tmp_path / "out", model_dir=tmp_path)

    @pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{}", b'{"figures": 3}', b'{"figures": [3]}', b"\xff"])
    def test_a_damaged_report_is_replaced(self, tmp_path, content):
        (tmp_path / "results.json").write_bytes(content)
        assert _figures_of(tmp_path / "results.json") == set()


class TestDataSets:
    @pytest.fixture
    def few(self):
        pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageSet(pixels, torch.arange(6), tuple("abcdef"))

    def test_corruptions_that_freqrob_made(self, few, tmp_path):
        about = {"dataset": "cifar10", "bass": None}
        write_corruptions(few, tmp_path, ["contrast"], about=about)
        path = tmp_path / "generated.json"
        for place, damaged in mutated(json.loads(path.read_text())):
            path.write_text(json.dumps(damaged))
            for read in (lambda: load_corruptions(tmp_path), lambda: write_corruptions(few, tmp_path, [], about=about)):
                try:
                    read()
                except ValueError as error:
                    assert str(tmp_path) in str(error) and "\n" not in str(error), place

    def test_arrays_that_are_pipes(self, few, tmp_path):
        write_corruptions(few, tmp_path, ["contrast"], about={"dataset": "cifar10"})
        for name in ("labels.npy", "contrast.npy"):
            (tmp_path / name).rename(tmp_path / "whole")
            os.mkfifo(tmp_path / name)
            with pytest.raises((ValueError, FileNotFoundError)):
                load_corruptions(tmp_path)
            (tmp_path / "whole").replace(tmp_path / name)
        assert load_corruptions(tmp_path).types == ("contrast",)

    def test_what_a_killed_writer_of_another_type_left_is_removed(self, few, tmp_path):
        with temporary_beside(tmp_path / "fog.npy") as left:
            abandoned = left.rename(tmp_path / left.name.replace(".fog.", ".snow."))
        assert abandoned.is_file()
        write_corruptions(few, tmp_path, ["contrast"], about={"dataset": "cifar10"})
        assert not list(tmp_path.glob(".*.tmp"))

    @pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
    @pytest.mark.parametrize("name", ["generated.json", "fog.npy"])
    def test_what_is_not_a_file_is_an_error_and_not_left_out(self, few, tmp_path, name, make):
        write_corruptions(few, tmp_path, ["contrast", "fog"], about={"dataset": "cifar10"})
        (tmp_path / name).unlink()
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}.*expected a file, got a"):
            load_corruptions(tmp_path)

    def test_a_decoded_copy_that_is_damaged_is_made_again(self, tmp_path):
        Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
        files = ImageFiles(tmp_path, ("a.png",), torch.tensor([0]), ("a",))
        decoded = decode(files, 8, tmp_path / "cache", lambda items, *_: items).clone()
        (path,) = tmp_path.glob("cache_*.npy")
        for content in (b"", b"[" * 1000, path.read_bytes()[:-1]):
            path.write_bytes(content)
            assert torch.equal(decode(files, 8, tmp_path / "cache", lambda items, *_: items), decoded)

    def test_images_of_too_many_pixels(self, tmp_path):
        Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png")
        files = ImageFiles(tmp_path, ("a.png",), torch.tensor([0]), ("a",))
        with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ValueError, match="a.png.*12,000 × 12,000"):
            decode(files, 8, tmp_path / "cache", lambda items, *_: items)

    def test_lists_of_tiny_imagenet_in_another_encoding(self, tmp_path):
        root = tmp_path / "tiny-imagenet-200"
        root.mkdir()
        (root / "wnids.txt").write_bytes(b"n01443537\xff")
        with pytest.raises(ValueError, match="wnids.txt: not a UTF-8 text file"):
            load_dataset("tiny_imagenet", "test", tmp_path)


def test_a_state_of_an_evaluation(tmp_path):
    path = tmp_path / "state.json"
    EvaluationState(path, {"eps": 1}, torch.ones(3, dtype=torch.bool), {"fab"}).to_disk()
    for place, damaged in mutated(json.loads(path.read_text())):
        path.write_text(json.dumps(damaged))
        try:
            EvaluationState.open(path, {"eps": 1}, 3)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), place


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_kept_results_that_are_not_a_file_are_set_aside(tmp_path, make):
    path = Samples(tmp_path, {}, 3).path
    make(path)
    with pytest.warns(UserWarning, match=f"{path}: not usable .*; renamed"):
        Samples(tmp_path, {}, 3).put(slice(None), value=torch.zeros(3))
    assert Samples(tmp_path, {}, 3).done.all()
    next(tmp_path.glob("*.damaged")).rename(tmp_path / "before")
    done = {"value": torch.zeros(3), "done": torch.ones(3)}
    save_file(done, path, {"key": Samples(None, {}, 3).key})
    with pytest.warns(UserWarning, match=f"{path}: not usable"):
        assert not Samples(tmp_path, {}, 3).done.any()


def test_kept_results_without_a_value_are_set_aside(tmp_path):
    path = Samples(tmp_path, {}, 3).path
    save_file({"done": torch.ones(3, dtype=torch.bool)}, path, {"key": Samples(None, {}, 3).key})
    with pytest.warns(UserWarning, match=f"{path}: not usable .*; renamed"):
        assert not Samples(tmp_path, {}, 3).done.any()


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    shown = CliRunner().invoke(cli.app, ["report", str(tmp_path / "a\x1b[31m\x07[bold]b")])
    assert shown.exit_code == 2 and "\x1b" not in shown.stderr and "\x07" not in shown.stderr
    assert r"a\x1b[31m\x07[bold]b" in shown.stderr.replace("\n", "")
