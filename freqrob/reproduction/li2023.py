"""Li et al., PLoS Comput. Biol. 2023: Figures 2 to 6, and Figures B, D and Table A of the appendix as far as quoted.

Figure 1 is a diagram of the method. The appendix (Figures A to D, Tables A to C) was not available: its claims are
quoted from the main text, and of its lists of models only RobustBench's families are known. Frequencies of
perturbations are in cycles/pixel, those of hybrid images in units of Nyquist (0.5 cycles/pixel), each as the paper
prints it.

The neural data are not published with the paper. If you have such data, put them into the working folder:
``mouse_v1.npz`` with ``images`` (K, 1, 32, 32) and ``similarity`` (K, K) for ``NeuralSimilarity``, and
``monkey_v1.npz`` with ``images`` (K, 1, 64, 64) and ``responses`` (K, neurons) for ``NeuralResponse``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot, isnan, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from freqrob.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from freqrob.data.datasets import to_pixels
from freqrob.data.hybrid import MIXING_FREQUENCIES, NYQUIST, hybrid_images, partners
from freqrob.defenses.neural_similarity import load_targets
from freqrob.diagnostics import hybrid_reliance, minimal_perturbation
from freqrob.diagnostics.drawing import COLOURS, GREY, draw_map, logarithmic, shared_limits
from freqrob.diagnostics.similarity_components import similarity_components
from freqrob.evaluation.corruptions import GROUPS, CorruptionAccuracy
from freqrob.reproduction.criteria import Judge, above, below, correlated, every, higher
from freqrob.reproduction.experiment import (
    Claim,
    Column,
    Experiment,
    Judgement,
    Measured,
    Number,
    Numbers,
    Outcome,
    Paper,
    Scale,
    Subject,
    experiment,
)
from freqrob.reproduction.lab import Lab
from freqrob.spectral.perturbation import analyze_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

LI = Paper(
    "li2023",
    "Li et al. 2023",
    "Li, Ortega Caro, Rusak, Brendel, Bethge, Anselmi, Patel, Tolias, Pitkow: Robust deep learning object recognition "
    "models rely on low frequency information in natural images. PLoS Comput. Biol. 19(3), 2023",
)

MOUSE, MONKEY = "mouse_v1.npz", "monkey_v1.npz"
WHITE_NOISE = 0.396  # f_0.5 in cycles/pixel of 32×32 images on the authors' grid
BANDS = ("low", "medium", "high")
CLEAN, ACCURACY = "clean", "corruptions"
HALF_SUCCESS, SIZE, DEVIATION, HALF_POWER = "ε at 50 %", "mean size", "s.d. of sizes", "f_0.5"
REVERSAL, REVERSAL_CYCLES = "f_rev", "f_rev in cycles/pixel"
STEPS = {"paper": 1000, "rn20": 100}  # steps of each boundary attack
PGD_STEPS = {"paper": 40, "rn20": 10}  # steps in each ball
REPEATS = {"paper": 3, "rn20": 1}

BASE_MOUSE, MOUSE_MODEL = "base (ResNet18)", "mouse regularized (ResNet18)"
BASE_MONKEY, MONKEY_MODEL = "base (VGG19)", "monkey regularized (VGG19)"
PAIRS = {"mouse": (BASE_MOUSE, MOUSE_MODEL), "monkey": (BASE_MONKEY, MONKEY_MODEL)}
CIFAR, TINY = "cifar10_grayscale", "tiny_imagenet_grayscale"
NEURAL = {
    BASE_MOUSE: Subject(BASE_MOUSE, "standard_rn18", CIFAR),
    MOUSE_MODEL: Subject(MOUSE_MODEL, "neural_similarity_rn18", CIFAR, (f"targets={MOUSE}",)),
    BASE_MONKEY: Subject(BASE_MONKEY, "standard_vgg19", TINY),
    MONKEY_MODEL: Subject(MONKEY_MODEL, "neural_response_vgg19", TINY, (f"targets={MONKEY}", "layer=features.33")),
}
NEEDS_NEURAL = (
    f"{MOUSE} (similarity of mouse V1) for the mouse regularized model, {MONKEY} (responses of monkey V1) for the "
    f"monkey regularized one, in the working folder, or trained models as '{MOUSE_MODEL}=MODEL'"
)


# Measurements


def _perturbations(model: nn.Module, subject: Subject, lab: Lab) -> Measured:
    """Sizes, budget and spectrum of the smallest targeted perturbations."""
    images = lab.test_set(subject.dataset, "minimal_perturbation", model=model)
    smallest = minimal_perturbation(
        model, images.tensor, images.labels, steps=STEPS[lab.scale.name], pgd_steps=PGD_STEPS[lab.scale.name],
        repeats=REPEATS[lab.scale.name], seed=lab.seed, cache=lab.cache, progress=lab.progress,
    )  # fmt: skip
    count, spread = max(1, int(smallest.success.sum())), smallest.half_power_high - smallest.half_power_low
    numbers = {
        HALF_SUCCESS: Number(255 * smallest.half_success),
        SIZE: Number(255 * smallest.mean, 255 * smallest.deviation / count**0.5),
        DEVIATION: Number(255 * smallest.deviation),
        HALF_POWER: Number(smallest.half_power_frequency, spread / (2 * 1.96)),
    }
    return Measured(numbers, {name: getattr(smallest, name) for name in ("distances", "power", "radii", "cumulative")})


def _reversal(model: nn.Module, subject: Subject, lab: Lab) -> Measured:
    """f_rev with its standard deviation over four sets of partners, and the curves."""
    images = lab.test_set(subject.dataset, "hybrid", model=model)
    hybrid = hybrid_reliance(model, images.images, images.labels, cache=lab.cache, progress=lab.progress)
    known = hybrid.reversal[~hybrid.reversal.isnan()]
    cycles = Number(known.mean().item(), known.std().item() if len(known) > 1 else nan) if len(known) else Number()
    numbers = {REVERSAL: Number(cycles.value / NYQUIST, cycles.error / NYQUIST), REVERSAL_CYCLES: cycles}
    return Measured(numbers, {"mixing": hybrid.frequencies / NYQUIST, "low": hybrid.low, "high": hybrid.high})


def _corruptions(model: nn.Module, subject: Subject, lab: Lab) -> CorruptionAccuracy:
    """Accuracies on the benchmark's 15 types; frost is left out if its photographs are missing."""
    types = [*GROUPS["15 types"]]
    try:
        return lab.corruptions(model, subject, types=types)
    except FileNotFoundError as error:
        if "frost" not in str(error):
            raise
        return lab.corruptions(model, subject, types=[name for name in types if name != "frost"])


