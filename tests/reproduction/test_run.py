import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from freqrob.models import load_model
from freqrob.models.cards import Card
from freqrob.models.checkpoints import checkpoint_state, save
from freqrob.models.loading import checkpoint_path
from freqrob.reproduction import Measured, Number, Subject, reproduce
from freqrob.reproduction.records import Record, Row, summary
from freqrob.training import recipe_for
from freqrob.training.cost import StepCost, training_steps
from tests.support.doe2026 import ADVERSARIAL, STANDARD, WIDE, Table1


@pytest.fixture
def folder(table1, lab, tmp_path):
    reproduce(table1, lab, tmp_path / "out", command="freqrob reproduce doe2026:table1")
    return tmp_path / "out" / "doe2026" / "table1" / "rn20"


def test_every_file_is_written(folder):
    record = json.loads((folder / "result.json").read_text())
    numbers = {row["row"]: row["numbers"] for row in record["rows"]}
    assert record["command"] == "freqrob reproduce doe2026:table1" and record["scale"] == "rn20"
    assert numbers[ADVERSARIAL]["clean"] == {"value": 85.0, "standard_error": pytest.approx(8.290, abs=0.001)}
    assert [row["model"] for row in record["rows"]] == ["pgd_at_rn20", "standard_rn20"]
    assert record["printed"][ADVERSARIAL]["FGSM"] == {"value": 60, "standard_error": 0.5}
    assert [claim["verdict"] for claim in record["claims"]] == ["holds", "not measured"]
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG" and (folder / "figure.svg").is_file()
    assert (folder / "figure.pdf").read_bytes()[:4] == b"%PDF"
    with (folder / "table.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["row"], first["column"], first["value"], first["printed"]) == (ADVERSARIAL, "clean", "85.0", "83.5")
    table = (folder / "table.md").read_text()
    assert re.search(r"\| PGD-AT, ResNet-18 \| 85\.0±8\.3 / 83\.5 \|", table)
    assert "“width helps” (Section 5)" in table


def test_known_rows_are_not_measured_again_unless_model_conditions_or_user_say_so(folder, table1, lab, tmp_path):
    assert Table1.measured == 2
    reproduce(table1, lab, tmp_path / "out")
    assert Table1.measured == 2
    reproduce(table1, replace(lab, n_images=10), tmp_path / "out")
    assert Table1.measured == 4
    reproduce(table1, replace(lab, n_images=10), tmp_path / "out", again=True)
    assert Table1.measured == 6
    _save_another_network(lab)
    reproduce(table1, replace(lab, n_images=10), tmp_path / "out")
    assert Table1.measured == 7


def _save_another_network(lab):
    """``standard_rn20`` in the lab's folder with the weights of ``jafr_rn20``."""
    card = Card("standard_rn20", "rn20", front_ends=[], recipe={})
    save(checkpoint_path("standard_rn20", lab.model_dir), checkpoint_state(load_model("jafr_rn20")), card)


def failing(row, error):
    """``Table1.measure``, which raises ``error`` at a row."""
    measure = Table1.measure

    def fails(self, subject, model, lab):
        if subject.row == row:
            raise error
        return measure(self, subject, model, lab)

    return fails


def test_a_row_whose_data_are_missing_says_so_and_the_others_are_measured(table1, lab, tmp_path, monkeypatch):
    measure = Table1.measure
    monkeypatch.setattr(Table1, "measure", failing(ADVERSARIAL, FileNotFoundError("no CIFAR-10 in ./data")))
    rows = reproduce(table1, lab, tmp_path / "out").rows
    assert rows[ADVERSARIAL].missing == "no CIFAR-10 in ./data" and not rows[ADVERSARIAL].numbers
    assert rows[STANDARD].numbers
    assert "- PGD-AT, ResNet-18: no CIFAR-10" in (tmp_path / "out/doe2026/table1/rn20/table.md").read_text()
    monkeypatch.setattr(Table1, "measure", measure)
    assert reproduce(table1, lab, tmp_path / "out").rows[ADVERSARIAL].numbers


def test_finished_rows_are_kept_when_a_later_one_fails(table1, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(Table1, "measure", failing(STANDARD, RuntimeError("a fault of the code")))
    with pytest.raises(RuntimeError, match="a fault"):
        reproduce(table1, lab, tmp_path / "out")
    record = json.loads((tmp_path / "out/doe2026/table1/rn20/result.json").read_text())
    assert [row["row"] for row in record["rows"]] == [ADVERSARIAL]


def test_rows_that_another_process_adds_meanwhile_are_kept(table1, lab, tmp_path, monkeypatch):
    out, measure = tmp_path / "out", Table1.measure

    def beside_another(self, subject, model, lab):
        Record(out, table1, "rn20").add(Row(WIDE, numbers={"clean": Number(1.0)}), {})
        return measure(self, subject, model, lab)

    monkeypatch.setattr(Table1, "measure", beside_another)
    rows = reproduce(table1, lab, out, models=[f"{ADVERSARIAL}=trades_rn20"]).rows
    assert set(rows) == set(Record(out, table1, "rn20").rows()) == {ADVERSARIAL, WIDE}


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["damaged", "missing"])
def test_rows_with_damaged_or_missing_arrays_are_measured_again(folder, table1, lab, tmp_path, damage):
    damage(min((folder / "arrays").iterdir()))
    before = Table1.measured
    reproduce(table1, lab, tmp_path / "out")
    assert Table1.measured == before + 1
    assert all(Record(tmp_path / "out", table1, "rn20").arrays(row) for row in (ADVERSARIAL, STANDARD))


def test_a_failing_figure_loses_nothing(table1, lab, tmp_path, monkeypatch):
    reproduce(table1, lab, tmp_path / "out")  # its figure is not counted as written by the next call
    monkeypatch.setattr(Table1, "plot", lambda *_arguments: 1 / 0)
    with pytest.warns(UserWarning, match=r"figure\.svg was not drawn"):
        result = reproduce(table1, lab, tmp_path / "out")
    assert {path.name for path in result.files} == {"result.json", "table.csv", "table.md"}


def test_other_models_take_the_place_of_a_row(table1, lab, tmp_path):
    result = reproduce(table1, lab, tmp_path / "out", models=[f"{ADVERSARIAL}=trades_rn20"])
    assert {name: row.model for name, row in result.rows.items()} == {ADVERSARIAL: "trades_rn20"}
    with pytest.raises(ValueError, match=r"models: got 'trades_rn20', expected ROW=MODEL with a row of 'PGD-AT"):
        reproduce(table1, lab, tmp_path / "out", models=["trades_rn20"])


@pytest.mark.parametrize(
    "text, words",
    [(f"{STANDARD}=", "a model's name"), ("a,,b", "a model's name"), ("spectra=a", "'spectra' is not mea")],
)
def test_models_without_a_name_and_rows_without_a_model_are_refused(table1, lab, tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(Table1, "takes_models", True)
    monkeypatch.setattr(Table1, "subjects", (*Table1.subjects, Subject("spectra")))
    with pytest.raises(ValueError, match=words):
        reproduce(table1, lab, tmp_path / "out", models=[text])


def test_experiments_of_any_models_take_new_rows(table1, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(Table1, "takes_models", True)
    result = reproduce(table1, lab, tmp_path / "out", models=["trades_rn20,mart_rn20", f"{STANDARD}=jafr_rn20"])
    assert {name: row.model for name, row in result.rows.items()} == {
        "trades_rn20": "trades_rn20", "mart_rn20": "mart_rn20", STANDARD: "jafr_rn20",
    }  # fmt: skip


def test_models_that_are_missing_are_not_trained_when_told_so(table1, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(Table1, "subjects", (Subject("ε", "fgsm_rn18", settings=("eps=16/255",)),))
    rows = reproduce(table1, replace(lab, may_train=False), tmp_path / "out").rows
    assert "freqrob train fgsm_rn20 --set eps=16/255" in rows["ε"].missing


def test_the_summary_lists_every_claim_with_its_verdict(folder, tmp_path, table1):
    text = summary(tmp_path / "out")
    assert "## J. Doe, On nothing, 2026" in text
    assert re.search(
        r"\| `doe2026:table1` \| “PGD-AT is more robust” \(Section 4\) \| .* \| holds \| .* \| rn20 \|", text
    )


def test_table_and_summary_tell_the_conditions(table1, lab, tmp_path):
    out = tmp_path / "out"
    table = out / "doe2026" / "table1" / "rn20" / "table.md"
    reproduce(table1, replace(lab, n_images=10), out)
    assert "Conditions:\n\n- attacks: clean, fgsm\n- seed: 0\n- images_at_most: 10\n" in table.read_text()
    assert "| rn20, at most 10 images |" in summary(out)
    reproduce(table1, lab, out, models=[f"{STANDARD}=jafr_rn20"])
    assert f"Conditions of {ADVERSARIAL}:" in table.read_text() and f"Conditions of {STANDARD}:" in table.read_text()
    assert "| rn20, rows under different conditions" in summary(out)


def test_a_long_message_stays_in_its_line_of_the_table(table1, lab, tmp_path):
    reproduce(table1, lab, tmp_path / "out", models=[f"{STANDARD}=nothing_rn20"])
    lines = (tmp_path / "out/doe2026/table1/rn20/table.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"- {STANDARD}: model_name: no model 'nothing_rn20'"))
    assert "Nearest" in line


def test_arrays_of_rows_with_similar_names_do_not_replace_each_other(table1, lab, tmp_path, monkeypatch):
    import torch

    halves = (Subject("γ = ½", "pgd_at_rn18"), Subject("γ = ¼", "pgd_at_rn18"))
    monkeypatch.setattr(Table1, "subjects", halves)
    values = {"γ = ½": 0.5, "γ = ¼": 0.25}
    monkeypatch.setattr(
        Table1, "measure", lambda _self, one, _model, _lab: Measured({}, {"x": torch.tensor(values[one.row])})
    )
    seen = {}
    monkeypatch.setattr(Table1, "plot", lambda _self, outcome, _figure: seen.update(outcome.arrays))
    reproduce(table1, lab, tmp_path / "out")
    record = Record(tmp_path / "out", table1, "rn20")
    assert {row: record.arrays(row)["x"].item() for row in values} == pytest.approx(values)


def test_recipes_with_changed_settings_are_trained_in_folders_of_their_own(tmp_path):
    from pathlib import Path

    from freqrob.reproduction.lab import training_command

    quarter, half = (
        Subject(f"γ = {gamma}", "bassmix_standard_rn20", settings=(f"gamma={gamma}",)) for gamma in (0.25, 0.5)
    )
    commands = [training_command(subject, tmp_path) for subject in (quarter, half)]
    assert [command[3:5] for command in commands] == [["--set", "gamma=0.25"], ["--set", "gamma=0.5"]]
    assert commands[0][-1] == str(tmp_path / "changed" / quarter.model_name) != commands[1][-1]
    plain = Subject("a", "bassmix_standard_rn20")
    assert training_command(plain, Path("models")) == ["freqrob", "train", "bassmix_standard_rn20"]
    assert training_command(plain, tmp_path)[-2:] == ["--model-dir", str(tmp_path)]


def test_a_model_with_changed_settings_is_the_one_that_its_command_trained(lab):
    """Not the shipped one of the unchanged recipe."""
    from freqrob.reproduction.lab import training_folder

    quarter = Subject("γ = 0.25", "bassmix_standard_rn20", settings=("gamma=0.25",))
    no_training = replace(lab, may_train=False)
    assert not no_training.has_model(quarter)
    with pytest.raises(FileNotFoundError, match="bassmix_standard_rn20-gamma-0.25 is not trained: `freqrob train"):
        no_training.model(quarter)
    recipe = recipe_for("bassmix_standard_rn20", gamma=0.25)
    card = Card("bassmix_standard_rn20", "rn20", recipe=recipe.as_dict(), front_ends=[])
    network = checkpoint_state(load_model("standard_rn20"))
    save(checkpoint_path(quarter.recipe, training_folder(quarter, lab.model_dir)), network, card)
    assert no_training.has_model(quarter)
    assert all(torch.equal(value, network[key]) for key, value in checkpoint_state(no_training.model(quarter)).items())


def test_settings_that_older_cards_lack_do_not_differ(lab):
    """Nor does an integer in place of the same float; the shipped AugMix's card lacks its defence's weighting."""
    from freqrob.reproduction.lab import changed_settings

    assert changed_settings(Subject("a", "bassmix_standard_rn20"), lab.model_dir) == ""
    assert changed_settings(Subject("a", "augmix_rn20"), lab.model_dir) == ""


def test_a_model_trained_with_other_settings_is_told(lab):
    from freqrob.reproduction.lab import changed_settings

    recipe = recipe_for("pgd_at_rn20", lr=0.2, defense={"eps": 4 / 255})
    card = Card("pgd_at_rn20", "rn20", recipe=recipe.as_dict(), front_ends=[])
    save(checkpoint_path("pgd_at_rn20", lab.model_dir), checkpoint_state(load_model("pgd_at_rn20")), card)
    changed = changed_settings(Subject("a", "pgd_at_rn20"), lab.model_dir)
    assert "lr 0.2, not 0.1" in changed and f"eps {4 / 255}, not {8 / 255}" in changed
    assert "weight_decay" not in changed


def test_a_row_whose_model_cannot_be_downloaded_says_so_and_the_others_are_measured(table1, lab, tmp_path, monkeypatch):
    def offline(*_arguments):
        raise OSError("could not download Carmon2019Unlabeled")

    monkeypatch.setattr("freqrob.reproduction.lab.open_model", offline)
    foreign = Subject(ADVERSARIAL, model="robustbench:Carmon2019Unlabeled")
    monkeypatch.setattr(Table1, "subjects", (foreign, Subject(STANDARD, "standard_rn18")))
    rows = reproduce(table1, lab, tmp_path / "out").rows
    assert rows[ADVERSARIAL].missing == "could not download Carmon2019Unlabeled" and rows[STANDARD].numbers


def test_a_model_that_takes_the_place_of_a_row_is_named_in_the_texts(table1, lab, tmp_path):
    reproduce(table1, lab, tmp_path / "out", models=[f"{ADVERSARIAL}=mart_rn20"])
    named = f"{ADVERSARIAL} is mart_rn20"
    assert (
        f"Other models than the experiment's: {named}." in (tmp_path / "out/doe2026/table1/rn20/table.md").read_text()
    )
    assert named in summary(tmp_path / "out")
    reproduce(table1, lab, tmp_path / "own")
    assert "Other models" not in (tmp_path / "own/doe2026/table1/rn20/table.md").read_text()


def test_a_model_that_cannot_be_measured_is_a_missing_row(table1, lab, tmp_path, monkeypatch):
    error = ValueError("model: expected 10 classes like the data set, got 100")
    monkeypatch.setattr(Table1, "measure", failing(ADVERSARIAL, error))
    rows = reproduce(table1, lab, tmp_path / "out").rows
    assert "got 100" in rows[ADVERSARIAL].missing and rows[STANDARD].numbers
    monkeypatch.setattr(Table1, "measure", lambda *_: int("a"))
    with pytest.raises(ValueError, match="invalid literal"):
        reproduce(table1, lab, tmp_path / "out", again=True)


def test_hours_of_training_are_those_of_its_steps(table1, lab, monkeypatch):
    measured = []
    monkeypatch.setattr(
        "freqrob.reproduction.lab.step_cost", lambda *given: measured.append(given) or StepCost(2, None)
    )
    subject = next(subject for subject in table1.subjects_at(lab.scale) if subject.row == STANDARD)
    recipe = subject.full_recipe()
    assert lab.training_hours(subject) == pytest.approx(training_steps(recipe) * 2 / 3600)
    assert measured == [(recipe, "cpu")]
