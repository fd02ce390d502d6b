"""Fixtures of the tests of diagnostics."""

import pytest

from freqrob.data.samples import sample_images
from freqrob.models import load_model


@pytest.fixture(scope="session")
def real():
    """A shipped model and Foolbox's images, which it gets right in part."""
    dataset = sample_images()
    return load_model("fgsm_rn20"), dataset.images[:12], dataset.labels[:12]
