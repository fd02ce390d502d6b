"""Accuracies of a model under attacks and protocols."""

from freqrob.evaluation.accuracy import PROTOCOLS, Attack, Result, evaluate

__all__ = ["PROTOCOLS", "Attack", "Result", "evaluate"]
