"""
What BaSS does to an image
==========================

Balance Spectrum Sampling (Lin et al., NeurIPS 2023) multiplies each ring of an image's spectrum by a weight, so that
the power falls less steeply with frequency. This tutorial draws the images, their spectra and the weights.
"""

# %%
# Before and after
# ----------------
#
# :func:`freqrob.bass` takes uint8 images, or floats in [0, 1], and returns images of the same shape and type. Nothing
# is random: despite "sampling" in its name, BaSS re-weights.

import matplotlib.pyplot as plt
import torch

import freqrob
from freqrob.data.samples import sample_images

images = sample_images().images  # (20, 3, 32, 32) uint8
amplitude = freqrob.bass(images)
power = freqrob.bass(images, weighting="power")

figure, axes = plt.subplots(3, 6, figsize=(9, 4.6), layout="constrained")
for row, (name, shown) in zip(axes, {"natural": images, "amplitude": amplitude, "power": power}.items(), strict=True):
    for ax, image in zip(row, shown, strict=False):
        ax.imshow(image.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)

# %%
# Edges and textures become stronger, smooth regions lose contrast. ``weighting="amplitude"`` (default) follows the
# authors' code, ``"power"`` follows their equations.
#
# The profile
# -----------
#
# :func:`freqrob.radial_power` sums the power over each ring. The first ring is DC, which BaSS leaves unchanged.
# :func:`~freqrob.spectral.longtail.fit_power_law` fits the mean power of a coefficient by f\ :sup:`−α`.

from freqrob.spectral import RingMap, mean_power
from freqrob.spectral.longtail import fit_power_law, split

radii = RingMap.of(images).radii
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, shown in {"natural": images, "amplitude": amplitude, "power": power}.items():
    alpha, boundary = fit_power_law(shown).alpha, split(shown).boundary
    print(f"{name}: α = {alpha:.2f}; 80 % of the power lies within ring {boundary} of {len(radii) - 1}")
    ax.loglog(radii[1:], mean_power(shown)[1:], label=f"{name}, α = {alpha:.2f}")
ax.axvline(0.5, color="grey", linewidth=1)
ax.set(xlabel="frequency (cycles/pixel)", ylabel="mean power of a coefficient")
ax.set_xticks([0.03, 0.1, 0.3, 0.5], ["0.03", "0.1", "0.3", "0.5"], minor=False)
ax.xaxis.set_minor_locator(plt.NullLocator())
ax.legend()
# %%
# The grey line is Nyquist along an axis. The rings beyond it are in the corners of the spectrum; the last one holds one
# coefficient and is unchanged, too.
#
# The weights
# -----------
#
# With a\ :sub:`i` the mean amplitude on ring i, the weight is the ring's share of the logarithms over its share of the
# amplitudes. DC and the last ring keep weight 1. For the first channel of one image:

from freqrob.spectral import ring_filter, ring_sum

channel = images[1, 0].double()
rings = RingMap.of(channel)
a = ring_sum(channel, rings, of="amplitude") / rings.counts
between = slice(1, rings.rings - 1)
weights = torch.ones(rings.rings, dtype=torch.float64)
weights[between] = (a.log()[between] / a.log()[between].sum()) / (a[between] / a[between].sum())

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.semilogy(radii, weights, marker=".")
ax.axhline(1, color="grey", linewidth=1)
ax.set(xlabel="frequency (cycles/pixel)", ylabel="weight")

# %%
# Filtered with these weights and clipped, the channel is what :func:`freqrob.bass` returns:

by_hand = ring_filter(channel, weights, rings).clamp(0, 255)
torch.testing.assert_close(by_hand, 255 * freqrob.bass(channel / 255))

# %%
# BaSS applied twice
# ------------------
#
# BaSS is not a projection: balancing a balanced image changes it again. An accuracy therefore always says whether the
# images were balanced, and where: see :doc:`/explanation/protocols`.

twice = freqrob.bass(amplitude)
print(
    f"mean change of a pixel, in grey levels: once {(amplitude.float() - images.float()).abs().mean():.1f}, "
    f"once more {(twice.float() - amplitude.float()).abs().mean():.1f}"
)
assert not torch.equal(twice, amplitude)
