"""The registered diagnostics."""

import pytest

from freqrob.diagnostics.hybrid import HybridReliance
from freqrob.diagnostics.registry import Diagnostic, get_diagnostic, list_diagnostics, register_diagnostic


def without_progress(model, images, labels, *, batch_size: int = 1, cache=None, cache_key=None): ...


def without_a_type(
    model, images, labels, *, factors=(1,), batch_size: int, cache: str, cache_key: str, progress: str
): ...


@pytest.mark.parametrize(
    "function, complaint",
    [
        (without_progress, "mine: measure has no parameter 'progress'; pass it on to per_sample"),
        (without_a_type, "mine: measure: the setting 'factors' has no type; annotate it"),
    ],
)
def test_a_diagnostic_whose_settings_could_not_be_read_is_not_registered(function, complaint):
    mine = type("Mine", (Diagnostic,), {"measure": staticmethod(function), "measurement": HybridReliance})
    with pytest.raises(TypeError, match=complaint):
        register_diagnostic("mine")(mine)
    assert "mine" not in list_diagnostics()


def test_the_presets_measure_the_same():
    assert all(get_diagnostic(name).presets.keys() == {"quick", "full"} for name in list_diagnostics())
