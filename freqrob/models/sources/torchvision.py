"""``torchvision:NAME`` and ``torchvision:NAME?weights=IMAGENET1K_V1``: pretrained classifiers of torchvision.

torchvision downloads the weights with a progress bar, and checks the hash in their name.
"""

from torch import nn

from freqrob.data.preprocessing import Preprocessing
from freqrob.models.front_ends import FrontEnded, InputSize, Normalize
from freqrob.models.registry import Target, register_source
from freqrob.models.sources.common import announce, check_target, loading, read_arguments, required, tensors_only
from freqrob.runtime.parameters import nearest_names


@register_source("torchvision")
def open_torchvision(path: str, target: Target) -> nn.Module:
    """The model with the input size and normalisation of its weights.

    The weights are torchvision's default, or those that ``?weights=`` names (``IMAGENET1K_V1``, with or without the
    enum's name); they must have as many classes as the data set.
    """
    spec = f"torchvision:{path}"
    models = required("torchvision.models", spec)
    name, arguments = read_arguments(path)
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no {name!r}.{nearest_names(name, known)}")
    offered = models.get_model_weights(name)
    wanted = str(arguments.pop("weights", "DEFAULT")).removeprefix(f"{offered.__name__}.")
    if arguments:
        raise ValueError(f"model: {spec} takes only the argument weights, got {', '.join(arguments)}")
    if wanted not in offered.__members__:
        names = ", ".join(offered.__members__) or "none"
        raise ValueError(f"model: {name} of torchvision has no weights {wanted!r}, expected one of {names}")
    weights = offered[wanted]
    check_target(spec, target, len(weights.meta["categories"]), channels=3)
    announce(f"Loading {name} with torchvision, which downloads {weights.url} unless cached")
    with loading(spec, "TORCH_HOME"), tensors_only():
        network = models.get_model(name, weights=weights)
    preset = weights.transforms()
    front_ends = [InputSize(2 * preset.crop_size), Normalize(preset.mean, preset.std)]
    return FrontEnded(front_ends, network, Preprocessing.from_preset(preset))
