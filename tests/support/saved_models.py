"""Untrained models in the place of trained ones."""

from pathlib import Path

import torch

from freqrob.data import DATASETS
from freqrob.models import checkpoints, create_network, loading
from freqrob.models.cards import Card
from freqrob.models.front_ends import with_front_ends

NAME = "pgd_at_rn20"
NORMALIZE = {"name": "normalize", "mean": list(DATASETS["cifar10"].mean), "std": list(DATASETS["cifar10"].std)}
CARD = Card(NAME, "rn20", front_ends=[NORMALIZE])
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def write_model(folder: Path, card: Card = CARD, seed: int = 0) -> tuple[Path, Card]:
    """An untrained network in its place under ``folder``."""
    torch.manual_seed(seed)
    network = create_network(card.architecture, card.num_classes)
    path = loading.checkpoint_path(card.name, folder, card.dataset, card.threat_model)
    return path, checkpoints.save(path, network.state_dict(), card)


def logits(seed: int, front_ends=(NORMALIZE,), architecture: str = "rn20") -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return with_front_ends(create_network(architecture), front_ends).eval()(IMAGES)


def same(model: torch.nn.Module, expected: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(model(IMAGES), expected)
