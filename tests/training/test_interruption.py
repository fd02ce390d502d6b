"""Runs that are killed, stopped, or meet a full disk, in processes of their own, go on to where others end."""

import errno
import io
import math
import multiprocessing
import os
import resource
import signal
import time
from datetime import timedelta
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from freqrob.data import Batches
from freqrob.models import load_model, registry
from freqrob.models.cards import CheckpointError
from freqrob.runtime import files
from freqrob.training import Recipe, run_images, train, trainer
from tests.support.two_colours import two_colours

TRAIN_IMAGES, BATCH, EPOCHS = 480, 8, 3
EPOCH = TRAIN_IMAGES // BATCH
SECONDS = 900
# Forks of one process that has imported everything start at once
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["freqrob.training.trainer", "matplotlib.figure"])

RUNS = {
    "standard_small": {},
    "bassmix_standard_small": {"ema": 0.9, "schedule": "cosine", "warmup_epochs": 0.5, "nesterov": True},
    "pgd_at_small": {"defense": {"steps": 1}, "selection_images": 20, "precision": "bf16-mixed"},
    "jafr_small": {"defense": {"weight": 0.1}, "crop": "zeros"},
}


def small(num_classes):
    convolution = nn.Sequential(nn.Conv2d(3, 32, 3, stride=4), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(convolution, nn.Dropout(0.1), nn.Flatten(), nn.Linear(2048, num_classes))


def data(split):
    return two_colours({"train": TRAIN_IMAGES, "val": 40}[split], seed=len(split))


@pytest.fixture
def patch(monkeypatch):
    return set_up(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where runs are made that nothing interrupts; those that are finished are not made again."""
    return tmp_path_factory.mktemp("whole")


def set_up(patch):
    patch.setitem(registry._ARCHITECTURES, "small", small)
    patch.setattr(run_images, "load_dataset", lambda name, split, *_, **__: data(split))
    return patch


def recipe(name="standard_small", **changes):
    defaults = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05, "precision": "32-true"}
    return Recipe(name, **{**defaults, **RUNS[name], **changes})


def run_of(folder, name="standard_small"):
    return folder / "cifar10" / "Linf" / name


def last(folder, name="standard_small"):
    return torch.load(run_of(folder, name) / "last.ckpt", weights_only=True)


def as_bytes(value):
    """Everything in a checkpoint but times, for comparison bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: as_bytes(item) for key, item in value.items() if key not in ("seconds", "images_per_s")}
    return [as_bytes(item) for item in value] if isinstance(value, list) else value


def assert_same_end(one, other, name="standard_small"):
    assert last(one, name)["step"] == EPOCHS * EPOCH
    assert as_bytes(last(one, name)) == as_bytes(last(other, name))
    kept = (load_file(run_of(folder, name).with_suffix(".safetensors")) for folder in (one, other))
    assert as_bytes(next(kept)) == as_bytes(next(kept))


def at_step(number, action):
    """A ``progress`` that acts when so many steps are done."""

    def progress(items, what, *_):
        for step, item in zip(items if what == "validation" else count(items.start), items, strict=False):
            if step == number and what != "validation":
                action()
            yield item

    return progress


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


# What other processes do


def trained(prepare, folder, name, **options):
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch)
        options = {**options, **(prepare(patch, folder) or {})}
        try:
            train(recipe(name), model_dir=folder, **options)
        except BaseException as error:
            (folder / "raised").write_text(f"{type(error).__name__}: {error}")
            raise


def elsewhere(prepare, folder, name="standard_small"):
    """Train in a process of its own; its exit code."""
    folder.mkdir(exist_ok=True)
    child = processes.Process(target=trained, args=(prepare, folder, name))
    child.start()
    child.join(SECONDS)
    child.kill()
    child.join()
    return child.exitcode


def killed_in_a_step(patch, _folder):
    """In the forward pass of step 101, after checkpoints at every seventh step."""
    patch.setattr(trainer, "time", SimpleNamespace(monotonic=count().__next__))  # three seconds a step
    forward, calls = nn.Dropout.forward, []

    def killing(self, images):
        calls.append(self.training)
        return kill() if sum(calls) == EPOCH + 41 else forward(self, images)

    patch.setattr(nn.Dropout, "forward", killing)
    return {"checkpoint_minutes": 19 / 60}


def killed_in_writing(patch, _folder):
    """When the checkpoint of step 101 is written but has not got its name."""
    progress = at_step(EPOCH + 40, lambda: patch.setattr(os, "replace", lambda *_: kill()))
    return {"checkpoint_minutes": 0, "progress": progress}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_one_that_was_not(patch, whole, tmp_path, name):
    cut = tmp_path / "cut"
    assert elsewhere(killed_in_a_step, cut, name) == -signal.SIGKILL
    step = last(cut, name)["step"]
    assert EPOCH < step < EPOCH + 40, "killed in mid-epoch, after a checkpoint in mid-epoch and steps that are lost"
    lines = []
    train(recipe(name), model_dir=cut, log=lines.append)
    assert " from step " in lines[0] and len(lines) == EPOCHS, "the first epoch is not trained again"
    train(recipe(name), model_dir=whole)
    assert_same_end(whole, cut, name)


