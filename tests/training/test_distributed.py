"""Two processes, for real, train as one does.

``python test_distributed.py FOLDER`` is what each of them runs. One pair does all jobs, as it takes seconds to start.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqrob.attacks import pgd
from freqrob.data import Batches, augmix
from freqrob.defenses import DEFENSES, Standard
from freqrob.models import registry
from freqrob.runtime.processes import process_group
from freqrob.training import Recipe, run_images, train, trainer
from freqrob.training.launch import launch
from tests.support.pair import SECONDS, WORLD, Attempt, join_pair, leave_with, run_pair
from tests.support.two_colours import two_colours

TRAIN_IMAGES, VAL_IMAGES, BATCH = 96, 600, 16
EPOCH = TRAIN_IMAGES // BATCH
JOBS = ("gradients", "scores", "continued_runs", "statistics", "interrupted", "not_finite")


class Stopped(Exception):
    pass


def small(num_classes, norm=nn.Identity):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), norm(), nn.Tanh(), nn.Flatten(), nn.Linear(256, num_classes))


def load(name, split, data_dir, **_):
    return two_colours({"train": TRAIN_IMAGES, "val": VAL_IMAGES}[split], seed=len(split))


@contextmanager
def small_training():
    """An architecture without and one with batch norm, and a data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ARCHITECTURES, "small", small)
        patch.setitem(
            registry._ARCHITECTURES, "small_bn", lambda num_classes: small(num_classes, lambda: nn.BatchNorm2d(4))
        )
        patch.setattr(run_images, "load_dataset", load)
        yield patch


def recipe(name="bassmix_jafr_small", **changes):
    defaults = {"epochs": 2, "batch_size": BATCH, "lr": 0.05, "precision": "32-true"}
    return Recipe(name, **{**defaults, "defense": {"weight": 0.1} if "jafr" in name else {}, **changes})


def at_step(count, action):
    """A ``progress`` that acts when so many steps of the run at hand are done."""

    def progress(items, what, *_):
        for done, item in enumerate(items):
            if done == count and what != "validation":
                action()
            yield item

    return progress


def stop():
    raise Stopped


# What both kinds of run compute


@contextmanager
def common_draws(rank, world):
    """Random numbers are drawn for the whole batch, and each process takes its share."""

    def share(draw):
        def drawn(like, **_):
            count, *rest = getattr(like, "shape", like)
            return draw(world * count, *rest, dtype=torch.float64).chunk(world)[rank]

        return drawn

    draw_augmix = augmix._draw

    def draw(count, *parameters):
        draws = draw_augmix(world * count, *parameters)
        return replace(draws, **{k: v[..., rank * count :][..., :count] for k, v in vars(draws).items()})

    with pytest.MonkeyPatch.context() as patch:
        for name, drawn in (("rand", torch.rand), ("rand_like", torch.rand), ("randn_like", torch.randn)):
            patch.setattr(torch, name, share(drawn))
        patch.setattr(augmix, "_draw", draw)
        yield


def gradients(folder, rank, world=WORLD):
    """Of every defence, as this process has them in the end."""
    found, (images, labels) = {}, (two_colours(8, seed=3).images / 255.0, two_colours(8, seed=3).labels)
    for name, defense in DEFENSES.items():
        if hasattr(defense, "make_parts"):
            continue  # its parts are modules that each process wraps too
        torch.manual_seed(0)
        model = small(2).double()
        parallel = DistributedDataParallel(model) if world > 1 else model
        weight = {"weight": -0.3 if "minus" in name else 0.3} if "jafr" in name or name == "grad_align" else {}
        steps = {"steps": 3} if name in ("pgd_at", "trades", "mart") else {}
        brain = {"targets": str(folder / "brain.npz"), "layer": "0"} if name == "neural_similarity" else {}
        torch.manual_seed(5)
        with common_draws(rank, world):
            share = (part.chunk(world)[rank] for part in (images.double(), labels))
            defense(**weight, **steps, **brain)(parallel.train(), *share).backward()
        found[name] = [parameter.grad for parameter in model.parameters()]
    return found


def scores(_folder, _rank):
    """Of a fixed model, how many images it classifies, clean and under attack."""
    torch.manual_seed(0)
    made = recipe("fgsm_small", selection_images=300, defense={"eps": 0.002})
    fabric, images = launch("32-true", "cpu"), load("", "val", "", download=False)
    scores = trainer._validate(small(2), images, made, fabric, lambda items, *_: items)
    return {"val_clean": scores["val_clean"] * VAL_IMAGES, "val_pgd10": scores["val_pgd10"] * 300}


# The pair


