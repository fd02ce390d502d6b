"""The loss around a model's weights, along two filter-normalised random directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks.checks import explained
from freqrob.attacks.gradient import classified
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.diagnostics.drawing import MAP, Panel, Picture, Scale, Section, logarithmic
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import shared_out
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.models.sources import as_module
from freqrob.models.state import default_batch_size, device_of
from freqrob.runtime.parameters import Count, Natural, Positive, check_choices, checked, fits
from freqrob.runtime.progress import Progress, no_progress
from freqrob.runtime.warning import warn
from freqrob.spectral.longtail import split

Component = Literal["low", "high"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet


@dataclass(frozen=True)
class LossLandscape(Measurement):
    """The loss L(a, b) of weights w + a·d₁ + b·d₂.

    Attributes:
        offsets: (S,) values of a and of b, 0 in the middle; 1 is one filter norm.
        loss, accuracy: (S, S), a down, b across: mean cross-entropy in nats, and share of the images.
        variation: mean of |L − L(0, 0)| over the points within half the span; 0 for a flat loss. L can be below L(0,
            0), because the weights minimise the training loss only.
        sharpness: the largest L − L(0, 0) within half the span, divided by 1 + L(0, 0).
        images, seed: number of images and seed of the directions.

    Lin et al. (Sec. 3.1) judge a model's convergence by the steepness of the surface at the model and by the model's
    distance from a minimum: ``steepness``, ``distance_to_minimum`` and ``depth``.
    """

    kind = "loss_landscape"
    settings = ("images", "span", "points", "seed")

    offsets: Annotated[Tensor, Quantity("points", unit="norms of the filters")]
    loss: Annotated[Tensor, Quantity("points points", unit="nats")]
    accuracy: Annotated[Tensor, Quantity("points points")]
    variation: Annotated[float, Quantity(unit="nats")]
    sharpness: float
    images: int
    seed: int

    @property
    def span(self) -> float:
        """The largest |a| and |b|; NaN without offsets."""
        return self.offsets[-1].item() if len(self.offsets) else nan

    @property
    def points(self) -> int:
        """Number of points along each direction."""
        return len(self.offsets)

    @property
    def steepness(self) -> float:
        """|∇L| at the weights, by central differences over one step: nats per filter norm; 0 at a minimum.

        A finer grid is closer to the derivative.
        """
        middle, step = self.points // 2, 2 * self.span / (self.points - 1)
        down = self.loss[middle + 1, middle] - self.loss[middle - 1, middle]
        across = self.loss[middle, middle + 1] - self.loss[middle, middle - 1]
        return (torch.hypot(down, across) / (2 * step)).item()

    @property
    def distance_to_minimum(self) -> float:
        """Distance of the weights from the smallest loss of the surface, in filter norms.

        The distance is a lower bound if that loss is at the edge of the surface (|a| or |b| is ``span``). NaN if the
        loss is not finite anywhere.
        """
        a, b = divmod(self._lowest, self.points)
        return torch.hypot(self.offsets[a], self.offsets[b]).item() if self.loss.isfinite().any() else nan

    @property
    def depth(self) -> float:
        """L(0, 0) minus the smallest loss of the surface, in nats: how far the loss can fall within it."""
        middle = self.points // 2
        return (self.loss[middle, middle] - self.loss.flatten()[self._lowest]).item()

    @property
    def _lowest(self) -> int:
        """The index of the smallest loss in the flattened surface."""
        return int(torch.where(self.loss.isfinite(), self.loss, torch.inf).argmin())


@checked
def loss_landscape(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    span: Positive = 1.0,
    points: int = 21,
    seed: Natural = 0,
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> LossLandscape:
    """Measure the loss on a square grid of weights around the model's.

    Each direction is normal noise, scaled to the norm of the model's weights filter by filter. Biases, batch norms and
    other vectors stay fixed, and batch norms keep their statistics. To see how well a model fits low or high
    frequencies, measure on that ``component`` of the images.

    Args:
        span: the largest |a| and |b|.
        points: number of points along each direction, odd, 5 or more.
        seed: seed of the directions.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``, but images may also be
            components with values from −1 to 2; each finished point is cached.

    Raises:
        ValueError: a span that is not positive, an even number of points or fewer than 5, a seed below 0, invalid
            images or labels, or weights created under ``torch.inference_mode``.

    Source: Li et al., NeurIPS 2018, section 4 (filter normalisation); Lin et al., NeurIPS 2023, Fig. 1 and 4.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model, samples = freqrob.load_model("standard_rn20"), sample_images()[:4]
    >>> loss_landscape(model, samples.images, samples.labels, points=5).loss.shape
    torch.Size([5, 5])
    """
    check_labelled(images, labels, tolerance=1)  # components of images have negative values
    if not fits(points, int) or points < 5 or points % 2 == 0:  # with 3, only the centre is within half the span
        raise ValueError(f"points: expected an odd number ≥ 5, got {points!r}")
    model = as_module(model)
    offsets = torch.linspace(-span, span, points, dtype=torch.float64)
    generator = torch.Generator().manual_seed(int(seed))
    parameters = dict(model.named_parameters())
    if any(weight.is_inference() for weight in parameters.values()):
        raise ValueError("model: its weights were created under torch.inference_mode and cannot be changed")
    if not any(weight.ndim > 1 for weight in parameters.values()):
        warn("model: it has no weights that can be changed, so its landscape is flat")
    batch_size = batch_size or default_batch_size(model, images)
    d1, d2 = ({name: _direction(weight, generator) for name, weight in parameters.items()} for _ in range(2))

    def loss_at(subject: nn.Module, point: Tensor) -> dict[str, Tensor]:
        a, b = (offsets[index].item() for index in divmod(int(point), points))
        weights = {name: parameters[name] + a * d1[name] + b * d2[name] for name in parameters}
        with explained(batch_size), _moved(parameters, weights):
            loss, correct = _loss(subject, images, labels, batch_size)
        return {"loss": loss[None], "accuracy": correct[None]}

    key = {"diagnostic": "loss_landscape", "span": span, "points": points, "seed": seed}
    chunks = torch.arange(points * points).split(1)
    samples = shared_out(
        loss_at, model, images, labels, chunks, key=key, quantity="loss landscape", cache=cache, cache_key=cache_key,
        progress=progress,
    )  # fmt: skip
    loss, accuracy = (samples[name].view(points, points) for name in ("loss", "accuracy"))
    centre = loss[points // 2, points // 2]
    changes = (loss - centre)[offsets[:, None].hypot(offsets) <= span / 2]
    sharpness = (changes.max() / (1 + centre)).item()
    return LossLandscape(offsets, loss, accuracy, changes.abs().mean().item(), sharpness, len(images), seed)


def _direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Noise in the shape of a weight, scaled to the norms of its filters; zeros for vectors."""
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    filters = (slice(None), *[None] * (weight.ndim - 1))
    lengths = weight.detach().flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    return noise * lengths[filters]


