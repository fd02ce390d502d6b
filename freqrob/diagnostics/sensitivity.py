"""Sensitivity: the input gradient in the Fourier basis, largest coefficients first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from freqrob.attacks import input_gradient
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.streams import Images, ImageStream, in_memory
from freqrob.diagnostics.drawing import FREQUENCY, GREY, Panel, Picture, Section, Styles, plain_ticks, styled
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import per_batch
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, number, register_diagnostic
from freqrob.models.sources import as_module
from freqrob.models.state import default_batch_size
from freqrob.runtime.parameters import Count, checked, fits
from freqrob.runtime.progress import Progress, no_progress
from freqrob.spectral.longtail import split
from freqrob.spectral.ops import ring_sum
from freqrob.spectral.reference import rfft2
from freqrob.spectral.rings import RingMap, frequency_radius

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANKS = (0, 9, 99)
OF_STREAM = 100  # images whose spectrum gives the boundary


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """Spectrum of the loss gradient with respect to an image.

    Attributes:
        magnitude: (K,) mean over images of the coefficients' magnitudes by rank, largest first; K = H·(W//2+1).
        ranks: ranks whose frequencies are in ``radii``; 0 is the largest coefficient.
        radii: (N, ranks) frequency of each image's coefficient of that rank.
        boundary: lower edge of the high frequencies.
        high_share: (N,) share of the power of each gradient (averaged over channels) at or above ``boundary``; NaN if
            the gradient is zero.
        images: N.
    """

    kind = "sensitivity"
    settings = ("images", "boundary")
    words = {"boundary": "HFC ≥ {:.4g} cycles/pixel".format}

    magnitude: Annotated[Tensor, Quantity("coefficients", unit="loss per pixel of [0, 1]")]
    ranks: list[int]
    radii: Annotated[Tensor, Quantity("images ranks", unit="cycles/pixel")]
    boundary: Annotated[float, Quantity(unit="cycles/pixel")]
    high_share: Annotated[Tensor, Quantity("images")]
    images: int

    @property
    def mean_high_share(self) -> float:
        """Mean of ``high_share`` over the images with a nonzero gradient; NaN if there is none."""
        return self.high_share.nanmean().item()


@checked
def sensitivity(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    boundary_ring: int | None = None,
    ranks: Sequence[int] | None = None,
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> Sensitivity:
    """Project each image's input gradient, averaged over channels, on the Fourier basis; sort by magnitude.

    Args:
        boundary_ring: the first ring of the high frequencies. By default 5 at 32×32, where the paper draws r = 4.98 for
            CIFAR-10; at other sizes one more than ``split(images).boundary``, or the last ring; for a stream, of its
            first 100 images.
        ranks: ranks ≥ 0 whose frequencies are kept for density plots; by default 0, 9 and 99 if they exist.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``.

    Raises:
        ValueError: a ring or rank out of range, or invalid images or labels.

    Source: Lin et al., NeurIPS 2023, Eq. 3 and Fig. 2; zhiyugege/Frequency-Long-Tailed-Investigation, which first
    averages over the channels and uses the half plane of ``rfft2``.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> measured = sensitivity(model, samples.images, samples.labels)
    >>> measured.images
    4
    """
    check_labelled(images, labels)
    height, width = images.shape[-2:]
    rings, radius = RingMap(height, width), frequency_radius(height, width)[:, : width // 2 + 1].flatten()
    if boundary_ring is None:
        sample = in_memory(images[:OF_STREAM]) if isinstance(images, ImageStream) else images
        boundary_ring = 5 if max(height, width) == 32 else min(split(sample).boundary + 1, rings.rings - 1)
    if ranks is None:
        ranks = [rank for rank in RANKS if rank < len(radius)]
    if not fits(boundary_ring, int) or not 1 <= boundary_ring < rings.rings:
        raise ValueError(f"boundary_ring: expected 1 to {rings.rings - 1}, got {boundary_ring!r}")
    if not fits(ranks, Sequence[int]) or not ranks or not all(0 <= rank < len(radius) for rank in ranks):
        raise ValueError(f"ranks: expected some of 0 to {len(radius) - 1}, got {ranks!r}")

    batch_size = batch_size or default_batch_size(as_module(model), images)

    def projected(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        gradient = input_gradient(model, to_pixels(images[indices]).to(device), labels[indices].to(device)).mean(1)
        magnitude, order = rfft2(gradient).abs().flatten(1).sort(dim=1, descending=True)
        largest = gradient.abs().amax((1, 2), keepdim=True)  # its square may be out of float32's range
        power = ring_sum(gradient / torch.where(largest > 0, largest, 1), rings).double()
        high = power[:, boundary_ring:].sum(1) / power.sum(1)
        radii = radius[order[:, list(ranks)].cpu()]
        missing = batch_size - len(indices)  # of the last batch
        each = {"radii": pad(radii, (0, 0, 0, missing)), "high": pad(high, (0, missing))}
        return {"magnitude": magnitude.double().sum(0), **each}

    key = {"diagnostic": "sensitivity", "no gradient": "nan", "boundary_ring": boundary_ring, "ranks": list(ranks)}
    batches = per_batch(
        projected, model, images, labels, key=key, quantity="sensitivity", batch_size=batch_size,
        cache=cache, cache_key=cache_key, progress=progress,
    )  # fmt: skip
    return Sensitivity(
        magnitude=batches["magnitude"].sum(0) / len(images),
        ranks=list(ranks),
        radii=batches["radii"].flatten(0, 1)[: len(images)],
        boundary=rings.radii[boundary_ring].item(),
        high_share=batches["high"].flatten()[: len(images)],
        images=len(images),
    )


def plot_sensitivity(axes: Axes, models: Mapping[str, Sensitivity], styles: Styles | None = None) -> Axes:
    """Draw the magnitudes of a gradient's coefficients, largest first, divided by their mean.

    Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    for name, measured, style in styled(models, styles):
        if not measured.magnitude.mean() > 0:  # no gradient, or one that is not a number
            continue
        magnitude = (measured.magnitude / measured.magnitude.mean()).numpy()
        axes.plot(np.arange(1, len(magnitude) + 1), magnitude, label=name, **{**style, "markevery": 0.15})
    axes.set(xlabel="rank of the coefficient", ylabel="magnitude ÷ mean", xscale="log", yscale="log")
    plain_ticks(axes.xaxis, axes.yaxis)
    return axes


