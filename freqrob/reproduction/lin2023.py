"""Lin et al., NeurIPS 2023 (BaSS): Figures 1 to 4, Tables 1 to 4, and the statements of Sections 2 to 4.

Errors in the text that matter here: Sec. 2.2 prints the decreasing trend of π_i as π_k1 < π_k2; the min over n of Eq.
2's HFC is always 0 and should be a max; Theorem 1's limit for k → 0 is −∞, not ∞; Sec. 4.3 refers to Table 3 and means
Table 2; Sec. 3.3.1 calls a smaller α a stronger long tail, see ``freqrob.spectral.longtail.PowerLaw``.

Protocols. Lin et al. train *and test* adversarially trained BaSS models on balanced images: the attack comes after BaSS
and its ball is around the balanced image (their scripts process the test set). This is the protocol ``bass``, used by
the "+BaSS" rows of Tables 1 to 3. Models with γ and AugMix models are tested on natural images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product
from math import e, inf, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from freqrob.attacks import PGD, Attack, AutoAttack, Clean
from freqrob.data import balance
from freqrob.data.image_files import SUFFIXES
from freqrob.diagnostics.loss_landscape import Component, LossLandscape, component, loss_landscape, plot_landscape
from freqrob.diagnostics.sensitivity import Sensitivity, radius_density, sensitivity
from freqrob.evaluation.corruptions import GROUPS, CorruptionAccuracy
from freqrob.reproduction.criteria import Judge, above, below, every, higher, increasing, mean_gain, near
from freqrob.reproduction.experiment import (
    Claim,
    Column,
    Experiment,
    Measured,
    Number,
    Outcome,
    Paper,
    Scale,
    Subject,
    experiment,
)
from freqrob.reproduction.lab import Lab
from freqrob.runtime.reading import read_image
from freqrob.spectral.balance import bass
from freqrob.spectral.longtail import (
    mean_power,
    power_law_entropy,
    power_law_of,
    profile_of,
    spectral_entropy,
    split_of,
)
from freqrob.spectral.rings import RingMap
from freqrob.training import recipe_for
from freqrob.training.cost import step_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIN = Paper(
    "lin2023",
    "Lin et al. 2023",
    "Lin, Gao, Yang and Sang: Revisiting Visual Model Robustness: A Frequency Long-Tailed Distribution View. NeurIPS "
    "2023",
)
Cells = Mapping[str, Mapping[str, Number]]


def _printed(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Number]]:
    """The paper's numbers by row and column."""
    return {row: {name: Number(x) for name, x in zip(columns, numbers, strict=True)} for row, numbers in rows.items()}


# Sections 2 and 3: the long tail

AS_CODED, AS_PRINTED = "BaSS (the authors' code)", "BaSS (Eq. 1 and 4)"
IMAGE_SETS = {"CIFAR10": "cifar10", "Tiny-ImageNet": "tiny_imagenet", "ImageNet": "imagenet_sample"}
FOLDERS = {"Tiny-ImageNet": "tiny_imagenet_val", "ImageNet": "imagenet_sample"}
WEIGHTINGS = {"": None, AS_CODED: "amplitude", AS_PRINTED: "power"}


def long_tail_row(images: str, after: str = "") -> str:
    """The row of an image set, natural or after a weighting of BaSS."""
    return f"{images}, {after}" if after else images


def _images_of(name: str, lab: Lab) -> Tensor:
    """Images (N, 3, H, W) uint8. Raises FileNotFoundError, which says how to get them."""
    try:
        if name != "ImageNet":
            return lab.test_set(IMAGE_SETS[name], "spectrum").tensor
    except FileNotFoundError:
        if name not in FOLDERS:
            raise
    folder = lab.data / FOLDERS[name]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"data: {folder} has no images; it takes RGB images of one size, in any subfolders")
    return _read(paths[: lab.count("spectrum", len(paths))])


def _read(paths: Sequence[Path]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(read_image(path)) for path in paths])).permute(0, 3, 1, 2)