def killed_in_writing_weights(patch, _folder):
    """When the weights of the second epoch are written but have not got their name."""
    return {"progress": at_step(EPOCH + 40, lambda: patch.setattr(os, "replace", lambda *_: kill()))}


def unfinished(folder):
    return sorted(path.name.split(".")[1] for path in folder.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "prepare, left, step",
    [(killed_in_writing, ["last"], EPOCH + 40), (killed_in_writing_weights, ["best"] * 2, EPOCH)],
)
def test_a_run_killed_while_it_writes(patch, whole, tmp_path, prepare, left, step):
    cut = tmp_path / "cut"
    assert elsewhere(prepare, cut) == -signal.SIGKILL
    assert (last(cut)["step"], unfinished(cut)) == (step, left)
    another = run_of(cut).with_name(f".standard_small2.safetensors.{files._kernel()}.01234567.tmp")
    another.touch()
    for folder in (cut, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, cut)
    assert [path.name for path in cut.rglob(".*.tmp")] == [another.name], "that of another run is left alone"


def waits_at_step_10(_patch, folder):
    def wait():
        (folder / "ready").touch()
        while not (folder / "signalled").exists():
            signal.sigtimedwait([], 0.01)

    return {"progress": at_step(10, wait)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step(patch, whole, tmp_path, number):
    cut = tmp_path / "cut"
    cut.mkdir()
    child = processes.Process(target=trained, args=(waits_at_step_10, cut, "standard_small"))
    child.start()
    try:
        for _ in range(100 * SECONDS):
            if (cut / "ready").exists():
                break
            child.join(0.01)
        os.kill(child.pid, number)
        (cut / "signalled").touch()
        child.join(SECONDS)
    finally:
        child.kill()
    assert child.exitcode == 1
    assert (cut / "raised").read_text() == "KeyboardInterrupt: "
    assert last(cut)["step"] == 11, "the step is done and kept"
    for folder in (cut, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, cut)


def test_a_second_signal_interrupts_at_once(patch, tmp_path):
    steps, forward = [], nn.Dropout.forward

    def interrupted(self, images):
        steps.append(0)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
            steps.append("went on after the first")
            signal.raise_signal(signal.SIGINT)
            steps.append("went on after the second")
        return forward(self, images)

    patch.setattr(nn.Dropout, "forward", interrupted)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), model_dir=tmp_path, checkpoint_minutes=0)
    assert steps == [0] * 5 + ["went on after the first"]
    assert last(tmp_path)["step"] == 4
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before, "handlers are put back"


def test_a_loss_that_is_not_finite(patch, whole, tmp_path):
    cut, forward, calls = tmp_path / "cut", nn.Dropout.forward, []

    def breaking(self, images):
        calls.append(self.training)
        return forward(self, images) * (float("nan") if sum(calls) == EPOCH + 8 else 1)

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(nn.Dropout, "forward", breaking)
        with pytest.raises(FloatingPointError, match=f"loss became nan in step {EPOCH + 8}; .*not_finite.pt.*lr"):
            train(recipe(), model_dir=cut, checkpoint_minutes=0)
    assert last(cut)["step"] == EPOCH + 7, "the last checkpoint is from before"
    kept = torch.load(run_of(cut) / "not_finite.pt", weights_only=True)
    images, labels = Batches(data("train"), BATCH)[EPOCH + 7]
    assert kept["step"] == EPOCH + 7
    assert torch.equal(kept["images"], images) and torch.equal(kept["labels"], labels)
    for folder in (cut, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, cut)


def test_a_gradient_that_is_not_finite(patch, whole, tmp_path):
    """Weights that it has spoilt replace neither the checkpoint nor the best ones."""
    forward, calls = nn.Dropout.forward, []

    def breaking(self, images):
        calls.append(self.training)
        if sum(calls) == 2 * EPOCH:
            images = images + (0 * images).sqrt()  # 0, with an infinite slope
        return forward(self, images)

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(nn.Dropout, "forward", breaking)
        with pytest.raises(FloatingPointError, match=f"weights are not finite after step {2 * EPOCH}"):
            train(recipe(), model_dir=tmp_path, checkpoint_minutes=60)
    assert last(tmp_path)["step"] == EPOCH
    for folder in (tmp_path, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, tmp_path)


