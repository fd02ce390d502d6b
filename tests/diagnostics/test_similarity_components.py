"""Components of a synthetic similarity matrix with known receptive fields."""

import pytest
import torch
from matplotlib.figure import Figure

from freqrob.diagnostics.similarity_components import plot_eigenvalues, plot_receptive_field, similarity_components

COUNT, SIZE = 300, 8
GAINS = (4.0, 2.0, 1.0)


def waves():
    """Three orthogonal waves of 1, 2 and 3 cycles, of unit length."""
    across = [torch.cos(2 * torch.pi * cycles * torch.arange(SIZE) / SIZE).expand(SIZE, SIZE) for cycles in (1, 2, 3)]
    return torch.stack([wave / wave.norm() for wave in across])


@pytest.fixture(scope="module")
def images():
    return torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def similarity(images):
    """Of neurons that see one wave each, with different gains, and centred responses."""
    responses = (images.flatten(1) @ waves().flatten(1).T) * torch.tensor(GAINS)
    responses = responses - responses.mean(0)
    return responses @ responses.T


def test_the_receptive_fields_of_known_components_are_recovered(images, similarity):
    found = similarity_components(images, similarity, 3, ridge=1e-3)
    assert found.explained(3) == pytest.approx(1) and found.explained(1) == pytest.approx(16 / 21, abs=0.05)
    for field, wave, fit in zip(found.fields, waves(), found.fit, strict=True):
        cosine = torch.nn.functional.cosine_similarity(field.flatten(), wave.double().flatten(), dim=0)
        assert cosine.abs() > 0.98 and fit > 0.95
    assert found.mean_frequencies.tolist() == pytest.approx([1 / 8, 2 / 8, 3 / 8], abs=0.03)
    assert torch.allclose(found.scores.T @ found.scores, similarity.double(), atol=1e-3)


def test_the_fit_is_that_of_images_left_out(images, similarity):
    """Transcribed: the regression is solved again without each image."""
    few, of_few = images[:12], similarity[:12, :12]
    found = similarity_components(few, of_few, 2, ridge=0.5)
    pixels, scores = few.flatten(1).double(), found.scores.T
    centred = pixels - pixels.mean(0)
    hat = centred @ centred.T
    hat = hat @ torch.linalg.inv(hat + 0.5 * hat.trace() / 12 * torch.eye(12).double())
    predicted = hat @ (scores - scores.mean(0)) + scores.mean(0)
    assert torch.allclose(predicted - scores.mean(0), centred @ found.fields.flatten(1).T)
    assert (found.fit < 1 - (scores - predicted).square().sum(0) / (scores - scores.mean(0)).square().sum(0)).all()


def test_noise_has_no_receptive_field(images):
    noise = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(1))
    found = similarity_components(images, noise @ noise.T, 2)
    assert (found.fit < 0.1).all()


def test_pictures(images, similarity):
    found = similarity_components(images, similarity, 3)
    one, other = Figure().subplots(1, 2)
    plot_eigenvalues(one, {"mouse": found})
    assert one.get_lines()[0].get_ydata()[0] == pytest.approx(found.explained(1))
    drawn = plot_receptive_field(other, found, 1)
    assert torch.equal(torch.as_tensor(drawn.get_array().data), found.fields[1, 0])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s[:5], r"similarity: expected \(300, 300\)"),
        (lambda s: s * torch.nan, "similarity: .* finite"),
        (lambda s: s.triu(), "similarity: expected a symmetric matrix"),
    ],
)
def test_a_matrix_that_is_none_of_similarities_is_refused(images, similarity, change, message):
    with pytest.raises(ValueError, match=message):
        similarity_components(images, change(similarity))
    with pytest.raises(ValueError, match="count: expected at most 300"):
        similarity_components(images, similarity, 301)
