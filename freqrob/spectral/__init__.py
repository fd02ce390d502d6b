"""The mathematics of spectra: rings, ops on planes, BaSS, the long tail, Jacobian spectra.

The names below are imported when first used, so that a module of this package does not import all others.
"""

from typing import TYPE_CHECKING

from freqrob.runtime.lazy import lazy_names

_HOMES = {
    "BaSS": "freqrob.spectral.balance",
    "RingMap": "freqrob.spectral.rings",
    "analyze_spectrum": "freqrob.spectral.perturbation",
    "bass": "freqrob.spectral.balance",
    "log_b_low": "freqrob.spectral.jacobian",
    "mean_amplitude": "freqrob.spectral.ops",
    "mean_power": "freqrob.spectral.longtail",
    "power_profile": "freqrob.spectral.longtail",
    "radial_power": "freqrob.spectral.longtail",
    "ring_dot": "freqrob.spectral.ops",
    "ring_filter": "freqrob.spectral.ops",
    "ring_sum": "freqrob.spectral.ops",
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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