def test_no_checkpoint_is_promised_where_there_is_none(patch, tmp_path):
    forward = nn.Dropout.forward
    patch.setattr(nn.Dropout, "forward", lambda self, images: forward(self, images) + (0 * images).sqrt())
    with pytest.raises(FloatingPointError, match="weights are not finite after step 1. Train in another"):
        train(recipe(), model_dir=tmp_path, checkpoint_minutes=0)


def test_one_process_at_a_time(patch, tmp_path):
    messages = []

    def again(items, what, *_):
        for item in items:
            if not messages:
                messages.append("")
                with pytest.raises(ValueError, match="model_dir: another process is training in") as error:
                    train(recipe(epochs=1), model_dir=tmp_path)
                messages.append(str(error.value))
            yield item

    train(recipe(epochs=1), model_dir=tmp_path, progress=again)
    assert "standard_small" in messages[1]


def with_a_full_disk(_patch, _folder, size, minutes):
    """From step ``EPOCH + 10`` on, no file can grow beyond ``size`` bytes; Python ignores SIGXFSZ."""
    progress = at_step(EPOCH + 10, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    return {"checkpoint_minutes": minutes, "progress": progress}


@pytest.mark.parametrize("size", [4_000, 40_000])  # PyTorch raises another error for each
def test_a_full_disk_in_mid_epoch(patch, whole, tmp_path, size):
    assert_survives_a_full_disk(tmp_path, whole, size, 0, "last.ckpt", EPOCH + 10)


def test_a_full_disk_at_the_end_of_an_epoch(patch, whole, tmp_path):
    assert_survives_a_full_disk(tmp_path, whole, 500, 60, "best.safetensors", EPOCH)


def assert_survives_a_full_disk(folder, whole, size, minutes, file, step):
    cut = folder / "cut"
    assert elsewhere(partial(with_a_full_disk, size=size, minutes=minutes), cut) == 1
    expected = os.path.normpath(run_of(cut) / file)
    raised = (cut / "raised").read_text()
    assert raised.startswith(f"NoSpaceError: could not write {expected}: File too large. Free space there")
    assert raised.endswith(f"the earlier {os.path.basename(expected)} is intact")
    assert last(cut)["step"] == step
    model = load_model("standard_small", custom_checkpoint=run_of(cut) / "best.safetensors")
    assert model(torch.rand(1, 3, 32, 32)).isfinite().all()
    with pytest.raises(FileNotFoundError, match="standard_small"):  # until the run is finished
        load_model("standard_small", cut)
    assert not [path for path in cut.rglob("*") if path.name.endswith(".tmp")]
    for folder in (cut, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, cut)


def one_of_two(folder, rank):
    """One of two processes that train together; the first one cannot write."""
    common = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({key: str(value) for key, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()})
    patience = timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=patience)
    own = folder / str(rank)
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch)
        if rank == 0:
            patch.setattr(torch, "save", full_disk)
        try:
            train(recipe(), model_dir=folder, accelerator="cpu", checkpoint_minutes=0)
        except OSError as error:
            (own / "raised").write_text(str(error))
        time.sleep(1)  # so that neither fails because the other has gone
        os._exit(0)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_stops_all_that_train_together(tmp_path):
    pair = [processes.Process(target=one_of_two, args=(tmp_path, rank)) for rank in range(2)]
    for child in pair:
        child.start()
    for child in pair:
        child.join(SECONDS)
        child.kill()
    first, second = ((tmp_path / str(rank) / "raised").read_text() for rank in range(2))
    assert "No space left" in first and "last.ckpt" in first
    assert second.startswith("another process of the group")


