"""freqrob_robustbench: entries, benchmarks, broken installations, RobustBench's own models, exported claims."""

import argparse
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
from base64 import urlsafe_b64encode
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import freqrob
from freqrob.data import DATASETS
from freqrob.models import checkpoints, create_network, list_models, loading
from freqrob.models.cards import Card, CheckpointError
from freqrob.models.preprocessing import preprocessing_of

pytest.importorskip("timm")
pytest.importorskip("pyautoattack")
try:
    ROBUSTBENCH = distribution("robustbench")
except ModuleNotFoundError:
    pytest.skip("RobustBench is not installed", allow_module_level=True)

from freqrob_robustbench import Paper, compatibility, export, import_robustbench, load_from_zoo, register
from freqrob_robustbench.autoattack import AutoAttack, EvaluationState

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)
CARD = Card("trades_rn20", "rn20", recipe={"dataset": "cifar10"}, sha256="0" * 64)


@pytest.fixture(scope="module")
def robustbench():
    return import_robustbench()


@pytest.fixture
def registered(robustbench, tmp_path):
    register(tmp_path)
    return robustbench


def same(one, other) -> bool:
    with torch.no_grad():
        return torch.equal(one(IMAGES), other(IMAGES))


def write_model(folder: Path, name: str, dataset: str = "cifar10", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = create_network("rn20", DATASETS[dataset].classes)
    path = loading.checkpoint_path(name, folder, dataset)
    checkpoints.save(path, network.state_dict(), Card(name, "rn20", dataset, num_classes=network.linear.out_features))
    return path


# Entries


@pytest.mark.parametrize("name", list_models(model_dir="/nowhere", dataset="cifar10", threat_model="Linf"))
def test_robustbench_loads_the_same_model_as_freqrob(registered, name):
    model = registered.load_model(name, dataset="cifar10", threat_model="Linf")
    assert not model.training and same(model, freqrob.load_model(name))


def test_registering_again_changes_nothing_and_warns_of_nothing(registered, tmp_path, recwarn):
    assert register(tmp_path) == register(tmp_path)
    assert [str(warning.message) for warning in recwarn if "regist" in str(warning.message)] == []


def test_models_of_a_folder_are_entries_too_and_listed(robustbench, tmp_path):
    import timm
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    write_model(tmp_path, "Mine-2026", "cifar100", seed=3)
    assert "mine_2026_cifar100_linf" in register(tmp_path)
    assert "Mine-2026" in model_dicts[BenchmarkDataset.cifar_100][ThreatModel.Linf]
    assert timm.is_model("mine_2026_cifar100_linf")
    mine = freqrob.load_model("Mine-2026", tmp_path, "cifar100")
    assert same(robustbench.load_model("Mine-2026", dataset="cifar100"), mine)


def test_the_folder_of_the_last_call_counts(robustbench, tmp_path):
    for seed in (1, 2):
        write_model(tmp_path / str(seed), "mart_rn20", seed=seed)
        register(tmp_path / str(seed))
    assert same(robustbench.load_model("mart_rn20"), freqrob.load_model("mart_rn20", tmp_path / "2"))


def test_no_entry_of_robustbench_is_replaced(robustbench, tmp_path):
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    zoo = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]
    before = zoo["Standard"]
    for name in ("Standard", "standard"):
        write_model(tmp_path, name)
    with pytest.warns(UserWarning, match="standard for cifar10, Linf .* lists 'Standard'"):
        assert "standard_cifar10_linf" not in register(tmp_path)
    assert zoo["Standard"] is before and "standard" not in zoo


def test_no_model_of_timm_is_replaced(robustbench, tmp_path, monkeypatch):
    import timm

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "theirs_cifar10_linf", before := object())
    write_model(tmp_path, "theirs")
    with pytest.warns(UserWarning, match="theirs for cifar10, Linf .*'theirs_cifar10_linf'"):
        register(tmp_path)
    assert timm.models._registry._model_entrypoints["theirs_cifar10_linf"] is before


