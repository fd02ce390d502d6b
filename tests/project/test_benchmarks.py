"""The benchmarks measure what they say, and their JSON has what the README's tables need."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
import torch

from benchmarks import (
    autoattack,
    gpu,
    peers,
    readme,
    records,
    spectral,
    timing,
    train_for,
    training,
)
from freqrob.data.samples import sample_images
from freqrob.models.cards import Card
from freqrob.models.checkpoints import save
from freqrob.reproduction.records import refresh
from freqrob.spectral import native
from freqrob.spectral.rings import RingMap

ROOT = Path(__file__).parents[2]
needs_kernels = pytest.mark.skipif(not native.load(), reason="no native kernels")


# Timing


class FakeClock:
    """A GPU that takes 2 ms a call, and whose events note when they were reached."""

    def __init__(self):
        self.ms = 0.0

    def call(self):
        self.ms += 2

    def event(self):
        clock = self

        class Event:
            def record(self):
                self.at = clock.ms

            def synchronize(self):
                clock.ms += 100

            def elapsed_time(self, end):
                return end.at - self.at

        return Event()


def test_seconds_of_events_are_those_of_one_call():
    clock = FakeClock()
    assert timing.event_seconds(clock.call, 7, clock.event) == pytest.approx(2e-3)


def test_a_rotation_takes_every_set_and_keeps_as_many_results():
    seen = []
    rotation = timing.Rotation(lambda x: seen.append(x) or 10 * x, [(1,), (2,), (3,)])
    for _ in range(5):
        rotation()
    assert seen == [1, 2, 3, 1, 2]
    assert rotation.results == [10, 20, 30]


def test_rate_of_a_matrix_product(monkeypatch):
    monkeypatch.setattr(timing, "sample", lambda call, calls: (call(), (0.5, True))[1])
    assert timing.product_rate("cpu", torch.float32, 10, repeats=3) == 2 * 10**3 / 0.5


def times_on_a_gpu(monkeypatch, took, capturing):
    """Milliseconds that one sample of each kind gives, of a GPU that takes so long for a call of two sets."""
    monkeypatch.setattr(spectral, "event_seconds", lambda call, calls: 1.5 * took if call == "replay" else took)
    monkeypatch.setattr(spectral, "captured", capturing)
    samplers = spectral.cuda_samplers(spectral.Candidate(None, [(), ()]), 0.01, 0.0)
    return {what: 1e3 * take()[0] for what, take in samplers.items()}


def test_a_call_on_a_gpu_is_timed_by_itself_and_as_a_part_of_a_graph(monkeypatch):
    def fails(call, calls):
        raise RuntimeError("cannot be captured")

    assert times_on_a_gpu(monkeypatch, 1e-3, lambda call, calls: "replay") == pytest.approx({"ms": 1, "graph_ms": 0.75})
    assert [*times_on_a_gpu(monkeypatch, 1e-3, fails)] == ["ms"]
    assert [*times_on_a_gpu(monkeypatch, 1e-2, lambda call, calls: "replay")] == ["ms"]  # launching is nothing there


# Peers


@needs_kernels
@pytest.mark.parametrize("op", peers.OPS.values(), ids=peers.OPS)
@pytest.mark.parametrize("size", [32, 224])
def test_every_peer_computes_the_op(op, size):
    workload, rings = spectral.Workload(op, 2, size), peers.Rings.of(RingMap(size, size), "cpu")
    found, moved = spectral.candidates(workload, "cpu", compile=False)
    given = found["freqrob"].inputs
    for name, call in op.compiled.items():  # what is compiled, as it is
        found[name] = spectral.Candidate(lambda *some, call=call: call(*some, rings), given)
    far, failures = spectral.check(workload, found)
    assert not failures
    assert {*far} >= {*op.eager, *op.compiled}
    assert moved == sum(t.numel() * t.element_size() for t in (*given[0], op.ours(*given[0], rings)))
    assert sum(t.numel() for t in found["copy"].inputs[0]) in (moved, moved - 1)


@needs_kernels
def test_a_peer_that_fails_or_computes_something_else_is_taken_out():
    workload = spectral.Workload(peers.OPS["ring_sum"], 2, 32)
    found, _ = spectral.candidates(workload, "cpu", compile=False)
    rings = peers.Rings.of(RingMap(32, 32), "cpu")

    def outermost_ring_missing(x):
        sums = peers.power_matmul(x, rings)
        sums[:, -1] = 0
        return sums

    def failing(x):
        raise NotImplementedError("cannot be compiled\nwith details")

    right = {*found}
    for name, call in {"torch: wrong": outermost_ring_missing, "torch: failing": failing}.items():
        found[name] = spectral.Candidate(call, found["freqrob"].inputs)
    _, failures = spectral.check(workload, found)
    assert failures == [
        "ring_sum 2×3×32², torch: wrong: differs by 1 from freqrob",
        "ring_sum 2×3×32², torch: failing: NotImplementedError: cannot be compiled",
    ]
    assert {*found} == right


TRITON = """
import torch
from benchmarks import peers, triton_peer
from freqrob.spectral.rings import RingMap

