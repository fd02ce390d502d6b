"""Where results and kernels are kept, and what happens where nothing can be written."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import freqrob
import freqrob.models
from freqrob import cli
from freqrob.cli.measuring import results_folder
from freqrob.data import load_dataset
from freqrob.data.corruption_arrays import load_corruptions
from freqrob.data.samples import sample_images
from freqrob.models.cards import Card
from freqrob.models.downloads import download
from freqrob.models.sources import open_model
from freqrob.runtime import cache
from freqrob.runtime.cache import cache_folder, check_cache, usable_folder
from freqrob.runtime.files import sha256_of
from tests.support.users import STRANGER, as_user, give, needs_root

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


def test_without_the_home_folder_that_is_named_it_is_a_temporary_folder(monkeypatch, tmp_path, temporary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREQROB_CACHE", "~nobody-has-this-name/cache")
    folder, reasons = usable_folder("results")
    assert folder == temporary / "results" and cache_folder() == temporary
    assert reasons == ["there is no home folder (FREQROB_CACHE is ~nobody-has-this-name/cache)"]
    assert not list(tmp_path.glob("~*"))


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

    def matplotlib_folder() -> str | None:
        cache.set_matplotlib_folder()
        return os.environ.get("MPLCONFIGDIR")

    assert as_user(STRANGER, matplotlib_folder) == str(expected.with_name("matplotlib"))


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
    with pytest.raises(OSError, match=f"{temporary} (is a symbolic link|belongs to|is a file)"):
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
    assert "Results are cached in" not in evaluate("--no-cache").stderr


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


def test_machines_that_share_no_temporary_folder_need_a_cache(monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/home")
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="^cache: .* in /dev/null/home.*--cache DIR"):
        results_folder(None, no_cache=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert results_folder(None, no_cache=False) == usable_folder("results")[0]


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


# Downloads


@pytest.mark.parametrize("folder", [path.replace("home", "downloads") for path in UNWRITABLE])
def test_a_download_names_the_folder_that_cannot_be_written_to(tmp_path, monkeypatch, folder):
    for name in ("cifar10", "svhn", "tiny_imagenet"):
        with pytest.raises(OSError, match=f"^data_dir: {folder}"):
            load_dataset(name, "test", folder, download=True)
    with pytest.raises(OSError, match=f"^data_dir: {folder}"):
        load_corruptions(folder, download=True)
    shipped = Path(freqrob.models.__file__).parent / "weights" / "cifar10" / "Linf" / "fgsm_rn20.safetensors"
    card = Card("fgsm_rn20", "rn20", sha256=sha256_of(shipped), url=shipped.as_uri())
    with pytest.raises(OSError, match=f"^model_dir: {folder}"):
        download(card, Path(folder) / "fgsm_rn20.safetensors")
    download(card, tmp_path / "fgsm_rn20.safetensors")


@pytest.mark.parametrize("home", UNWRITABLE)
def test_a_download_of_another_package_names_its_setting(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    with pytest.raises(OSError, match="download hub:me/zoo:net.*TORCH_HOME sets the folder"):
        open_model("hub:me/zoo:net?trust_repo=True")


# matplotlib


@pytest.mark.parametrize("home", UNWRITABLE)
def test_matplotlib_keeps_its_files_in_the_cache_where_the_home_is_not_writable(monkeypatch, tmp_path, home):
    code = """
        from freqrob.runtime.cache import set_matplotlib_folder
        set_matplotlib_folder()
        import matplotlib
        print(matplotlib.get_configdir(), matplotlib.get_cachedir())
    """
    settings = {"HOME": home, "FREQROB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert done.stdout.split() == 2 * [str(tmp_path / "cache" / "matplotlib")] and done.stderr == ""


def test_matplotlib_is_left_alone_where_it_can_write_or_the_user_has_chosen(monkeypatch):
    cache.set_matplotlib_folder()
    assert "MPLCONFIGDIR" not in os.environ and not cache_folder().exists()
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setenv("MPLCONFIGDIR", "/chosen")
    cache.set_matplotlib_folder()
    assert os.environ["MPLCONFIGDIR"] == "/chosen"


# torch.compile


def test_compiled_code_is_kept_in_the_cache_and_not_in_a_folder_that_anybody_may_have_created(tmp_path):
    code = """
        import os
        from freqrob.cli import app
        try:
            app(["train", "standard_rn20", "--compile", "--data", "nowhere"])
        except SystemExit:
            from torch._inductor.runtime.cache_dir_utils import cache_dir
            print(cache_dir())
    """
    settings = {"FREQROB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    env = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"} | settings
    for chosen in ({}, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "chosen")}):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, env=env | chosen, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == list(chosen.values() or [str(tmp_path / "cache" / "inductor")]), done.stderr
    assert stat.S_IMODE((tmp_path / "cache" / "inductor").stat().st_mode) == 0o700
