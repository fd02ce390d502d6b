"""The training loop, with checkpoints from which a run resumes exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from freqrob.attacks import pgd
from freqrob.attacks.gradient import classified
from freqrob.data import DATASETS, ImageSet
from freqrob.data.pca import pca_components
from freqrob.models import create_network
from freqrob.models.cards import Card
from freqrob.models.checkpoints import check_state, checkpoint_state, load_into, save
from freqrob.models.front_ends import PCA, FrontEnded, with_front_ends
from freqrob.models.loading import checkpoint_path
from freqrob.models.state import evaluating
from freqrob.runtime.parameters import Natural, NotNegative, checked
from freqrob.runtime.process_state import seed_everything
from freqrob.runtime.processes import propagate_failure, rank_zero_first
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.provenance import commit, versions
from freqrob.training.batch_norm import differentiate_twice
from freqrob.training.initial import InitialWeights, load_initial_weights, read_initial_weights
from freqrob.training.launch import graceful_shutdown, launch, share_buffers
from freqrob.training.presets import without_source
from freqrob.training.recipe import Recipe
from freqrob.training.run_folder import STORED_DTYPE, RunFolder
from freqrob.training.run_images import (
    RunImages,
    load_images,
    training_batches,
    validation_batch_size,
    validation_batches,
)

PROGRESS = ("step", "history", "losses", "seconds")  # keys of a run's progress in its checkpoints


@checked
def train(
    recipe: Recipe,
    data_dir: str | Path = "./data",
    model_dir: str | Path = "./models",
    *,
    data: Dataset | DataLoader | None = None,
    workers: Natural | None = None,
    download: bool = False,
    accelerator: str = "auto",
    compile: bool = False,
    checkpoint_minutes: NotNegative = 10,
    tensorboard: bool = False,
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Train a recipe; continue where an earlier run of the same recipe stopped.

    ``model_dir/<dataset>/<threat>/<name>.safetensors`` with its card is the network of the best epoch by validation
    accuracy (under PGD-10 for defences that train against an attack), so that ``load_model(name, model_dir)`` finds
    it when the run is finished. The folder ``<name>/`` next to it holds ``last.ckpt``, ``best.safetensors`` and
    ``last.safetensors``, a line for each epoch in ``metrics.jsonl`` and ``metrics.csv``, and ``curves.png``.

    A step depends only on the recipe and the step's number, so a resumed run ends with the same weights as an
    uninterrupted one, bit for bit on one CPU thread. In an initialised ``torch.distributed`` group, such as that of
    ``freqrob train`` under torchrun, the processes share each batch (DDP); batch norm normalises each share separately.

    Data sets in memory are batched on the device. Photographs, and a ``Dataset`` of your own, are read by ``workers``
    through torchvision's transforms (``freqrob.data.streamed_batches``), so that memory does not grow with their
    number.

    Args:
        recipe: the settings of the run.
        data_dir, download: as for ``load_dataset``.
        data: images to train on instead of the data set's: an ``ImageSet``, such as that of ``load_photographs``, or a
            map-style ``Dataset`` of pairs of an image (PIL, or a tensor) and a label, or its loader. A tenth, but at
            most 5,000, is held out for validation. They have the classes of their attribute ``classes``, or else the
            number of the recipe's data set, which also gives size, normalisation, and the folder of the model.
        workers: processes that read images which are not in memory; by default the loader's, or one for each CPU.
        model_dir: folder of models and runs.
        accelerator: as Lightning Fabric names it.
        compile: compile the network; not possible for defences that differentiate gradients (JaFR, GradAlign).
        checkpoint_minutes: the time between checkpoints within an epoch; each epoch ends with one.
        tensorboard: also write the metrics for TensorBoard, into the run's folder.
        progress: wraps iterables in a progress bar.
        log: receives a line of text for each epoch.

    Returns:
        The path of the weights.

    Raises:
        ValueError: a negative ``checkpoint_minutes``; ``model_dir`` holds a run of that name with another recipe, or a
            damaged checkpoint of it.
        FloatingPointError: the loss became NaN or infinite; the batch is saved, and an earlier checkpoint is intact.
        FileNotFoundError: no data, or the weights of a finished run are missing.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step is finished and a checkpoint written.
        OSError: files cannot be written, such as on a full disk; earlier files are intact.
        ProcessFailure: (an OSError) another process of the group failed.
    """
    weights = checkpoint_path(recipe.name, model_dir, recipe.dataset, recipe.threat_model)
    run = RunFolder(weights.with_suffix(""), recipe.as_dict(), tensorboard)
    made_by, defense = commit(), recipe.make_defense()
    if compile and defense.double_backward:
        raise ValueError(f"compile: {recipe.name_parts.defense} differentiates gradients, which compiled code cannot")
    fabric = launch(recipe.precision, accelerator)
    with propagate_failure():
        if fabric.is_global_zero:
            run.check_files()  # fail before, not after, minutes of work
    seed_everything(recipe.seed)
    images_of = load_images(recipe, data, workers, data_dir, download, progress)
    place = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    batches = training_batches(recipe, images_of, device=fabric.device, **place)
    with ExitStack() as stack:
        with propagate_failure():
            if fabric.is_global_zero:
                stack.enter_context(run.locked())
        earlier = _read_checkpoint(run, len(batches), fabric)
        initial = _initial_weights(recipe, images_of.classes, model_dir) if earlier is None else None
        with propagate_failure():
            state = _State(recipe, images_of, len(batches), fabric, run, earlier, initial)
        model, *parts = state.set_up(compile, defense.double_backward)

        steps, saved_at = recipe.epochs * len(batches), time.monotonic()
        if state.step < steps and fabric.is_global_zero:
            log(f"trains {state}, {len(images_of):,} images, {steps:,} steps{_note(recipe)}")
        stop = stack.enter_context(graceful_shutdown())
        stream = batches.from_step(state.step)
        for step in progress(range(state.step, steps), recipe.name, steps, steps * recipe.batch_size):
            began = time.monotonic()
            images, labels = next(stream)
            images = images.contiguous(memory_format=torch.channels_last)
            torch.manual_seed(_seed(recipe.seed, step, fabric.global_rank))
            loss = state.backward(partial(defense, model, images, labels, *parts))
            # All processes stop, save or fail together; otherwise they would wait for each other forever
            due = time.monotonic() - saved_at > 60 * checkpoint_minutes
            local = torch.hstack([loss.detach().float(), loss.new_tensor([stop.is_set(), due], dtype=torch.float32)])
            mean_loss, stops, due = cast(Tensor, fabric.all_reduce(local)).tolist()
            if not isfinite(mean_loss):
                if not isfinite(loss.item()):
                    run.write_batch(images, labels, step, state.model.network.state_dict())
                raise FloatingPointError(
                    f"the loss became {mean_loss} in step {step + 1}; the batch and the network are in "
                    f"{run.bad_batch}. {_remedy(recipe)}"
                )
            state.update(mean_loss, began)

            epoch_ends = state.step % len(batches) == 0
            if not (epoch_ends or stops or due):
                continue
            state.check_finite(run)
            if epoch_ends:
                with fabric.autocast():
                    state.end_epoch(_validate(state.kept, images_of.val, recipe, fabric, progress, images_of.workers))
            with propagate_failure():
                if fabric.is_global_zero:
                    card = _card(recipe, state, run.recipe, images_of.classes, made_by) if epoch_ends else None
                    state.save(run, card)
            if epoch_ends and fabric.is_global_zero:
                log("  ".join(f"{key} {value:.4g}" for key, value in state.history[-1].items()))
            saved_at = time.monotonic()
            if stops and state.step < steps:
                raise KeyboardInterrupt
        with propagate_failure():
            if fabric.is_global_zero and not run.weights.is_file():  # removed after an earlier call finished the run
                run.publish()
    return run.weights


