"""Fourier heat map: error rate of a model with single Fourier waves added to its images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks.gradient import classified
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.streams import Images
from freqrob.defenses.stimuli import recorded
from freqrob.diagnostics.drawing import Picture, Scale, Section, draw_map, picture_of_maps
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import per_sample
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.models.sources import as_module
from freqrob.models.state import channels_last, device_of, measuring
from freqrob.runtime.parameters import Count, Natural, Positive, checked
from freqrob.runtime.process_state import random_state
from freqrob.runtime.progress import Progress, no_progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

Basis = Literal["cosine_sine", "cosine"]
Precision = Literal["float32", "bfloat16"]
NORMS = {32: 4.0, 224: 15.7}  # ℓ₂ norms of a channel, pixels in [0, 1], as published for CIFAR and ImageNet


@dataclass(frozen=True)
class FourierHeatmap(Measurement):
    """Error rate of a model, or change of its features, with a wave of each frequency added.

    Attributes:
        change: (Y, X), DC at (Y//2, X//2): the error rate with that wave added; for a layer h the mean ‖h(x+v) −
            h(x)‖₂. For even sizes, ``change[1:, 1:]`` is symmetric about its centre, as in gatheluck's figures.
        vertical, horizontal: (Y,) and (X,) frequencies of its rows and columns, ascending.
        unperturbed: the error rate without a wave; 0 for a layer.
        norm: ‖v‖₂ of a channel before clipping.
        basis: "cosine_sine" or "cosine".
        every: frequencies are multiples of this number of cycles per image; 1 for all frequencies.
        layer: the module whose features are compared; "" for errors.
        images, seed: number of images and seed of the signs.
        precision: precision of the network's products, "float32" or "bfloat16".
    """

    kind = "fourier_heatmap"
    settings = ("images", "norm", "basis", "every", "seed", "precision")

    change: Annotated[Tensor, Quantity("vertical horizontal", unit="share of images, or the features' own")]
    vertical: Annotated[Tensor, Quantity("vertical", unit="cycles/pixel")]
    horizontal: Annotated[Tensor, Quantity("horizontal", unit="cycles/pixel")]
    unperturbed: float
    norm: Annotated[float, Quantity(unit="pixels of [0, 1]")]
    basis: str
    every: int
    layer: str
    images: int
    seed: int
    precision: str = "float32"

    @property
    def suffix(self) -> str:
        return self.layer


@checked
def fourier_heatmap(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    norm: Positive | None = None,
    basis: Basis = "cosine",
    every: Count | None = None,
    layer: str = "",
    seed: Natural = 0,
    precision: Precision = "float32",
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> FourierHeatmap:
    """Classify images with norm · (±wave) added and clipped to [0, 1], for each frequency.

    Of f and −f only one is measured (see ``fourier_frequencies``), because the map is symmetric about DC.

    Args:
        norm: ‖v‖₂ of each channel, pixels in [0, 1]; by default the published values, 4 for 32 and 15.7 for 224 pixels
            a side, and 4 · side / 32 for other sizes.
        basis: ``"cosine"``: cosines with a random sign for each image, channel and frequency. ``"cosine_sine"``: cos +
            sin, the same in all channels, without random signs.
        every: measure multiples of this number of cycles per image, vertically and horizontally; by default
            ``coarseness``, so that the map has about 32×32 points from DC to Nyquist at any size.
        layer: dotted name of a module, such as ``"layer1"``, to measure the change of its features instead of errors.
        seed: seed of the signs.
        precision: ``"bfloat16"`` runs the network under autocast: more than twice as fast if the hardware supports it,
            but the predicted class of a few images may change.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``.

    Raises:
        ValueError: an unknown basis or precision, a layer that does not exist or returns no tensor, a norm or ``every``
            that is not positive, or an ``every`` beyond half of the larger side.

    Source: Yin et al., NeurIPS 2019; ``google-research/frequency_analysis/freq_heatmap.py`` (without its ``rand_flip``,
    which changes the norm) and ``gatheluck/FourierHeatmap``.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model, samples = freqrob.load_model("standard_rn20"), sample_images()[:4]
    >>> fourier_heatmap(model, samples.images, samples.labels, every=16).images
    4
    """
    check_labelled(images, labels)
    height, width = images.shape[-2:]
    side = max(height, width)
    norm = NORMS.get(side, NORMS[32] * side / 32) if norm is None else norm
    every = coarseness(height, width) if every is None else every
    if every > (most := max(1, side // 2)):
        raise ValueError(f"every: expected at most {most}, half of the images' larger side, got {every}")
    if layer:
        _try_layer(as_module(model), layer, to_pixels(images[torch.arange(min(2, len(images)))]))
    frequencies = fourier_frequencies(height, width, every)

    def changes_of(model: nn.Module, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[indices]).to(device), labels[indices].to(device)
        signs = _signs(seed, indices, len(frequencies), images.shape[1], basis).to(device)
        with torch.autocast(device.type, torch.bfloat16, precision == "bfloat16"):
            unperturbed = _answer(model, layer, natural)

            def change(images: Tensor) -> Tensor:
                """The distance of the features, or whether the class is wrong: (N,) float32."""
                moved = _answer(model, layer, images)
                return (moved - unperturbed).norm(dim=1) if layer else (~classified(moved, classes)).float()

            changes = []
            for sign, frequency in zip(signs.unbind(1), frequencies, strict=True):
                wave = norm * sign[:, :, None, None] * fourier_wave(frequency, height, width, basis).to(device)
                changes.append(change((natural + wave).clamp(0, 1)))
            return {"change": torch.stack(changes, 1), "own": change(natural)}

    key = {
        "diagnostic": "fourier_heatmap", "norm": norm, "basis": basis, "every": every, "layer": layer,
        "seed": seed, "precision": precision, "waves": len(frequencies),
    }  # fmt: skip
    samples = per_sample(
        changes_of, model, images, labels, key=key, quantity="Fourier heat map", batch_size=batch_size,
        cache=cache, cache_key=cache_key, progress=progress,
    )  # fmt: skip
    rows, columns = (_multiples(size, every) for size in (height, width))
    change = torch.empty(len(rows), len(columns), dtype=torch.float64)
    for (ky, kx), value in zip(frequencies.tolist(), samples["change"].double().mean(0), strict=True):
        change[rows.index(ky), columns.index(kx)] = value
        # The Nyquist frequency −N/2 is its own mirror.
        change[rows.index(-ky if -ky in rows else ky), columns.index(-kx if -kx in columns else kx)] = value
    return FourierHeatmap(
        change=change,
        vertical=torch.tensor(rows, dtype=torch.float64) / height,
        horizontal=torch.tensor(columns, dtype=torch.float64) / width,
        unperturbed=samples["own"].double().mean().item(),
        norm=norm,
        basis=basis,
        every=every,
        layer=layer,
        images=len(images),
        seed=seed,
        precision=precision,
    )


def coarseness(height: int, width: int) -> int:
    """The default of ``every``: 1 at 32×32, 2 at 64×64, 7 at 224×224."""
    return max(1, round(max(height, width) / 32))


def _multiples(size: int, every: int) -> list[int]:
    """The multiples of ``every`` among a DFT's frequencies, in cycles per image, ascending from −(size // 2)."""
    return [k for k in range(-(size // 2), size - size // 2) if k % every == 0]


def fourier_frequencies(height: int, width: int, every: int = 1) -> Tensor:
    """(K, 2) vertical and horizontal frequencies in cycles per image: multiples of ``every``, one of each ±f."""
    frequencies = torch.cartesian_prod(*(torch.tensor(_multiples(size, every)) for size in (height, width)))
    size = torch.tensor([height, width])
    order, mirror = (frequency % size @ torch.tensor([width, 1]) for frequency in (frequencies, -frequencies))
    return frequencies[order <= mirror]


def fourier_wave(frequency: Tensor, height: int, width: int, basis: Basis = "cosine") -> Tensor:
    """The wave of (vertical, horizontal) cycles per image: (H, W) float32 with ‖·‖₂ = 1.

    ``"cosine_sine"``: cos + sin, which differs between f and −f; ``"cosine"``: cos.
    """
    ky, kx = frequency.tolist()
    turns = ky * torch.arange(height)[:, None].double() / height + kx * torch.arange(width).double() / width
    phase = 2 * torch.pi * turns
    wave = phase.cos() + phase.sin() if basis == "cosine_sine" else phase.cos()
    return (wave / wave.norm()).float()


def _signs(seed: int, indices: Tensor, waves: int, channels: int, basis: Basis) -> Tensor:
    """(len(indices), waves, channels) of ±1; an image's signs depend only on the seed and its index."""
    if basis == "cosine_sine":
        return torch.ones(len(indices), waves, channels)
    drawn = [np.random.default_rng((seed, index)).integers(2, size=(waves, channels)) for index in indices.tolist()]
    return torch.from_numpy(np.stack(drawn)).float() * 2 - 1


def _answer(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The logits, or the flattened features of a layer: (N, K) float32."""
    if not layer:
        return model(images).float()
    with recorded(model, layer) as outputs:
        model(images)
    if not outputs:
        raise ValueError(f"layer: the network does not call {layer!r}")
    return outputs[-1].flatten(1).float()


def _try_layer(model: nn.Module, layer: str, images: Tensor) -> None:
    """Raise ValueError for a layer whose features cannot be compared."""
    with random_state(), measuring(model) as subject, channels_last(subject), torch.no_grad():
        _answer(subject, layer, images.to(device_of(model, images)))


def twice_as_coarse(height: int, width: int) -> int:
    """``every`` of a quick heat map."""
    return min(2 * coarseness(height, width), max(1, max(height, width) // 2))


def under_a_wave(mean: Tensor, layer: str) -> str:
    """The mean of a heat map in words: "12 % errors", or "conv1 moves 2.5"."""
    return f"{layer} moves {mean:.3g}" if layer else f"{100 * mean:.0f} % errors"


def plot_heatmap(axes: Axes, measured: FourierHeatmap, largest: float | None = None) -> AxesImage:
    """Draw the Fourier heat map, DC in the middle; use one ``largest`` to compare models.

    Returns the image, for a colour bar. Source: Yin et al., NeurIPS 2019, Fig. 3.
    """
    from matplotlib.colors import Normalize

    norm = Normalize(0, heatmap_limit([measured]) if largest is None else largest)
    return draw_map(axes, measured.change, norm, (measured.vertical, measured.horizontal))


def heatmap_limit(heatmaps: Iterable[FourierHeatmap]) -> float:
    """Largest change of all maps, to end a common scale; 1 if nothing changes."""
    return max((heatmap.change.nan_to_num(0, 0, 0).max().item() for heatmap in heatmaps), default=0.0) or 1.0


@register_diagnostic("fourier_heatmap")
class HeatMap(Diagnostic):
    """``fourier_heatmap`` as a diagnostic."""

    measure = staticmethod(fourier_heatmap)
    measurement = FourierHeatmap
    help = "error rate with one Fourier wave added (Yin et al.)."
    presets = {"quick": {"images": 60, "every": twice_as_coarse}, "full": {"images": 1000}}
    streams = True
    order = 60
    columns = (
        Column("mean under a wave", text=lambda measured: under_a_wave(measured.change.mean(), measured.layer)),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return len(fourier_frequencies(*size, settings["every"] or coarseness(*size)))

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        from matplotlib.colors import Normalize

        for name in measurements.names("fourier_heatmap"):
            models = measurements[name]
            layer, largest = next(iter(models.values())).layer, heatmap_limit(models.values())
            if layer:
                title = Markup("Features of <code>{}</code> under single waves").format(layer)
                section = Section(name, title, f"features of {layer} under single waves", 60)
                effect = "Mean ℓ₂ distance that the features of <code>{layer}</code> move when"
            else:
                section = Section("heatmaps", "Errors under single waves", "errors under single waves", 60)
                effect = "Error rate when"
            every = "" if measurements.in_words(name, "every") == "1" else ", every {every} cycles per image"
            quantity = f"change of the features of {layer}" if layer else "error rate"
            yield picture_of_maps(
                name, f"Maps of the {quantity} under single waves.", models, partial(plot_heatmap, largest=largest),
                Scale(Normalize(0, largest), f"{quantity} under a wave"), section=section,
                caption=measurements.caption(
                    name,
                    f"{effect} one Fourier wave of ℓ₂ norm {{norm}} per channel is added to every image, by frequency, "
                    f"DC in the middle{every}; all on one scale; basis {{basis}}, {{images}} images of "
                    f"{{source}} (Yin et al., NeurIPS 2019{'' if layer else ', Fig. 3'}).",
                ),
            )  # fmt: skip
