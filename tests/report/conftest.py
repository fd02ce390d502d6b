"""A report of everything that can be measured, for many tests; none may change it."""

import pytest
import torch

from freqrob.data import samples
from freqrob.data.datasets import ImageSet
from freqrob.report import write_report
from tests.support.measurements import random
from tests.support.reports import save_runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return save_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def out(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    gallery = ImageSet(
        (255 * random(3, 3, 32, 32)).to(torch.uint8), torch.tensor([3, 8, 8]), samples.CIFAR10_CLASSES
    )  # fmt: skip
    write_report(runs, folder, gallery=gallery, command="freqrob report runs")
    return folder


@pytest.fixture(scope="session")
def page(out):
    return (out / "index.html").read_text()
