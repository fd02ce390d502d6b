"""Frequency-aware adversarial robustness: spectra, defences, evaluation and diagnostics for image classifiers.

The names below are imported when first used, so that `import freqrob` takes little longer than `import torch`.
"""

from typing import TYPE_CHECKING

from freqrob.runtime.lazy import lazy_names

__version__ = "0.2.0.dev0"

_NAMES = {
    "freqrob.models": ("load_model", "list_models"),
    "freqrob.spectral": ("bass", "radial_power"),
    "freqrob.evaluation": ("evaluate",),
    "freqrob.diagnostics": ("diagnose",),
}

__all__ = ["__version__", "bass", "diagnose", "evaluate", "list_models", "load_model", "radial_power"]

if TYPE_CHECKING:
    from freqrob.diagnostics import diagnose
    from freqrob.evaluation import evaluate
    from freqrob.models import list_models, load_model
    from freqrob.spectral import bass, radial_power

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
