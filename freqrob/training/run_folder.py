"""The files of a training run: checkpoints, metrics, curves, and the batch at which it failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypedDict

import torch
from filelock import Timeout
from torch import Tensor

from freqrob.models.cards import CheckpointError
from freqrob.models.checkpoints import card_path, load, save
from freqrob.runtime.figures import drawing
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import check_file, locked, remove_abandoned, write_csv, write_text, write_torch
from freqrob.runtime.reading import REMEDY, Share, fitted, read_torch
from freqrob.training.recipe import Recipe

STORED_DTYPE = torch.float16  # dtype of kernels and matrices in weights files
History = list[dict[str, float]]


class Epoch(TypedDict):
    """The required keys of a line of the history; the others are numbers too."""

    epoch: int
    loss: float
    val_clean: Share
    selection: Share


class Checkpoint(TypedDict):
    """The file that a run resumes from."""

    recipe: dict[str, Any]
    step: int
    history: History
    losses: list[float]
    seconds: float
    network: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    precision: dict[str, Any]


# Of settings that an older checkpoint does not have
_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
METRICS = FileFormat("metrics", Epoch)
CHECKPOINT = FileFormat("checkpoint", Checkpoint)  # not a JSON file, but with the same containers


class RunFolder:
    """The folder of one run.

    It holds ``last.ckpt``, from which the run resumes, ``last.safetensors`` and ``best.safetensors`` with their cards,
    ``metrics.jsonl``, ``metrics.csv``, ``curves.png``, and ``not_finite.pt``, a batch whose loss was not finite. Every
    file is complete before it replaces an earlier one.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], tensorboard: bool = False) -> None:
        self.folder, self.recipe = folder, recipe
        self.tensorboard = _summary_writer() if tensorboard else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raise ValueError if another process trains in this folder; remove unfinished files of killed processes."""
        with ExitStack() as stack:
            try:
                is_alone = stack.enter_context(locked(self.folder / ".lock", timeout=0))
            except Timeout as error:
                raise ValueError(f"model_dir: another process is training in {self.folder}") from error
            if is_alone:
                self._remove_unfinished()
            yield

    def _remove_unfinished(self) -> None:
        """Remove temporary files that killed processes left in the run's folder or beside the weights and the card."""
        remove_abandoned(self.folder)
        for suffix in (".safetensors", ".json"):
            remove_abandoned(self.folder.parent, self.folder.name + suffix)

    def read(self, steps_per_epoch: int) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU, or None.

        Raises CheckpointError for a damaged checkpoint, or one that contradicts ``steps_per_epoch``; ValueError for a
        checkpoint from another recipe; FileNotFoundError if the best weights are missing.
        """
        if not self.last_checkpoint.is_file():
            return None
        with self.damage_named():
            state = read_torch(self.last_checkpoint)
            CHECKPOINT.fit(state, self.last_checkpoint)
            fitted(state["history"], list[Epoch], "history")
            self._check_progress(state, steps_per_epoch)
            newer = {key: value for key, value in _DEFAULTS.items() if key in self.recipe}
            made_for = {**newer, **state["recipe"]}
            is_same = bool(made_for == self.recipe)
        if not is_same:
            raise ValueError(
                f"recipe: {self.folder} holds a run with other settings ({_differences(made_for, self.recipe)}); "
                "repeat its command, choose another model_dir (--model-dir), or remove it"
            )
        if state["history"] and not self.best_weights.is_file():
            raise FileNotFoundError(
                f"{self.best_weights}: missing, although this run has saved it; remove {self.folder} to train again"
            )
        return state

    def check_files(self) -> None:
        """Raise OSError, naming ``model_dir``, for a file of the run that could not be written."""
        weights = self.weights, self.last_weights, self.best_weights
        for path in (self.last_checkpoint, *weights, *map(card_path, weights), *self.metrics):
            check_file(path, "model_dir")

    def _check_progress(self, state: Checkpoint, steps_per_epoch: int) -> None:
        """Raise ValueError if the counts of steps, epochs and losses contradict each other."""
        epochs, steps = divmod(state["step"], steps_per_epoch)
        numbered = [line["epoch"] for line in state["history"]]
        if len(numbered) != epochs or numbered != [*range(1, len(numbered) + 1)] or len(state["losses"]) != steps:
            raise ValueError(
                f"at step {state['step']:,}, with {steps_per_epoch:,} steps an epoch, it has the metrics of "
                f"{len(numbered):,} epochs and the losses of {len(state['losses']):,} later steps"
            )
        if not all(map(isfinite, [*state["losses"], state["seconds"]])):
            raise ValueError("losses, seconds: expected finite numbers")

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Turn any error in reading a damaged checkpoint into a CheckpointError with the remedy."""
        try:
            yield
        except (MemoryError, OSError):
            raise
        except Exception as error:
            reason = str(error).removeprefix(f"{self.last_checkpoint}: ").removesuffix(f"; {REMEDY}")
            reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
            raise CheckpointError(
                f"{self.last_checkpoint}: not usable ({reason}); remove {self.folder} to train from the beginning"
            ) from error

    def write(self, state: dict[str, Any]) -> None:
        """Write ``last.ckpt``. Raises OSError, with the earlier file intact, when writing fails (a full disk)."""
        write_torch(self.last_checkpoint, CHECKPOINT.versioned({"recipe": self.recipe, **state}))

    def write_metrics(self, history: History) -> None:
        """Write a line for each epoch, and pass the last one to TensorBoard, whose failures are only warnings."""
        lines, table = self.metrics
        write_text(lines, "".join(json.dumps(METRICS.versioned(line)) + "\n" for line in history))
        write_csv(table, history, list(history[0]))

        if self.tensorboard:
            with drawing("tensorboard"):
                epoch = len(history)
                with self.tensorboard(self.folder / "tensorboard", purge_step=epoch) as writer:
                    for key, value in history[-1].items():
                        writer.add_scalar(key, value, epoch)

    def draw_metrics(self, history: History) -> None:
        """Draw the curves; a failure is a warning."""
        with drawing("curves.png"):
            from freqrob.training.curves import draw_curves

            draw_curves(history, self.folder / "curves.png", title=str(self.recipe["name"]))

    @property
    def last_checkpoint(self) -> Path:
        """The file that a run resumes from."""
        return self.folder / "last.ckpt"

    @property
    def metrics(self) -> tuple[Path, Path]:
        """A line for each epoch, as JSON and as CSV."""
        return self.folder / "metrics.jsonl", self.folder / "metrics.csv"

    @property
    def last_weights(self) -> Path:
        """The network of the last whole epoch, for ``load_model``'s ``custom_checkpoint``."""
        return self.folder / "last.safetensors"

    @property
    def best_weights(self) -> Path:
        """The network of the best epoch so far; ``publish`` copies it to ``weights`` when the run is finished."""
        return self.folder / "best.safetensors"

    @property
    def weights(self) -> Path:
        """The finished model, which ``load_model`` finds by its name."""
        return self.folder.with_name(f"{self.folder.name}.safetensors")

    def publish(self) -> None:
        """Save the network of the best epoch as ``weights``. Raises FileNotFoundError, OSError, CheckpointError."""
        state, card = load(self.best_weights)
        assert card is not None
        save(self.weights, state, card, STORED_DTYPE)

    @property
    def bad_batch(self) -> Path:
        return self.folder / "not_finite.pt"

    def write_batch(self, images: Tensor, labels: Tensor, step: int, network: dict[str, Tensor]) -> None:
        """Save a batch with a non-finite loss, and the network, readable by ``torch.load(path, weights_only=True)``."""
        write_torch(self.bad_batch, {"images": images.cpu(), "labels": labels.cpu(), "step": step, "network": network})


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard: it is not installed; pip install 'freqrob[tensorboard]'") from error
    return SummaryWriter


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    return ", ".join(f"{key} {earlier.get(key)!r}, now {now.get(key)!r}" for key in keys)
