"""Attacks, one family per file, and their common contract.

``Attack`` is the contract, ``parse_attack`` creates an attack from its name, ``register_attack`` adds one.
"""

# Messages and --help name the attacks in the order in which they are registered here.
# isort: off
from freqrob.attacks.clean import Clean
from freqrob.attacks.projected_gradient import FGSM, PGD, Transfer, fgsm, pgd
from freqrob.attacks.autoattack import AutoAttack, Square
from freqrob.attacks.band import Band, BandPGD, band_pgd
from freqrob.attacks.brendel_bethge import BrendelBethge
from freqrob.attacks.minimal import MinimalAttack
from freqrob.attacks.smallest_pgd import SmallestPGD
from freqrob.attacks.minimal_perturbation import MinimalPerturbationSearch, MinimalPerturbations, closest
from freqrob.attacks.base import Attack
from freqrob.attacks.gradient import input_gradient
from freqrob.attacks.registry import list_attacks, parse_attack, register_attack
# isort: on

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Band",
    "BandPGD",
    "BrendelBethge",
    "Clean",
    "MinimalAttack",
    "MinimalPerturbationSearch",
    "MinimalPerturbations",
    "SmallestPGD",
    "Square",
    "Transfer",
    "band_pgd",
    "closest",
    "fgsm",
    "input_gradient",
    "list_attacks",
    "parse_attack",
    "pgd",
    "register_attack",
]
