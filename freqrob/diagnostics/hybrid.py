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
from freqrob.data.hybrid import MIXING_FREQUENCIES, NYQUIST, check_frequencies, hybrid_images, partners
from freqrob.data.streams import Images
from freqrob.diagnostics.drawing import GREY, Panel, Picture, Section, Styles, styled
from freqrob.diagnostics.measurement import Measurement, Quantity
from freqrob.diagnostics.per_sample import per_sample
from freqrob.diagnostics.registry import Column, Diagnostic, Measurements, register_diagnostic
from freqrob.runtime.parameters import Count, check_seeds, checked, fits, shown
from freqrob.runtime.progress import Progress, no_progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes


HYBRID = Section("hybrid", "Hybrid images: low or high frequencies", "hybrid images", 50)


@dataclass(frozen=True)
class HybridReliance(Measurement):
    """Shares of hybrid images that a model classifies by their low and by their high frequencies.

    Attributes:
        frequencies: (F,) mixing frequencies, ascending.
        low, high: (seeds, F) shares of the hybrid images classified as the image of their low or high frequencies.
        reversal: (seeds,) reversal frequency f_rev: the first frequency at which low − high rises through 0,
            interpolated linearly; NaN if there is none. ``reversal_nyquist`` is in units of Nyquist, as printed by Li
            et al.
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

    @property
    def reversal_nyquist(self) -> Tensor:
        """(seeds,) f_rev in units of the Nyquist frequency, 0.5 cycles/pixel, as Li et al. print it."""
        return self.reversal / NYQUIST


@checked
def hybrid_reliance(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    frequencies: Sequence[float] = MIXING_FREQUENCIES,
    seeds: Sequence[int] = (0, 1, 2, 3),
    batch_size: Count | None = None,
    cache: Path | None = None,
    cache_key: str | None = None,
    progress: Progress = no_progress,
) -> HybridReliance:
    """Classify hybrid images: low frequencies of each image, high frequencies of one from another class.

    Args:
        frequencies: mixing frequencies in cycles/pixel; by default the authors' (which they give in units of Nyquist,
            0.5 cycles/pixel).
        seeds: seeds of the partners; each assigns different partners.
        model, images, labels, batch_size, cache, cache_key, progress: as for ``per_sample``; no class may have
            more than half of the images.

    Raises:
        ValueError: frequencies or seeds that are empty or not ascending, frequencies outside 0 to √½, negative seeds,
            or invalid images or labels.

    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 3 and 5; ``lizhe07/robust-arena``, ``roarena/einmon.py``.

    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> model = freqrob.load_model("standard_rn20")
    >>> samples = sample_images()
    >>> measured = hybrid_reliance(model, samples.images, samples.labels, frequencies=[0.1, 0.3], seeds=(0,))
    >>> measured.frequencies
    tensor([0.1000, 0.3000], dtype=torch.float64)
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

        def classify(model: nn.Module, indices: Tensor, device: torch.device, partner=partner) -> dict[str, Tensor]:
            low_images, high_images = (to_pixels(images[index]).to(device) for index in (indices, partner[indices]))
            low_labels, high_labels = (labels[index].to(device) for index in (indices, partner[indices]))
            outputs = [model(hybrid_images(low_images, high_images, frequency)) for frequency in frequencies]
            low, high = ([classified(logits, classes) for logits in outputs] for classes in (low_labels, high_labels))
            return {"low": torch.stack(low, 1), "high": torch.stack(high, 1)}

        key = {"diagnostic": "hybrid", "frequencies": list(frequencies), "seed": seed}
        samples = per_sample(
            classify, model, images, labels, key=key, quantity=f"hybrid {seed}", batch_size=batch_size, cache=cache,
            cache_key=cache_key, progress=progress,
        )  # fmt: skip
        low.append(samples["low"].double().mean(0))
        high.append(samples["high"].double().mean(0))
    low, high = torch.stack(low), torch.stack(high)
    mixing = torch.tensor(frequencies, dtype=torch.float64)
    reversal = torch.stack([rises_through_zero(mixing, gap) for gap in low - high])
    return HybridReliance(mixing, low, high, reversal, len(images), list(seeds))


def rises_through_zero(x: Tensor, y: Tensor) -> Tensor:
    """The first x at which y(x), interpolated linearly, rises through 0; NaN if there is none."""
    rises = ((y[:-1] < 0) & (y[1:] >= 0)).nonzero().flatten()
    if not len(rises):
        return x.new_tensor(torch.nan)
    i = rises[0]
    return x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])


