"""Inventories of other projects for intersphinx, from a list of the names that freqrob's documentation mentions.

The build needs no network, so it does not download the projects' own inventories. Each name is given with its page.
"""

import zlib
from pathlib import Path

_PROJECTS = {
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "torch.Tensor": ("class", "tensors.html#torch.Tensor"),
            "torch.Generator": ("class", "generated/torch.Generator.html#torch.Generator"),
            "torch.nn.Module": ("class", "generated/torch.nn.Module.html#torch.nn.Module"),
            "torch.utils.data.Dataset": ("class", "data.html#torch.utils.data.Dataset"),
            "torch.utils.data.DataLoader": ("class", "data.html#torch.utils.data.DataLoader"),
            "torch.fft.rfft2": ("function", "generated/torch.fft.rfft2.html#torch.fft.rfft2"),
            "torch.fft.fft2": ("function", "generated/torch.fft.fft2.html#torch.fft.fft2"),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.ndarray": ("class", "reference/generated/numpy.ndarray.html#numpy.ndarray"),
            "numpy.savez": ("function", "reference/generated/numpy.savez.html#numpy.savez"),
        },
    ),
    "foolbox": (
        "https://foolbox.readthedocs.io/en/stable/",
        {"foolbox.models.PyTorchModel": ("class", "modules/models.html#foolbox.models.PyTorchModel")},
    ),
}
_HEADER = (
    "# Sphinx inventory version 2\n# Project: {}\n# Version: \n# The remainder of this file is compressed using zlib.\n"
)


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an ``objects.inv`` for each project and return intersphinx's mapping to them."""
    mapping = {}
    for project, (address, names) in _PROJECTS.items():
        lines = [f"{name} py:{kind} 1 {page} -\n" for name, (kind, page) in names.items()]
        path = folder / f"{project}.inv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_HEADER.format(project).encode() + zlib.compress("".join(lines).encode()))
        mapping[project] = (address, str(path))
    return mapping
