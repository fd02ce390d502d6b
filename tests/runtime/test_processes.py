"""Commands in several processes: all start at once, and end together."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import cycle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from freqrob.attacks import Clean
from freqrob.data.corruption_arrays import load_corruptions, write_corruptions
from freqrob.data.datasets import load_dataset
from freqrob.evaluation import evaluate
from freqrob.models import load_model, registry
from freqrob.runtime import lifeline, processes, result_store
from freqrob.runtime.launched import Launch, launched
from freqrob.runtime.processes import (
    merged,
    process_group,
    propagate_failure,
    rank_and_world,
    rank_zero_first,
)
from freqrob.runtime.result_store import Samples
from freqrob.training import Recipe, train
from tests.support.pair import Attempt
from tests.support.together import (
    CORRUPTED,
    SECONDS,
    TINY,
    Together,
    forkserver,
    fresh_folder,
    run_freqrob,
    small,
    sources,
    use_sources,
)

TINY_IMAGENET = ["--dataset", "tiny_imagenet", "--data", "data", "--download"]
MEASURED = ["--cache", "cache", "--batch-size", 2]
COMMANDS = {
    "evaluate": ["standard_small", *TINY_IMAGENET, *MEASURED, "--images", 8, "--attack", "clean", "--out", "out.csv"],
    "corruptions": ["standard_small", "--data", "data", "--download", *MEASURED, "--out", "out.csv"],
    "diagnose": ["standard_small", *TINY_IMAGENET, *MEASURED, "--only", "jacobian", "--set", "jacobian.images=8"],
    "train": ["standard_small", *TINY_IMAGENET, "--model-dir", "trained", "--epochs", 1, "--batch-size", 60,
              "--accelerator", "cpu", "--precision", "32-true"],
}  # fmt: skip
WRITTEN = {
    "evaluate": "out.csv", "corruptions": "out.csv", "diagnose": "diagnosis/standard_small/jacobian.npz",
    "train": "trained/tiny_imagenet/Linf/standard_small.safetensors",
}  # fmt: skip
FETCHED = {
    "evaluate": {"/tiny_imagenet.safetensors": 1, f"/{TINY}": 2},  # torchvision asks once more for redirections
    "corruptions": {"/cifar10.safetensors": 1, f"/{CORRUPTED}": 2},
    "diagnose": {"/tiny_imagenet.safetensors": 1, f"/{TINY}": 2},
    "train": {f"/{TINY}": 2},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of ``sources``, and what it was asked for."""
    folder = tmp_path_factory.mktemp("served") / "sources"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ARCHITECTURES, "small", small)
        with sources(folder) as fetched:
            yield folder, fetched


