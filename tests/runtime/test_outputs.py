"""No result is lost: outputs are checked before anything is measured, and written before anything is shown or drawn."""

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from freqrob import cli
from freqrob.data.corruption_arrays import write_corruptions
from freqrob.data.hybrid import write_hybrids
from freqrob.data.samples import sample_images
from freqrob.diagnostics import diagnose, spectrum
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.report import write_report
from freqrob.runtime import files
from freqrob.runtime.files import as_json, check_file, check_folder, write_csv, write_json
from freqrob.runtime.terminal import lenient_output
from freqrob.spectral import native
from freqrob.training import Recipe, run_images, train
from tests.support.two_colours import two_colours_split

pytestmark = pytest.mark.usefixtures("tiny")
ROOT = Path(__file__).parents[2]
BLUR = [{"name": "blur", "sigma": 1.0}]
ON_CLEAN = ("--protocol", "natural", "--attack", "clean")


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """A model without and one with a front end, and one whose weights are another architecture's."""
    folder = tmp_path_factory.mktemp("models")
    for name, front_ends in {"standard_tiny": [], "blur_standard_tiny": BLUR}.items():
        torch.manual_seed(0)
        path = folder / "cifar10" / "Linf" / f"{name}.safetensors"
        save(path, create_network("tiny").state_dict(), Card(name, "tiny", front_ends=front_ends))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, models):
    """An empty working directory; the test set is Foolbox's images."""
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: sample_images())
    native.load()  # from the usual cache
    monkeypatch.setenv("FREQROB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails when a model is called."""
    monkeypatch.setattr("torch.nn.Linear.forward", lambda *_: pytest.fail("the model was called"))


def run(models, *arguments):
    options = [] if arguments[0] in ("report", "dataset") else ["--model-dir", models]
    return CliRunner().invoke(cli.app, [str(argument) for argument in (*arguments, *options)])


def refused(models, *arguments):
    result = run(models, *arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.output


# Files


def test_a_folder_that_cannot_be_written_is_refused_and_nothing_is_created(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere" / "at all")
    check_folder(tmp_path / "new" / "folder")
    for path in ("file", "file/folder", "broken", "broken/folder"):
        with pytest.raises(NotADirectoryError, match=f"out: .*{path} is a file or in a file, expected a folder"):
            check_folder(tmp_path / path)
    with pytest.raises(OSError, match="cache: /proc/new/folder cannot be used; .*/proc"):
        check_folder(Path("/proc/new/folder"), "cache")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "broken"}


def test_a_file_that_cannot_be_replaced_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("read.json").touch()
    Path("link.json").symlink_to("read.json")
    check_file(Path("new/name.json"), inputs=[Path("read.json")])
    check_file(Path("read.json"), inputs=[Path("other.json")])
    for path, error, message in (
        (".", IsADirectoryError, "out: . is a folder, expected a file"),
        ("/dev/null", FileExistsError, "out: /dev/null is a device"),
        ("/proc/new.json", OSError, "out: /proc cannot be used"),
        ("../" + tmp_path.name + "/read.json", ValueError, "is an input file"),
        ("link.json", ValueError, "is an input file"),
        ("ä" * 111, ValueError, "out: expected a name of at most 220 bytes"),
    ):
        with pytest.raises(error, match=message):
            check_file(Path(path), inputs=[Path("read.json")])
    write_json(Path("ä" * 110), {})
    assert {path.name for path in tmp_path.iterdir()} == {"read.json", "link.json", "ä" * 110}


@pytest.mark.parametrize("content", [{"a": {1, 2}}, {"a": float("nan")}, {(1, 2): 3}, {"a": object()}])
def test_what_json_cannot_hold_is_refused_by_name(content):
    with pytest.raises(ValueError, match="about: expected values for JSON, without NaN or infinity"):
        as_json(content, "about")


def test_json_holds_file_names_of_any_bytes(tmp_path):
    name = os.fsdecode(b"mod\xe8le")
    write_json(tmp_path / "a.json", {"model": name, "images": np.int64(3)})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"model": name, "images": 3}


def test_text_that_a_spreadsheet_would_evaluate_is_quoted_and_numbers_are_not(tmp_path):
    formulas = ["=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "a;=1", "a\n-1", "＝1"]
    harmless = ["pgd_at_rn20", "NAME=weights.pt", "a+b@c-d", "'=1", "", "−1"]
    numbers = [-1, -0.5, 1e-5, float("-inf"), np.float64(-2.5), True]
    for values, row in ((formulas + harmless, "text"), (numbers, "numbers")):
        write_csv(tmp_path / f"{row}.csv", [{"value": value} for value in values], ["value"])
    with (tmp_path / "text.csv").open(newline="") as file:
        read = [row["value"] for row in csv.DictReader(file)]
    assert read[len(formulas) :] == harmless
    assert read[: len(formulas)] == [
        "'=1+1", "'+1", "'-cmd|' /C calc'!A0", "'@SUM(A1)", "'\t'=1", "'\r'=1", "a;'=1", "a\n'-1", "'＝1",
    ]  # fmt: skip
    assert (tmp_path / "numbers.csv").read_text().split() == ["value", "-1", "-0.5", "1e-05", "-inf", "-2.5", "True"]


def test_every_csv_of_the_commands_quotes_the_names_of_models(here, models, monkeypatch):
    name = "@SUM(1+1):net"
    torch.manual_seed(0)
    network = create_network("tiny").eval()
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_: network)
    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    files = ["--out", "r.json", "--out", "r.csv", "--samples", "s.csv"]
    assert run(models, "evaluate", name, *ON_CLEAN, *files).exit_code == 0
    assert run(models, "corruptions", name, "--data", "c", "--out", "c.json", "--out", "c.csv").exit_code == 0
    assert run(models, "report", "r.json", "c.json", "--no-cards", "--out", "page").exit_code == 0
    for path, column in (("r", "model"), ("s", "model"), ("c", "model"), ("page/results", "subject")):
        with open(f"{path}.csv", newline="") as file:
            assert {row[column] for row in csv.DictReader(file)} == {f"'{name}"}, path
    assert [model["name"] for model in json.loads(Path("page/results.json").read_text())["models"]] == [name]


# Before the measurement


@pytest.mark.parametrize(
    "options, message",
    [
        (["--masking-images", "-1"], "masking_images: expected an integer ≥ 0"),
        (["--masking-queries", "0"], "masking_queries: expected an integer ≥ 1"),
        (["--out", "folder.json"], "out: folder.json is a folder, expected a file"),
        (["--out", "/proc/new/r.json"], "out: /proc/new cannot be used"),
        (["--samples", "/proc/s.csv"], "samples: /proc cannot be used"),
        (["--out", "same.csv", "--samples", "../here/same.csv"], "samples: expected a different file than --out"),
        (["--out", "models/cifar10/Linf/standard_tiny.json"], "is an input file"),
    ],
)
def test_evaluate_checks_what_it_would_write_before_it_measures(here, models, unmeasured, options, message):
    Path("folder.json").mkdir()
    Path("models").symlink_to(models)
    assert message in refused(models, "evaluate", "standard_tiny", *options)


def test_no_command_overwrites_the_card_beside_given_weights(here, models, unmeasured):
    weights = models / "cifar10" / "Linf" / "standard_tiny.safetensors"
    out = ["--out", weights.with_suffix(".json")]
    assert "is an input file" in refused(models, "evaluate", f"standard_tiny={weights}", *out)
    assert "is an input file" in refused(models, "corruptions", f"standard_tiny={weights}", *out)
    assert "is an input file" in refused(models, "export", "standard_tiny", "--out", weights.parent)
    assert Card.read(weights.with_suffix(".json")).name == "standard_tiny"


def test_evaluate_tries_every_model_before_it_measures_one(here, models, monkeypatch):
    def opened(name, *_):
        return nn.Linear(1, 1) if name == "my.zoo:broken" else create_network("tiny").eval()

    monkeypatch.setattr("freqrob.models.sources.open_model", opened)
    monkeypatch.setattr("freqrob.evaluation.evaluate", lambda *_, **__: pytest.fail("a model was measured"))
    assert "my.zoo:broken: model: it fails" in refused(models, "evaluate", "my.zoo:net", "my.zoo:broken", *ON_CLEAN)


def test_corruptions_checks_its_outputs_before_it_looks_for_images(here, models):
    Path("c").mkdir()
    Path("c/generated.json").touch()
    for path, message in (("c", "ending in .json or .csv"), ("c/generated.json", "is an input file")):
        assert message in refused(models, "corruptions", "standard_tiny", "--data", "c", "--out", path)


def test_a_report_does_not_overwrite_what_it_reads(here, models):
    assert run(models, "evaluate", "standard_tiny", *ON_CLEAN, "--out", "report/results.json").exit_code == 0
    before = Path("report/results.json").read_bytes()
    message = refused(models, "report", "report/results.json")
    assert "out: report/results.json is an input file" in message
    assert Path("report/results.json").read_bytes() == before and os.listdir("report") == ["results.json"]
    with pytest.raises(NotADirectoryError, match="out: /etc/hostname is a file or in a file"):
        write_report(["report/results.json"], "/etc/hostname")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"out": "/etc/hostname"}, NotADirectoryError, "out: /etc/hostname is a file or in a file"),
        ({"out": "taken"}, IsADirectoryError, "out: taken/jacobian.npz is a folder"),
        ({"out": "new", "about": {"tensor": torch.zeros(2)}}, ValueError, "about: expected values for JSON"),
        ({"out": "new", "about": {"share": float("nan")}}, ValueError, "about: expected values for JSON"),
    ],
)
def test_diagnose_checks_what_it_would_write_before_it_measures(here, options, error, message):
    Path("taken/jacobian.npz").mkdir(parents=True)
    images, model = sample_images(), create_network("tiny").eval()
    model.register_forward_hook(lambda *_: pytest.fail("the model was called"))
    with pytest.raises(error, match=message):
        diagnose(model, images.images, images.labels, only=["jacobian"], **options)
    assert os.listdir() == ["taken"]


