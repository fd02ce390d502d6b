"""Lin et al.'s experiments: their recipes and printed numbers, and what they measure on a few images."""

import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from freqrob.attacks import PGD
from freqrob.data import balance
from freqrob.data.samples import sample_images
from freqrob.evaluation import evaluate
from freqrob.models import load_model
from freqrob.reproduction import SCALES, Number, Subject, get_experiment, list_experiments
from freqrob.reproduction import lin2023 as lin
from freqrob.reproduction.experiment import Numbers
from freqrob.reproduction.lab import Lab
from freqrob.spectral.balance import bass
from freqrob.spectral.longtail import fit_power_law, power_profile, split, total_spectral_entropy

RN20 = SCALES["rn20"]


def test_the_paper_has_all_its_tables_and_figures():
    shown = {name.partition(":")[2] for name in list_experiments("lin2023:*")}
    assert shown >= {f"fig{n}" for n in (1, 2, 3, 4)} | {f"table{n}" for n in (1, 2, 3, 4)}
    questions = {name for name in list_experiments("lin2023:*") if get_experiment(name).question}
    assert questions == {
        "lin2023:natural_images", "lin2023:corruptions_through_bass", "lin2023:gradients_of_defences",
    }  # fmt: skip


def test_recipes_are_those_of_the_tables():
    """Table 1 has 24 models, Table 3 four and Table 4 sixteen; +BaSS is the variant bass_."""
    table1, table3, table4 = (get_experiment(f"lin2023:table{n}") for n in (1, 3, 4))
    assert {(s.recipe, s.dataset) for s in table1.subjects} == {
        (f"{variant}{defense}_{network}", dataset)
        for variant, defense, network, dataset in product(
            ("", "bass_"), ("pgd_at", "trades", "mart"), ("rn18", "wrn34"), ("cifar10", "cifar100")
        )
    }
    assert {s.recipe for s in table3.subjects} == {"pgd_at_rn50", "bass_pgd_at_rn50", "trades_rn50", "bass_trades_rn50"}
    assert {s.dataset for s in table3.subjects} == {"restricted_imagenet"}
    assert {(s.recipe, s.dataset) for s in table4.subjects} == {
        (f"{variant}augmix_{network}", dataset)
        for variant, network, dataset in product(
            ("", "bass_"), ("wrn40_2", "densenet", "resnext29", "rn50"), ("cifar10", "cifar100")
        )
    }
    for subject in (*table1.subjects, *table3.subjects):
        assert (subject.options["protocol"] == "bass") == subject.recipe.startswith("bass_")
        assert subject.full_recipe().on_balanced_images == subject.recipe.startswith("bass_")
    assert all(s.full_recipe().make_defense().bass_view == ("BaSS" in s.row) for s in table4.subjects)


@pytest.mark.parametrize("name, factor", [("table1", 8), ("table3", 4)])
def test_training_attacks_are_those_of_the_text(name, factor):
    """Sec. 4.3: ε = 8/255 in steps of 2/255 in both training and test, on Restricted ImageNet 4/255 and 1/255."""
    for subject in get_experiment(f"lin2023:{name}").subjects:
        defense = subject.full_recipe().make_defense()
        assert (defense.eps, defense.step_size) == (factor / 255, factor / 4 / 255), subject.row


def test_gammas_are_recipes_of_their_own():
    rows = {s.row: s.full_recipe() for s in get_experiment("lin2023:fig3").subjects_at(RN20)}
    assert [rows[row].gamma for row in ("γ = ¼", "γ = ½", "γ = ¾")] == [0.25, 0.5, 0.75]
    assert rows["γ = 0"].name == "standard_rn20" and rows["γ = 1"].on_balanced_images
    names = [s.model_name for s in get_experiment("lin2023:fig3").subjects_at(RN20)]
    assert len(set(names)) == 5, "CIFAR10-B is the model of γ = 1"


@pytest.mark.parametrize("name, factor", [("table1", 8), ("table2", 8), ("table3", 4)])
def test_attacks_are_the_paper_s(name, factor, monkeypatch):
    """ε = 8/255 in steps of 2/255, on Restricted ImageNet 4/255 in steps of 1/255 (Sec. 4.3)."""
    seen = []

    def accuracies(_lab, _model, _subject, attacks, *, protocol, kind="accuracy"):
        seen.extend((protocol, one) for one in attacks)
        return {one.name: Number(50) for one in attacks}

    monkeypatch.setattr(Lab, "accuracies", accuracies)
    one = get_experiment(f"lin2023:{name}")
    own = next(s for s in one.subjects if lin.BASS in s.row or lin.OURS in s.row)
    one.measure(own, torch.nn.Identity(), Lab(RN20))
    assert {protocol for protocol, _ in seen} == {"bass"}
    pgd, autoattack = seen[1][1], seen[2][1]
    assert (pgd.steps, pgd.eps, pgd.step) == (20, factor / 255, pytest.approx(factor / 4 / 255))
    assert autoattack.eps == factor / 255 and autoattack.version == "standard"


