"""A paper that does not exist, whose table and figure are measured on a few images."""

import torch

from freqrob.reproduction import (
    Claim,
    Column,
    Experiment,
    Measured,
    Number,
    Paper,
    Subject,
)
from freqrob.reproduction.criteria import higher

DOE = Paper("doe2026", "Doe 2026", "J. Doe, On nothing, 2026")
ADVERSARIAL, STANDARD, WIDE = "PGD-AT, ResNet-18", "standard, ResNet-18", "PGD-AT, WRN-34"


class Table1(Experiment):
    """Clean and FGSM accuracy on the sample images."""

    paper, where, title = DOE, "Table 1", "Accuracy"
    subjects = (Subject(ADVERSARIAL, "pgd_at_rn18"), Subject(STANDARD, "standard_rn18"), Subject(WIDE, "pgd_at_wrn34"))
    columns = (Column("clean", "%", "the test images"), Column("FGSM", "%", "ε = 8/255"))
    printed = {ADVERSARIAL: {"clean": Number(83.5), "FGSM": Number(60, 0.5)}}
    claims = (
        Claim("PGD-AT is more robust", "Section 4", "FGSM accuracy", higher((ADVERSARIAL, "FGSM"), (STANDARD, "FGSM"))),
        Claim("width helps", "Section 5", "FGSM accuracy", higher((WIDE, "FGSM"), (ADVERSARIAL, "FGSM"))),
    )
    measured = 0

    def conditions(self, scale):
        return {"attacks": ["clean", "fgsm"], "images": scale.count("accuracy")}

    def measure(self, subject, model, lab):
        type(self).measured += 1
        numbers = lab.accuracies(model, subject, ["clean", "fgsm"])
        return Measured(numbers, {"curve": torch.arange(3.0)})

    def plot(self, outcome, figure):
        axes = figure.add_subplot()
        for row, arrays in outcome.arrays.items():
            axes.plot(arrays["curve"], label=row)
