"""Every JSON file that freqrob writes fits its schema, and readers refuse the files of a newer version."""

import json
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import torch
from packaging.version import Version
from torch import nn

from freqrob.attacks import FGSM, Clean
from freqrob.data.cifar_b import BALANCED, load_cifar_b, write_cifar_b
from freqrob.data.corruption_arrays import GENERATED, CorruptionArrays, load_corruptions, write_corruptions
from freqrob.data.hybrid import HYBRID, write_hybrids
from freqrob.diagnostics import JacobianSpectrum, diagnose
from freqrob.diagnostics.measurement import MEASUREMENT
from freqrob.evaluation import check_masking, evaluate
from freqrob.evaluation.corruptions import evaluate_corruptions
from freqrob.evaluation.files import (
    CORRUPTION_RESULTS,
    EVALUATION,
    Evaluation,
    write_corruption_results,
    write_results,
)
from freqrob.formats import FORMATS, SCHEMAS, schema_path
from freqrob.models.cards import CARD, Card
from freqrob.models.checkpoints import save
from freqrob.models.front_ends import Blur, FrontEnded
from freqrob.report import write_report
from freqrob.report.data import REPORT
from freqrob.reproduction import reproduce
from freqrob.reproduction.records import REPRODUCTION, Record
from freqrob.runtime.file_formats import VERSION
from freqrob.runtime.provenance import provenance
from freqrob.training.run_folder import METRICS, RunFolder
from tests.reproduction.conftest import lab  # noqa: F401

ROOT = Path(__file__).parents[2]
COMMITTED = {
    CARD: sorted((ROOT / "freqrob/models/weights").rglob("*.json")),
    REPRODUCTION: sorted((ROOT / "results/reproduction").rglob("result.json")),
    CORRUPTION_RESULTS: sorted((ROOT / "results").glob("*/corruptions.json")),
    EVALUATION: [ROOT / "results/pyautoattack_rn18.json"],
}
ABOUT = {**provenance("freqrob measure"), "source": "cifar10 test"}


def check(one, content):
    jsonschema.Draft202012Validator(one.schema()).validate(content)
    if one is not METRICS:  # a defence may add numbers of its own to a line
        assert content.keys() <= one.schema()["properties"].keys(), "the schema describes every key"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()


def arrays(few):
    return {"model": network(), "data": few.images, "labels": few.labels}


def write_card(folder, few):
    front_end = {"name": "normalize", "mean": [0.5], "std": [0.25]}
    recipe, results = {"epochs": 3}, [evaluate(**arrays(few), attacks=[FGSM()], protocols=["natural"])[0].as_dict()]
    card = Card("standard_tiny", "tiny", front_ends=[front_end], recipe=recipe, results=results)
    save(folder / "a.safetensors", network().state_dict(), card)
    return folder / "a.json"


def write_evaluation(folder, few):
    given = {**arrays(few), "model": FrontEnded([Blur()], network()).eval()}
    masking = check_masking(**given, queries=5)
    results = evaluate(**given, attacks=[Clean(), FGSM()])
    about = {**ABOUT, "data_hash": "0123"}
    write_results(folder / "results.json", [Evaluation("mine", "4567", results, masking)], about)
    return folder / "results.json"


def written_corruptions(folder, few):
    write_corruptions(few, folder, ["fog", "contrast"], about={"dataset": "cifar10", "bass": None})
    return folder / "generated.json"


def write_corrupted(folder, few):
    written_corruptions(folder / "made", few)
    corrupted = load_corruptions(folder / "made", "cifar10")
    assert isinstance(corrupted, CorruptionArrays)
    measured = {"mine": evaluate_corruptions(network(), corrupted)}
    write_corruption_results(folder / "c.json", measured, ABOUT, "mine", {"mine": 1.0})
    return folder / "c.json"


def write_measurement(folder, few):
    diagnose(**arrays(few), only=["jacobian"], out=folder, about={**ABOUT, "model": "mine"})
    return folder / "jacobian.json"


def write_page(folder, few):
    runs = [write_measurement(folder / "m", few).parent, write_evaluation(folder, few), write_corrupted(folder, few)]
    write_report(runs, folder / "report")
    return folder / "report/results.json"


def write_hybrid(folder, few):
    return write_hybrids(few, folder, frequencies=[0.1, 0.2], about={"dataset": "cifar10"}).with_suffix(".json")


