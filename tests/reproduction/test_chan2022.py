"""Chan et al.'s tables: the printed numbers as printed, the claims judged on them, and each kind of measurement."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest
import torch
from matplotlib.figure import Figure

from freqrob.data.corruptions import SEVERITIES, corrupt
from freqrob.data.samples import sample_images
from freqrob.diagnostics import corruption_spectrum, spectrum
from freqrob.reproduction import Number, Subject, chan2022, get_experiment, list_experiments
from freqrob.reproduction.chan2022 import B_LOW, BOTH, FGSM, JAFR, MINUS, PGD, STANDARD, TYPES, distance, shares
from freqrob.reproduction.experiment import Numbers, Outcome
from freqrob.runtime.statistics import rank_correlation
from freqrob.spectral import log_b_low
from freqrob.training.cost import StepCost

NAMES = list_experiments("chan2022:*")


def verdicts(name, numbers):
    return [claim.judge(Numbers(numbers)).verdict for claim in get_experiment(name).claims]


def test_every_table_and_figure_with_numbers_has_an_experiment():
    tables = {f"chan2022:table{number}" for number in range(1, 9)}
    assert set(NAMES) == tables | {"chan2022:fig1", "chan2022:table6_complexity", "chan2022:overfitting"}
    assert [name for name in NAMES if get_experiment(name).question] == ["chan2022:overfitting"]


def test_table_1_has_seven_columns_of_21_rows_as_printed():
    printed = get_experiment("chan2022:table1").printed
    assert {row: len(at) for row, at in printed.items()} == {
        STANDARD: 21, JAFR: 21, MINUS: 21, FGSM: 21, BOTH: 21, PGD: 21, B_LOW: 19
    }  # fmt: skip
    assert printed[BOTH]["Elastic"] == Number(74.86, 0.37) and printed[B_LOW]["Pixel"].value == 8.2


@pytest.mark.parametrize("row", [JAFR, MINUS, FGSM])
def test_the_printed_mce_is_the_mean_ratio_of_the_printed_errors(row):
    """Not of FGSM AT + JaFR and PGD AT, for which the paper's own accuracies give another value."""
    printed = get_experiment("chan2022:table1").printed
    ratios = [(100 - printed[row][name].value) / (100 - printed[STANDARD][name].value) for name in TYPES]
    assert 100 * sum(ratios) / len(ratios) == pytest.approx(printed[row]["mCE"].value, abs=0.02)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("chan2022:table1", ["holds"] * 3 + ["within noise"] * 3 + ["holds"] * 3),
        ("chan2022:table2", ["holds"] + ["not measured"] * 6),
        ("chan2022:table3", ["within noise", "does not hold", "within noise", "holds", "holds"]),
        ("chan2022:table4", ["does not hold"] * 2 + ["holds"] * 4 + ["not measured"]),
        ("chan2022:table5", ["within noise", "does not hold", "holds", "holds", "holds", "holds"]),
        ("chan2022:table6", ["holds"] * 5),
        ("chan2022:table6_complexity", ["holds"]),
    ],
)
def test_the_claims_on_the_printed_numbers(name, expected):
    """Where the paper's own numbers, with its ± over seeds, do not support a claim, it must not hold here either."""
    assert verdicts(name, get_experiment(name).printed) == expected


def changed(printed, row, column, value):
    return {**printed, row: {**printed[row], column: Number(value, 0.1)}}


@pytest.mark.parametrize(
    "claim, row, column, value, verdict",
    [
        (0, PGD, "mCE", 90, "does not hold"),
        (1, STANDARD, "Snow", 90, "within noise"),  # 13 of 19; only Snow is beyond noise
        (3, BOTH, "Fog", 90, "does not hold"),
        (5, MINUS, "Gauss. N", 90, "does not hold"),
        (7, B_LOW, "Fog", 12.2, "does not hold"),
        (8, B_LOW, "Fog", 13.11, "does not hold"),
        (8, B_LOW, "Fog", 12.89, "holds"),
    ],
)
def test_the_claims_of_table_1_can_fail(claim, row, column, value, verdict):
    printed = changed(get_experiment("chan2022:table1").printed, row, column, value)
    assert verdicts("chan2022:table1", printed)[claim] == verdict


def test_a_difference_of_b_low_within_the_error_over_images_is_noise():
    printed = get_experiment("chan2022:table1").printed
    off = {**printed, B_LOW: {**printed[B_LOW], "Fog": Number(12.70, 0.06)}}
    assert verdicts("chan2022:table1", off)[8] == "within noise"
    off[B_LOW]["Fog"] = Number(12.70, 0.04)
    assert verdicts("chan2022:table1", off)[8] == "does not hold"


