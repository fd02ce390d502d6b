"""
Which frequencies a model is sensitive to
=========================================

Three of freqrob's diagnostics ask this in different ways: where the input gradient has its power, which half of a
hybrid image a model recognises, and how much it recognises of filtered images. This tutorial draws them for a network
with standard training, one with adversarial training and one with adversarial training on balanced images.
"""

# %%
# The models are shipped; they see pixels in [0, 1].

import matplotlib.pyplot as plt

import freqrob
from freqrob.data.samples import sample_images

samples = sample_images()
images, labels = samples.images, samples.labels
names = ["standard_rn20", "pgd_at_rn20", "bass_pgd_at_rn20"]
models = {name: freqrob.load_model(name) for name in names}

# %%
# The input gradient
# ------------------
#
# :func:`freqrob.diagnostics.jacobian_spectrum` averages the spectrum of the loss's gradient over images and channels
# (Chan et al., IJCAI 2022). DC is in the middle of each map. ln B\ :sub:`low` is large if low frequencies dominate; it
# is 3.53 for white noise.

from freqrob.diagnostics import jacobian_spectrum
from freqrob.diagnostics.jacobian import plot_jacobian

spectra = {name: jacobian_spectrum(model, images, labels) for name, model in models.items()}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (name, measured) in zip(axes, spectra.items(), strict=True):
    mappable = plot_jacobian(ax, measured, limits=(0.1, 10))
    ax.set_title(f"{name}\nln B_low = {measured.log_b_low:.1f}", fontsize=10)
figure.colorbar(mappable, ax=axes, label="amplitude ÷ mean")
# %%
# The gradient is the *first* step of an attack, taken at the natural image. It does not say what the network uses to
# recognise an image: to see that, images have to be changed.
#
# Hybrid images
# -------------
#
# A hybrid image has the low frequencies of one image and the high frequencies of another, of a different class (Li et
# al., PLoS Comput. Biol. 2023). Where the curve crosses zero, the model starts to prefer the low-frequency image: at
# f_rev. A smaller f_rev means that fewer low frequencies suffice.

from freqrob.diagnostics import hybrid_reliance
from freqrob.diagnostics.hybrid import plot_hybrid

hybrid = {name: hybrid_reliance(model, images, labels, seeds=(0, 1)) for name, model in models.items()}
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
plot_hybrid(ax, hybrid)
ax.legend()
# %%
# Filtered images
# ---------------
#
# :func:`freqrob.diagnostics.band_accuracy` classifies low-passed, high-passed and band-passed images. Here, only the
# frequencies below a radius are kept.

from freqrob.diagnostics import band_accuracy
from freqrob.diagnostics.band_accuracy import plot_bands

bands = {name: band_accuracy(model, images, labels, steps=1) for name, model in models.items()}
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
plot_bands(ax, bands, kind="low")
ax.legend()
# %%
# The short lines on the right are the accuracies on unfiltered images. A network that was trained on balanced images is
# inaccurate on natural ones, filtered or not.
#
# All diagnostics
# ---------------
#
# :func:`freqrob.diagnose` runs every diagnostic, and ``freqrob diagnose`` with ``freqrob report`` make a page of them.
# What each can and cannot say: :doc:`/explanation/diagnostics`.

measured = freqrob.diagnose(models["pgd_at_rn20"], images, labels, only=["jacobian", "sensitivity"])
print({name: f"{type(one).__name__} of {one.images} images" for name, one in measured.items()})