def test_a_name_that_timm_cannot_hold_is_left_out(robustbench, tmp_path):
    write_model(tmp_path, "mine.v2")
    with pytest.warns(UserWarning, match="mine.v2 for cifar10, Linf .* after a dot"):
        register(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_custom_checkpoint_is_the_bare_networks(registered, tmp_path, suffix):
    path = write_model(tmp_path / "other", "pgd_at_rn20", seed=7)
    if suffix == ".pt":
        torch.save(checkpoints.load(path)[0], path := tmp_path / "weights.pt")
    model = registered.load_model("pgd_at_rn20", custom_checkpoint=str(path))
    assert same(model.network, freqrob.load_model("pgd_at_rn20", tmp_path / "other").network)
    assert [type(module).__name__ for module in model.front_ends] == ["Normalize"]


def test_another_number_of_classes_is_refused(registered):
    import timm

    with pytest.raises(ValueError, match="num_classes: pgd_at_rn20_cifar10_linf has 10, got 100"):
        timm.create_model("pgd_at_rn20_cifar10_linf", pretrained=True, num_classes=100)


def test_imagenets_preprocessing_is_known_to_robustbench(robustbench, tmp_path):
    from robustbench.data import get_preprocessing
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    write_model(tmp_path, "mine_at_224", "imagenet")
    register(tmp_path)
    found = get_preprocessing(BenchmarkDataset.imagenet, ThreatModel.Linf, "mine_at_224", None)
    assert [getattr(step, "size", None) for step in found.transforms] == [256, (224, 224), None]


# Benchmarks


@pytest.fixture
def network() -> nn.Module:
    """Fast, and right on the first four images by large margins and on the fifth by a small one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    with torch.no_grad():
        targets = nn.functional.one_hot(LABELS, 10) * torch.tensor([[9.0], [9.0], [9.0], [9.0], [0.05], [-9.0]])
        model[1].weight.copy_((torch.linalg.pinv(IMAGES.flatten(1)) @ targets).T)
        model[1].bias.zero_()
    return model


@pytest.fixture
def six_images(robustbench, monkeypatch, tmp_path):
    """RobustBench's loaders of CIFAR-10, clean and corrupted, with images of our own; in an empty folder."""
    from robustbench import data
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    def corrupted(count, severity, folder, shuffle, corruptions, prepr):
        darker = data.CORRUPTIONS.index(corruptions[0]) / 15
        return IMAGES[:count] * (1 - darker * severity / 5), LABELS[:count]

    cifar10 = BenchmarkDataset.cifar_10
    monkeypatch.setitem(data._clean_dataset_loaders, cifar10, lambda count, *_: (IMAGES[:count], LABELS[:count]))
    monkeypatch.setitem(data.CORRUPTION_DATASET_LOADERS[cifar10], ThreatModel.corruptions, corrupted)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_benchmark_with_every_attack_runs_to_its_end(robustbench, network, six_images, tmp_path):
    log = tmp_path / "benchmark.log"
    clean, robust = robustbench.benchmark(network, 6, eps=2 / 255, batch_size=6, log_path=log)
    assert log.read_text().splitlines()[-1] == f"robust accuracy: {robust:.2%}"
    assert "robust accuracy after SQUARE" in log.read_text()
    assert (clean, robust) == (pytest.approx(5 / 6), pytest.approx(4 / 6))


def test_a_benchmark_in_linf_runs_to_its_end(robustbench, network, six_images, tmp_path):
    log = tmp_path / "benchmark.log"
    clean, robust = robustbench.benchmark(network, 6, eps=0.4, batch_size=6, log_path=log)
    assert (clean, robust) == (pytest.approx(5 / 6), 0)
    assert log.read_text().splitlines()[-1] == "robust accuracy: 0.00%"


def test_a_benchmark_goes_on_from_its_state(robustbench, network, six_images, tmp_path):
    state = tmp_path / "state.json"
    first = robustbench.benchmark(network, 6, eps=0.4, aa_state_path=state)
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    assert robustbench.benchmark(network, 6, eps=0.4, aa_state_path=state) == first
    assert len(passes) == 1  # the clean accuracy, no attack


def test_a_benchmark_on_corruptions_runs_to_its_end(robustbench, network, six_images, tmp_path):
    clean, robust = robustbench.benchmark(
        network, 6, threat_model="corruptions", model_name="mine", to_disk=True, batch_size=6
    )
    assert robust == pytest.approx(clean) == pytest.approx(5 / 6)  # a linear model does not mind the dark
    info = json.loads((tmp_path / "model_info/cifar10/corruptions/mine.json").read_text())
    assert (info["corruptions_acc"], info["corruptions_mce"]) == ("83.33", "nan")


def test_another_fault_of_a_corruption_benchmark_comes_through(robustbench):
    from robustbench.eval import corruptions_evaluation

    with pytest.raises(KeyError, match="no such data set"):
        corruptions_evaluation(6, "", "no such data set", None, None, None, 6, False, None, None)


# The adapter of AutoAttack


def attack(model, **options) -> AutoAttack:
    custom = {"version": "custom", "attacks_to_run": ["apgd-ce", "square"], "seed": 0, "eps": 2 / 255}
    adversary = AutoAttack(model, **custom | {"verbose": False} | options)
    adversary.square.n_queries = 50
    return adversary


def test_the_adapter_finds_what_pyautoattack_finds(network):
    import pyautoattack

    theirs = pyautoattack.AutoAttack(network, attacks=["apgd-ce", "square"], seed=0, eps=2 / 255, version="custom")
    theirs.square.n_queries = 50
    expected, classes = theirs.run_standard_evaluation(IMAGES, LABELS, batch_size=4)
    found = attack(network).run_standard_evaluation(IMAGES, LABELS, bs=4)
    assert torch.equal(found, expected) and not torch.equal(found, IMAGES)
    both = attack(network).run_standard_evaluation(IMAGES, LABELS, bs=4, return_labels=True)
    assert torch.equal(both[0], expected) and torch.equal(both[1], classes)


def test_the_adapter_runs_attacks_one_by_one(network):
    found = attack(network).run_standard_evaluation_individual(IMAGES, LABELS)
    alone = attack(network, attacks_to_run=["square"]).run_standard_evaluation(IMAGES, LABELS)
    assert list(found) == ["apgd-ce", "square"] and torch.equal(found["square"], alone)


def test_the_adapter_prints_only_where_asked_and_leaves_logging_as_it_was(network, capsys, tmp_path):
    logger = logging.getLogger("auto-attack")
    before = (logger.level, logger.propagate, list(logger.handlers))
    attack(network).run_standard_evaluation(IMAGES, LABELS)
    assert capsys.readouterr().out == ""
    attack(network, verbose=True, log_path=tmp_path / "log").run_standard_evaluation(IMAGES, LABELS)
    assert capsys.readouterr().out == (tmp_path / "log").read_text()
    assert "robust accuracy after SQUARE" in (tmp_path / "log").read_text()
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_attacks_that_do_not_go_with_the_version_are_refused(network):
    with pytest.raises(ValueError, match="attacks_to_run: expected .*custom version, got none"):
        AutoAttack(network, version="custom")
    with pytest.raises(ValueError, match="attacks_to_run"):
        AutoAttack(network, version="standard", attacks_to_run=["square"])


@pytest.mark.parametrize(
    "name, value", [("version", "x"), ("norm", "L7"), ("seed", 1.5), ("seed", 2**64), ("seed", -1)]
)
def test_arguments_out_of_range_are_named(network, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        AutoAttack(network, **{name: value})


@pytest.mark.parametrize("bs", [0, -1, 1.5])
def test_batch_sizes_out_of_range_are_named(network, bs):
    with pytest.raises(ValueError, match="^bs: expected an integer ≥ 1"):
        attack(network).run_standard_evaluation(IMAGES, LABELS, bs=bs)


def test_a_stopped_attack_goes_on_to_the_same_flags(network, tmp_path):
    whole, stopped = tmp_path / "whole.json", tmp_path / "stopped.json"
    attack(network).run_standard_evaluation(IMAGES, LABELS, bs=2, state_path=whole)
    adversary = attack(network)

    def stop(*_):
        raise KeyboardInterrupt

    adversary.square.perturb = stop
    with pytest.raises(KeyboardInterrupt):
        adversary.run_standard_evaluation(IMAGES, LABELS, bs=2, state_path=stopped)
    assert json.loads(stopped.read_text())["run_attacks"] == ["apgd-ce"]
    resumed = attack(network)
    resumed.apgd.perturb = stop  # it is done
    resumed.run_standard_evaluation(IMAGES, LABELS, bs=2, state_path=stopped)
    flags = [json.loads(path.read_text())["robust_flags"] for path in (whole, stopped)]
    assert flags[0] == flags[1] and 0 < sum(flags[0]) < 6
    assert EvaluationState.from_disk(stopped).robust_flags.mean().item() == pytest.approx(sum(flags[0]) / 6)


def test_a_state_is_not_trusted_in_silence_where_a_change_of_the_code_could_not_be_noticed(network, tmp_path, recwarn):
    class Own(nn.Sequential):
        pass

    for model, said in ((network, 0), (Own(network), 1)):
        for _ in range(2):
            attack(model).run_standard_evaluation(IMAGES, LABELS, state_path=tmp_path / f"{said}.json")
        assert sum("resumes from" in str(one.message) and "Own" in str(one.message) for one in recwarn.list) == said


def test_a_state_of_something_else_is_refused(network, tmp_path):
    state = tmp_path / "state.json"
    attack(network).run_standard_evaluation(IMAGES, LABELS, state_path=state)
    with pytest.raises(ValueError, match="state.json has another data, eps; remove it"):
        attack(network, eps=1 / 255).run_standard_evaluation(IMAGES[:5], LABELS[:5], state_path=state)
    changed = attack(network)
    changed.version, changed.apgd.n_iter = "rand", 1
    with pytest.raises(ValueError, match="another version, parameters of the attacks; remove it"):
        changed.run_standard_evaluation(IMAGES, LABELS, state_path=state)
    with torch.no_grad():
        network[1].bias += 1
    with pytest.raises(ValueError, match="state.json has another model; remove it"):
        attack(network).run_standard_evaluation(IMAGES, LABELS, state_path=state)
    state.write_text('{"subject": {}')
    with pytest.raises(ValueError, match="state.json: not usable JSON .* remove it"):
        attack(network).run_standard_evaluation(IMAGES, LABELS, state_path=state)


# Broken installations

BROKEN = """
import json, sys, warnings
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pkg_resources", "autoattack"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import freqrob, torch
from freqrob_robustbench import register
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = register()
import robustbench, robustbench.loaders
find = robustbench.loaders.pkg_resources.resource_filename
file = find("robustbench.loaders", "helper_files/imagenet_test_image_ids.txt")
images = torch.rand(2, 3, 32, 32)
model = robustbench.load_model("bass_pgd_at_rn20", dataset="cifar10", threat_model="Linf")
print(json.dumps({
    "warnings": [str(warning.message) for warning in caught],
    "left": sorted({"pkg_resources", "autoattack", "autoattack.state"} & set(sys.modules)),
    "lines": len(open(file).readlines()),
    "attack": robustbench.eval.AutoAttack.__module__,
    "same": torch.equal(model(images), freqrob.load_model("bass_pgd_at_rn20")(images)),
}))
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict:
    """What a process finds that has no pkg_resources, no autoattack, and a huggingface_hub of another age."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "huggingface_hub").mkdir()
    (folder / "huggingface_hub" / "__init__.py").touch()
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "plugins" / "robustbench")))
    command, environment = [sys.executable, "-c", BROKEN], os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_robustbench_works_without_pkg_resources_and_autoattack(broken):
    assert broken["same"] and broken["attack"] == "freqrob_robustbench.autoattack"
    assert broken["lines"] == 5000


