"""freqrob's models as RobustBench's entries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freqrob.data import DATASETS
from freqrob.models.loading import THREAT_MODELS, list_models, load_model
from freqrob.runtime.parameters import checked
from freqrob.runtime.warning import warn
from freqrob_robustbench.compatibility import import_robustbench

_MODEL_DIRS: dict[str, Path] = {}  # folders of the registered models, by timm's name
_PREPROCESSING = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}


@checked
def register(model_dir: str | Path = "./models") -> list[str]:
    """Add every model of ``freqrob.list_models`` for RobustBench's data sets to RobustBench.

    Afterwards ``robustbench.load_model(name, dataset=…, threat_model=…)`` returns the model of ``freqrob.load_model``,
    and ``robustbench.benchmark`` accepts it. The models are registered with timm, which RobustBench searches first, as
    ``<name>_<dataset>_<threat model>`` in lower case, and listed in ``model_dicts``. Entries of RobustBench and models
    of timm are not replaced; models with such names are left out with a warning. A later call with another
    ``model_dir`` adds models, and replaces earlier ones of the same name.

    Returns:
        Sorted names of freqrob's models in timm.

    Raises:
        ImportError: RobustBench is missing or broken; the message says what to install.
    """
    import_robustbench()
    from robustbench.model_zoo import model_dicts

    registered = []
    for dataset, threats in model_dicts.items():
        for threat, entries in threats.items():
            if dataset.value in DATASETS and threat.value in THREAT_MODELS:
                names = list_models("*", dataset, threat, model_dir)
                registered += [_add(name, dataset.value, threat.value, entries, Path(model_dir)) for name in names]
    return sorted(filter(None, registered))


def _timm_name(name: str, dataset: str, threat_model: str) -> str:
    """The name that ``robustbench.utils.load_model`` asks timm for."""
    return f"{name.lower().replace('-', '_')}_{dataset}_{threat_model.lower()}"


def _add(name: str, dataset: str, threat_model: str, entries: dict[str, dict], model_dir: Path) -> str | None:
    """Register one model; return its name in timm, or None if it is left out."""
    import timm

    timm_name = _timm_name(name, dataset, threat_model)
    is_ours = timm_name in _MODEL_DIRS and name in entries
    others = {_timm_name(entry, dataset, threat_model): entry for entry in entries if entry != name or not is_ours}
    reason = ""
    if timm_name in others:
        reason = f"RobustBench lists {others[timm_name]!r}"
    elif not is_ours and timm.is_model(timm_name):
        reason = f"timm has {timm_name!r}"
    elif "." in name:
        reason = "timm reads the part after a dot as a tag"
    if reason:
        warn(f"{name} for {dataset}, {threat_model} is not registered: {reason}")
        return None
    _MODEL_DIRS[timm_name] = model_dir
    if not is_ours:
        create = _creator(name, timm_name, dataset, threat_model)
        timm.models.register_model(create)
        entries[name] = {"model": functools.partial(create, pretrained=True), "gdrive_id": None}
    return timm_name


def _creator(name: str, timm_name: str, dataset: str, threat_model: str) -> Callable[..., nn.Module]:
    """The function that timm calls to create the model, always with its weights."""

    def create(
        pretrained: bool = True,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        num_classes: int = DATASETS[dataset].classes,
    ) -> nn.Module:
        if num_classes != DATASETS[dataset].classes:
            raise ValueError(f"num_classes: {timm_name} has {DATASETS[dataset].classes}, got {num_classes}")
        model = load_model(name, _MODEL_DIRS[timm_name], dataset, threat_model)
        model.register_load_state_dict_pre_hook(_take_bare_network)
        model.default_cfg = _PREPROCESSING if dataset == "imagenet" else {}  # pyright: ignore[reportArgumentType]
        return model

    create.__name__ = create.__qualname__ = timm_name
    return create


def _take_bare_network(model: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Accept a custom checkpoint with the bare network's keys."""
    expected: Mapping[str, Tensor] = model.state_dict()
    for key in list(state):
        if key not in expected and f"network.{key}" in expected:
            state[f"network.{key}"] = state.pop(key)
