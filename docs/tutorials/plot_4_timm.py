"""
Diagnose a timm model on your photographs
=========================================

This tutorial reads a folder of photographs, puts a network of timm behind its normalisation, and measures which
frequencies the photographs have and which frequencies the network is sensitive to. It needs ``pip install timm``.
"""

# %%
# The photographs
# ---------------
#
# Any folder will do. This one is written by the tutorial, so that nothing is downloaded: sixteen parts, each of 224 ×
# 224 pixels, of a photograph that Matplotlib includes.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn
from torchvision.io import decode_image
from torchvision.transforms import v2

import freqrob

folder = Path(tempfile.mkdtemp())
with get_sample_data("grace_hopper.jpg") as file:
    photograph = Image.open(file).convert("RGB")
for number in range(16):
    left, top = 96 * (number % 4), 125 * (number // 4)
    photograph.crop((left, top, left + 224, top + 224)).save(folder / f"{number:02}.png")

# %%
# Read your own folder with the same lines. freqrob takes images as one tensor of shape (N, 3, H, W), with uint8 pixels
# or floats in [0, 1]. Crop photographs to one size without shrinking them more than the model's own preprocessing does:
# shrinking removes the highest frequencies.

crop = v2.CenterCrop(224)
images = torch.stack([crop(decode_image(path, mode="RGB")) for path in sorted(folder.glob("*.png"))])
print(images.shape, images.dtype)

figure, axes = plt.subplots(1, 6, figsize=(9, 1.8), layout="constrained")
for ax, image in zip(axes, images[::3], strict=True):
    ax.imshow(image.permute(1, 2, 0))
    ax.set(xticks=[], yticks=[])

# %%
# The spectrum of the photographs
# -------------------------------
#
# :func:`freqrob.diagnostics.spectrum` measures the mean power of each ring and fits the power law f\ :sup:`−α`. The
# dashed line is the radius that holds 80 % of the power.

from freqrob.diagnostics import spectrum
from freqrob.report.plots import plot_power

measured = spectrum(images)
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
plot_power(ax, {f"16 photographs, α = {measured.alpha:.2f}": measured})
ax.legend()

# %%
# The networks
# ------------
#
# A network of timm expects normalised pixels, and freqrob's models take pixels in [0, 1]. So put the normalisation in
# front of the network. timm knows its mean and standard deviation.
#
# The manual is built without a network connection, so these networks are **randomly initialised**: they have never seen
# an image. What follows shows how the measurement is made. It says something about the two architectures and nothing
# about trained models. On your machine, write ``pretrained=True``.

import timm

from freqrob.models.front_ends import Normalize


def open_timm(name: str, pretrained: bool = False) -> nn.Module:
    """A network of timm on pixels in [0, 1]."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=pretrained)
    settings = timm.data.resolve_model_data_config(network)
    return nn.Sequential(Normalize(settings["mean"], settings["std"]), network).eval()


models = {name: open_timm(name) for name in ["resnet18", "vit_tiny_patch16_224"]}

# %%
# Labels
# ------
#
# The diagnostics differentiate the loss, so they need labels. If your photographs have none, use the model's
# predictions. The gradient then shows which frequencies change the model's own prediction.

with torch.no_grad():
    labels = {name: model(images / 255).argmax(1) for name, model in models.items()}

# %%
# Which frequencies the networks are sensitive to
# -----------------------------------------------
#
# The maps show the mean spectrum of the input gradient, with DC in the middle.

from freqrob.diagnostics import jacobian_spectrum
from freqrob.diagnostics.jacobian import plot_jacobian

spectra = {name: jacobian_spectrum(model, images, labels[name], batch_size=4) for name, model in models.items()}
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, (name, one) in zip(axes, spectra.items(), strict=True):
    mappable = plot_jacobian(ax, one, limits=(0.1, 10))
    ax.set_title(f"{name}, randomly initialised\nln B_low = {one.log_b_low:.1f}", fontsize=10)
figure.colorbar(mappable, ax=axes, label="amplitude ÷ mean")

# %%
# The maps show the architectures: the first layer of a ResNet takes every second pixel, and a vision transformer cuts
# the image into patches of 16 × 16 pixels. Compare ln B\ :sub:`low` only between images of the same size.
#
# Everything else
# ---------------
#
# :func:`freqrob.diagnose` runs several diagnostics and writes the folder that ``freqrob report`` reads. Some need
# labels of at least two classes, so they need trained models or labelled photographs.

out = folder / "diagnosis" / "resnet18"
found = freqrob.diagnose(models["resnet18"], images, labels["resnet18"], only=["jacobian"], out=out, batch_size=4)
print(sorted(path.name for path in out.iterdir()))

# %%
# Labelled photographs
# --------------------
#
# :func:`freqrob.data.load_photographs` reads a folder with a sub-folder for each class, applies the model's own
# preprocessing, and keeps only a batch in memory. On the command line, ``timm:NAME`` opens a pretrained network with
# its normalisation: ``freqrob diagnose timm:resnet18.a1_in1k --dataset folder --data photographs/``.
