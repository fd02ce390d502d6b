"""Chan et al., IJCAI 2022: Figure 1 and Tables 1 to 8.

Figure 2 is a diagram and has no numbers. Tables 7 and 8 are in the paper's appendix, which was not available: their
claims are quoted from the main text, and their numbers are missing. What the paper prints as B_low is ln B_low, as in
its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from statistics import stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqrob.attacks import parse_attack
from freqrob.data import ImageSet
from freqrob.data.corruptions import SEVERITIES, corrupt
from freqrob.data.datasets import to_pixels
from freqrob.diagnostics import corruption_spectrum, jacobian_spectrum, spectrum
from freqrob.diagnostics.drawing import draw_quadrant, logarithmic, quadrant, shared_limits
from freqrob.diagnostics.jacobian import jacobian_pictures, plot_picture
from freqrob.reproduction.criteria import every, higher, of_correlation
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
from freqrob.runtime.statistics import rank_correlation
from freqrob.spectral import log_b_low
from freqrob.training.cost import StepCost, step_cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHAN = Paper(
    "chan2022",
    "Chan et al. 2022",
    "Chan, Ong, Tan: How Does Frequency Bias Affect the Robustness of Neural Image Classifiers against Common "
    "Corruption and Adversarial Perturbations? IJCAI 2022 (JaFR)",
)
Judge = Callable[[Numbers], Judgement]
B_LOW = "B_low"
BATCH = 128  # batch size of the mean loss whose gradient is J

STANDARD, JAFR, FGSM, BOTH = "Standard", "JaFR", "FGSM AT", "FGSM AT + JaFR"
MINUS, ALIGN, PGD = "FGSM AT + JaFR(-)", "FGSM AT + GradAlign", "PGD AT"
_DEFENSES = {
    STANDARD: "standard", JAFR: "jafr", FGSM: "fgsm", MINUS: "fgsm_jafr_minus", BOTH: "fgsm_jafr", ALIGN: "grad_align",
    PGD: "pgd_at",
}  # fmt: skip


def _models(rows: Sequence[str], dataset: str = "cifar10", settings: tuple[str, ...] = ()) -> list[Subject]:
    return [Subject(row, f"{_DEFENSES[row]}_prn18_jafr", dataset, settings) for row in rows]


def _table(text: str, columns: Sequence[str]) -> dict[str, dict[str, Number]]:
    """Parse printed numbers: each line has a row's name and its cells, separated by ``|``; "–" for none."""
    printed = {}
    for line in text.strip().splitlines():
        row, *cells = (part.strip() for part in line.split("|"))
        values = (tuple(map(float, cell.split("±"))) for cell in cells if cell != "–")
        known = [column for column, cell in zip(columns, cells, strict=True) if cell != "–"]
        printed[row] = dict(zip(known, (Number(*value) for value in values), strict=True))
    return printed


def _columns_of(text: str, rows: Sequence[str]) -> dict[str, dict[str, Number]]:
    """``_table`` for a table that prints its rows as columns."""
    printed: dict[str, dict[str, Number]] = {row: {} for row in rows}
    for column, cells in _table(text, rows).items():
        for row, number in cells.items():
            printed[row][column] = number
    return printed


def _no_gain(cell: tuple[str, str], other: tuple[str, str]) -> Judge:
    """The first number is not significantly higher than the second."""

    def judge(numbers: Numbers) -> Judgement:
        above = higher(cell, other)(numbers)
        verdict = {"holds": "does not hold", "does not hold": "holds", "within noise": "holds"}
        return replace(above, verdict=verdict.get(above.verdict, "not measured"))

    return judge


def _by_eye(numbers: Numbers) -> Judgement:
    return Judgement("not measured", "to be seen in the figure" if numbers.by_row else "")


# Table 1 and Table 8


COLUMNS_OF_TYPES = {
    "Fog": "fog", "Saturate": "saturate", "Contrast": "contrast", "Bright": "brightness", "Snow": "snow",
    "Frost": "frost", "Motion": "motion_blur", "Zoom": "zoom_blur", "Elastic": "elastic_transform",
    "Pixel": "pixelate", "Gauss. B": "gaussian_blur", "Defocus": "defocus_blur", "Glass": "glass_blur",
    "Spatter": "spatter", "JPEG": "jpeg_compression", "Speckle": "speckle_noise", "Shot": "shot_noise",
    "Impulse": "impulse_noise", "Gauss. N": "gaussian_noise",
}  # fmt: skip
TYPES = list(COLUMNS_OF_TYPES)


def _gain_falls_with_b_low(row: str, base: str) -> Judge:
    """The gain of one row over another falls with rising B_low of the corruption (Spearman's ρ, p < 0.05)."""

    def judge(numbers: Numbers) -> Judgement:
        gains = {name: (numbers[row, name] - numbers[base, name]).value for name in TYPES}
        pairs = [(numbers[B_LOW, name].value, gain) for name, gain in gains.items()]
        if any(isnan(x) or isnan(y) for x, y in pairs):
            return Judgement("not measured")
        rho, p = rank_correlation([x for x, _ in pairs], [gain for _, gain in pairs], draws=2000)
        largest = ", ".join(f"{name} {gains[name]:+.2f}" for name in sorted(gains, key=lambda name: -gains[name])[:3])
        evidence = f"Spearman's ρ of gain and B_low {rho:.2f}, p = {p:.2g}; largest gains {largest}"
        return Judgement(of_correlation(rho, p, negatively=True), evidence)

    return judge


