"""RobustBench's own models, through RobustBench."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Any

from torch import nn

from freqrob.data.preprocessing import Preprocessing
from freqrob.models.cards import CheckpointError
from freqrob.models.front_ends import FrontEnded
from freqrob.models.sources import Target, register_source, tensors_only
from freqrob.runtime.files import check_folder, expanded
from freqrob.runtime.parameters import checked, nearest_names
from freqrob.runtime.reading import brief, mistaken_for_data
from freqrob_robustbench.compatibility import import_robustbench


@register_source("robustbench")
def open_from_zoo(name: str, target: Target) -> nn.Module:
    """``robustbench:NAME``, and ``load_model`` with ``source="robustbench"``, with RobustBench's preprocessing."""
    model = load_from_zoo(name, target.model_dir, target.dataset, target.threat_model)
    from robustbench.data import get_preprocessing
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    dataset, threat_model = BenchmarkDataset(target.dataset), ThreatModel(target.threat_model)
    transforms: Any = get_preprocessing(dataset, threat_model, name, None)
    return FrontEnded([], model, Preprocessing.from_transforms(transforms.transforms))


@checked
def load_from_zoo(
    name: str, model_dir: str | Path = "./models", dataset: str | Enum = "cifar10", threat_model: str | Enum = "Linf"
) -> nn.Module:
    """A model of RobustBench's zoo, on the CPU in eval mode: pixels (N, C, H, W) in [0, 1] → logits (N, num_classes).

    RobustBench downloads weights that are not in ``model_dir`` from Google Drive, which is printed on stderr. Pickles
    are read as tensors only.

    Raises:
        ValueError: RobustBench has no such data set, threat model or name; the nearest names are given.
        ImportError: RobustBench is missing or broken.
        OSError: a download failed; the message says where to put the file by hand.
        CheckpointError: (a ValueError) the file is damaged, or contains more than tensors.
    """
    utils = import_robustbench().utils
    dataset, threat_model = (str(getattr(given, "value", given)) for given in (dataset, threat_model))
    threat_model = threat_model.removesuffix("_3d")
    entries = _entries(dataset, threat_model)
    if name not in entries:
        raise ValueError(
            f"model_name: RobustBench has no {name!r} for {dataset}, {threat_model}.{nearest_names(name, entries)}"
        )
    root = expanded(model_dir, "model_dir")
    files = _files(name, entries[name].get("gdrive_id"), root / dataset / threat_model)
    for path, drive in files.items():
        if not path.is_file():
            print(f"Downloading {name} from Google Drive (id {drive}) to {path}, with RobustBench", file=sys.stderr)
    try:
        for path in files:  # RobustBench does so too, but fails if another process has just done it
            path.parent.mkdir(parents=True, exist_ok=True)
        with tensors_only(), redirect_stdout(sys.stderr):
            return utils.load_model(name, root, dataset, threat_model).eval()
    except Exception as error:  # gdown, requests, torch and RobustBench raise different ones
        missing = [f"{path} (Google Drive id {drive})" for path, drive in files.items() if not path.is_file()]
        if missing:
            check_folder(root / dataset / threat_model, "model_dir")
            by_hand = f"put {' and '.join(missing)} there by hand"
            raise OSError(f"model_name: could not download {name} of RobustBench ({error}); {by_hand}") from error
        if not files:
            raise
        reason = f"damaged, or not the weights of {name} ({type(error).__name__}: {brief(str(error))})"
        if isinstance(error, CheckpointError):
            reason = str(error)
        reason = next(filter(None, map(mistaken_for_data, files)), reason)
        raise CheckpointError(f"{' or '.join(map(str, files))}: {reason}") from error


def _entries(dataset: str, threat_model: str) -> dict[str, dict]:
    from robustbench.model_zoo import model_dicts

    known = {
        (data.value, threat.value): entries
        for data, by_threat in model_dicts.items()
        for threat, entries in by_threat.items()
    }
    if (dataset, threat_model) not in known:
        pairs = "; ".join(f"{data}, {threat}" for data, threat in known)
        raise ValueError(f"dataset, threat_model: RobustBench has no {dataset}, {threat_model}, but {pairs}")
    return known[dataset, threat_model]


def _files(name: str, drive: str | list[str] | None, folder: Path) -> dict[Path, str]:
    """RobustBench's paths of the weights, with their Google Drive ids; one file for each model of an ensemble."""
    if isinstance(drive, list):
        return {folder / f"{name}.pt_m{number}.pt": drive_id for number, drive_id in enumerate(drive)}
    return {folder / f"{name}.pt": drive} if drive else {}