def _mean_accuracy(accuracy: CorruptionAccuracy) -> Number:
    """The mean over the types measured and all severities, in percent."""
    return Number(100 * accuracy.means()["all"], 100 * accuracy.standard_errors.get("all", nan))


def _joined(*parts: Measured) -> Measured:
    return Measured(
        {name: number for part in parts for name, number in part.numbers.items()},
        {name: array for part in parts for name, array in part.arrays.items()},
    )


def _perturbation_conditions(scale: Scale) -> dict[str, Any]:
    return {
        "images": scale.count("minimal_perturbation"), "steps": STEPS[scale.name], "PGD steps": PGD_STEPS[scale.name],
        "repeats": REPEATS[scale.name],
        "attacks": "Brendel–Bethge and PGD in balls of several radii, L∞, targeted; the smallest perturbation",
    }  # fmt: skip


# Criteria


def _difference_of_gains(more: str, less: str, base: str, model: str) -> Judge:
    """The model's gain over the base is larger in one column than in another."""

    def judge(numbers: Numbers) -> Judgement:
        gains = {column: numbers[model, column] - numbers[base, column] for column in (more, less)}
        return higher(("gain", more), ("gain", less))(Numbers({"gain": gains}))

    return judge


def _against_base(column: str, groups: Sequence[str], *, smaller: bool) -> Judge:
    """Every measured row of the groups is below the mean of the base models, or above it."""

    def judge(numbers: Numbers) -> Judgement:
        base = _mean_of(numbers, column, ["base"])
        rows = {row: number for row, number in numbers.column(column).items() if _group(row) in groups}
        if isnan(base.value) or not rows:
            return Judgement("not measured")
        table = Numbers({"base": {column: base}, **{row: {column: number} for row, number in rows.items()}})
        order = [(("base", column), (row, column)) if smaller else ((row, column), ("base", column)) for row in rows]
        judged = every(*(higher(*pair) for pair in order))(table)
        listed = ", ".join(f"{row} {number}" for row, number in rows.items())
        return Judgement(judged.verdict, f"{column} of base {base}, {listed}")

    return judge


def _groups_ordered(column: str, less: Sequence[str], more: Sequence[str]) -> Judge:
    """The mean of some groups' rows is below the mean of others'."""

    def judge(numbers: Numbers) -> Judgement:
        names = "/".join(less), "/".join(more)
        means = {
            name: {column: _mean_of(numbers, column, groups)} for name, groups in zip(names, (less, more), strict=True)
        }
        return higher((names[1], column), (names[0], column))(Numbers(means))

    return judge


def _mean_of(numbers: Numbers, column: str, groups: Sequence[str]) -> Number:
    """The mean over the measured rows of some groups, with its error from the rows' errors."""
    rows = [number for row, number in numbers.column(column).items() if _group(row) in groups]
    if not rows:
        return Number()
    return Number(fmean(row.value for row in rows), hypot(*(row.known_error for row in rows)) / len(rows))


def _group_beyond(column: str, group: str, limit: float) -> Judge:
    """The mean of a group is above a limit."""

    def judge(numbers: Numbers) -> Judgement:
        return above((group, column), limit)(Numbers({group: {column: _mean_of(numbers, column, [group])}}))

    return judge


def _goldilocks(numbers: Numbers) -> Judgement:
    """The best σ of the blur models is not the smallest and not the largest."""
    blurs = {row: numbers[row, ACCURACY] for row in SERIES}
    if any(isnan(number.value) for number in blurs.values()):
        return Judgement("not measured")
    best = max(blurs, key=lambda row: blurs[row].value)
    first, last = SERIES[0], SERIES[-1]
    inside = max((row for row in SERIES[1:-1]), key=lambda row: blurs[row].value)
    judged = every(*(higher((inside, ACCURACY), (end, ACCURACY)) for end in (first, last)))(numbers)
    listed = ", ".join(f"{row} {number}" for row, number in blurs.items())
    return Judgement(judged.verdict, f"best {best}: {listed}")


NEAR = 5.0  # percentage points of accuracy


def _near_the_curve(numbers: Numbers) -> Judgement:
    """More than half of the models other than crp are within ``NEAR`` points of the blur models' curve."""
    curve = sorted(
        (numbers[row, REVERSAL].value, numbers[row, ACCURACY].value) for row in SERIES
        if not isnan(numbers[row, REVERSAL].value + numbers[row, ACCURACY].value)
    )  # fmt: skip
    rows = [
        row
        for row in numbers.column(REVERSAL)
        if row in numbers.column(ACCURACY) and _group(row) not in ("blur", "crp")
    ]
    if len(curve) < 3 or not rows:
        return Judgement("not measured")
    places, heights = zip(*curve, strict=True)
    distance = {
        row: numbers[row, ACCURACY].value - float(np.interp(numbers[row, REVERSAL].value, places, heights))
        for row in rows
    }
    close = sum(abs(each) <= NEAR for each in distance.values())
    listed = ", ".join(f"{row} {each:+.1f}" for row, each in distance.items())
    return Judgement("holds" if 2 * close > len(rows) else "does not hold", f"{close} of {len(rows)} within: {listed}")


