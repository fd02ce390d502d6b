"""``timm:NAME`` and ``timm:hf-hub:USER/NAME``: pretrained models of timm."""

from types import ModuleType
from typing import Any

from torch import nn

from freqrob.data.preprocessing import Preprocessing
from freqrob.models.front_ends import FrontEnded, InputSize, Normalize
from freqrob.models.registry import Target, register_source
from freqrob.models.sources.common import announce, check_target, loading, required, tensors_only
from freqrob.runtime.parameters import nearest_names


@register_source("timm")
def open_timm(name: str, target: Target) -> nn.Module:
    """The model with timm's input size and normalisation, if it has as many classes as the data set."""
    spec = f"timm:{name}"
    timm = required("timm", spec)
    with loading(spec, "HF_HOME"):
        settings = _settings(timm, name)
        if settings is not None:
            check_target(spec, target, settings.num_classes, settings.input_size[0])
        announce(f"Loading {name} with timm, which downloads weights that are not in its cache")
        with tensors_only():
            network = timm.create_model(name, pretrained=True)
    if settings is None:  # a plug-in's, which needs nothing added
        return network
    front_ends = [InputSize(settings.input_size[1:]), Normalize(settings.mean, settings.std)]
    return FrontEnded(front_ends, network, Preprocessing.from_timm(settings))


def _settings(timm: ModuleType, name: str) -> Any:
    """The ``PretrainedCfg`` of a name, or of a model on Hugging Face's hub. Raises ValueError for an unknown name."""
    source, _, path = name.replace("hf_hub:", "hf-hub:", 1).partition(":")
    if source == "hf-hub" and path:
        return timm.models.PretrainedCfg(**timm.models.load_model_config_from_hf(path)[0])
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest_names(name, timm.list_models())}")
    return timm.models.get_pretrained_cfg(name)
