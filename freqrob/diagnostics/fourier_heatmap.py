"""The Fourier heat map: how a model errs when a single wave is added to its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from freqrob.data.datasets import to_pixels
from freqrob.defenses.neural_similarity import find_layer
from freqrob.diagnostics.measurement import Measurement
from freqrob.diagnostics.per_sample import Track, per_sample, untracked

Convention = Literal["yin", "gatheluck"]
NORMS = {32: 4.0, 64: 8.0, 224: 15.7}  # of a channel, pixels in [0, 1]; 64 is 2 · 32's, as ‖·‖₂ grows with the side


@dataclass(frozen=True)
class FourierHeatmap(Measurement):
    """What a wave of each frequency does to a model.

    Attributes:
        change: (H, W), DC at (H//2, W//2): the error rate under that wave; or, of a layer, the mean ‖h(x+v) − h(x)‖₂.
            ``change[1:, 1:]`` is centred, as gatheluck draws it.
        unperturbed: the error rate without a wave; of a layer 0.
        norm: ‖v‖₂ of a channel before clipping.
        convention: "yin" or "gatheluck".
        layer: the module whose features are compared; "" for errors.
        images, seed: how many images, and of the signs.
    """

    kind: ClassVar[str] = "fourier_heatmap"
    units: ClassVar = {"change": "share of images, or the features' own", "norm": "pixels in [0, 1]"}

    change: Tensor
    unperturbed: float
    norm: float
    convention: str
    layer: str
    images: int
    seed: int


def fourier_heatmap(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float | None = None,
    convention: Convention = "gatheluck",
    layer: str = "",
    seed: int = 0,
    batch_size: int = 250,
    cache: Path | None = None,
    track: Track = untracked,
) -> FourierHeatmap:
    """Add norm · (±wave) to every image, one frequency after the other, clip to [0, 1], and classify.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        images, labels: (N, C, H, W), uint8 or float in [0, 1], and (N,) int64.
        norm: ‖v‖₂ of each channel; by default that of ``NORMS`` for the size.
        convention: ``"gatheluck"``: cosines, a random sign for each image, channel and frequency; f and −f are the same
            wave. ``"yin"``: cos + sin, in all channels alike and without signs; f and −f differ.
        layer: the dotted name of a module, such as ``"layer1"``: how far its features move, instead of errors.
        seed: of the signs.
        batch_size, cache, track: as for ``per_sample``.

    Raises:
        ValueError: an unknown convention or layer, a norm that is not positive, or none given for a size without one.

    Source: Yin et al., NeurIPS 2019; ``google-research/frequency_analysis/freq_heatmap.py`` (without its ``rand_flip``,
    which loses the norm) and ``gatheluck/FourierHeatmap``.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"convention: expected one of {', '.join(get_args(Convention))}, got {convention!r}")
    height, width = images.shape[-2:]
    norm = NORMS.get(max(height, width)) if norm is None else norm
    if norm is None or not 0 < norm < float("inf"):
        raise ValueError(f"norm: expected a positive number, which has a default for {list(NORMS)} pixels, got {norm}")
    places, waves = fourier_basis(height, width, convention)

    def moved(model: nn.Module, numbers: Tensor, device: torch.device) -> dict[str, Tensor]:
        natural, classes = to_pixels(images[numbers]).to(device), labels[numbers].to(device)
        signs = _signs(seed, numbers, len(waves), images.shape[1], convention).to(device)
        with _Watched(model, layer) as watched:
            own = watched(natural)
            changes = [
                watched.change(own, (natural + norm * signs[:, k, :, None, None] * wave).clamp(0, 1), classes)
                for k, wave in enumerate(waves.to(device))
            ]
            return {"change": torch.stack(changes, 1), "own": watched.change(own, natural, classes)}

    key = {"diagnostic": "fourier_heatmap", "norm": norm, "convention": convention, "layer": layer, "seed": seed}
    found = per_sample(
        moved, model, images, labels, key=key, batch_size=batch_size, cache=cache, track=track, what="Fourier heat map"
    )
    change = torch.empty(height, width, dtype=torch.float64)
    mean = found["change"].double().mean(0)
    for (y, x), value in zip(places.tolist(), mean, strict=True):
        change[y, x] = value
        if convention == "gatheluck":
            change[(2 * (height // 2) - y) % height, (2 * (width // 2) - x) % width] = value
    unperturbed = found["own"].double().mean().item()
    return FourierHeatmap(change, unperturbed, norm, convention, layer, len(images), seed)


def fourier_basis(height: int, width: int, convention: Convention = "gatheluck") -> tuple[Tensor, Tensor]:
    """Real waves of ‖·‖₂ = 1 and their places (K, 2) in a map with DC at (H//2, W//2): (K, H, W) float32.

    ``"yin"`` has cos + sin at each of the H·W places; ``"gatheluck"`` the cosine, of a pair f and −f only one.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y, x], -1).flatten(0, 1)
    frequency = places - torch.tensor([height // 2, width // 2])
    if convention == "gatheluck":
        mirror = -frequency % torch.tensor([height, width])
        order = (frequency % torch.tensor([height, width])) @ torch.tensor([width, 1])
        once = order <= mirror @ torch.tensor([width, 1])
        places, frequency = places[once], frequency[once]
    turns = frequency[:, 0, None, None] * y / height + frequency[:, 1, None, None] * x / width
    phase = 2 * torch.pi * turns.double()
    waves = phase.cos() + phase.sin() if convention == "yin" else phase.cos()
    return places, (waves / waves.flatten(1).norm(dim=1)[:, None, None]).float()


def _signs(seed: int, numbers: Tensor, waves: int, channels: int, convention: Convention) -> Tensor:
    """(len(numbers), waves, channels) of ±1; those of an image depend on the seed and its number alone."""
    if convention == "yin":
        return torch.ones(len(numbers), waves, channels)
    drawn = [np.random.default_rng((seed, number)).integers(2, size=(waves, channels)) for number in numbers.tolist()]
    return torch.from_numpy(np.stack(drawn)).float() * 2 - 1


class _Watched:
    """A model whose answer is its logits, or the features of one of its layers."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.model, self.layer, self.features = model, layer, None

    def __enter__(self) -> _Watched:
        self.handle = self.layer and find_layer(self.model, self.layer).register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle:
            self.handle.remove()

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.features = output

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return self.features.flatten(1) if self.layer else logits

    def change(self, own: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """How far the features are from ``own``, or whether the class is wrong: (N,) float32."""
        answer = self(images)
        return (answer - own).norm(dim=1) if self.layer else (answer.argmax(1) != labels).float()