torch.manual_seed(0)
for size in (32, 64):
    rings, x = peers.Rings.of(RingMap(size, size), "cpu"), torch.rand(6, size, size)
    for name, op in peers.OPS.items():
        for label, call in triton_peer.versions(name, size).items():
            inputs = op.inputs(x, rings)
            expected = op.ours(*inputs, rings)
            far = ((call(*inputs, rings) - expected).abs() / expected.abs().amax(0)).max().item()
            assert far < 1e-4, (label, name, size, far)
            print(label)
"""


@needs_kernels
def test_triton_versions_compute_the_ops():
    pytest.importorskip("triton")
    interpreted = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", TRITON], env=interpreted, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * 6


# Records and the tables made of them


@pytest.fixture(scope="module")
def quick_record(tmp_path_factory):
    out = tmp_path_factory.mktemp("spectral") / "spectral.json"
    threads = torch.get_num_threads()
    spectral.main(["--quick", "--threads", "1", "--out", str(out)])
    torch.set_num_threads(threads)
    return json.loads(out.read_text())


@pytest.fixture
def results(tmp_path, monkeypatch, quick_record):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    (tmp_path / "spectral_cpu.json").write_text(json.dumps(quick_record))
    return tmp_path


def gpu_record(quick_record):
    """A record of a GPU, made of one of the CPU."""
    rows = [{**row, "graph_ms": row["ms"] / 2} for row in quick_record["rows"]]
    rows.append({**rows[0], "candidate": "Triton: some kernel", "ms": 3 * rows[0]["ms"], "ratio": 3.0})
    rows.append({**rows[0], "workload": "bass float8 1×3×32²", "op": "bass float8"})
    return {"name": "X100", "spectral": {**quick_record, "gpu": "NVIDIA X100", "cuda": "13.0", "rows": rows}}


def cells(text):
    """The table's lines, by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip().replace("\\|", "|"): line for line in lines}


@needs_kernels
def test_the_speed_table_has_a_cell_for_all_that_a_run_measures(results, quick_record):
    rows = cells(readme.speed())
    header = "CPU | CPU: best torch | CPU: plain torch | CPU: of the ceiling"
    assert f"|  | {header} |" in readme.speed()
    workloads = {row["workload"]: row["op"] for row in quick_record["rows"]}
    assert len(workloads) == len(peers.OPS) + 3
    for workload in workloads:
        assert len(rows[workload]) == 5
        assert all(rows[workload])
    of_a_row = {row["candidate"]: row for row in quick_record["rows"] if row["workload"] == "ring_dot 2×3×32²"}
    torch_ms = min(row["ms"] for name, row in of_a_row.items() if name.startswith("torch: "))
    shown = float(rows["ring_dot 2×3×32²"][2].removesuffix(" ×"))
    assert shown == pytest.approx(torch_ms / of_a_row["freqrob"]["ms"], abs=0.06)


@needs_kernels
def test_without_a_gpu_the_tables_say_that_it_was_not_measured(results):
    assert readme.speed().count("not measured yet") == 1
    assert "GPU: not measured yet." in readme.speed()
    assert "X100" not in readme.speed()


@needs_kernels
def test_with_a_gpu_the_speed_table_has_its_columns(results, quick_record):
    (results / "gpu_x100.json").write_text(json.dumps(gpu_record(quick_record)))
    text = readme.speed()
    assert "not measured yet" not in text
    assert "X100: NVIDIA X100, CUDA 13.0" in text
    assert "X100: in a graph | X100: best torch | X100: plain torch | X100: Triton | X100: of the ceiling" in text
    assert cells(text)["bass 2×3×32²"][-2] == "3.0 ×"
    assert "bass float8 1×3×32²" in cells(text)