# Figure 2


def _neural_claims(base: str, model: str) -> tuple[Claim, ...]:
    animal, letters = ("mouse", "abcd") if base == BASE_MOUSE else ("monkey", "efgh")
    severities = every(*(higher((model, f"severity {s}"), (base, f"severity {s}")) for s in SEVERITIES))
    return (
        Claim(
            "Models regularized with either mouse or monkey V1 representations have higher accuracy at different "
            "severity levels of common corruptions compared to baseline models (Fig 2a and 2e), though their "
            "performance on clean images is slightly worse",
            f"Results, Fig. 2{letters[0]} ({animal})",
            "Accuracy over 15 types is higher at each of the five severities, and clean accuracy is lower.",
            every(severities, higher((base, CLEAN), (model, CLEAN))),
        ),
        Claim(
            "neurally regularized models need larger adversarial perturbations on average (Fig 2b and 2f), i.e. they "
            "are more robust against adversarial attacks",
            f"Results, Fig. 2{letters[1]} ({animal})",
            "The mean size of minimal perturbations is larger.",
            higher((model, SIZE), (base, SIZE)),
        ),
        Claim(
            "The biggest performance boost in model classification accuracy comes from the category with the "
            "high-frequency corruptions (Fig 2c and 2g)",
            f"Results, Fig. 2{letters[2]} ({animal})",
            "The gain in accuracy is larger in the high band than in the low and in the medium one.",
            every(*(_difference_of_gains("high", band, base, model) for band in ("low", "medium"))),
        ),
        Claim(
            "The half power frequency f0.5 is smaller for the neurally regularized model compared with baseline, "
            "though effect on the monkey regularized model is much weaker than the mouse regularized one",
            f"Results, Fig. 2{letters[3]} ({animal})",
            "f_0.5 is smaller.",
            higher((base, HALF_POWER), (model, HALF_POWER)),
        ),
    )


