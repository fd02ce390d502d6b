"""What `freqrob evaluate` and `freqrob diagnose` do in common."""

import sys
from dataclasses import replace

import pytest
import torch

from freqrob.cli.measuring import usable_device
from freqrob.data.corruption_arrays import write_corruptions
from freqrob.models import create_network
from tests.support.command_line import error_of, run

pytestmark = pytest.mark.usefixtures("tiny", "wide_terminal", "own_cache")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A network of the user's own in the working directory, whose ``forward`` calls another module."""
    (tmp_path / "cached_nets.py").write_text(
        "import cached_helpers\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n    def forward(self, images):\n"
        "        return cached_helpers.prepare(super().forward(images.flatten(1)))\n\n\n"
        "def net(classes=10):\n    net = Net(3072, classes)\n    net.load_state_dict("
        "{name: weight.new_zeros(weight.shape) for name, weight in net.state_dict().items()})\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which a change within the same second leaves as it was
    yield "cached_nets:net"
    forget_own_module()


def forget_own_module():
    for name in ("cached_nets", "cached_helpers"):
        sys.modules.pop(name, None)


def write_helpers(favourite):
    """Let the network answer with one class, as a process that is started after this has it."""
    with open("cached_helpers.py", "w") as file:
        file.write(f"def prepare(logits):\n    logits[:, {favourite}] += 2\n    return logits\n")
    forget_own_module()


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_of_a_users_own_code_nothing_is_cached_without_a_key(few_images, own_module, own_cache, command):
    asked = ["--protocol", "natural", "--attack", "clean"] if command == "evaluate" else ["--only", "hybrid"]
    for favourite in (0, 9):  # the labels are 0 to 3
        write_helpers(favourite)
        result = run(command, own_module, *asked)
        assert result.exit_code == 0, result.output
        reason = "because a change of the code could not be detected (Net is a cached_nets.Net)"
        assert result.stderr.count(f"cached_nets:net: cache: nothing is cached, {reason}") == 1
        assert "--cache-key" in result.stderr and not list(own_cache.rglob("*.safetensors"))
        assert command == "diagnose" or ("25.0" if favourite == 0 else "0.0") in result.stdout
    for number in range(2):
        result = run(command, own_module, *asked, "--cache-key", "9")
        assert result.exit_code == 0 and "nothing is cached" not in result.output
        assert ("earlier runs" in result.stderr) == (number == 1)


@pytest.mark.parametrize("name", ["meta", "hpu", "xla", "vulkan", "tpu", "cuda:99", ""])
def test_a_device_that_cannot_be_used_is_named_in_brief(name):
    with pytest.raises(ValueError, match=f"^device: cannot use '{name}' \\(.{{5,160}}\\)$"):
        usable_device(name)
    assert usable_device("cpu").type == "cpu"


class TestLinks:
    OPTIONS = ("--protocol", "natural", "--attack", "clean")

    @pytest.mark.parametrize("exists", [True, False])
    def test_results_are_written_to_the_file_that_a_link_leads_to(self, few_images, model_dir, tmp_path, exists):
        (tmp_path / "folder").mkdir()
        links = {option: tmp_path / f"link{option}" for option in ("a.json", "b.csv")}
        for link in links.values():
            target = tmp_path / "folder" / link.name
            target.write_text("old") if exists else None
            link.symlink_to(target)
        written = ["--out", links["a.json"], "--samples", links["b.csv"]]
        result = run("evaluate", "standard_tiny", "--model-dir", model_dir, *self.OPTIONS, *written)
        assert result.exit_code == 0, result.output
        for link in links.values():
            assert link.is_symlink() and len((tmp_path / "folder" / link.name).read_text()) > 50

    @pytest.mark.parametrize("option", ["--out", "--samples"])
    def test_a_loop_is_an_error(self, few_images, model_dir, tmp_path, option):
        (tmp_path / "loop.csv").symlink_to("loop.csv")
        (tmp_path / "loop").symlink_to("loop")
        for path, reason in {"loop.csv": "is a loop of symbolic links", "loop/a.csv": "expected a folder"}.items():
            arguments = [*self.OPTIONS, "--model-dir", model_dir, option, tmp_path / path]
            assert reason in error_of("evaluate", "standard_tiny", *arguments)
        assert (tmp_path / "loop.csv").is_symlink()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("command", ["evaluate", "diagnose", "corruptions"])
def test_a_model_of_other_classes_than_the_data_set_s_is_named(
    few_images, own_module, tmp_path, monkeypatch, command, named
):
    """A model of 100 classes would have an accuracy of 0 % on ten, and a data set may not name its classes."""
    write_helpers(99)
    images = few_images if named else replace(few_images, classes=())
    monkeypatch.setattr("freqrob.data.load_dataset", lambda *_, **__: images)
    write_corruptions(few_images, tmp_path / "corrupted", ["contrast"], about={"dataset": "cifar10", "bass": None})
    asked = {"evaluate": ["--protocol", "natural"], "diagnose": ["--only", "hybrid"]}
    asked["corruptions"] = ["--data", tmp_path / "corrupted"]
    message = "cached_nets:net?classes=100: model: expected 10 classes like the data set, got 100; wrap the model"
    assert message in error_of(command, f"{own_module}?classes=100", *asked[command])


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_averaged_weights_of_a_file_are_measured(few_images, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    states = [create_network("tiny").state_dict() for _ in range(2)]
    for state, favourite in zip(states, (0, 9), strict=True):  # the labels are 0 to 3
        state["3.weight"].zero_()
        state["3.bias"][favourite] = 50
    torch.save({"state_dict": states[1], "state_dict_ema": states[0]}, "mine.ckpt")
    asked = ["--protocol", "natural", "--attack", "clean"] if command == "evaluate" else ["--only", "hybrid"]
    plain = run(command, "standard_tiny=mine.ckpt", *asked)
    assert plain.exit_code == 0 and "read state_dict; it also has state_dict_ema, which weights=" in plain.stderr
    averaged = run(command, "standard_tiny=mine.ckpt", *asked, "--weights", "ema", "--out", f"{command}.json")
    assert averaged.exit_code == 0 and "read state_dict" not in averaged.stderr
    if command == "evaluate":
        assert "0.0" in plain.stdout and "25.0" in averaged.stdout
        assert "--weights ema" in (tmp_path / "evaluate.json").read_text()
    message = "weights: mine.ckpt has no 'best', but state_dict, state_dict_ema"
    assert message in error_of(command, "standard_tiny=mine.ckpt", *asked, "--weights", "best")
    message = "weights: expected a model NAME=FILE for --weights ema, got standard_tiny"
    assert message in error_of(command, "standard_tiny", *asked, "--weights", "ema")