def test_the_ceiling_is_the_longer_of_copy_and_flops():
    rows = [
        {"workload": "w", "memory": "fresh", "candidate": "freqrob", "ms": 4.0, "ratio": 1, "flops": 2e9},
        {"workload": "w", "memory": "fresh", "candidate": "freqrob, out=", "ms": 3.0, "ratio": 0.75},
        {"workload": "w", "memory": "fresh", "candidate": "copy", "ms": 1.0, "ratio": 0.25},
    ]
    assert readme.Speeds({"rows": rows, "product_tflops": 1.0}).of_ceiling("w") == "67 %"  # 2 ms of 3 ms
    assert readme.Speeds({"rows": rows, "product_tflops": 4.0}).of_ceiling("w") == "33 %"
    assert readme.Speeds({"rows": rows[:2]}).of_ceiling("w") == ""


def test_the_table_of_models_shows_the_cards(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "SHIPPED", tmp_path)
    monkeypatch.setattr(readme, "list_models", lambda *_: ["jafr_rn20", "mart_rn20"])
    folder = tmp_path / "cifar10/Linf"
    folder.mkdir(parents=True)
    results = [
        {"protocol": p, "attack": a, "accuracy": 0.5, "images": 10_000, "eps": 8 / 255, "step_size": 2 / 255, "seed": 0}
        for p in ("natural", "bass")
        for a in ("clean", "FGSM", "PGD-20")
    ]
    for name in ("jafr_rn20", "mart_rn20"):
        save(folder / f"{name}.safetensors", {}, Card(name, "rn20", results=results))
    shown = cells(readme.models())
    assert [*shown][2:] == ["`mart_rn20`", "`jafr_rn20`"]
    assert shown["`jafr_rn20`"][1:] == [
        "50.0\xa0/\xa050.0\xa0/\xa050.0",
        "–\xa0/\xa0–\xa0/\xa0–",
        "50.0\xa0/\xa050.0\xa0/\xa050.0",
    ]


def test_claims_are_not_measured_without_records(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "REPRODUCTION", tmp_path)
    assert readme.claims() == readme.longtail() == "not measured yet"


def test_the_records_have_the_verdicts_of_their_numbers(tmp_path):
    """Criteria and printed numbers may have changed since: `python -m benchmarks.readme` judges the claims again."""
    copy = tmp_path / "reproduction"
    shutil.copytree(readme.REPRODUCTION, copy)
    refresh(copy)
    texts = [path for path in readme.REPRODUCTION.rglob("*") if path.suffix in (".json", ".md", ".csv")]
    assert len(texts) > 3
    for path in texts:
        assert (copy / path.relative_to(readme.REPRODUCTION)).read_text() == path.read_text(), path


# AutoAttack


def test_packages_that_were_run_are_not_run_again(tmp_path, monkeypatch):
    runs = []

    def package(name, fails=False):
        def run(model, images, labels, data):
            runs.append(name)
            if fails:
                raise KeyboardInterrupt
            return 0.5, 0.25

        return run

    out = tmp_path / "found.json"
    arguments = ["--data", "DIR", "--images", "3", "--out", str(out)]
    monkeypatch.setattr(autoattack, "load_images", lambda _: sample_images())
    monkeypatch.setattr(autoattack, "PACKAGES", {"one": package("one"), "two": package("two", fails=True)})
    with pytest.raises(KeyboardInterrupt):
        autoattack.main(arguments)
    monkeypatch.setattr(autoattack, "PACKAGES", {"one": package("one"), "two": package("two")})
    autoattack.main(arguments)
    assert runs == ["one", "two", "two"]
    assert {name: (one["clean"], one["robust"]) for name, one in json.loads(out.read_text())["packages"].items()} == {
        "one": (0.5, 0.25), "two": (0.5, 0.25),
    }  # fmt: skip


# Minimal perturbations


def test_the_passes_of_a_network_inside_a_foolbox_model_are_counted():
    foolbox = pytest.importorskip("foolbox")
    from benchmarks.minimal_perturbation import measured

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    images = torch.rand(4, 3, 2, 2)
    labels = network(images).argmax(1)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    few, many = (
        measured(foolbox.attacks.L2FMNAttack(steps=steps), network, model, images, labels)["passes"] for steps in (2, 7)
    )
    assert many - few == 5 and few >= 2
    assert not network._forward_pre_hooks


# Training


def test_flops_of_a_step():
    layer, x = torch.nn.Conv2d(3, 5, 3, bias=False), torch.randn(2, 3, 10, 10)
    forward = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert training.flops_of(lambda: layer(x)) == forward
    assert training.flops_of(lambda: layer(x).sum().backward()) == 2 * forward  # x asks for no gradient