class _State:
    """The state of a run, saved in checkpoints: new, perhaps with ``initial`` weights, or restored from ``earlier``."""

    def __init__(
        self,
        recipe: Recipe,
        data: RunImages,
        epoch_steps: int,
        fabric: Fabric,
        run: RunFolder,
        earlier: dict[str, Any] | None,
        initial: InitialWeights | None,
    ) -> None:
        channels = DATASETS[recipe.dataset].channels
        network = create_network(recipe.name_parts.architecture, data.classes, channels)
        model = with_front_ends(network, recipe.front_ends)
        for front_end in model.front_ends if earlier is None else ():
            if isinstance(front_end, PCA):
                if not isinstance(data.train, ImageSet):
                    raise TypeError(f"data: pca_ needs an ImageSet, got {type(data.train).__name__}")
                front_end.set_components(*pca_components(data.train, recipe.components))
        self.initial_sha256 = ""
        if initial is not None:
            load_initial_weights(model, initial, recipe)
            self.initial_sha256 = initial.sha256
        self.recipe, self.fabric = recipe, fabric
        self.model = cast(FrontEnded, fabric.to_device(model.to(memory_format=torch.channels_last)))
        optimizer = recipe.make_optimizer(network)
        self.parts = recipe.make_parts(self.model, optimizer)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.average = None
        if recipe.ema:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self.step, self.history, self.losses, self.seconds = 0, [], [], 0.0
        if earlier is not None:
            with run.damage_named():
                self._load(earlier)
        self.scheduler = recipe.lr_scheduler(self.optimizer.optimizer, epoch_steps, self.step)
        self.model.train()

    @property
    def kept(self) -> FrontEnded:
        """The model that is validated and saved: the average, if there is one."""
        return cast(FrontEnded, self.average.module) if self.average else self.model

    def __str__(self) -> str:
        fabric = self.fabric
        where = f"{fabric.world_size} × {fabric.device.type}" if fabric.world_size > 1 else str(fabric.device)
        resumed = f", from step {self.step:,} on" if self.step else ""
        initial = f", from {self.recipe.initial_weights}" if self.recipe.initial_weights and not self.step else ""
        return f"{self.recipe.name} on {where}, {self.recipe.precision}{initial}{resumed}"

    def set_up(self, compile: bool, double_backward: bool) -> Iterator[nn.Module]:
        """The model and the defence's parts, wrapped in DDP if there are several processes."""
        if double_backward:
            differentiate_twice(self.model.network)
        if compile:
            self.model.network.compile()
        # Without Fabric's wrapper, because its hooks prevent differentiating gradients
        return map(self.fabric.strategy.setup_module, [self.model, *self.parts])

    def backward(self, loss_of_batch: Callable[[], Tensor]) -> Tensor:
        """Compute the loss and its gradients, at the learning rate of this step."""
        if self.step > self.scheduler.last_epoch:
            self.scheduler.step()
        with self.fabric.autocast():
            loss = loss_of_batch()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        return loss

    def update(self, loss: float, began: float) -> None:
        """Update the weights; ``loss`` is finite, the mean over all processes, ``began`` the step's starting time."""
        self.optimizer.step()
        if self.fabric.world_size > 1:
            share_buffers(self.model.network)
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        self.losses.append(loss)
        self.seconds += time.monotonic() - began

    def save(self, run: RunFolder, card: Card | None) -> None:
        """Write a checkpoint; at the end of an epoch, with a ``card``, weights and metrics too."""
        if card is not None:
            for path in (run.best_weights, run.last_weights) if self.is_best else (run.last_weights,):
                save(path, checkpoint_state(self.kept), card, STORED_DTYPE)
            run.write_metrics(self.history)
            if len(self.history) == self.recipe.epochs:
                run.publish()
        run.write(self.as_dict())
        if card is not None:
            run.draw_metrics(self.history)

    def check_finite(self, run: RunFolder) -> None:
        """Raise FloatingPointError if the weights are not finite, before they are saved."""
        if not all(parameter.isfinite().all() for parameter in self.trained):
            kept = "; the last checkpoint is intact" if run.last_checkpoint.is_file() else ""
            raise FloatingPointError(f"the weights are not finite after step {self.step}{kept}. {_remedy(self.recipe)}")

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of the network and of the defence's parts."""
        return [parameter for module in (self.model.network, *self.parts) for parameter in module.parameters()]

    @property
    def is_best(self) -> bool:
        return self.history[-1]["selection"] >= max(line["selection"] for line in self.history)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Add a line to the history."""
        count = len(self.losses)
        self.history.append({
            "epoch": len(self.history) + 1, "loss": sum(self.losses) / count, **scores,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": round(count * self.recipe.batch_size / self.seconds, 1),
        })  # fmt: skip
        self.losses, self.seconds = [], 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "network": checkpoint_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "parts": [parts.state_dict() for parts in self.parts],
            "average": self.average.state_dict() if self.average else None,
            "precision": self.fabric.strategy.precision.state_dict(),
            "initial_sha256": self.initial_sha256,
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def _load(self, saved: dict[str, Any]) -> None:
        load_into(self.model, saved["network"], "network", self.recipe.name_parts.architecture)
        for parts, state in zip(self.parts, saved.get("parts", []), strict=True):
            parts.load_state_dict(state)
        for state in saved["optimizer"]["state"].values():
            momentum = state["momentum_buffer"]
            if momentum is not None and (not momentum.is_floating_point() or 0 in momentum.stride()):  # expanded
                raise ValueError("optimizer: expected floating-point momentum that can be updated")
        settings = self.optimizer.state_dict()["param_groups"]  # the recipe's
        self.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": settings})
        momenta = {
            parameter: momentum
            for parameter in self.trained
            if (momentum := self.optimizer.optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None
        }
        if not momenta and self.recipe.momentum and saved["step"]:
            raise ValueError("optimizer: its momentum is missing after earlier steps")
        if any(momentum.shape != parameter.shape for parameter, momentum in momenta.items()):
            raise ValueError("optimizer: its momentum has other shapes than this network")
        if self.average:
            weights = {key.removeprefix("module."): value for key, value in saved["average"].items()}
            weights = {key.removeprefix("network."): value for key, value in weights.items() if key != "n_averaged"}
            check_state(self.average.module, weights, "average", self.recipe.name_parts.architecture)
            self.average.load_state_dict(saved["average"])
        average = self.average.state_dict() if self.average else {}
        parts = dict(enumerate(value for module in self.parts for value in module.state_dict().values()))
        for name, values in {
            "network": self.model.state_dict(), "parts": parts, "optimizer": momenta, "average": average
        }.items():  # fmt: skip
            if not all(value.isfinite().all() for value in values.values()):
                raise ValueError(f"{name}: expected finite values")
        if saved["precision"]:
            self.fabric.strategy.precision.load_state_dict(saved["precision"])
        self.step, self.history, self.losses, self.seconds = (saved[name] for name in PROGRESS)
        self.initial_sha256 = saved.get("initial_sha256", "")


def _read_checkpoint(run: RunFolder, epoch_steps: int, fabric: Fabric) -> dict[str, Any] | None:
    """The last checkpoint. Raises ValueError if the processes have read different ones."""
    with propagate_failure():
        checkpoint = run.read(epoch_steps)
    step = -1 if checkpoint is None else checkpoint["step"]
    if fabric.all_reduce(torch.tensor(step, device=fabric.device), reduce_op="sum") != step * fabric.world_size:
        raise ValueError("model_dir: the processes read different checkpoints; expected a folder that all share")
    return checkpoint


def _initial_weights(recipe: Recipe, classes: int, model_dir: str | Path) -> InitialWeights | None:
    """The weights that a new run starts from; None for random ones."""
    if not recipe.initial_weights:
        return None
    with rank_zero_first():  # it downloads for the others
        return read_initial_weights(recipe, classes, model_dir)


def _validate(
    model: nn.Module, val_set: Dataset, recipe: Recipe, fabric: Fabric, progress: Progress, workers: int = 0
) -> dict[str, float]:
    """Accuracies on the validation split; ``selection`` chooses the best epoch."""
    defense, images = recipe.make_defense(), len(val_set)  # pyright: ignore[reportArgumentType]
    count, size = min(recipe.selection_images or images, images), validation_batch_size(recipe, val_set)
    starts = range(fabric.global_rank * size, images, fabric.world_size * size)
    chunks = [range(start, min(start + size, images)) for start in starts]
    batches = validation_batches(recipe, val_set, chunks, workers=workers, device=fabric.device)
    clean = robust = 0
    with evaluating(model):
        for start in progress(starts, "validation", len(starts), sum(map(len, chunks))):
            pixels, labels = next(batches)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            clean += _correct(model, pixels, labels)
            if defense.adversarial and start < count:
                pixels, labels = pixels[: count - start], labels[: count - start]
                generator = torch.Generator().manual_seed(_seed(recipe.seed, start))
                attacked = pgd(
                    model, pixels, labels, eps=defense.eps, step_size=defense.eps / 4, steps=10, generator=generator
                )
                robust += _correct(model, attacked, labels)
    counts = fabric.all_reduce(torch.tensor([clean, robust], device=fabric.device), reduce_op="sum")
    clean, robust = cast(Tensor, counts).tolist()
    scores = {"val_clean": clean / images}
    if defense.adversarial:
        scores["val_pgd10"] = robust / count
    return {**scores, "selection": scores["val_pgd10" if defense.adversarial else "val_clean"]}


def _remedy(recipe: Recipe) -> str:
    return f"Train in another model_dir with a lower lr (now {recipe.lr}) or a higher precision"


def _note(recipe: Recipe) -> str:
    guess = without_source(recipe)
    return f"; {guess}" if guess else ""


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    return int(classified(model(images), labels).sum())


def _seed(*key: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _card(recipe: Recipe, state: _State, settings: dict[str, Any], classes: int, made_by: str) -> Card:
    origin = {"initial_sha256": state.initial_sha256} if state.initial_sha256 else {}
    return Card(
        name=recipe.name,
        architecture=recipe.name_parts.architecture,
        dataset=recipe.dataset,
        threat_model=recipe.threat_model,
        num_classes=classes,
        front_ends=recipe.front_ends,
        recipe={**settings, **origin, "selected": state.history[-1]},
        commit=made_by,
        versions=versions(),
    )
