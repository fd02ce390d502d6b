"""Measurements as files: what is saved is loaded, and a damaged one is named."""

import json

import numpy as np
import pytest

from freqrob.diagnostics.band_accuracy import BandAccuracy, band_accuracy
from freqrob.diagnostics.fourier_heatmap import fourier_heatmap
from freqrob.diagnostics.hybrid import hybrid_reliance
from freqrob.diagnostics.jacobian import jacobian_spectrum
from freqrob.diagnostics.loss_landscape import loss_landscape
from freqrob.diagnostics.minimal_perturbation import minimal_perturbation
from freqrob.diagnostics.sensitivity import sensitivity
from tests.support.every_diagnostic import EACH, equal
from tests.support.waves import Linear, of_waves, wave


@pytest.mark.parametrize("name", EACH)
def test_saved_and_loaded(name, tmp_path):
    found = EACH[name](Linear(wave(3)), of_waves(3))
    assert "ClassVar" not in type(found).__annotations__.values()  # Python 3.10 could not load it
    path = found.save(tmp_path, about={"model": "linear"})
    assert json.loads(path.read_text())["model"] == "linear"
    loaded = type(found).load(tmp_path)
    assert loaded.scalars() == found.scalars() and equal(loaded, found)


@pytest.mark.parametrize("name", EACH)
def test_a_measurement_is_shown_without_its_numbers(name):
    found = EACH[name](Linear(wave(3)), of_waves(3))
    assert repr(found).startswith(f"{type(found).__name__}(") and f"images={found.images}" in repr(found)
    assert "tensor" not in repr(found) and len(repr(found)) < 1200


@pytest.mark.parametrize("damage", [lambda text: text[:30], lambda text: "{}", lambda text: text.replace("width", "w")])
def test_a_damaged_measurement_is_named(tmp_path, damage):
    path = band_accuracy(Linear(wave(3)), *of_waves(3)).save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match="band_accuracy.json: not a measurement of band_accuracy"):
        BandAccuracy.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        BandAccuracy.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "measure, counts",
    [
        (jacobian_spectrum, {"batch": 16}),
        (hybrid_reliance, {"seeds": (0,), "frequencies": (0, 0.2)}),
        (fourier_heatmap, {"every": 8, "seed": 1}),
        (sensitivity, {"boundary_ring": 4, "ranks": (0, 3)}),
        (band_accuracy, {"width": 3, "steps": 2, "attacked": 4}),
        (loss_landscape, {"points": 5, "seed": 1}),
        (minimal_perturbation, {"steps": 2, "repeats": 2, "seed": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_numpys_integers_are_integers_to_the_end(measure, counts, tmp_path):
    def of_numpy(value):
        return tuple(map(of_numpy, value)) if isinstance(value, tuple) else np.array(value)[()]

    counts, written = {**counts, "batch_size": 5}, []
    for given in (counts, {name: of_numpy(value) for name, value in counts.items()}):
        path = measure(Linear(wave(3)), *of_waves(3), **given, cache=tmp_path / "cache", cache_key="1").save(tmp_path)
        written.append((path.read_text(), len(list((tmp_path / "cache").glob("*.safetensors")))))
    assert written[0] == written[1], "what is written, and under how many keys"
