"""The mean power of natural images, its power law and the 80/20 boundary."""

import matplotlib.pyplot as plt

from freqrob.data.samples import sample_images
from freqrob.spectral import RingMap, mean_power, power_profile
from freqrob.spectral.longtail import fit_power_law, split

images = sample_images().images
rings, law, boundary = RingMap.of(images), fit_power_law(images), split(images).boundary
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.loglog(rings.radii[1:], mean_power(images)[1:], marker=".", label="20 images")
left.loglog(rings.radii[1:16], law.scale * rings.radii[1:16] ** -law.alpha, label=f"f^−{law.alpha:.2f}")
left.axvline(0.5, color="grey", linewidth=1)
left.set(xlabel="frequency (cycles/pixel)", ylabel="mean power of a coefficient")
left.set_xticks([0.03, 0.1, 0.3, 0.5], ["0.03", "0.1", "0.3", "0.5"])
left.xaxis.set_minor_locator(plt.NullLocator())
left.legend()
right.plot(rings.radii, power_profile(images).cumsum(0), marker=".")
right.axhline(0.8, color="grey", linewidth=1)
right.axvline(rings.radii[boundary], color="grey", linewidth=1)
right.set(xlabel="frequency (cycles/pixel)", ylabel="share of the power within", ylim=(0, 1.02))
