"""
Evaluate your own model
=======================

Any ``nn.Module`` that takes pixels in [0, 1] and returns logits can be measured. This tutorial builds one, evaluates it
under the three protocols beside a shipped model, and draws the robust accuracy against the radius of the ball.
"""

# %%
# Your own model
# --------------
#
# Normalisation belongs inside the model, so that attacks see pixels. Here the network is a shipped one with your own
# blur before it; in practice it is the network that you have trained.

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import freqrob
from freqrob.data.samples import sample_images


class Smoothed(nn.Module):
    """A network on images that are averaged over 3 × 3 pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.mean(images))


samples = sample_images()
images, labels = samples.images, samples.labels
mine = Smoothed(freqrob.load_model("standard_rn20"))
shipped = freqrob.load_model("pgd_at_rn20")

# %%
# Evaluate
# --------
#
# :func:`freqrob.evaluate` returns a result for each protocol and attack. ``correct`` is the mask of the images that
# stay correctly classified, so results of two models can be compared image by image.

attacks = ["clean", "fgsm", "pgd-10"]
results = {
    name: freqrob.evaluate(model, images, labels, attacks=attacks)
    for name, model in {"mine": mine, "pgd_at_rn20": shipped}.items()
}
for name, measured in results.items():
    for result in measured:
        print(f"{name:12} {result.protocol:13} {result.attack.name:8} {result.accuracy:4.0%} of {result.images}")

# %%
# A number without its protocol, attack, ε, number of images and seed says little; a result has all of them:

print(results["mine"][2].as_dict())

# %%
# Against the radius of the ball
# ------------------------------
#
# Attacks are dataclasses; ``parse_attack`` is a shorthand. A robust accuracy that does not fall to zero for a large ε
# would be a sign of a failing attack, not of a robust model.

from freqrob.attacks import PGD

radii = [1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255]
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, model in {"mine": mine, "pgd_at_rn20": shipped}.items():
    measured = freqrob.evaluate(
        model, images, labels, protocols=["natural"], attacks=[PGD(10, eps=eps) for eps in radii]
    )
    ax.plot([255 * eps for eps in radii], [result.accuracy for result in measured], marker="o", label=name)
ax.set(xscale="log", xlabel="ε × 255, L∞", ylabel="accuracy under PGD-10", ylim=(0, 1))
ax.legend()
# %%
# Is it the gradient that fails?
# ------------------------------
#
# A fixed front end can mislead an attack through its gradient. For models whose front ends freqrob knows,
# ``freqrob evaluate`` checks this with attacks that do not use that gradient. For your own front ends, first compare a
# black-box attack such as ``square`` with PGD: it must not be stronger.
#
# On the command line
# -------------------
#
# Put a function that returns the model in a module, and name it: ``freqrob evaluate mine.nets:smoothed``. See
# :doc:`/how-to/own-checkpoints`.

assert torch.equal(labels, samples.labels)