def test_a_damaged_checkpoint_is_named(patch, tmp_path):
    train(recipe(epochs=1), model_dir=tmp_path)
    path = run_of(tmp_path) / "last.ckpt"
    content, other = path.read_bytes(), io.BytesIO()
    torch.save([1, 2], other)
    cut = [content[:size] for size in (0, 2, 100, 1000, len(content) // 2, len(content) - 1)]
    changed = [bytes(len(content)), content.replace(b"recipe", b"\xd7ecipe"), b"not a checkpoint", other.getvalue()]
    for damaged in cut + changed:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path}: not usable .*; remove {path.parent} to train"):
            train(recipe(epochs=1), model_dir=tmp_path)
        assert path.read_bytes() == damaged


def without(key):
    return lambda state: state.pop(key)


def sets(**values):
    return lambda state: state.update(values)


def of_network(change):
    def changed(state):
        state["network"] = {key: change(value) for key, value in state["network"].items()}

    return changed


def momenta(change):
    def changed(state):
        for one in state["optimizer"]["state"].values():
            one["momentum_buffer"] = change(one["momentum_buffer"])

    return changed


DAMAGES = {
    **{f"no {key}": without(key) for key in ("step", "history", "losses", "network", "optimizer", "precision")},
    "no metrics": sets(history=[{}]),
    "metrics of another epoch": lambda state: state["history"][0].update(epoch=7),
    "an epoch too many": lambda state: state["history"].append(state["history"][0]),
    "a negative step": sets(step=-5),
    "a step behind the end": sets(step=10**9),
    "a step beyond all memory": sets(step=2**62),
    "a step of another epoch": sets(step=EPOCH + 1),
    "a step that is text": sets(step="60"),
    "losses that are text": sets(losses=["a"]),
    "seconds that are missing": sets(seconds=None),
    "another network": sets(network={"weight": torch.zeros(3)}),
    "a sparse network": of_network(lambda value: value.to_sparse() if value.ndim else value),
    "a network without values": of_network(lambda value: value.to("meta")),
    "a network of integers": of_network(lambda value: value.long()),
    "a network of NaN": of_network(lambda value: value * math.nan if value.is_floating_point() else value),
    "an optimizer that is a list": sets(optimizer=[1]),
    "an optimizer without state": sets(optimizer={}),
    "an optimizer of another network": sets(optimizer={"state": {0: {"momentum_buffer": torch.zeros(3)}}}),
    "an optimizer of nothing": sets(optimizer={"state": {}}),
    "no momentum": momenta(lambda value: None),
    "a momentum of other shapes": momenta(lambda value: value.flatten()),
    "a momentum that is a number": momenta(lambda value: 1.0),
    "a momentum of NaN": momenta(lambda value: value * math.nan),
    "a momentum of integers": momenta(lambda value: value.long()),
    "an expanded momentum": momenta(lambda value: value.new_zeros(1).expand(value.shape)),
    "seconds that are NaN": sets(seconds=math.nan),
    "a recipe with a tensor": lambda state: state["recipe"].update(lr=torch.zeros(3)),
    "a list": lambda state: state.clear(),
}


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """A run of one epoch, as bytes by file name."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch)
        train(recipe(epochs=1), model_dir=folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_loads_but_is_damaged_is_named(patch, tmp_path, one_epoch, damage):
    for name, content in one_epoch.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    path = run_of(tmp_path) / "last.ckpt"
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"{path}: not usable .*; remove {path.parent}"):
        train(recipe(epochs=1), model_dir=tmp_path)


@pytest.mark.parametrize("damage", [lambda value: value.long(), lambda value: value[None]])
def test_a_damaged_average_is_named(patch, tmp_path, damage):
    chosen = recipe("bassmix_standard_small", epochs=1, warmup_epochs=0.0)
    path = train(chosen, model_dir=tmp_path).with_suffix("") / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["average"] = {name: damage(value) if value.ndim else value for name, value in state["average"].items()}
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"{path}: not usable .*average"):
        train(chosen, model_dir=tmp_path)


@pytest.mark.parametrize(
    "name", ["last.ckpt", "best.safetensors", "last.safetensors", "metrics.csv", "../{}.safetensors", "../{}.json"]
)
def test_a_file_that_cannot_be_written_is_named_before_the_first_step(patch, tmp_path, name):
    path = run_of(tmp_path) / name.format(run_of(tmp_path).name)
    path.mkdir(parents=True)
    patch.setattr(trainer, "load_images", lambda *_: pytest.fail("it looked for the data"))
    with pytest.raises(IsADirectoryError, match=f"model_dir: .*{path.name} is a folder, expected a file"):
        train(recipe(epochs=1), model_dir=tmp_path)


def test_the_optimizer_keeps_the_settings_of_the_recipe(patch, whole, tmp_path):
    """Those in a damaged checkpoint do not change how a run goes on."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), model_dir=tmp_path, progress=at_step(EPOCH + 10, lambda: signal.raise_signal(signal.SIGINT)))
    state = last(tmp_path)
    state["optimizer"]["param_groups"][0].update(lr="x", momentum=0.0, weight_decay=9.0, nesterov=True)
    torch.save(state, run_of(tmp_path) / "last.ckpt")
    for folder in (tmp_path, whole):
        train(recipe(), model_dir=folder)
    assert_same_end(whole, tmp_path)


def test_another_recipe_says_what_differs(patch, tmp_path):
    train(recipe("jafr_small", epochs=1), model_dir=tmp_path)
    before = as_bytes(last(tmp_path, "jafr_small"))
    for changes, message in (
        ({"lr": 0.01}, r"\(lr 0.05, now 0.01\)"),
        ({"crop": None, "seed": 3}, r"\(crop 'zeros', now None, seed 0, now 3\)"),
        ({"defense": {"weight": 0.2}}, r"\(defense .*0\.1.*, now .*0\.2.*\)"),
    ):
        with pytest.raises(ValueError, match=f"recipe: .*jafr_small .*other settings {message}"):
            train(recipe("jafr_small", **{"epochs": 1, **changes}), model_dir=tmp_path)
    assert as_bytes(last(tmp_path, "jafr_small")) == before