def start(command, world_size, folder, served):
    """All processes of a command find nothing there, and fetch, unpack, decode, measure and write at once."""
    source, fetched = served
    fetched.clear()
    run = Together(fresh_folder(folder, source), world_size, run_freqrob, command, *COMMANDS[command])
    assert run.join() == [0] * world_size, run.said()
    assert (folder / WRITTEN[command]).is_file()
    assert Counter(fetched) == FETCHED[command], "the first process fetches"
    left = [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert not left, "nothing temporary stays"


class TestStart:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_four_processes(self, command, served, tmp_path):
        for number in range(2):
            start(command, 4, tmp_path / str(number), served)

    @pytest.mark.slow
    @pytest.mark.parametrize("world_size", [2, 4])
    def test_two_hundred_times_under_load(self, world_size, served, tmp_path):
        with busy(2):
            for number, command in zip(range(200), cycle(COMMANDS), strict=False):
                start(command, world_size, tmp_path / str(number), served)
                shutil.rmtree(tmp_path / str(number))

    @pytest.mark.parametrize("world_size", [1, 2])
    def test_as_a_person_launches_them(self, world_size, served, tmp_path):
        run = Together(fresh_folder(tmp_path / "run", served[0]), world_size, run_freqrob, "evaluate",
                       *COMMANDS["evaluate"], by_hand=True)  # fmt: skip
        assert run.join() == [0] * world_size, run.said()
        assert run.said().count("Accuracy (%) on 8 images") == 1, "one process prints"


@contextmanager
def busy(count):
    """So many processes that do nothing but compute."""
    spinning = [forkserver.Process(target=spin, daemon=True) for _ in range(count)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.join()


def spin():
    while True:
        pass


# Processes that know nothing of each other


def fetch(folder):
    use_sources(folder)
    found = [
        load_dataset("tiny_imagenet", "test", "data", download=True).images,
        load_dataset("cifar10", "test", "data", download=True).images,
        load_corruptions("data", download=True).images("fog", 3),
        *load_model("standard_small", "models", "cifar10").state_dict().values(),
    ]
    torch.save([tensor.clone() for tensor in found], f"found-{os.environ['RANK']}")


def corrupt(folder, *types):
    use_sources(folder)
    rank = int(os.environ["RANK"])
    images = load_dataset("cifar10", "test", "data", download=True)
    write_corruptions(images, folder / "corrupted", types[rank : rank + 2], about={"dataset": "cifar10"})


class TestIndependentProcesses:
    def test_fetch_the_same_files_at_once(self, served, tmp_path):
        run = Together(fresh_folder(tmp_path / "run", served[0]), 4, fetch)
        assert run.join() == [0] * 4, run.said()
        first, *others = (torch.load(run.folder / f"found-{rank}") for rank in range(4))
        assert all(torch.equal(one, other) for found in others for one, other in zip(first, found, strict=True))
        assert not list((run.folder / "data").glob(".*")), "nothing temporary stays"
        assert len({path.name for path in (run.folder / "data").glob("tiny_imagenet_*.npy")}) == 1

    def test_corrupt_into_one_folder(self, served, tmp_path):
        types = ["fog", "contrast", "saturate", "brightness", "jpeg_compression"]
        run = Together(fresh_folder(tmp_path / "run", served[0]), 4, corrupt, *types)
        assert run.join() == [0] * 4, run.said()
        record = json.loads((run.folder / "corrupted" / "generated.json").read_text())
        assert record["types"].keys() == set(types), "none is lost"
        for name, about in record["types"].items():
            content = (run.folder / "corrupted" / f"{name}.npy").read_bytes()
            assert hashlib.sha256(content).hexdigest() == about["sha256"]


# Processes that end

SLOW_NETS = """
import os, pathlib, time
from torch import nn

class Slow(nn.Flatten):
    def forward(self, images):
        pathlib.Path(f"working-{os.environ['RANK']}").write_text(str(os.getpid()))
        if os.environ["RANK"] == os.environ.get("FAILS"):
            raise ValueError("a failure of one process")
        time.sleep(3600)
        return super().forward(images)

def net(num_classes):
    return nn.Sequential(Slow(), nn.Linear(3 * 64 * 64, num_classes))
"""


def run_slowly(folder, seconds, *arguments):
    """``freqrob``, with a network that takes an hour for a batch."""
    sys.path.insert(0, str(folder))
    import slow_nets

    registry._ARCHITECTURES["slow"] = slow_nets.net
    lifeline.GRACE, processes.TELLING = seconds, timedelta(seconds=seconds)
    run_freqrob(folder, *arguments)


def slow_run(command, folder, served, seconds, **environment):
    """Two processes, when both are in the middle of something long."""
    fresh_folder(folder, served[0])
    (folder / "slow_nets.py").write_text(SLOW_NETS)
    model = "standard_slow" if command == "train" else "slow_nets:net"
    run = Together(folder, 2, run_slowly, seconds, command, model, *COMMANDS[command][1:], by_hand=True, **environment)
    end = time.monotonic() + SECONDS
    while not all((folder / f"working-{rank}").exists() for rank in range(2)):
        assert time.monotonic() < end, run.said()
        time.sleep(0.1)
    return run


def assert_ended(process, said):
    """Within a minute."""
    process.join(60)
    assert process.exitcode == 1, said()
    assert "Another process of the group ended; this one ends too" in said()


class TestEnd:
    @pytest.mark.parametrize("victim", [0, 1])
    @pytest.mark.parametrize("command", ["train", "evaluate", "diagnose"])
    def test_of_one_that_is_killed_ends_the_other(self, command, victim, served, tmp_path):
        run = slow_run(command, tmp_path / "run", served, seconds=1)
        run.processes[victim].kill()
        assert_ended(run.processes[1 - victim], run.said)

    @pytest.mark.parametrize("command, victim", [("train", 1), ("evaluate", 0), ("diagnose", 1)])
    def test_of_one_that_fails_ends_the_other(self, command, victim, served, tmp_path):
        run = slow_run(command, tmp_path / "run", served, seconds=1, FAILS=victim)
        assert_ended(run.processes[1 - victim], run.said)
        run.processes[victim].join(SECONDS)
        assert run.processes[victim].exitcode == 2 and "a failure of one process" in run.said()

    @pytest.mark.slow
    @pytest.mark.parametrize("victim", [0, 1])
    @pytest.mark.parametrize("command", ["train", "evaluate", "diagnose"])
    def test_of_one_that_is_killed_or_fails_under_load(self, command, victim, served, tmp_path):
        """With the times that people have to wait."""
        with busy(2):
            killed = slow_run(command, tmp_path / "killed", served, lifeline.GRACE)
            failed = slow_run(command, tmp_path / "failed", served, lifeline.GRACE, FAILS=victim)
            killed.processes[victim].kill()
            for run in (killed, failed):
                assert_ended(run.processes[1 - victim], run.said)

    @pytest.mark.slow
    @pytest.mark.parametrize("victim", [0, 1])
    def test_of_one_of_torchruns_workers(self, victim, served, tmp_path):
        fresh_folder(tmp_path / "run", served[0])
        (tmp_path / "run" / "slow_nets.py").write_text(SLOW_NETS)
        arguments = [str(argument) for argument in ("evaluate", "slow_nets:net", *COMMANDS["evaluate"][1:])]
        code = f"import pathlib, test_processes; test_processes.run_slowly(pathlib.Path.cwd(), 10, *{arguments!r})"
        (tmp_path / "run" / "script.py").write_text(code)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "no_proxy": "*"}
        launcher = subprocess.Popen(torchrun, cwd=tmp_path / "run", env=environment)
        try:
            working, end = [tmp_path / "run" / f"working-{rank}" for rank in range(2)], time.monotonic() + SECONDS
            while not all(path.exists() and path.read_text() for path in working):
                assert time.monotonic() < end and launcher.poll() is None
                time.sleep(0.1)
            workers = [int(path.read_text()) for path in working]
            os.kill(workers[victim], signal.SIGKILL)
            assert launcher.wait(60) != 0
            assert not os.path.exists(f"/proc/{workers[1 - victim]}")
        finally:
            launcher.terminate()
            launcher.wait()


# What processes tell each other


def tell(folder):
    rank, noted = int(os.environ["RANK"]), {}

    def note(name, context, block):
        try:
            with context:
                block()
            noted[name] = "done"
        except Exception as error:
            noted[name] = f"{type(error).__name__}: {error}"

    def fail(ranks=(0, 1, 2), kind=ValueError):
        if rank in ranks:
            raise kind(f"of {rank}")

    def make():
        if rank == 0:
            time.sleep(0.5)
            (folder / "made").touch()
        assert (folder / "made").exists()

    def enter():
        (folder / f"entered-{rank}").touch()
        fail([0])

    with process_group():
        noted["group"] = rank_and_world()
        note("one raises", propagate_failure(), partial(fail, [1]))
        note("all raise", propagate_failure(), partial(fail, kind=ImportError))
        note("the first makes a file", rank_zero_first(), make)
        note("the first raises", rank_zero_first(), enter)
        note("the last raises", rank_zero_first(), partial(fail, [2]))
        shared = Samples(folder / "cache", {}, 3)
        shared.put(torch.tensor([rank]), square=torch.tensor([rank**2]))
        shared.gather()
        noted["gathered"] = shared["square"].tolist()
        own = Samples(folder / f"cache-{rank}", {}, 3)
        own.put(torch.tensor([rank]), square=torch.tensor([rank**2]))
        note("caches of their own", nullcontext(), own.gather)
        noted["merged"] = merged([torch.arange(3) == rank])[0].tolist()
    noted["is left"] = not dist.is_initialized()
    (folder / f"noted-{rank}.json").write_text(json.dumps(noted))


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    def make():
        folder = tmp_path_factory.mktemp("noted")
        run = Together(folder, 3, without_patience, tell)
        assert run.join() == [0] * 3, run.said()
        return [json.loads((folder / f"noted-{rank}.json").read_text()) for rank in range(3)], folder

    return Attempt(make)


@pytest.fixture
def noted(attempt):
    return attempt.result


def without_patience(folder, target):
    lifeline.GRACE, processes.TELLING, result_store.SECONDS_TO_APPEAR = 1, timedelta(seconds=1), 1
    target(folder)


class TestTelling:
    FAILED = "ProcessFailure: another process of the group failed; its message gives the reason"

    def told(self, noted, name):
        return [results[name] for results in noted[0]]

    def test_three_processes_come_to_the_end(self, attempt):
        attempt.check()

    def test_a_failure_is_told_to_all(self, noted):
        assert self.told(noted, "one raises") == [self.FAILED, "ValueError: of 1", self.FAILED]

    def test_the_failures_of_all_are_their_own(self, noted):
        assert self.told(noted, "all raise") == [f"ImportError: of {rank}" for rank in range(3)]

    def test_the_first_process_is_first(self, noted):
        assert self.told(noted, "the first makes a file") == ["done"] * 3

    def test_where_the_first_process_fails_the_others_do_not_begin(self, noted):
        assert self.told(noted, "the first raises") == ["ValueError: of 0", self.FAILED, self.FAILED]
        assert [path.name for path in noted[1].glob("entered-*")] == ["entered-0"]

    def test_a_later_failure_is_told_too(self, noted):
        assert self.told(noted, "the last raises") == [self.FAILED, self.FAILED, "ValueError: of 2"]

    def test_samples_of_all_are_gathered(self, noted):
        assert self.told(noted, "gathered") == [[0, 1, 4]] * 3

    def test_samples_that_others_cannot_see_are_missed(self, noted):
        for rank, told in enumerate(self.told(noted, "caches of their own")):
            assert told.startswith("OSError: cache: ") and f"cache-{rank}" in told and "lacks 2 samples" in told

    def test_the_group_works_after_failures_and_is_left_at_the_end(self, noted):
        assert self.told(noted, "merged") == [[True] * 3] * 3 and self.told(noted, "is left") == [True] * 3
        assert self.told(noted, "group") == [[rank, 3] for rank in range(3)]


def wait_for_the_first(folder):
    with process_group(), rank_zero_first():
        (folder / f"in-{os.environ['RANK']}").touch()
        time.sleep(3600)


def meet_a_stranger(folder):
    """Somebody else connects to the first process, says something, and hangs up."""
    connect = socket.create_connection

    def after_a_stranger(address, **options):
        with connect(address, **options) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with connect(address, **options):
            pass
        return connect(address, **options)

    socket.create_connection = after_a_stranger
    with process_group():
        time.sleep(5 * lifeline.GRACE)


class TestLifeline:
    def test_those_that_wait_for_one_that_is_killed_say_so(self, tmp_path):
        run = Together(tmp_path, 3, without_patience, wait_for_the_first, by_hand=True)
        while not (tmp_path / "in-0").exists():
            time.sleep(0.1)
        run.processes[0].kill()
        assert run.join(60) == [-signal.SIGKILL, 1, 1]
        ended = "ProcessFailure: another process of the group ended before its work was done"
        assert run.said().count(ended) == 2, run.said()

    def test_a_stranger_ends_nothing(self, tmp_path):
        run = Together(tmp_path, 2, without_patience, meet_a_stranger)
        assert run.join() == [0, 0], run.said()


# One process


TORCHRUN = {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
SRUN = {"SLURM_PROCID": 3, "SLURM_NTASKS": 4, "SLURM_LOCALID": 1, "SLURM_NNODES": 2, "SLURM_STEP_ID": 0}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, and none of those that say how a process was launched but these."""

    def set_to(variables):
        for name in {*TORCHRUN, *SRUN, "SLURM_STEPID", "SLURM_JOB_NAME"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    set_to({})
    return set_to


class TestLaunched:
    @pytest.mark.parametrize(
        "variables, expected",
        [
            ({}, None),
            (TORCHRUN, Launch(3, 4, 1, 2)),
            ({"RANK": 1, "WORLD_SIZE": 2}, Launch(1, 2, 1, 2)),
            ({"RANK": 1}, None),
            ({"RANK": 0, "WORLD_SIZE": 1}, None),
            (SRUN, Launch(3, 4, 1, 2, is_slurm=True)),
            ({**SRUN, **TORCHRUN, "RANK": 2}, Launch(2, 4, 1, 2)),
            ({**SRUN, "SLURM_JOB_NAME": "interactive"}, None),
            ({name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}, None),
        ],
    )
    def test_by_the_environment(self, environment, variables, expected):
        environment(variables)
        assert launched() == expected

    @pytest.mark.parametrize(
        "variables, message",
        [
            ({"RANK": 2, "WORLD_SIZE": 2}, "RANK: expected 0 to 1 .*, got 2"),
            ({"RANK": -1, "WORLD_SIZE": 2}, "RANK: expected 0 to 1 .*, got -1"),
            ({"RANK": "a", "WORLD_SIZE": 2}, "RANK: expected an integer in this environment variable, got 'a'"),
            ({**SRUN, "SLURM_NTASKS": ""}, "SLURM_NTASKS: expected an integer"),
        ],
    )
    def test_variables_that_do_not_fit_are_named(self, environment, variables, message):
        environment(variables)
        with pytest.raises(ValueError, match=message):
            launched()


class TestLibraryCalls:
    """Under torchrun, they leave it to their caller to make a group."""

    @pytest.fixture(autouse=True)
    def under_torchrun(self, environment):
        environment({"TORCHELASTIC_RUN_ID": "none", **TORCHRUN})

    def test_evaluate_makes_no_group(self):
        images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        assert len(evaluate(model, images, labels, protocols=["natural"], attacks=[Clean()])) == 1
        assert not dist.is_initialized()

    def test_train_asks_for_a_group(self, tmp_path):
        with pytest.raises(ValueError, match="one of 4 processes .*init_process_group"):
            train(Recipe("standard_rn20"), model_dir=tmp_path)
        assert not dist.is_initialized() and not list(tmp_path.iterdir())

    def test_a_group_of_the_callers_is_used_and_left(self, environment, tmp_path):
        environment({})
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            with process_group(), propagate_failure(), rank_zero_first():
                assert rank_and_world() == (0, 1)
            assert dist.is_initialized()
        finally:
            dist.destroy_process_group()
