"""``hub:OWNER/REPO[:REF]:MODEL?trust_repo=True``: models of torch.hub."""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import nn

from freqrob.models.plugins import build
from freqrob.models.registry import Target, register_source
from freqrob.models.sources.common import announce, loading, read_arguments
from freqrob.runtime.files import expanded


@register_source("hub")
def open_hub(path: str, target: Target) -> nn.Module:
    """The model that the repository's function returns; its code runs only with ``trust_repo=True``."""
    spec = f"hub:{path}"
    path, arguments = read_arguments(path)
    repository, colon, name = path.rpartition(":")
    if not colon or "/" not in repository:
        raise ValueError(f"model: got {spec!r}, expected hub:OWNER/REPO:MODEL")
    local = expanded(repository, "model").is_dir()
    where = repository if local else f"https://github.com/{repository.partition(':')[0]}"
    if arguments.pop("trust_repo", False) is not True:
        raise ValueError(
            f"model: {spec} would run the code of {where} on this machine. If you trust it, use "
            f"{spec}{'&' if '?' in spec else '?'}trust_repo=True"
        )
    announce(f"Running the code of {where} with torch.hub, which downloads to {torch.hub.get_dir()}")
    origin = {"source": "local"} if local else {"trust_repo": True}
    builder = cast(Callable[..., nn.Module], partial(torch.hub.load, repository, name, **origin))
    with loading(spec, "TORCH_HOME"):
        return build(builder, spec, target.num_classes, arguments)
