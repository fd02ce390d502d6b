"""The training loop: reads top to bottom, checkpoints every epoch, resumes where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from freqrob.attacks import classified, evaluating, pgd
from freqrob.data import Batches, ImageSet, balance, load_dataset
from freqrob.data.datasets import to_pixels
from freqrob.files import temporary_beside, write_csv, write_text
from freqrob.models import create_network
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.checkpoints import save
from freqrob.models.front_ends import CIFAR10_MEAN, CIFAR10_STD, with_front_ends
from freqrob.models.loading import checkpoint_path
from freqrob.provenance import commit, versions
from freqrob.spectral.bass import RandomBaSS
from freqrob.training.recipe import Recipe

Track = Callable[[Iterable, str, int], Iterable]
"""Wraps an iterable in a progress bar, given what it is and its length."""

FRONT_ENDS = [{"name": "normalize", "mean": list(CIFAR10_MEAN), "std": list(CIFAR10_STD)}]


def train(
    recipe: Recipe,
    data_dir: str | Path = "./data",
    model_dir: str | Path = "./models",
    *,
    download: bool = False,
    accelerator: str = "auto",
    track: Track = lambda items, _what, _count: items,
    log: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Train a recipe; go on where an earlier run of the same recipe stopped.

    ``model_dir/<dataset>/<threat>/<name>.safetensors`` with its card is the network of the best epoch by validation
    accuracy (under PGD-10 for defences that train against an attack), so that ``load_model(name, model_dir)`` finds
    it. Beside it, ``<name>/`` holds ``last.ckpt`` and a line for each epoch in ``metrics.jsonl`` and ``metrics.csv``.

    Args:
        recipe: what to train.
        data_dir, download: as for ``load_dataset``.
        model_dir: where models and runs are kept.
        accelerator: as Lightning Fabric names it.
        track: wraps iterables in a progress bar.
        log: receives a line of text for each epoch.

    Returns:
        The path of the weights.

    Raises:
        ValueError: ``model_dir`` holds a run of that name with another recipe, or a damaged checkpoint of it.
        FloatingPointError: the loss became NaN or infinite; the last epoch's checkpoint is intact.
        FileNotFoundError: no data, or the weights of a run that was trained are gone.
    """
    weights = checkpoint_path(recipe.name, model_dir, recipe.dataset, recipe.threat_model)
    run, made_by = weights.with_suffix(""), commit()
    fabric = Fabric(accelerator=accelerator, devices=1, precision=recipe.precision)
    fabric.seed_everything(recipe.seed, verbose=False)

    train_set = load_dataset(recipe.dataset, "train", data_dir, download=download)
    val_set = load_dataset(recipe.dataset, "val", data_dir, download=download)
    if recipe.parsed.bass == "bass":
        train_set, val_set = balance(train_set, reading=recipe.reading), balance(val_set, reading=recipe.reading)
    bassmix = RandomBaSS(recipe.gamma, recipe.reading) if recipe.parsed.bass == "bassmix" else None
    batches = Batches(train_set, recipe.batch_size, seed=recipe.seed, transform=bassmix, device=fabric.device)
    defense = recipe.make_defense()

    network = create_network(recipe.parsed.architecture, len(train_set.classes))
    model = with_front_ends(network, FRONT_ENDS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    model = fabric.strategy.setup_module(fabric.to_device(model))  # without Fabric's hooks: gradients are taken twice
    optimizer = fabric.setup_optimizers(optimizer)

    history = _resume(run, recipe, network, optimizer)
    if history and not weights.is_file():
        raise FileNotFoundError(f"{weights}: missing, though {run} was trained; remove {run} to train from the start")
    for epoch in range(len(history), recipe.epochs):
        torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # an epoch is the same, resumed or not
        losses = []
        steps = track(batches.epoch(epoch), f"epoch {epoch + 1}/{recipe.epochs}", len(batches))
        for step, (images, labels) in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch * len(batches) + step, recipe.epochs * len(batches))
            with fabric.autocast():
                loss = defense(model, images.contiguous(memory_format=torch.channels_last), labels)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        train_loss = torch.stack(losses).mean().item()
        if not isfinite(train_loss):
            raise FloatingPointError(f"the loss became {train_loss} in epoch {epoch + 1}; lower lr (now {recipe.lr})")
        with fabric.autocast(), evaluating(model) as network_in_eval:
            scores = _validate(network_in_eval, val_set, recipe, fabric.device, track)
        history.append({"epoch": epoch + 1, "loss": train_loss, **scores})
        if scores["selection"] >= max(line["selection"] for line in history):
            save(weights, network.state_dict(), _card(recipe, train_set, history[-1], made_by), dtype=torch.float16)
        _checkpoint(run, recipe, network, optimizer, history)
        log("  ".join(f"{k} {v:.4g}" for k, v in history[-1].items()))
    return weights


def _validate(
    model: nn.Module, val_set: ImageSet, recipe: Recipe, device: torch.device, track: Track
) -> dict[str, float]:
    """Clean accuracy of the whole validation split; ``selection`` is what the best epoch is chosen by."""
    adversarial = recipe.make_defense().adversarial
    count = recipe.selection_images or len(val_set)
    generator = torch.Generator().manual_seed(recipe.seed)
    clean = robust = 0
    for start in track(range(0, len(val_set), 250), "validation", len(val_set) // 250):
        images = to_pixels(val_set.images[start : start + 250].to(device))
        images = images.contiguous(memory_format=torch.channels_last)
        labels = val_set.labels[start : start + 250].to(device)
        with torch.no_grad():
            clean += classified(model(images), labels).sum().item()
        if adversarial and start < count:
            eps = recipe.make_defense().eps
            attacked = pgd(model, images, labels, eps=eps, step_size=eps / 4, steps=10, generator=generator)
            with torch.no_grad():
                robust += classified(model(attacked), labels)[: count - start].sum().item()
    scores = {"val_clean": clean / len(val_set)}
    if adversarial:
        scores["val_pgd10"] = robust / min(count, len(val_set))
    return {**scores, "selection": scores["val_pgd10" if adversarial else "val_clean"]}


def _card(recipe: Recipe, train_set: ImageSet, validation: dict[str, float], made_by: str) -> Card:
    return Card(
        name=recipe.name,
        architecture=recipe.parsed.architecture,
        dataset=recipe.dataset,
        threat_model=recipe.threat_model,
        num_classes=len(train_set.classes),
        front_ends=FRONT_ENDS,
        recipe={**recipe.as_dict(), "selected": validation},
        commit=made_by,
        versions=versions(),
    )


def _resume(run: Path, recipe: Recipe, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Load the last checkpoint of the run, if there is one; returns the history of its epochs."""
    path = run / "last.ckpt"
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        made_for = state["recipe"]
    except (RuntimeError, EOFError, UnpicklingError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt; remove {run} to train from the start") from error
    if made_for != recipe.as_dict():
        raise ValueError(f"recipe: {run} holds a run with another recipe; choose another model_dir or remove it")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def _checkpoint(
    run: Path, recipe: Recipe, network: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
) -> None:
    """Write what resuming needs, and the curves, each to a temporary name first."""
    state = {
        "recipe": recipe.as_dict(),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
    }
    write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
    write_csv(run / "metrics.csv", history, list(history[0]))
    with temporary_beside(run / "last.ckpt") as new:
        torch.save(state, new)
        new.replace(run / "last.ckpt")