def test_a_measurement_is_saved_whole_or_not_at_all(here):
    with pytest.raises(ValueError, match="about: expected values for JSON"):
        spectrum(sample_images().images).save("spectra", about={"model": object()})
    assert os.listdir() == []


def test_hybrids_and_corruptions_are_checked_before_they_are_made(here, monkeypatch):
    monkeypatch.setattr("freqrob.data.hybrid.hybrid_images", lambda *_: pytest.fail("an image was made"))
    monkeypatch.setattr("freqrob.data.corruption_arrays.corrupt", lambda *_, **__: pytest.fail("an image was made"))
    for write in (write_hybrids, partial(write_corruptions, types=["fog"])):
        with pytest.raises(OSError, match="folder: /proc/new cannot be used"):
            write(sample_images(), "/proc/new", about={})
        with pytest.raises(ValueError, match="about: expected values for JSON"):
            write(sample_images(), "new", about={"set": {1}})
    assert os.listdir() == []


def test_the_demo_refuses_too_few_images_before_it_measures(here, models, unmeasured):
    assert "so they cannot be deranged" in refused(models, "demo", "--images", "1")
    assert os.listdir() == []


def test_spectra_of_corruptions_are_looked_for_before_anything_is_measured(here, models, monkeypatch):
    module = import_module("freqrob.diagnostics.corruption_spectrum")  # a function has this name too
    monkeypatch.setattr(module, "spectrum", lambda *_: pytest.fail("a spectrum was measured"))
    assert "no corruptions of cifar10" in refused(models, "dataset", "spectrum", "--corruptions", "none")


