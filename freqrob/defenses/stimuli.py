"""Stimuli with recordings from a brain, for the neural defences: reading their files, and a network's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from freqrob.data.datasets import to_pixels
from freqrob.models.front_ends import network_of
from freqrob.runtime.files import sha256_of
from freqrob.runtime.reading import read_npz

LayerName = Annotated[str, Meta(min_length=1, description="the name of a module")]
Check = Callable[[Path, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class OnStimuli:
    """What the neural defences have in common: ``targets``, the path of an ``.npz``, which the user must set."""

    targets: str = ""

    adversarial: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets: expected the path of an .npz file, got ''")

    def as_dict(self) -> dict[str, Any]:
        """The parameters, and the SHA-256 of the file of targets; "" if it does not exist."""
        path = Path(self.targets)
        return {**asdict(self), "targets_sha256": sha256_of(path) if path.is_file() else ""}


def load_stimuli(path: str | Path, name: str, check: Check) -> tuple[Tensor, Tensor]:
    """Read the arrays ``images`` (uint8) and ``name`` (as float32) of an ``.npz``.

    The file is read again only when it has changed. ``check`` gets its path and both arrays. Raises FileNotFoundError,
    and ValueError for other contents.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"targets: no file {path}; set yours with --set targets=FILE.npz")
    path = Path(path).resolve()
    return _read(path, path.stat().st_mtime_ns, name, check)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, name: str, check: Check) -> tuple[Tensor, Tensor]:
    try:
        arrays = read_npz(path, ("images", name))
    except ValueError as error:
        raise ValueError(f"targets: {error}") from error
    if len(arrays) < 2:
        raise ValueError(f"targets: {path} has {', '.join(arrays) or 'neither'}, expected images and {name}")
    check(path, arrays["images"], arrays[name])
    return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays[name].astype(np.float32))


def check_arrays(
    path: Path, images: np.ndarray, measured: np.ndarray, name: str, *, least: int, columns: int | str
) -> None:
    """Raise ValueError unless images are (K, C, H, W) uint8, K ≥ ``least``, and ``measured`` is (K, columns) float.

    ``columns`` is their number, or a name if any number is allowed.
    """
    count = len(images) if images.ndim else 0
    is_table = measured.ndim == 2 and len(measured) == count
    if isinstance(columns, int):
        is_table = measured.shape == (count, columns)
    for array_name, array, is_valid, expected in (
        ("images", images, images.dtype == np.uint8, "uint8"),
        ("images", images, images.ndim == 4 and images.shape[1] in (1, 3) and count >= least,
         f"(K, C, H, W), K ≥ {least}"),
        (name, measured, np.issubdtype(measured.dtype, np.floating), "floats"),
        (name, measured, is_table, f"({count}, {columns})"),
    ):  # fmt: skip
        if not is_valid:
            raise ValueError(f"targets: {array_name} of {path} is {array.dtype} {array.shape}, expected {expected}")


def pass_together(model: nn.Module, layer: str, images: Tensor, stimuli: Tensor, targets: str) -> tuple[Tensor, Tensor]:
    """Logits of the images in float32, and a layer's features of the stimuli, from one forward pass.

    Raises ValueError for stimuli of another size than the images, and a layer that the network does not call.
    """
    if stimuli.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"targets: the stimuli of {targets} are {tuple(stimuli.shape[1:])}, "
            f"expected the size of the images, {tuple(images.shape[1:])}"
        )
    with recorded(model, layer) as features:
        logits = model(torch.cat([images, to_pixels(stimuli.to(images.device))]))
    if not features:
        raise ValueError(f"layer: the network does not call {layer!r}, expected a layer that it calls")
    return logits[: len(images)].float(), features[-1][len(images) :]


@contextmanager
def recorded(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Record the outputs of a layer of the network, also in a wrapped model. Raises ValueError for other types."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer: {layer!r} gives a {type(output).__name__}, expected a tensor")
        outputs.append(output.clone())  # later layers may work in place

    handle = find_layer(model, layer).register_forward_hook(record)
    try:
        yield outputs
    finally:
        handle.remove()


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The network's module of that name, inside Fabric's and DDP's wrappers and behind front ends."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    modules = dict(network_of(model).named_modules())
    if not layer or layer not in modules:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"layer: the network has no module {layer!r}, expected one of {names}")
    return modules[layer]