def reversal_in_words(reversal: Tensor) -> str:
    """f_rev in units of Nyquist as Li et al. print it, and in cycles/pixel: "0.528 ± 0.001 (0.264)".

    ``reversal`` (seeds,) is in cycles/pixel. The standard deviation is over the seeds. The number of finite values
    follows if some are NaN.
    """
    known = reversal[~reversal.isnan()].double()
    if not len(known):
        return "none"
    spread = f" ± {(known / NYQUIST).std():.3f}" if len(known) > 1 else ""
    seeds = f", {len(known)} of {len(reversal)} seeds" if len(known) < len(reversal) else ""
    return f"{known.mean() / NYQUIST:.3f}{spread} ({known.mean():.3f}){seeds}"


def plot_hybrid(axes: Axes, models: Mapping[str, HybridReliance], styles: Styles | None = None) -> Axes:
    """Draw p(low) − p(high) of hybrid images by mixing frequency, in units of Nyquist.

    Draws means over the seeds, with bars from the smallest to the largest value; the reversal frequency is a tick on
    the zero line, with its range. The upper axis is in cycles/pixel.
    Source: Li et al., PLoS Comput. Biol. 2023, Fig. 3b and 5a.
    """
    axes.axhline(0, color=GREY, linewidth=1)
    for name, measured, style in styled(models, styles):
        gap = (measured.low - measured.high).numpy()
        mean = gap.mean(0)
        spread = np.abs(np.stack([gap.min(0), gap.max(0)]) - mean)
        axes.errorbar((measured.frequencies / NYQUIST).numpy(), mean, spread, label=name, **style)
        reversal = measured.reversal_nyquist[~measured.reversal.isnan()]
        if len(reversal):
            axes.plot(reversal.mean(), 0, "|", color=style["color"], markersize=16, markeredgewidth=2)
            axes.hlines(0, reversal.min(), reversal.max(), color=style["color"], linewidth=4)
    axes.set(xlabel="mixing frequency ÷ Nyquist", ylabel="p(low) − p(high)", ylim=(-1.02, 1.02))
    to_cycles, to_nyquist = (lambda f: np.asarray(f) * NYQUIST), (lambda f: np.asarray(f) / NYQUIST)
    axes.secondary_xaxis("top", functions=(to_cycles, to_nyquist)).set_xlabel("cycles/pixel")
    return axes


@register_diagnostic("hybrid")
class Hybrid(Diagnostic):
    """``hybrid_reliance`` as a diagnostic."""

    measure = staticmethod(hybrid_reliance)
    measurement = HybridReliance
    help = "shares of hybrid images classified by low and high frequencies, and the reversal frequency (Li et al.)."
    presets = {"quick": {"images": 300, "seeds": (0,)}, "full": {"images": 0}}
    streams = True
    order = 30
    columns = (
        Column(
            "reversal frequency ÷ Nyquist (cycles/pixel)", lambda measured: measured.reversal_nyquist.nanmean().item(),
            lambda measured: reversal_in_words(measured.reversal), title=Markup("f<sub>rev</sub>"),
            key="reversal_frequency_nyquist", unit="Nyquist", digits=3,
            help="Above it, hybrid images are mostly classified by their low frequencies; in units of Nyquist, "
            "0.5 cycles/pixel, as Li et al. print it.",
            hint="lower if the model relies on low frequencies", none="p(low) − p(high) never rises through 0",
            part=lambda m: "" if m.reversal.isfinite().all() else f"over {m.reversal.isfinite().sum()} seeds with one",
            order=30,
        ),
    )  # fmt: skip

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        return len(settings["frequencies"]) * len(settings["seeds"])

    def reads(self, settings: Mapping[str, Any]) -> int:
        return 2 * len(settings["seeds"])

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        models = measurements["hybrid"]
        if models:
            styles = measurements.styles_of("hybrid")
            yield Picture(
                "hybrid",
                "Share of hybrid images classified by their low minus by their high frequencies.",
                [Panel("hybrid images", partial(plot_hybrid, models=models, styles=styles))], (6.4, 3.8), styles,
                section=HYBRID,
                caption=measurements.caption(
                    "hybrid",
                    "Hybrids have one image’s frequencies below the mixing frequency and those of another class above. "
                    "Above 0 the model follows the low frequencies more often; the tick on 0 is f<sub>rev</sub>, lower "
                    "if the model relies more on low frequencies, in units of Nyquist (0.5 cycles/pixel). {images} "
                    "images of {source}, seeds {seeds}; bars are the range over the seeds (Li et al., PLoS Comput. "
                    "Biol. 2023, Fig. 3b and 5a).",
                ),
            )  # fmt: skip
