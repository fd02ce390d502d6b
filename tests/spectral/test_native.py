"""Building on first use: what goes wrong there, each failure provoked, and what must happen then."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch

from freqrob.runtime.files import sha256_of
from freqrob.spectral import build, native
from tests.support.users import STRANGER, exchanging, give, needs_linux, needs_root

ROOT = Path(native.__file__).resolve().parents[2]

needs_cuda = pytest.mark.skipif(torch.version.cuda is None, reason="torch without CUDA")

OPS = """
#include <torch/csrc/stable/library.h>
static int64_t isa() { return 42; }
STABLE_TORCH_LIBRARY(freqrob, m) { m.def("isa() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(freqrob, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa)); }
"""
KERNEL = "__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\nvoid launch(float* x) { twice<<<1, 32>>>(x); }\n"

# Compiling OPS takes seconds, so most tests have a compiler that knows its object file already.
COMPILER = """
echo "$*" >> {log}
case "$*" in *" -c "*/ops.cpp*)
    if cmp -s {known}/ops.cpp {sources}/ops.cpp; then cp {known}/ops.o ops.o; : > ops.o.d; exit; fi
esac
exec /usr/bin/c++ "$@"
"""


@dataclass
class Outcome:
    """What `native.load` made of it in a process of its own."""

    loaded: bool | None
    raised: str | None
    warnings: list[str]
    status: native.Status
    built: bool  # whether torch's builder was imported
    after: object  # the value of the expression the test asked for

    @property
    def reason(self) -> str | None:
        return self.status.reason


def load_here(answers: SimpleQueue, sources: Path, env: dict[str, str], before: str, after: str) -> None:
    """In a new process, since ops can be registered only once in one: prepare with `before`, load, evaluate `after`."""
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    build.source_folder = lambda: sources
    names = {"native": native, "build": build, "torch": torch, "Path": Path}
    exec(textwrap.dedent(before), names)
    loaded = raised = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = native.load()
        except (RuntimeError, ValueError) as error:
            raised = repr(error)
        told = [str(warning.message) for warning in caught]
        built = "torch.utils.cpp_extension" in sys.modules
        names["caught"] = caught
        outcome = Outcome(loaded, raised, told, native.status(), built, eval(after, names))
    answers.put(outcome)


class Loading:
    """A process at work on `load_here`."""

    server = get_context("forkserver")  # torch is imported once, in the process that the others are forked from

    def __init__(self, *arguments: object):
        self.answers = self.server.SimpleQueue()
        self.process = self.server.Process(target=load_here, args=(self.answers, *arguments))
        self.process.start()

    def outcome(self) -> Outcome:
        ready = wait([self.answers._reader, self.process.sentinel], timeout=120)
        assert self.answers._reader in ready or self.answers._reader.poll(1), "the process died"
        outcome = self.answers.get()
        self.process.join()
        return outcome

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


class World:
    """A source tree, a cache and a compiler for processes that load the library."""

    def __init__(self, folder: Path, known: Path | None = None):
        self.folder, self.cache, self.sources = folder, folder / "cache", folder / "csrc"
        self.known, self.log = known or folder, folder / "compiler.log"
        self.log.touch()
        self.sources.mkdir()
        (self.sources / "ops.cpp").write_text(OPS)
        self.compiler = self.tool("g++", COMPILER.format(known=self.known, log=self.log, sources=self.sources))
        mine = ("FREQROB", "CUDA", "TORCH", "CXX")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        self.env = kept | {"FREQROB_CACHE": str(self.cache), "CXX": str(self.compiler)}

    def start(self, before: str = "", after: str = "None", **env: str) -> Loading:
        return Loading(self.sources, self.env | env, before, after)

    def load(self, before: str = "", after: str = "None", **env: str) -> Outcome:
        return self.start(before, after, **env).outcome()

    @property
    def entry(self) -> Path:
        (entry,) = (self.cache / "native").iterdir()
        return entry

    @property
    def compilations(self) -> int:
        return self.log.read_text().count(" -c ")

    def tool(self, name: str, script: str) -> Path:
        """An executable shell script in `bin/`."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def compiler_first(self, script: str) -> None:
        """Let the compiler run `script` before it compiles (not when it is asked for its version)."""
        lines = self.compiler.read_text().replace("#!/bin/sh\n", "")
        self.tool("g++", f'case "$*" in *" -c "*) {script};; esac\n{lines}')

    def break_sources(self) -> None:
        (self.sources / "ops.cpp").write_text('#error "the sky fell"\n')


@pytest.fixture(scope="session", autouse=True)
def preload():
    """The forked processes start with torch, but not with what their tests look at."""
    Loading.server.set_forkserver_preload(["torch", "freqrob.spectral.native", "pytest"])


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> World:
    """A world whose library is built, the whole way; tests must leave it as it is."""
    world = World(tmp_path_factory.mktemp("built"))
    keep_object = f'case "$*" in *" -shared "*) cp ops.o {world.folder};; esac'
    world.tool("g++", f'echo "$*" >> {world.log}\n{keep_object}\nexec /usr/bin/c++ "$@"')
    assert world.load().loaded
    (world.folder / "ops.cpp").write_text(OPS)
    return world


@pytest.fixture
def world(built, tmp_path) -> World:
    """Sources, an empty cache, and a compiler that is quick as long as the sources are OPS."""
    return World(tmp_path, built.folder)


@pytest.fixture
def copy(built, world) -> World:
    """A world whose cache holds the library."""
    assert world.load().loaded
    return world


def assert_fell_back(outcome: Outcome, cause: str) -> None:
    assert outcome.loaded is False
    (warning,) = outcome.warnings
    assert cause in outcome.reason
    assert outcome.reason in warning and "\n" not in warning


# The table, row by row


def test_a_stale_lock_neither_hangs_nor_reaches_torch(world):
    """A builder was killed: its folder is left with torch's lock file in it, and so is the outer lock file."""
    stuck = "import time; build.compile_library = lambda plan, folder: ((folder / 'lock').touch(), time.sleep(600))"
    spy = """
        from torch.utils import cpp_extension
        real, seen = cpp_extension.load, []
        def load(name, **arguments):
            seen.extend(sorted(str(p.relative_to(root)) for p in root.glob("*/**/lock")))
            return real(name, **arguments)
        cpp_extension.load = load
    """
    dead = world.start(stuck)
    wait_for(lambda: list(world.cache.glob("native/*/build-*/lock")))
    dead.kill()
    outcome = world.load(f"root = Path({str(world.cache / 'native')!r})" + textwrap.dedent(spy), after="seen")
    assert outcome.loaded and outcome.after == [f"{world.entry.name}/lock"]  # the outer one only
    assert sorted(path.name for path in world.entry.iterdir()) == ["built.json", "freqrob.so", "lock"]


def test_ninja_of_the_venv_is_found_though_not_on_path(world):
    tools = world.folder / "tools"
    tools.mkdir()
    for name in ("sh", "cmp", "cp", "as", "ld"):
        (tools / name).symlink_to(shutil.which(name))
    outcome = world.load(PATH=str(tools), after="__import__('os').environ['PATH']")
    assert outcome.loaded, outcome
    assert outcome.after == str(tools)  # and PATH is as it was


def test_ninja_missing_altogether(world):
    outcome = world.load("import sys; sys.modules['ninja'] = None", PATH=str(world.folder / "bin"))
    assert_fell_back(outcome, "Ninja is required")


def test_a_compiler_behind_another_command(world):
    command = f"env LANG=C {world.compiler}"  # as "ccache g++"
    outcome = world.load(CXX=command, after="__import__('os').environ['CXX']")
    assert outcome.loaded and outcome.after == command and world.compilations == 1


def test_no_compiler(world):
    outcome = world.load(CXX="c++", PATH=str(world.cache))
    assert_fell_back(outcome, "no C++ compiler: 'c++' is not on PATH")
    assert "apt install g++" in outcome.warnings[0]


@pytest.mark.parametrize(
    "line, cause",
    [
        ("g++ (GCC) 7.5.0", "C++20 needs g++ 11 or newer"),
        ("g++ (Debian 10.2.1-6) 10.2.1 20210110", "C++20 needs g++ 11 or newer"),
        ("Debian clang version 11.0.1-2", "C++20 needs clang 14 or newer"),
    ],
)
def test_a_compiler_too_old(world, line, cause):
    world.tool("g++", f"echo '{line}'")
    outcome = world.load()
    assert_fell_back(outcome, cause)
    assert line in outcome.reason


def test_a_compiler_error_is_one_line_of_cause_and_a_log(world):
    world.break_sources()
    outcome = world.load()
    assert_fell_back(outcome, "the sky fell")
    assert str(outcome.status.log) in outcome.warnings[0]
    assert len(outcome.status.log.read_text().splitlines()) > 3


def test_waiters_see_the_failure_of_the_builder(world):
    """They start while the compiler runs, it fails, and nobody tries again or looks for a file that is not there."""
    world.break_sources()
    world.compiler_first("sleep 2")
    for loading in [world.start() for _ in range(4)]:
        assert_fell_back(loading.outcome(), "the sky fell")
    assert world.compilations == 1


def test_an_unwritable_cache_gives_a_private_temporary_folder(world):
    nowhere = {"FREQROB_CACHE": "/dev/null/cache", "TMPDIR": str(world.folder)}
    outcome = world.load(**nowhere)
    folder = world.folder / f"freqrob-{os.geteuid()}"
    assert outcome.loaded and outcome.status.path.parents[2] == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = world.load(**nowhere)
    assert again.status.path == outcome.status.path and not again.built


def test_the_temporary_folder_is_not_searched_where_the_cache_can_be_used(world):
    there = world.load(FREQROB_CACHE="/dev/null/cache", TMPDIR=str(world.folder)).status.path
    outcome = world.load(TMPDIR=str(world.folder))
    assert outcome.loaded and outcome.status.path != there and outcome.status.path.parent == world.entry


def test_a_read_only_home(world):
    """Neither made writable nor written to; for root it would be writable with its capabilities."""
    home = world.folder / "home"
    home.mkdir(mode=0o555)
    powerless = """
        import ctypes, os, struct
        assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
        assert not os.access(Path.home(), os.W_OK)
    """
    homes = {"HOME": str(home), "FREQROB_CACHE": "", "XDG_CACHE_HOME": "", "TMPDIR": str(world.folder)}
    outcome = world.load(powerless, **homes)
    assert outcome.loaded and outcome.status.cache == home / ".cache" / "freqrob"
    assert outcome.status.path.is_relative_to(world.folder / f"freqrob-{os.geteuid()}")
    assert not list(home.iterdir())


# Other users


@pytest.fixture(scope="session")
def foreign(tmp_path_factory) -> World:
    """A world whose library is someone else's: `isa` is 66 in it."""
    world = World(tmp_path_factory.mktemp("foreign"))
    (world.sources / "ops.cpp").write_text(OPS.replace("42", "66"))
    assert world.load(CXX="c++", after="native._isa()").after == "66"
    return world


def plant(world: World, foreign: World) -> None:
    """Put the foreign library where the next process looks for its own, with a record that vouches for it."""
    for name in ("freqrob.so", "built.json"):
        shutil.copy(foreign.entry / name, world.entry / name)


def test_what_is_planted_would_run(copy, foreign):
    """The tests below would fail otherwise."""
    plant(copy, foreign)
    assert copy.load(after="native._isa()").after == "66"


PLACES = {
    "above the cache": "",
    "cache": "cache",
    "native": "cache/native",
    "entry": "cache/native/*",
    "library": "cache/native/*/freqrob.so",
    "record": "cache/native/*/built.json",
}


@pytest.mark.parametrize(
    "place, how",
    [(place, how) for place in PLACES for how in ("mode", "owner")]
    + [(place, "link") for place in ("native", "entry", "library", "record")],  # links above these are followed
)
def test_a_library_that_another_user_could_have_planted_is_not_loaded(copy, foreign, tmp_path_factory, place, how):
    plant(copy, foreign)
    path = next(copy.folder.glob(PLACES[place])) if PLACES[place] else copy.folder
    if how == "mode":
        path.chmod(0o777 if path.is_dir() else 0o666)
        refused = f"{path} can be written to by everybody"
    elif how == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        give(path, STRANGER)
        refused = f"{path} belongs to another user (uid {STRANGER})"
    else:
        path.rename(copy.folder / "elsewhere")
        path.symlink_to(copy.folder / "elsewhere")
        refused = f"{path} is a symbolic link"
    temporary = tmp_path_factory.mktemp("tmp")
    outcome = copy.load(TMPDIR=str(temporary), after="[native._isa(), native.doctor()]")
    isa, doctor = outcome.after
    assert outcome.loaded and isa == "42"
    assert any(refused in note for note in outcome.status.notes) and refused in doctor
    assert any(refused in warning for warning in outcome.warnings)
    if place not in ("library", "record"):  # which were built again in their place
        assert outcome.status.path.is_relative_to(temporary)
        assert "set FREQROB_CACHE to a folder that belongs to you" in doctor


TRAPS = {
    "writable by others": "can be written to by everybody (mode 0777)",
    "owned by another": f"belongs to another user (uid {STRANGER})",
    "a link": "is a symbolic link",
    "a link to nothing": "is a symbolic link",
    "a file": "is a file, expected a folder",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_temporary_folder_that_another_user_made_is_refused(copy, foreign, trap):
    """It is in the way of ours: nothing is loaded from it, nothing is created in it, and there is no other place."""
    plant(copy, foreign)
    folder, theirs = copy.folder / f"freqrob-{os.geteuid()}", copy.folder / "theirs"
    copy.cache.rename(folder)
    before = sorted(copy.folder.rglob("*"))
    if trap == "owned by another":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        give(folder, STRANGER)
    elif trap == "writable by others":
        folder.chmod(0o777)
    else:
        folder.rename(theirs)
        folder.touch() if trap == "a file" else folder.symlink_to(theirs if trap == "a link" else "nothing")
        before = sorted(copy.folder.rglob("*"))
    outcome = copy.load(FREQROB_CACHE="/dev/null/cache", TMPDIR=str(copy.folder), after="native.doctor()")
    assert_fell_back(outcome, f"{folder} {TRAPS[trap]}")
    for text in (outcome.warnings[0], outcome.after):
        assert "set FREQROB_CACHE to a folder that belongs to you" in text and "/dev/null is a file" in text
    assert sorted(copy.folder.rglob("*")) == before


@pytest.mark.parametrize("through", ["descriptor", "copy"])
def test_the_library_that_was_hashed_is_loaded_though_another_has_its_name_by_then(copy, foreign, through):
    exchange = f"""
        import os
        dlopen = native.ctypes.CDLL
        def exchanged_before(name):
            if "nvidia" not in name:
                os.replace({str(copy.entry / "foreign.so")!r}, {str(copy.entry / "freqrob.so")!r})
            return dlopen(name)
        native.ctypes.CDLL = exchanged_before
        native.DESCRIPTORS = Path({"/proc/self/fd" if through == "descriptor" else "/nowhere"!r})
    """
    shutil.copy(foreign.entry / "freqrob.so", copy.entry / "foreign.so")
    outcome = copy.load(exchange, after="native._isa()")
    assert outcome.loaded and not outcome.built and outcome.after == "42"
    assert (copy.entry / "freqrob.so").read_bytes() == (foreign.entry / "freqrob.so").read_bytes()


@needs_linux
def test_another_library_under_the_same_descriptor_is_not_taken_for_the_loaded_one(copy):
    """glibc knows a library by its name, which is that of a descriptor here, and descriptors are used again."""
    names = "import ctypes, os, _ctypes; other = _ctypes.__file__"
    opened = "[ctypes.CDLL(f'/proc/self/fd/{os.open(other, os.O_RDONLY)}')._handle for _ in range(40)]"
    outcome = copy.load(names, after=f"[ctypes.CDLL(other)._handle, *{opened}]")
    assert outcome.loaded and len(set(outcome.after)) == 1


@needs_root
@needs_linux
def test_an_exchange_of_folders_between_check_and_load_runs_nothing_foreign(copy, foreign):
    """Another user exchanges our cache and theirs over and over, in a folder that everybody can write to."""
    place = copy.folder / "open"
    shutil.copytree(copy.cache, place / "theirs")
    shutil.copytree(foreign.entry, next(place.glob("theirs/native/*")), dirs_exist_ok=True)
    for path in (place / "theirs", *(place / "theirs").rglob("*")):
        give(path, STRANGER)
    copy.cache.rename(place / "ours")
    place.chmod(0o777)
    with exchanging(place, "ours", "theirs", STRANGER):
        for _ in range(8):
            where = {"FREQROB_CACHE": str(place / "ours"), "TMPDIR": str(copy.folder)}
            outcome = copy.load(**where, after="native._isa()")
            assert outcome.after == "42"
            assert f"{place} can be written to by everybody" in outcome.status.notes[-1]


@needs_cuda
def test_cuda_sources_build_for_a_gpu_that_torch_does_not_see(world):
    """torch's own list of architectures ends in an IndexError there."""
    if build.usable_toolkit("auto")[0] is None:
        pytest.skip("no nvcc of torch's CUDA version")
    add_cuda(world)
    outcome = world.load(a_gpu(9, 0), CUDA_VISIBLE_DEVICES="")
    assert outcome.loaded, outcome
    assert "twice.cu" in world.log.read_text() or "twice.cudafe1" in world.log.read_text()  # nvcc went through CXX
    assert b"sm_90" in outcome.status.path.read_bytes()


@needs_cuda
def test_where_there_is_no_gpu_nothing_is_compiled_for_one(world):
    add_cuda(world, "#error never compiled")
    outcome = world.load("build._capabilities = lambda: []", FREQROB_NATIVE="require")
    assert outcome.loaded and outcome.warnings == []
    asked_for = world.load("build._capabilities = lambda: []", CUDA_HOME="/nowhere", TORCH_CUDA_ARCH_LIST="9.0")
    assert "no CUDA kernels" in asked_for.warnings[0]


def test_architectures_are_those_of_the_gpus_then_the_default(monkeypatch, world):
    add_cuda(world)
    monkeypatch.setattr(build, "source_folder", lambda: world.sources)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)

    def gencode(gpus: list[tuple[int, int]]) -> list[str]:
        monkeypatch.setattr(build, "_capabilities", lambda: gpus)
        flags = build.build_parameters(build.Tool("/toolkit", "13.0")).cuda_flags
        return [flag.removeprefix("-gencode=") for flag in flags if "arch" in flag]

    assert gencode([(8, 9)]) == ["arch=compute_89,code=sm_89", "arch=compute_89,code=compute_89"]
    default = ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"]
    assert gencode([]) == default
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert gencode([(8, 9)]) == []  # torch reads it


def test_torch_without_cuda_builds_the_cpu_sources_only(world):
    add_cuda(world, "#error never compiled")
    without = "torch.version.cuda = None; import torch.utils.cpp_extension as e; e.CUDA_HOME = None"
    outcome = world.load(f"{without}; {a_gpu(9, 0)}")
    assert outcome.loaded and outcome.warnings == [] and outcome.status.cuda_toolkit is None


@needs_cuda
def test_nvcc_missing_builds_the_cpu_sources_only_and_says_so(world):
    add_cuda(world, "#error never compiled")
    outcome = world.load(a_gpu(9, 0), CUDA_HOME=str(world.folder))
    assert outcome.loaded
    (warning,) = outcome.warnings
    assert "no CUDA kernels" in warning and "nvcc" in warning


@needs_cuda
def test_cuda_of_another_major_version(world):
    """Nothing is compiled with it: `require` raises, `auto` says so and builds the CPU kernels."""
    add_cuda(world, "#error never compiled")
    home = fake_toolkit(world, "9.2")
    required = world.load(a_gpu(9, 0), CUDA_HOME=home, FREQROB_NATIVE="require")
    assert "nvcc is CUDA 9.2" in required.raised and "major versions differ" in required.raised
    outcome = world.load(a_gpu(9, 0), CUDA_HOME=home)
    assert outcome.loaded
    (warning,) = outcome.warnings
    assert "no CUDA kernels" in warning and "major versions differ" in warning


@needs_cuda
def test_cuda_sources_that_do_not_compile_leave_the_cpu_kernels(world):
    """`require` raises; `auto` says so once a process, also where it finds what another one built."""
    add_cuda(world)
    home = fake_toolkit(world, torch.version.cuda, compiles='echo "twice.cu(1): error: the sea boiled"; exit 2')
    required = world.load(a_gpu(9, 0), CUDA_HOME=home, FREQROB_NATIVE="require")
    assert required.loaded is None and "the sea boiled" in required.raised
    again = "[native.load(), len(caught), native.doctor()]"
    for built in (True, False):
        outcome = world.load(a_gpu(9, 0), CUDA_HOME=home, after=again)
        (warning,) = outcome.warnings
        assert "no CUDA kernels: " in warning and "the sea boiled" in warning and "build.log" in warning
        assert outcome.status.notes == (warning.removeprefix("freqrob: "),)
        loaded, warned, doctor = outcome.after
        assert loaded and warned == 1 and "the sea boiled" in doctor
        assert outcome.loaded and outcome.status.isa == "42" and outcome.built == built
    world.break_sources()
    assert_fell_back(world.load(a_gpu(9, 0), CUDA_HOME=home), "the sky fell")


@needs_cuda
def test_cuda_of_another_minor_version_only_warns(monkeypatch, world):
    add_cuda(world)
    monkeypatch.setattr(build, "source_folder", lambda: world.sources)
    monkeypatch.setenv("CUDA_HOME", fake_toolkit(world, torch.version.cuda.split(".")[0] + ".99"))
    toolkit, notes = build.usable_toolkit("require")
    assert toolkit is not None
    (note,) = notes
    assert "minor versions differ" in note


def test_the_library_runs_on_other_cpus_than_the_one_that_built_it():
    """-march=native in a cache on a shared home ends in SIGILL: instruction sets are chosen when the library runs."""
    parameters = build.build_parameters()
    flags = " ".join([*parameters.cflags, *parameters.cuda_flags, *parameters.ldflags])
    assert not any(word in flags for word in ("-march", "-mavx", "-mtune", "-ffast-math", "-fopenmp"))


# Files in the cache


@pytest.mark.parametrize("damage", ["truncated", "empty", "record missing", "record truncated"])
def test_a_damaged_library_is_built_again(copy, damage):
    library, record = copy.entry / "freqrob.so", copy.entry / "built.json"
    whole = library.read_bytes()
    if damage.startswith("record"):
        record.write_text("" if "missing" in damage else record.read_text()[:20])
    else:
        library.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    outcome = copy.load()
    assert outcome.loaded and outcome.built and outcome.status.isa == "42"
    assert not copy.load().built


def test_a_library_that_cannot_be_loaded_is_built_again_once(world):
    """Intact, but for another glibc, say. If the new one cannot be loaded either, that is the end of it."""
    (world.sources / "ops.cpp").write_text("void nowhere(); auto used = &nowhere;\n")
    assert_fell_back(world.load(), "undefined symbol")
    (world.entry / "failed.json").unlink()
    for _ in range(2):
        assert_fell_back(world.load(), "undefined symbol")
    assert world.compilations == 2


def test_a_full_disk_is_named_and_not_held_against_the_library(world):
    compiler = world.compiler.read_text()
    world.compiler_first("echo 'fatal error: error writing to x.s: No space left on device' >&2; exit 1")
    assert_fell_back(world.load(), "the disk is full")
    world.compiler.write_text(compiler)
    assert world.load().loaded


def test_a_disk_too_full_for_the_log(world):
    outcome = world.load("""
        def full(*arguments, **named):
            raise OSError(28, "No space left on device")
        native.tempfile.TemporaryDirectory = native.write_text = full
    """)
    assert_fell_back(outcome, "the disk is full")
    assert outcome.status.log is None


def test_whatever_else_goes_wrong_plain_torch_goes_on(world):
    denied = """
        def digest():
            raise PermissionError(13, "Permission denied")
        build.source_digest = digest
    """
    assert_fell_back(world.load(denied), "Permission denied")
    assert_fell_back(world.load(CXX='c++ "unclosed'), "no C++ compiler")


def test_eight_processes_at_once_build_once(world):
    world.compiler_first("sleep 1")
    outcomes = [loading.outcome() for loading in [world.start() for _ in range(8)]]
    assert all(outcome.loaded for outcome in outcomes)
    assert world.compilations == 1 and sum(outcome.built for outcome in outcomes) == 1


def test_a_second_process_loads_without_the_modules_of_a_build(copy):
    script = """
        import sys, torch
        from pathlib import Path
        before = set(sys.modules)
        from freqrob.spectral import build, native
        build.source_folder = lambda: Path(sys.argv[1])
        assert native.load()
        assert not {"filelock", "torch.utils.cpp_extension"} & (set(sys.modules) - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(copy.sources)]
    env = copy.env | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True)


def test_sources_flags_and_tools_each_give_a_library_of_their_own(monkeypatch, world):
    monkeypatch.setattr(build, "source_folder", lambda: world.sources)
    keys = [build.plan_build("auto").key]
    (world.sources / "extra.h").touch()
    keys.append(build.plan_build("auto").key)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    keys.append(build.plan_build("auto").key)
    monkeypatch.setenv("CXX", str(world.tool("g++", "echo 'g++ (GCC) 99.1.0'")))
    keys.append(build.plan_build("auto").key)
    parameters = build.build_parameters()
    changed = replace(parameters, cflags=(*parameters.cflags, "-g"))
    monkeypatch.setattr(build, "build_parameters", lambda toolkit: changed)
    keys.append(build.plan_build("auto").key)
    assert len(set(keys)) == len(keys)


def test_a_node_without_a_compiler_uses_what_another_node_built(copy):
    assert copy.load(CXX="/nowhere/c++").loaded


# Damaged records

DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "no object": lambda path: path.write_text("[1, 2]"),
    "nothing in it": lambda path: path.write_text("{}"),
    "other types": lambda path: path.write_text('{"cause": 1, "advice": [], "sha256": 2, "seconds": "x"}'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "nested deeply": lambda path: path.write_text("[" * 60_000),
    "a long number": lambda path: path.write_text('{"seconds": ' + "9" * 10_000 + "}"),
    "huge": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize(
    "name, damage",
    [("built.json", damage) for damage in DAMAGES]
    + [("failed.json", damage) for damage in ("nothing in it", "other types", "nested deeply", "a pipe")],
)
def test_a_damaged_record_is_as_good_as_none(copy, name, damage):
    entry = copy.entry
    (entry / "built.json").unlink()
    DAMAGES[damage](entry / name)
    outcome = copy.load(after="native.doctor()")
    assert outcome.loaded and outcome.status.path.parent == entry and "loaded (jit)" in outcome.after
    assert {"built.json", "failed.json"} & set(os.listdir(entry)) == {"built.json"}
    assert json.loads((entry / "built.json").read_text())["seconds"] > 0


# Failures remembered


def test_a_failure_is_remembered_in_the_process_and_on_disk(world):
    world.break_sources()
    count = """
        tried, attempt = [], native._attempt
        native._attempt = lambda *arguments: (tried.append(1), attempt(*arguments))[1]
    """
    outcome = world.load(count, after="[native.load(), native.load(), len(tried), len(caught)]")
    assert outcome.after == [False, False, 1, 1]
    assert_fell_back(world.load(), "the sky fell")
    assert world.compilations == 1


def test_rebuild_forgets_a_failure(world):
    broken = world.folder / "broken"
    broken.touch()
    world.compiler_first(f"test ! -e {broken} || exit 1")
    assert world.load().loaded is False
    broken.unlink()
    assert world.load().loaded is False
    assert world.load(after="native.load(rebuild=True)").after is True
    (world.entry / "freqrob.so").write_bytes(b"")
    assert world.load().loaded


def test_rebuild_of_a_loaded_library_is_for_the_next_process(world):
    outcome = world.load(after="[native.load(rebuild=True), native.status().notes, native._isa()]")
    loaded, notes, isa = outcome.after
    assert loaded and isa == "42" and "next process" in notes[0]
    assert world.compilations == 2


# Policies


def test_require_raises_with_the_cause_and_the_log(world):
    world.break_sources()
    outcome = world.load(FREQROB_NATIVE="require")
    assert outcome.raised.startswith("NativeError") and "the sky fell" in outcome.raised
    assert str(outcome.status.log) in outcome.raised


def test_off_neither_builds_nor_loads(copy):
    outcome = copy.load(FREQROB_NATIVE="off")
    assert outcome.loaded is False and outcome.warnings == [] and outcome.reason == "FREQROB_NATIVE=off"


def test_a_misspelt_policy_is_an_error(monkeypatch):
    monkeypatch.setenv("FREQROB_NATIVE", "maybe")
    with pytest.raises(ValueError, match="FREQROB_NATIVE is 'maybe', expected one of auto"):
        native.load()


# Ahead of time


def ahead_of_time(world: World, **record: object) -> str:
    """Put the library of `world` into a package as `FREQROB_AOT=1 pip install` does; code that makes it freqrob's."""
    package = world.folder / "package"
    package.mkdir()
    digest = world.load(FREQROB_NATIVE="off", after="native.source_digest()").after
    library = package / "_native.so"
    library.write_bytes((world.entry / "freqrob.so").read_bytes())
    made = {"sources": digest, "cuda": None, "sha256": sha256_of(library)}
    (package / "_native.json").write_text(json.dumps(made | record))
    return f"native.PACKAGE = Path({str(package)!r})"


def test_a_library_in_the_package_comes_first(copy):
    outcome = copy.load(ahead_of_time(copy))
    assert outcome.loaded and outcome.status.kind == "aot" and outcome.status.isa == "42"


@pytest.mark.parametrize(
    "record, why", [({"sources": "of another version"}, "from other sources"), ({"cuda": "9.2"}, "for CUDA 9.2")]
)
def test_a_library_in_the_package_of_other_sources_or_cuda_is_passed_over(copy, record, why):
    outcome = copy.load(ahead_of_time(copy, **record))
    assert outcome.loaded and outcome.status.kind == "jit"
    assert "is not used" in outcome.status.notes[-1] and why in outcome.status.notes[-1]


@pytest.mark.parametrize("left", [0, 0.3, 0.6, 0.9])
def test_a_truncated_library_in_the_package_is_passed_over(copy, left):
    code = ahead_of_time(copy)
    library = copy.folder / "package" / "_native.so"
    library.write_bytes(library.read_bytes()[: int(left * library.stat().st_size)])
    outcome = copy.load(code)
    assert outcome.loaded and outcome.status.kind == "jit" and "missing or damaged" in outcome.status.notes[-1]


@pytest.mark.parametrize("name", ["_native.so", "_native.json"])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_library_in_the_package_that_is_easier_to_change_than_its_modules_is_passed_over(copy, name, how):
    code, path = ahead_of_time(copy), copy.folder / "package" / name
    if how == "mode":
        path.chmod(0o666)
        refused = f"{path} can be written to by everybody"
    elif os.geteuid() == 0:
        give(path, STRANGER)
        refused = f"{path} belongs to another user (uid {STRANGER})"
    else:
        pytest.skip("only root can give a file away")
    outcome = copy.load(code)
    assert outcome.loaded and outcome.status.kind == "jit"
    assert any(refused in note for note in outcome.status.notes)


def test_a_package_may_consist_of_links(copy):
    """Some installers, such as uv, can make links to files in their own cache."""
    code = ahead_of_time(copy)
    (copy.folder / "installer").mkdir()
    for path in (copy.folder / "package").iterdir():
        path.rename(copy.folder / "installer" / path.name)
        path.symlink_to(copy.folder / "installer" / path.name)
    assert copy.load(code).status.kind == "aot"


# The doctor


def test_doctor_says_what_is_there_and_what_to_do(copy):
    text = copy.load(after="native.doctor()").after
    assert "loaded (jit)" in text and str(copy.entry) in text and torch.__version__ in text
    empty = str(copy.folder / "empty")
    text = copy.load(CXX="/nowhere/c++", FREQROB_CACHE=empty, FREQROB_NATIVE="require", after="native.doctor()").after
    assert "not loaded: no C++ compiler" in text and "apt install g++" in text


def test_status_before_anything_was_asked(monkeypatch):
    monkeypatch.setattr(native, "_outcome", None)
    monkeypatch.delenv("FREQROB_NATIVE", raising=False)
    found = native.status()
    assert not found.loaded and found.reason == "not asked for yet" and found.policy == "auto"


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def add_cuda(world: World, text: str = KERNEL) -> None:
    (world.sources / "cuda").mkdir()
    (world.sources / "cuda" / "twice.cu").write_text(text)


def a_gpu(major: int, minor: int) -> str:
    """Code after which this machine seems to have one."""
    return f"build._capabilities = lambda: [({major}, {minor})]"


def fake_toolkit(world: World, version: str, compiles: str = "exit 1") -> str:
    answer = f"echo 'Cuda compilation tools, release {version}, V{version}.88'"
    world.tool("nvcc", f'case "$*" in --version) {answer};; *) {compiles};; esac')
    (world.folder / "include").mkdir()
    (world.folder / "include" / "cuda_runtime.h").touch()
    return str(world.folder)
