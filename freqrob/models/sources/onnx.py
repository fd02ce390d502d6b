"""``onnx:FILE``: classifiers in ONNX files, run by ONNX Runtime on the CPU.

They have no gradients: only clean accuracy, Square, hybrid images and the Fourier heat map can be measured.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqrob.models.front_ends import FrontEnded, InputSize, Normalize
from freqrob.models.registry import Target, register_source
from freqrob.models.sources.common import check_target, read_arguments, required
from freqrob.runtime.files import sha256_of
from freqrob.runtime.pixels import MOST_CHANNELS
from freqrob.runtime.reading import brief, mistaken_for_data

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@register_source("onnx")
def open_onnx(path: str, target: Target) -> nn.Module:
    """The model of ``onnx:FILE`` or ``onnx:FILE?mean=(0.485,0.456,0.406)&std=(0.229,0.224,0.225)``.

    It takes pixels in [0, 1], or normalised by ``mean`` and ``std``; images of another size are resized if the file
    fixes one. Raises ValueError for a file that does not hold a classifier of images with the data set's classes.
    """
    spec = f"onnx:{path}"
    name, arguments = read_arguments(path)
    file = Path(name).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"model: {spec}: no such file")
    required("onnxruntime", spec)
    session = Session(str(file.resolve()))
    mean, std = arguments.pop("mean", None), arguments.pop("std", None)
    if arguments or (mean is None) != (std is None):
        raise ValueError(f"model: {spec} takes the arguments mean and std only, both or none")
    network = OnnxNetwork(session)
    channels, height, width = network.size
    check_target(spec, target, network.classes, channels)
    front_ends: list[nn.Module] = [InputSize((height, width))] if height and width else []
    return FrontEnded([*front_ends, *([] if mean is None else [Normalize(mean, std)])], network)


class Session:
    """ONNX Runtime's session of a file, which pickles as the file's path.

    Attributes:
        path: the file.
        sha256: hash of the file and of the files with its weights.
        version: ONNX Runtime's.

    Raises ValueError for a file that ONNX Runtime does not open.
    """

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.runtime = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base of their own
            reason = mistaken_for_data(path) or brief(str(error))
            raise ValueError(f"{path}: ONNX Runtime cannot open it: {reason}") from error
        self.path, self.version = path, onnxruntime.__version__
        self.sha256 = [sha256_of(file) for file in _files(Path(path))]

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (self.path,), {"sha256": self.sha256, "version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raise ValueError if the files have changed since the session was pickled."""
        if self.sha256 != state["sha256"]:
            raise ValueError(f"{self.path}: it has changed since the model was opened; open it again")


def _files(path: Path) -> list[Path]:
    """An ONNX file, and the files with weights that it refers to by entries of the key ``location``."""
    content, files = path.read_bytes(), [path]
    for entry in re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content):
        name = content[entry.end() : entry.end() + entry[1][0]].decode(errors="replace")
        if (path.parent / name).is_file() and path.parent / name not in files:
            files.append(path.parent / name)
    return files


class OnnxNetwork(nn.Module):
    """Images (N, C, H, W) to logits (N, K), on any device, computed on the CPU without a gradient.

    Raises ValueError for a network with other inputs or outputs; when called, for images that require a gradient.

    Attributes:
        size: (C, H, W) of the images, None for a dimension of any size.
        classes: K, or None if the file does not say it.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        path, inputs, outputs = session.path, session.runtime.get_inputs(), session.runtime.get_outputs()
        is_known = len(inputs) == len(outputs) == 1 and inputs[0].type in DTYPES
        if not is_known or (len(inputs[0].shape), len(outputs[0].shape)) != (4, 2):
            got = f"{', '.join(map(_signature, inputs))} to {', '.join(map(_signature, outputs))}"
            raise ValueError(f"{path}: expected a network of images (N, C, H, W) to logits (N, K), got {got}")
        numbers = [side if isinstance(side, int) else None for side in (*inputs[0].shape, outputs[0].shape[1])]
        self._batch, channels, height, width, self.classes = numbers
        self.size = channels, height, width
        if width is not None and width <= MOST_CHANNELS < (channels or MOST_CHANNELS + 1):
            got = _signature(inputs[0])
            raise ValueError(f"{path}: expected images (N, C, H, W), got (N, H, W, C), {got}; export as (N, C, H, W)")
        self._name, self._dtype = inputs[0].name, inputs[0].type

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "model: its logits have no gradient with respect to the images, because ONNX Runtime computes none"
            )
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy().astype(DTYPES[self._dtype]))
        size = self._batch or max(1, len(pixels))
        logits = [self._run(pixels[start : start + size]) for start in range(0, max(1, len(pixels)), size)]
        return torch.from_numpy(np.concatenate(logits)).to(images)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """Logits of a batch, which is padded to the batch size that the file fixes, if any."""
        missing = max(0, (self._batch or 0) - len(pixels))
        filled = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)])
        try:
            logits: Any = self.session.runtime.run(None, {self._name: filled})[0]
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime fails on {filled.shape}: {brief(str(error))}") from error
        return logits[: len(pixels)]

    def extra_repr(self) -> str:
        return f"size={self.size}, classes={self.classes}"


def _signature(value: Any) -> str:
    return f"{value.name} {value.type} {value.shape}"
