"""The registered diagnostics."""

from freqrob.diagnostics.registry import get_diagnostic, list_diagnostics


def test_the_presets_measure_the_same():
    assert all(get_diagnostic(name).presets.keys() == {"quick", "full"} for name in list_diagnostics())
