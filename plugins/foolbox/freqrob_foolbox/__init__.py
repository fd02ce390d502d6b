"""freqrob in Foolbox: attacks, minimal perturbations and the spectra of perturbations.

Every attack is used as Foolbox's own are: ``attack(model, inputs, criterion, epsilons=…)`` → raw, clipped, success. The
names below are imported when first used, so that ``analyze_spectrum`` needs no Foolbox.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "FoolboxAttack": "adapters",
    "FreqrobAttack": "adapters",
    "LinfAutoAttack": "adapters",
    "L2AutoAttack": "adapters",
    "LinfBandPGD": "band_limited",
    "L2BandPGD": "band_limited",
    "LinfBandMinimization": "band_limited",
    "L2BandMinimization": "band_limited",
    "LinfinityBrendelBethgeAttack": "brendel_bethge",
    "L2BrendelBethgeAttack": "brendel_bethge",
    "MinimalPerturbation": "minimal_perturbation",
    "MinimalPerturbations": "freqrob.attacks.minimal_perturbation",
    "Start": "freqrob.attacks.minimal_perturbation",
    "PerturbationSpectrum": "freqrob.spectral.perturbation",
    "analyze_spectrum": "freqrob.spectral.perturbation",
}

__all__ = [
    "FoolboxAttack",
    "FreqrobAttack",
    "L2AutoAttack",
    "L2BandMinimization",
    "L2BandPGD",
    "L2BrendelBethgeAttack",
    "LinfAutoAttack",
    "LinfBandMinimization",
    "LinfBandPGD",
    "LinfinityBrendelBethgeAttack",
    "MinimalPerturbation",
    "MinimalPerturbations",
    "PerturbationSpectrum",
    "Start",
    "analyze_spectrum",
]

if TYPE_CHECKING:
    from freqrob.attacks.minimal_perturbation import MinimalPerturbations, Start
    from freqrob.spectral.perturbation import PerturbationSpectrum, analyze_spectrum
    from freqrob_foolbox.adapters import FoolboxAttack, FreqrobAttack, L2AutoAttack, LinfAutoAttack
    from freqrob_foolbox.band_limited import L2BandMinimization, L2BandPGD, LinfBandMinimization, LinfBandPGD
    from freqrob_foolbox.brendel_bethge import L2BrendelBethgeAttack, LinfinityBrendelBethgeAttack
    from freqrob_foolbox.minimal_perturbation import MinimalPerturbation


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'freqrob_foolbox' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home if "." in home else f"freqrob_foolbox.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
