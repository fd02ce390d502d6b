"""The tables and figures of papers as runnable experiments, with the papers' numbers and claims."""

from freqrob.reproduction.experiment import (
    SCALES,
    Claim,
    Column,
    Experiment,
    Measured,
    Number,
    Paper,
    Scale,
    Subject,
    experiment,
    get_experiment,
    list_experiments,
)
from freqrob.reproduction.lab import Lab
from freqrob.reproduction.run import Reproduction, reproduce

__all__ = [
    "SCALES",
    "Claim",
    "Column",
    "Experiment",
    "Lab",
    "Measured",
    "Number",
    "Paper",
    "Reproduction",
    "Scale",
    "Subject",
    "experiment",
    "get_experiment",
    "list_experiments",
    "reproduce",
]
