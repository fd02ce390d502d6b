"""Data sets that are balanced once."""

import numpy as np
import pytest
import torch

from freqrob.data import ImageSet, balance
from freqrob.spectral.balance import bass
from tests.support.image_sets import images


class TestBalance:
    def test_is_bass_of_every_image(self):
        dataset = images(70)
        balanced = balance(dataset, chunk=32)
        assert torch.equal(balanced.images, bass(dataset.images))
        assert torch.equal(balanced.labels, dataset.labels)

    @pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
    def test_of_a_memory_mapped_data_set_is_in_memory(self, tmp_path):
        dataset = images(20)
        np.save(tmp_path / "images.npy", dataset.images.numpy())
        mapped = ImageSet(torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r")), dataset.labels, ())
        balanced = balance(mapped, weighting="power")
        assert torch.equal(balanced.images, bass(dataset.images, weighting="power"))
        assert torch.equal(mapped.images, dataset.images)
        balanced.images.zero_()  # kills the process where it is mapped