@experiment("lin2023:longtail")
class LongTail(Experiment):
    """The spectra of images of three sizes before and after BaSS."""

    paper, where, title = LIN, "Sections 2.2, 3.3 and 4.1", "The long tail of spectra, its entropy, and BaSS"
    needs = "images of 64 pixels as tiny-imagenet-200/ or in tiny_imagenet_val/, of 224 pixels in imagenet_sample/"
    subjects = tuple(
        Subject(long_tail_row(images, after), options={"images": images, "weighting": weighting})
        for images, (after, weighting) in product(IMAGE_SETS, WEIGHTINGS.items())
    )
    columns = (
        Column("images", help="their number"),
        Column("pixels", help="their width"),
        Column("α", help="the mean power of a coefficient falls as f^−α"),
        Column("R²", help="of the fit in logarithms"),
        Column("boundary", "cycles/pixel", "radius of the smallest disc with 80 % of the power without DC"),
        Column("boundary radius", "% of the spectrum's radius", "the same; the radius is that of the corner"),
        Column("bands with more power than the one before", help="the number of i with π_i > π_(i−1)"),
        Column("smallest H_k of LFC", "nats", "H_k = −π_k ln π_k of the bands within the boundary"),
        Column("largest H_k of HFC", "nats", "of those beyond"),
        Column("entropy", "nats", "Σ H_k"),
        Column("largest entropy", "nats", "of a flat spectrum"),
    )
    claims = (
        *(
            Claim(
                "different resolution images' high-low frequency boundaries are at a 20% radius from the spectrum's "
                f"center [{images}]",
                "Section 2.2",
                "80 % of the power is within 15 to 25 % of the spectrum's radius",
                near((images, "boundary radius"), 20, 5),
            )
            for images in IMAGE_SETS
        ),
        *(
            Claim(
                f"the power spectral density follows a power-law distribution [{images}]",
                "Section 2.2",
                "R² of the fit is over 0.95 (the paper gives no measure)",
                above((images, "R²"), 0.95),
            )
            for images in IMAGE_SETS
        ),
        *(
            Claim(
                f"{{π_i}} naturally present in decreasing trend (i.e., if k1 < k2, then π_k1 < π_k2) [{images}]",
                "Section 2.2, whose second < is a misprint for >",
                "no band has more power than the one before it",
                near((images, "bands with more power than the one before"), 0, 0),
            )
            for images in IMAGE_SETS
        ),
        *(
            Claim(
                "high-frequency bands in the tail contain substantially less information than low-frequency bands in "
                f"the head [{images}]",
                "Section 3.3.1",
                "the largest H_k beyond the 80/20 boundary is below the smallest within it",
                higher((images, "smallest H_k of LFC"), (images, "largest H_k of HFC")),
            )
            for images in IMAGE_SETS
        ),
        *(
            Claim(
                f"[BaSS is] yielding a more balanced distribution overall [{images}, {after}]",
                "Section 4.1",
                "the entropy rises, which Section 3.3.2 maximises; α has two readings, see the documentation",
                higher((long_tail_row(images, after), "entropy"), (images, "entropy")),
            )
            for images, after in product(IMAGE_SETS, (AS_CODED, AS_PRINTED))
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": "the test or validation set, or the folder", "rings": "trunc"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        images, weighting = _images_of(subject.options["images"], lab), subject.options["weighting"]
        pixels = images if weighting is None else bass(images, weighting=weighting)
        power, rings = mean_power(pixels).cpu(), RingMap.of(pixels)
        share = profile_of(power.clone(), rings)
        law, parts, entropies = power_law_of(power, rings), split_of(share, rings), spectral_entropy(share)
        low, high = entropies[1 : parts.boundary + 1], entropies[parts.boundary + 1 :]
        numbers = {
            "images": len(pixels),
            "pixels": pixels.shape[-1],
            "α": law.alpha, "R²": law.r_squared, "boundary": parts.radius,
            "boundary radius": 100 * parts.radius_fraction,
            "bands with more power than the one before": int((share[1:].diff() > 0).sum()),
            "smallest H_k of LFC": low.min().item(),
            "largest H_k of HFC": high.max().item() if len(high) else 0.0,
            "entropy": entropies.sum().item(), "largest entropy": float(np.log(len(share) - 1)),
        }  # fmt: skip
        arrays = {"share": share, "entropy": entropies, "frequencies": rings.radii}
        return Measured({name: Number(value) for name, value in numbers.items()}, arrays)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(9, 3.4)
        shares, entropies = figure.subplots(1, 2)
        for row, arrays in outcome.arrays.items():
            frequencies = arrays["frequencies"][1:]
            style = "-" if row in IMAGE_SETS else "--" if AS_CODED in row else ":"
            shares.plot(frequencies, arrays["share"][1:], style, label=row)
            entropies.plot(frequencies, arrays["entropy"][1:], style)
        shares.set(xlabel="cycles/pixel", ylabel="π_k, share of the power", yscale="log")
        entropies.set(xlabel="cycles/pixel", ylabel="H_k (nats)")
        figure.legend(loc="outside right upper", fontsize="x-small")


@experiment("lin2023:theorem1")
class Theorem1(Experiment):
    """The limits of H_k = (α A_α log k + H(A(α))) k^−α."""

    paper, where, title = LIN, "Theorem 1", "Limits of the spectral entropy of a power law"
    subjects = tuple(Subject(f"α = {alpha:g}", options={"alpha": alpha}) for alpha in (0.5, 1.0, 2.0, 2.75))
    columns = (
        Column("k → 0", "nats", "H_k at k = 1e-9, on [1, 22] as for 32 pixels"),
        Column("k → ∞", "nats", "H_k at k = 1e9"),
        Column("largest", "nats", "the largest H_k over k from 1e-9 to 1e9; −p ln p is at most 1/e = 0.368"),
    )
    claims = (
        Claim(
            "lim_{k→∞} H_k = 0", "Theorem 1", "|H_k| < 0.001 at k = 1e9",
            every(*(near((subject.row, "k → ∞"), 0, 1e-3) for subject in subjects)),
        ),
        Claim(
            "lim_{k→0} H_k = ∞", "Theorem 1", "H_k at k = 1e-9 exceeds 1/e; an erratum: the limit is −∞",
            every(*(above((subject.row, "k → 0"), 1 / e) for subject in subjects)),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"lowest": 1, "highest": 22}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        bands = torch.logspace(-9, 9, 100_001, dtype=torch.float64)
        entropies = power_law_entropy(bands, subject.options["alpha"], 1, 22)
        values = (entropies[0], entropies[-1], entropies.max())
        return Measured({c.name: Number(x.item()) for c, x in zip(self.columns, values, strict=True)})


# Figures 1 and 4: loss landscapes on both components

HALVES: dict[str, Component] = {"LFC": "low", "HFC": "high"}
LANDSCAPE_SEEDS = 4
SPAN = 1.0
QUANTITIES = {
    "loss": ("nats", "at the weights"),
    "steepness": ("nats per filter norm", "norm of the gradient of the surface at the weights"),
    "distance": ("filter norms", "of the weights from the smallest loss of the surface"),
    "depth": ("nats", "the loss at the weights above the smallest loss of the surface"),
}


class _Landscapes(Experiment):
    """The loss around the weights on the components of the test images, along four pairs of directions."""

    paper = LIN
    columns = tuple(
        Column(f"{name}, {half}", unit, help) for half in HALVES for name, (unit, help) in QUANTITIES.items()
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {
            "images": scale.count("loss_landscape") or "all test images", "points": _points(scale), "span": SPAN,
            "pairs of directions": LANDSCAPE_SEEDS, "±": "standard error over pairs of directions",
        }  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        test, numbers, arrays = lab.test_set(subject.dataset, "loss_landscape"), {}, {}
        for half, part in HALVES.items():
            shown = component(test.tensor, part, clip=subject.options.get("clip", False))
            landscapes = [
                loss_landscape(
                    model, shown, test.labels, span=SPAN, points=_points(lab.scale), seed=lab.seed + pair,
                    cache=lab.cache, progress=lab.progress,
                )
                for pair in range(LANDSCAPE_SEEDS)
            ]  # fmt: skip
            numbers |= {f"{name}, {half}": number for name, number in _quantities(landscapes).items()}
            arrays |= {half: landscapes[0].loss, "steps": landscapes[0].offsets}
        return Measured(numbers, arrays)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        """Draw one row of panels per half of the spectrum, with the weights in the middle."""
        rows = list(outcome.arrays)
        figure.set_size_inches(3 * len(rows) + 1, 6)
        grid = figure.subplots(2, len(rows), squeeze=False)
        for axes, (half, row) in zip(grid.flat, product(HALVES, rows), strict=True):
            arrays = outcome.arrays[row]
            loss = arrays[half]
            surface = LossLandscape(arrays["steps"], loss, torch.zeros_like(loss), nan, nan, 0, 0)
            contours = plot_landscape(axes, surface)
            ticks = np.asarray(contours.levels)[::3]
            bar = figure.colorbar(contours, ax=axes, shrink=0.7, ticks=ticks)
            bar.ax.set_yticklabels([f"{level:.2g}" for level in ticks])
            axes.set_title(f"{row}, {half}", fontsize="small")


def _points(scale: Scale) -> int:
    return 41 if scale.name == "paper" else 11


def _quantities(landscapes: Sequence[LossLandscape]) -> dict[str, Number]:
    """Means over the pairs of directions, with their standard errors; the loss at the weights has none."""
    middle = landscapes[0].points // 2
    each = {
        "steepness": [landscape.steepness for landscape in landscapes],
        "distance": [landscape.distance_to_minimum for landscape in landscapes],
        "depth": [landscape.depth for landscape in landscapes],
    }
    numbers = {name: Number(fmean(values), stdev(values) / len(values) ** 0.5) for name, values in each.items()}
    return {"loss": Number(landscapes[0].loss[middle, middle].item()), **numbers}


@experiment("lin2023:fig1")
class Figure1(_Landscapes):
    """Landscapes of a naturally trained ResNet-18 on HFC and LFC, and on both clipped to [0, 1] (``component``)."""

    where, title = "Figure 1", "Loss landscape of HFC (a) and LFC (b), natural training on CIFAR10"
    UNCLIPPED, CLIPPED = "ResNet-18", "ResNet-18, clipped"
    subjects = (Subject(UNCLIPPED, "standard_rn18"), Subject(CLIPPED, "standard_rn18", options={"clip": True}))
    takes_models = True
    claims = (
        Claim(
            "[on LFC] the parameter space around the model θ is relatively flat …; [on HFC] the model θ are located in "
            "a steep region of the landscape, with loss rapidly decreasing when moving along the gradient directions",
            "Section 3.1",
            "the surface is steeper at the weights on HFC than on LFC",
            higher((UNCLIPPED, "steepness, HFC"), (UNCLIPPED, "steepness, LFC")),
        ),
        Claim(
            "[on LFC] close to the local minima …; [on HFC] we also observe a better local minimum far away from "
            "current model",
            "Section 3.1",
            "the smallest loss of the surface is farther from the weights on HFC than on LFC",
            higher((UNCLIPPED, "distance, HFC"), (UNCLIPPED, "distance, LFC")),
        ),
        Claim(
            "the learning for high-frequency components has not converged, while the learning for low-frequency "
            "components has already reached a local optimum",
            "Figure 1",
            "the loss at the weights exceeds the smallest one by more on HFC than on LFC",
            higher((UNCLIPPED, "depth, HFC"), (UNCLIPPED, "depth, LFC")),
        ),
    )


GAMMAS = {"γ = 0": 0.0, "γ = ¼": 0.25, "γ = ½": 0.5, "γ = ¾": 0.75, "γ = 1": 1.0}


def _with_gamma(row: str) -> Subject:
    """The model whose training images are balanced with probability γ.

    ``standard`` and ``bass_standard`` are γ = 0 and 1; γ = ½ is the default of ``bassmix_``. For γ = 1 the best epoch
    is chosen on balanced validation images, for the others on natural images.
    """
    gamma = GAMMAS[row]
    variant = {0.0: "", 1.0: "bass_"}.get(gamma, "bassmix_")
    settings = () if gamma in (0.0, 0.5, 1.0) else (f"gamma={gamma:g}",)
    return Subject(row, f"{variant}standard_rn18", settings=settings)


@experiment("lin2023:fig4")
class Figure4(_Landscapes):
    """Landscapes for three shares of balanced training images."""

    where = "Figure 4"
    title = "Loss landscape by the ratio γ of CIFAR10-B images (here γ = 0, ½, 1; the text does not give the paper's)"
    ROWS = ("γ = 0", "γ = ½", "γ = 1")
    subjects = tuple(_with_gamma(row) for row in ROWS)
    claims = (
        Claim(
            "as the proportion of CIFAR10-B images increases …, the model converges more on the high-frequency "
            "components (the black stars are closer to the local minimum)",
            "Section 4.2",
            "on HFC, the distance to the smallest loss falls with γ",
            increasing(ROWS, "distance, HFC", descending=True),
        ),
        Claim(
            "as the proportion of CIFAR10-B images increases …, the model converges more on the high-frequency "
            "components",
            "Section 4.2",
            "on HFC, the steepness at the weights falls with γ (Section 3.1's sign of under-fitting)",
            increasing(ROWS, "steepness, HFC", descending=True),
        ),
    )


# Figure 2: sensitivity

RANKS = {"top one": 0.0, "20 %": 0.2, "40 %": 0.4, "60 %": 0.6, "80 %": 0.8, "last one": 1.0}
BEYOND = "top one beyond the boundary"


@experiment("lin2023:fig2")
class Figure2(Experiment):
    """The gradient's coefficients by rank, and the frequencies of the largest ones.

    The text names no network for Tiny-ImageNet and ImageNet; here it is a ResNet-18, as for CIFAR10.
    """

    paper, where = LIN, "Figure 2"
    title = "Model sensitivity to frequency components, natural training at 32, 64 and 224 pixels"
    needs = "tiny-imagenet-200/, and ImageNet's val/"
    subjects = (
        Subject("CIFAR10", "standard_rn18"),
        Subject("Tiny-ImageNet", "standard_rn18", "tiny_imagenet"),
        Subject("ImageNet", model="torchvision:resnet18", dataset="imagenet"),
    )
    takes_models = True
    columns = (
        *(Column(f"peak, {rank}", "cycles/pixel", "mode of the density of its radius over images") for rank in RANKS),
        Column("boundary", "cycles/pixel", "radius of the gray dashed line, at which the high frequencies begin"),
        Column(BEYOND, "% of the images", "the largest coefficient is a high frequency"),
        Column("top 20 %", "% of the magnitude", "sum over the 20 % of the coefficients with the largest magnitude"),
    )
    claims = (
        *(
            Claim(
                "the density peaks of frequency radius in high-magnitude gradients are mainly concentrated in the tail "
                f"high-frequencies [{subject.row}]",
                "Section 3.2.2",
                "the peaks of the top one and the 20 % curves are beyond the boundary",
                every(*(higher((subject.row, f"peak, {r}"), (subject.row, "boundary")) for r in ("top one", "20 %"))),
            )
            for subject in subjects
        ),
        *(
            Claim(
                "an imbalanced distribution of gradients in different frequency bands, and the degree of imbalance is "
                f"quite pronounced, resembling a similar long-tailed distribution [{subject.row}]",
                "Section 3.2.2",
                "the largest 20 % of the coefficients have over 40 % of the magnitude (the paper gives no measure)",
                above((subject.row, "top 20 %"), 40),
            )
            for subject in subjects
        ),
        Claim(
            "In the result of ImageNet …, there are also large gradient magnitude in the head components",
            "Section 3.2.2",
            "the largest coefficient is a low frequency for more images than on CIFAR10",
            higher(("CIFAR10", BEYOND), ("ImageNet", BEYOND)),
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": scale.count("sensitivity") or "all test images", "density": "Gaussian, Scott's width"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        test = lab.test_set(subject.dataset, "sensitivity", model=model)
        coefficients = test.images.shape[-2] * (test.images.shape[-1] // 2 + 1)
        ranks = [min(round(share * coefficients), coefficients - 1) for share in RANKS.values()]
        measured = sensitivity(model, test.images, test.labels, ranks=ranks, cache=lab.cache, progress=lab.progress)
        radii = measured.radii[~measured.high_share.isnan()].double()
        if not len(radii):
            return Measured({"boundary": Number(measured.boundary)})
        points = torch.linspace(0, 0.75, 300, dtype=torch.float64)
        densities = torch.stack([torch.from_numpy(radius_density(x.numpy(), points.numpy())) for x in radii.T])
        peaks = points[densities.argmax(1)]
        numbers = {f"peak, {rank}": Number(peak) for rank, peak in zip(RANKS, peaks.tolist(), strict=True)}
        numbers["boundary"] = Number(measured.boundary)
        numbers[BEYOND] = Number.percentage((radii[:, 0] >= measured.boundary).double().mean().item(), len(radii))
        largest = measured.magnitude[: ranks[1]].sum() / measured.magnitude.sum()
        numbers["top 20 %"] = Number(100 * largest.item())
        return Measured(numbers, {"magnitude": measured.magnitude, "densities": densities, "at": points})

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        rows = list(outcome.arrays)
        figure.set_size_inches(3.4 * len(rows) + 1, 5.6)
        grid = figure.subplots(2, len(rows), squeeze=False)
        for column, row in enumerate(rows):
            arrays = outcome.arrays[row]
            grid[0, column].plot(np.arange(1, len(arrays["magnitude"]) + 1), arrays["magnitude"], color="black")
            grid[0, column].set(title=row, xlabel="rank index", ylabel="gradient magnitude")
            for rank, density, shade in zip(RANKS, arrays["densities"], np.linspace(0.85, 0.25, 6), strict=True):
                grid[1, column].plot(arrays["at"], density, color=(shade, 0.1, 0.1, shade), label=rank)
            grid[1, column].axvline(outcome.numbers[row, "boundary"].value, color="grey", linestyle="--")
            grid[1, column].set(xlabel="frequency radius (cycles/pixel)", ylabel="density")
        grid[1, -1].legend(title="rank", fontsize="x-small")


# Figure 3: γ, and CIFAR10-B as a separate data set

RADII = (1, 2, 4, 8)
KINDS = ("noise", "blur", "weather", "digital")
NEW_DATASET = "CIFAR10-B"
MIXED = ("γ = 0", "γ = ¼", "γ = ½", "γ = ¾")


def _at_eps(eps: int) -> str:
    return f"PGD-20, ε = {eps}/255"


def _on_corruptions(accuracy: CorruptionAccuracy, groups: Sequence[str]) -> dict[str, Number]:
    """Mean accuracies in percent by group."""
    means = accuracy.means()
    return {group: Number(100 * means[group], 100 * accuracy.standard_errors.get(group, nan)) for group in groups}


def _accuracy(model: nn.Module, subject: Subject, lab: Lab, attack: Attack, **settings: Any) -> Number:
    (number,) = lab.accuracies(model, subject, [attack], **settings).values()
    return number


@experiment("lin2023:fig3")
class Figure3(Experiment):
    """Accuracies by γ on natural images, and accuracies of the model of CIFAR10-B."""

    paper, where = LIN, "Figure 3"
    title = "Clean accuracy, 19 corruptions and PGD-20 by γ; CIFAR10 against CIFAR10-B"
    subjects = (*map(_with_gamma, GAMMAS), Subject(NEW_DATASET, "bass_standard_rn18", options={"bass": True}))
    columns = (
        Column("clean", "%", f"test images; balanced ones for {NEW_DATASET}"),
        *(Column(kind, "%", "mean over its types of corruption and 5 severities") for kind in KINDS),
        Column("19 types", "%", f"CIFAR10-C; for {NEW_DATASET} the corruptions of balanced images (CIFAR10-B-C)"),
        *(Column(_at_eps(eps), "%", "20 steps of ε/4, one random start") for eps in RADII),
    )
    claims = (
        Claim(
            "the corruption robustness is improved across all categories",
            "Section 4.2",
            "each of noise, blur, weather and digital is higher at γ = ¼, ½ and ¾ than at γ = 0",
            every(*(higher((row, kind), (MIXED[0], kind)) for row, kind in product(MIXED[1:], KINDS))),
        ),
        Claim(
            "The enhancement of adversarial robustness under small perturbation (e.g., ϵ =1/255, 2/55 [sic]) is quite "
            "significant, with the improvement magnitude positively correlated with the mixing ratio",
            "Section 4.2",
            "PGD-20 accuracy at ε = 1/255 and 2/255 rises with γ from 0 to ¾ (at γ = 1 nothing is mixed)",
            every(*(increasing(MIXED, _at_eps(eps)) for eps in (1, 2))),
        ),
        Claim(
            "the issue of model robustness under large perturbations still remains",
            "Section 4.2",
            "PGD-20 accuracy at ε = 8/255 is under chance, 10 %, for each γ",
            every(*(below((row, _at_eps(8)), 10) for row in GAMMAS)),
        ),
        Claim(
            "the data-augmented model achieves a better trade-off between robustness and accuracy",
            "Section 4.2",
            "at γ = ½, accuracy on the 19 corruptions and under PGD-20 at ε = 1/255 is higher, and clean accuracy at "
            "most one point lower than at γ = 0 (the paper gives no measure)",
            every(
                higher(("γ = ½", "19 types"), ("γ = 0", "19 types")),
                higher(("γ = ½", _at_eps(1)), ("γ = 0", _at_eps(1))),
                higher(("γ = ½", "clean"), ("γ = 0", "clean"), by=-1),
            ),
        ),
        Claim(
            "The naturally trained model achieves a better robustness-accuracy trade-off on the CIFAR10-B than on the "
            "CIFAR-10 dataset …. What attracts us is the improvement in adversarial robustness",
            "Section 4.2, Figure 3(d)",
            "PGD-20 accuracy of CIFAR10-B exceeds that of CIFAR10 at ε = 1/255, 2/255 and 4/255",
            every(*(higher((NEW_DATASET, _at_eps(eps)), ("γ = 0", _at_eps(eps))) for eps in (1, 2, 4))),
        ),
        Claim(
            "the performance of CIFAR10-B is superior to that of CIFAR-10 and all mixed datasets",
            "Section 4.2",
            "PGD-20 accuracy at ε = 1/255 and 2/255 exceeds that of each γ",
            every(*(higher((NEW_DATASET, _at_eps(eps)), (row, _at_eps(eps))) for eps in (1, 2) for row in GAMMAS)),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {
            "attack": "PGD-20, L∞, step ε/4, one random start", "protocol": f"natural; {NEW_DATASET}: bass",
            "images": scale.count("accuracy") or "all test images",
            "corrupted images": scale.count("corruptions") or "all test images",
        }  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        is_balanced = subject.options.get("bass", False)
        protocol = "bass" if is_balanced else "natural"
        attacks = {"clean": Clean(), **{_at_eps(eps): PGD(20, eps / 255) for eps in RADII}}
        numbers = {name: _accuracy(model, subject, lab, attack, protocol=protocol) for name, attack in attacks.items()}
        return Measured(
            numbers | _on_corruptions(lab.corruptions(model, subject, bass=is_balanced), (*KINDS, "19 types"))
        )

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(11, 6)
        (clean, corrupted), (attacked, datasets) = figure.subplots(2, 2)
        _draw_by_gamma(clean, outcome, ["clean"])
        _draw_by_gamma(corrupted, outcome, [*KINDS, "19 types"])
        _draw_by_gamma(attacked, outcome, [_at_eps(eps) for eps in RADII])
        names = ["clean", "19 types", *(_at_eps(eps) for eps in RADII)]
        for shift, row, label in ((-0.2, "γ = 0", "CIFAR10"), (0.2, NEW_DATASET, NEW_DATASET)):
            heights = [outcome.numbers[row, name].value for name in names]
            datasets.bar([place + shift for place in range(len(names))], heights, 0.4, label=label)
        datasets.set_xticks(range(len(names)), [name.replace("PGD-20, ", "") for name in names], fontsize="x-small")
        datasets.set(ylabel="accuracy (%)", title="(d) CIFAR10 and CIFAR10-B")
        for axes, title in ((clean, "(a) clean"), (corrupted, "(b) corruptions"), (attacked, "(c) PGD-20")):
            axes.set_title(title)
        for axes in (corrupted, attacked, datasets):
            axes.legend(fontsize="x-small")


def _draw_by_gamma(axes: Axes, outcome: Outcome, columns: Sequence[str]) -> None:
    for column in columns:
        known = {row: number.value for row, number in outcome.numbers.column(column).items() if row in GAMMAS}
        axes.plot([GAMMAS[row] for row in known], list(known.values()), "o-", label=column)
    axes.set(xlabel="γ", ylabel="accuracy (%)")


HIGH_SHARE = "HFC share of the gradient"


class _GradientShares(Experiment):
    """The share of the gradient's power in the high frequencies."""

    paper = LIN
    columns = (Column(HIGH_SHARE, "% of its power", "mean over images; from ring 5 on at 32 pixels"),)

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": scale.count("sensitivity") or "all test images"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        test = lab.test_set(subject.dataset, "sensitivity", model=model)
        chosen = balance(test) if subject.options.get("bass", False) else test
        measured: Sensitivity = sensitivity(model, chosen.images, chosen.labels, cache=lab.cache, progress=lab.progress)
        shares = measured.high_share[~measured.high_share.isnan()]
        error = shares.std(correction=0).item() / max(len(shares), 1) ** 0.5
        return Measured({HIGH_SHARE: Number(100 * measured.mean_high_share, 100 * error)})


@experiment("lin2023:gradients")
class Gradients(_GradientShares):
    """Gradients of a model trained on CIFAR10 and one trained on CIFAR10-B, each on its own images."""

    where, title = "Section 4.2 (Appendix F.2.1)", "Gradients on CIFAR10 and CIFAR10-B"
    subjects = (Subject("CIFAR10", "standard_rn18"), Subject(NEW_DATASET, "bass_standard_rn18", options={"bass": True}))
    claims = (
        Claim(
            "the model trained on the CIFAR10-B dataset has a more balanced gradient distribution across different "
            "frequency domains …, the model's vulnerabilities aren't concentrated in the high-frequency direction",
            "Section 4.2",
            "the high frequencies have a smaller share of the gradient's power than with CIFAR10",
            higher(("CIFAR10", HIGH_SHARE), (NEW_DATASET, HIGH_SHARE)),
        ),
    )


# Tables 1 to 3: adversarial training

BASS = ", +BaSS"
ACCURACIES = ("clean", "PGD-20", "AutoAttack")
METHODS = {"PGD-AT": "pgd_at", "TRADES": "trades", "MART": "mart"}
NETWORKS = {"ResNet-18": "rn18", "WRN-34": "wrn34"}
DATA = {"CIFAR10": "cifar10", "CIFAR100": "cifar100"}
TABLE_1 = {
    ("CIFAR10", "PGD-AT", ""): ((83.50, 52.72, 48.90), (86.71, 55.13, 51.98)),
    ("CIFAR10", "PGD-AT", BASS): ((89.22, 59.61, 55.90), (91.08, 63.65, 60.91)),
    ("CIFAR10", "TRADES", ""): ((82.15, 52.50, 49.05), (85.66, 56.54, 53.77)),
    ("CIFAR10", "TRADES", BASS): ((87.20, 60.01, 56.27), (91.20, 65.38, 62.69)),
    ("CIFAR10", "MART", ""): ((81.38, 54.74, 49.48), (83.78, 56.75, 51.42)),
    ("CIFAR10", "MART", BASS): ((88.75, 60.43, 56.93), (89.63, 63.71, 59.09)),
    ("CIFAR100", "PGD-AT", ""): ((56.33, 29.29, 24.88), (61.78, 30.48, 27.93)),
    ("CIFAR100", "PGD-AT", BASS): ((63.91, 31.61, 27.95), (67.07, 34.87, 32.21)),
    ("CIFAR100", "TRADES", ""): ((58.30, 29.90, 25.52), (61.06, 31.83, 27.09)),
    ("CIFAR100", "TRADES", BASS): ((64.17, 32.94, 27.77), (69.01, 37.03, 33.03)),
    ("CIFAR100", "MART", ""): ((57.80, 30.73, 26.26), (58.10, 33.46, 28.36)),
    ("CIFAR100", "MART", BASS): ((63.94, 32.95, 28.01), (64.02, 37.79, 32.20)),
}


def _row(data: str, network: str, method: str, variant: str = "") -> str:
    return f"{data}, {network}, {method}{variant}"


def _trained(row: str, variant: str, defense: str, network: str, dataset: str) -> Subject:
    """An adversarially trained model, tested as the paper does."""
    if variant:
        return Subject(row, f"bass_{defense}_{network}", dataset, options={"protocol": "bass"})
    return Subject(row, f"{defense}_{network}", dataset, options={"protocol": "natural"})


class _AdversarialTraining(Experiment):
    """Clean, PGD-20 and AutoAttack accuracy; +BaSS rows on balanced images."""

    paper = LIN
    eps = 8
    columns = (
        Column("clean", "%", "test images; balanced ones for +BaSS"),
        Column("PGD-20", "%", "L∞, 20 steps of ε/4, one random start; for +BaSS around the balanced image"),
        Column("AutoAttack", "%", "the standard version"),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {
            "ε": f"{self.eps}/255", "step": f"{self.eps // 4}/255", "protocol": "natural; bass for +BaSS",
            "images": scale.count("accuracy") or "all test images",
            "images of AutoAttack": scale.count("autoattack") or "all test images",
        }  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        protocol, eps = subject.options.get("protocol", "natural"), self.eps / 255
        numbers = lab.accuracies(model, subject, [Clean(), PGD(20, eps)], protocol=protocol)
        numbers |= lab.accuracies(model, subject, [AutoAttack(eps=eps)], protocol=protocol, kind="autoattack")
        return Measured({column.name: numbers[column.name] for column in self.columns})


def _all_higher(rows: Sequence[tuple[str, str]], columns: Sequence[str]) -> Judge:
    """Each column of each pair's second row is higher than that of the first."""
    return every(*(higher((after, column), (before, column)) for (before, after), column in product(rows, columns)))


@experiment("lin2023:table1")
class Table1(_AdversarialTraining):
    """Adversarial training with and without BaSS: 24 models.

    The training attacks are those of the text; the authors' MART script has ε = 0.031 and step 0.007 instead:
    ``freqrob train mart_rn18 --set eps=0.031 --set step_size=0.007``.
    """

    where, title = "Table 1", "Clean and Robust Accuracy(%) on CIFAR10 and CIFAR100"
    subjects = tuple(
        _trained(_row(data, network, method, variant), variant, METHODS[method], NETWORKS[network], DATA[data])
        for (data, method, variant), network in product(TABLE_1, NETWORKS)
    )
    printed = _printed(
        ACCURACIES,
        {
            _row(data, network, method, variant): numbers
            for (data, method, variant), both in TABLE_1.items()
            for network, numbers in zip(NETWORKS, both, strict=True)
        },
    )
    claims = tuple(
        Claim(
            "by processing the dataset with BaSS strategy, our method consistently achieves a better robust-accuracy "
            f"trade-off across datasets and architectures [{data}, {network}, {method}]",
            "Section 4.3",
            "clean, PGD-20 and AutoAttack accuracy of +BaSS are higher, each on its own images",
            _all_higher([(_row(data, network, method), _row(data, network, method, BASS))], ACCURACIES),
        )
        for data, network, method in product(DATA, NETWORKS, METHODS)
    )


OURS = "Ours (TRADES, +BaSS, WRN-34)"


@experiment("lin2023:table2")
class Table2(_AdversarialTraining):
    """The best model of Table 1 beside two of RobustBench; +BaSS is tested on other images than they are."""

    where, title = "Table 2", "State-of-the-art performance on CIFAR10 and CIFAR100"
    subjects = tuple(
        subject
        for data, dataset in DATA.items()
        for subject in (
            Subject(f"{data}, DAJAT", dataset=dataset, model="robustbench:Addepalli2022Efficient_WRN_34_10"),
            Subject(f"{data}, PORT", dataset=dataset, model="robustbench:Sehwag2021Proxy"),
            _trained(f"{data}, {OURS}", BASS, "trades", "wrn34", dataset),
        )
    )
    takes_models = True
    columns = tuple(column for column in _AdversarialTraining.columns if column.name != "PGD-20")
    printed = _printed(
        ("clean", "AutoAttack"),
        {
            "CIFAR10, DAJAT": (88.71, 58.04), "CIFAR10, PORT": (86.68, 60.27), f"CIFAR10, {OURS}": (91.20, 62.69),
            "CIFAR100, DAJAT": (68.75, 31.85), "CIFAR100, PORT": (65.93, 31.15), f"CIFAR100, {OURS}": (69.01, 33.03),
        },
    )  # fmt: skip
    claims = tuple(
        Claim(
            "our approach trained with WRN-34-10 achieves state-of-the-art performance compared with existing defenses "
            f"on CIFAR10 and CIFAR100 [{data}]",
            "Section 4.3, which refers to Table 3 by mistake",
            "clean and AutoAttack accuracy, on balanced images, exceed DAJAT's and PORT's, on natural ones",
            every(
                _all_higher([(f"{data}, DAJAT", f"{data}, {OURS}")], ("clean", "AutoAttack")),
                _all_higher([(f"{data}, PORT", f"{data}, {OURS}")], ("clean", "AutoAttack")),
            ),
        )
        for data in DATA
    )


@experiment("lin2023:table3")
class Table3(_AdversarialTraining):
    """ResNet-50 on Restricted ImageNet, at 128 pixels as in the authors' script."""

    where, title = "Table 3", "Clean and Robust Accuracy(%) on Restricted-ImageNet"
    needs = "ImageNet's train/ and val/ with their 1,000 folders"
    eps = 4
    transposed = True
    subjects = tuple(
        _trained(f"{method}{variant}", variant, defense, "rn50", "restricted_imagenet")
        for (method, defense), variant in product({"PGD-AT": "pgd_at", "TRADES": "trades"}.items(), ("", BASS))
    )
    printed = _printed(
        ACCURACIES,
        {
            "PGD-AT": (65.13, 49.44, 33.37), f"PGD-AT{BASS}": (66.76, 57.63, 41.77),
            "TRADES": (64.79, 51.71, 35.50), f"TRADES{BASS}": (66.90, 57.96, 42.80),
        },
    )  # fmt: skip
    claims = tuple(
        Claim(
            "by processing the dataset with BaSS strategy, our method consistently achieves a better robust-accuracy "
            f"trade-off across datasets and architectures [Restricted-ImageNet, {method}]",
            "Section 4.3",
            "clean, PGD-20 and AutoAttack accuracy of +BaSS are higher, each on its own images",
            _all_higher([(method, f"{method}{BASS}")], ACCURACIES),
        )
        for method in ("PGD-AT", "TRADES")
    )


COST_COLUMNS = {
    "BaSS": ("s", "balancing all training images once, before training"),
    "training": ("h", "epochs × steps × the measured step"),
    "share of training": ("%", "BaSS divided by training"),
    "share of a step": ("%", "balancing the images of one step, as with γ, divided by the time of the step"),
}


@experiment("lin2023:cost")
class Cost(Experiment):
    """The time of BaSS beside that of training."""

    paper, where, title = LIN, "Section 4.3 (Appendix F.2.2)", "The cost of BaSS in training"
    subjects = tuple(
        Subject(name, options={"defense": defense}) for name, defense in {"standard": "standard", **METHODS}.items()
    )
    columns = tuple(Column(name, unit, help) for name, (unit, help) in COST_COLUMNS.items())
    claims = (
        Claim(
            "BaSS strategy barely increase the training cost (including the training time and the data size …)",
            "Section 4.3",
            "for each method, balancing all images once takes under 1 % of the training time; no images are added",
            every(*(below((method, "share of training"), 1) for method in METHODS)),
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"recipe": f"of CIFAR10, {scale.architecture('rn18')}", "images of BaSS": 1000}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        recipe = recipe_for(f"{subject.options['defense']}_{lab.scale.architecture('rn18')}")
        images = torch.randint(256, (1000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = images.to(lab.device)
        bass(images)
        of_image = min(_seconds_of_bass(images) for _ in range(3)) / len(images)
        step = min(step_cost(recipe, str(lab.device)).seconds for _ in range(3))  # the first one also warms up
        count = 50_000
        training = recipe.epochs * (count // recipe.batch_size) * step
        values = (
            count * of_image, training / 3600, 100 * count * of_image / training,
            100 * recipe.batch_size * of_image / step,
        )  # fmt: skip
        return Measured({name: Number(value) for name, value in zip(COST_COLUMNS, values, strict=True)})


def _seconds_of_bass(images: Tensor) -> float:
    began = time.perf_counter()
    bass(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - began


# Table 4: AugMix

AUGMIX_NETWORKS = {"WRN-40-2": "wrn40_2", "DenseNet": "densenet", "ResNeXt-29": "resnext29", "ResNet-50": "rn50"}
TABLE_4_COLUMNS = ("clean", *KINDS, "19 types")
TABLE_4 = {
    ("CIFAR10", "WRN-40-2", ""): (95.66, 84.62, 91.31, 91.95, 90.90, 89.91),
    ("CIFAR10", "WRN-40-2", BASS): (95.83, 88.66, 91.37, 93.04, 90.77, 90.96),
    ("CIFAR10", "DenseNet", ""): (95.79, 83.08, 90.54, 91.72, 90.00, 89.05),
    ("CIFAR10", "DenseNet", BASS): (95.99, 88.36, 91.47, 93.14, 90.53, 90.87),
    ("CIFAR10", "ResNeXt-29", ""): (96.29, 82.99, 91.63, 92.62, 91.38, 89.94),
    ("CIFAR10", "ResNeXt-29", BASS): (96.08, 89.37, 92.10, 93.43, 90.94, 91.44),
    ("CIFAR10", "ResNet-50", ""): (95.95, 85.15, 91.56, 92.21, 91.37, 90.29),
    ("CIFAR10", "ResNet-50", BASS): (96.00, 89.85, 91.90, 93.27, 91.53, 91.64),
    ("CIFAR100", "WRN-40-2", ""): (77.53, 55.43, 69.08, 68.24, 67.13, 65.41),
    ("CIFAR100", "WRN-40-2", BASS): (77.90, 60.38, 69.07, 70.74, 66.92, 66.91),
    ("CIFAR100", "DenseNet", ""): (77.46, 51.83, 67.74, 67.49, 65.19, 63.53),
    ("CIFAR100", "DenseNet", BASS): (78.44, 59.08, 68.89, 70.31, 65.93, 66.19),
    ("CIFAR100", "ResNeXt-29", ""): (78.68, 55.93, 70.12, 68.82, 67.92, 66.16),
    ("CIFAR100", "ResNeXt-29", BASS): (80.17, 60.02, 71.27, 72.47, 68.38, 68.24),
    ("CIFAR100", "ResNet-50", ""): (79.01, 58.90, 71.26, 69.95, 69.74, 67.90),
    ("CIFAR100", "ResNet-50", BASS): (80.83, 64.95, 72.24, 73.33, 69.96, 70.21),
}
AUGMIX_PAIRS = [
    (_row(data, network, "AugMix"), _row(data, network, "AugMix", BASS))
    for data, network in product(DATA, AUGMIX_NETWORKS)
]


@experiment("lin2023:table4")
class Table4(Experiment):
    """AugMix with and without BaSS on one of its two views, on natural and corrupted images: 16 models."""

    paper, where = LIN, "Table 4"
    title = "AugMix improves both clean accuracy and corruption robustness combined with BaSS"
    subjects = tuple(
        Subject(
            _row(data, network, "AugMix", variant),
            f"{'bass_' if variant else ''}augmix_{AUGMIX_NETWORKS[network]}",
            DATA[data],
        )
        for data, network, variant in TABLE_4
    )
    columns = (
        Column("clean", "%", "test images"),
        *(
            Column(kind, "%", f"mean over {len(GROUPS[kind])} types of corruption and 5 severities")
            for kind in (*KINDS, "19 types")
        ),
    )
    printed = _printed(
        TABLE_4_COLUMNS, {_row(data, net, "AugMix", variant): at for (data, net, variant), at in TABLE_4.items()}
    )
    claims = (
        *(
            Claim(
                "AugMix improves both clean accuracy and corruption robustness combined with BaSS "
                f"[{before.removesuffix(', AugMix')}]",
                "Table 4",
                "clean accuracy and the mean over the 19 types are higher"
                + (" (the paper's own clean accuracy is not)" if before.startswith("CIFAR10, ResNeXt") else ""),
                _all_higher([(before, after)], ("clean", "19 types")),
            )
            for before, after in AUGMIX_PAIRS
        ),
        Claim(
            "our method significantly enhances the model's capabilities in defending against high-frequency patterns "
            "corruption (e.g., improving Noise corruption robustness by approximately 4%)",
            "Section 4.4",
            "noise gains at least 3 points, mean over the measured pairs",
            mean_gain(AUGMIX_PAIRS, "noise", least=3),
        ),
        Claim(
            "the BaSS strategy did not help the model's robustness in the “Digital” column",
            "Section 4.4",
            "digital gains less than 1 point, mean over the measured pairs",
            mean_gain(AUGMIX_PAIRS, "digital", least=-inf, most=1),
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {
            "protocol": "natural", "images": scale.count("accuracy") or "all test images",
            "corrupted images": scale.count("corruptions") or "all test images",
        }  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        clean = lab.accuracies(model, subject, [Clean()])
        return Measured(clean | _on_corruptions(lab.corruptions(model, subject), (*KINDS, "19 types")))


# Questions of our own: BaSS models on natural images

PROTOCOLS = ("natural", "natural+bass", "bass")
PAIRS = [(method, f"{method}{BASS}") for method in METHODS]


@experiment("lin2023:natural_images")
class NaturalImages(Experiment):
    """Table 1's models on natural images, also attacked through BaSS."""

    paper, where, question = LIN, "Table 1's models", True
    title = "BaSS models on natural images, attacked directly and through BaSS"
    subjects = (
        *(
            _trained(f"{m}{variant}", variant, d, "rn18", "cifar10")
            for (m, d), variant in product(METHODS.items(), ("", BASS))
        ),
        Subject("PGD-AT, γ = ½", "bassmix_pgd_at_rn18"),
    )
    columns = tuple(
        Column(f"{attack}, {protocol}", "%", help)
        for attack, (protocol, help) in product(
            ("clean", "PGD-20"),
            {
                "natural": "natural images",
                "natural+bass": "natural images, with BaSS before the model; the attack goes through it",
                "bass": "balanced images; the attack comes after BaSS",
            }.items(),
        )
    )
    claims = (
        *(
            Claim(
                f"Is a model that was trained on balanced images more robust on natural ones? [{before}]",
                "Table 1", "PGD-20 accuracy, protocol natural",
                higher((after, "PGD-20, natural"), (before, "PGD-20, natural")),
            )
            for before, after in PAIRS
        ),
        *(
            Claim(
                f"Is it more robust with BaSS in front of it, attacked through BaSS? [{before}]",
                "Table 1", "PGD-20 accuracy under natural+bass, compared with its counterpart's under natural",
                higher((after, "PGD-20, natural+bass"), (before, "PGD-20, natural")),
            )
            for before, after in PAIRS
        ),
        Claim(
            "Does robust accuracy on natural images rise with γ in adversarial training?",
            "Figure 3", "PGD-20 accuracy, protocol natural, at γ = 0, ½ and 1",
            increasing(("PGD-AT", "PGD-AT, γ = ½", f"PGD-AT{BASS}"), "PGD-20, natural"),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"ε": "8/255", "step": "2/255", "images": scale.count("accuracy") or "all test images"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        numbers = {}
        for protocol in PROTOCOLS:
            accuracies = lab.accuracies(model, subject, [Clean(), PGD(20, 8 / 255)], protocol=protocol)
            numbers |= {f"{attack}, {protocol}": number for attack, number in accuracies.items()}
        return Measured(numbers)


@experiment("lin2023:corruptions_through_bass")
class CorruptionsThroughBass(Experiment):
    """Accuracy on corrupted images of models trained on balanced images, with and without BaSS before the model."""

    paper, where, question = LIN, "Table 4's corruptions", True
    title = "BaSS between corruption and model"
    subjects = (
        Subject("standard", "standard_rn18"),
        Subject(f"standard{BASS}", "bass_standard_rn18"),
        Subject("AugMix", "augmix_wrn40_2"),
        Subject(f"AugMix{BASS}", "bass_augmix_wrn40_2"),
    )
    columns = tuple(
        Column(f"19 types, {protocol}", "%", help)
        for protocol, help in {
            "natural": "corrupted images",
            "natural+bass": "corrupted images, balanced before the model",
        }.items()
    )
    claims = tuple(
        Claim(
            f"Is accuracy on the 19 corruptions higher with BaSS {where_balanced} than without any? [{method}]",
            "Table 4", f"mean over 19 types under {protocol}, compared with its counterpart's under natural",
            higher((f"{method}{BASS}", f"19 types, {protocol}"), (method, "19 types, natural")),
        )
        for method in ("standard", "AugMix")
        for where_balanced, protocol in (("in training and test", "natural+bass"), ("in training alone", "natural"))
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"corrupted images": scale.count("corruptions") or "all test images"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        numbers = {}
        for protocol in ("natural", "natural+bass"):
            means = _on_corruptions(lab.corruptions(model, subject, protocol=protocol), ["19 types"])
            numbers[f"19 types, {protocol}"] = means["19 types"]
        return Measured(numbers)


@experiment("lin2023:gradients_of_defences")
class GradientsOfDefences(_GradientShares):
    """Whether training moves the gradient out of the high frequencies; on natural images."""

    where, question, title = "Figure 2's measure", True, "Gradients of defended models on natural images"
    subjects = tuple(
        Subject(row, recipe)
        for row, recipe in {
            "standard": "standard_rn18", f"standard{BASS}": "bass_standard_rn18",
            "PGD-AT": "pgd_at_rn18", f"PGD-AT{BASS}": "bass_pgd_at_rn18",
        }.items()
    )  # fmt: skip
    takes_models = True
    claims = tuple(
        Claim(text, "Figure 2", "HFC share of the gradient's power", higher((more, HIGH_SHARE), (less, HIGH_SHARE)))
        for text, more, less in (
            ("Does adversarial training move the gradient out of the high frequencies?", "standard", "PGD-AT"),
            ("Does training on balanced images do so?", "standard", f"standard{BASS}"),
            (
                "Does training on balanced images do so in adversarial training?",
                "PGD-AT",
                f"PGD-AT{BASS}",
            ),
        )
    )
