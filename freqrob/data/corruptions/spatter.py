"""Water or mud on the lens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqrob.data.corruptions.filters import correlate, gaussian, pixels, to_bytes
from freqrob.data.corruptions.registry import register_corruption
from freqrob.data.corruptions.streams import Streams

WATER, MUD = (175, 238, 238), (63, 42, 20)
TAN_22 = 13573  # tan 22.5° in 2⁻¹⁵
STEP, DIAGONAL, KNIGHT = 1.0, 1.4, 2.1969  # lengths in OpenCV's distances with a 5 × 5 mask
FARTHEST = 20.0
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


@register_corruption(
    "digital", extra=True,
    mean=(0.62, 0.65, 0.65, 0.65, 0.65), std=(0.1, 0.1, 0.3, 0.1, 0.1), sigma=(0.7, 0.8, 1, 0.7, 0.5),
    threshold=(0.7, 0.7, 0.69, 0.69, 0.68), k=(0.5, 0.5, 0.5, 0.6, 0.6), is_mud=(False, False, False, True, True),
    imagenet={
        "mean": (0.65, 0.65, 0.65, 0.65, 0.67), "std": (0.3, 0.3, 0.3, 0.3, 0.4), "sigma": (4, 3, 2, 1, 1),
        "threshold": (0.69, 0.68, 0.68, 0.65, 0.65), "k": (0.6, 0.6, 0.5, 1.5, 1.5),
        "is_mud": (False, False, False, True, True),
    },
)  # fmt: skip
def spatter(
    images: Tensor, random: Streams, mean: float, std: float, sigma: float, threshold: float, k: float, is_mud: bool
) -> Tensor:
    """Drops where smooth noise exceeds a threshold: water of strength k, or mud with edges blurred by σ = k."""
    x = pixels(images).float()
    liquid = gaussian(mean + std * random.normal(*images.shape[-2:]), sigma)[:, None]  # (N, 1, H, W)
    if is_mud:
        cover = gaussian((liquid > threshold).double(), k).float()
        cover = torch.where(cover < 0.8, 0, cover)
        return to_bytes(x * (1 - cover) + cover * _colour(x, MUD))
    return to_bytes(x + k * _shine(torch.where(liquid < threshold, 0, liquid)) * _colour(x, WATER))


def _colour(x: Tensor, levels: tuple[int, int, int]) -> Tensor:
    return x.new_tensor(levels)[:, None, None] / 255


def _shine(liquid: Tensor) -> Tensor:
    """Brightness added by water, at most 1: its height times an embossed distance to its edge, in grey levels."""
    drops = ((liquid * 255).int() & 255).double()  # values above 1 wrap around to black, as in the benchmark
    distance = _mean_of_nine(_distance(_edges(drops))).floor()
    relief = correlate(_equalized(distance), drops.new_tensor(EMBOSS)).clamp(0, 255)
    shine = drops * _mean_of_nine(relief).round()
    brightest = shine.amax((-2, -1), keepdim=True)
    return torch.where(brightest > 0, shine / brightest, 0).float()


def _mean_of_nine(x: Tensor) -> Tensor:
    return correlate(x, torch.ones(3, 3)) / 9


def _edges(grey: Tensor, low: int = 50, high: int = 150) -> Tensor:
    """Canny's edge detector as in OpenCV, with Sobel gradients in the L1 norm: (N, 1, H, W) bool."""
    sobel = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = (correlate(grey, kernel, "replicate") for kernel in (sobel, sobel.T))
    strength = across.abs() + down.abs()
    weak = (strength > low) & _is_ridge(strength, across, down)
    edges = weak & (strength > high)
    while True:
        grown = weak & (F.max_pool2d(edges.float(), 3, 1, 1) > 0)
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _is_ridge(strength: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Non-maximum suppression of the gradient in four directions."""
    height, width = strength.shape[-2:]
    padded = F.pad(strength, [1] * 4)

    def beside(rows: int, columns: int) -> Tensor:
        return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    horizontal = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    vertical = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    diagonal = torch.where(across.sign() * down.sign() < 0, rising, falling)
    flat, steep = TAN_22 * across.abs(), (TAN_22 + (1 << 16)) * across.abs()
    slope = (1 << 15) * down.abs()
    return torch.where(slope < flat, horizontal, torch.where(slope > steep, vertical, diagonal))


def _distance(edges: Tensor) -> Tensor:
    """Distance to the nearest edge by steps, diagonal steps and knight's moves, at most ``FARTHEST``."""
    height, width = edges.shape[-2:]
    moves = [(1, STEP, 0, 1), (1, STEP, 1, 0), (1, DIAGONAL, 1, 1), (2, KNIGHT, 1, 2), (2, KNIGHT, 2, 1)]
    offsets = {(sign * a, other * b): cost for _, cost, a, b in moves for sign in (-1, 1) for other in (-1, 1)}
    distance = torch.where(edges, 0.0, FARTHEST)
    while True:
        padded = F.pad(distance, [2] * 4, value=FARTHEST)
        nearer = distance
        for (rows, columns), cost in offsets.items():
            window = padded[..., 2 + rows : 2 + rows + height, 2 + columns : 2 + columns + width]
            nearer = torch.minimum(nearer, window + cost)
        if torch.equal(nearer, distance):
            return distance.double()
        distance = nearer


def _equalized(grey: Tensor) -> Tensor:
    """Equalise grey levels 0 to ``FARTHEST`` over 0 to 255; an image of a single level is unchanged."""
    levels = grey.flatten(1).long()  # (N, H·W)
    counts = grey.new_zeros(len(grey), int(FARTHEST) + 1).scatter_add_(1, levels, torch.ones_like(levels).double())
    below = counts.cumsum(1)
    lowest = counts.gather(1, levels.amin(1, keepdim=True))
    spread = ((below - lowest) * (255 / (levels.shape[1] - lowest))).round()
    spread = torch.where(lowest == levels.shape[1], torch.arange(len(counts[0]), device=grey.device), spread)
    return spread.gather(1, levels).view(grey.shape)
