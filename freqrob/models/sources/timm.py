"""``timm:NAME``: pretrained models of timm."""

from torch import nn

from freqrob.models.front_ends import FrontEnded, InputSize, Normalize
from freqrob.models.registry import Target, register_source
from freqrob.models.sources.common import announce, loading, required, tensors_only
from freqrob.runtime.parameters import nearest_names


@register_source("timm")
def open_timm(name: str, target: Target) -> nn.Module:
    """The model with timm's input size and normalisation, if it has as many classes as the data set."""
    spec = f"timm:{name}"
    timm = required("timm", spec)
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest_names(name, timm.list_models())}")
    with loading(spec, "HF_HOME"):
        settings = timm.models.get_pretrained_cfg(name)
        if settings and settings.num_classes != target.num_classes:
            have = f"{spec} has {settings.num_classes} classes"
            raise ValueError(f"model: {have}, the data set has {target.num_classes}")
        announce(f"Loading {name} with timm, which downloads weights that are not in its cache")
        with tensors_only():
            network = timm.create_model(name, pretrained=True)
    if settings is None:  # a plug-in's, which needs nothing added
        return network
    return FrontEnded([InputSize(settings.input_size[1:]), Normalize(settings.mean, settings.std)], network)
