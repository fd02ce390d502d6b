"""The examples in docstrings print what they show, and every public function and class has one."""

import doctest
import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"freqrob": ROOT / "freqrob", "freqrob_foolbox": ROOT / "plugins/foolbox/freqrob_foolbox"}
WITHOUT = {  # what needs a data set, and what registers for good: the tutorials on training and plug-ins show them
    *(f"freqrob.data.{name}" for name in ("load_cifar_b", "load_dataset", "register_dataset")),
    *("freqrob.models.register_architecture", "freqrob.models.register_source", "freqrob.attacks.register_attack"),
    *("freqrob.defenses.register_defense", "freqrob.diagnostics.register_diagnostic"),
    *("freqrob.reproduction.experiment", "freqrob.training.train"),
}  # fmt: skip
# What an example of another name shows: what functions return, and what plug-ins and experiments subclass or fill in.
CLASSES_WITHOUT = {
    *(f"freqrob.attacks.{name}" for name in ("Attack", "MinimalAttack", "MinimalPerturbations")),
    "freqrob.defenses.NeuralResponse",  # as NeuralSimilarity
    *(f"freqrob.diagnostics.{name}" for name in (
        "BandAccuracy", "CorruptionSpectrum", "Diagnosis", "Diagnostic", "FourierHeatmap", "HybridReliance",
        "JacobianSpectrum", "LossLandscape", "MinimalPerturbationSpectrum", "Sensitivity", "Spectrum",
    )),
    "freqrob.evaluation.MaskingCheck",
    *(f"freqrob.reproduction.{name}" for name in (
        "Claim", "Column", "Experiment", "Measured", "Number", "Paper", "Reproduction", "Scale", "Subject",
    )),
}  # fmt: skip


def modules():
    """The modules with examples."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if ">>>" in path.read_text():
                parts = path.relative_to(folder).with_suffix("").parts
                yield ".".join([package, *(part for part in parts if part != "__init__")])


def public(is_one):
    """The names in ``__all__`` of freqrob and of its packages for which ``is_one`` holds."""
    folders = (path.parent.name for path in FOLDERS["freqrob"].glob("*/__init__.py"))
    for package in map(import_module, ["freqrob", *(f"freqrob.{folder}" for folder in sorted(folders))]):
        for name in getattr(package, "__all__", ()):
            if is_one(getattr(package, name)):
                yield f"{package.__name__}.{name}", getattr(package, name)


@pytest.mark.parametrize("name", [*modules()])
def test_the_examples_of_a_module_print_what_they_show(name, tmp_path, monkeypatch):
    if name.startswith("freqrob_foolbox"):
        pytest.importorskip("foolbox")
    monkeypatch.chdir(tmp_path)
    import_module(name)
    outcome = doctest.testmod(sys.modules[name], optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted and not outcome.failed


@pytest.mark.parametrize("is_one, excepted", [(inspect.isroutine, WITHOUT), (inspect.isclass, CLASSES_WITHOUT)])
def test_every_public_name_has_an_example(is_one, excepted):
    assert {name for name, value in public(is_one) if ">>>" not in (value.__doc__ or "")} == excepted
