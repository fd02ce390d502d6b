"""Findings: sentences computed from the numbers, and caveats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import fmean

from markupsafe import Markup

from freqrob.diagnostics.registry import all_diagnostics
from freqrob.diagnostics.spectrum import Spectrum
from freqrob.evaluation.corruptions import GROUPS
from freqrob.report.records import Accuracy, Records
from freqrob.report.summary import SummaryColumn, conditions_of, headline, title_of
from freqrob.runtime.figures import drawing
from freqrob.runtime.statistics import rank_correlation, wilson_interval

LEAST_MODELS = 5  # needed for a significant rank correlation
LEVEL = 0.05
FEW_IMAGES = 1000


def findings(records: Records, columns: Sequence[SummaryColumn]) -> list[Markup]:
    """Sentences that the measurements support, with their numbers, the most important first."""
    sentences = [
        _most_robust(records),
        _protocols(records),
        *(_relation(records, column) for column in columns if column.is_compared),
        *_of_diagnostics(records),
        _corruptions(records, columns),
        _long_tail(records),
    ]
    return [sentence for sentence in sentences if sentence]


def caveats(records: Records) -> Iterator[Markup]:
    """Warnings to read before quoting a number."""
    suspects = [model.name for model in records.models if model.masking == "suspected"]
    if suspects:
        yield _say(
            "Gradient masking is suspected: attacks without gradients break {} more often than PGD does. "
            "Do not trust their robust accuracies.",
            _names(suspects),
        )
    accuracies = [accuracy for model in records.models for accuracy in model.accuracies]
    fewest = min((accuracy.images for accuracy in accuracies), default=FEW_IMAGES)
    if fewest < FEW_IMAGES:
        low, high = wilson_interval(0.5, fewest)
        yield _say(
            "Some accuracies are on only {} images: one image counts {} percentage points, and a 95 % interval reaches "
            "up to ±{} points.",
            fewest, f"{100 / fewest:.2g}", f"{50 * (high - low):.2g}",
        )  # fmt: skip
    counts = [measured.measurement.images for model in records.models for measured in model.measurements.values()]
    if (fewest := min(counts, default=FEW_IMAGES)) < FEW_IMAGES / 10:
        yield _say("Some diagnostics use only {} images; their curves and maps are noisy.", fewest)
    attacks = {accuracy.attack for accuracy in accuracies} - {"clean"}
    if attacks and not any(attack.startswith("AutoAttack") for attack in attacks):
        yield _say(
            "No model was attacked with AutoAttack: robust accuracies under weaker attacks are upper bounds of "
            "robustness."
        )
    measurements = records.measurements()
    kinds = groupby(measurements.names(), key=lambda name: next(iter(measurements[name].values())).file_name)
    if differing := [kind for kind, names in kinds if measurements.group_by_condition(*names)]:
        yield _say(
            "Models were measured under different conditions in {}: compare with care. The captions name the "
            "conditions.",
            _names(differing),
        )
    if any(model.corrupted and model.corrupted.accuracy.generated for model in records.models):
        yield _say("The corrupted images were made by freqrob; numbers on the published CIFAR-10-C differ slightly.")


def _robust(records: Records) -> dict[str, Accuracy]:
    """Accuracies under the headline attack, of the models that were measured under the most common conditions."""
    setting = headline(records.models)
    best = {model.name: accuracy for model in records.models if setting and (accuracy := model.best(setting))}
    usual = Counter(map(conditions_of, best.values())).most_common(1)
    return {name: accuracy for name, accuracy in best.items() if conditions_of(accuracy) == usual[0][0]}


def _most_robust(records: Records) -> Markup | None:
    """The most robust model under the headline attack, and models with an overlapping confidence interval."""
    robust = _robust(records)
    if not robust:
        return None
    first = max(robust, key=lambda name: robust[name].accuracy)
    best = robust[first]
    low, high = best.interval
    sentence = _say(
        "Under {} (protocol {}; {}), {} classifies {} of the images correctly (95 % interval {} to {})",
        title_of(best.setting), _code(best.protocol), conditions_of(best), _code(first), _percent(best.accuracy),
        f"{100 * low:.1f}", _percent(high),
    )  # fmt: skip
    if len(robust) == 1:
        return sentence + "."
    overlapping = [name for name, accuracy in robust.items() if name != first and accuracy.interval[1] >= low]
    least = min(accuracy.accuracy for accuracy in robust.values())
    last = [name for name, accuracy in robust.items() if accuracy.accuracy == least]
    sentence += _say(", the most of {} models", len(robust))
    sentence += _say("; intervals that overlap with it: {}", _names(overlapping)) if overlapping else ""
    ends = _say(". {} {} the least, {}", _names(last), "has" if len(last) == 1 else "have", _percent(least))
    return sentence + ("" if set(last) & {first, *overlapping} else ends) + "."


def _protocols(records: Records) -> Markup | None:
    """The model with the largest difference between protocols, if it is significant."""
    chosen = [headline(records.models, protocol) for protocol in ("bass", "natural", "natural+bass")]
    settings = [setting for setting in chosen if setting is not None]
    if len(settings) < len(chosen) or len({setting[1:] for setting in settings}) > 1:
        return None
    name, accuracies, gap = "", [], 0.0
    for model in records.models:
        by_protocol = [best for setting in settings if (best := model.best(setting)) is not None]
        if len(by_protocol) == len(settings):
            least, _, most = sorted(by_protocol, key=lambda best: best.accuracy)
            if most.interval[0] > least.interval[1] and most.accuracy - least.accuracy > gap:
                name, accuracies, gap = model.name, by_protocol, most.accuracy - least.accuracy
    each = Markup(", ").join(_say("{} under {}", _percent(best.accuracy), _code(best.protocol)) for best in accuracies)
    if not name:
        return None
    return _say(
        "The protocol matters: {} has {} ({}). Only {} is comparable with RobustBench’s leaderboards.",
        _code(name), each, title_of(settings[1]), _code("natural"),
    )  # fmt: skip


def _relation(records: Records, column: SummaryColumn) -> Markup | None:
    """The range of a diagnostic over comparable models, and its correlation with robust accuracy."""
    values = column.comparable(records.models)
    if len(values) < 2:
        return None
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    least, most = column.written(values[low]), f"{column.written(values[high])} {column.unit}".strip()
    sentence = _say("{} ({}; {}) ", column.title, column.hint, column.conditions)
    if column.written(values[low]) == column.written(values[high]):
        return sentence + _say("is {} for all of {} models.", most, len(values))
    sentence += _say("ranges from {} ({}) to {} ({})", least, _code(low), most, _code(high))
    robust = {name: best.accuracy for name, best in _robust(records).items() if name in values}
    if len(robust) < LEAST_MODELS:
        return sentence + "."
    rho, p = rank_correlation([values[name] for name in robust], list(robust.values()))
    correlation = _say(
        "Spearman’s ρ = {} over {} models, p = {}", f"{rho:.2f}".replace("-", "−"), len(robust), f"{p:.2g}"
    )
    if p >= LEVEL:
        return sentence + _say("; its correlation with robust accuracy is not significant ({}).", correlation)
    return sentence + _say("; it {} with robust accuracy ({}).", "rises" if rho > 0 else "falls", correlation)


def _of_diagnostics(records: Records) -> list[Markup]:
    measurements, sentences = records.measurements(), []
    for name, diagnostic in all_diagnostics().items():
        with drawing(f"findings of {name}"):
            sentences += diagnostic.findings(measurements)
    return sentences


def _corruptions(records: Records, columns: Sequence[SummaryColumn]) -> Markup | None:
    """The model with the best mean over the types, and the type with the lowest accuracy."""
    column = next((column for column in columns if column.key == "corruptions 15 types"), None)
    if column is None:
        return None
    means = column.comparable(records.models)
    best = max(means, key=means.__getitem__)
    accuracies = [model.corrupted.accuracy for model in records.models if model.corrupted and model.name in means]
    of_type = {kind: fmean(accuracy.of_type(kind) for accuracy in accuracies) for kind in GROUPS["15 types"]}
    hardest = min(of_type, key=of_type.__getitem__)
    return _say(
        "On corrupted images (15 types; {}) {} is the best of {} models with {}; the hardest type is {}, "
        "with a mean of {}.",
        column.conditions, _code(best), len(means), _percent(means[best]),
        hardest.replace("_", " "), _percent(of_type[hardest]),
    )  # fmt: skip


def _long_tail(records: Records) -> Markup | None:
    """The radius within which 80 % of each set's power lies."""
    sets = {name: found for name, one in records.spectra.items() if isinstance(found := one.measurement, Spectrum)}
    each = [
        _say("{} % of the largest radius ({}, α = {})", f"{100 * s.boundary_fraction:.0f}", name, f"{s.alpha:.2f}")
        for name, s in list(sets.items())[:3]
    ]
    if not each:
        return None
    return _say("80 % of the images’ power, without the mean, lies within {}.", Markup(", ").join(each))


def _say(text: str, /, *values: object) -> Markup:
    return Markup(text).format(*values)


def _code(name: str) -> Markup:
    return Markup("<code>{}</code>").format(name)


def _names(names: Sequence[str]) -> Markup:
    return Markup(", ").join(map(_code, names))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