# After the measurement


def test_masking_images_0_leaves_the_check_out_and_keeps_the_results(here, models):
    options = ["--masking-images", "0", "--out", "r.json"]
    result = run(models, "evaluate", "blur_standard_tiny", *ON_CLEAN, *options)
    assert result.exit_code == 0 and "masking" not in result.output, result.output
    found = json.loads(Path("r.json").read_text())
    assert found["results"][0]["images"] == len(sample_images()) and found["masking"] == {}


def test_results_are_there_when_nothing_can_be_shown(here, models, monkeypatch):
    def fails(*_, **__):
        raise BrokenPipeError("no terminal")

    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    for command, show in (("evaluate", "accuracy_table"), ("corruptions", "corruption_table"), ("diagnose", "_table")):
        monkeypatch.setattr(sys.modules[f"freqrob.cli.{command}"], show, fails)
    files = ["--out", "r.json", "--out", "r.csv", "--samples", "s.csv"]
    assert run(models, "evaluate", "standard_tiny", *ON_CLEAN, *files).exit_code
    assert run(models, "corruptions", "standard_tiny", "--data", "c", "--out", "c.json", "--out", "c.csv").exit_code
    assert run(models, "diagnose", "standard_tiny", "--only", "jacobian", "--out", "d").exit_code
    for path in ("r.json", "r.csv", "s.csv", "c.json", "c.csv", "d/standard_tiny/jacobian.json"):
        assert Path(path).is_file(), path


