"""Every public function refuses arguments of a wrong type by name, and takes the numbers of NumPy and PyTorch."""

from __future__ import annotations

import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import freqrob
from freqrob import attacks, data, defenses, diagnostics, evaluation, models, training
from freqrob.attacks import PGD, AutoAttack, Clean, Square
from freqrob.attacks.band import Band, band_pgd
from freqrob.attacks.losses import cross_entropy
from freqrob.attacks.minimal_perturbation import MinimalPerturbations
from freqrob.data import augmix as augmix_module
from freqrob.data import corruption_arrays, corruption_folders, corruptions, hybrid, transforms
from freqrob.data.datasets import members
from freqrob.evaluation.corruptions import evaluate_corruptions
from freqrob.models import checkpoints, front_ends, loading, sources
from freqrob.models.cards import Card
from freqrob.report import write_report
from freqrob.runtime.parameters import Count, Pixels, Weight, checked, fits, read_setting, shown, to_python
from freqrob.spectral import balance, jacobian, longtail, ops, perturbation
from freqrob.spectral.rings import RingMap

torch.manual_seed(0)
IMAGES = torch.rand(6, 3, 8, 8)
BYTES = (IMAGES * 255).byte()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
PERTURBATIONS = MinimalPerturbations(IMAGES, torch.ones(6), torch.ones(6).bool(), LABELS, torch.zeros(6).long())
OF_TEN = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()  # classes, as CIFAR-10 has
MODEL = front_ends.FrontEnded([balance.BaSS()], NETWORK).eval()
SET = data.ImageSet(BYTES, LABELS, ("a", "b", "c"))
LARGE = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
LARGE_SET = data.ImageSet(LARGE, LABELS[:2], ())
ARRAYS = corruption_arrays.CorruptionArrays(
    Path(), "cifar10", {"fog": np.zeros((30, 8, 8, 3), np.uint8)}, LABELS, generated=None
)
HERE = Path("nowhere")
GIVEN = {"model": NETWORK, "images": IMAGES, "labels": LABELS}
MEASURED = {"model": NETWORK, "data": IMAGES, "labels": LABELS}