def printed_rows(shared, table):
    """The lines of a table of the paper's text, as cells."""
    path = shared / "papers" / "lin2023_bass_tables.md"
    if not path.is_file():
        pytest.skip("no text of the paper beside the checkout")
    text = path.read_text().replace("<b>", "").replace("</b>", "")
    (body,) = re.findall(rf"Table {table}:.*?\n\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    return [line.split("\t") for line in body.strip("\n").split("\n")]


def test_table_1_is_printed_as_in_the_paper(shared):
    lines, method = printed_rows(shared, 1), ""
    printed, found = get_experiment("lin2023:table1").printed, 0
    for cells in lines[2:]:
        if cells[0] == r"$\Delta$":
            continue
        method = method if cells[0] == "+BaSS" else cells[0]
        variant = lin.BASS if cells[0] == "+BaSS" else ""
        blocks = {("CIFAR10", "ResNet-18"): 1, ("CIFAR10", "WRN-34"): 4, ("CIFAR100", "ResNet-18"): 8}
        for (data, network), at in (blocks | {("CIFAR100", "WRN-34"): 11}).items():
            row = printed[f"{data}, {network}, {method}{variant}"]
            assert [row[c].value for c in lin.ACCURACIES] == [float(cell) for cell in cells[at : at + 3]]
            found += 1
    assert found == len(printed) == 24


def test_tables_2_and_3_are_printed_as_in_the_paper(shared):
    printed = get_experiment("lin2023:table2").printed
    for cells in printed_rows(shared, 2)[2:]:
        name = re.sub(r"\[\d+\]", "", cells[0]).replace("Ours", lin.OURS)
        assert [printed[f"CIFAR10, {name}"][c].value for c in ("clean", "AutoAttack")] == [float(x) for x in cells[1:3]]
        assert [printed[f"CIFAR100, {name}"][c].value for c in ("clean", "AutoAttack")] == [
            float(x) for x in cells[3:5]
        ]
    printed, lines = get_experiment("lin2023:table3").printed, printed_rows(shared, 3)[2:]
    for column, cells in zip(lin.ACCURACIES, lines, strict=True):
        rows = ("PGD-AT", f"PGD-AT{lin.BASS}", "TRADES", f"TRADES{lin.BASS}")
        assert [printed[row][column].value for row in rows] == [float(cell) for cell in cells[1:]]


def test_table_4_is_printed_as_in_the_paper(shared):
    numbers = [tuple(map(float, re.findall(r"\d+\.\d+", " ".join(cells)))) for cells in printed_rows(shared, 4)[2:]]
    flat = [row for line in numbers for row in (line[0::2], line[1::2])]
    assert flat == list(lin.TABLE_4.values())


def test_every_quotation_is_in_the_paper(shared):
    """The parts of each claim between square brackets and ellipses, letter by letter but for markup."""
    path = shared / "papers" / "lin2023_bass.md"
    if not path.is_file():
        pytest.skip("no text of the paper beside the checkout")
    text = letters(path.read_text())
    formulas = re.compile(r"\{π_i\}|lim_|ϵ =1/255|Digital")
    for name in list_experiments("lin2023:*"):
        one = get_experiment(name)
        for claim in () if one.question else one.claims:
            for part in re.split(r"\[.*?\]|…", claim.text):
                if not formulas.search(part):
                    assert letters(part) in text, (name, part)


def letters(text):
    return re.sub(r"[^a-z0-9]", "", text.lower())


@pytest.mark.parametrize("weighting, after", [(None, ""), ("amplitude", lin.AS_CODED), ("power", lin.AS_PRINTED)])
def test_the_long_tail_is_that_of_the_library(lab, weighting, after):
    """What `freqrob.spectral.longtail` gives for the same images, before and after BaSS."""
    one = get_experiment("lin2023:longtail")
    subject = next(s for s in one.subjects if s.row == lin.long_tail_row("CIFAR10", after))
    found = one.measure(subject, None, lab).numbers
    images = sample_images().images
    pixels = bass(images, weighting=weighting) if weighting else images
    assert found["α"].value == pytest.approx(fit_power_law(pixels).alpha)
    assert found["entropy"].value == pytest.approx(total_spectral_entropy(power_profile(pixels)).item())
    assert found["boundary radius"].value == pytest.approx(100 * split(pixels).radius_fraction)
    shares = power_profile(pixels)[1:].tolist()
    assert found["bands with more power than the one before"].value == sum(
        after > before for before, after in zip(shares, shares[1:], strict=False)
    )


def test_images_of_other_sizes_come_from_folders(lab, monkeypatch):
    def missing(*_arguments, **_options):
        raise FileNotFoundError("no tiny-imagenet-200/")

    monkeypatch.setattr("freqrob.reproduction.lab.load_dataset", missing)
    with pytest.raises(FileNotFoundError, match=r"tiny_imagenet_val has no images"):
        lin._images_of("Tiny-ImageNet", lab)
    (lab.data / "tiny_imagenet_val" / "a").mkdir(parents=True)
    for i in range(3):
        pixels = np.full((64, 64, 3), i, np.uint8)
        Image.fromarray(pixels).save(lab.data / "tiny_imagenet_val" / "a" / f"{i}.png")
    assert lin._images_of("Tiny-ImageNet", replace(lab, n_images=2))[:, 0, 0, 0].tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match="no tiny-imagenet-200"):
        lin._images_of("CIFAR10", lab)


