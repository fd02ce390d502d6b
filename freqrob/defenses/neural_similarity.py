"""Neural similarity regularisation: match the network's similarities between images to those of a brain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from freqrob.defenses.stimuli import LayerName, OnStimuli, check_arrays, load_stimuli, pass_together
from freqrob.models.registry import register_defense
from freqrob.runtime.parameters import Weight, checked

LARGEST = 0.9999  # absolute value of a similarity, because arctanh 1 = ∞
Stimuli = Annotated[int, Meta(ge=3, le=2**63 - 1, description="at least 3 (two, centred, are always opposite)")]


@register_defense("neural_similarity")
@checked
@dataclass(frozen=True)
class NeuralSimilarity(OnStimuli):
    """CE(f(x), y) + α · mean over pairs i < j of stimuli of (arctanh S_ij − arctanh T_ij)².

    T_ij is the similarity of a brain's responses to the stimuli i and j. S_ij is the network's similarity: the cosine
    of flattened features of one layer, centred by their mean over the stimuli of the step. Both are clipped to ±0.9999.

    The authors learn a weighted mean of several layers' similarities, which converges to a single layer, mostly one of
    the first group of blocks; here ``layer`` is a setting. They alternate batches of images and stimuli; here both
    share a forward pass, and so the batch norm statistics.

    Args:
        targets: path of an ``.npz`` with ``images`` (K, C, H, W) uint8, as large as the training images, and
            ``similarity`` (K, K) float in [−1, 1], symmetric, of mean-centred responses; K ≥ 3.
        layer: the dotted name of a module of the network, such as ``"layer1"`` or ``"layer2.0.conv1"``.
        weight: α; the authors' 20.
        stimuli: number drawn at each step; all of them if there are fewer.

    A call raises FileNotFoundError for missing ``targets``, and ValueError if that file, ``layer`` or the size of the
    images is invalid.

    Source: Li et al., NeurIPS 2019 (arXiv:1911.05072), Eq. 10 for the network's similarity, arctanh, centring and α;
    the mouse-regularised model of Li et al., PLoS Comput. Biol. 2023. Their code is not published.

    >>> import tempfile
    >>> import numpy as np
    >>> from freqrob.models import create_network
    >>> path = f"{tempfile.mkdtemp()}/responses.npz"
    >>> stimuli = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    >>> np.savez(path, images=stimuli, similarity=np.eye(4))
    >>> defense = NeuralSimilarity(path, layer="layer1", stimuli=4)
    >>> defense(create_network("rn20"), torch.rand(2, 3, 32, 32), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    layer: LayerName = "layer1"
    weight: Weight = 20.0
    stimuli: Stimuli = 32

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        stimuli, target = self.draw()
        logits, features = pass_together(model, self.layer, images, stimuli, self.targets)
        return F.cross_entropy(logits, labels) + self.weight * similarity_loss(features, target.to(images.device))

    def draw(self) -> tuple[Tensor, Tensor]:
        """The stimuli (k, C, H, W) uint8 of one step, and the similarity (k, k) of the brain's responses to them."""
        stimuli, similarity = load_targets(self.targets)
        if self.stimuli >= len(stimuli):
            return stimuli, similarity
        chosen = torch.randperm(len(stimuli))[: self.stimuli]
        return stimuli[chosen], similarity[chosen][:, chosen]


def similarity_loss(features: Tensor, target: Tensor) -> Tensor:
    """The mean over pairs i < j of (arctanh S_ij − arctanh T_ij)², from features (k, …) and T (k, k)."""
    i, j = torch.triu_indices(len(target), len(target), offset=1, device=target.device)
    difference = fisher(similarity(features)[i, j]) - fisher(target[i, j])
    return difference.square().mean()


def similarity(features: Tensor) -> Tensor:
    """The cosines (k, k) of mean-centred features (k, …), float32."""
    with torch.autocast(features.device.type, enabled=False):  # autocast would multiply in bfloat16
        flat = features.float().flatten(1)
        unit = F.normalize(flat - flat.mean(0), eps=1e-6)
        return unit @ unit.T


def fisher(similarity: Tensor) -> Tensor:
    """arctanh of the similarities, clipped to ±0.9999."""
    return similarity.clamp(-LARGEST, LARGEST).atanh()


def load_targets(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read stimuli (K, C, H, W) uint8 and similarity (K, K) float32 from an ``.npz`` for ``NeuralSimilarity``.

    The file is read again only when it has changed. Raises FileNotFoundError, and ValueError for other contents.
    """
    return load_stimuli(path, "similarity", _check)


def _check(path: Path, images: np.ndarray, similarity: np.ndarray) -> None:
    check_arrays(path, images, similarity, "similarity", least=3, columns=len(images) if images.ndim else 0)
    if not np.isfinite(similarity).all():
        raise ValueError(f"targets: similarity of {path} contains NaN or infinity, expected finite numbers")
    if np.abs(similarity).max() > 1 + 1e-5:
        raise ValueError(f"targets: similarity of {path} reaches ±{np.abs(similarity).max():.4g}, expected [-1, 1]")
    if np.abs(similarity - similarity.T).max() > 1e-5:
        raise ValueError(f"targets: similarity of {path} is not symmetric")
