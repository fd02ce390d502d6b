"""Measurements made up for figures and reports, and the files that commands write of them."""

from dataclasses import replace

import torch

from freqrob.data.hybrid import MIXING_FREQUENCIES
from freqrob.diagnostics import (
    BandAccuracy,
    FourierHeatmap,
    HybridReliance,
    JacobianSpectrum,
    LossLandscape,
    MinimalPerturbationSpectrum,
    Sensitivity,
)
from freqrob.evaluation.corruptions import GROUPS, CorruptionAccuracy
from freqrob.runtime.files import write_json

FREQUENCIES = torch.linspace(0, 0.5, 6, dtype=torch.float64)
HYBRID = HybridReliance(
    FREQUENCIES, torch.rand(2, 6).double(), torch.rand(2, 6).double(), torch.tensor([0.2, torch.nan]), 10, [0, 1]
)
POWER = torch.rand(32, 32, generator=torch.Generator().manual_seed(1)).double()
POWER[0, 0] = 0
PERTURBATIONS = MinimalPerturbationSpectrum(
    torch.tensor([1, 2, 3, torch.inf]) / 255, torch.tensor([True, True, True, False]),
    torch.tensor([False, True, False, False]), POWER,
    torch.arange(23) / 32,
    torch.arange(23) / 22.0, torch.linspace(0, 0.5**0.5, 25), torch.linspace(0, 1, 25), 0.25, 0.2, 0.35, 0.26, "BB",
    "Linf", 50, 10, 1, 0, 4,
)  # fmt: skip
ABOUT = {
    "command": "freqrob diagnose <b>", "commit": "0123456789ab", "date": "2026-01-02T03:04:05+00:00",
    "machine": "A & B, 2 cores", "versions": {"python": "3.11", "torch": "2.15"}, "source": "cifar10 test",
}  # fmt: skip
PGD = {"attack": "PGD-20", "norm": "Linf", "eps": 8 / 255, "step_size": 2 / 255}
CLEAN = {"attack": "clean", "eps": 0.0}


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measurements(seed, images=300):
    """What ``freqrob diagnose`` measures, of the right shapes."""
    rings, steps = torch.arange(23) / 32, torch.linspace(-1, 1, 5, dtype=torch.float64)
    landscape = LossLandscape(steps, 1 + random(5, 5, seed=seed), random(5, 5), 0.25 + seed, 0.5, images, 0)
    return {
        "jacobian": JacobianSpectrum(random(32, 17, seed=seed).float(), 4.125 + seed, 128, images),
        "sensitivity": Sensitivity(random(544).sort(descending=True).values, [0, 9], 0.7 * random(images, 2), 0.15625,
                                   random(images, seed=seed), images),
        "hybrid": HybridReliance(torch.tensor(MIXING_FREQUENCIES, dtype=torch.float64), random(2, 18), random(2, 18),
                                 torch.tensor([0.25, 0.5]), images, [0, 1]),
        "fourier_heatmap": FourierHeatmap(random(8, 8), rings[:8], rings[:8], 0.1, 4.0, "cosine", 4, "", images, 0),
        "band_accuracy": BandAccuracy(rings, random(23), random(23), random(23), random(3), rings[::8], 0.9, 5, 8 / 255,
                                      20, images, 50),
        "loss_landscape_low": landscape,
        "loss_landscape_high": replace(landscape, loss=landscape.loss + 1, variation=0.125),
    }  # fmt: skip


def evaluation(path, rows, **about):
    return write_json(path, {**ABOUT, "command": "freqrob evaluate", **about, "results": rows}) or path


def row(model, accuracy, protocol="natural", images=10_000, seed=0, **attack):
    found = {"images": images, "seed": seed, "accuracy": accuracy}
    return {"model": model, "protocol": protocol, **(attack or PGD), **found}


def corrupted(path, protocol="natural", images=100, **models):
    types = GROUPS["15 types"]
    found = {
        name: CorruptionAccuracy("cifar10", protocol, images, None, True, dict.fromkeys(types, (share,) * 5))
        for name, share in models.items()
    }
    return write_json(path, {**ABOUT, "results": [{"model": n, **one.as_dict()} for n, one in found.items()]}) or path