@contextmanager
def _moved(parameters: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> Iterator[None]:
    """Replace weights temporarily; ``functional_call`` does not work with scripted models."""
    data = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = data[name]


def _loss(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy, float64."""
    device = device_of(model, images)
    loss = correct = torch.zeros((), dtype=torch.float64)
    for batch, classes in zip(images.split(int(batch_size)), labels.split(int(batch_size)), strict=True):
        logits = model(to_pixels(batch).to(device))
        loss = loss + F.cross_entropy(logits, classes.to(device), reduction="sum").double().cpu()
        correct = correct + classified(logits, classes.to(device)).sum().double().cpu()
    return loss / len(images), correct / len(images)


def plot_landscape(
    axes: Axes, measured: LossLandscape, levels: int = 12, limits: tuple[float, float] | None = None
) -> QuadContourSet:
    """Draw contours of the loss; a cross marks the weights. Returns the contours, for a colour bar.

    ``landscape_limits`` makes models comparable. Source: Lin et al., NeurIPS 2023, Fig. 1 and 4; Li et al., NeurIPS
    2018.
    """
    offsets, loss = measured.offsets.numpy(), measured.loss.nan_to_num(nan=1e3).clamp(max=1e3).numpy()
    low, high = limits or landscape_limits([measured])
    contour_levels = np.geomspace(low, high, levels)
    norm = logarithmic((low, high))
    contours = axes.contourf(offsets, offsets, loss, levels=contour_levels, norm=norm, cmap="viridis", extend="both")
    axes.plot(0, 0, "x", color="#d55e00", markersize=9, markeredgewidth=2)
    axes.set(xlabel="b (filter norms)", ylabel="a (filter norms)", aspect="equal")
    axes.locator_params(nbins=4)  # panels are small
    return contours


def landscape_limits(landscapes: Sequence[LossLandscape]) -> tuple[float, float]:
    """Smallest and largest loss, limited to 0.001 to 1000 nats, for a common colour scale."""
    losses = torch.cat([landscape.loss.nan_to_num(nan=1e3).flatten() for landscape in landscapes]).clamp(1e-3, 1e3)
    return losses.min().item(), max(losses.max().item(), 2 * losses.min().item())


@checked
def component(images: Tensor, part: Component, *, clip: bool = False) -> Tensor:
    """The low-frequency (LFC) or high-frequency component (HFC) of images, split at 80 % of their power.

    Lin et al. do not say how they compute the images of Fig. 1 and 4. Two interpretations:

    - ``clip=False`` (default): the inverse transform of exactly the coefficients of Eq. 2. The HFC has mean 0, so half
      of its pixels are negative; the LFC exceeds [0, 1] a little. Networks accept such inputs, because their first
      layer and normalisation are linear.
    - ``clip=True``: clipped to [0, 1], as the authors' ``BaSS_cifar.py`` clips balanced images. This sets the negative
      half of the HFC to 0; 36 % of its remaining power is then in DC and the low rings (1,000 test images of CIFAR-10),
      which the HFC must not contain. Therefore it is not the default.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1], with one boundary for all of them.
        part: ``"low"`` or ``"high"``.
        clip: see above.

    Returns:
        (N, C, H, W) float32.

    Raises:
        TypeError, ValueError: as ``freqrob.spectral.longtail.split``; ValueError for another ``part``.

    Source: Lin et al., NeurIPS 2023, Eq. 2, Fig. 1 and 4.

    Examples:
        >>> import torch
        >>> from freqrob.diagnostics.loss_landscape import component
        >>> images = torch.rand(4, 3, 32, 32)
        >>> low, high = component(images, "low"), component(images, "high")
        >>> torch.allclose(low + high, images, atol=1e-5), bool(component(images, "high", clip=True).min() == 0)
        (True, True)
    """
    check_choices(get_args(Component), part=part)
    pixels = to_pixels(images)
    parts = split(pixels)
    filtered = parts.low_pass(pixels) if part == "low" else parts.high_pass(pixels)
    return filtered.clamp(0, 1) if clip else filtered


class Landscape(Diagnostic):
    """The loss around the weights on a half of the spectrum."""

    measure = staticmethod(loss_landscape)
    measurement = LossLandscape
    presets = {"quick": {"images": 60, "points": 9}, "full": {"images": 1000}}

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return settings["points"] ** 2


def _columns(half: str, short: str, order: int) -> tuple[Column, ...]:
    variation = Column(
        f"variation of the loss, {half} frequencies", lambda measured: measured.variation,
        lambda measured: f"{measured.variation:.2f}", title=f"variation, {short}", key=f"loss_variation_{half}",
        unit="nats", hint="0 for a flat loss", is_compared=False, order=order,
        help=f"Mean change of the loss around the weights, on the {half} frequencies of the images.",
    )  # fmt: skip
    steepness = Column(
        f"steepness of the loss at the weights, {half} frequencies", lambda measured: measured.steepness,
        unit="nats", order=order + 1, help="Gradient norm per filter norm; 0 at a minimum (Lin et al.).",
    )  # fmt: skip
    distance = Column(
        f"distance to the smallest loss, {half} frequencies", lambda measured: measured.distance_to_minimum,
        unit="norms of the filters", order=order + 2, help="Distance along the two directions (Lin et al.).",
    )  # fmt: skip
    return variation, steepness, distance


@register_diagnostic("loss_landscape_low")
class LandscapeOnLowFrequencies(Landscape):
    """``loss_landscape`` on the low frequencies of the images, as a diagnostic."""

    help = "loss around the weights, on the low frequencies of the images (Lin et al.)."
    columns = _columns("low", "LFC", 50)
    order = 70

    def sees(self, images: Tensor) -> Tensor:
        return component(images, "low")

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        """One figure of both halves."""
        halves = {"LFC": measurements["loss_landscape_low"], "HFC": measurements["loss_landscape_high"]}
        every = [measured for models in halves.values() for measured in models.values()]
        if not every:
            return
        limits = landscape_limits(every)
        panels = [
            Panel(f"{name}, {half}", partial(plot_landscape, measured=models[name], limits=limits))
            for name in measurements.styles for half, models in halves.items() if name in models
        ]  # fmt: skip
        yield Picture(
            "loss_landscapes", "The loss around the weights, on the low and on the high frequencies of the images.",
            panels, MAP, scale=Scale(logarithmic(limits), "loss (nats)"),
            labels=("b (filter norms)", "a (filter norms)"),
            section=Section(
                "landscapes", "The loss around the weights, on low and on high frequencies",
                "the loss around the weights", 30,
            ),
            caption=measurements.caption(
                "loss_landscape_low" if halves["LFC"] else "loss_landscape_high",
                "Cross-entropy along two random filter-normalised directions a and b; the cross is the model, 1 is one "
                "filter norm. {images} images of {source}, split at 80 % of the power into low (LFC) and high "
                "frequencies (HFC); directions of seed {seed} (Lin et al., NeurIPS 2023, Fig. 1 "
                "and 4; Li et al., NeurIPS 2018). A model in a steep region, far from the minimum, is what Lin et al. "
                "call under-fitting.",
            ),
            compared=[["loss_landscape_low", "loss_landscape_high"]],
        )  # fmt: skip

    def findings(self, measurements: Measurements) -> Iterator[Markup]:
        """Compare the loss on high and low frequencies; Lin et al. call steeper and farther on HFC under-fitting."""
        names = "loss_landscape_low", "loss_landscape_high"
        low, high = (measurements[name] for name in names)
        alike = [
            m for m in low if m in high and measurements.conditions(names[0], m) == measurements.conditions(names[1], m)
        ]
        if alike:
            steeper = sum(high[model].steepness > low[model].steepness for model in alike)
            farther = sum(high[model].distance_to_minimum > low[model].distance_to_minimum for model in alike)
            yield Markup(
                "At the weights, the loss is steeper on the high than on the low frequencies of the images for {} of "
                "{} models, and its smallest value is farther away for {} of them."
            ).format(steeper, len(alike), farther)


@register_diagnostic("loss_landscape_high")
class LandscapeOnHighFrequencies(Landscape):
    """``loss_landscape`` on the high frequencies of the images, as a diagnostic."""

    help = "loss around the weights, on the high frequencies of the images (Lin et al.)."
    columns = _columns("high", "HFC", 60)
    order = 80

    def sees(self, images: Tensor) -> Tensor:
        return component(images, "high")