# A call that is right, for every public function and class; each of its arguments is then replaced by a wrong one.
CALLS: dict[Callable[..., Any], dict[str, Any]] = {
    attacks.pgd: {**GIVEN, "start": IMAGES, "loss": cross_entropy, "generator": torch.Generator()},
    attacks.fgsm: GIVEN,
    attacks.input_gradient: GIVEN,
    attacks.list_attacks: {},
    band_pgd: {**GIVEN, "rings": (1, 2), "steps": 1},
    Band: {"rings": (1, 2)},
    attacks.BandPGD: {"rings": (1, 2)},
    attacks.BrendelBethge: {},
    attacks.SmallestPGD: {},
    attacks.closest: {"results": [PERTURBATIONS]},
    attacks.MinimalPerturbationSearch: {"attack": attacks.BrendelBethge()},
    attacks.MinimalPerturbationSearch(attacks.BrendelBethge(steps=1)): {**GIVEN, "targets": LABELS.roll(1)},
    perturbation.analyze_spectrum: {"raw": IMAGES.flip(-1), "inputs": IMAGES},
    evaluation.evaluate: {**MEASURED, "attacks": [Clean()], "protocols": ["natural"]},
    attacks.parse_attack: {"text": "pgd-2"},
    attacks.FGSM: {},
    PGD: {},
    AutoAttack: {},
    Square: {},
    PGD(2).__call__: {**GIVEN, "indices": LABELS},
    PGD(2).robust_mask: {**GIVEN, "indices": LABELS},
    attacks.Transfer: {"source": NETWORK, "attack": PGD(2)},
    evaluation.check_masking: {**MEASURED, "model": MODEL, "white_box": PGD(1), "queries": 1},
    evaluate_corruptions: {"model": OF_TEN, "corruptions": ARRAYS, "n_images": 2},
    ARRAYS.images: {"name": "fog", "severity": 2},
    diagnostics.band_accuracy: {**GIVEN, "steps": 1},
    diagnostics.corruption_spectrum: {"images": IMAGES, "corrupted": [IMAGES.flip(-1)]},
    diagnostics.fourier_heatmap: GIVEN,
    diagnostics.hybrid_reliance: GIVEN,
    diagnostics.jacobian_spectrum: GIVEN,
    diagnostics.loss_landscape: {**GIVEN, "points": 5},
    diagnostics.minimal_perturbation: {**GIVEN, "steps": 1, "repeats": 1},
    diagnostics.sensitivity: GIVEN,
    diagnostics.spectrum: {"images": IMAGES},
    diagnostics.get_diagnostic: {"name": "jacobian"},
    diagnostics.list_diagnostics: {},
    diagnostics.diagnose: {**MEASURED, "only": ["jacobian"], "settings": {}},
    diagnostics.expected_seconds: {**MEASURED, "only": ["jacobian"], "settings": {}},
    data.load_photographs: {"folder": HERE},
    data.select_classes: {"images": SET, "classes": ["a"]},
    data.Preprocessing: {},
    data.load_dataset: {"name": "cifar10", "split": "test", "data_dir": HERE},
    data.list_datasets: {},
    data.grayscale_name: {"dataset": "cifar10"},
    data.to_grayscale: {"images": BYTES},
    data.register_dataset: {"name": "mine", "info": data.DATASETS["cifar10"]},
    data.Batches: {"dataset": SET, "batch_size": 2, "transform": lambda images, generator: images},
    data.ImageSet: {"images": BYTES, "labels": LABELS, "classes": ("a", "b", "c")},
    data.balance: {"dataset": SET},
    data.load_cifar_b: {"data_dir": HERE, "split": "test"},
    data.cifar_b.write_cifar_b: {"data_dir": HERE, "out": HERE},
    data.pca_components: {"dataset": SET, "count": 2},
    members: {"count": 10, "split": "val"},
    augmix_module.augmix: {"images": IMAGES, "generator": torch.Generator()},
    hybrid.hybrid_images: {"low": IMAGES, "high": IMAGES, "frequency": 0.1},
    hybrid.derange: {"labels": LABELS},
    hybrid.partners: {"labels": LABELS},
    hybrid.write_hybrids: {"dataset": SET, "folder": HERE},
    corruption_arrays.write_corruptions: {
        "dataset": data.ImageSet(LARGE, LABELS[:2], ()),
        "folder": HERE,
        "about": {},
        "types": ["fog"],
    },
    corruption_arrays.load_corruptions: {"folder": HERE, "types": ["fog"]},
    corruption_folders.write_corruption_folders: {
        "dataset": data.ImageSet(LARGE, LABELS[:2], ()),
        "folder": HERE,
        "about": {},
        "types": ["fog"],
    },
    corruption_folders.load_corruption_folders: {"folder": HERE, "types": ["fog"]},
    corruptions.corrupt: {"images": LARGE, "name": "contrast", "severity": 1},
    models.load_model: {"model_name": "pgd_at_rn20"},
    loading.load_card: {"model_name": "pgd_at_rn20"},
    loading.checkpoint_path: {"model_name": "pgd_at_rn20"},
    models.load_weights: {"network": NETWORK, "path": HERE},
    models.fast_gradients: {"model": NETWORK, "images": IMAGES},
    models.list_models: {},
    models.list_architectures: {},
    models.register_architecture: {"name": "mine"},
    models.list_sources: {},
    models.register_source: {"name": "mine"},
    models.registry.register_exporter: {"name": "mine"},
    defenses.list_defenses: {},
    defenses.register_defense: {"name": "mine"},
    models.create_network: {"architecture": "rn20"},
    sources.open_model: {"spec": "pgd_at_rn20"},
    front_ends.create_front_end: {"spec": "blur"},
    front_ends.with_front_ends: {"network": NETWORK, "specs": ["blur"]},
    front_ends.Normalize: {"mean": (0.5,), "std": (0.5,)},
    front_ends.Blur: {},
    front_ends.PCA: {},
    checkpoints.save: {"path": HERE / "a.safetensors", "state": {}, "card": Card("a", "rn20"), "dtype": torch.float16},
    checkpoints.load: {"path": HERE},
    checkpoints.add_results: {"path": HERE, "results": []},
    balance.bass: {"images": IMAGES},
    balance.BaSS: {},
    transforms.RandomBaSS: {"generator": torch.Generator()},
    longtail.radial_power: {"images": IMAGES},
    longtail.mean_power: {"images": IMAGES},
    longtail.power_profile: {"images": IMAGES},
    longtail.split: {"images": IMAGES},
    longtail.fit_power_law: {"images": IMAGES},
    longtail.spectral_entropy: {"profile": torch.rand(8)},
    longtail.total_spectral_entropy: {"profile": torch.rand(8)},
    jacobian.log_b_low: {"amplitude": torch.rand(8, 5)},
    RingMap: {"height": 8, "width": 8},
    ops.ring_sum: {"x": IMAGES},
    ops.ring_dot: {"x": IMAGES, "y": IMAGES},
    ops.ring_filter: {"x": IMAGES, "weights": torch.rand(RingMap(8, 8).rings)},
    ops.mean_amplitude: {"x": IMAGES},
    ops.balance: {"x": IMAGES},
    training.Recipe: {"name": "standard_rn20"},
    training.recipe_for: {"name": "standard_rn20"},
    training.preset: {"name": "standard_rn20"},
    training.presets.list_presets: {},
    training.parse_settings: {"recipe": "standard_rn20", "texts": ["lr=0.1"]},
    training.train: {"recipe": training.Recipe("standard_rn20"), "data_dir": HERE, "model_dir": HERE},
    write_report: {"runs": [HERE], "out": HERE},
    **{kind: {"targets": "mouse.npz"} if "Neural" in kind.__name__ else {} for kind in defenses.DEFENSES.values()},
}
if find_spec("foolbox"):
    import freqrob_foolbox as foolbox
    from foolbox import attacks as foolbox_attacks

    CALLS |= {
        foolbox.FoolboxAttack: {"attack": foolbox_attacks.LinfDeepFoolAttack()},
        foolbox.FreqrobAttack: {"attack": "pgd-2"},
        foolbox.LinfAutoAttack: {},
        foolbox.L2AutoAttack: {},
        foolbox.LinfBandPGD: {"rings": (1, 2)},
        foolbox.L2BandPGD: {"rings": (1, 2)},
        foolbox.LinfBandMinimization: {"rings": (1, 2)},
        foolbox.L2BandMinimization: {"rings": (1, 2)},
        foolbox.LinfinityBrendelBethgeAttack: {},
        foolbox.L2BrendelBethgeAttack: {},
        foolbox.MinimalPerturbationSearch: {"attack": foolbox.L2BrendelBethgeAttack()},
        foolbox.MinimalPerturbationSearch(): {**GIVEN, "targets": LABELS.roll(1)},
    }
