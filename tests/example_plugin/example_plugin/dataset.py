"""A data set: ``freqrob train standard_rn20 --dataset two_colours`` trains on it."""

from pathlib import Path

import torch
from torch.utils.data import Dataset, TensorDataset

from freqrob.data import DatasetInfo, register_dataset


@register_dataset("two_colours", DatasetInfo(2, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
def two_colours(data_dir: Path, part: str, download: bool) -> Dataset:
    """Noise that is redder or bluer; made here, so that nothing is read."""
    count, seed = (200, 0) if part == "train" else (60, 1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 156, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    images[torch.arange(count), 2 * labels] += 100
    return TensorDataset(images, labels)
