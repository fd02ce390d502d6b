"""The manual's code blocks run, and its commands are those of the command line."""

import doctest
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from freqrob import cli
from freqrob.data import DATASETS
from freqrob.models import registry

ROOT = Path(__file__).resolve().parents[2]
GENERATED = r"_build|gallery|command-line\.md|results/.*20[0-9]{2}\.md"
PAGES = [
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not re.search(GENERATED, str(path.relative_to(ROOT)))),
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
]
NAMED = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in PAGES]
LANGUAGES = {"python", "pycon", "console", "bash", "toml"}  # those that run are run, and others are no programs
PROGRAMS = {"pip", "git", "cd", "make", "python"}


def blocks(path, *languages):
    """The contents of a page's blocks in some languages."""
    every = re.findall(r"^```([\w-]*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [content for language, content in every if language in languages]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder, from which modules are imported, and registries that forget what a page registers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FREQROB_CACHE", str(tmp_path / "cache"))
    known = {id(registered): set(registered) for registered in (registry.DEFENSES, DATASETS)}
    yield tmp_path
    for registered in (registry.DEFENSES, DATASETS):
        for name in set(registered) - known[id(registered)]:
            del registered[name]


@pytest.mark.parametrize("path", [page for page in NAMED if blocks(page.values[0], "python")])
def test_the_python_of_a_page_runs(path, workplace):
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(path, "python"), 1):
        exec(compile(block, f"{path.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("path", [page for page in NAMED if blocks(page.values[0], "pycon")])
def test_the_sessions_of_a_page_print_what_they_show(path, workplace):
    session = "\n".join(blocks(path, "pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, path.name, str(path), 0)
    outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert outcome.attempted and not outcome.failed


def commands(path):
    """The words of each command of a page: lines with a $, the steps of scripts, and commands in a line of text."""
    for block in blocks(path, "console"):
        lines = block.replace("\\\n", "").splitlines()
        yield from (shlex.split(line[2:]) for line in lines if line.startswith("$ "))
    for block in blocks(path, "bash"):
        yield from (shlex.split(line) for line in block.splitlines() if line.startswith("srun "))
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`((?:freqrob|torchrun|python -m) [^`]*)`", text):
        yield shlex.split(span)


def understood(words):
    """Let the command line parse a command; one without its arguments is only looked up."""
    group = typer.main.get_command(cli.app)
    while words and hasattr(group, "commands"):
        while words[0].startswith("-"):
            assert words.pop(0) in {option for parameter in group.params for option in parameter.opts}
        name = words.pop(0)
        assert name in group.commands, f"no command {name}"
        group = group.commands[name]
        if not words:
            return
    if any(word.isupper() or word == "…" for word in words) or words[0].startswith("-"):  # how it is written
        options = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}
    else:
        group.make_context(name, words)


@pytest.mark.parametrize("path", NAMED)
def test_the_commands_of_a_page_are_understood(path):
    for words in commands(path):
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        program = words[0]
        if program in ("torchrun", "srun", "python") and "freqrob" in words:
            words = words[words.index("freqrob") :]
            program = "freqrob"
        if program == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif program == "freqrob":
            understood(words[1:])
        else:
            assert program in PROGRAMS, words


@pytest.mark.parametrize("path", NAMED)
def test_a_page_has_no_block_that_nobody_checks(path):
    languages = set(re.findall(r"^```([\w-]+)$", path.read_text(), re.MULTILINE))
    assert languages <= LANGUAGES


@pytest.mark.parametrize("path", [page for page in NAMED if "/reference/" in str(page.values[0])])
def test_the_modules_of_the_reference_exist(path):
    for name in re.findall(r"^\.\. (?:automodule|py:module):: (freqrob[\w.]*)$", path.read_text(), re.MULTILINE):
        assert find_spec(name), name


def test_the_extras_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r"^\| `([a-z]+)`", (ROOT / "docs/how-to/install.md").read_text(), re.MULTILINE)
    assert len(listed) >= 5
    for extra in listed:
        assert re.search(rf"^{extra} = ", project, re.MULTILINE), extra


def test_the_entry_point_groups_are_those_that_registries_read():
    sources = "\n".join(path.read_text() for path in (ROOT / "freqrob").rglob("*.py"))
    listed = set(re.findall(r"\| `(freqrob\.[a-z]+)` \|", (ROOT / "CONTRIBUTING.md").read_text()))
    read = re.findall(r'(?:"[a-z ]+",\s*|GROUP = )"(freqrob\.\w+)"', sources)
    assert listed == set(read)


def test_the_plug_in_s_tutorial_shows_the_example_package():
    """The files are included; the entry points are written out, and have to be the package's."""
    page = (ROOT / "docs/tutorials/plot_8_plugin.py").read_text()
    package = (ROOT / "tests/example_plugin/pyproject.toml").read_text()
    for path in re.findall(r"literalinclude:: \.\./\.\./(\S+)", page):
        assert (ROOT / path).is_file(), path
    shown = re.findall(r'^#    (\[project\.entry-points.*|\w+ = "example_plugin.*)$', page, re.MULTILINE)
    assert len(shown) == 8 and all(f"{line}\n" in package for line in shown)