if find_spec("robustbench"):
    import freqrob_robustbench as robustbench

    CALLS |= {
        robustbench.register: {},
        robustbench.load_from_zoo: {"name": "Standard"},
        robustbench.export: {"name": "pgd_at_rn20", "out": HERE, "paper": robustbench.Paper()},
        robustbench.Paper: {},
    }

RESULTS = {  # what functions return, and abstract classes
    "register_attack", "register_diagnostic", "MinimalAttack", "Attack", "Diagnostic", "Column", "Result",
    "MaskingCheck", "Results", "Diagnosis", "Measurement", "Quantity", "DatasetInfo", "PerturbationSpectrum",
    "MinimalPerturbations",
    "Start", "Export", "BandAccuracy", "CorruptionSpectrum", "FourierHeatmap", "HybridReliance", "JacobianSpectrum",
    "LossLandscape", "MinimalPerturbationSpectrum", "Sensitivity", "Spectrum", "ImageStream",
}  # fmt: skip
WITHOUT_ARGUMENTS = {"Clean", "Standard", "import_robustbench"}

VALUES = {
    "text": "no such name", "digits": "3", "true": True, "one": 1, "fraction": 1.5, "nan": math.nan, "inf": math.inf,
    "none": None, "class": int, "complex": 1j, "list": [], "strings": ["x"], "nones": [None], "dict": {},
    "array": np.ones(3), "tensor": torch.ones(2, 2), "object": object(), "bytes": b"x",
}  # fmt: skip
RIGHT = {  # what may be right for a type
    float: {"one", "fraction"}, int: {"one"}, bool: {"true"}, str: {"text", "digits"}, Path: {"text", "digits"},
    type(None): {"none"}, torch.Tensor: {"tensor"}, nn.Module: set(), typing.Any: set(VALUES),
    Callable: {"class"}, Mapping: {"dict"}, dict: {"dict"}, typing.Literal: set(),
    Iterable: {"list", "strings", "nones", "dict", "array", "tensor", "bytes"},
}  # fmt: skip
# Wrong values that are named otherwise, or that cannot be told from right ones.
EXCEPT = {
    ("create_front_end", "spec"): {"dict"},  # "front_end: got None"
    ("load_model", "front_end"): {"dict", "text", "digits"},
    ("with_front_ends", "specs"): {"tensor", "dict"},  # they have no items, or names
}