def test_no_stand_in_is_left_behind(broken):
    assert broken["left"] == []


def test_a_huggingface_hub_that_timm_cannot_use_is_named(broken):
    assert any("cannot use huggingface_hub" in text and "'huggingface_hub<2'" in text for text in broken["warnings"])


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A copy of RobustBench's installation, first on the path."""
    for file in ROBUSTBENCH.files:
        if file.suffix in (".py", "") or "dist-info" in file.parts[0]:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), tmp_path / file)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_intact_installation_is_not_complained_of(site):
    assert compatibility.changed_files() == ""


def test_files_that_torchattacks_overwrote_are_counted_and_torchattacks_is_named(site):
    changed = ["robustbench/eval.py", "robustbench/utils.py", "robustbench/data.py", "robustbench/loaders.py"]
    record = []
    for name in changed:
        (site / name).write_text("# an older copy\n")
        digest = urlsafe_b64encode(hashlib.sha256((site / name).read_bytes()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},16")
    (site / "torchattacks-3.5.1.dist-info").mkdir()
    (site / "torchattacks-3.5.1.dist-info" / "METADATA").write_text("Name: torchattacks\nVersion: 3.5.1\n")
    (site / "torchattacks-3.5.1.dist-info" / "RECORD").write_text("\n".join(record))
    message = compatibility.changed_files()
    assert "4 files of" in message and "overwritten by torchattacks 3.5.1" in message
    assert "pip uninstall torchattacks; pip install --force-reinstall --no-deps robustbench==1.1.1" in message


def test_a_missing_file_is_a_change_too(site):
    (site / "robustbench" / "eval.py").unlink()
    assert "are not those of RobustBench 1.1.1 (robustbench/eval.py)" in compatibility.changed_files()


def test_changed_files_are_warned_of_and_the_reason_where_they_do_not_work(robustbench, site, monkeypatch):
    (site / "robustbench" / "eval.py").write_text("")
    monkeypatch.setitem(sys.modules, "robustbench.eval", ModuleType("robustbench.eval"))
    problem = "RobustBench cannot be used: .*corruptions_evaluation.* 1 files of .*pip install --force-reinstall"
    with pytest.warns(UserWarning, match="1 files of"), pytest.raises(ImportError, match=problem):
        import_robustbench()


@pytest.mark.parametrize(
    "fault, advice",
    [
        (RuntimeError("operator torchvision::nms does not exist"), "torch and torchvision are different builds"),
        (ModuleNotFoundError("No module named 'gdown'"), r"'gdown'. pip install 'freqrob\[robustbench\]'"),
    ],
)
def test_an_import_that_cannot_be_mended_says_what_to_install(monkeypatch, fault, advice):
    def fail(name):
        raise fault

    monkeypatch.delitem(sys.modules, "robustbench.eval", raising=False)
    monkeypatch.setattr(compatibility, "import_module", fail)
    monkeypatch.setattr(compatibility, "_missing", lambda name: False)
    with pytest.raises(ImportError, match=f"cannot be used: .*{advice}.*Here: robustbench 1.1.1"):
        import_robustbench()


def test_a_robustbench_that_was_imported_before_is_mended_too(robustbench, monkeypatch):
    evaluation = sys.modules["robustbench.eval"]
    monkeypatch.setattr(evaluation, "corruptions_evaluation", evaluation.corruptions_evaluation.__wrapped__)
    assert import_robustbench() is robustbench
    assert evaluation.corruptions_evaluation.__wrapped__


def test_robustbench_that_is_not_installed(monkeypatch):
    def fail(name):
        raise compatibility.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "robustbench.eval", raising=False)
    monkeypatch.setattr(compatibility, "distribution", fail)
    with pytest.raises(ImportError, match=r"pip install 'freqrob\[robustbench\]'"):
        freqrob.load_model("Wong2020Fast", source="robustbench")


