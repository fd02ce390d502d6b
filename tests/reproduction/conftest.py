"""A lab for the experiments of a paper that does not exist."""

import pytest

from freqrob.data.samples import sample_images
from freqrob.reproduction import SCALES, Lab


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A lab with the shipped models, whose test set of CIFAR-10 is the sample images."""
    monkeypatch.setattr("freqrob.reproduction.lab.load_dataset", lambda *_arguments, **_options: sample_images())
    return Lab(SCALES["rn20"], tmp_path / "data", tmp_path / "models", tmp_path / "cache")
