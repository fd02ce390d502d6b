"""Accuracies of a model under attacks and protocols."""

from freqrob.evaluation.accuracy import PROTOCOLS, Result, Results, evaluate
from freqrob.evaluation.masking import MaskingCheck, check_masking

__all__ = ["PROTOCOLS", "MaskingCheck", "Result", "Results", "check_masking", "evaluate"]
