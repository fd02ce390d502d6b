"""Waves: a model that sees one, and images whose class it tells."""

import torch
from torch import nn

SIZE = 32


class Linear(nn.Module):
    """Two classes, told apart by the sign of Σ w·x − threshold."""

    def __init__(self, weight: torch.Tensor, threshold: float = 0.0) -> None:
        super().__init__()
        self.weight, self.threshold = nn.Parameter(weight), threshold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = (images * self.weight).flatten(1).sum(1) - self.threshold
        return torch.stack([-score, score], 1)


def wave(cycles: int, size: int = SIZE) -> torch.Tensor:
    """cos(2π · cycles · x / size) in all channels: (3, size, size)."""
    return torch.cos(2 * torch.pi * cycles * torch.arange(size) / size).expand(3, size, size)


def of_waves(cycles: int, count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images with a little noise whose class is the sign of a wave."""
    labels = torch.arange(count) % 2
    noise = 0.02 * torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return (0.5 + 0.1 * (2 * labels - 1)[:, None, None, None] * wave(cycles) + noise).clamp(0, 1), labels