def right(hint: Any) -> set[str]:
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return set().union(*map(right, of))
    if origin in (Sequence, list, tuple):
        return (
            {"list"}
            | ({"strings"} if "text" in right(of[0]) else set())
            | ({"array"} if "one" in right(of[0]) else set())
        )
    return RIGHT.get(origin or hint, set())


def name_of(call: Callable[..., Any]) -> str:
    return getattr(call, "__name__", type(call).__name__)


def function_of(call: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(call, type):
        return call.__init__
    return call if inspect.isroutine(call) else type(call).__call__


def arguments() -> list[Any]:
    found = []
    for call in CALLS:
        hints = typing.get_type_hints(function_of(call))
        for name, parameter in inspect.signature(call).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                found.append(pytest.param(call, name, hints[name], id=f"{name_of(call)}-{name}"))
    return found


def complaint(call: Callable[..., Any], name: str, value: Any) -> str:
    """What is wrong with the error for a wrong argument; "" for a TypeError or ValueError that names it."""
    try:
        call(**{**CALLS[call], name: value})
    except (TypeError, ValueError) as error:
        return "" if re.search(rf"\b{name}\b", str(error)) else repr(error)
    except Exception as error:
        return repr(error)
    return "nothing was raised"


@pytest.mark.parametrize("call, name, hint", arguments())
def test_an_argument_of_a_wrong_type_is_named(call, name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = VALUES.keys() - right(hint) - EXCEPT.get((name_of(call), name), set())
    assert {kind: found for kind in kinds if (found := complaint(call, name, VALUES[kind]))} == {}
    assert not list(tmp_path.iterdir()), "wrong arguments leave no files"


OUT_OF_RANGE = {
    "seed": (-1, 2**63, 2**70), "batch_size": (0, -1, 2**63), "eps": (-0.1, 8, 255), "steps": (-1,),
    "step_size": (-0.1, 8), "start_eps": (0, 8), "restarts": (0,), "queries": (0,), "severity": (0, 11),
    "pixel_scale": (0, -1), "gamma": (-0.1, 1.1), "norm": (-1, "linfinity"), "span": (0,), "lr": (0, -1),
    "rel_stepsize": (0, -1), "momentum": (-1,), "share": (0, 1.1), "epochs": (0, 2**70),
}  # fmt: skip


@pytest.mark.parametrize("call, name, hint", [one for one in arguments() if one.values[1] in OUT_OF_RANGE])
def test_a_number_out_of_range_is_named(call, name, hint):
    found = {value: complaint(call, name, value) for value in OUT_OF_RANGE[name] if "text" not in right(hint)}
    assert not any(found.values()), found


SLOW = training.train, *((robustbench.load_from_zoo, robustbench.register) if find_spec("robustbench") else ())


@pytest.mark.parametrize("call", [call for call in CALLS if call not in SLOW], ids=name_of)
def test_the_calls_are_right_otherwise(call, tmp_path, monkeypatch):
    """So that the test above does not fail for another reason; files that are not there come after the checks."""
    monkeypatch.chdir(tmp_path)
    with suppress(OSError, ImportError):
        call(**CALLS[call])


def test_every_public_function_is_tried():
    names = "attacks", "data", "defenses", "diagnostics", "evaluation", "models", "spectral.ops", "training"
    packages = [freqrob, *(import_module(f"freqrob.{name}") for name in names)]
    packages += [foolbox] if find_spec("foolbox") else []
    packages += [robustbench] if find_spec("robustbench") else []
    public = {name for package in packages for name in package.__all__ if callable(getattr(package, name))}
    assert public - {name_of(call) for call in CALLS} <= RESULTS | WITHOUT_ARGUMENTS


@pytest.mark.parametrize(
    "call, name, value, hint",
    [
        (models.load_model, "threat_model", "linf", "Linf"),
        (models.load_model, "dataset", "CIFAR10", "cifar10"),
        (models.load_model, "source", "RobustBench", "robustbench"),
        (data.load_dataset, "dataset", "CIFAR-10", "cifar10"),
        (models.create_network, "architecture", "RN20", "rn20"),
        (PGD, "norm", "linf", "Linf"),
        (AutoAttack, "version", "Standard", "standard"),
        (corruptions.corrupt, "name", "Fog", "fog"),
    ],
)
def test_a_name_that_is_nearly_right_is_suggested(call, name, value, hint):
    given = {"name" if call is data.load_dataset else name: value}
    with pytest.raises(ValueError, match=rf"{name}: .*'{value}'.* Nearest: {hint}"):
        call(**{**CALLS[call], **given})


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({"protocols": "natural"}, r"protocols: expected Sequence\[str\], got 'natural'; use \['natural'\]"),
        ({"attacks": "clean"}, r"attacks: .*got 'clean'; use \['clean'\]"),
        ({"model": "pgd_at_rn20"}, r"model: .*got 'pgd_at_rn20'; use freqrob.models.open_model\('pgd_at_rn20'\)"),
        ({"protocol": ["natural"]}, "evaluate: got an unexpected keyword argument 'protocol'. Nearest: protocols"),
    ],
)
def test_what_was_probably_meant_is_said(given, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        freqrob.evaluate(**{**CALLS[freqrob.evaluate], **given})


# Numbers of NumPy and PyTorch

SCALARS = {
    "float32": np.float32(8 / 255), "float16": np.float16(8 / 255), "float64": np.float64(8 / 255),
    "array": np.array(8 / 255), "tensor": torch.tensor(8 / 255), "half": torch.tensor(8 / 255, dtype=torch.float16),
    "parameter": nn.Parameter(torch.tensor(0.25)), "fraction": Fraction(8, 255), "int": 1, "int64": np.int64(1),
    "integers": torch.tensor(1),
}  # fmt: skip
KEPT = {  # what cards and cache keys hold
    "PGD": lambda number: PGD(eps=number, step_size=number).as_dict(),
    "FGSM": lambda number: attacks.FGSM(number).as_dict(),
    "Square": lambda number: asdict(Square(eps=number)),
    "AutoAttack": lambda number: asdict(AutoAttack(eps=number)),
    "parse_attack": lambda number: attacks.parse_attack("pgd-3", eps=number, step_size=number).as_dict(),
    "TRADES": lambda number: asdict(defenses.TRADES(number, number, beta=number)),
    "MART": lambda number: asdict(defenses.MART(number, number, beta=number)),
    "GradAlign": lambda number: asdict(defenses.GradAlign(number, weight=number)),
    "FGSMJaFR": lambda number: asdict(defenses.FGSMJaFR(number, weight=number)),
    "AugMix": lambda number: asdict(defenses.AugMix(alpha=number)),
    "Recipe": lambda number: training.recipe_for(
        "pgd_at_rn20", lr=number, gamma=number, defense={"eps": number}
    ).as_dict(),
    "front ends": lambda number: repr([front_ends.Blur(number), front_ends.Normalize([number], [number])]),
    "BaSS": lambda number: repr([balance.BaSS(pixel_scale=number), transforms.RandomBaSS(number)]),
}  # fmt: skip


@pytest.mark.parametrize("number", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_what_is_kept_has_pythons_floats(kept, number):
    assert json.dumps(kept(number)) == json.dumps(kept(float(number)))


@pytest.mark.parametrize(
    "measure, settings",
    [
        (diagnostics.band_accuracy, {"eps": np.float32(8 / 255), "steps": torch.tensor(1), "width": np.int64(3)}),
        (diagnostics.fourier_heatmap, {"norm": torch.tensor(2.0), "every": torch.tensor(4), "seed": np.uint8(3)}),
        (
            diagnostics.hybrid_reliance,
            {"frequencies": np.float32([0, 0.1, 0.3]), "seeds": torch.arange(2)},
        ),
        (diagnostics.loss_landscape, {"span": np.float16(0.5), "points": np.int32(5)}),
        (diagnostics.sensitivity, {"ranks": np.array([0, 3]), "boundary_ring": torch.tensor(2)}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_measurements_and_their_cache_are_those_of_pythons_numbers(measure, settings, tmp_path):
    written, plain = [], {name: value.tolist() for name, value in settings.items()}
    for given in (settings, plain):
        path = measure(NETWORK, IMAGES, LABELS, **given, cache=tmp_path / "cache").save(tmp_path)
        written.append((path.read_text(), sorted((tmp_path / "cache").glob("*.safetensors"))))
    assert written[0] == written[1] and written[0][1]


def test_functions_take_them():
    eps, steps = np.float32(0.1), np.int64(2)
    as_python = {"eps": float(eps), "step_size": float(eps), "steps": 2, "random_start": False}
    as_tensors = {"eps": torch.tensor(eps), "step_size": eps, "steps": torch.tensor(2), "random_start": np.bool_(False)}
    assert torch.equal(attacks.pgd(**GIVEN, **as_tensors), attacks.pgd(**GIVEN, **as_python))
    assert torch.equal(band_pgd(**GIVEN, rings=torch.arange(3), eps=eps, steps=steps),
                       band_pgd(**GIVEN, rings=range(3), eps=float(eps), steps=2))  # fmt: skip
    assert Band(np.array([2, 0])).rings == (0, 2) and repr(Band(torch.tensor([1]))) == "Band([1])"
    assert torch.equal(balance.bass(IMAGES, pixel_scale=torch.tensor(255.0)), balance.bass(IMAGES))
    assert RingMap(np.int64(8), torch.tensor(8)) == RingMap(8, 8)
    severe = corruptions.corrupt(LARGE, "contrast", np.int64(3), seed=torch.tensor(1))
    assert torch.equal(severe, corruptions.corrupt(LARGE, "contrast", 3, seed=1))
    assert AutoAttack("custom", ["fab"]) == AutoAttack("custom", ("fab",))


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        (torch.tensor(True), bool, True),
        (np.str_("rn20"), str, "rn20"),
        (np.float32(0.5), float | None, 0.5),
        (None, float | None, None),
        (np.array([1, 2]), Sequence[int] | None, [1, 2]),
        ([np.int64(1)], tuple[int, ...], (1,)),
        ((1, np.float32(2)), Sequence[float], (1.0, 2.0)),
        (range(2), Sequence[int], range(2)),
        pytest.param(10**400, float, 10**400, id="large"),
        (True, int, True),
        ("3", int, "3"),
        (1.5, int, 1.5),
    ],
)
def test_to_python(value, hint, expected):
    found = to_python(value, hint)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("number", [10**400, Fraction(10**400)], ids=["integer", "fraction"])
def test_a_radius_that_no_float_holds_is_refused_at_once(number):
    for given in ({"eps": number}, {"step_size": number}):
        with pytest.raises(ValueError, match=f"{next(iter(given))}: expected a length"):
            PGD(norm="L2", **given)


def test_settings_of_diagnostics_are_pythons_numbers_too():
    """As the diagnostics' own arguments are."""
    settings = {"fourier_heatmap": {"norm": torch.tensor(2.0), "every": np.array(4), "images": torch.tensor(4)}}
    plain = {"fourier_heatmap": {"norm": 2.0, "every": 4, "images": 4}}
    found, expected = (
        diagnostics.diagnose(**MEASURED, only=["fourier_heatmap"], settings=given)["fourier_heatmap"]
        for given in (settings, plain)
    )
    assert found.scalars() == expected.scalars() and torch.equal(found.change, expected.change)


def test_tensors_without_a_value_are_not_numbers():
    with pytest.raises(ValueError, match="eps: expected pixels in .*, got Tensor"):
        PGD(eps=torch.empty((), device="meta"))


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        ("a", typing.Literal["a", "b"], True),
        ("c", typing.Literal["a", "b"], False),
        ([], typing.Literal["a", "b"], False),
        ("ab", Sequence[str], False),
        (b"ab", Sequence[int], False),
        (["a"], Sequence[str], True),
        ("a", Iterable[str], False),
        (Path(), str | Path, True),
        ("a", Path, True),
        (len, Callable[[torch.Tensor], torch.Tensor], True),
        (3, Callable[[torch.Tensor], torch.Tensor], False),
        ({}, Mapping[str, int], True),
        ({"a": {"b": 3}}, Mapping[str, Mapping[str, typing.Any]], True),
        ({"a": 3}, Mapping[str, Mapping[str, typing.Any]], False),
        ({3: "a"}, dict[str, typing.Any], False),
        (len, nn.Module, True),
        (nn.ReLU, nn.Module, False),
        (3, nn.Module, False),
        (True, int, False),
        (1, bool, False),
        (None, typing.Any, True),
    ],
)
def test_fits(value, hint, expected):
    assert fits(value, hint) == expected


@checked
def limited(
    steps: Count = 1, eps: Pixels | None = None, weight: Weight = 0.0, kind: typing.Literal["new", "old"] | None = None
) -> tuple[Any, ...]:
    return steps, eps, weight, kind


@pytest.mark.parametrize(
    "given, message",
    [
        ({"steps": 0}, "steps: expected an integer ≥ 1, got 0"),
        ({"steps": True}, "steps: expected an integer ≥ 1, got True"),
        ({"steps": 2.5}, "steps: expected an integer ≥ 1, got 2.5"),
        ({"steps": None}, "steps: expected an integer ≥ 1, got None"),
        ({"steps": 2**63}, r"steps: expected an integer below 2\^63, got 9223372036854775808"),
        ({"steps": 10**400}, r"steps: expected an integer below 2\^63, got 1000"),
        ({"eps": 8}, r"eps: expected pixels in \(0, 1\], such as 8/255, got 8"),
        ({"eps": math.nan}, "eps: expected pixels .*, got nan"),
        ({"eps": "8/255"}, "eps: expected pixels .*, got '8/255'"),
        ({"weight": -math.inf}, "weight: expected a finite number, got -inf"),
        ({"kind": "odl"}, "kind: expected one of new, old, got 'odl'. Nearest: old"),
    ],
)
def test_limits_of_types(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        limited(**given)


def test_values_within_the_limits_of_types_are_pythons():
    values = limited(np.int64(2**62), np.float32(0.5), Fraction(-1, 2), "new")
    assert values == (2**62, 0.5, -0.5, "new") and [type(value) for value in values[:3]] == [int, float, float]
    assert limited(eps=None, weight=1) == (1, None, 1.0, None)
    decimal = limited(eps=Decimal("0.5"))[1]
    assert decimal == 0.5 and type(decimal) is float


def test_long_values_are_shortened_in_messages():
    assert shown("x" * 10_000) == f"'{'x' * 76}..." and shown(10**5000) == "int"
    assert shown(torch.ones(3)) == "Tensor" and shown(nn.ReLU).startswith("<class") and shown([1]) == "[1]"


def test_warnings_point_at_the_caller():
    class Broken(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :3] * math.nan

    with pytest.warns(UserWarning, match="logits or gradients are NaN at 6 of 6 images") as told:
        attacks.pgd(Broken(), IMAGES, LABELS, steps=1)
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=3", 3),
        ("a=8/255", 8 / 255),
        ("a=kl", "kl"),
        ("a=true", True),
        ("a=False", False),
        ("a=None", None),
        ("a=1/0", "1/0"),
    ],
)
def test_settings_are_read_as_people_write_them(text, value):
    assert read_setting(text) == ("a", value)