WRITERS = {
    CARD: (write_card, Card.read),
    EVALUATION: (write_evaluation, lambda path: write_report([path], path.parent / "report")),
    CORRUPTION_RESULTS: (write_corrupted, lambda path: write_report([path], path.parent / "report")),
    MEASUREMENT: (write_measurement, lambda path: JacobianSpectrum.load(path.parent)),
    REPORT: (write_page, REPORT.read),
    GENERATED: (written_corruptions, lambda path: load_corruptions(path.parent, "cifar10")),
    HYBRID: (write_hybrid, HYBRID.read),
}


@pytest.mark.parametrize("one", WRITERS, ids=lambda one: one.name)
def test_what_is_written_fits_its_schema_and_only_this_version_is_read(one, few, tmp_path):
    write, read = WRITERS[one]
    path = write(tmp_path, few)
    content = json.loads(path.read_text())
    assert next(iter(content)) == VERSION and content[VERSION] == one.version
    check(one, content)
    read(path)
    path.write_text(json.dumps({**content, VERSION: one.version + 1}))
    with pytest.raises(ValueError, match=f"{path.name}.*has format 2, expected at most 1.*update freqrob"):
        read(path)


def test_a_balanced_data_sets_manifest(cifar, tmp_path):
    path = write_cifar_b(cifar, tmp_path / "b") / "cifar_b.json"
    content = json.loads(path.read_text())
    check(BALANCED, content)
    path.write_text(json.dumps({**content, VERSION: 2}))
    with pytest.raises(ValueError, match="update freqrob"):
        load_cifar_b(tmp_path / "b", "test")


def test_an_experiments_record(table1, lab, tmp_path):  # noqa: F811
    reproduce(table1, lab, tmp_path, models=["PGD-AT, ResNet-18=pgd_at_rn20"])
    record = Record(tmp_path, table1, "rn20")
    content = json.loads(record.json.read_text())
    check(REPRODUCTION, content)
    record.json.write_text(json.dumps({**content, VERSION: 2}))
    with pytest.raises(ValueError, match="update freqrob"):
        record.rows()


def test_a_runs_metrics_and_checkpoint(tmp_path):
    run = RunFolder(tmp_path, {"name": "standard_tiny"})
    history = [{"epoch": 1, "loss": 2.0, "val_clean": 0.5, "selection": 0.5, "lr": 0.1}]
    run.write_metrics(history)
    for line in run.metrics[0].read_text().splitlines():
        check(METRICS, json.loads(line))
    state = {"step": 4, "history": history, "losses": [], "seconds": 1.0, "network": {}, "optimizer": {},
             "average": None, "precision": {}}  # fmt: skip
    run.best_weights.touch()
    run.write(state)
    assert run.read(steps_per_epoch=4)[VERSION] == 1
    run.write({**state, VERSION: 2})
    with pytest.raises(ValueError, match="update freqrob"):
        run.read(steps_per_epoch=4)


@pytest.mark.parametrize("one, path", [
    pytest.param(one, path, id=str(path.relative_to(ROOT))) for one, paths in COMMITTED.items() for path in paths
])  # fmt: skip
def test_committed_files_fit_their_schemas(one, path):
    check(one, json.loads(path.read_text()))


@pytest.mark.skipif(Version(version("msgspec")) < Version("0.23"), reason="older msgspec writes the same differently")
@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_schemas_are_those_of_the_definitions(one):
    """``python -m freqrob.formats`` writes them."""
    schema = json.loads(schema_path(one).read_text())
    assert schema == one.schema()
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_format_has_a_schema_and_a_test():
    assert {path.name for path in SCHEMAS.iterdir()} == {schema_path(one).name for one in FORMATS}
    assert {*WRITERS, BALANCED, REPRODUCTION, METRICS} == {*FORMATS}


@pytest.mark.parametrize("name, wrong", [
    ("front_ends", [{"mean": 0.5}]), ("results", [{"accuracy": 61}]), ("num_classes", 0), (VERSION, None),
])  # fmt: skip
def test_a_schema_refuses_what_readers_refuse(name, wrong):
    content = {**CARD.versioned({"name": "a", "architecture": "rn20"}), name: wrong}
    with pytest.raises(jsonschema.ValidationError):
        check(CARD, content)
    with pytest.raises(ValueError, match=name):
        CARD.fit(content, "card")


@pytest.mark.parametrize("version", [0, -1, 1.5, True, "1", None])
def test_a_version_that_is_not_a_number_from_1_on(version):
    with pytest.raises(ValueError, match="a.json: has format .*, expected a number from 1 to 1"):
        CARD.fit({VERSION: version, "name": "a", "architecture": "rn20"}, "a.json")
