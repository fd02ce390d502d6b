"""Two processes, for real, measure what one does; ``main`` is what each of them runs."""

import csv
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from freqrob.attacks import FGSM, PGD, Clean
from freqrob.evaluation import evaluate
from freqrob.runtime.processes import merged, rank_and_world
from tests.support.pair import SECONDS, WORLD, Attempt, join_pair, leave_with, run_pair

ATTACKS = [Clean(), FGSM(1 / 255), PGD(2, 3 / 255, restarts=2)]


class Counting(nn.Module):
    """A network that knows which images it met."""

    __slots__ = ("images",)  # no attribute by which the model is known

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.images = 0

    def forward(self, images):
        self.images += len(images)
        return self.network(images)


def pictures():
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return images, Counting()(images / 255).argmax(1)


def measured(cache, progress=lambda items, *_: items):
    model = Counting()
    results = evaluate(model, *pictures(), attacks=ATTACKS, batch_size=8, cache=cache, cache_key="1", progress=progress)
    return {"correct": torch.stack([result.correct for result in results]), "images": model.images}


def main(folder):
    rank = int(os.environ["RANK"])
    join_pair(folder)
    found = {"alone": rank_and_world(), "memory": measured(None), "cached": measured(folder / "cache")}
    dist.barrier()
    found["again"] = measured(folder / "cache")
    found["resumed"] = measured(folder / "left_by_one")
    found["few"] = merged([torch.tensor([rank == 0, rank == 1, False])])
    leave_with(found, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With what one process measured before it was stopped."""
    folder = tmp_path_factory.mktemp("ranks")

    def stop(items, what, count, _images):
        yield from items[:3] if "PGD" in what else items
        if "PGD" in what:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measured(folder / "left_by_one", stop)
    return folder


@pytest.fixture(scope="module")
def attempt(folder):
    code = f"import {__name__}, pathlib; {__name__}.main(pathlib.Path({str(folder)!r}))"
    return Attempt(lambda: run_pair(folder, ["-c", code]))


@pytest.fixture
def pair(attempt):
    return attempt.result


def test_the_pair_measures_all(attempt):
    attempt.check()


@pytest.fixture(scope="module")
def alone():
    found = measured(None)
    assert 10 < found["correct"][2].sum() < 40, "PGD breaks some"
    return found


@pytest.mark.parametrize("how", ["memory", "cached", "again", "resumed"])
def test_all_processes_get_the_results_of_one(pair, alone, how):
    for results in pair:
        assert torch.equal(results[how]["correct"], alone["correct"])


def test_the_work_is_shared(pair, alone):
    assert [results["alone"] for results in pair] == [(0, 2), (1, 2)]
    for how in ("memory", "cached"):
        first, second = (results[how]["images"] for results in pair)
        checks = 3 * 2 * 8 * 3  # two passes and a gradient over a batch, under three protocols, once more
        assert abs(first + second - alone["images"]) <= checks and min(first, second) > alone["images"] / 3


def test_what_is_done_is_not_measured_again(pair):
    assert [results["again"]["images"] for results in pair] == [0, 0]
    assert all(results["resumed"]["images"] < results["cached"]["images"] for results in pair)


def test_a_process_without_work_merges_too(pair):
    assert all(results["few"][0].tolist() == [True, True, False] for results in pair)


def test_outside_a_group_masks_stay_as_they_are():
    mask = torch.tensor([True, False])
    assert rank_and_world() == (0, 1) and torch.equal(merged([mask])[0], mask)


@pytest.mark.slow
def test_freqrob_evaluate_under_torchrun(tmp_path):
    from freqrob.data.samples import sample_images

    source = tmp_path / "own.py"
    source.write_text(
        "import freqrob.cli, freqrob.data\n"
        "from freqrob.data.samples import sample_images\n"
        "freqrob.data.load_dataset = lambda *_, **__: sample_images()\n"
        "freqrob.cli.main()\n"
    )
    assert len(sample_images()) == 20
    written = []
    for name, launcher in {
        "one": [],
        "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)],
    }.items():
        written.append(tmp_path / f"{name}.csv")
        options = ["--attack", "pgd-3-2", "--batch-size", "6", "--cache", tmp_path / name, "--samples", written[-1]]
        command = [sys.executable, *launcher, source, "evaluate", "pgd_at_rn20", *options]
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=SECONDS)
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("Accuracy (%) on 20 images") == 1, "one process prints"
    one, two = (list(csv.DictReader(path.open())) for path in written)
    assert one == two and len(one) == 3 * 20
