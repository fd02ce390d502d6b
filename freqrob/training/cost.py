"""Cost of a training step on random images, for estimates and for the papers' comparisons of training time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from timeit import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from freqrob.data import DATASETS, Batches, ImageSet
from freqrob.models import create_network
from freqrob.models.front_ends import PCA, with_front_ends
from freqrob.runtime.parameters import Count, check_integers, checked
from freqrob.runtime.process_state import random_state
from freqrob.training.batch_norm import differentiate_twice
from freqrob.training.recipe import Recipe

LEAST_IMAGES = 2  # per batch: batch norm needs two values per channel even if the last feature maps are 1×1
ENOUGH = 2.0  # seconds of a step on the CPU; its batch is then large enough
GPUS = {"A100": 312e12, "H100 or H200": 989e12}  # peak bfloat16 flops per second of dense matrix products (NVIDIA)
GPU_SHARE = 0.3  # of the peak, assumed for training
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step.

    Attributes:
        seconds: time of a step at the recipe's batch size.
        peak_bytes: the largest memory that PyTorch allocated on the GPU during the measured steps; None on the CPU.
    """

    seconds: float
    peak_bytes: int | None


class _FlopCounter(TorchDispatchMode):
    """Counts as PyTorch's FlopCounterMode, which fails in ``torch.autograd.grad``."""

    total = 0

    def __torch_dispatch__(self, function: Any, _types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*arguments, **(options or {}), out_val=result)
        return result


class TrainingStep:
    """The training step of a recipe, as in the trainer, on one device; each call runs one step and waits for its end.

    The network is newly initialised. A PCA front end projects onto the first pixels, because there is no training set.

    Args:
        recipe: the recipe; its batch size and schedule are not used.
        batches: images (N, C, H, W) in [0, 1] and labels (N,), on the device.
        device: device of the network.
    """

    def __init__(
        self, recipe: Recipe, batches: Iterator[tuple[Tensor, Tensor]], device: torch.device | str = "cpu"
    ) -> None:
        about, self.batches, self.defense = DATASETS[recipe.dataset], batches, recipe.make_defense()
        network = create_network(recipe.name_parts.architecture, about.classes, about.channels)
        model = with_front_ends(network, recipe.front_ends)
        for front_end in model.front_ends:
            if isinstance(front_end, PCA):
                front_end.set_components(torch.zeros_like(front_end.mean), torch.eye(*front_end.components.shape))
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        if self.defense.double_backward:
            differentiate_twice(network)
        self.optimizer = recipe.make_optimizer(network)
        self.parts = recipe.make_parts(self.model, self.optimizer)
        self.dtype = _AUTOCAST.get(recipe.precision)

    def __call__(self) -> None:
        images, labels = next(self.batches)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.defense(self.model, images, labels, *self.parts)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)


@checked
def step_cost(recipe: Recipe, device: str = "cpu", batch_size: Count | None = None, steps: Count = 2) -> StepCost:
    """Measure the cost of a training step of a recipe on random images of its data set's shape.

    A step creates its batch, attacks it if the defence does, and updates the weights. The time is the shortest of
    ``steps`` steps, because the first one also loads code. Other processes on the machine make it longer. The time to
    balance images once before training is not included.

    Args:
        recipe: the recipe.
        device: ``"cpu"``, ``"cuda"`` or another one of PyTorch's.
        batch_size: images of a measured step, by default the recipe's. On the CPU it is an upper limit: batches grow
            from 2 images until a step takes two seconds, and that time is scaled to the recipe's batch size, so that
            measuring any preset takes seconds.
        steps: number of measured steps, at least 2.

    Returns:
        Seconds of a step of ``recipe.batch_size`` images, and on a GPU the peak memory at ``batch_size``.

    Raises:
        ValueError: no image, or fewer than two steps.

    Example:
        >>> from freqrob.training import Recipe
        >>> cost = step_cost(Recipe("standard_rn20"), batch_size=2)
        >>> cost.seconds > 0, cost.peak_bytes
        (True, None)
    """
    check_integers(2, steps=steps)
    on_gpu, most = torch.device(device).type == "cuda", max(batch_size or recipe.batch_size, LEAST_IMAGES)
    size = most if on_gpu else LEAST_IMAGES
    with random_state(0):
        while True:
            step = _step(recipe, size, device)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = min(repeat(step, number=1, repeat=steps))
            if size == most or seconds > ENOUGH:
                break
            size = min(most, 4 * size)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
    return StepCost(seconds * recipe.batch_size / size, peak)


def step_flops(recipe: Recipe) -> float:
    """Flops of a training step of ``recipe.batch_size`` images as in ``flops_of``, counted on two images."""
    with random_state(0):
        step = _step(recipe, LEAST_IMAGES, "cpu")
        return flops_of(step) * recipe.batch_size / LEAST_IMAGES


def flops_of(step: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products of one step, forward and backward."""
    with _FlopCounter() as counter:
        step()
    return counter.total


def training_steps(recipe: Recipe) -> float:
    """Steps of a whole training; NaN if the number of its data set's images is unknown."""
    return recipe.epochs * (DATASETS[recipe.dataset].train_images // recipe.batch_size) or nan


def _step(recipe: Recipe, batch_size: int, device: str) -> TrainingStep:
    """A step on random images, with the recipe's augmentation."""
    about, generator = DATASETS[recipe.dataset], torch.Generator().manual_seed(0)
    shape = (batch_size, about.channels, about.size, about.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(about.classes, (batch_size,), generator=generator)
    crop = None if recipe.crop == "resized" else recipe.crop  # the images have the size of the crop
    batches = Batches(
        ImageSet(images, labels, ()), batch_size, crop=crop, flip=recipe.flip and about.flip,
        transform=recipe.make_transform(), device=device,
    )  # fmt: skip
    return TrainingStep(recipe, batches.from_step(0), device)