def whole_run(folder, rank):
    lines, renamed = [], []
    sys.addaudithook(lambda event, args: event == "os.rename" and renamed.append(str(args[1])))
    train(recipe(), model_dir=folder / "two", accelerator="cpu", log=lines.append)
    return {"lines": len(lines), "written": len(renamed)}


def continued_runs(folder, rank):
    train(recipe(), model_dir=folder / "one_then_two", accelerator="cpu")
    with suppress(Stopped):
        progress = at_step(8, stop)
        train(recipe(), model_dir=folder / "two_then_one", accelerator="cpu", checkpoint_minutes=0, progress=progress)


def statistics(folder, rank):
    """The buffers that each process attacks and validates with."""
    validated, correct, attacked = {}, trainer._correct, []
    for ema in (0, 0.5):

        def record(model, *batch, ema=ema):
            validated[ema] = {key: value.clone() for key, value in model.network.state_dict().items()}
            return correct(model, *batch)

        def attack(model, images, labels, **options):
            attacked.append(model.network[1].running_mean.clone())
            return pgd(model, images, labels, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_correct", record)
            patch.setattr("freqrob.defenses.pgd_at.pgd", attack)
            made = recipe("pgd_at_small_bn", epochs=1, ema=ema, defense={"steps": 1})
            train(made, model_dir=folder / f"ema{ema}", accelerator="cpu")
    return {**validated, "attacked": attacked}


def interrupted(folder, rank):
    """One process is asked to stop."""
    progress = at_step(4, lambda: rank == 1 and os.kill(os.getpid(), signal.SIGINT))
    try:
        train(recipe(), model_dir=folder / "interrupted", accelerator="cpu", progress=progress)
    except KeyboardInterrupt:
        return "stopped"


def not_finite(folder, rank):
    """One process meets a loss that is not finite."""
    calls = []

    @dataclass(frozen=True)
    class Broken(Standard):
        def __call__(self, *batch):
            calls.append(batch)
            return super().__call__(*batch) * (float("nan") if rank == 1 and len(calls) == 4 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFENSES, "standard", Broken)
        try:
            progress = at_step(9, stop)
            train(
                recipe("standard_small"),
                model_dir=folder / "nan",
                accelerator="cpu",
                checkpoint_minutes=0,
                progress=progress,
            )
        except FloatingPointError as error:
            return str(error)


def main(folder, *jobs):
    rank = int(os.environ["RANK"])
    if not jobs:  # under torchrun
        with process_group(), small_training():
            whole_run(folder, rank)
        return
    join_pair(folder)
    with small_training():
        leave_with({job.__name__: job(folder, rank) for job in (whole_run, *jobs)}, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(0)
    similarity = np.corrcoef(rng.normal(size=(6, 4)))
    np.savez(folder / "brain.npz", images=rng.integers(256, size=(6, 3, 32, 32), dtype=np.uint8), similarity=similarity)
    return folder


@pytest.fixture(scope="module")
def attempt(folder):
    """One process trains, and begins what the pair goes on with; then the pair does its jobs."""

    def make():
        with small_training():
            train(recipe(), model_dir=folder / "one", accelerator="cpu")
            with suppress(Stopped):
                progress = at_step(8, stop)
                train(
                    recipe(),
                    model_dir=folder / "one_then_two",
                    accelerator="cpu",
                    checkpoint_minutes=0,
                    progress=progress,
                )
        assert last(folder / "one_then_two")["step"] == 8, "one process stopped in mid-epoch"
        torchrun = {"WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD, "TORCHELASTIC_RUN_ID": "none"}
        torchrun |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 0, "PYTHONWARNINGS": "error::FutureWarning"}
        return run_pair(folder, [__file__, folder, *JOBS], **torchrun)

    return Attempt(make)


@pytest.fixture
def pair(attempt):
    return attempt.result


def last(folder, name="bassmix_jafr_small"):
    return torch.load(folder / "cifar10" / "Linf" / name / "last.ckpt", weights_only=True)


def assert_same_run(folder, other):
    one, two = last(folder), last(other)
    assert one["step"] == two["step"] == 2 * EPOCH
    for key in ("network", "optimizer"):
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-4)
    for line, other_line in zip(one["history"], two["history"], strict=True):
        del line["images_per_s"], other_line["images_per_s"]
        assert line == pytest.approx(other_line, rel=1e-3)
    stored, other_stored = (
        load_file(path / "cifar10" / "Linf" / "bassmix_jafr_small.safetensors") for path in (folder, other)
    )
    torch.testing.assert_close(stored, other_stored, rtol=2e-3, atol=1e-4)


@pytest.fixture(scope="module")
def alone(folder):
    return gradients(folder, 0, 1)


def test_the_pair_does_all_its_jobs(attempt):
    attempt.check()


@pytest.mark.parametrize("name", [name for name in DEFENSES if not hasattr(DEFENSES[name], "make_parts")])
def test_gradients_are_those_of_the_whole_batch(pair, alone, name):
    assert all(gradient.abs().max() > 1e-4 for gradient in alone[name])
    for rank in range(WORLD):
        torch.testing.assert_close(pair[rank]["gradients"][name], alone[name], rtol=1e-5, atol=1e-7)


def test_a_run_ends_with_the_same_weights(folder, pair):
    assert_same_run(folder / "one", folder / "two")


def test_a_run_leaves_one_set_of_files(folder, pair):
    one, two = ({path.relative_to(root) for path in root.rglob("*")} for root in (folder / "one", folder / "two"))
    assert one == two and len(one) == 14
    first, second = (results["whole_run"] for results in pair)
    assert first["lines"] == 1 + 2 and first["written"] >= 8
    assert second == {"lines": 0, "written": 0}, "the second process writes nothing"


UNDER_SLURM = """
import os, pathlib, sys
rank = os.environ.pop("RANK")
os.environ |= {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
from tests.support.pair import leave_with
from freqrob.runtime.processes import process_group
from freqrob.training.launch import launch
import torch
with process_group():
    fabric = launch("32-true", "cpu")
    total = fabric.all_reduce(torch.tensor(fabric.global_rank + 1.0), reduce_op="sum").item()
    os.environ["RANK"] = rank
    leave_with((fabric.global_rank, fabric.world_size, total), pathlib.Path(sys.argv[1]))
"""


def test_slurm_starts_processes_that_train_together(tmp_path):
    """In the environment that srun gives its tasks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0, "JOB_NAME": "train", "JOB_ID": 1, "STEP_ID": 0}
    slurm = {f"SLURM_{key}": value for key, value in job.items()}
    found = run_pair(tmp_path, ["-c", UNDER_SLURM, tmp_path], **slurm, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert found == [(0, 2, 3.0), (1, 2, 3.0)]


def test_validation_counts_every_image_once(pair):
    with small_training():
        alone = scores(None, 0)
    assert 0 < alone["val_pgd10"] < 300
    assert pair[0]["scores"] == pair[1]["scores"] == pytest.approx(alone)


def test_two_processes_continue_the_run_of_one(folder, pair):
    assert_same_run(folder / "one", folder / "one_then_two")


def test_one_process_continues_the_run_of_two(folder, pair):
    assert last(folder / "two_then_one")["step"] == 8, "they stopped in mid-epoch"
    with small_training():
        train(recipe(), model_dir=folder / "two_then_one", accelerator="cpu")
    assert_same_run(folder / "one", folder / "two_then_one")


def test_all_attack_the_same_model(pair):
    first, second = (torch.stack(results["statistics"]["attacked"]) for results in pair)
    assert len(first) > 4 and torch.equal(first, second) and not torch.equal(first[0], first[-1])


@pytest.mark.parametrize("ema", [0, 0.5])
def test_all_validate_the_model_that_is_saved(folder, pair, ema):
    first, second = (results["statistics"][ema] for results in pair)
    saved = load_file(folder / f"ema{ema}" / "cifar10" / "Linf" / "pgd_at_small_bn.safetensors")
    for key in ("1.running_mean", "1.running_var", "4.bias"):
        assert torch.equal(first[key], second[key]) and torch.equal(first[key], saved[key])


def test_all_stop_when_one_is_asked_to(folder, pair):
    assert [results["interrupted"] for results in pair] == ["stopped", "stopped"]
    assert last(folder / "interrupted")["step"] == 5


def test_all_stop_when_the_loss_of_one_is_not_finite(folder, pair):
    assert all("nan in step 4" in results["not_finite"] for results in pair)
    assert last(folder / "nan", "standard_small")["step"] == 3
    kept = torch.load(folder / "nan" / "cifar10" / "Linf" / "standard_small" / "not_finite.pt", weights_only=True)
    second = Batches(load("", "train", "", download=False), BATCH, rank=1, world_size=WORLD)
    torch.testing.assert_close(kept["images"], second[3][0])
    assert kept["step"] == 3 and torch.equal(kept["labels"], second[3][1])


@pytest.mark.slow
def test_under_torchrun(folder, pair, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    subprocess.run([*launcher, __file__, str(tmp_path)], check=True, timeout=SECONDS)
    assert_same_run(folder / "one", tmp_path / "two")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(globals()[job] for job in sys.argv[2:]))
