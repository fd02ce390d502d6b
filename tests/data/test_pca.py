"""Principal components of a data set."""

import numpy as np
import pytest
import torch

from freqrob.data import ImageSet, pca_components


class TestPCA:
    def few(self) -> ImageSet:
        """Images whose components are known apart: values spread more along the first axes."""
        generator = torch.Generator().manual_seed(1)
        spread = torch.linspace(60, 1, 3 * 4 * 4).view(3, 4, 4)
        values = 128 + spread * torch.randn(300, 3, 4, 4, generator=generator)
        return ImageSet(values.clamp(0, 255).to(torch.uint8), torch.zeros(300, dtype=torch.int64), ())

    def test_is_numpys_svd(self, monkeypatch):
        monkeypatch.setattr("freqrob.data.pca._CHUNK", 64)
        dataset = self.few()
        mean, components = pca_components(dataset, 10)
        flat = dataset.images.double().flatten(1).numpy() / 255
        expected = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:10]
        signs = np.sign((components.numpy() * expected).sum(1, keepdims=True))
        assert mean.shape == (3, 4, 4) and mean.dtype == components.dtype == torch.float32
        np.testing.assert_allclose(mean.flatten(), flat.mean(0), rtol=1e-6)
        np.testing.assert_allclose(components.numpy() * signs, expected, atol=1e-6)

    def test_all_components_keep_the_image(self):
        mean, components = pca_components(self.few(), 48)
        x = torch.rand(2, 48)
        torch.testing.assert_close((x - mean.flatten()) @ components.T @ components + mean.flatten(), x)

    @pytest.mark.parametrize("number, wanted", [(300, 0), (300, 49), (20, 20), (1, 1)])
    def test_a_count_out_of_range(self, number, wanted):
        with pytest.raises(ValueError, match=f"count.*{wanted}$"):
            pca_components(self.few()[:number], wanted)
