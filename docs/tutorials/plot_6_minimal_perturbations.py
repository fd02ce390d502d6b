"""
Minimal perturbations with Foolbox and their spectrum
=====================================================

How small a change of an image changes the class, and which frequencies does this change have? This tutorial searches
for the smallest perturbations with an attack of Foolbox, and measures their spectrum as Li et al. (PLoS Comput. Biol.
2023) do. It needs ``pip install 'freqrob[foolbox]'``.
"""

# %%
# The search
# ----------
#
# ``freqrob_foolbox.MinimalPerturbationSearch`` takes any attack of Foolbox that minimises. It attacks each image
# towards the class of another image, ``repeats`` times from different starts, and keeps the smallest perturbation. FMN
# with 100 steps is quick; Li et al. use Brendel–Bethge attacks with 1,000 steps on 1,000 images.

import os

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # Foolbox otherwise asks for a git program

import foolbox
import matplotlib.pyplot as plt
from freqrob_foolbox import MinimalPerturbationSearch, analyze_spectrum

import freqrob
from freqrob.data.samples import sample_images

samples = sample_images()
names = ["standard_rn20", "pgd_at_rn20"]
search = MinimalPerturbationSearch(foolbox.attacks.LInfFMNAttack(steps=100), repeats=1)
found = {name: search(freqrob.load_model(name), samples.images, samples.labels) for name in names}

# %%
# ``distances`` is the size of each perturbation, here in L∞, and ``success`` says where one was found. The search gives
# an upper bound: a smaller perturbation may exist. An image that the model already assigns to the target has distance
# 0.

for name, one in found.items():
    sizes = 255 * one.distances[one.success]
    print(f"{name:14} {one.success.sum()} of {len(one.success)} images, median {sizes.median():.1f}/255")

# %%
# The perturbations
# -----------------
#
# They are too small to be seen, so they are drawn in units of their own largest value.

images = samples.images.float() / 255
figure, axes = plt.subplots(3, 6, figsize=(9, 4.6), layout="constrained")
for ax, image in zip(axes[0], images, strict=False):
    ax.imshow(image.permute(1, 2, 0))
for row, (name, one) in zip(axes[1:], found.items(), strict=True):
    for ax, image, perturbed, distance in zip(row, images, one.perturbed, one.distances, strict=False):
        change = perturbed - image
        ax.imshow((0.5 + 0.5 * change / change.abs().max().clamp(min=1e-6)).permute(1, 2, 0))
        ax.set_title(f"{255 * distance:.1f}/255", fontsize=9)
    row[0].set_ylabel(name, fontsize=9)
axes[0, 0].set_ylabel("image", fontsize=9)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])

# %%
# Their spectrum
# --------------
#
# :func:`~freqrob.spectral.analyze_spectrum` averages the power of the perturbations. f\ :sub:`0.5` is the frequency
# within which half of the power lies; the shaded range is its bootstrap interval over the images. White noise has 0.396
# cycles/pixel.

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for number, (name, one) in enumerate(found.items()):
    spectrum = analyze_spectrum(one.perturbed[one.success], images[one.success])
    half, interval = spectrum.half_power_frequency, spectrum.half_power_interval
    print(f"{name:14} f_0.5 = {half:.3f} cycles/pixel, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}")
    ax.plot(spectrum.radii, spectrum.cumulative, marker=".", color=f"C{number}", label=f"{name}, f_0.5 = {half:.2f}")
    ax.axvspan(*interval, color=f"C{number}", alpha=0.15, linewidth=0)
ax.axhline(0.5, color="grey", linewidth=1)
ax.set(xlabel="frequency (cycles/pixel)", ylabel="share of the power within", ylim=(0, 1.02))
ax.legend()

# %%
# The perturbations of the network with adversarial training are larger and have lower frequencies. Twenty images are an
# example; the intervals show how uncertain f\ :sub:`0.5` still is.
#
# Without Foolbox
# ---------------
#
# :class:`freqrob.attacks.MinimalPerturbationSearch` does the same with freqrob's own Brendel–Bethge attack, and the
# diagnostic ``minimal_perturbation`` uses it: ``freqrob diagnose pgd_at_rn20 --only minimal_perturbation``. What the
# numbers can and cannot say: :doc:`/explanation/diagnostics`.