def test_fewer_wins_than_the_paper_has_do_not_hold_if_they_are_clear():
    printed = get_experiment("chan2022:table1").printed
    better = {name: Number(number.value + 5, 0.1) for name, number in printed[JAFR].items()}
    assert verdicts("chan2022:table1", {**printed, STANDARD: better})[1] == "does not hold"


def test_gains_that_grow_with_b_low_do_not_hold():
    printed = get_experiment("chan2022:table1").printed
    swapped = {**printed, STANDARD: printed[JAFR], JAFR: printed[STANDARD]}
    assert verdicts("chan2022:table1", swapped)[2] == "does not hold"
    assert verdicts("chan2022:table1", {})[2] == "not measured"


def test_shares_of_flat_and_of_single_frequencies():
    flat = shares(torch.ones(32, 17))
    assert flat["top left"] == pytest.approx(100 * 81 / 289) and flat["lowest"] == pytest.approx(100 * 25 / 289)
    assert flat["left"] == flat["top"] == pytest.approx(100 * 9 / 17)
    assert flat["bottom right"] == pytest.approx(100 * 64 / 289)
    vertical = torch.zeros(32, 17)
    vertical[16, 0] = 1  # horizontal frequency 0, vertical ½
    assert shares(vertical).items() >= {
        "lowest": 0, "top left": 0, "left": 100, "top": 0, "bottom right": 0
    }.items()  # fmt: skip
    assert shares(torch.ones(32, 17))["ln B_low"] == pytest.approx(log_b_low(torch.ones(32, 17)).item())
    assert isnan(shares(torch.zeros(32, 17))["ln B_low"])


def test_distance_of_spectra_ignores_their_scale_and_is_100_without_overlap():
    one, other = torch.zeros(32, 17), torch.zeros(32, 17)
    one[0, 0], other[16, 16], half = 1, 5, torch.zeros(32, 17)
    half[0, 0] = half[16, 16] = 2
    assert distance(one, 3 * one) == 0 and distance(one, other) == pytest.approx(100)
    assert distance(one, half) == pytest.approx(50)


@pytest.mark.parametrize("name", ["chan2022:table4", "chan2022:table7", "chan2022:overfitting"])
def test_attacks_are_those_of_section_4_2(name, lab):
    eps = 16 / 255 if name.endswith("overfitting") else 8 / 255
    attacks = get_experiment(name).conditions(lab.scale)["attacks"]
    assert all(attack["eps"] == eps for column, attack in attacks.items() if column != "Clean")
    for column in {"PGD", "CW"} & attacks.keys():
        attack = attacks[column]
        assert (attack["steps"], attack["restarts"], attack["step_size"]) == (50, 10, eps / 4)
        assert attack["loss"] == ("cw" if column == "CW" else "ce")


def test_overfitting_models_are_named_after_their_changed_setting(lab):
    subjects = get_experiment("chan2022:overfitting").subjects_at(lab.scale)
    assert subjects[0].model_name == "fgsm_rn20-eps-16_255"
    assert all(subject.full_recipe().make_defense().eps == 16 / 255 for subject in subjects)


def subject_of(experiment, row, lab):
    return next(subject for subject in experiment.subjects_at(lab.scale) if subject.row == row)


def test_table_4_measures_under_its_attacks(lab, monkeypatch):
    experiment = get_experiment("chan2022:table4")
    asked = []

    def accuracies(_lab, _model, _subject, attacks, *, kind):
        asked.append((attacks[0].as_dict(), kind))
        return {attacks[0].name: Number(len(asked))}

    monkeypatch.setattr("freqrob.reproduction.lab.Lab.accuracies", accuracies)
    measured = experiment.measure(Subject("Standard"), torch.nn.Identity(), lab)
    assert measured.numbers == {"Clean": Number(1), "FGSM": Number(2), "PGD": Number(3)}
    assert [kind for _, kind in asked] == ["accuracy", "accuracy", "pgd-50-10"]
    expected = experiment.conditions(lab.scale)["attacks"]
    assert [attack for attack, _ in asked] == [expected[name] for name in ("Clean", "FGSM", "PGD")]


def test_table_2_measures_and_draws(lab):
    experiment = get_experiment("chan2022:table2")
    subject = subject_of(experiment, STANDARD, lab)
    measured = experiment.measure(subject, lab.model(subject), lab)
    assert measured.numbers.keys() == {column.name for column in experiment.columns}
    assert measured.arrays["amplitude"].shape == (32, 17) and measured.arrays["picture"].shape == (3, 32, 32)
    assert torch.equal(measured.arrays["image"], lab.test_set("cifar10").images[0] / 255)
    figure = Figure()
    experiment.plot(Outcome(Numbers({STANDARD: measured.numbers}), {STANDARD: measured.arrays}, {}), figure)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 3 and STANDARD in drawn[0].get_title()


