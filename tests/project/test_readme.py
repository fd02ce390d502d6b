"""The README and the results' pages say what was measured; what they and the guides tell to run does run."""

import re
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import readme
from freqrob import cli
from freqrob.data.corruption_arrays import write_corruptions
from freqrob.data.samples import sample_images
from freqrob.models import create_network, registry
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.spectral import native
from freqrob.training import recipe_for, run_images
from tests.support.two_colours import two_colours_split

READMES = {path.parent.name: path for path in (readme.README, *readme.ROOT.glob("plugins/*/README.md"))}
GUIDES = [readme.ROOT / f"docs/how-to/{name}.md" for name in ("first-report", "train")]
RESULTS = sorted(readme.ROOT.glob("docs/results/*.md"))


def test_tables_are_what_results_say():
    text = readme.README.read_text()
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


def test_every_table_is_on_one_page():
    pages = {path.name: re.findall(r"<!-- (\w[\w ]*) -->", path.read_text()) for path in (readme.README, *RESULTS)}
    assert sorted(sum(pages.values(), [])) == sorted(readme.TABLES)
    assert all("| --- |" in readme.filled(path.read_text()) for path in RESULTS if pages[path.name])


def test_a_table_that_is_not_known_or_does_not_end_is_refused():
    with pytest.raises(ValueError, match="no table 'modles', expected one of imagenet, models, "):
        readme.filled("<!-- modles -->\n<!-- /modles -->\n")
    with pytest.raises(ValueError, match="the table 'models' has no end"):
        readme.filled("<!-- models -->\n")


def test_the_five_lines_run(tmp_path):
    code = re.search(r"```python\n(import torch, freqrob.*?)```", readme.README.read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) == 2 + 5
    script = tmp_path / "five_lines.py"
    script.write_text(code)
    found = runpy.run_path(str(script))
    assert found["balanced"].shape == (8, 3, 32, 32) and len(found["results"]) == 6
    assert found["measured"]["jacobian"].images == 8


def test_it_is_short():
    assert len(readme.README.read_text().splitlines()) <= 90


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme.README.read_text()):
        assert (Path(readme.ROOT) / target).exists(), target


def test_the_guide_s_commands_report_on_what_they_write():
    lines = [words for words in commands(GUIDES[0]) if words[0] == "freqrob"]
    written = []
    for _, name, *arguments in lines:
        given = typer.main.get_command(cli.app).commands[name].make_context(name, arguments).params
        assert not any(model.startswith("timm:") for model in given.get("models", [])), "of ImageNet's 1000 classes"
        assert set(map(Path, given.get("runs", []))) <= set(written), name
        out = given.get("out") or []
        written += map(Path, out if isinstance(out, list | tuple) else [out])
    assert len(lines) == 5


# What the READMEs tell to run, on 20 images and by networks that take no time

REPLACED = {  # what needs a download or hours
    "robustbench:Carmon2019Unlabeled": "standard_rn20",
    "robustbench:Wong2020Fast": "standard_rn20",
    "bass_trades_wrn34": "bass_trades_tiny",
    "lin2023:table1": "lin2023:theorem1",
    "200": "20",
}
ADDED = {
    "train": ["--epochs", "1", "--batch-size", "16", "--set", "precision=32-true"],
    "diagnose": [
        *("--set", "minimal_perturbation.steps=3", "--set", "minimal_perturbation.repeats=1"),
        *("--set", "fourier_heatmap.every=8", "--set", "band_accuracy.steps=2", "--set", "hybrid.seeds=[0]"),
        *("--set", "loss_landscape_low.points=5", "--set", "loss_landscape_high.points=5"),
    ],
    "evaluate": ["--no-cache"],
    "boundary_spectrum.py": ["--images", "4", "--steps", "5"],
}
NETS = """
from freqrob.models import create_network

def wide(num_classes):
    return create_network("tiny", num_classes)
"""


def blocks(path, language):
    every = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [content for its, content in every if its == language]