def test_a_training_step_as_a_share_of_a_matrix_product(monkeypatch):
    monkeypatch.setattr(training, "median_ms", lambda candidates, *_: dict.fromkeys(candidates, (500.0, "1/1")))
    standard, batch = training.rows("rn20", 2, "cpu", 1, ["standard"], product=1e12)
    images = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    step = training.TrainingStep(training.Recipe("standard_rn20"), iter([images]), "cpu")
    assert standard["utilisation"] == round(training.flops_of(step) / 0.5e12, 4) > 0
    assert "utilisation" not in batch


def test_what_was_trained_is_handed_over_in_pieces(tmp_path, monkeypatch):
    models, out, elsewhere = tmp_path / "models", tmp_path / "out", tmp_path / "elsewhere"
    files = {
        "cifar10/Linf/a.safetensors": 40_000, "cifar10/Linf/a.json": 100, "cifar10/Linf/a/curves.png": 1_000,
        "cifar10/Linf/a/last.ckpt": 30_000, "cifar10/Linf/a/last.safetensors": 20_000, "cifar10/Linf/a/.lock": 1,
    }  # fmt: skip
    for name, size in files.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(os.urandom(size))
    monkeypatch.setattr(train_for, "PIECE", 16_000)
    train_for.hand_over(models, out)
    pieces = sorted(out.glob("models.tar.*"))
    assert all(piece.stat().st_size <= 16_000 for piece in pieces)
    train_for.take_up(out, elsewhere)
    found = {str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*") if path.is_file()}
    assert found == {name for name in files if ".lock" not in name}
    assert all((elsewhere / name).read_bytes() == (models / name).read_bytes() for name in found)
    monkeypatch.setattr(train_for, "CHECKPOINTS", 49_999)
    train_for.hand_over(models, out)
    assert len([*out.glob("models.tar.*")]) < len(pieces)
    with tarfile.open(fileobj=BytesIO(b"".join(p.read_bytes() for p in sorted(out.glob("models.tar.*"))))) as tar:
        assert sorted(tar.getnames()) == sorted(name for name in files if "last" not in name and ".lock" not in name)


def test_a_piece_comes_back_whole_from_a_lent_machine():
    assert train_for.PIECE < 16_000_000


# The script for machines with a GPU


def test_a_short_run_of_every_op():
    gpu.short("cpu")


def test_a_short_run_notices_a_wrong_op(monkeypatch):
    monkeypatch.setattr(gpu.ops, "ring_dot", lambda x, y, rings: 1.001 * gpu.reference.ring_dot(x, y, rings))
    with pytest.raises(ValueError, match="ring_dot of 32×32"):
        gpu.short("cpu")


def script(*arguments, **environment):
    command = [str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "arguments, what",
    [
        (["--only", "everything"], "--only: got everything, expected test, bench or train"),
        (["--only", "train"], "--train RECIPE is missing"),
        (["--train", "standard_rn20", "--minutes", "3"], "--data DIR are needed"),
        (["--wheels"], "--wheels: a value is missing"),
        (["--fast", "1"], "--fast: unknown"),
    ],
)
def test_the_script_refuses_what_it_does_not_understand(arguments, what):
    done = script(*arguments)
    assert done.returncode == 2
    assert what in done.stderr


@needs_kernels
def test_a_dry_run_of_the_script_s_tests(tmp_path):
    done = script("--device", "cpu", "--only", "test", "--out", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout
    for stage in ("build: passed", "short: passed", "tests: passed", "memcheck: not here", "racecheck: not here"):
        assert f"== {stage}" in done.stdout


@pytest.mark.slow
@needs_kernels
def test_a_dry_run_of_the_script_s_benchmarks(tmp_path):
    done = script("--device", "cpu", "--quick", "--only", "bench", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout
    record = json.loads((tmp_path / "dry_run.json").read_text())
    assert {name: stage["result"] for name, stage in record["stages"].items()} == {
        "build": "passed", "spectral": "passed", "training": "passed",
    }  # fmt: skip
    assert record["name"] == "CPU"
    assert record["spectral"]["rows"] and record["training"][0]["rows"]
    assert "bass 2×3×32²" in done.stdout


@pytest.mark.slow
def test_a_stage_that_fails_hides_no_other(tmp_path):
    arguments = ("--device", "cpu", "--only", "bench", "--quick", "--out", str(tmp_path))
    done = script(*arguments, PYTHON=str(fake_python(tmp_path)))
    assert done.returncode == 1
    assert "== spectral: failed with 3" in done.stdout
    assert "== training: passed" in done.stdout
    assert json.loads((tmp_path / "dry_run.json").read_text())["stages"]["spectral"]["result"] == "failed with 3"


def fake_python(folder):
    """A Python in which the spectral benchmark fails."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n[ "$2" = benchmarks.spectral ] && exit 3\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path
