"""The rings of a 32 × 32 spectrum, with DC in the middle and Nyquist drawn."""

import matplotlib.pyplot as plt
import numpy as np

from freqrob.spectral import RingMap

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, size in zip(axes, (8, 32), strict=True):
    rings = RingMap(size, size)
    edges = (np.arange(size + 1) - size // 2 - 0.5) / size
    drawn = ax.pcolormesh(edges, edges, rings.shifted, cmap="viridis")
    ax.add_patch(plt.Circle((0, 0), 0.5, fill=False, color="white", linestyle="--"))
    if size == 8:
        for y in range(size):
            for x in range(size):
                place = (np.array([x, y]) - size // 2) / size
                ax.text(*place, int(rings.shifted[y, x]), ha="center", va="center", color="white", fontsize=9)
    ax.set(title=f"{size} × {size} pixels: {rings.rings} rings", aspect="equal")
    ax.set(xlabel="kx / W (cycles/pixel)", ylabel="ky / H (cycles/pixel)")
    figure.colorbar(drawn, ax=ax, label="ring")