def _descending(numbers: Numbers) -> Judgement:
    """In the printed order of corruptions, B_low never rises by more than 0.05."""
    values = [numbers[B_LOW, name].value for name in TYPES]
    if any(map(isnan, values)):
        return Judgement("not measured")
    rises = {name: after - before for name, before, after in zip(TYPES[1:], values, values[1:], strict=False)}
    worst = max(rises, key=lambda name: rises[name])
    return Judgement(
        "holds" if rises[worst] <= 0.05 else "does not hold",
        f"{values[0]:.2f} to {values[-1]:.2f}; largest step upwards {max(rises[worst], 0):.3f} ({worst})",
    )


def _as_printed(printed: Mapping[str, Number], tolerance: float) -> Judge:
    """Each B_low is within the tolerance of the printed one."""

    def judge(numbers: Numbers) -> Judgement:
        measured, expected = [numbers[B_LOW, name].value for name in TYPES], [printed[name].value for name in TYPES]
        if any(map(isnan, measured)):
            return Judgement("not measured")
        away = {name: abs(ours - theirs) for name, ours, theirs in zip(TYPES, measured, expected, strict=True)}
        close, worst = sum(value <= tolerance for value in away.values()), max(away, key=lambda name: away[name])
        rho, _ = rank_correlation(measured, expected, draws=1)
        evidence = f"{close} of {len(TYPES)}; largest difference {away[worst]:.3f} ({worst}); Spearman's ρ {rho:.4f}"
        clear = [name for name in TYPES if away[name] > tolerance + 2 * numbers[B_LOW, name].known_error]
        if close == len(TYPES):
            return Judgement("holds", evidence)
        return Judgement("does not hold" if clear else "within noise", evidence)

    return judge


def _trade(row: str, base: str) -> Judge:
    """The row is worse than the base on fog and contrast, and better on impulse and Gaussian noise."""
    worse = [higher((base, name), (row, name)) for name in ("Fog", "Contrast")]
    return every(*worse, *(higher((row, name), (base, name)) for name in ("Impulse", "Gauss. N")))


def _wins(row: str, other: str, least: int) -> Judge:
    """The row is more accurate on at least ``least`` types; within noise if differences within noise decide this."""

    def judge(numbers: Numbers) -> Judgement:
        gains = [numbers[row, name] - numbers[other, name] for name in TYPES]
        if any(isnan(gain.value) for gain in gains):
            return Judgement("not measured")
        won, lost = sum(gain.value > 0 for gain in gains), sum(gain.value < -2 * gain.error for gain in gains)
        clear = sum(gain.value > 2 * gain.error for gain in gains)
        evidence = f"{won} of {len(TYPES)}; {clear} higher and {lost} lower beyond noise"
        if won >= least:
            return Judgement("holds", evidence)
        return Judgement("does not hold" if lost > len(TYPES) - least else "within noise", evidence)

    return judge


def _corruption_claims(wins: int, pgd_wins: int, *, standard_too: bool) -> list[Claim]:
    rivals = (STANDARD, MINUS, FGSM, BOTH, PGD)
    claims = [
        Claim(
            "the JaFR model achieves the best overall corruption robustness for both CIFAR-10 and -100 images, as "
            "indicated by its lowest relative mean corruption errors (mCE)",
            "Section 4.1", "JaFR's mCE is lower than each other model's",
            every(*(higher((row, "mCE"), (JAFR, "mCE")) for row in rivals)),
        ),
        Claim(
            "The JaFR outperforms the second-best model (standard-trained) in 14 out of 19 corruptions for CIFAR-10-C "
            "and 17 out of 19 corruptions for CIFAR-100-C test samples.",
            "Section 4.1", f"JaFR is more accurate than Standard on at least {wins} of 19", _wins(JAFR, STANDARD, wins),
        ),
        Claim(
            "with JaFR, we see the biggest improvements for high-frequency corruptions (e.g., Glass, Shot and Gaussian "
            "noise)",
            "Section 4.1", "JaFR's gain over Standard falls as B_low rises, over 19 corruptions (Spearman, p < 0.05)",
            _gain_falls_with_b_low(JAFR, STANDARD),
        ),
        Claim(
            "when JaFR is added to FGSM AT, the performance against low-frequency corruptions (e.g., Fog & Contrast) "
            "drops when the accuracy against high-frequency corruptions (e.g., Impulse & Gaussian noise) improves",
            "Section 4.1", "FGSM AT + JaFR is below FGSM AT on Fog and Contrast, and above it on Impulse and Gaussian "
            "noise", _trade(BOTH, FGSM),
        ),
        Claim(
            "when JaFR(-) is combined with FGSM AT […], the performance against high-frequency corruptions (e.g., "
            "Impulse & Gaussian noise) drops when the accuracy against low-frequency corruptions (e.g., Fog & "
            "Contrast) improves",
            "Section 4.1", "FGSM AT + JaFR(-) is above FGSM AT on Fog and Contrast, and below it on Impulse and "
            "Gaussian noise", _trade(FGSM, MINUS),
        ),
        Claim(
            "apart from one case of Impulse corruption in CIFAR-10-C, the FGSM AT + JaFR outperforms the PGD AT model "
            "in all the other 37 corruptions scenarios",
            "Section 4.1", f"FGSM AT + JaFR is more accurate than PGD AT on at least {pgd_wins} of 19",
            _wins(BOTH, PGD, pgd_wins),
        ),
    ]  # fmt: skip
    if standard_too:
        claims.insert(4, Claim(
            "We also see such behavior when JaFR is added to the standard trained model in CIFAR-10-C.",
            "Section 4.1", "JaFR is below Standard on Fog and Contrast, and above it on Impulse and Gaussian noise; "
            "the paper's own table does not meet this, because JaFR is 0.37 above Standard on Fog",
            _trade(JAFR, STANDARD),
        ))  # fmt: skip
    return claims