def radius_density(radii: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Density of frequencies ``radii`` (N,), N ≥ 1, at ``points`` (M,): Gaussian kernel of Scott's width, ≥ 0.005.

    Source: Lin et al., NeurIPS 2023, Sec. 3.2.2, whose notebook draws seaborn's ``kdeplot``, with Scott's width too.
    """
    from scipy.stats import norm

    width = max(radii.std() * len(radii) ** -0.2, 0.005)  # gaussian_kde takes no equal values
    return norm.pdf(points[:, None], radii, width).mean(1)


def plot_sensitive_radii(
    axes: Axes, models: Mapping[str, Sensitivity], rank: int = 0, styles: Styles | None = None
) -> Axes:
    """Draw the density over images of the frequency of each image's coefficient of one rank (0 is the largest).

    A Gaussian kernel of Scott's width. The grey line marks where the high frequencies begin. Raises ValueError for a
    rank that was not kept. Source: Lin et al., NeurIPS 2023, Fig. 2.
    """
    points = np.linspace(0, 0.75, 300)
    for name, measured, style in styled(models, styles):
        if rank not in measured.ranks:
            raise ValueError(f"rank: {name} has {', '.join(map(str, measured.ranks))}, got {rank}")
        radii = measured.radii[~measured.high_share.isnan(), measured.ranks.index(rank)].double().numpy()
        if not len(radii):
            continue
        axes.plot(points, radius_density(radii, points), label=name, **{**style, "markevery": 0.15})
        axes.axvline(measured.boundary, color=GREY, linewidth=1)
    axes.set(xlabel=f"{FREQUENCY} of coefficient {rank + 1}", ylabel="density")
    axes.set_ylim(bottom=0)
    return axes


@register_diagnostic("sensitivity")
class SensitivityByFrequency(Diagnostic):
    """``sensitivity`` as a diagnostic."""

    measure = staticmethod(sensitivity)
    measurement = Sensitivity
    help = "input gradient in the Fourier basis, and its share of high frequencies (Lin et al.)."
    presets = {"quick": {"images": 500}, "full": {"images": 0}}
    needs_gradients = True
    streams = True
    order = 20
    columns = (
        Column(
            "high-frequency share of the gradient", lambda measured: measured.mean_high_share,
            lambda measured: number(measured.mean_high_share, ".0%"), title="HFC share", key="high_share",
            unit="%", digits=1,
            help="The share of the input gradient’s power that lies in the high frequencies (Lin et al.).",
            hint="higher if high frequencies dominate", none="all gradients are zero or not finite", order=40,
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return 3

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models, styles = measurements["sensitivity"], measurements.styles_of("sensitivity")
        if not models:
            return
        ranks = [rank for rank in next(iter(models.values())).ranks if all(rank in m.ranks for m in models.values())]
        by_rank = Panel("magnitude by rank", partial(plot_sensitivity, models=models, styles=styles))
        densities = [
            Panel(f"where the coefficient of rank {rank + 1} lies",
                  partial(plot_sensitive_radii, models=models, rank=rank, styles=styles))
            for rank in ranks
        ]  # fmt: skip
        of_densities = (
            " Then the frequencies of the coefficients of some ranks, as Gaussian kernel densities; the grey line is "
            "where HFC begins, {boundary} cycles/pixel"
        )
        yield Picture(
            "sensitivity", "Magnitudes and frequencies of the gradient's coefficients by rank.",
            [by_rank, *densities], legend=styles,
            section=Section("sensitivity", "Sensitivity by rank and by frequency", "sensitivity by frequency", 20),
            caption=measurements.caption(
                "sensitivity",
                "First the magnitude of the gradient’s coefficients in the Fourier basis, sorted within each image, "
                f"mean over {{images}} images of {{source}}.{of_densities if densities else ''} (Lin et al., "
                "NeurIPS 2023, Eq. 3 and Fig. 2).",
            ),
        )  # fmt: skip
