"""
Train a defence and read its curves
===================================

This tutorial trains a small network twice, without a defence and by adversarial training, and explains the files and
curves that a run writes. It only shows how training works: 700 drawn images and ten epochs take seconds and give no
meaningful result. For a real run, see the last section.
"""

# %%
# A data set
# ----------
#
# ``freqrob train`` knows CIFAR-10, CIFAR-100, SVHN and others. To avoid a download, this tutorial registers its own
# data set: discs, squares and crosses that are brighter than a noisy background. A data set is a function that
# returns uint8 images and labels for the parts ``"train"`` and ``"test"``.

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import freqrob
from freqrob.data import DatasetInfo, ImageSet, load_dataset, register_dataset

CLASSES = ("disc", "square", "cross")


@register_dataset("shapes", DatasetInfo(3, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
def shapes(data_dir: Path, part: str, download: bool) -> ImageSet:
    """Draw the training or the test images."""
    count, seed = (750, 0) if part == "train" else (200, 1)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    background = 0.3 + 0.3 * torch.rand(count, 3, 1, 1, generator=generator)
    colour = background + 0.25 + 0.1 * torch.rand(count, 3, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    centre = 5 + 6 * torch.rand(2, count, 1, 1, generator=generator)
    y, x = (rows - centre[0]).abs(), (columns - centre[1]).abs()
    masks = torch.stack([x**2 + y**2 < 18, torch.maximum(x, y) < 3.8, (torch.minimum(x, y) < 1.5) & (x + y < 7)], 1)
    mask = masks[torch.arange(count), labels][:, None]
    drawn = torch.where(mask, colour, background) + 0.05 * torch.randn(count, 3, 16, 16, generator=generator)
    return ImageSet((255 * drawn.clamp(0, 1)).to(torch.uint8), labels, CLASSES)


test = load_dataset("shapes", "test")
figure, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
for ax, (image, label) in zip(axes, test, strict=False):
    ax.imshow(image.permute(1, 2, 0))
    ax.set(xticks=[], yticks=[], title=CLASSES[label])

# %%
# An architecture
# ---------------
#
# ``freqrob.models.list_architectures()`` lists the architectures that freqrob knows. A smaller one keeps this tutorial
# short; it is one function and one line that registers it.

from torch import nn

from freqrob.models import register_architecture


@register_architecture("small")
def small(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Three convolutions."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 4 * 4, num_classes),
    )  # fmt: skip


# %%
# The recipes
# -----------
#
# A recipe holds everything that determines a training run. Its name says which defence and which architecture:
# ``pgd_at_small`` is adversarial training with PGD of the architecture ``small``. ``recipe_for`` starts from the
# settings of a paper if there is one; here they are made smaller. ``precision="32-true"`` is float32.

from freqrob.training import recipe_for, train

common = {"dataset": "shapes", "epochs": 10, "batch_size": 50, "lr": 0.05, "schedule": "triangle", "crop": None}
standard = recipe_for("standard_small", precision="32-true", **common)
adversarial = recipe_for(
    "pgd_at_small", precision="32-true", **common, defense={"steps": 3, "eps": 8 / 255, "step_size": 4 / 255}
)
print(adversarial.make_defense())

# %%
# Train
# -----
#
# A fixed part of the training images, here 75 of 750, is kept aside for validation. After each epoch the network is
# validated on it, and the best epoch is kept. A run that is interrupted resumes when it is called again.

models = Path(tempfile.mkdtemp())
for recipe in (standard, adversarial):
    train(recipe, model_dir=models, log=print)

# %%
# The files of a run
# ------------------
#
# A run writes the weights, with a card that says how they were trained, and a folder with the metrics of each
# epoch, their curves and the checkpoint from which a run resumes.

for path in sorted(models.rglob("*")):
    if path.is_file():
        print(path.relative_to(models))
card = json.loads((models / "shapes/Linf/pgd_at_small.json").read_text())
print(card["recipe"]["selected"])

# %%
# The curves
# ----------
#
# ``curves.png`` shows one run. To compare runs, read their ``metrics.jsonl``, one line for each epoch.

figure, (loss, clean, attacked) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for name in ("standard_small", "pgd_at_small"):
    lines = (models / "shapes/Linf" / name / "metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    epochs = [line["epoch"] for line in history]
    loss.plot(epochs, [line["loss"] for line in history], marker=".", label=name)
    clean.plot(epochs, [line["val_clean"] for line in history], marker=".")
    if "val_pgd10" in history[0]:
        attacked.plot(epochs, [line["val_pgd10"] for line in history], marker=".", color="C1")
loss.set(xlabel="epoch", ylabel="training loss")
clean.set(xlabel="epoch", ylabel="validation accuracy, clean", ylim=(0, 1.02))
attacked.set(xlabel="epoch", ylabel="validation accuracy, PGD-10", ylim=(0, 1.02))
loss.legend()

# %%
# How to read them:
#
# - The **training losses** of two defences are not comparable: one is the loss on natural images, the other on
#   adversarial examples.
# - If the **loss does not fall** at all, the learning rate is too high or too low. A loss that becomes NaN stops the
#   run, and the message says where the batch was saved.
# - The **clean accuracy** of adversarial training rises more slowly and usually ends lower.
# - The accuracy **under PGD-10** is measured only for defences that train against an attack; it chooses the epoch. If
#   it falls while the training loss still falls, the network overfits to its adversarial examples (Rice et al., ICML
#   2020).
# - If the accuracy under PGD-10 **drops to zero within an epoch** in training with FGSM, that is catastrophic
#   overfitting (Wong et al., ICLR 2020).
#
# Evaluate on the test images
# ---------------------------
#
# Only now the test images are used. The validation numbers above chose the epoch, so they are too good.

for name in ("standard_small", "pgd_at_small"):
    model = freqrob.load_model(name, models, "shapes")
    results = freqrob.evaluate(model, test.images, test.labels, protocols=["natural"], attacks=["clean", "pgd-20"])
    print(name, ", ".join(f"{result.attack.name}: {result.accuracy:.0%} of {result.images}" for result in results))

# %%
# A real run
# ----------
#
# ``freqrob train pgd_at_rn20 --data ./data --download`` trains on CIFAR-10 with the recipe's own settings, and shows
# the time that is left. :doc:`/how-to/clusters` has several GPUs and SLURM, and ``freqrob recipes`` lists all recipes.