@experiment("li2023:fig2")
class Figure2(Experiment):
    """Accuracy on corruptions, sizes and spectra of minimal perturbations of neurally regularised models."""

    paper, where = LI, "Fig. 2"
    title = (
        "Neural regularization boosts model robustness and makes it less sensitive to high frequency component of the "
        "input"
    )
    needs = f"{NEEDS_NEURAL}; Tiny-ImageNet-C in the folder of the data, without which its rows have perturbations only"
    subjects = tuple(NEURAL.values())
    columns = (
        Column(CLEAN, "%", "grayscale test images"),
        *(Column(f"severity {s}", "%", "mean accuracy over 15 corruptions, in grey levels after the corruption")
          for s in SEVERITIES),
        *(Column(band, "%", f"mean accuracy on corruptions of {band} frequency (Table A)") for band in BANDS),
        Column(HALF_SUCCESS, "/255", "perturbation size at which half of the targeted attacks succeed"),
        Column(SIZE, "/255", "of minimal perturbations; ± is the standard error"),
        Column(DEVIATION, "/255", "of the sizes over images"),
        Column(HALF_POWER, "cycles/pixel", "half of the power of minimal perturbations is below; ± by bootstrap"),
    )  # fmt: skip
    printed = {
        BASE_MOUSE: {HALF_SUCCESS: Number(1.25), SIZE: Number(1.34), DEVIATION: Number(0.70),
                     HALF_POWER: Number(0.442, 0.009)},
        MOUSE_MODEL: {HALF_SUCCESS: Number(2.89), SIZE: Number(3.09), DEVIATION: Number(1.61),
                      HALF_POWER: Number(0.316, 0.015)},
        BASE_MONKEY: {HALF_SUCCESS: Number(1.84), SIZE: Number(1.93), DEVIATION: Number(0.89),
                      HALF_POWER: Number(0.316, 0.034)},
        MONKEY_MODEL: {HALF_SUCCESS: Number(2.46), SIZE: Number(2.64), DEVIATION: Number(1.26),
                       HALF_POWER: Number(0.306, 0.020)},
    }  # fmt: skip
    claims = (*_neural_claims(*PAIRS["mouse"]), *_neural_claims(*PAIRS["monkey"]))

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"corruption images": scale.count("corruptions"), "perturbations": _perturbation_conditions(scale)}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        perturbations = _perturbations(model, subject, lab)
        clean = Measured({CLEAN: lab.accuracies(model, subject, [CLEAN])[CLEAN]})
        try:
            corrupted = _corruptions(model, subject, lab)
        except FileNotFoundError:
            if subject.dataset == CIFAR:
                raise
            return _joined(clean, perturbations)
        severities = torch.tensor([*corrupted.accuracies.values()]).mean(0)
        numbers = {f"severity {s}": Number(100 * severities[s - 1].item()) for s in SEVERITIES}
        means, errors = corrupted.means(), corrupted.standard_errors
        numbers |= {band: Number(100 * means[band], 100 * errors[band]) for band in BANDS if band in means}
        return _joined(clean, Measured(numbers, {"severities": severities}), perturbations)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(13, 3 * max(1, len(outcome.arrays) // 2))
        pairs = [[row for row in pair if row in outcome.arrays] for pair in PAIRS.values()]
        pairs = [pair for pair in pairs if pair]
        grid = figure.subplots(len(pairs), 4, squeeze=False)
        for (severity, success, bands, profile), pair in zip(grid, pairs, strict=True):
            for row, colour in zip(pair, ("black", COLOURS[4]), strict=False):
                arrays = outcome.arrays[row]
                if "severities" in arrays:
                    severity.plot(SEVERITIES, arrays["severities"], "o-", color=colour, label=row)
                sizes = 255 * arrays["distances"].sort().values
                success.plot(sizes, torch.arange(1, len(sizes) + 1) / len(sizes), color=colour)
                bands.plot(BANDS, [outcome.numbers[row, band].value for band in BANDS], "o-", color=colour)
                _draw_profile(profile, arrays, colour, outcome.numbers[row, HALF_POWER].value, row)
            severity.set(xlabel="severity", ylabel="accuracy")
            success.set(xlabel="budget ε (grey levels of 255)", ylabel="success rate", ylim=(0, 1))
            bands.set(xlabel="frequency of the corruption", ylabel="accuracy (%)")
            profile.legend(fontsize="x-small")


def _draw_profile(
    axes: Axes, arrays: Mapping[str, Tensor], colour: Any, half: float, label: str = "", **more: Any
) -> None:
    """Draw a cumulative radial profile and its half-power frequency."""
    axes.plot(arrays["radii"], 100 * arrays["cumulative"], color=colour, label=label or None, **more)
    axes.axvline(half, color=colour, linestyle="--", linewidth=0.8)
    axes.set(xlabel="frequency ÷ f_s (cycles/pixel)", ylabel="power below (%)", ylim=(0, 100))


# Figures 3 and B


class _Hybrids(Experiment):
    paper = LI
    columns = (
        Column(REVERSAL, "Nyquist", "p_low = p_high; ± is the standard deviation over four sets of hybrid images"),
        Column(REVERSAL_CYCLES, "cycles/pixel", "the same"),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": scale.count("hybrid"), "seeds": 4, "frequencies": len(MIXING_FREQUENCIES)}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        reversal = _reversal(model, subject, lab)
        images = lab.test_set(subject.dataset, "hybrid")
        low, high = (to_pixels(images.images[index]) for index in (0, int(partners(images.labels)[0])))
        mixed = [hybrid_images(low, high, f * NYQUIST)[0] for f in EXAMPLES]
        return _joined(reversal, Measured({}, {"examples": torch.stack(mixed)}))

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(9, 5)
        grid = figure.add_gridspec(2, len(EXAMPLES), height_ratios=[1, 3])
        examples = next(arrays["examples"] for arrays in outcome.arrays.values())
        for column, (image, frequency) in enumerate(zip(examples, EXAMPLES, strict=True)):
            axes = figure.add_subplot(grid[0, column])
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(title=f"{frequency:g}", xticks=[], yticks=[])
        axes = figure.add_subplot(grid[1, :])
        for (row, arrays), colour in zip(outcome.arrays.items(), ("black", COLOURS[4]), strict=False):
            for name, dash in (("low", "-"), ("high", ":")):
                axes.plot(arrays["mixing"], arrays[name].mean(0), dash, color=colour, label=f"{row}, p({name})")
            axes.axvline(outcome.numbers[row, REVERSAL].value, color=colour, linestyle="--", linewidth=0.8)
        axes.set(xlabel="mixing frequency ÷ Nyquist", ylabel="probability")
        axes.legend(fontsize="small")


EXAMPLES = (0.1, 0.2, 0.4, 0.6, 0.8)  # of Nyquist


@experiment("li2023:fig3")
class Figure3(_Hybrids):
    """Hybrid images and the model regularised by mouse V1."""

    where = "Fig. 3"
    title = "Probing frequency sensitivity of mouse regularized model using hybrid images"
    needs = NEEDS_NEURAL
    subjects = tuple(NEURAL[row] for row in PAIRS["mouse"])
    printed = {BASE_MOUSE: {REVERSAL: Number(0.528, 0.0009)}, MOUSE_MODEL: {REVERSAL: Number(0.371, 0.0006)}}
    claims = (
        Claim(
            "The result shows that frev is smaller for a mouse regularized model (0.371 ± 0.0006, mean ± standard "
            "deviation estimated from 4 randomly permuted hybrid image datasets) than a baseline model (0.528 ± "
            "0.0009), indicating that the neurally regularized model is more likely to classify the hybrid image as "
            "the class of the low-frequency component (Fig 3b)",
            "Results, Hybrid image experiment", "f_rev is smaller.",
            higher((BASE_MOUSE, REVERSAL), (MOUSE_MODEL, REVERSAL)),
        ),
    )  # fmt: skip


@experiment("li2023:figB")
class FigureB(_Hybrids):
    """Hybrid images and the model regularised by monkey V1."""

    where = "Fig. B of the appendix"
    title = "Hybrid images and the monkey regularized model"
    needs = NEEDS_NEURAL
    subjects = tuple(NEURAL[row] for row in PAIRS["monkey"])
    printed = {BASE_MONKEY: {REVERSAL: Number(0.426, 0.002)}, MONKEY_MODEL: {REVERSAL: Number(0.376, 0.003)}}
    claims = (
        Claim(
            "The same experiments and analysis were done for monkey regularized models as well, but the low-frequency "
            "bias is smaller compared to mice. frev is 0.376 ± 0.003 and 0.426 ± 0.002 for monkey regularized VGG19 "
            "and a baseline model, respectively (Fig B in S1 Appendix)",
            "Results, Hybrid image experiment",
            "f_rev of the monkey regularized model is smaller. (Fig. 3 has the mouse's.)",
            higher((BASE_MONKEY, REVERSAL), (MONKEY_MODEL, REVERSAL)),
        ),
    )


# Figures 4 and 5: robust models of CIFAR-10

SIGMAS = (1.0, 1.5, 2.0, 2.5, 3.0)
SERIES = tuple(f"blur: σ = {sigma:g}" for sigma in SIGMAS)
OUR_BLUR = SERIES[SIGMAS.index(1.5)]
GROUP_NAMES = ("base", "adv", "crp", "blur", "pca")
_COLOURS = {"base": "black", "adv": COLOURS[0], "crp": COLOURS[1], "blur": COLOURS[2], "pca": COLOURS[3]}

_ZOO = [
    Subject(f"{group}: {name}", model=f"robustbench:{name}", threat_model=threat)
    for group, threat, names in (
        ("base", "Linf", ("Standard",)),
        ("adv", "Linf", ("Rebuffi2021Fixing_70_16_cutmix_extra", "Gowal2020Uncovering_70_16_extra", "Wu2020Adversarial",
                         "Zhang2020Geometry", "Carmon2019Unlabeled", "Sehwag2020Hydra", "Cui2020Learnable_34_20")),
        ("crp", "corruptions", ("Hendrycks2020AugMix_ResNeXt", "Kireev2021Effectiveness_RLATAugMix")),
    )
    for name in names
]  # fmt: skip
_OURS = [
    Subject(f"{group}: {title}", recipe)
    for group, title, recipe in (
        ("base", "ResNet", "standard_rn18"), ("adv", "PGD-AT", "pgd_at_rn18"), ("adv", "TRADES", "trades_rn18"),
        ("adv", "MART", "mart_rn18"), ("crp", "AugMix", "augmix_wrn40_2"),
    )
]  # fmt: skip
_PREPROCESSED = [
    *(Subject(row, "blur_standard_rn18", settings=() if row == OUR_BLUR else (f"blur_sigma={sigma:g}",))
      for row, sigma in zip(SERIES, SIGMAS, strict=True)),
    Subject("pca: K = 512", "pca_standard_rn18"),
]  # fmt: skip


def _group(row: str) -> str:
    """The group of a row; "" for the user's own models."""
    group = row.partition(":")[0]
    return group if group in GROUP_NAMES else ""


class _RobustModels(Experiment):
    paper = LI
    needs = (
        "at the scale `paper`, the package robustbench and the weights of its models (the text names only their "
        "families; Table B of the appendix lists them and the base models); the blur and PCA models are trained"
    )
    takes_models = True
    zoo: Sequence[Subject] = _ZOO
    ours: Sequence[Subject] = _OURS
    preprocessed: Sequence[Subject] = _PREPROCESSED

    @property
    def subjects(self) -> Sequence[Subject]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [*self.zoo, *self.ours, *self.preprocessed]

    def subjects_at(self, scale: Scale) -> list[Subject]:
        """RobustBench's models at the paper's scale, recipes at a smaller one; blur and PCA models at both."""
        models = [*(self.ours if scale.small else self.zoo), *self.preprocessed]
        return [small for subject in models if (small := subject.at_scale(scale)) is not None]


ROBUST = ("adv", "crp", "blur", "pca")


@experiment("li2023:fig4")
class Figure4(_RobustModels):
    """Minimal perturbations of models in five groups."""

    where = "Fig. 4"
    title = "Frequency analysis of adversarial attacks on robust models trained on CIFAR10"
    preprocessed = tuple(candidate for candidate in _PREPROCESSED if candidate.row in (OUR_BLUR, "pca: K = 512"))
    columns = (
        Column(SIZE, "/255", "of minimal perturbations; ± is the standard error"),
        Column(DEVIATION, "/255", "of the sizes over images"),
        Column(HALF_SUCCESS, "/255", "perturbation size at which half of the targeted attacks succeed"),
        Column(HALF_POWER, "cycles/pixel", "half of the power of minimal perturbations is below; ± by bootstrap"),
    )
    claims = (
        Claim(
            "The adversarial perturbations for robust models, including the ones not specifically trained for "
            "adversarial robustness, contained more low spatial frequency components",
            "Results, Fig. 4a",
            "f_0.5 of each model of crp, blur and pca is below the mean of the base models (the paper judges by eye).",
            _against_base(HALF_POWER, ("crp", "blur", "pca"), smaller=True),
        ),
        Claim(
            "while in the baseline models, adversarial perturbations were dominated by high spatial frequency "
            "components (Fig 4a)",
            "Results, Fig. 4a",
            f"The mean f_0.5 of the base models is above white noise's {WHITE_NOISE} (the paper judges by eye).",
            _group_beyond(HALF_POWER, "base", WHITE_NOISE),
        ),
        Claim(
            "Compared with the baseline model, all robust models have smaller f0.5, indicating the minimum adversarial "
            "perturbations for them have lower frequencies",
            "Results, Fig. 4b", "f_0.5 of each robust model is below the mean of the base models.",
            _against_base(HALF_POWER, ROBUST, smaller=True),
        ),
        Claim(
            "The size of average minimal perturbations are plotted against f0.5 in Fig 4c, revealing a negative "
            "correlation between adversarial robustness and the frequency bias of the model",
            "Results, Fig. 4c", "Over all models, the mean size falls as f_0.5 rises (Spearman's ρ, p < 0.05).",
            correlated(HALF_POWER, SIZE, negatively=True),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return _perturbation_conditions(scale)

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        return _perturbations(model, subject, lab)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        rows = list(outcome.arrays)
        figure.set_size_inches(max(9, 1.6 * len(rows)), 6)
        maps, curves = cast("Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[2, 3]))
        power = {row: torch.fft.fftshift(outcome.arrays[row]["power"]) for row in rows}
        for axes, row in zip(maps.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
            draw_map(axes, power[row], logarithmic(shared_limits([power[row]], span=1e4), clip=True))
            axes.set(title=row, xlabel="", ylabel="", xticks=[], yticks=[])
            axes.title.set_fontsize("xx-small")
        profile, sizes = curves.subplots(1, 2)
        for row in rows:
            colour = _COLOURS.get(_group(row), GREY)
            half = outcome.numbers[row, HALF_POWER]
            profile.plot(outcome.arrays[row]["radii"], 100 * outcome.arrays[row]["cumulative"], color=colour, alpha=0.5)
            sizes.plot(half.value, outcome.numbers[row, SIZE].value, "o", color=colour)
        for group, mean in _means_by_group(outcome, "cumulative").items():
            radii = next(iter(outcome.arrays.values()))["radii"]
            half = _mean_of(outcome.numbers, HALF_POWER, [group])
            _draw_profile(
                profile, {"radii": radii, "cumulative": mean}, _COLOURS[group], half.value, group, linewidth=2.5
            )
        profile.legend(fontsize="small")
        sizes.set(xlabel="f_0.5 (cycles/pixel)", ylabel="mean perturbation size (grey levels of 255)")


def _means_by_group(outcome: Outcome, name: str) -> dict[str, Tensor]:
    """The mean curve of each group's rows."""
    curves: dict[str, list[Tensor]] = {}
    for row, arrays in outcome.arrays.items():
        if group := _group(row):
            curves.setdefault(group, []).append(arrays[name])
    return {group: torch.stack(each).mean(0) for group, each in curves.items()}


@experiment("li2023:fig5")
class Figure5(_RobustModels):
    """Hybrid images and corruptions of models in five groups, and of a series of blur models."""

    where = "Fig. 5"
    title = "Hybrid CIFAR10 image classification performance of robust models"
    columns = (
        *_Hybrids.columns,
        Column(ACCURACY, "%", "mean accuracy over 15 corruptions (14 without photographs for frost) and severities"),
    )
    claims = (
        Claim(
            "The result shows that all models are more robust to common corruptions than the baseline, even those "
            "trained for adversarial robustness",
            "Results, Fig. 5b", "Accuracy on corruptions of each robust model is above the mean of the base models.",
            _against_base(ACCURACY, ROBUST, smaller=False),
        ),
        Claim(
            "They all have a low frequency bias characterized by frev, which suggests that low frequency information "
            "is more important to these models",
            "Results, Fig. 5b", "f_rev of each robust model is below the mean of the base models.",
            _against_base(REVERSAL, ROBUST, smaller=True),
        ),
        Claim(
            "For example the adversarially robust models (blue) have smaller corruption accuracy compared to the other "
            "robust models",
            "Results, Fig. 5b",
            "Their mean accuracy on corruptions is below that of crp, blur (σ = 1 to 3) and pca.",
            _groups_ordered(ACCURACY, ["adv"], ["crp", "blur", "pca"]),
        ),
        Claim(
            "In Fig 5b, we observe that most models except the ones trained for common corruption robustness lie close "
            "to the curve (light green) fit to ‘blur’ models (light green crosses)",
            "Results, Fig. 5b",
            f"More than half of the other models are within {NEAR:g} percentage points of the curve through the blur "
            "models at their f_rev (the paper names no distance).",
            _near_the_curve,
        ),
        Claim(
            "as we observed in Figs 5b and 6b, the bias towards low frequencies can be too strong, such that the "
            "performance deteriorates",
            "Discussion", "A blur between σ = 1 and 3 has a higher accuracy on corruptions than both ends.",
            _goldilocks,
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        count = scale.count("corruptions")
        return {"images": scale.count("hybrid"), "seeds": 4, "corruption images": count, "sigmas": SIGMAS}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        accuracy = Measured({ACCURACY: _mean_accuracy(_corruptions(model, subject, lab))})
        return _joined(_reversal(model, subject, lab), accuracy)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(10, 4)
        gap, scatter = figure.subplots(1, 2)
        gap.axhline(0, color=GREY, linewidth=1)
        for row, arrays in outcome.arrays.items():
            colour = _COLOURS.get(_group(row), GREY)
            gap.plot(arrays["mixing"], (arrays["low"] - arrays["high"]).mean(0), color=colour, alpha=0.5)
        groups = {
            group: low - high for (group, low), high in zip(
                _means_by_group(outcome, "low").items(), _means_by_group(outcome, "high").values(), strict=True)
        }  # fmt: skip
        for group, difference in groups.items():
            mixing = next(iter(outcome.arrays.values()))["mixing"]
            gap.plot(mixing, difference.mean(0), color=_COLOURS[group], linewidth=2.5, label=group)
        gap.set(xlabel="mixing frequency ÷ Nyquist", ylabel="p_low − p_high")
        gap.legend(fontsize="small")
        draw_reliance(scatter, outcome.numbers)


def draw_reliance(axes: Axes, numbers: Numbers) -> None:
    """Draw accuracy on corruptions against f_rev, with the curve of the blur models."""
    points = {row: (numbers[row, REVERSAL].value, numbers[row, ACCURACY].value) for row in numbers.by_row}
    for row, (x, y) in points.items():
        axes.plot(x, y, "x" if row in SERIES and row != OUR_BLUR else "o", color=_COLOURS.get(_group(row), GREY))
    if curve := [points[row] for row in SERIES if row in points]:
        axes.plot(*zip(*sorted(curve), strict=True), "--", color=_COLOURS["blur"], linewidth=1)
    axes.set(xlabel="reversal frequency ÷ Nyquist", ylabel="accuracy on corruptions (%)")


# Figure 6: ImageNet

RESNET50 = "torchvision:resnet50?weights=IMAGENET1K_V1"  # RobustBench's Standard_R50 has these weights
_IMAGENET = [
    *(Subject(f"{group}: {name}", dataset="imagenet", model=f"robustbench:{name}", threat_model=threat)
      for group, threat, names in (
          ("base", "Linf", ("Standard_R50",)),
          ("adv", "Linf", ("Salman2020Do_R50", "Engstrom2019Robustness")),
          ("crp", "corruptions", ("Geirhos2018_SIN", "Geirhos2018_SIN_IN", "Geirhos2018_SIN_IN_IN",
                                  "Hendrycks2020AugMix", "Hendrycks2020Many")),
      )
      for name in names),
    *(Subject(row, "blur_standard_resnet50", "imagenet", (f"blur_sigma={sigma:g}", f"initial_weights={RESNET50}"))
      for row, sigma in zip(SERIES, SIGMAS, strict=True)),
]  # fmt: skip
_LITE = [
    *(Subject(f"base: EfficientNet-Lite {number}", dataset="imagenet",
              model=f"benchmarks.efficientnet_lite:lite{number}") for number in range(3)),
    *(Subject(row, dataset="imagenet", model="benchmarks.efficientnet_lite:lite0",
              front_end={"name": "blur", "sigma": sigma}) for row, sigma in zip(SERIES, SIGMAS, strict=True)),
]  # fmt: skip


@experiment("li2023:fig6")
class Figure6(Experiment):
    """Figures 4c and 5b on ImageNet.

    At a small scale, on EfficientNet-Lite, whose blur models are not fine-tuned.
    """

    paper, where = LI, "Fig. 6"
    title = "Frequency analysis of models trained on ImageNet"
    needs = (
        "ImageNet's validation images and ImageNet-C (or what `freqrob dataset corrupt` made of them) in the folder of "
        "the data; at the scale `paper`, the package robustbench, and the training images to fine-tune the blur models "
        "from ResNet-50: the text names neither the models nor the sixth of crp (Table C, in the appendix), nor the "
        "blur models' σ and settings, which here are those of CIFAR-10; at the scale `rn20`, EfficientNet-Lites "
        "(benchmarks/efficientnet_lite.py, in the working folder), and one behind a blur; unlike the paper's, it "
        "is not fine-tuned with the blur"
    )
    takes_models = True
    subjects = (*_IMAGENET, *_LITE)
    columns = (*Figure4.columns, *Figure5.columns)
    claims = (
        Claim(
            "We can observe that the minimum perturbation size is negatively correlated with half-power frequencies, "
            "this indicates that robustness to adversarial attacks is correlated with adversarial attacks that have "
            "more energy in low frequencies",
            "Results, Fig. 6a", "Over all models, the mean size falls as f_0.5 rises (Spearman's ρ, p < 0.05).",
            correlated(HALF_POWER, SIZE, negatively=True),
        ),
        Claim(
            "Here we observe that the common corruption robust models are more robust than the baseline and have "
            "smaller frev, consistent with our findings in CIFAR10 models",
            "Results, Fig. 6b", "Each model of crp has a higher accuracy on corruptions and a smaller f_rev than base.",
            every(_against_base(ACCURACY, ["crp"], smaller=False), _against_base(REVERSAL, ["crp"], smaller=True)),
        ),
        Claim(
            "However the adversarially robustness models are less robust than baseline even though they have smaller "
            "frev",
            "Results, Fig. 6b", "Each model of adv has a lower accuracy on corruptions and a smaller f_rev than base.",
            every(_against_base(ACCURACY, ["adv"], smaller=True), _against_base(REVERSAL, ["adv"], smaller=True)),
        ),
        Claim(
            "We observe the same ‘Goldilocks’ behavior in Fig 6b, that either too much or too little blurring "
            "decreases model performance on corrupted images",
            "Results, Fig. 6b", "A blur between σ = 1 and 3 has a higher accuracy on corruptions than both ends.",
            _goldilocks,
        ),
    )  # fmt: skip

    def subjects_at(self, scale: Scale) -> list[Subject]:
        """RobustBench's models at the paper's scale, EfficientNet-Lite with and without a blur at a smaller one."""
        return _LITE if scale.small else _IMAGENET

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        blur = {"blur": "before EfficientNet-Lite 0, which is not fine-tuned to it"} if scale.small else {}
        return {
            "perturbations": _perturbation_conditions(scale), "images": scale.count("hybrid"), "seeds": 4,
            "corruption images": scale.count("corruptions"), **blur,
        }  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        accuracy = Measured({ACCURACY: _mean_accuracy(_corruptions(model, subject, lab))})
        return _joined(_perturbations(model, subject, lab), _reversal(model, subject, lab), accuracy)

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(9, 4)
        sizes, scatter = figure.subplots(1, 2)
        for row in outcome.numbers.by_row:
            point = outcome.numbers[row, HALF_POWER].value, outcome.numbers[row, SIZE].value
            sizes.plot(*point, "o", color=_COLOURS.get(_group(row), GREY))
        sizes.set(xlabel="f_0.5 (cycles/pixel)", ylabel="mean perturbation size (grey levels of 255)")
        draw_reliance(scatter, outcome.numbers)


# Figure D and Table A of the appendix

EXPLAINED, FREQUENCY, FIT = "share of 10 components", "mean frequency of 10 fields", "mean R² of 10 fields"
V1 = "mouse V1"
FEW = 10
NOISE_FREQUENCY = 0.383  # mean frequency of white noise of 32×32 pixels, in cycles/pixel


@experiment("li2023:figD")
class FigureD(Experiment):
    """Components of the similarity of a brain's responses."""

    paper, where = LI, "Fig. D of the appendix"
    title = "Principal components of the similarity of mouse V1 responses, and their linear receptive fields"
    needs = f"{MOUSE} in the working folder: images (K, C, H, W) uint8 and similarity (K, K), as for neural_similarity"
    subjects = (Subject(V1),)
    columns = (
        Column(EXPLAINED, "%", "of the sum of positive eigenvalues"),
        Column(FREQUENCY, "cycles/pixel", "of the linear approximations, weighted by power, without DC"),
        Column(FIT, "", "of the linear approximations, for images left out"),
    )
    claims = (
        Claim(
            "We observed that geometry of mouse V1 representation is well approximated by a small number of principal "
            "components",
            "Results (Fig D in S1 Appendix)",
            f"The {FEW} largest hold more than half of the sum of eigenvalues (the text gives no number).",
            above((V1, EXPLAINED), 50),
        ),
        Claim(
            "and the spatial tuning of them reveals low frequency structure",
            "Results (Fig D in S1 Appendix)",
            f"The mean frequency of their receptive fields is below white noise's, {NOISE_FREQUENCY} cycles/pixel (the "
            "paper judges by eye).",
            below((V1, FREQUENCY), NOISE_FREQUENCY),
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"components": FEW, "file": MOUSE}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        images, similarity = load_targets(Path(MOUSE))
        components = similarity_components(images, similarity, FEW)
        numbers = {
            EXPLAINED: Number(100 * components.explained(FEW)),
            FREQUENCY: Number(components.mean_frequencies.mean().item()),
            FIT: Number(components.fit.mean().item()),
        }
        return Measured(numbers, {"eigenvalues": components.eigenvalues, "fields": components.fields})

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        figure.set_size_inches(10, 4)
        arrays = outcome.arrays[V1]
        grid = figure.add_gridspec(2, FEW // 2 + 3)
        curve = figure.add_subplot(grid[:, :3])
        values = arrays["eigenvalues"].clamp(min=0)
        curve.plot(range(1, len(values) + 1), values / values.sum(), ".")
        curve.set(xlabel="component", ylabel="share", xscale="log", yscale="log")
        for number, field in enumerate(arrays["fields"]):
            axes = figure.add_subplot(grid[number % 2, 3 + number // 2])
            limit = field.abs().max().item()
            axes.imshow(field.mean(0), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set(xticks=[], yticks=[], title=f"{number + 1}")


HALF = "f_0.5 of x' − x"


def _bands_ordered(numbers: Numbers) -> Judgement:
    """The mean half-power frequency rises from the low to the high band."""
    known = numbers.column(HALF)
    means = {band: [number.value for row, number in known.items() if CORRUPTIONS[row].band == band] for band in BANDS}
    if not all(means.values()):
        return Judgement("not measured")
    low, medium, high = (fmean(each) for each in means.values())
    evidence = f"mean f_0.5: low {low:.3f}, medium {medium:.3f}, high {high:.3f}"
    return Judgement("holds" if low < medium < high else "does not hold", evidence)


@experiment("li2023:tableA")
class TableA(Experiment):
    """Spectra of the corruptions' changes of the images."""

    paper, where = LI, "Table A and Fig. A of the appendix"
    title = "Frequency bands of the 15 common corruptions"
    needs = "photographs for frost (--frost DIR); without them its row is not measured"
    subjects = tuple(Subject(name) for name in GROUPS["15 types"])
    columns = (
        Column(HALF, "cycles/pixel", "mean over severities; half of the power of the change is below, without DC"),
    )
    claims = (
        Claim(
            "We divided the 15 common corruptions in the CIFAR10-C and TinyImageNet-C datasets into three categories "
            "based on their frequency spectra (Table A in S1 Appendix). Low-frequency corruptions: ‘snow’, ‘frost’, "
            "‘fog’, ‘brightness’, ‘contrast’; medium-frequency corruptions: ‘motion_blur’, ‘zoom_blur’, "
            "‘defocus_blur’, ‘glass_blur’, ‘elastic_transform’, ‘jpeg_compression’, ‘pixelate’; high-frequency "
            "corruptions: ‘gaussian_noise’, ‘shot_noise’, ‘impulse_noise’",
            "Results (Table A and Fig A in S1 Appendix)",
            "The mean f_0.5 of the changes rises from low over medium to high (the text gives no numbers).",
            _bands_ordered,
        ),
    )

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": COUNTED, "severities": len(SEVERITIES)}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        images = lab.test_set("cifar10", "corruptions")[:COUNTED].tensor
        clean = to_pixels(images)
        spectra = [
            analyze_spectrum(to_pixels(corrupt(images, subject.row, severity, frost=lab.frost)), clean, resamples=1)
            for severity in SEVERITIES
        ]
        power = torch.stack([spectrum.power for spectrum in spectra]).mean(0)
        return Measured({HALF: Number(fmean(spectrum.half_power_frequency for spectrum in spectra))}, {"power": power})

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        order = sorted(outcome.arrays, key=lambda row: BANDS.index(CORRUPTIONS[row].band))
        figure.set_size_inches(11, 2.2 * ((len(order) + 4) // 5))
        grid = figure.subplots((len(order) + 4) // 5, 5, squeeze=False).flatten()
        for axes, row in zip(grid, order, strict=False):
            power = torch.fft.fftshift(outcome.arrays[row]["power"])
            draw_map(axes, power, logarithmic(shared_limits([power], span=1e5), clip=True))
            axes.set(title=f"{row} ({CORRUPTIONS[row].band})", xlabel="", ylabel="")
            axes.title.set_fontsize("small")
        for axes in grid[len(order) :]:
            axes.remove()


COUNTED = 500  # images of each corruption