# RobustBench's own models


@pytest.fixture(scope="module")
def zoo(robustbench, tmp_path_factory) -> tuple[Path, nn.Module]:
    """A folder with (random) weights of RobustBench's Wong2020Fast, and the network that they are of."""
    from robustbench.model_zoo.cifar10 import linf

    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    network = linf["Wong2020Fast"]["model"]().eval()
    (folder / "cifar10" / "Linf").mkdir(parents=True)
    torch.save(network.state_dict(), folder / "cifar10" / "Linf" / "Wong2020Fast.pt")
    return folder, network


def test_a_model_of_robustbench_by_source_and_by_spec(zoo, capsys):
    from freqrob.models.sources import open_model

    folder, network = zoo
    model = freqrob.load_model("Wong2020Fast", folder, source="robustbench")
    assert not model.training and same(model, network) and model.network is not network
    assert same(open_model("robustbench:Wong2020Fast", folder), network)
    assert capsys.readouterr().out == ""


@torch.no_grad()
def test_a_model_of_robustbench_for_imagenet_has_its_preprocessing(robustbench, tmp_path):
    from PIL import Image
    from robustbench.data import PREPROCESSINGS
    from robustbench.model_zoo.imagenet import linf

    from freqrob.models.sources import open_model

    network, path = linf["Salman2020Do_R18"]["model"]().eval(), tmp_path / "imagenet" / "Linf" / "Salman2020Do_R18.pt"
    path.parent.mkdir(parents=True)
    torch.save({key.removeprefix("model."): value.half() for key, value in network.model.state_dict().items()}, path)
    model = open_model("robustbench:Salman2020Do_R18", tmp_path, "imagenet")
    photograph = Image.fromarray(torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy())
    found = preprocessing_of(model)(photograph)
    assert torch.equal(found, (255 * PREPROCESSINGS["Res256Crop224"](photograph)).round().byte())
    assert model(found[None] / 255).shape == (1, 1000)
    loaded = freqrob.load_model("Salman2020Do_R18", tmp_path, "imagenet", source="robustbench", front_end="bass")
    assert str(preprocessing_of(loaded)) == "resize 256 (bilinear), center crop 224"
    assert preprocessing_of(open_model("standard_rn20")) is None


