"""Accuracy on filtered images, and under perturbations confined to a frequency band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from freqrob.attacks.band import band_pgd
from freqrob.attacks.gradient import classified
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.hybrid import CORNER
from freqrob.data.streams import Images
from freqrob.diagnostics.drawing import FREQUENCY, Panel, Picture, Section, Styles, shares_upward, styled
from freqrob.diagnostics.fourier_heatmap import coarseness
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import per_sample
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.runtime.parameters import Count, Natural, Pixels, checked, fits
from freqrob.runtime.progress import Progress, no_progress
from freqrob.spectral.ops import ring_filter
from freqrob.spectral.rings import RingMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class BandAccuracy(Measurement):
    """Accuracy on filtered images by ring, and robust accuracy by the band of the perturbation.

    Attributes:
        frequencies: (K,) lower edges of the measured rings i: all at 32×32, every seventh and the last at 224×224.
        low: (K,) accuracy on the rings 0 to i.
        high: (K,) accuracy on ring i, all higher rings and the mean (ring 0).
        band: (K,) accuracy on the rings i − width // 2 to i + width // 2 and the mean.
        robust: (bands,) robust accuracy of the attacked images under band-limited PGD; empty if none were attacked.
        robust_frequencies: (bands,) lower edge of each band of the attack; bands are adjacent.
        accuracy: accuracy on the unfiltered images.
        width: width of the bands of ``band``, in rings.
        eps, steps: L∞ radius and number of steps of the attack.
        images: number of filtered images.
        attacked: the first ``attacked`` images were attacked.
    """

    kind = "band_accuracy"
    settings = ("images", "width", "eps", "steps", "attacked")

    frequencies: Annotated[Tensor, Quantity("rings", unit="cycles/pixel")]
    low: Annotated[Tensor, Quantity("rings", unit="share")]
    high: Annotated[Tensor, Quantity("rings", unit="share")]
    band: Annotated[Tensor, Quantity("rings", unit="share")]
    robust: Annotated[Tensor, Quantity("bands", unit="share")]
    robust_frequencies: Annotated[Tensor, Quantity("bands", unit="cycles/pixel")]
    accuracy: float
    width: int
    eps: Annotated[float, Quantity(unit="pixels of [0, 1]")]
    steps: int
    images: int
    attacked: int


@checked
def band_accuracy(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    width: int = 5,
    eps: Pixels = 8 / 255,
    steps: Count = 20,
    attacked: Natural | None = None,
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> BandAccuracy:
    """Classify filtered images, and attack the images in bands of the spectrum.

    A filter keeps some rings and the mean; the result is clipped to [0, 1].

    The attack is ``freqrob.attacks.band.band_pgd``, started from the image; it runs once in each of the ``octaves``.

    Args:
        width: width of the band-pass filters, an odd number of rings of a 32×32 image; for larger images it is the same
            in cycles/pixel.
        eps, steps: L∞ radius of the attack in pixels of [0, 1], and its gradient steps in each band.
        attacked: attack only the first ``attacked`` images; all by default, 0 for none.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``.

    Raises:
        ValueError: a width that is not odd and positive, attack settings out of range, or invalid images or labels.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()[:4]
    >>> band_accuracy(model, samples.images, samples.labels, steps=1).images
    4
    """
    check_labelled(images, labels)
    if not fits(width, int) or width < 1 or width % 2 == 0:
        raise ValueError(f"width: expected an odd number of rings, got {width!r}")
    attacked = len(images) if attacked is None else attacked
    attacked = min(attacked, len(images))
    rings = RingMap(images.shape[-2], images.shape[-1])
    every = coarseness(*images.shape[-2:])
    measured = torch.tensor(sorted({*range(0, rings.rings, every), rings.rings - 1}))
    ring, i = torch.arange(rings.rings), measured[:, None]
    filters = {"low": ring <= i, "high": ring >= i, "band": (ring - i).abs() <= width * every // 2}

    def classify_filtered(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[indices]).to(device), labels[indices].to(device)

        def correct(kept: Tensor) -> Tensor:
            weights = (kept | (ring == 0)).to(natural)
            filtered = ring_filter(natural, weights.expand(*natural.shape[:2], -1), rings).clamp(0, 1)
            return classified(model(filtered), classes)

        clean = classified(model(natural), classes)
        return {"own": clean} | {name: torch.stack([correct(kept) for kept in filters[name]], 1) for name in filters}

    common = {"batch_size": batch_size, "cache": cache, "cache_key": cache_key, "progress": progress}
    key = {"diagnostic": "band_accuracy", "width": width, "every": every}
    samples = per_sample(classify_filtered, model, images, labels, key=key, quantity="band accuracy", **common)
    low, high, band, clean = (samples[name].double().mean(0) for name in ("low", "high", "band", "own"))
    bands = octaves(rings) if attacked else []
    robust = _robust(model, images[:attacked], labels[:attacked], bands, eps, steps, **common)
    return BandAccuracy(
        frequencies=rings.radii[measured],
        low=low,
        high=high,
        band=band,
        robust=robust,
        robust_frequencies=rings.radii[[begin for begin, *_ in bands]],
        accuracy=clean.item(),
        width=width * every,
        eps=eps,
        steps=steps,
        images=len(images),
        attacked=attacked,
    )


def _robust(
    model: nn.Module, images: Images, labels: Tensor, bands: list[range], eps: float, steps: int, **common: Any
) -> Tensor:
    """Robust accuracy under band-limited PGD, by band."""
    if not bands:
        return torch.zeros(0, dtype=torch.float64)

    def robust_mask(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[indices]).to(device), labels[indices].to(device)
        adversarial = [band_pgd(model, natural, classes, band, eps=eps, steps=steps) for band in bands]
        under_attack = torch.stack([classified(model(perturbed), classes) for perturbed in adversarial], 1)
        return {"robust": under_attack & classified(model(natural), classes)[:, None]}

    key = {"diagnostic": "band_pgd", "eps": eps, "steps": steps, "bands": [[band[0], band[-1]] for band in bands]}
    samples = per_sample(robust_mask, model, images, labels, key=key, quantity="band-limited PGD", **common)
    return samples["robust"].double().mean(0)


def octaves(rings: RingMap) -> list[range]:
    """Divide all rings into bands that start at 0, 1/16, 1/8, 1/4 and 1/2 cycles/pixel.

    Bands without rings, at sizes below 16, are left out.
    """
    side = max(rings.height, rings.width)
    edges = [0, *(ceil(side * frequency) for frequency in (1 / 16, 1 / 8, 1 / 4, 1 / 2)), rings.rings]
    return [range(begin, end) for begin, end in pairwise(edges) if begin < end]


def plot_bands(axes: Axes, models: Mapping[str, BandAccuracy], kind: str = "low", styles: Styles | None = None) -> Axes:
    """Draw accuracy on low-pass (``low``), high-pass (``high``) or band-pass (``band``) filtered images.

    The short line on the right is the accuracy without a filter. Raises ValueError for another kind.
    """
    words = {"low": "highest {} kept", "high": "lowest {} kept, besides the mean", "band": "{} of the band kept"}
    if kind not in words:
        raise ValueError(f"kind: expected one of {', '.join(words)}, got {kind!r}")
    for name, measured, style in styled(models, styles):
        axes.plot(measured.frequencies.numpy(), getattr(measured, kind).numpy(), label=name, **style)
        axes.axhline(measured.accuracy, 0.96, 1, color=style["color"], linewidth=2)
    axes.set(xlabel=words[kind].format(FREQUENCY), ylabel="accuracy")
    shares_upward(axes)
    return axes


def plot_robust_bands(axes: Axes, models: Mapping[str, BandAccuracy], styles: Styles | None = None) -> Axes:
    """Draw robust accuracy under PGD confined to a band of rings; all models must have the same bands."""
    for name, measured, style in styled(models, styles):
        axes.plot(range(len(measured.robust)), measured.robust.numpy(), label=name, **style)
        ends = [*(f"{frequency:.4g}" for frequency in measured.robust_frequencies.tolist()), f"{CORNER:.2f}"]
        axes.set_xticks(range(len(measured.robust)), [f"{begin}–\n{end}" for begin, end in pairwise(ends)])
    axes.set(xlabel=f"{FREQUENCY} of the perturbation", ylabel="robust accuracy")
    shares_upward(axes)
    return axes


def _robust_in_words(measured: BandAccuracy) -> str:
    """``"0: 40, 0.031: 45"``, the lower edge of each band and its accuracy in per cent."""
    edges = zip(measured.robust_frequencies.tolist(), measured.robust.tolist(), strict=True)
    return ", ".join(f"{edge:.2g}: {100 * share:.0f}" for edge, share in edges) or "not attacked"


@register_diagnostic("band_accuracy")
class AccuracyByBand(Diagnostic):
    """``band_accuracy`` as a diagnostic."""

    measure = staticmethod(band_accuracy)
    measurement = BandAccuracy
    help = "accuracy on low-, high- and band-passed images, and under PGD confined to a band."
    presets = {"quick": {"images": 100, "steps": 10, "attacked": 40}, "full": {"images": 0, "attacked": 1000}}
    needs_gradients = True
    streams = True
    order = 50
    columns = (
        Column(
            "accuracy (%) under PGD in a band, from its lower edge (cycles/pixel) on",
            text=_robust_in_words,
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        images, attacked = settings["images"], settings["attacked"]
        share = min(images if attacked is None else attacked, images) / images
        return 70 + share * 5 * 3 * settings["steps"]  # 3 filters of some 23 rings; 5 bands

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models, styles = measurements["band_accuracy"], measurements.styles_of("band_accuracy")
        if not models:
            return
        titles = {"low": "low-passed", "high": "high-passed", "band": "band-passed"}
        panels = [
            Panel(title, partial(plot_bands, models=models, kind=kind, styles=styles)) for kind, title in titles.items()
        ]
        attacked, of_attack = {name: measured for name, measured in models.items() if len(measured.robust)}, ""
        if attacked:
            panels.append(
                Panel("PGD confined to a band", partial(plot_robust_bands, models=attacked, styles=styles))
            )  # fmt: skip
            of_attack = (
                " Last, robust accuracy under PGD confined to a band: L∞, ε = {eps}, {steps} steps from "
                "the image, protocol <code>natural</code>, the first {attacked} images."
            )
        yield Picture(
            "band_accuracy", "Accuracy on filtered images, and under attacks confined to a band.", panels,
            legend=styles, section=Section("bands", "Accuracy by frequency band", "accuracy by frequency band", 70),
            caption=measurements.caption(
                "band_accuracy",
                "Accuracy on filtered images. The filter keeps the mean and the rings below a radius, above it, or in "
                "a band of {width} rings around it; {images} images of {source}. The mark on the right is the "
                f"accuracy on the unfiltered images.{of_attack}",
            ),
        )  # fmt: skip
