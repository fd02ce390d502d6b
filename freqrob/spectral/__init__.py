"""The mathematics of spectra: rings, ops on planes, BaSS, the long tail, Jacobian spectra.

The names below are imported when first used, so that a module of this package does not import all others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "BaSS": "balance",
    "RingMap": "rings",
    "analyze_spectrum": "perturbation",
    "bass": "balance",
    "log_b_low": "jacobian",
    "mean_amplitude": "ops",
    "mean_power": "longtail",
    "power_profile": "longtail",
    "radial_power": "longtail",
    "ring_dot": "ops",
    "ring_filter": "ops",
    "ring_sum": "ops",
}

__all__ = [
    "BaSS",
    "RingMap",
    "analyze_spectrum",
    "bass",
    "log_b_low",
    "mean_amplitude",
    "mean_power",
    "power_profile",
    "radial_power",
    "ring_dot",
    "ring_filter",
    "ring_sum",
]

if TYPE_CHECKING:
    from freqrob.spectral.balance import BaSS, bass
    from freqrob.spectral.jacobian import log_b_low
    from freqrob.spectral.longtail import mean_power, power_profile, radial_power
    from freqrob.spectral.ops import mean_amplitude, ring_dot, ring_filter, ring_sum
    from freqrob.spectral.perturbation import analyze_spectrum
    from freqrob.spectral.rings import RingMap


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'freqrob.spectral' has no attribute {name!r}")
    value = getattr(import_module(f"freqrob.spectral.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