def commands(path):
    """The lines of blocks without a language and those after a $ in sessions, without comments."""
    sessions = "".join(blocks(path, "console")).replace("\\\n", "").splitlines()
    lines = "".join(blocks(path, "")).replace("\\\n", "").splitlines()
    lines += [line[2:] for line in sessions if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def workplace(tiny, tmp_path, monkeypatch):
    """A folder with models of the names that the READMEs have, a module of one's own, and few images."""
    for package in ("foolbox", "pyautoattack", "robustbench"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    native.load()  # from the usual cache
    monkeypatch.setenv("FREQROB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.setitem(registry._ARCHITECTURES, "rn20", registry._ARCHITECTURES["tiny"])
    for name in ("standard_rn20", "pgd_at_rn20", "bass_pgd_at_rn20"):
        torch.manual_seed(0)
        weights = tmp_path / f"models/cifar10/Linf/{name}.safetensors"
        front_ends = recipe_for(name).front_ends
        save(weights, create_network("rn20").state_dict(), Card(name, "rn20", front_ends=front_ends))
    Path("own").mkdir()
    torch.save({"state_dict": create_network("rn20").state_dict()}, "own/checkpoint.pth.tar")
    Path("mine").mkdir()
    Path("mine/nets.py").write_text(NETS)
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: sample_images())
    monkeypatch.setattr(
        run_images, "load_dataset", lambda _name, split, *_, **__: replace(two_colours_split(split), classes=())
    )
    write_corruptions(sample_images(), "data/cifar10-c", ["contrast"], about={"dataset": "cifar10", "bass": None})
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def run(program, *arguments):
    """A command as it is written there, but for REPLACED and ADDED."""
    arguments = [REPLACED.get(argument, argument) for argument in arguments]
    photographs = arguments[0] == "train" and {"imagenet", "folder"} & {*arguments}
    if program == "freqrob" and (arguments[0] == "demo" or photographs):
        # as tests/cli/test_demo.py and tests/training/test_photographs.py run them
        typer.main.get_command(cli.app).commands[arguments[0]].make_context(arguments[0], arguments[1:])
    elif program == "freqrob":
        result = CliRunner().invoke(cli.app, [*arguments, *ADDED.get(arguments[0], [])])
        assert result.exit_code == 0, result.output
    elif program == "python":
        script, *others = arguments
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, *others, *ADDED[Path(script).name]])
            with pytest.raises(SystemExit) as done:
                runpy.run_path(str(readme.ROOT / script), run_name="__main__")
        assert not done.value.code
    elif program == "torchrun":  # as tests/training/test_distributed.py runs it
        assert arguments[:5] == ["--nproc-per-node", "8", "-m", "freqrob", "train"]
        typer.main.get_command(cli.app).commands["train"].make_context("train", arguments[5:])
    else:
        makefile = (readme.ROOT / "Makefile").read_text()
        assert program == "make" and re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE)


def test_the_commands_of_the_readme_and_the_guides_run(workplace):
    for path in (readme.README, *GUIDES):
        for command in commands(path):
            run(*command)
    for path in ("results.json", "corruptions.json", "diagnosis/mine.nets_wide", "report/index.html"):
        assert Path(path).exists(), path
    assert Path("models/cifar10/Linf/bass_trades_tiny.safetensors").is_file()


@pytest.mark.parametrize("plugin, written", [("robustbench", "claim/pgd_at_rn20.md"), ("foolbox", "spectrum")])
def test_the_commands_of_a_plugin_s_readme_run(workplace, plugin, written):
    for command in commands(READMES[plugin]):
        run(*command)
    assert Path(written).exists()


def test_the_commands_of_its_tables_are_of_scripts_and_run(workplace):
    text = "\n".join(readme.filled(path.read_text()) for path in (*READMES.values(), *GUIDES, *RESULTS))
    spans = re.findall(r"`((?:python -m|freqrob) [^`]*)`", text)
    modules = {span.split()[2] for span in spans if span.startswith("python -m")}
    scripts = [readme.ROOT / f"{name.replace('.', '/')}.py" for name in modules]
    assert len(scripts) > 5 and all('__name__ == "__main__"' in script.read_text() for script in scripts)
    (evaluation,) = (span for span in spans if span.startswith("freqrob evaluate ") and "model_test.pt" in span)
    weights = next(Path(folder) for folder in find_spec("pyautoattack").submodule_search_locations)
    shutil.copy(weights / "examples/model_test.pt", workplace)
    run(*shlex.split(evaluation), "--protocol", "natural", "--attack", "clean")


def test_the_python_of_foolbox_s_readme_runs(workplace):
    found = {}
    for code in blocks(READMES["foolbox"], "python"):
        exec(code, found)
    assert 0 < found["spectrum"].half_power_frequency < 0.71 and found["high"].shape == (20, 3, 32, 32)


def test_the_python_of_robustbench_s_readme_runs(workplace, monkeypatch):
    from freqrob_robustbench import import_robustbench

    import_robustbench()
    from robustbench import data
    from robustbench.model_zoo.enums import BenchmarkDataset

    def load(count, *_):
        samples = sample_images()[:count]
        return samples.images.float() / 255, samples.labels

    monkeypatch.setitem(data._clean_dataset_loaders, BenchmarkDataset.cifar_10, load)
    found = {}
    for code in blocks(READMES["robustbench"], "python"):
        exec(code.replace("200", "20"), found)
    assert 0 <= found["robust"] <= found["clean"] <= 1


def examples():
    """What the commands' help shows, by command."""
    app = typer.main.get_command(cli.app)
    groups = {name: command for name, command in app.commands.items() if hasattr(command, "commands")}
    every = {(name,): command for name, command in app.commands.items() if name not in groups}
    every |= {(group, name): one for group, its in groups.items() for name, one in its.commands.items()}
    for names, command in every.items():
        shown = re.findall(r"^\s*- `(.*?)`(?:,.*)?$", command.help, re.MULTILINE)
        assert shown, names
        for line in shown:
            yield pytest.param(names, command, shlex.split(line), id=line)


@pytest.mark.parametrize("names, command, words", [*examples()])
def test_an_example_of_the_help_is_understood(names, command, words):
    start = words.index("freqrob") + 1
    assert tuple(words[start : start + len(names)]) == names
    command.make_context(names[-1], words[start + len(names) :])
