"""freqrob in Foolbox: attacks, minimal perturbations and the spectra of perturbations.

Attacks have Foolbox's interface: ``attack(model, inputs, criterion, epsilons=…)`` → raw, clipped, success. The
names below are imported when first used, so that ``analyze_spectrum`` needs no Foolbox.
"""

from typing import TYPE_CHECKING

from freqrob.runtime.lazy import lazy_names

_NAMES = {
    "freqrob.attacks.minimal_perturbation": ("MinimalPerturbations", "Start"),
    "freqrob.spectral.perturbation": ("PerturbationSpectrum", "analyze_spectrum"),
    "freqrob_foolbox.adapters": ("FoolboxAttack", "FreqrobAttack", "L2AutoAttack", "LinfAutoAttack"),
    "freqrob_foolbox.band_limited": ("L2BandMinimization", "L2BandPGD", "LinfBandMinimization", "LinfBandPGD"),
    "freqrob_foolbox.brendel_bethge": ("L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack"),
    "freqrob_foolbox.minimal_perturbation": ("MinimalPerturbationSearch",),
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
    "MinimalPerturbationSearch",
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
    from freqrob_foolbox.minimal_perturbation import MinimalPerturbationSearch

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
