import re
import subprocess
import sys
from math import isnan, nan

import pytest

from freqrob.reproduction import SCALES, Experiment, Number, Subject, experiment, get_experiment, list_experiments
from freqrob.reproduction.experiment import EXPERIMENTS, Numbers
from tests.support.doe2026 import ADVERSARIAL, STANDARD, WIDE, Table1


@pytest.mark.parametrize(
    "number, text",
    [
        (Number(35.912, 0.48), "35.91±0.48"),
        (Number(35.912, 3.2), "35.9±3.2"),
        (Number(1234.5, 12), "1234±12"),
        (Number(0.12345, 0.00056), "0.12345±0.00056"),
        (Number(0.22574), "0.2257"),
        (Number(84, 0), "84"),
        (Number(10_000), "10,000"),
        (Number(float("inf")), "inf"),
        (Number(), "–"),
    ],
)
def test_numbers_show_two_digits_of_their_error(number, text):
    assert str(number) == text


def test_differences_add_errors_in_quadrature_and_take_unknown_ones_as_none():
    assert Number(5, 3) - Number(1, 4) == Number(4, 5)
    assert Number(5, 3) - Number(1) == Number(4, 3)


def test_missing_cells_are_nan():
    numbers = Numbers({"a": {"x": Number(1)}, "b": {"y": Number(2)}})
    assert isnan(numbers["b", "x"].value) and isnan(numbers["c", "x"].value)
    assert numbers.column("x") == {"a": Number(1)}


def test_at_rn20_a_small_network_stands_for_resnet_18_and_none_for_wide_ones(table1):
    assert [(one.row, one.recipe) for one in table1.subjects_at(SCALES["rn20"])] == [
        (ADVERSARIAL, "pgd_at_rn20"),
        (STANDARD, "standard_rn20"),
    ]
    paper = [one.recipe for one in table1.subjects_at(SCALES["paper"])]
    assert paper == ["pgd_at_rn18", "standard_rn18", "pgd_at_wrn34"]


def test_models_with_changed_settings_have_names_of_their_own_that_files_can_have():
    quarter = Subject("γ = ¼", "bassmix_standard_rn18", settings=("gamma=0.25",))
    assert quarter.model_name == "bassmix_standard_rn18-gamma-0.25"
    assert quarter.full_recipe().gamma == 0.25
    small = quarter.at_scale(SCALES["rn20"])
    assert small is not None and small.model_name == "bassmix_standard_rn20-gamma-0.25"
    assert Subject("ε", "fgsm_rn18", settings=("eps=16/255",)).model_name == "fgsm_rn18-eps-16_255"


def test_experiments_have_the_same_order_whatever_was_imported_first():
    code = "from freqrob.reproduction import li2023, list_experiments; print(*list_experiments())"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert list(dict.fromkeys(name.partition(":")[0] for name in names))[:3] == ["chan2022", "li2023", "lin2023"]


def test_experiments_are_found_by_pattern(table1):
    assert list_experiments("doe2026:*") == ["doe2026:table1"]
    assert get_experiment("doe2026:table1") is table1
    with pytest.raises(ValueError, match=r"experiment: got 'doe2026:table2'.*doe2026:table1"):
        get_experiment("doe2026:table2")


@pytest.mark.parametrize("name", ["table1", "doe:", "doe 2026:table1", ":table1"])
def test_names_have_a_paper_and_a_table(name):
    with pytest.raises(ValueError, match=r"name: .*PAPER:TABLE"):
        experiment(name)(Table1)


def test_an_experiment_has_a_paper_and_measures_something():
    class Nothing(Experiment):
        pass

    with pytest.raises(TypeError, match=r"doe2026:fig1: .*paper and measure"):
        experiment("doe2026:fig1")(Nothing)
    assert "doe2026:fig1" not in EXPERIMENTS


def test_every_experiment_of_a_paper_is_complete():
    """Rows are unique at each scale, printed numbers and claims name cells that exist, and recipes are valid."""
    for name in list_experiments():
        one = get_experiment(name)
        rows, columns = [subject.row for subject in one.subjects], {column.name for column in one.columns}
        assert one.where and one.title and one.paper.citation, name
        assert set(one.printed) <= set(rows), name
        assert {column for at in one.printed.values() for column in at} <= columns, name
        for subject in one.subjects:
            if subject.recipe:
                subject.full_recipe()
        for claim in one.claims:
            judgement = claim.judge(Numbers({}))
            assert judgement.verdict == "not measured", (name, claim.text)
            assert claim.text and claim.where and claim.criterion
        for scale in SCALES.values():
            assert one.conditions(scale), name
            at_scale = [subject.row for subject in one.subjects_at(scale)]
            assert len(set(at_scale)) == len(at_scale), name


def test_claims_of_every_experiment_name_cells_that_exist():
    """A judge that reads a row or column that the experiment does not have would never find its number."""

    class Watched(Numbers):
        def __getitem__(self, cell):
            read.add(cell)
            return Number(nan)

    for name in list_experiments():
        one, read = get_experiment(name), set()
        for claim in one.claims:
            claim.judge(Watched({}))
        rows, columns = {subject.row for subject in one.subjects}, {column.name for column in one.columns}
        assert {row for row, _ in read} <= rows, name
        assert {column for _, column in read} <= columns, name


def test_scales_name_architectures_that_exist():
    from freqrob.models.registry import list_architectures

    small = SCALES["rn20"].small
    assert {*small, *small.values()} <= set(list_architectures())
    assert SCALES["paper"].architecture("wrn34") == "wrn34"
    assert not re.search(r"\s", "".join(SCALES))
    assert WIDE
