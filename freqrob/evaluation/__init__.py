"""Accuracies of a model under attacks and protocols."""

from freqrob.evaluation.accuracy import PROTOCOLS, Result, evaluate
from freqrob.evaluation.masking import MaskingCheck, check_masking

__all__ = ["PROTOCOLS", "MaskingCheck", "Result", "check_masking", "evaluate"]
