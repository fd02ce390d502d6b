"""Neural response regularisation: train a network to also predict neurons' responses from its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from freqrob.data.datasets import to_pixels
from freqrob.defenses.stimuli import (
    LayerName,
    OnStimuli,
    check_arrays,
    load_stimuli,
    pass_together,
    recorded,
)
from freqrob.models.registry import register_defense
from freqrob.models.state import device_of, evaluating
from freqrob.runtime.parameters import Weight, checked

ResponseLoss = Literal["poisson", "mse"]
Drawn = Annotated[int, Meta(ge=1, le=2**63 - 1, description="at least 1")]
LEAST_RATE = 1e-6  # lower limit of r̂ in the Poisson loss's logarithm
START_STIMULI, BATCH = 500, 100  # number of stimuli that initialise a readout, and how many at a time


class SpatialReadout(nn.Module):
    """r_n = ELU(Σ_xy m_n(x, y) Σ_c w_nc φ_c(x, y) + b_n) + 1: a factorised linear readout for each neuron.

    Args:
        neurons: number of neurons.
        shape: (C, H, W) of the features φ.

    Its state dict has ``mask`` (neurons, H, W), ``weight`` (neurons, C) and ``bias`` (neurons,).

    Source: Klindt, Ecker, Euler and Bethge, NeurIPS 2017; m_n is the neuron's location, w_n its weights of the features
    there.

    >>> SpatialReadout(7, (4, 5, 6))(torch.zeros(2, 4, 5, 6)).shape
    torch.Size([2, 7])
    """

    def __init__(self, neurons: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.mask = nn.Parameter(torch.full((neurons, height, width), 1 / (height * width)))
        self.weight = nn.Parameter(torch.randn(neurons, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(neurons))

    @torch.no_grad()
    def start_from(self, covariance: Tensor, mean: Tensor) -> None:
        """Initialise masks and weights from the covariance of responses and features, and biases from the means.

        ``covariance`` is (neurons, C, H, W), ``mean`` (neurons,).
        From a random start, the gradients of both factors are small, and some neurons converge to the wrong place.
        """
        strength = covariance.square().sum(1)  # (neurons, H, W)
        self.mask.copy_(strength / strength.sum((1, 2), keepdim=True).clamp(min=LEAST_RATE))
        at_peak = covariance.flatten(2)[torch.arange(len(strength)), :, strength.flatten(1).argmax(1)]
        self.weight.copy_(at_peak / at_peak.norm(dim=1, keepdim=True).clamp(min=LEAST_RATE))
        self.bias.copy_((mean - 1).clamp(min=-0.9))

    def forward(self, features: Tensor) -> Tensor:
        """Responses (k, neurons) ≥ 0 to features (k, C, H, W), in float32."""
        pooled = torch.einsum("kchw,nhw->knc", features.float(), self.mask)
        return F.elu((pooled * self.weight).sum(2) + self.bias) + 1

    def sparsity(self) -> Tensor:
        """The mean over neurons of Σ |m_n| · Σ |w_n|, which does not change if m_n is scaled by s and w_n by 1/s."""
        return (self.mask.abs().sum((1, 2)) * self.weight.abs().sum(1)).mean()


@register_defense("neural_response")
@checked
@dataclass(frozen=True)
class NeuralResponse(OnStimuli):
    """CE(f(x), y) + α [ℓ(r̂, r) + γ · mean over neurons of Σ|m_n| Σ|w_n|]: classify images and predict responses.

    r̂ are the responses that a ``SpatialReadout`` predicts from one layer's features of the stimuli, and r those of the
    neurons. ℓ is the mean over stimuli and neurons of r̂ − r ln r̂ (Poisson) or of (r̂ − r)². The readout is trained,
    checkpointed and resumed with the run; the saved classifier does not have it. It has no weight decay.

    The main texts of the papers do not name the layer, the loss or the weights. The default is the Poisson loss with
    ELU + 1, as usual for spike counts; "mse" suits other nonnegative responses (the readout cannot predict negative
    ones). Images and stimuli share a forward pass, and so the batch norm statistics.

    Args:
        targets: path of an ``.npz`` with ``images`` (K, C, H, W) uint8, as large as the training images, and
            ``responses`` (K, neurons) float, not negative.
        layer: the dotted name of the last module of the network's core, such as ``"layer2"`` or ``"features.33"``.
        weight: α.
        sparsity: γ.
        stimuli: number drawn at each step; all of them if there are fewer.
        loss: "poisson" or "mse".

    A call raises FileNotFoundError for missing ``targets``, and ValueError if that file, ``layer`` or the size of the
    images is invalid.

    Source: Safarani et al., NeurIPS 2021; the monkey-regularised model of Li et al., PLoS Comput. Biol. 2023; the
    readout of Klindt et al., NeurIPS 2017.
    """

    layer: LayerName = "layer2"
    weight: Weight = 1.0
    sparsity: Weight = 1e-3
    stimuli: Drawn = 32
    loss: ResponseLoss = "poisson"

    def make_parts(self, model: nn.Module) -> SpatialReadout:
        """The readout, initialised with the layer's features of the stimuli; it is trained with the network."""
        images, responses = load_responses(self.targets)
        chosen = slice(None, None, max(1, len(images) // START_STIMULI))
        images, responses = images[chosen], responses[chosen].to(device := device_of(model))
        with evaluating(model), torch.no_grad(), recorded(model, self.layer) as recordings:
            for batch in images.split(BATCH):
                model(to_pixels(batch).to(device))
        if not recordings or recordings[-1].ndim != 4:
            got = f"features {tuple(recordings[-1].shape)}" if recordings else "none"
            raise ValueError(f"layer: expected {self.layer!r} to return features (N, C, H, W), got {got}")
        features = torch.cat(recordings).float()
        mean = responses.mean(0)
        covariance = torch.einsum("kchw,kn->nchw", features - features.mean(0), responses - mean) / len(features)
        channels, height, width = features.shape[1:]
        readout = SpatialReadout(responses.shape[1], (channels, height, width)).to(device)
        readout.start_from(covariance, mean)
        return readout

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, parts: nn.Module) -> Tensor:
        stimuli, responses = self.draw()
        logits, features = pass_together(model, self.layer, images, stimuli, self.targets)
        with torch.autocast(images.device.type, enabled=False):
            predicted = parts(features.float())
            readout = cast(SpatialReadout, getattr(parts, "module", parts))  # inside DDP
            response_term = response_loss(predicted, responses.to(images.device), self.loss)
            response_term = response_term + self.sparsity * readout.sparsity()
        return F.cross_entropy(logits, labels) + self.weight * response_term

    def draw(self) -> tuple[Tensor, Tensor]:
        """The stimuli (k, C, H, W) uint8 of one step, and the responses (k, neurons) to them."""
        stimuli, responses = load_responses(self.targets)
        if self.stimuli >= len(stimuli):
            return stimuli, responses
        chosen = torch.randperm(len(stimuli))[: self.stimuli]
        return stimuli[chosen], responses[chosen]


def response_loss(predicted: Tensor, responses: Tensor, loss: ResponseLoss) -> Tensor:
    """The mean of r̂ − r ln r̂ (Poisson, without its constant) or of (r̂ − r)², over stimuli and neurons.

    >>> response_loss(torch.tensor([[2.0]]), torch.tensor([[1.0]]), "mse")
    tensor(1.)
    """
    if loss == "mse":
        return F.mse_loss(predicted, responses)
    return F.poisson_nll_loss(predicted, responses, log_input=False, eps=LEAST_RATE)


def load_responses(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read stimuli (K, C, H, W) uint8 and responses (K, neurons) float32 from an ``.npz`` for ``NeuralResponse``.

    The file is read again only when it has changed. Raises FileNotFoundError, and ValueError for other contents.
    """
    return load_stimuli(path, "responses", _check)


def _check(path: Path, images: np.ndarray, responses: np.ndarray) -> None:
    check_arrays(path, images, responses, "responses", least=1, columns="neurons")
    if not np.isfinite(responses).all() or responses.min(initial=0) < 0:
        raise ValueError(f"targets: responses of {path} have negative or non-finite values, expected finite values ≥ 0")
