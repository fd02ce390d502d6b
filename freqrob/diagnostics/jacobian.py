"""Spectrum of the Jacobian, the gradient of the loss with respect to the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks import input_gradient
from freqrob.data.datasets import to_pixels
from freqrob.data.streams import Images
from freqrob.diagnostics.drawing import Picture, Scale, Section, draw_map, logarithmic, picture_of_maps, shared_limits
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import per_batch
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.models.state import measuring
from freqrob.runtime.parameters import Count, checked
from freqrob.runtime.progress import Progress, no_progress
from freqrob.spectral.jacobian import log_b_low
from freqrob.spectral.reference import rfft2

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


@dataclass(frozen=True)
class JacobianSpectrum(Measurement):
    """The mean spectrum of a model's input gradients.

    Attributes:
        amplitude: (H, W//2+1) mean |rfft2| over images and channels, DC at [0, 0].
        log_b_low: its ln B_low; larger if low frequencies dominate; 3.53 for white noise at 32×32; NaN if all gradients
            are zero.
        batch: batch size over which the loss is averaged.
        images: number of images.
    """

    kind = "jacobian"
    settings = ("images", "batch")

    amplitude: Annotated[Tensor, Quantity("height columns", unit="mean loss of a batch per pixel of [0, 1]")]
    log_b_low: float
    batch: int
    images: int


@checked
def jacobian_spectrum(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    batch: Count = 128,
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> JacobianSpectrum:
    """Measure the mean over images and channels of |rfft2(∇ₓ CE)|, with CE averaged over a batch.

    Args:
        batch: batch size by which each image's gradient is divided; JaFR's 128. The scale of the spectrum depends on
            it, and so does ln B_low where its offset of 1e-5 matters.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``.

    Raises:
        ValueError: a ``batch`` below 1, or invalid images or labels.

    Source: Chan et al., IJCAI 2022, the Jacobian's Fourier spectrum and B_low; mean-reduced loss as in its code.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> jacobian_spectrum(model, samples.images, samples.labels).amplitude.shape
    torch.Size([32, 17])
    """

    def amplitudes(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        gradient = input_gradient(model, to_pixels(images[indices]).to(device), labels[indices].to(device))
        return {"amplitude": rfft2(gradient / batch).abs().mean(1).double().sum(0)}

    key = {"diagnostic": "jacobian", "batch": batch}
    sums = per_batch(
        amplitudes, model, images, labels, key=key, quantity="Jacobian", batch_size=batch_size,
        cache=cache, cache_key=cache_key, progress=progress,
    )  # fmt: skip
    amplitude = (sums["amplitude"].sum(0) / len(images)).float()
    return JacobianSpectrum(amplitude, log_b_low(amplitude).item() if amplitude.any() else nan, batch, len(images))


@checked
def jacobian_pictures(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """∇ₓ CE as pictures in [0, 1], (N, C, H, W) on the CPU; a gradient of zero is ½.

    Each image's gradient is divided by twice its largest absolute value, because gradients differ by orders of
    magnitude between models. Raises as ``input_gradient``.

    Source: Chan et al., IJCAI 2022, Table 2, which does not say how its pictures are scaled.
    """
    with measuring(model) as subject:
        gradient = input_gradient(subject, to_pixels(images), labels).cpu()
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    return 0.5 + gradient / (2 * torch.where(largest > 0, largest, 1))


def plot_picture(axes: Axes, picture: Tensor) -> AxesImage:
    """Draw an image or a picture of a Jacobian, (C, H, W) in [0, 1], without axes."""
    axes.set_axis_off()
    pixels = picture.permute(1, 2, 0) if len(picture) == 3 else picture[0]
    return axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")


def plot_jacobian(axes: Axes, measured: JacobianSpectrum, limits: tuple[float, float] | None = None) -> AxesImage:
    """Draw the Jacobian's mean spectrum divided by its mean, DC in the middle, on a logarithmic scale.

    Returns the image, for a colour bar; ``shared_limits`` makes models comparable. Source: Chan et al., IJCAI 2022.
    """
    spectrum_map = jacobian_map(measured)
    return draw_map(axes, spectrum_map, logarithmic(limits or shared_limits([spectrum_map]), clip=True))


def jacobian_map(measured: JacobianSpectrum) -> Tensor:
    """The mean |DFT| of the Jacobian in multiples of its mean (H, W), DC at (H//2, W//2)."""
    height, columns = measured.amplitude.shape
    spectrum_map = shifted_map(measured.amplitude, height if height // 2 + 1 == columns else 2 * (columns - 1))
    return spectrum_map / torch.where(spectrum_map.mean() > 0, spectrum_map.mean(), 1)


def shifted_map(half: Tensor, width: int) -> Tensor:
    """|rfft2| (H, W//2+1) as the whole map (H, W) with DC at (H//2, W//2), through |F(−k)| = |F(k)|."""
    mirrored_rows = -torch.arange(half.shape[0]) % half.shape[0]
    mirrored = half[mirrored_rows, 1 : (width + 1) // 2].flip(-1)
    return torch.fft.fftshift(torch.cat([half, mirrored], -1))


@register_diagnostic("jacobian")
class Jacobian(Diagnostic):
    """``jacobian_spectrum`` as a diagnostic."""

    measure = staticmethod(jacobian_spectrum)
    measurement = JacobianSpectrum
    help = "spectrum of the input gradient, and ln B_low (Chan et al.)."
    presets = {"quick": {"images": 500}, "full": {"images": 0}}
    needs_gradients = True
    streams = True
    order = 10
    columns = (
        Column(
            "ln B_low", lambda measured: measured.log_b_low, title=Markup("ln B<sub>low</sub>"), key="log_b_low",
            help="ln B_low of the input gradient’s mean spectrum (Chan et al.); 3.53 for white noise at 32×32. It "
            "depends on the scale of small gradients: compare only equal batch sizes.",
            hint="higher if low frequencies dominate", none="all gradients are zero, or some are not finite",
            order=10,
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return 3

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models = {name: measured for name, measured in measurements["jacobian"].items() if isfinite(measured.log_b_low)}
        if models:
            limits = shared_limits([jacobian_map(measured) for measured in models.values()])
            yield picture_of_maps(
                "jacobian", "Spectra of input gradients as maps.", models, partial(plot_jacobian, limits=limits),
                Scale(logarithmic(limits), "mean |DFT| of the gradient ÷ its mean over the map"),
                section=Section(
                    "jacobian", "Spectra of the input gradient", "spectra of input gradients", 10
                ),
                caption=measurements.caption(
                    "jacobian",
                    "Mean amplitude of the Fourier transform of the loss’s gradient with respect to the image, DC in "
                    "the middle, each map divided by its mean, all on one scale; {images} images of {source}, "
                    "loss over batches of {batch} (Chan et al., IJCAI 2022). Adversarially trained models are said to "
                    "be darker towards the edge.",
                ),
            )  # fmt: skip