def test_theorem_1_has_an_erratum(lab):
    one = get_experiment("lin2023:theorem1")
    numbers = Numbers({s.row: one.measure(s, None, lab).numbers for s in one.subjects})
    assert [claim.judge(numbers).verdict for claim in one.claims] == ["holds", "does not hold"]
    assert all(numbers[s.row, "largest"].value == pytest.approx(1 / math.e, abs=1e-6) for s in one.subjects)


def test_landscapes_are_of_both_components(lab, monkeypatch):
    monkeypatch.setattr(lin, "_points", lambda _scale: 5)
    one, model = get_experiment("lin2023:fig1"), load_model("standard_rn20")
    plain, clipped = (one.measure(s, model, lab) for s in one.subjects_at(RN20))
    assert plain.numbers.keys() == {column.name for column in one.columns}
    assert plain.arrays["HFC"].shape == (5, 5)
    assert plain.numbers["loss, HFC"] != clipped.numbers["loss, HFC"]
    assert plain.numbers["steepness, LFC"].error > 0
    middle = plain.arrays["HFC"][2, 2].item()
    assert plain.numbers["loss, HFC"].value == middle >= plain.arrays["HFC"].min()


def test_sensitivity_has_a_peak_for_each_rank(lab):
    one = get_experiment("lin2023:fig2")
    found = one.measure(one.subjects_at(RN20)[0], load_model("standard_rn20"), lab)
    assert found.numbers.keys() == {column.name for column in one.columns}
    assert found.arrays["densities"].shape == (6, 300)
    assert found.numbers["boundary"].value == 5 / 32
    assert found.numbers["peak, top one"].value > found.numbers["peak, last one"].value
    assert 20 < found.numbers["top 20 %"].value < 100
    assert one.claims[0].judge(Numbers({"CIFAR10": found.numbers})).verdict == "holds"


def test_cifar10_b_is_attacked_after_bass(lab, monkeypatch):
    """The row CIFAR10-B of Figure 3 is measured on balanced images, the others on natural ones."""
    seen = {}

    class Corrupted:
        standard_errors = {}

        def means(self):
            return dict.fromkeys((*lin.KINDS, "19 types"), 0.5)

    monkeypatch.setattr(
        Lab, "corruptions", lambda _lab, _model, subject, bass: seen.update({subject.row: bass}) or Corrupted()
    )
    one = get_experiment("lin2023:fig3")
    rows = {s.row: s for s in one.subjects_at(RN20)}
    model, test = load_model("bass_standard_rn20"), sample_images()
    found = one.measure(rows[lin.NEW_DATASET], model, lab).numbers
    on_natural = one.measure(rows["γ = 1"], model, lab).numbers
    assert seen == {lin.NEW_DATASET: True, "γ = 1": False}
    assert found.keys() == {column.name for column in one.columns}
    balanced = balance(test)
    (clean,) = evaluate(model, balanced.images, balanced.labels, protocols=["natural"], attacks=["clean"])
    (pgd,) = evaluate(model, test.images, test.labels, protocols=["bass"], attacks=[PGD(20, 4 / 255)])
    assert found["clean"].value == 100 * clean.accuracy != on_natural["clean"].value
    assert found["PGD-20, ε = 4/255"].value == 100 * pgd.accuracy


def test_the_share_of_bass_is_measured(lab):
    one = get_experiment("lin2023:cost")
    numbers = one.measure(one.subjects[0], None, lab).numbers
    assert 0 < numbers["share of training"].value < numbers["share of a step"].value
    assert numbers["share of training"].value == pytest.approx(
        numbers["BaSS"].value / (36 * numbers["training"].value), rel=1e-6
    )


def test_a_data_set_that_is_not_registered_is_named(lab):
    with pytest.raises(FileNotFoundError, match="no data set 'nothing' is registered"):
        lab.model(Subject("a", model="standard_rn20", dataset="nothing"))
