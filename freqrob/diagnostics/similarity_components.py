"""Components of a similarity matrix of responses to images, and the linear receptive fields that describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from freqrob.data.datasets import to_pixels
from freqrob.diagnostics.drawing import Styles, styled
from freqrob.runtime.parameters import Count, Positive, checked
from freqrob.runtime.tensors import check_values
from freqrob.spectral.rings import frequency_radius

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

SYMMETRIC = 1e-4  # largest difference between S and its transpose


@dataclass(frozen=True)
class SimilarityComponents:
    """The largest components of a similarity matrix of K images, with a linear receptive field each.

    Attributes:
        eigenvalues: (K,) of the similarity matrix, descending.
        scores: (n, K) scores of the images: √λ_i times the i-th eigenvector.
        fields: (n, C, H, W) the linear receptive fields: scores ≈ fields · (image − mean image).
        fit: (n,) leave-one-out R²: share of the scores' variance that the fields predict for images left out of the
            fit; at most 1, negative if the mean predicts better.
    """

    eigenvalues: Tensor
    scores: Tensor
    fields: Tensor
    fit: Tensor

    def explained(self, count: int) -> float:
        """Share of the ``count`` largest eigenvalues in the sum of the positive ones."""
        positive = self.eigenvalues.clamp(min=0)
        return (positive[:count].sum() / positive.sum()).item()

    @property
    def mean_frequencies(self) -> Tensor:
        """(n,) mean frequency of each field in cycles/pixel, weighted by its power, without DC.

        White noise of 32 × 32 pixels has 0.383.
        """
        power = torch.fft.fft2(self.fields).abs().square().sum(1)
        power[:, 0, 0] = 0
        radius = frequency_radius(*power.shape[1:]).to(power)
        return (power * radius).sum((1, 2)) / power.sum((1, 2))


@checked
def similarity_components(
    images: Tensor, similarity: Tensor, count: Count = 10, *, ridge: Positive = 1.0
) -> SimilarityComponents:
    """Decompose a similarity matrix and approximate its largest components linearly in the image.

    S = Σ_i λ_i u_i u_iᵀ; the score √λ_i u_i of an image x is approximated by w_i · (x − x̄) with
    min_w ‖√λ_i u_i − (X − x̄) w‖² + ρ ‖w‖², which is ridge regression, because there are fewer images than pixels. The
    sign of a component and of its field is arbitrary.

    Args:
        images: (K, C, H, W) uint8 or floats in [0, 1].
        similarity: (K, K) symmetric, as in the files of ``NeuralSimilarity``.
        count: number of components, at most K.
        ridge: ρ relative to the mean squared length of the centred images.

    Returns:
        The components, in float64.

    Raises:
        ValueError: a matrix that is not (K, K), symmetric and finite, or more components than images.

    Source: Li et al., PLoS Comput. Biol. 2023, "Neural regularization boosts model robustness" and Fig. D: "We
    calculated the eigenvalues and eigenvectors of the similarity matrix and computed the linear approximation of each
    principal component with respect to the image." The regression is not described; the ridge is a choice made here.

    >>> images = torch.rand(20, 1, 4, 4)
    >>> responses = images.flatten(1) @ torch.rand(16, 2)
    >>> similarity_components(images, responses @ responses.T, 2).fields.shape
    torch.Size([2, 1, 4, 4])
    """
    check_values(similarity, "similarity")
    shape, expected = tuple(similarity.shape), (len(images), len(images))
    if shape != expected or not similarity.isfinite().all():
        raise ValueError(f"similarity: expected {expected} finite numbers, got shape {shape}")
    if (similarity - similarity.T).abs().max() > SYMMETRIC:
        raise ValueError("similarity: expected a symmetric matrix")
    if count > len(images):
        raise ValueError(f"count: expected at most {len(images)}, the number of images, got {count}")
    eigenvalues, vectors = torch.linalg.eigh(similarity.double())
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    scores = (eigenvalues.clamp(min=0).sqrt() * vectors)[:, :count]  # (K, n)
    pixels = to_pixels(images).double().flatten(1)
    pixels = pixels - pixels.mean(0)
    gram = pixels @ pixels.T
    inverse = torch.linalg.inv(gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype))
    fields = pixels.T @ inverse @ (scores - scores.mean(0))  # (C·H·W, n)
    return SimilarityComponents(
        eigenvalues, scores.T, fields.T.reshape(count, *images.shape[1:]), _left_out(scores, gram @ inverse)
    )


def _left_out(scores: Tensor, hat: Tensor) -> Tensor:
    """R² (n,) of predictions for images left out of the fit, from the fit's matrix (K, K) and scores (K, n)."""
    hat = hat + (1 - hat.sum(1, keepdim=True)) / len(hat)  # with the mean of the scores
    residual = (scores - hat @ scores) / (1 - hat.diagonal()[:, None])
    return 1 - residual.square().sum(0) / (scores - scores.mean(0)).square().sum(0)


def plot_eigenvalues(axes: Axes, matrices: Mapping[str, SimilarityComponents], styles: Styles | None = None) -> Axes:
    """Draw the share of each component in the sum of positive eigenvalues. Source: Li et al. 2023, Fig. D."""
    for name, components, style in styled(matrices, styles):
        positive = components.eigenvalues.clamp(min=0)
        share = (positive / positive.sum())[: 5 * len(components.fields)].numpy()
        axes.plot(range(1, len(share) + 1), share, label=name, **style)
    axes.set(xlabel="component", ylabel="share of the eigenvalues’ sum", yscale="log")
    return axes


def plot_receptive_field(axes: Axes, components: SimilarityComponents, index: int) -> AxesImage:
    """Draw a component's linear receptive field, averaged over channels; zero is in the middle of the colour scale.

    Source: Li et al. 2023, Fig. D.
    """
    field, fit = components.fields[index].mean(0), components.fit[index].item()
    limit = field.abs().max().item()
    image = axes.imshow(field.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
    axes.set_title(f"{index + 1}: R² {fit:.2f}" if isfinite(fit) else f"{index + 1}", fontsize="small")
    axes.set(xticks=[], yticks=[])
    return image
