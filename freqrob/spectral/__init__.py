"""The mathematics of spectra: rings, ops on planes, BaSS, the long tail, Jacobian spectra.

The names below are imported when first used, so that a module of this package does not import all others.
"""

from typing import TYPE_CHECKING

from freqrob.runtime.lazy import lazy_names

_NAMES = {
    "freqrob.spectral.balance": ("BaSS", "bass"),
    "freqrob.spectral.jacobian": ("log_b_low",),
    "freqrob.spectral.longtail": ("mean_power", "power_profile", "radial_power"),
    "freqrob.spectral.ops": ("mean_amplitude", "ring_dot", "ring_filter", "ring_sum"),
    "freqrob.spectral.perturbation": ("analyze_spectrum",),
    "freqrob.spectral.rings": ("RingMap",),
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

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