def _parts(count: int) -> list[slice]:
    """Split the images into four parts, from which standard errors are estimated; fewer than 40 stay one part."""
    number = 4 if count >= 40 else 1
    return [slice(part * count // number, (part + 1) * count // number) for part in range(number)]


class _Corruptions(Experiment):
    """Accuracy by type of corruption, mCE, and B_low of each type's change of the images."""

    paper = CHAN
    dataset: str
    transposed = True
    needs = "the photographs for frost (--frost), or the published arrays in --data"
    columns = (
        Column("Clean", "%", "accuracy on the test images, as many as of each corruption"),
        Column(
            "mCE", "%",
            "mean over the types of the error rate divided by that of Standard at the same scale; ± is the standard "
            "error of the model's own mean error rate, divided by Standard's",
        ),
        Column(TYPES[0], "", "this and the following columns: accuracy (%) on the corruption, or in the row B_low, ln "
               "B_low of its change x' − x; mean over five severities"),
        *map(Column, TYPES[1:]),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"data": self.dataset, "corruptions": "19 types at severities 1 to 5",
                "images of each severity": scale.count("corruptions") or "all",
                "images of B_low": scale.count("spectrum") or "all, corrupted by freqrob"}  # fmt: skip

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        if model is None:
            return Measured(self._b_low(lab))
        corrupted = lab.corruptions(model, subject)
        numbers = lab.accuracies(model, subject, ["clean"], kind="corruptions")
        standard = self.subjects_at(lab.scale)[0]
        base = corrupted if subject == standard else lab.corruptions(lab.model(standard), standard)
        error = corrupted.standard_errors["all"] / (1 - base.means()["all"])
        by_type = {
            name: Number(100 * corrupted.of_type(kind), 100 * corrupted.standard_errors[kind])
            for name, kind in COLUMNS_OF_TYPES.items()
        }
        return Measured({"Clean": numbers["clean"], "mCE": Number(100 * corrupted.mce(base), 100 * error), **by_type})

    def _b_low(self, lab: Lab) -> dict[str, Number]:
        """ln B_low of each type's change, mean over severities, with a standard error from parts of the images."""
        clean, numbers = lab.test_set(self.dataset, "spectrum").tensor, {}
        for name, kind in lab.progress(COLUMNS_OF_TYPES.items(), B_LOW, len(COLUMNS_OF_TYPES)):
            corrupted = [corrupt(clean, kind, severity, frost=lab.frost) for severity in SEVERITIES]
            of_all, *parts = (
                corruption_spectrum(clean[part], (images[part] for images in corrupted)).mean_log_b_low
                for part in (slice(None), *_parts(len(clean)))
            )
            numbers[name] = Number(of_all, _error(parts))
        return numbers


@experiment("chan2022:table1")
class Table1(_Corruptions):
    """CIFAR-10-C."""

    where = "Table 1"
    title = "accuracy and mCE on the corruptions of CIFAR-10-C, by descending B_low"
    dataset = "cifar10"
    subjects = (*_models((STANDARD, JAFR, MINUS, FGSM, BOTH, PGD)), Subject(B_LOW))
    printed = _columns_of(
        """
        Clean | 93.11±0.20 | 93.13±0.11 | 83.16±1.01 | 84.80±1.37 | 79.94±0.22 | 79.31±0.23 | –
        mCE | 100.00 | 95.84 | 127.51 | 124.32 | 134.37 | 135.71 | –
        Fog | 86.23±0.45 | 86.60±0.28 | 67.15±3.81 | 63.00±4.03 | 56.60±0.72 | 56.36±1.25 | 12.85
        Saturate | 89.27±0.16 | 89.07±0.28 | 77.55±0.76 | 79.54±1.07 | 76.61±0.22 | 76.29±0.21 | 12.28
        Contrast | 75.10±1.08 | 73.45±0.95 | 50.93±3.10 | 44.06±3.97 | 41.96±0.61 | 41.19±0.88 | 12.14
        Bright | 91.56±0.15 | 91.45±0.18 | 81.02±0.88 | 83.04±1.20 | 76.95±0.42 | 76.01±0.58 | 12.01
        Snow | 79.54±0.71 | 81.06±0.15 | 75.05±1.52 | 77.83±1.43 | 74.28±0.27 | 73.73±0.21 | 11.53
        Frost | 75.41±0.63 | 78.97±0.56 | 75.82±1.64 | 77.70±1.44 | 70.50±0.54 | 69.06±1.18 | 10.61
        Motion | 75.67±1.35 | 75.13±1.21 | 67.33±2.01 | 65.15±3.47 | 72.65±0.41 | 72.15±0.78 | 10.61
        Zoom | 76.42±1.65 | 76.48±1.20 | 71.39±1.87 | 69.37±3.91 | 75.38±0.44 | 74.78±0.67 | 10.37
        Elastic | 81.62±0.60 | 81.98±0.55 | 73.88±1.45 | 73.90±2.27 | 74.86±0.37 | 74.25±0.58 | 10.05
        Pixel | 72.90±0.70 | 72.45±0.89 | 79.78±0.72 | 81.20±0.55 | 78.15±0.14 | 77.47±0.33 | 8.2
        Gauss. B | 73.38±1.58 | 73.53±1.16 | 70.56±1.51 | 68.49±3.93 | 74.39±0.38 | 73.71±0.63 | 7.82
        Defocus | 81.57±0.83 | 81.76±0.71 | 74.22±1.37 | 73.42±3.01 | 76.15±0.29 | 75.46±0.54 | 7.49
        Glass | 50.18±1.75 | 55.12±0.58 | 66.28±2.89 | 70.18±1.07 | 73.75±0.28 | 73.33±0.49 | 7.01
        Spatter | 80.77±0.11 | 82.29±0.45 | 76.46±1.68 | 78.49±2.04 | 75.83±0.32 | 75.29±0.32 | 6.77
        JPEG | 77.76±0.56 | 79.56±0.60 | 80.38±0.77 | 81.47±1.54 | 78.19±0.18 | 77.58±0.24 | 6.51
        Speckle | 62.79±2.44 | 66.74±0.51 | 68.86±4.83 | 74.07±4.08 | 77.36±0.21 | 76.22±0.54 | 3.76
        Shot | 59.63±2.75 | 64.32±0.76 | 68.32±5.06 | 73.73±4.19 | 77.35±0.24 | 76.19±0.42 | 3.68
        Impulse | 56.50±1.64 | 58.75±0.59 | 57.73±6.09 | 64.51±8.91 | 71.55±0.54 | 71.56±0.74 | 3.63
        Gauss. N | 48.70±3.31 | 54.34±1.00 | 62.91±6.74 | 69.40±5.27 | 76.59±0.33 | 75.15±0.49 | 3.62
        """,
        (STANDARD, JAFR, MINUS, FGSM, BOTH, PGD, B_LOW),
    )
    claims = (
        *_corruption_claims(14, 18, standard_too=True),
        Claim(
            "The corruption types are arranged with descending order of low-frequency bias B_low.", "Table 1",
            "B_low does not rise by more than 0.05 from one type to the next", _descending,
        ),
        Claim(
            "B_low: Fog 12.85, Saturate 12.28, Contrast 12.14, …, Shot 3.68, Impulse 3.63, Gauss. N 3.62", "Table 1",
            "each of the 19 values is within 0.05 of the printed one, or within two standard errors more (noise)",
            _as_printed(printed[B_LOW], 0.05),
        ),
    )  # fmt: skip


@experiment("chan2022:table8")
class Table8(_Corruptions):
    """CIFAR-100-C, in the appendix, whose numbers were not available."""

    where = "Table 8 (appendix)"
    title = "accuracy and mCE on the corruptions of CIFAR-100-C"
    dataset = "cifar100"
    subjects = (*_models((STANDARD, JAFR, MINUS, FGSM, BOTH, PGD), "cifar100"), Subject(B_LOW, dataset="cifar100"))
    claims = tuple(_corruption_claims(17, 19, standard_too=False))


# Figure 1 and Table 2


SHARES = (
    Column("ln B_low", "", "printed as B_low; of the mean |F| over images and channels"),
    Column("lowest", "%", "share of the mean |F| at horizontal and vertical frequencies up to 1/8 cycles/pixel"),
    Column("top left", "%", "share at horizontal and vertical frequencies up to 1/4 cycles/pixel"),
    Column("left", "%", "share at horizontal frequencies up to 1/4 cycles/pixel"),
    Column("top", "%", "share at vertical frequencies up to 1/4 cycles/pixel"),
    Column("bottom right", "%", "share at horizontal and vertical frequencies above 1/4 cycles/pixel"),
    Column("distance", "%", "total variation distance from the mean |F| of the test images, each divided by its sum"),
)


def shares(amplitude: Tensor) -> dict[str, float]:
    """ln B_low and the shares ``SHARES`` of a mean |rfft2| (H, W//2+1)."""
    quarter = quadrant(amplitude).double()
    vertical, horizontal = (torch.linspace(0, 0.5, count) for count in quarter.shape)
    vertical, horizontal = vertical[:, None], horizontal[None]
    parts = {
        "lowest": (vertical <= 1 / 8) & (horizontal <= 1 / 8),
        "top left": (vertical <= 1 / 4) & (horizontal <= 1 / 4),
        "left": (horizontal <= 1 / 4).expand_as(quarter),
        "top": (vertical <= 1 / 4).expand_as(quarter),
        "bottom right": (vertical > 1 / 4) & (horizontal > 1 / 4),
    }
    bias = {"ln B_low": log_b_low(amplitude).item() if amplitude.any() else nan}
    return bias | {name: 100 * (quarter[part].sum() / quarter.sum()).item() for name, part in parts.items()}


def distance(amplitude: Tensor, other: Tensor) -> float:
    """Total variation distance in percent of two mean |rfft2| (H, W//2+1), each divided by its sum over a quadrant."""
    first, second = (quadrant(each).double() / quadrant(each).double().sum() for each in (amplitude, other))
    return 50 * (first - second).abs().sum().item()


def _with_errors(measure: Callable[[Tensor], Mapping[str, float]], amplitudes: Tensor) -> dict[str, Number]:
    """Numbers of the mean of ``amplitudes`` (parts, H, W//2+1), with standard errors estimated from the parts."""
    of_mean, parts = measure(amplitudes.mean(0)), [measure(amplitude) for amplitude in amplitudes]
    return {name: Number(value, _error([part[name] for part in parts])) for name, value in of_mean.items()}


def _error(parts: Sequence[float]) -> float:
    """The standard error of a mean over parts of the images; NaN for a single part."""
    return stdev(parts) / len(parts) ** 0.5 if len(parts) > 1 else nan


def _shift(row: str, base: str) -> Judge:
    rising = (higher((row, side), (base, side)) for side in ("left", "top"))
    return every(*rising, higher((base, "bottom right"), (row, "bottom right")))


class _Spectra(Experiment):
    """Mean spectra, of images or of a model's Jacobians.

    The paper shows them as pictures; its statements are judged by shares of their regions.
    """

    paper = CHAN
    columns = SHARES

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": scale.count("jacobian") or "all test images", "loss": f"mean over {BATCH} images"}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        test = lab.test_set(subject.dataset, "jacobian")
        parts = torch.stack([self._amplitude(model, test[part], lab) for part in _parts(len(test))])
        numbers = _with_errors(shares, parts)
        if model is not None:
            images = spectrum(test.images).amplitude
            numbers |= _with_errors(lambda amplitude: {"distance": distance(amplitude, images)}, parts)
        return Measured(numbers, {"amplitude": parts.mean(0), **self.more(model, test.tensor, test.labels, lab)})

    @staticmethod
    def _amplitude(model: nn.Module | None, test: ImageSet, lab: Lab) -> Tensor:
        if model is None:
            return spectrum(test.images).amplitude
        return jacobian_spectrum(
            model, test.images, test.labels, batch=BATCH, cache=lab.cache, progress=lab.progress
        ).amplitude

    def more(self, model: nn.Module | None, images: Tensor, labels: Tensor, lab: Lab) -> Mapping[str, Tensor]:
        """Further arrays for the figure."""
        return {}


_IN_FIGURE_1 = {"SVHN": "svhn", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}


@experiment("chan2022:fig1")
class Fig1(_Spectra):
    """Images above, Jacobians below."""

    where = "Fig. 1"
    title = "Fourier spectra of image data sets and of the Jacobians of models trained on them"
    subjects = tuple(
        subject
        for name, dataset in _IN_FIGURE_1.items()
        for subject in (Subject(name, dataset=dataset), *_models((STANDARD,), dataset))
        for subject in [replace(subject, row=name if not subject.recipe else f"{name}, Jacobians")]
    )
    claims = tuple(
        Claim(
            "Clean images contain large ratios of low-frequency components, shown by the intensity on the top left of "
            "the spectra (top row) while their corresponding standard-trained models rely heavily on high-frequency "
            "features (bottom row).",
            f"Fig. 1, {name}", "the images have the larger ln B_low and the larger share at the top left",
            every(*(higher((name, column), (f"{name}, Jacobians", column)) for column in ("ln B_low", "top left"))),
        )
        for name in _IN_FIGURE_1
    )  # fmt: skip

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        names = [name for name in _IN_FIGURE_1 if {name, f"{name}, Jacobians"} & outcome.arrays.keys()]
        figure.set_size_inches(2.4 * len(names) + 1, 5)
        grid = figure.subplots(2, len(names), squeeze=False)
        for column, name in enumerate(names):
            for row, title in enumerate((name, f"{name}, Jacobians")):
                _draw_spectrum(grid[row, column], outcome.arrays.get(title, {}).get("amplitude"), title)


@experiment("chan2022:table2")
class Table2(_Spectra):
    """CIFAR-10."""

    where = "Table 2"
    title = "low-frequency bias, frequency spectra and Jacobians of CIFAR-10 models"
    subjects = tuple(_models((STANDARD, JAFR, FGSM, MINUS, BOTH, ALIGN, PGD)))
    transposed = True
    printed = _table(
        """
        Standard | 1.56
        JaFR | 16.71
        FGSM AT | 2.68
        FGSM AT + JaFR(-) | 0.326
        FGSM AT + JaFR | 15.41
        FGSM AT + GradAlign | 7.88
        PGD AT | 7.49
        """,
        ("ln B_low",),
    )
    claims = (
        Claim(
            "models with JaFR have the highest low-frequency bias (B_low) values", "Section 4.2",
            "ln B_low of JaFR and of FGSM AT + JaFR is higher than that of each other model",
            every(*(higher((row, "ln B_low"), (other, "ln B_low")) for row in (JAFR, BOTH)
                    for other in (STANDARD, FGSM, MINUS, ALIGN, PGD))),
        ),
        *(
            Claim(
                quote, where, f"from {base} to {row} the shares at the left and at the top rise, and that at the "
                "bottom right falls", _shift(row, base),
            )
            for quote, where, row, base in (
                ("When comparing the spectra of the standard and JaFR model […], the intensities shift from the "
                 "highest-frequency (bottom-right) region to lower frequency regions (left and top) with JaFR.",
                 "Section 4.1", JAFR, STANDARD),
                ("intensities of the spectra shift from the high-frequency regions (right and bottom) towards the left "
                 "and top regions of the spectra", "Section 4.2", BOTH, FGSM),
            )
        ),
        Claim(
            "using a negative λ_freq term (in FGSM AT + JaFR(-)) concentrates the spectra towards highest-frequency "
            "(bottom-right) region and drastically lowers the (B_low) value",
            "Section 4.2", "FGSM AT + JaFR(-) has the larger share at the bottom right and the lower ln B_low than "
            "FGSM AT", every(higher((MINUS, "bottom right"), (FGSM, "bottom right")),
                        higher((FGSM, "ln B_low"), (MINUS, "ln B_low"))),
        ),
        Claim(
            "the spectra of our JaFR-only model, unlike the adversarially trained models (e.g., PGD AT), do not "
            "concentrate the intensities on the lowest-frequency region (top-left)",
            "Section 4.1", "JaFR has a smaller share at the lowest frequencies than PGD AT",
            higher((PGD, "lowest"), (JAFR, "lowest")),
        ),
        Claim(
            "When analyzing the Fourier profile of Jacobians of adversarially robust models (Table 2), we see that it "
            "resembles the profile of the training data much more than the non-robust standard trained models.",
            "Section 3", "PGD AT, FGSM AT + GradAlign and FGSM AT + JaFR have a smaller distance from the images than "
            "Standard", every(*(higher((STANDARD, "distance"), (row, "distance")) for row in (PGD, ALIGN, BOTH))),
        ),
        Claim(
            "When JaFR is added to the FGSM AT model, we observe that its Jacobians (J) become more salient",
            "Section 4.2", "by eye, in the figure", _by_eye,
        ),
    )  # fmt: skip

    def more(self, model: nn.Module | None, images: Tensor, labels: Tensor, lab: Lab) -> Mapping[str, Tensor]:
        assert model is not None
        pixels = to_pixels(images[:1]).to(lab.device)
        return {"picture": jacobian_pictures(model, pixels, labels[:1].to(lab.device))[0], "image": pixels[0].cpu()}

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        rows = [subject.row for subject in self.subjects if subject.row in outcome.arrays]
        figure.set_size_inches(2 * (len(rows) + 1), 4.5)
        grid = figure.subplots(2, len(rows) + 1, squeeze=False)
        for column, row in enumerate(rows):
            arrays, number = outcome.arrays[row], outcome.numbers[row, "ln B_low"]
            _draw_spectrum(grid[0, column], arrays["amplitude"], f"{row}\n{number}")
            plot_picture(grid[1, column], arrays["picture"])
        grid[0, -1].set_axis_off()
        plot_picture(grid[1, -1], outcome.arrays[rows[0]]["image"]).axes.set_title("Original Image", fontsize="small")


def _draw_spectrum(axes: Axes, amplitude: Tensor | None, title: str) -> None:
    """Draw a mean |F| divided by its mean, each on its own logarithmic scale as in the paper's figures."""
    axes.set_title(title, fontsize="small")
    if amplitude is None:
        axes.set_axis_off()
        return
    scaled = amplitude / quadrant(amplitude).mean()
    draw_quadrant(axes, scaled, logarithmic(shared_limits([quadrant(scaled)]), clip=True))


# Tables 3 to 7


ATTACKS = {"Clean": "clean", "FGSM": "fgsm", "PGD": "pgd-50-10", "CW": "pgd-50-10:cw", "AutoAttack": "autoattack"}
_SLOW = {"PGD": "pgd-50-10", "CW": "pgd-50-10", "AutoAttack": "autoattack"}  # their kinds of measurement
ROWS = (STANDARD, JAFR, FGSM, BOTH, ALIGN, PGD)
_EVALUATED = (
    Column("Clean", "%", "accuracy on the test images"),
    Column("FGSM", "%", "under one step of ε from the image"),
    Column("PGD", "%", "under PGD with 50 steps of ε/4 and 10 random restarts; a misclassified iterate counts"),
)


class _Robustness(Experiment):
    """Accuracy under attacks, ε = 8/255 unless the experiment says otherwise."""

    paper = CHAN
    columns = _EVALUATED
    eps: float = 8 / 255

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        attacks = {column.name: parse_attack(ATTACKS[column.name], eps=self.eps) for column in self.columns}
        images = {name: scale.count(_SLOW.get(name, "accuracy")) or "all test images" for name in attacks}
        return {"attacks": {name: attack.as_dict() for name, attack in attacks.items()}, "images": images}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        numbers = {}
        for column in self.columns:
            attack = parse_attack(ATTACKS[column.name], eps=self.eps)
            kind = _SLOW.get(column.name, "accuracy")
            (numbers[column.name],) = lab.accuracies(model, subject, [attack], kind=kind).values()
        return Measured(numbers)


def _boosts(contradicted: Sequence[str]) -> Iterator[Claim]:
    """The claim that JaFR helps FGSM AT, by attack; the paper's own tables contradict it for ``contradicted``."""
    for column in _EVALUATED:
        but = "; the paper's own table says the opposite" if column.name in contradicted else ""
        yield Claim(
            "For all the four image datasets, when JaFR is combined with FGSM, there is a significant boost in both "
            "clean and adversarial accuracy values from the FGSM AT model for all attack types",
            f"Section 4.2, {column.name}", f"{column.name}: FGSM AT + JaFR is more accurate than FGSM AT{but}",
            higher((BOTH, column.name), (FGSM, column.name)),
        )  # fmt: skip
    yield Claim(
        "similar to what is observed for a recent defense, GradAlign, which also requires combining with FGSM to "
        "improve the adversarial robustness of the model",
        "Section 4.2", "PGD: FGSM AT + GradAlign is more accurate than FGSM AT", higher((ALIGN, "PGD"), (FGSM, "PGD")),
    )  # fmt: skip
    yield Claim(
        "The need of using FGSM training samples to see an improvement in JaFR's adversarial robustness", "Section 4.2",
        "PGD: JaFR is not more accurate than Standard", _no_gain((JAFR, "PGD"), (STANDARD, "PGD")),
    )  # fmt: skip


_COMPETITIVE = Claim(
    "For the CIFAR-10 and -100, the improvement of adding JaFR to FGSM is large enough to achieve a robustness level "
    "that is competitive with the strong PGD AT baseline.",
    "Section 4.2", "PGD: FGSM AT + JaFR is at most 5 points below PGD AT; the paper's gaps are 3.31 and 1.82",
    higher((BOTH, "PGD"), (PGD, "PGD"), by=-5),
)  # fmt: skip


@experiment("chan2022:table3")
class Table3(_Robustness):
    """SVHN."""

    where = "Table 3"
    title = "SVHN, accuracy on clean and adversarial test images"
    subjects = tuple(_models(ROWS, "svhn"))
    printed = _table(
        """
        Standard | 96.62±0.05 | 21.86±0.90 | 0.17±0.02
        JaFR | 96.58±0.07 | 21.94±1.16 | 0.14±0.03
        FGSM AT | 92.33±0.20 | 89.16±5.87 | 0.52±0.90
        FGSM AT + JaFR | 87.22±4.63 | 59.4±12.75 | 19.64±16.26
        FGSM AT + GradAlign | 92.51±0.26 | 59.52±0.26 | 46.63±0.15
        PGD AT | 92.13±0.51 | 62.38±0.86 | 56.79±0.29
        """,
        ("Clean", "FGSM", "PGD"),
    )
    claims = tuple(_boosts(("Clean", "FGSM")))


@experiment("chan2022:table4")
class Table4(_Robustness):
    """The table's rows, and FGSM AT + JaFR(-), which only the text mentions."""

    where = "Table 4"
    title = "CIFAR-10, accuracy on clean and adversarial test images"
    subjects = tuple(_models((*ROWS, MINUS)))
    printed = _table(
        """
        Standard | 93.11±0.20 | 16.04±0.85 | 0
        JaFR | 93.13±0.11 | 15.86±0.88 | 0
        FGSM AT | 84.80±1.37 | 85.14±4.01 | 0.01±0.02
        FGSM AT + JaFR | 79.94±0.22 | 53.12±0.25 | 46.32±0.15
        FGSM AT + GradAlign | 80.07±0.21 | 54.26±0.55 | 46.97±0.15
        PGD AT | 79.31±0.23 | 54.00±0.72 | 49.63±0.20
        """,
        ("Clean", "FGSM", "PGD"),
    )
    claims = (
        *_boosts(("Clean", "FGSM")),
        _COMPETITIVE,
        Claim(
            "combining with JaFR(-) to bias the FGSM AT model towards high frequency with a negative λ_freq term was "
            "observed in our experiments to worsen its adversarial robustness against PGD attacks",
            "Section 4.2", "PGD: FGSM AT + JaFR(-) is less accurate than FGSM AT",
            higher((FGSM, "PGD"), (MINUS, "PGD")),
        ),
    )  # fmt: skip


@experiment("chan2022:table5")
class Table5(_Robustness):
    """CIFAR-100."""

    where = "Table 5"
    title = "CIFAR-100, accuracy on clean and adversarial test images"
    subjects = tuple(_models(ROWS, "cifar100"))
    printed = _table(
        """
        Standard | 72.27±0.31 | 8.04±0.84 | 0.13±0.03
        JaFR | 74.59±0.37 | 8.60±0.81 | 0.08±0.04
        FGSM AT | 52.08±2.85 | 31.43±2.15 | 0.04±0.04
        FGSM AT + JaFR | 50.49±0.21 | 26.96±0.36 | 23.42±0.27
        FGSM AT + GradAlign | 50.68±0.28 | 27.44±0.68 | 23.93±0.19
        PGD AT | 49.57±0.44 | 27.68±0.77 | 25.24±0.25
        """,
        ("Clean", "FGSM", "PGD"),
    )
    claims = (*_boosts(("Clean", "FGSM")), _COMPETITIVE)


@experiment("chan2022:table6")
class Table6(_Robustness):
    """Tiny-ImageNet; its last column is ``Complexity``."""

    where = "Table 6"
    title = "Tiny-ImageNet, accuracy on clean and adversarial test images"
    subjects = tuple(_models(ROWS, "tiny_imagenet"))
    printed = _table(
        """
        Standard | 63.59 | 2.23 | 0.05
        JaFR | 63.44 | 1.87 | 0.04
        FGSM AT | 45.89 | 17.54 | 0
        FGSM AT + JaFR | 47.43 | 20.3 | 18.86
        FGSM AT + GradAlign | 40.69 | 19.86 | 17.81
        PGD AT | 40 | 17.54 | 19.91
        """,
        ("Clean", "FGSM", "PGD"),
    )
    claims = tuple(_boosts(()))


@experiment("chan2022:table7")
class Table7(_Robustness):
    """In the appendix, whose numbers were not available."""

    where = "Table 7 (appendix)"
    title = "accuracy under CW and AutoAttack on CIFAR-10"
    subjects = tuple(_models(ROWS))
    columns = (
        Column("CW", "%", "as PGD, on the margin of the logits instead of the cross-entropy, as in the authors' code"),
        Column("AutoAttack", "%", "under AutoAttack's standard version"),
    )
    claims = tuple(
        Claim(
            "Experiments (Table 7 in Appendix) on more advanced attacks such as CW and AutoAttack show that the "
            "robustness gain from JaFR can resist even stronger attacks and is not due to gradient masking.",
            f"Section 4.2, {attack}", f"{attack}: FGSM AT + JaFR is more accurate than FGSM AT",
            higher((BOTH, attack), (FGSM, attack)),
        )
        for attack in ("CW", "AutoAttack")
    )  # fmt: skip


# The last column of Table 6


_SECONDS = {STANDARD: 0.1575, JAFR: 0.6015, FGSM: 0.4245, BOTH: 0.6027, ALIGN: 0.6003, PGD: 1.34}


@experiment("chan2022:table6_complexity")
class Complexity(Experiment):
    """Training steps on random images of Tiny-ImageNet's size; needs no data and no trained models."""

    paper = CHAN
    where = "Table 6, last column"
    title = "seconds per training iteration"
    subjects = tuple(Subject(row, options={"recipe": f"{_DEFENSES[row]}_prn18_jafr"}) for row in ROWS)
    columns = (
        Column("s/iter", "s", "of a training step of 128 images; the paper's on a V100 GPU"),
        Column("ratio", "", "to the time of Standard, measured just before; the paper's computed from its seconds"),
        Column("peak memory", "GiB", "allocated by PyTorch on the GPU; not known on the CPU"),
    )
    printed: Mapping[str, Mapping[str, Number]] = {
        row: {"s/iter": Number(seconds), "ratio": Number(seconds / _SECONDS[STANDARD])}
        for row, seconds in _SECONDS.items()
    }
    claims = (
        Claim(
            "JaFR scales well, with a smaller amount of computation than the PGD AT.", "Section 4.2",
            "a step of FGSM AT + JaFR takes less time than one of PGD AT", higher((PGD, "ratio"), (BOTH, "ratio")),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"images": "random, 64×64", "network": scale.architecture("prn18_jafr")}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        standard, cost = (self._cost(name, lab) for name in ("standard_prn18_jafr", subject.options["recipe"]))
        peak = nan if cost.peak_bytes is None else cost.peak_bytes / 2**30
        return Measured({
            "s/iter": Number(cost.seconds), "ratio": Number(cost.seconds / standard.seconds),
            "peak memory": Number(peak),
        })  # fmt: skip

    def _cost(self, name: str, lab: Lab) -> StepCost:
        settings = ("steps=10", "step_size=2/255") if name.startswith("pgd_at") else ()  # the paper's, at both scales
        recipe = Subject("", name, "tiny_imagenet", settings).at_scale(lab.scale)
        assert recipe is not None
        return step_cost(recipe.full_recipe(), str(lab.device), steps=5)


# An additional question


LARGE = ("eps=16/255",)


@experiment("chan2022:overfitting")
class Overfitting(_Robustness):
    """FGSM AT under conditions in which it overfits, because "JaFR rescues FGSM AT" presupposes overfitting.

    The paper's FGSM AT, of a ResNet-18 for 30 epochs, overfits at ε = 8/255; a ResNet-20 for 10 epochs does not. A
    larger ε causes overfitting (Andriushchenko and Flammarion, NeurIPS 2020, Fig. 1), so training and attack use ε =
    16/255. GradAlign's λ is then 2, as in their scripts; JaFR's stays 0.001.
    """

    where = "Section 4.2, at ε = 16/255"
    title = "FGSM AT that overfits catastrophically, with and without JaFR"
    question = True
    eps = 16 / 255
    subjects = (*_models((FGSM, BOTH), settings=LARGE), *_models((ALIGN,), settings=(*LARGE, "weight=2.0")))
    claims = (
        Claim(
            "FGSM AT overfits catastrophically at ε = 16/255", "Section 4.2", "its accuracy under FGSM is more than 20 "
            "points above that under PGD", higher((FGSM, "FGSM"), (FGSM, "PGD"), by=20),
        ),
        Claim(
            "JaFR prevents it", "Section 4.2", "PGD: FGSM AT + JaFR is more accurate than FGSM AT",
            higher((BOTH, "PGD"), (FGSM, "PGD")),
        ),
        Claim(
            "GradAlign prevents it", "Section 4.2", "PGD: FGSM AT + GradAlign is more accurate than FGSM AT",
            higher((ALIGN, "PGD"), (FGSM, "PGD")),
        ),
    )  # fmt: skip
