"""Classification of hybrid images by their low or high frequencies, over the mixing frequency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from freqrob.attacks.gradient import classified
from freqrob.data.datasets import check_labelled, to_pixels
from freqrob.data.hybrid import MIXING_FREQUENCIES, check_frequencies, hybrid_images, partners
from freqrob.diagnostics.drawing import FREQUENCY, GREY, Panel, Picture, Section, Styles, styled
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.minimal_perturbation import MinimalPerturbationSpectrum, by_norm, draw_size, name_of_size
from freqrob.diagnostics.per_sample import per_sample
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.runtime.parameters import check_seeds, checked, fits, shown
from freqrob.runtime.progress import Track, untracked

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class HybridReliance(Measurement):
    """Shares of hybrid images that a model classifies by their low and by their high frequencies.

    Attributes:
        frequencies: (F,) mixing frequencies, ascending.
        low, high: (seeds, F) shares of the hybrid images classified as the image of their low or high frequencies.
        reversal: (seeds,) reversal frequency f_rev: the first zero crossing of low − high from below, interpolated
            linearly; NaN without one.
        images: number of hybrid images at each frequency and seed.
        seeds: seeds of the partners.
    """

    kind = "hybrid"
    settings = ("images", "seeds", "frequencies")
    words = {
        "frequencies": lambda values: "Li et al.’s frequencies" if list(values) == list(MIXING_FREQUENCIES)
        else f"frequencies {', '.join(f'{value:g}' for value in values)}"
    }  # fmt: skip

    frequencies: Annotated[Tensor, Quantity("frequencies", unit="cycles/pixel")]
    low: Annotated[Tensor, Quantity("seeds frequencies")]
    high: Annotated[Tensor, Quantity("seeds frequencies")]
    reversal: Annotated[Tensor, Quantity("seeds", unit="cycles/pixel")]
    images: int
    seeds: list[int]


@checked
def hybrid_reliance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    frequencies: Sequence[float] = MIXING_FREQUENCIES,
    seeds: Sequence[int] = (0, 1, 2, 3),
    batch_size: int = 250,
    cache: Path | None = None,
    cache_key: str | None = None,
    track: Track = untracked,
) -> HybridReliance:
    """Classify hybrid images: low frequencies of each image, high frequencies of one from another class.

    Args:
        frequencies: mixing frequencies in cycles/pixel; the authors' by default.
        seeds: seeds of the partners; each assigns different partners.
        model, images, labels, batch_size, cache, cache_key, track: as for ``per_sample``; no class may have more than
            half of the images.

    Raises:
        ValueError: frequencies or seeds that are empty or not ascending, frequencies outside 0 to √½, negative seeds,
            or images and labels that do not fit.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 3 and 5; ``lizhe07/robust-arena``, ``roarena/einmon.py``.
    """
    check_labelled(images, labels)
    check_frequencies(frequencies)
    if not fits(seeds, Sequence[Any]) or len(seeds) == 0:
        raise ValueError(f"seeds: expected at least one, got {shown(seeds)}")
    check_seeds(**{f"seeds[{i}]": seed for i, seed in enumerate(seeds)})
    for name, values in (("frequencies", frequencies), ("seeds", seeds)):
        if sorted(values) != list(values):
            raise ValueError(f"{name}: expected them ascending, got {list(values)}")
    low, high = [], []
    for seed in seeds:
        partner = partners(labels, seed)

        def both(model: nn.Module, indices: Tensor, device: torch.device, partner=partner) -> dict[str, Tensor]:
            ours, theirs = (to_pixels(images[index]).to(device) for index in (indices, partner[indices]))
            own, other = (labels[index].to(device) for index in (indices, partner[indices]))
            seen = [model(hybrid_images(ours, theirs, frequency)) for frequency in frequencies]
            low, high = ([classified(logits, classes) for logits in seen] for classes in (own, other))
            return {"low": torch.stack(low, 1), "high": torch.stack(high, 1)}

        key = {"diagnostic": "hybrid", "frequencies": list(frequencies), "seed": seed}
        samples = per_sample(
            both, model, images, labels, key=key, what=f"hybrid {seed}", batch_size=batch_size, cache=cache,
            cache_key=cache_key, track=track,
        )  # fmt: skip
        low.append(samples["low"].double().mean(0))
        high.append(samples["high"].double().mean(0))
    low, high = torch.stack(low), torch.stack(high)
    at = torch.tensor(frequencies, dtype=torch.float64)
    reversal = torch.stack([rises_through_zero(at, gap) for gap in low - high])
    return HybridReliance(at, low, high, reversal, len(images), list(seeds))


def rises_through_zero(x: Tensor, y: Tensor) -> Tensor:
    """The first x where y(x), interpolated linearly, rises through 0; NaN without one."""
    rises = ((y[:-1] < 0) & (y[1:] >= 0)).nonzero().flatten()
    if not len(rises):
        return x.new_tensor(torch.nan)
    i = rises[0]
    return x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])


def mean_over_seeds(values: Tensor) -> str:
    """The mean and range, "0.231 (0.225 to 0.240)", with the number of finite values if some are NaN."""
    known = values[~values.isnan()]
    if not len(known):
        return "none"
    spread = f"{known.min():.3f} to {known.max():.3f}" if len(known) > 1 else ""
    some = f"{len(known)} of {len(values)} seeds" if len(known) < len(values) else ""
    about = ", ".join(filter(None, (spread, some)))
    return f"{known.mean():.3f}" + (f" ({about})" if about else "")


def plot_hybrid(axes: Axes, models: Mapping[str, HybridReliance], styles: Styles | None = None) -> None:
    """Draw p(low) − p(high) of hybrid images by mixing frequency.

    Means over the seeds, with bars from the lowest to the highest; the reversal frequency is a tick on the zero line,
    with its range.
    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 5.
    """
    axes.axhline(0, color=GREY, linewidth=1)
    for name, measured, style in styled(models, styles):
        gap = (measured.low - measured.high).numpy()
        mean = gap.mean(0)
        spread = np.abs(np.stack([gap.min(0), gap.max(0)]) - mean)
        axes.errorbar(measured.frequencies.numpy(), mean, spread, label=name, **style)
        reversal = measured.reversal[~measured.reversal.isnan()]
        if len(reversal):
            axes.plot(reversal.mean(), 0, "|", color=style["color"], markersize=16, markeredgewidth=2)
            axes.hlines(0, reversal.min(), reversal.max(), color=style["color"], linewidth=4)
    axes.set(xlabel="mixing " + FREQUENCY, ylabel="p(low) − p(high)", ylim=(-1.02, 1.02))


def plot_reversal(
    axes: Axes,
    models: Mapping[str, tuple[HybridReliance, MinimalPerturbationSpectrum]],
    styles: Styles | None = None,
) -> None:
    """Draw the median size of minimal perturbations, with quartiles, against f_rev, with its range over seeds.

    Raises ValueError for a model without f_rev at any seed, and for models of different norms. Source: Li et al., PLoS
    Comput. Biol. 2023, Fig. 5b.
    """
    for name, (hybrid, perturbation), style in styled(models, styles):
        known = hybrid.reversal[~hybrid.reversal.isnan()].numpy()
        if not len(known):
            raise ValueError(f"models: {name} has no reversal frequency at any seed")
        across = [[known.mean() - known.min()], [known.max() - known.mean()]]
        draw_size(axes, perturbation, known.mean(), across, name, style)
    sizes = name_of_size([perturbation for _, perturbation in models.values()])
    axes.set(xlabel="reversal frequency (cycles/pixel)", ylabel=sizes)
    axes.set_ylim(bottom=0)


@register_diagnostic("hybrid")
class Hybrid(Diagnostic):
    """``hybrid_reliance`` as a diagnostic."""

    measure = staticmethod(hybrid_reliance)
    measurement = HybridReliance
    help = "shares of hybrid images classified by low and high frequencies, and the reversal frequency (Li et al.)."
    presets = {"quick": {"images": 300, "seeds": (0,)}, "full": {"images": 0}}
    order = 30
    columns = (
        Column(
            "reversal frequency (cycles/pixel)", lambda measured: measured.reversal.nanmean().item(),
            lambda measured: mean_over_seeds(measured.reversal), title=Markup("f<sub>rev</sub>"),
            key="reversal_frequency", unit="cycles/pixel", digits=3,
            help="Above it, hybrid images are classified by their low frequencies (Li et al.).",
            hint="lower if the model relies on low frequencies", none="p(low) − p(high) never rises through 0",
            part=lambda m: "" if m.reversal.isfinite().all() else f"of the {m.reversal.isfinite().sum()} with one",
            order=30,
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return len(settings["frequencies"]) * len(settings["seeds"])

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models, smallest = measurements["hybrid"], measurements["minimal_perturbation"]
        section = Section("hybrid", "Hybrid images: low or high frequencies", "hybrid images", 50)
        if models:
            styles = measurements.styles_of("hybrid")
            yield Picture(
                "hybrid",
                "Share of hybrid images classified by their low minus by their high frequencies.",
                [Panel("hybrid images", partial(plot_hybrid, models=models, styles=styles))], (6.4, 3.8), styles,
                section=section,
                caption=measurements.caption(
                    "hybrid",
                    "Hybrids have one image’s frequencies below the mixing frequency and those of another class above. "
                    "Above 0 the model follows the low frequencies more often; the tick on 0 is f<sub>rev</sub>, lower "
                    "if the model relies more on low frequencies. {images} images of {source}, seeds {seeds}; bars are "
                    "the range over the seeds (Li et al., PLoS Comput. Biol. 2023, Fig. 5a).",
                ),
            )  # fmt: skip
        both = {
            name: (measured, smallest[name]) for name, measured in models.items()
            if name in smallest and smallest[name].success.any() and not measured.reversal.isnan().all()
        }  # fmt: skip
        if both:
            styles = {name: measurements.styles[name] for name in both}
            yield Picture(
                "reversal", "The size of minimal perturbations against the reversal frequency on hybrid images.",
                [Panel("size against reversal frequency", partial(plot_reversal, models=some, styles=styles))
                 for some in by_norm(both, lambda measured: measured[1].norm)],
                (6.4, 3.8), styles, section=section,
                caption=Markup(
                    "The median size of minimal perturbations with quartiles against f<sub>rev</sub>, bars from the "
                    "lowest to the highest of the seeds (Li et al., Fig. 5b)."
                ),
                compared=[["hybrid"], ["minimal_perturbation"]],
            )  # fmt: skip