def test_results_are_shown_and_written_elsewhere_when_a_file_cannot_be_written(here, models, monkeypatch):
    """The disk may be full by then, and results of one's own code are kept nowhere else."""

    def fails_for_some(write, path, *arguments):
        if "full" in path.name:
            raise OSError(28, "No space left on device")
        write(path, *arguments)

    for place, name in (("file_formats", "write_json"), ("files", "write_csv")):
        monkeypatch.setattr(f"freqrob.runtime.{place}.{name}", partial(fails_for_some, getattr(files, name)))
    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    for command in (
        ["evaluate", *ON_CLEAN, "--samples", "s.csv"],
        ["corruptions", "--data", "c", "--type", "contrast"],
    ):
        command, *options = command
        outputs = [text for name in ("full.json", "r.json", "r.csv") for text in ("--out", name)]
        result = run(models, command, "standard_tiny", *options, "--no-cache", *outputs)
        assert result.exit_code == 2 and "No space left" in result.output, result.output
        assert "standard_tiny" in result.output and "Accuracy (%)" in result.output
        for name in ("r.json", "r.csv", *(["s.csv"] if command == "evaluate" else [])):
            Path(name).unlink()


@pytest.mark.parametrize("command", ["evaluate", "corruptions"])
def test_what_was_measured_is_shown_when_a_later_model_fails(here, models, monkeypatch, command):
    class Fails(nn.Module):
        calls = 0

        def forward(self, images):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("no luck")
            return torch.zeros(len(images), 10)

    def opened(name, *_):
        return Fails() if name == "my.zoo:fails" else create_network("tiny").eval()

    monkeypatch.setattr("freqrob.models.sources.open_model", opened)
    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    options = ON_CLEAN if command == "evaluate" else ("--data", "c")
    result = run(models, command, "my.zoo:net", "my.zoo:fails", *options, "--no-cache")
    assert result.exit_code == 2 and "my.zoo:fails: model: it fails on images" in result.output, result.output
    assert "Accuracy (%)" in result.output and result.output.count("my.zoo:net") >= 1


