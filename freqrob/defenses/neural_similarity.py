"""Neural similarity regularisation: match the network's similarities between images to those of a brain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from freqrob.data.datasets import to_pixels
from freqrob.models.front_ends import network_of
from freqrob.models.registry import register_defense
from freqrob.runtime.files import sha256_of
from freqrob.runtime.parameters import Weight, checked
from freqrob.runtime.reading import read_npz

LARGEST = 0.9999  # of a similarity, since arctanh 1 = ∞
Stimuli = Annotated[int, Meta(ge=3, le=2**63 - 1, description="at least 3 (two, centred, are always opposite)")]
LayerName = Annotated[str, Meta(min_length=1, description="the name of a module")]


@register_defense("neural_similarity")
@checked
@dataclass(frozen=True)
class NeuralSimilarity:
    """CE(f(x), y) + α · mean over pairs i < j of stimuli of (arctanh S_ij − arctanh T_ij)².

    T_ij is the similarity of a brain's responses to the stimuli i and j. S_ij is the network's similarity: the cosine
    of flattened features of one layer, centred by their mean over the stimuli of the step. Both are clipped to ±0.9999.

    The authors learn a weighted mean of the similarities of several layers, which converges to a single layer, mostly
    of the first group of blocks; here the layer is chosen. They alternate batches of images and stimuli; here the two
    share a forward pass, and so the batch norm statistics.

    Args:
        targets: path of an ``.npz`` with ``images`` (K, C, H, W) uint8, like the images trained on, and
            ``similarity`` (K, K) float in [−1, 1], symmetric, of mean-centred responses; K from 3 on.
        layer: the dotted name of a module of the network, such as ``"layer1"`` or ``"layer2.0.conv1"``.
        weight: α; the authors' 20.
        stimuli: number drawn at each step; at most all of them.

    A call raises FileNotFoundError for missing ``targets``, and ValueError if that file, ``layer`` or the size of the
    images is invalid.

    Source: Li et al., NeurIPS 2019 (arXiv:1911.05072), Eq. 10 for the network's similarity, arctanh, centring and α;
    the mouse-regularised model of Li et al., PLoS Comput. Biol. 2023. Their code is not published.
    """

    targets: str = ""
    layer: LayerName = "layer1"
    weight: Weight = 20.0
    stimuli: Stimuli = 32

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.targets:  # it has no default
            raise ValueError("targets: expected the path of an .npz file, got ''")

    def as_dict(self) -> dict[str, Any]:
        """The parameters, and the SHA-256 of the file of targets if it exists."""
        path = Path(self.targets)
        return {**asdict(self), "targets_sha256": sha256_of(path) if path.is_file() else ""}

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        stimuli, target = self.draw()
        if stimuli.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"targets: the stimuli of {self.targets} are {tuple(stimuli.shape[1:])}, "
                f"expected the size of the images, {tuple(images.shape[1:])}"
            )
        stimuli, target = to_pixels(stimuli.to(images.device)), target.to(images.device)
        with recorded(model, self.layer) as features:
            logits = model(torch.cat([images, stimuli]))
        if not features:
            raise ValueError(f"layer: the network does not call {self.layer!r}, expected one that it does")
        similarity_term = similarity_loss(features[-1][len(images) :], target)
        return F.cross_entropy(logits[: len(images)].float(), labels) + self.weight * similarity_term

    def draw(self) -> tuple[Tensor, Tensor]:
        """The stimuli (k, C, H, W) uint8 of one step, and their similarity (k, k) to the brain."""
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
    with torch.autocast(features.device.type, enabled=False):  # which would multiply in bfloat16
        flat = features.float().flatten(1)
        unit = F.normalize(flat - flat.mean(0), eps=1e-6)
        return unit @ unit.T


def fisher(similarity: Tensor) -> Tensor:
    """arctanh, of similarities clipped to ±0.9999."""
    return similarity.clamp(-LARGEST, LARGEST).atanh()


@contextmanager
def recorded(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Record the outputs of a layer of the network, also in a wrapped model."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    handle = find_layer(model, layer).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The network's module of that name, inside Fabric's and DDP's wrappers and behind front ends."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    modules = dict(network_of(model).named_modules())
    if not layer or layer not in modules:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"layer: the network has no module {layer!r}, expected one of {names}")
    return modules[layer]


def load_targets(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read stimuli (K, C, H, W) uint8 and similarity (K, K) float32 from an ``.npz`` for ``NeuralSimilarity``.

    The file is read again only when it has changed. Raises FileNotFoundError, and ValueError for other contents.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"targets: no file {path}; set yours with --set targets=FILE.npz")
    path = Path(path).resolve()
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> tuple[Tensor, Tensor]:
    try:
        arrays = read_npz(path, ("images", "similarity"))
    except ValueError as error:
        raise ValueError(f"targets: {error}") from error
    if len(arrays) < 2:
        raise ValueError(f"targets: {path} has {', '.join(arrays) or 'neither'}, expected images and similarity")
    _check(path, **arrays)
    return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["similarity"].astype(np.float32))


def _check(path: Path, images: np.ndarray, similarity: np.ndarray) -> None:
    count = len(images) if images.ndim else 0
    for name, array, good, expected in (
        ("images", images, images.dtype == np.uint8, "uint8"),
        ("images", images, images.ndim == 4 and images.shape[1] in (1, 3) and count >= 3, "(K, C, H, W), K from 3 on"),
        ("similarity", similarity, np.issubdtype(similarity.dtype, np.floating), "floats"),
        ("similarity", similarity, similarity.shape == (count, count), f"({count}, {count})"),
    ):
        if not good:
            raise ValueError(f"targets: {name} of {path} is {array.dtype} {array.shape}, expected {expected}")
    if not np.isfinite(similarity).all():
        raise ValueError(f"targets: similarity of {path} has a NaN or an infinity, expected finite numbers")
    if np.abs(similarity).max() > 1 + 1e-5:
        raise ValueError(f"targets: similarity of {path} goes to ±{np.abs(similarity).max():.4g}, expected [-1, 1]")
    if np.abs(similarity - similarity.T).max() > 1e-5:
        raise ValueError(f"targets: similarity of {path} is not symmetric")
