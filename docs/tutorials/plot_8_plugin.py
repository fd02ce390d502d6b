"""
Write a plug-in
===============

A package of your own can add defences, diagnostics, attacks, data sets and more to freqrob. Each is **one file and one
line that registers it**; the command line and the report then find it. The files on this page are those of
``tests/example_plugin/`` in freqrob's repository, which the tests install and run. Copy the one that you need.
"""

# %%
# The package
# -----------
#
# ``pyproject.toml`` names each thing as an entry point, in the group of its kind. A package needs only the groups that
# it adds to:
#
# .. code-block:: toml
#
#    [project]
#    name = "my-package"
#    version = "1.0"
#
#    [project.entry-points."freqrob.defenses"]
#    label_smoothing = "example_plugin.defense:LabelSmoothing"
#
#    [project.entry-points."freqrob.diagnostics"]
#    brightness = "example_plugin.diagnostic"
#
#    [project.entry-points."freqrob.attacks"]
#    brighten = "example_plugin.attack:Brighten"
#
#    [project.entry-points."freqrob.datasets"]
#    two_colours = "example_plugin.dataset:two_colours"
#
# After ``pip install .`` the names are known. This tutorial imports the modules by hand instead, to show what each
# does; to run it, put ``tests/example_plugin`` into ``PYTHONPATH``.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import freqrob
from freqrob.data.samples import sample_images

samples = sample_images()
images, labels = samples.images, samples.labels
models = {name: freqrob.load_model(name) for name in ("standard_rn20", "pgd_at_rn20")}

# %%
# An attack
# ---------
#
# A frozen dataclass with a method ``run``, which returns images inside the ball. freqrob checks the result: images
# outside the ball count as failed attacks. ``indices`` numbers the images in the data set and ``seed`` is the seed; an
# attack that draws random numbers derives them from both, so that it is the same for any batch size.
#
# .. literalinclude:: ../../tests/example_plugin/example_plugin/attack.py

from example_plugin.attack import Brighten

results = freqrob.evaluate(
    models["pgd_at_rn20"], images, labels, protocols=["natural"], attacks=["clean", Brighten(eps=0.2), "pgd-10"]
)
for result in results:
    print(f"{result.attack.name:10} {result.accuracy:.0%} of {result.images}")

# %%
# On the command line: ``freqrob evaluate pgd_at_rn20 --attack brighten``.
#
# A data set
# ----------
#
# A function that returns uint8 images and labels, and a ``DatasetInfo``: number of classes, size, mean and standard
# deviation of each channel.
#
# .. literalinclude:: ../../tests/example_plugin/example_plugin/dataset.py

import example_plugin.dataset

from freqrob.data import load_dataset

colours = load_dataset("two_colours", "test")
figure, axes = plt.subplots(1, 8, figsize=(9, 1.4), layout="constrained")
for ax, (image, label) in zip(axes, colours, strict=False):
    ax.imshow(image.permute(1, 2, 0))
    ax.set(xticks=[], yticks=[], title=label)

# %%
# A defence
# ---------
#
# A frozen dataclass that returns the loss of a batch. ``adversarial`` says whether the defence attacks during training
# (then PGD-10 on validation images chooses the epoch) and ``double_backward`` whether it differentiates a gradient.
# Each field becomes a setting.
#
# .. literalinclude:: ../../tests/example_plugin/example_plugin/defense.py
#
# ``freqrob train label_smoothing_rn20`` trains with it; from Python, on the data set above:

import example_plugin.architecture
import example_plugin.defense

from freqrob.training import recipe_for, train

recipe = recipe_for(
    "label_smoothing_patches",
    "two_colours",
    epochs=3,
    batch_size=20,
    lr=0.05,
    precision="32-true",
    crop=None,
    defense={"smoothing": 0.2},
)
weights = train(recipe, model_dir=Path(tempfile.mkdtemp()), log=print)

# %%
# The architecture ``patches`` is the plug-in's, too:
#
# .. literalinclude:: ../../tests/example_plugin/example_plugin/architecture.py
#
# A diagnostic
# ------------
#
# Three parts in one file. A ``Measurement`` holds the result and knows how to save it; ``settings`` names the fields
# that have to be equal before two models are compared. A function measures, image by image with ``per_sample``, so that
# an interrupted run resumes. A ``Diagnostic`` ties them together: its presets, its columns in the report's table and
# its figure.
#
# .. literalinclude:: ../../tests/example_plugin/example_plugin/diagnostic.py

import example_plugin.diagnostic  # registers it

from freqrob.diagnostics import get_diagnostic, list_diagnostics

print(list_diagnostics())
measured = {
    name: freqrob.diagnose(model, images, labels, only=["brightness"])["brightness"] for name, model in models.items()
}
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
get_diagnostic("brightness").plot(measured, ax)
ax.legend()

# %%
# ``freqrob diagnose`` runs it with the others, ``freqrob diagnose --help`` lists its settings, and ``freqrob report``
# has a column and a figure of it, without another line of code.
#
# And the rest
# ------------
#
# Models, model sources and experiments work in the same way: see the table in :doc:`/contributing`. Test a plug-in as
# freqrob's tests do, by installing it and calling the commands.

assert torch.equal(labels, samples.labels)