def test_figure_1_measures_images_and_draws_what_is_known(lab, monkeypatch):
    experiment = get_experiment("chan2022:fig1")
    images = experiment.measure(subject_of(experiment, "CIFAR-10", lab), None, lab)
    assert images.numbers["ln B_low"].value > 10 and images.numbers["top left"].value > 60
    assert "distance" not in images.numbers and isnan(images.numbers["left"].error), "too few images for errors"
    monkeypatch.setattr(chan2022, "_parts", lambda count: [slice(0, 2), slice(2, 4)])
    parts = experiment.measure(subject_of(experiment, "CIFAR-10", lab), None, replace(lab, n_images=4))
    whole = spectrum(lab.test_set("cifar10").images[:4])
    assert parts.numbers["ln B_low"].value == pytest.approx(whole.log_b_low, abs=1e-4)
    assert 0 < parts.numbers["left"].error < 10
    figure = Figure()
    experiment.plot(Outcome(Numbers({"CIFAR-10": images.numbers}), {"CIFAR-10": images.arrays}, {}), figure)
    assert [bool(axes.images) for axes in figure.axes] == [True, False]


def test_table_1_measures_b_low_accuracies_and_mce(lab, monkeypatch):
    experiment, lab = get_experiment("chan2022:table1"), replace(lab, n_images=4)
    kinds = {"Fog": "fog", "Gauss. N": "gaussian_noise"}
    monkeypatch.setattr(chan2022, "COLUMNS_OF_TYPES", kinds)
    only = lab.corruption_arrays("cifar10", types=tuple(kinds.values()))
    monkeypatch.setattr("freqrob.reproduction.lab.Lab.corruption_arrays", lambda *_arguments, **_options: only)
    b_low = experiment.measure(Subject(B_LOW), None, lab).numbers
    assert b_low["Fog"].value > 10 and b_low["Gauss. N"].value == pytest.approx(3.6, abs=0.3)
    standard, jafr = (subject_of(experiment, row, lab) for row in (STANDARD, JAFR))
    of_standard, of_jafr = (experiment.measure(one, lab.model(one), lab).numbers for one in (standard, jafr))
    assert isnan(b_low["Fog"].error), "too few images"
    monkeypatch.setattr(chan2022, "_parts", lambda count: [slice(0, 2), slice(2, 4)])
    assert 0 < experiment.measure(Subject(B_LOW), None, lab).numbers["Fog"].error < 1
    assert of_standard["mCE"].value == pytest.approx(100) and of_standard["Fog"].error >= 0
    ratios = [(100 - of_jafr[name].value) / (100 - of_standard[name].value) for name in kinds]
    assert of_jafr["mCE"].value == pytest.approx(100 * sum(ratios) / 2)


def test_b_low_orders_the_corruptions_as_the_paper_prints_it():
    """On 20 images; frost needs photographs that are not shipped."""
    printed, images = get_experiment("chan2022:table1").printed[B_LOW], sample_images().images
    kinds = {name: kind for name, kind in chan2022.COLUMNS_OF_TYPES.items() if kind != "frost"}
    measured = [
        corruption_spectrum(images, (corrupt(images, kind, severity) for severity in SEVERITIES)).mean_log_b_low
        for kind in kinds.values()
    ]
    rho, _ = rank_correlation(measured, [printed[name].value for name in kinds], draws=100)
    assert rho > 0.98, dict(zip(kinds, measured, strict=True))


def test_complexity_is_of_steps_at_the_size_of_tiny_imagenet(lab, monkeypatch):
    asked = []

    def cost(recipe, device, steps):
        asked.append((recipe.name, recipe.dataset, recipe.batch_size, recipe.defense.get("steps")))
        return StepCost(2.0 if "pgd" in recipe.name else 0.5, None)

    monkeypatch.setattr(chan2022, "step_cost", cost)
    experiment = get_experiment("chan2022:table6_complexity")
    measured = experiment.measure(subject_of(experiment, PGD, lab), None, lab)
    assert asked == [("standard_rn20", "tiny_imagenet", 128, None), ("pgd_at_rn20", "tiny_imagenet", 128, 10)]
    assert measured.numbers["s/iter"].value == 2 and measured.numbers["ratio"].value == 4
    assert isnan(measured.numbers["peak memory"].value)
