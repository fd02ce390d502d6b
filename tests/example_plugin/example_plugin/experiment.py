"""A figure of a paper for freqrob in one file: the accuracy of two models on darkened images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from freqrob.attacks.gradient import classified
from freqrob.data.datasets import to_pixels
from freqrob.reproduction import Claim, Column, Experiment, Lab, Measured, Number, Paper, Scale, Subject, experiment
from freqrob.reproduction.criteria import higher

ROE = Paper("roe2026", "Roe 2026", "R. Roe, Models in the dark, 2026")


@experiment("roe2026:fig1")
class InTheDark(Experiment):
    paper, where, title = ROE, "Fig. 1", "Accuracy on images of half the brightness"
    subjects = (Subject("standard", "standard_rn18"), Subject("PGD-AT", "pgd_at_rn18"))
    columns = (Column("accuracy", "%", "of images whose pixels are halved"),)
    printed = {"standard": {"accuracy": Number(70.1)}, "PGD-AT": {"accuracy": Number(50.2)}}
    claims = (
        Claim(
            "Standard models see better in the dark", "Section 3", "accuracy on darkened images",
            higher(("standard", "accuracy"), ("PGD-AT", "accuracy")),
        ),
    )  # fmt: skip

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        return {"brightness": 0.5}

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        assert model is not None
        images = lab.test_set(subject.dataset)
        correct = classified(model(to_pixels(images.images).to(lab.device) / 2), images.labels.to(lab.device))
        return Measured({"accuracy": Number.percentage(correct.double().mean().item(), len(images))})
