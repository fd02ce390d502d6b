"""Waves of some frequencies, and where each lies in the spectrum."""

import matplotlib.pyplot as plt
import torch

from freqrob.spectral.reference import rfft2

FREQUENCIES = {"(0, 1)/32": (0, 1), "(4, 0)/32": (4, 0), "(3, 5)/32": (3, 5), "(0, 16)/32: Nyquist": (0, 16)}
row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
for (title, (ky, kx)), wave_axes, spectrum_axes in zip(FREQUENCIES.items(), axes[0], axes[1], strict=True):
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * (ky * row + kx * column) / 32)
    wave_axes.imshow(wave, cmap="gray", vmin=0, vmax=1)
    wave_axes.set_title(title, fontsize=10)
    amplitude = rfft2(wave).abs()
    spectrum_axes.imshow((amplitude > 1e-3 * amplitude.max()).float(), cmap="magma")
    spectrum_axes.set(xlabel="kx")
    wave_axes.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("image")
axes[1, 0].set_ylabel("ky")