def test_corruptions_are_written_though_the_baseline_makes_no_error(here, models, monkeypatch):
    class Right(nn.Module):
        def forward(self, images):
            return nn.functional.one_hot(sample_images().labels, 10).float()[: len(images)]

    def opened(name, *_):
        return Right() if name == "my.zoo:right" else create_network("tiny").eval()

    monkeypatch.setattr("freqrob.models.sources.open_model", opened)
    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    options = ["--data", "c", "--baseline", "my.zoo:right", "--out", "c.json"]
    assert "baseline: makes no error on contrast" in refused(models, "corruptions", "my.zoo:net", *options)
    found = json.loads(Path("c.json").read_text())["results"]
    assert [one["model"] for one in found] == ["my.zoo:net", "my.zoo:right"]
    assert found[1]["accuracies"]["contrast"] == [1.0] * 5 and "mce" not in found[0]


# Drawing


def test_a_report_goes_on_without_a_figure_that_cannot_be_drawn(here, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no colours")

    for name, images in (("natural", sample_images().images), ("dark", sample_images().images // 2)):
        spectrum(images).save("spectra", name, {"source": "samples"})
    monkeypatch.setattr("freqrob.report.plots.plot_power", fails)
    with pytest.warns(UserWarning, match="spectra was not drawn .RuntimeError: no colours"):
        page = write_report(["spectra"], "page", cards=False)
    found = json.loads(Path("page/results.json").read_text())
    assert found["spectra"].keys() == {"natural", "dark"} and found["figures"] == []
    assert page.is_file() and Path("page/results.csv").is_file()


@pytest.fixture
def split(monkeypatch):
    monkeypatch.setattr(run_images, "load_dataset", lambda name, split, *_, **__: two_colours_split(split))


def test_a_figure_that_cannot_be_drawn_ends_no_training(split, tmp_path):
    recipe = Recipe("standard_tiny", epochs=2, batch_size=16, lr=0.05, precision="32-true")
    folder = tmp_path / "cifar10" / "Linf" / "standard_tiny"
    (folder / "curves.png").mkdir(parents=True)
    with pytest.warns(UserWarning, match="curves.png was not drawn .IsADirectoryError"):
        train(recipe, model_dir=tmp_path)
    assert torch.load(folder / "last.ckpt", weights_only=True)["step"] == 2 * 96 // 16
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_checkpoint_is_written_before_the_curves_are_drawn(split, tmp_path, monkeypatch):
    def drawn(_history, path, **_):
        assert (path.parent / "last.ckpt").is_file() and (path.parent / "metrics.csv").is_file()
        path.touch()

    monkeypatch.setattr("freqrob.training.curves.draw_curves", drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Recipe("standard_tiny", epochs=1, batch_size=16, precision="32-true"), model_dir=tmp_path)
    assert list(tmp_path.rglob("curves.png"))


def test_a_contact_sheet_that_cannot_be_drawn_loses_no_hybrids(here):
    Path("out/hybrid.png").mkdir(parents=True)
    with pytest.warns(UserWarning, match="hybrid.png was not drawn"):
        write_hybrids(sample_images(), "out", frequencies=[0.1], sheet=2)
    assert sorted(os.listdir("out")) == ["hybrid.json", "hybrid.npz", "hybrid.png"]


DRAWING = """
import os
from freqrob.training.curves import draw_curves
from pathlib import Path
draw_curves([{"epoch": 1, "loss": 2.0, "val_clean": 0.5, "selection": 0.5}], Path("curves.png"))
import freqrob.report
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("backend", ["no_such_backend", "module://matplotlib_inline.backend_inline"])
def test_figures_need_no_back_end(tmp_path, backend):
    environment = {**os.environ, "MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", DRAWING], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


# Terminals


@pytest.mark.parametrize("encoding, shown", [("utf-8", "ε".encode()), ("latin-1", b"?"), ("ascii", b"?")])
def test_what_a_terminal_cannot_show_is_replaced(here, models, monkeypatch, encoding, shown):
    monkeypatch.setattr(sys, "argv", ["freqrob", "evaluate", "standard_tiny", "--model-dir", str(models)])
    sys.argv += ["--protocol", "natural", "--attack", "fgsm", "--out", "r.json"]
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit) as done:
            cli.main()
    assert not done.value.code and b"FGSM at " + shown + b" 8/255" in terminal.buffer.getvalue()
    assert json.loads(Path("r.json").read_text())["results"]


def freqrob(*arguments, **options):
    command = [sys.executable, "-m", "freqrob", *arguments]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_help_is_shown_on_any_terminal(variables):
    done = freqrob("evaluate", "--help", stdout=subprocess.PIPE, env={**os.environ, **variables})
    assert done.returncode == 0 and "--attack" in done.stdout and not done.stderr


def test_a_closed_pipe_ends_the_output_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = freqrob("recipes", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_that_does_not_fit_on_the_disk_is_an_error():
    with open("/dev/full", "w") as full:
        done = freqrob("recipes", stdout=full)
    message = "Error: standard output is incomplete: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_progress_that_nobody_reads_ends_no_command(here, models, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "argv", ["freqrob", "evaluate", "standard_tiny", *ON_CLEAN, "--model-dir", str(models)])
    monkeypatch.setattr("freqrob.cli.progress.LINE_SECONDS", -1)
    sys.argv += ["--out", "r.json"]
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        with pytest.raises(SystemExit) as done:
            cli.main()
    assert not done.value.code and Path("r.json").is_file()


@pytest.mark.parametrize("text", ["short", 100_000 * "long"])
def test_whatever_is_printed_into_a_closed_pipe_is_dropped(monkeypatch, text):
    reader, writer = os.pipe()
    os.close(reader)
    done = []
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as ended, lenient_output():  # noqa: PT012
            for _ in range(3):
                print(text, flush=True)
            done.append(True)
    assert done and ended.value.code == 1


def test_the_streams_are_restored_and_an_exit_status_is_kept(capsys):
    before = sys.stdout, sys.stderr
    for status in (None, 3):
        with pytest.raises(SystemExit) as done, lenient_output():  # noqa: PT012
            print("∞")
            sys.exit(status)
        assert done.value.code == status and (sys.stdout, sys.stderr) == before
    with lenient_output():
        pass
    assert capsys.readouterr().out == "∞\n∞\n"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("columns, term", [(20, "xterm"), (20, "dumb"), (300, "xterm")])
def test_no_table_cuts_off_a_name_or_a_number(here, models, monkeypatch, terminal, columns, term):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(Console, "is_terminal", terminal)
    shown = {
        "evaluate": ("standard_tiny", "--attack", "clean", "--attack", "fgsm"),
        "models": (),
        "recipes": ("pgd_at_rn20",),
        "diagnose": ("standard_tiny", "--only", "jacobian", "--set", "jacobian.images=4"),
    }
    for command, arguments in shown.items():
        options = [] if command == "recipes" else ["--model-dir", models]
        result = CliRunner().invoke(cli.app, [command, *arguments, *map(str, options)])
        assert result.exit_code == 0 and "…" not in result.stdout, result.output


@pytest.mark.parametrize("name", ["my.zoo:net?style=[bold]", "my.zoo:net?tag=[/x]"])
def test_brackets_in_names_are_no_markup(here, models, monkeypatch, name):
    network = create_network("tiny").eval()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("freqrob.models.sources.open_model", lambda *_: network)
    write_corruptions(sample_images(), "c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    for command in (
        ("evaluate", name, *ON_CLEAN, "--out", "[/x]/r.json"),
        ("corruptions", name, "--data", "c", "--out", "[/x]/c.json"),
        ("diagnose", name, "--only", "jacobian", "--out", "[/x]/d"),
    ):
        result = run(models, *command)
        assert result.exit_code == 0 and name in result.output and "[/x]" in result.output, result.output
