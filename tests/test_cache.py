"""Where results and kernels are kept, and what happens where nothing can be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner
from users import STRANGER, as_user, give, needs_root

import freqrob
from freqrob import cli
from freqrob.data.samples import sample_images
from freqrob.runtime import cache
from freqrob.runtime.cache import cache_folder, check_cache, usable_folder

ROOT = Path(freqrob.__file__).resolve().parents[1]
UNWRITABLE = ["/dev/null/home", *(["/proc/home"] if sys.platform == "linux" else [])]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A home and a temporary folder of their own, and no other setting."""
    for name in ("FREQROB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("FREQROB_NATIVE", "off")  # no kernels are built for an empty cache
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def temporary(tmp_path) -> Path:
    return tmp_path / "tmp" / f"freqrob-{os.geteuid()}"


# The folder


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "home" / ".cache" / "freqrob"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "freqrob"
    monkeypatch.setenv("FREQROB_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"
    assert not list((tmp_path / "home").iterdir())


def test_it_is_created_for_the_user_alone(tmp_path):
    folder, reasons = usable_folder("native", "key", for_code=True)
    assert folder == cache_folder() / "native" / "key" and not reasons
    assert [stat.S_IMODE(place.stat().st_mode) for place in (folder.parent, folder)] == [0o700, 0o700]
    assert usable_folder("results") == (cache_folder() / "results", [])


@pytest.mark.parametrize("home", UNWRITABLE)
def test_without_a_writable_home_it_is_a_temporary_folder(monkeypatch, temporary, home):
    monkeypatch.setenv("HOME", home)
    folder, (reason,) = usable_folder("results")
    assert folder == temporary / "results" and stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert f"no files can be written in {home}/.cache/freqrob/results" in reason
    assert usable_folder("results")[0] == folder


@needs_root
def test_without_any_home_it_is_a_temporary_folder(monkeypatch, common):
    """As in a container that runs under a number that has no user."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("tempfile.tempdir", str(common))
    common.chmod(0o1777)
    expected = common / f"freqrob-{STRANGER}" / "results"
    assert as_user(STRANGER, cache_folder) == expected.parent
    answer = as_user(STRANGER, lambda: usable_folder("results"))
    assert answer == (expected, ["there is no home folder (HOME is not set)"])


@pytest.mark.parametrize("for_code", [False, True])
def test_a_cache_that_others_can_write_to_may_keep_results_but_no_code(monkeypatch, tmp_path, temporary, for_code):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("FREQROB_CACHE", str(shared))
    folder, reasons = usable_folder("part", for_code=for_code)
    if for_code:
        assert folder == temporary / "part" and f"{shared} can be written to by everybody" in reasons[0]
        assert not list(shared.iterdir())
    else:
        assert folder == shared / "part" and not reasons


@pytest.mark.parametrize("trap", ["a link", "another user's", "a file"])
def test_a_temporary_folder_of_someone_else_is_refused(monkeypatch, tmp_path, temporary, trap):
    monkeypatch.setenv("HOME", "/dev/null/home")
    if trap == "a link":
        (tmp_path / "theirs").mkdir()
        temporary.symlink_to(tmp_path / "theirs")
    elif trap == "a file":
        temporary.touch()
    elif os.geteuid() == 0:
        temporary.mkdir()
        give(temporary, STRANGER)
    else:
        pytest.skip("only root can give a folder away")
    with pytest.raises(OSError, match=f"in /dev/null/home/.*; .*{temporary} (is a symbolic link|belongs to|is a file)"):
        usable_folder("results")
    assert not list(tmp_path.glob("**/results"))


# Commands


def command(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


@pytest.fixture
def evaluate(monkeypatch):
    """`freqrob evaluate` of a shipped model on 20 images."""
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: sample_images())
    monkeypatch.setenv("COLUMNS", "200")
    measured = ["evaluate", "fgsm_rn20", "--protocol", "natural", "--attack", "clean"]
    return lambda *options: command(*measured, *options)


@pytest.mark.parametrize("home", UNWRITABLE)
def test_a_command_without_a_writable_home_keeps_results_in_the_temporary_folder_and_says_so(
    evaluate, monkeypatch, temporary, home
):
    monkeypatch.setenv("HOME", home)
    result = evaluate()
    assert result.exit_code == 0, result.output
    assert len(list((temporary / "results").glob("clean-*.safetensors"))) == 1
    for part in (temporary / "results", f"{home}/.cache/freqrob/results", "--cache", "FREQROB_CACHE", "--no-cache"):
        assert str(part) in result.stderr
    assert "Results are kept in" not in evaluate("--no-cache").stderr


def test_a_command_that_can_keep_nothing_names_what_to_do(evaluate, monkeypatch, temporary):
    monkeypatch.setenv("HOME", "/dev/null/home")
    temporary.touch()
    for name in ("evaluate", "corruptions", "diagnose"):
        result = evaluate() if name == "evaluate" else command(name, "fgsm_rn20")
        assert result.exit_code == 2 and result.output.count("\n") == 1, result.output
        for part in ("Error: cache: ", str(temporary), "/dev/null/home", "--cache", "FREQROB_CACHE", "--no-cache"):
            assert part in result.output
    assert evaluate("--no-cache").exit_code == 0


@pytest.mark.parametrize("folder", [path.replace("home", "cache") for path in UNWRITABLE])
def test_a_cache_that_is_asked_for_and_cannot_be_written_to_is_an_error(evaluate, folder):
    result = evaluate("--cache", folder)
    assert result.exit_code == 2 and f"Error: cache: no files can be written in {folder} (" in result.output
    assert "--cache DIR" in result.output and "--no-cache" in result.output


def test_machines_that_share_no_temporary_folder_need_a_cache(evaluate, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    result = evaluate()
    assert result.exit_code == 2 and "--cache DIR" in result.output


# Python


@pytest.mark.parametrize("folder", [path.replace("home", "cache") for path in UNWRITABLE])
def test_functions_name_the_argument_when_the_cache_cannot_be_written_to(folder):
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with pytest.raises(OSError, match=f"^cache: no files can be written in {folder} .*cache=None"):
        freqrob.evaluate(model, images, labels, cache=folder)
    with pytest.raises(OSError, match=f"^cache: no files can be written in {folder} .*cache=None"):
        freqrob.diagnose(model, images, labels, only=["sensitivity"], cache=folder)


def test_check_cache_creates_the_folder(tmp_path):
    check_cache(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


# matplotlib


@pytest.mark.parametrize("home", UNWRITABLE)
def test_matplotlib_keeps_its_files_in_the_cache_where_the_home_is_not_writable(monkeypatch, tmp_path, home):
    code = """
        from freqrob.runtime.cache import set_matplotlib_folder
        set_matplotlib_folder()
        import matplotlib
        print(matplotlib.get_configdir(), matplotlib.get_cachedir())
    """.replace("    ", "")
    settings = {"HOME": home, "FREQROB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True)
    assert done.stdout.split() == 2 * [str(tmp_path / "cache" / "matplotlib")] and done.stderr == ""


def test_matplotlib_is_left_alone_where_it_can_write_or_the_user_has_chosen(monkeypatch):
    cache.set_matplotlib_folder()
    assert "MPLCONFIGDIR" not in os.environ and not cache_folder().exists()
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setenv("MPLCONFIGDIR", "/chosen")
    cache.set_matplotlib_folder()
    assert os.environ["MPLCONFIGDIR"] == "/chosen"