@torch.no_grad()
def test_a_front_end_comes_before_a_model_of_robustbench(zoo):
    folder, network = zoo
    model = freqrob.load_model("Wong2020Fast", folder, source="robustbench", front_end="bass")
    torch.testing.assert_close(model(IMAGES), network(model.front_ends[0](IMAGES)))


def test_a_name_that_robustbench_does_not_have(robustbench):
    with pytest.raises(ValueError, match="'Wong2020Fats' for cifar10, Linf. Nearest: Wong2020Fast"):
        freqrob.load_model("Wong2020Fats", source="robustbench")
    with pytest.raises(ValueError, match="has no svhn, Linf, but cifar10, Linf; cifar10, L2"):
        load_from_zoo("Wong2020Fast", dataset="svhn")


def test_what_source_cannot_be():
    with pytest.raises(ValueError, match="source: got 'timm', expected one of freqrob, robustbench"):
        freqrob.load_model("resnet18", source="timm")
    with pytest.raises(ValueError, match="custom_checkpoint: robustbench's .*got 'w.pt'"):
        freqrob.load_model("Wong2020Fast", source="robustbench", custom_checkpoint="w.pt")


def test_a_download_is_announced_and_if_it_fails_a_place_for_the_file(robustbench, tmp_path, capsys, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(OSError, match="not download Wong2020Fast .*put .*Google Drive id 1Re"):
        load_from_zoo("Wong2020Fast", tmp_path)
    captured = capsys.readouterr()
    assert "Downloading Wong2020Fast from Google Drive (id 1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv) to " in captured.err
    assert captured.out == ""
    with pytest.raises(OSError, match=r"^model_dir: /dev/null/models/cifar10/Linf"):
        load_from_zoo("Wong2020Fast", "/dev/null/models")


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"state_dict": {"weight": Malicious()}}, "it calls .*open, which could run any code and was not executed"),
        ({"state_dict": {}, "args": argparse.Namespace()}, r"it contains argparse.Namespace, .*add_safe_globals"),
        ({"state_dict": {"weight": torch.zeros(1)}}, "damaged, or not the weights of Wong2020Fast"),
        (b"truncated", "damaged, or not the weights of Wong2020Fast"),
        (b"<!DOCTYPE html><html><title>Google Drive", "it is an HTML page"),
    ],
)
def test_a_file_that_is_not_tensors_only_is_refused_and_not_run(robustbench, tmp_path, monkeypatch, content, complaint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "cifar10" / "Linf" / "Wong2020Fast.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"Wong2020Fast.pt: {complaint}") as raised:
        load_from_zoo("Wong2020Fast", tmp_path)
    assert "Re-running" not in "".join(traceback.format_exception(raised.value))
    assert not (tmp_path / "executed").exists()


# Claims


def result(name: str, accuracy: float, **values) -> dict:
    return {"protocol": "natural", "attack": name, "images": 10_000, "seed": 0, "accuracy": accuracy} | values


AA = result("AutoAttack", 0.3312, eps=8 / 255, norm="Linf", version="standard", package="pyautoattack 0.2.0")


def exported(tmp_path, card: Card, **paper) -> tuple[dict, str, dict]:
    path = loading.checkpoint_path(card.name, tmp_path, card.dataset, card.threat_model).with_suffix(".json")
    path.parent.mkdir(parents=True)
    path.write_text(card.to_json())
    found = export(card.name, tmp_path / "out", tmp_path, card.dataset, card.threat_model, Paper(**paper))
    return json.loads(found.info.read_text()), found.claim.read_text(), found.missing


def test_an_export_has_robustbenchs_keys_and_formats(robustbench, tmp_path):
    from robustbench.utils import ModelInfo

    paper = {"title": "T", "link": "https://example.org", "authors": "A, B", "venue": "NeurIPS 2026"}
    card = replace(CARD, results=[result("clean", 0.8), AA])
    info, claim, missing = exported(tmp_path, card, **paper)
    assert info == {
        "link": "https://example.org", "name": "T", "authors": "A, B", "additional_data": False,
        "number_forward_passes": 1, "dataset": "cifar10", "venue": "NeurIPS 2026", "architecture": "ResNet-20",
        "eps": "8/255", "clean_acc": "80.00", "autoattack_acc": "33.12",
    }  # fmt: skip
    assert ModelInfo(**info).autoattack_acc == "33.12"
    assert list(missing) == ["reported"]
    for line in (
        "- **Paper Title**: T", "- **eps**: 8/255", "- **Clean accuracy**: 80.00", "- **Robust accuracy**: 33.12",
        "- **Additional data**: false",
        "- **Evaluation method**: AutoAttack, version standard (pyautoattack 0.2.0), seed 0",
    ):  # fmt: skip
        assert line in claim


@pytest.mark.parametrize(
    "almost",
    [{"images": 1000}, {"protocol": "bass"}, {"eps": 4 / 255}, {"norm": "L2"}, {"attack": "AutoAttack rand"}],
)
def test_a_number_that_is_not_robustbenchs_stays_absent_and_is_said(tmp_path, almost):
    info, claim, missing = exported(tmp_path, replace(CARD, results=[AA | almost, result("clean", 0.8, images=9999)]))
    assert not {"clean_acc", "autoattack_acc", "link", "reported", "footnote"} & set(info)
    assert "freqrob evaluate trades_rn20 --protocol natural --card --attack autoattack" in missing["autoattack_acc"]
    assert set(missing) == {"link", "name", "authors", "venue", "clean_acc", "reported", "autoattack_acc"}
    assert "- **Robust accuracy**: **(fill in)**" in claim and "- **Clean accuracy**: **(fill in)**" in claim


def test_a_claim_shows_other_measurements_as_such(tmp_path):
    pgd = result("PGD-20", 0.4, eps=8 / 255)
    _, claim, _ = exported(tmp_path, replace(CARD, results=[result("clean", 0.8), pgd, pgd | {"protocol": "bass"}]))
    assert claim.count("PGD-20") == 1
    assert "- PGD-20, Linf, eps 8/255, 10,000 images, seed 0: 40.00" in claim


def test_a_model_for_corruptions_has_no_eps(tmp_path):
    info, claim, missing = exported(tmp_path, replace(CARD, threat_model="corruptions"))
    assert info["eps"] is None and "corruptions_acc" in missing and "autoattack_acc" not in missing
    assert "- **Threat Model**: Common Corruptions\n- **eps**: N/A" in claim


def test_a_front_end_is_told(tmp_path):
    card = replace(CARD, front_ends=[{"name": "bass"}, {"name": "normalize", "mean": [0.0], "std": [1.0]}])
    info, claim, _ = exported(tmp_path, card)
    assert info["footnote"] == "behind a fixed front end: bass" and "- **Remark**: behind a fixed" in claim


def test_a_data_set_that_robustbench_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset: .*cifar10, .*, trades_rn20 is for svhn"):
        exported(tmp_path, replace(CARD, dataset="svhn"))


def test_the_export_command(tmp_path):
    from freqrob import cli

    found = CliRunner().invoke(cli.app, ["export", "pgd_at_rn20", "--out", str(tmp_path), "--title", "T"])
    assert found.exit_code == 0, found.output
    assert f"Wrote {tmp_path / 'pgd_at_rn20.json'}" in found.output and "  autoattack_acc: not measured" in found.output
    assert json.loads((tmp_path / "pgd_at_rn20.json").read_text())["clean_acc"] == "56.70"
    assert "- **Paper Title**: T" in (tmp_path / "pgd_at_rn20.md").read_text()
