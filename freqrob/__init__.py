"""Frequency-aware adversarial robustness: spectra, defences, evaluation and diagnostics for image classifiers.

The names below are imported when first used, so that `import freqrob` costs little more than `import torch`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "load_model": "freqrob.models",
    "list_models": "freqrob.models",
    "bass": "freqrob.spectral.balance",
    "radial_power": "freqrob.spectral.longtail",
    "evaluate": "freqrob.evaluation",
    "diagnose": "freqrob.diagnostics",
}

__all__ = ["__version__", "bass", "diagnose", "evaluate", "list_models", "load_model", "radial_power"]

if TYPE_CHECKING:
    from freqrob.diagnostics import diagnose
    from freqrob.evaluation import evaluate
    from freqrob.models import list_models, load_model
    from freqrob.spectral.balance import bass
    from freqrob.spectral.longtail import radial_power


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'freqrob' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
