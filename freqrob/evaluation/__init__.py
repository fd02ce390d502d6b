"""Accuracies of a model under attacks and protocols."""

from freqrob.evaluation.accuracy import PROTOCOLS, Result, evaluate
from freqrob.evaluation.attacks import FGSM, PGD, Attack, Clean, Transfer
from freqrob.evaluation.autoattack import AutoAttack, Square
from freqrob.evaluation.grammar import parse_attack
from freqrob.evaluation.masking import MaskingCheck, check_masking

__all__ = [
    "FGSM",
    "PGD",
    "PROTOCOLS",
    "Attack",
    "AutoAttack",
    "Clean",
    "MaskingCheck",
    "Result",
    "Square",
    "Transfer",
    "check_masking",
    "evaluate",
    "parse_attack",
]
