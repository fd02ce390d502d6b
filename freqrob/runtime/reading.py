"""Readers of untrusted or damaged files, one function for each kind.

A reader checks the sizes and shapes in a file's header before it allocates memory, executes nothing in the file, and
does not wait for a pipe. An unusable file raises ValueError, whose one line names the file. A missing file raises
FileNotFoundError, an unreadable one another OSError; both name the file.
"""

from __future__ import annotations

import builtins
import codecs
import math
import os
import re
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar, cast
from zipfile import ZipFile, ZipInfo, is_zipfile

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

T = TypeVar("T")
REMEDY = "replace or remove it"
LARGEST_TEXT = 1 << 24  # bytes, 16 MiB
LARGEST_ARRAYS = 1 << 31  # bytes, 2 GiB
LARGEST_IMAGE = 1 << 26  # pixels; the largest image of ImageNet has 61 million
SHARED = 8  # most tensors per storage on average; tied weights share a storage
_REBUILD = ("numpy.", "torch.", "_codecs.encode")  # functions that rebuild arrays and tensors
_RUN = ("commands.", "ctypes.", "importlib.", "multiprocessing.", "runpy.", "subprocess.")  # their types run code too

# The name of a model, an attack or a data set; it is printed and may be part of a file name.
Label = Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*\Z")]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes (as in file names), except line breaks."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def brief(text: str, length: int = 300) -> str:
    """The first line of a message, of ``length`` characters at most."""
    line = printable(text.partition("\n")[0])
    return line if len(line) <= length else f"{line[:length]}…"


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Raises ValueError for a folder, a pipe or a device; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "folder" if stat.S_ISDIR(mode) else "pipe or a device"
        raise ValueError(f"{path}: expected a file, got a {kind}; {REMEDY}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, at_most: int = LARGEST_TEXT) -> bytes:
    """The content of a file. Raises ValueError for more than ``at_most`` bytes, OSError."""
    with open_file(path) as file:
        content = file.read(at_most + 1)
        if len(content) > at_most:
            size = os.fstat(file.fileno()).st_size
            raise ValueError(f"{path}: it has {size:,} bytes, expected at most {at_most:,}; {REMEDY}")
    return content


def read_text(path: str | Path) -> str:
    """Text in UTF-8, with or without a byte order mark. Raises ValueError for other bytes; OSError."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file (byte {error.start:,}); {REMEDY}") from error


def read_json(path: str | Path, kind: Any = Any) -> Any:
    """Read a JSON file as ``kind``; see ``decode_json``. Raises ValueError, OSError."""
    return decode_json(read_bytes(path), path, kind)


def decode_json(content: bytes, source: str | Path, kind: Any = Any) -> Any:
    """Decode JSON to ``kind``: a dataclass, a TypedDict (other keys are dropped), ``dict[str, int]``, or anything.

    Raises ValueError, which names ``source``, for invalid JSON (also NaN and Infinity), too deep nesting, and values of
    wrong types, with their path.
    """
    try:
        return msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{source}: {error}; {REMEDY}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not usable JSON ({error}); {REMEDY}") from error


def fitted(value: object, kind: type[T], source: str | Path) -> T:
    """Convert decoded JSON to ``kind``. Raises ValueError as ``decode_json``."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, RecursionError, OverflowError) as error:  # 10**999 for a float
        raise ValueError(f"{source}: {error}; {REMEDY}") from error


def read_npz(
    path: str | Path, names: Collection[str] | None = None, at_most: int = LARGEST_ARRAYS
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those among ``names`` that it has; nothing is unpickled.

    Raises ValueError for a damaged file and, before reading, for more than ``at_most`` bytes of arrays; OSError.
    """
    from numpy.lib import format

    with open_file(path) as file, damage_named(path, "an .npz file of plain arrays"), ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        members = {name: member for name, member in members.items() if names is None or name in names}
        size = sum(_declared_bytes(archive, member) for member in members.values())
        if size > at_most:
            raise ValueError(f"its arrays have {size:,} bytes, expected at most {at_most:,}")
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as content:
                arrays[name] = format.read_array(content, allow_pickle=False)
        return arrays


def _declared_bytes(archive: ZipFile, member: ZipInfo) -> int:
    """Size of an array in bytes, according to the header of its .npy file."""
    from numpy.lib import format

    with archive.open(member) as content:
        version = format.read_magic(content)
        read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
        shape, _, dtype = read(content)
    if min(shape, default=0) < 0:  # a negative size would reduce the sum of the arrays' sizes
        raise ValueError(f"an array of shape {shape}")
    return math.prod(shape) * dtype.itemsize


def map_npy(path: str | Path) -> np.ndarray:
    """Map a .npy file into memory, read-only; nothing is unpickled. Raises ValueError for a damaged file; OSError."""
    from numpy.lib import format

    open_file(path).close()
    with damage_named(path, "a whole .npy file of a plain array"):
        return format.open_memmap(path, mode="r")


def holds_npy(path: str | Path, shape: tuple[int, ...]) -> bool:
    """Whether a file is an intact .npy file of uint8 of this shape."""
    try:
        array = map_npy(path)
    except (FileNotFoundError, ValueError):
        return False
    return array.shape == shape and array.dtype.name == "uint8"


def read_image(path: str | Path) -> Image.Image:
    """Read a PNG or JPEG as RGB.

    Raises ValueError for a damaged file, for more than 67 million pixels, and for grey levels of 16 bits, which Pillow
    would clip to 255; OSError.
    """
    from PIL import Image  # torchvision brings it

    with open_file(path) as file, damage_named(path, "an intact image"):
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > LARGEST_IMAGE:
                size = f"{image.width:,} × {image.height:,}"
                raise ValueError(f"it has {size} pixels, expected at most {LARGEST_IMAGE:,}")
            if image.mode.startswith(("I", "F")):
                raise ValueError("it has grey levels of 16 bits, expected 8")
            return image.convert("RGB")


def read_torch(path: str | Path) -> Any:
    """Load a file of ``torch.save`` on the CPU: plain tensors, numbers, strings and containers; no code is executed.

    Raises ValueError for a damaged file, for a web page or Git LFS pointer instead of the file, for other objects
    (names their types), for tensors that are sparse, nested, quantized or on the meta device, and for content that
    would need many times the file's size in memory; OSError.
    """
    import torch

    refused = ""
    with open_file(path) as file, damage_named(path, "an intact file of tensors"):
        size = os.fstat(file.fileno()).st_size
        if is_zipfile(file):  # torch.save does not compress
            with ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > size:
                    raise ValueError("its header declares more data than the file has")
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError) as error:
            if not (refused := why_refused(error, _types_in(file))):
                raise ValueError(mistaken_for_data(path) or without_advice(error)) from None
        else:
            tensors = list(_tensors(content))
            for tensor in tensors:
                if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
                    raise ValueError("it has a tensor that is sparse, nested, quantized or meta, expected dense ones")
            if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > SHARED * size:
                raise ValueError("its tensors are far larger than the file")
            return content
    raise ValueError(f"{path}: {refused}")


def why_refused(error: BaseException, types: Sequence[str] = ()) -> str:
    """Describe the content that ``torch.load`` refused to unpickle, with the remedy; "" for another error.

    PyTorch's message is left out, because it explains how to execute the file. ``types`` are the names of all refused
    types in the file, if they are known.
    """
    if "TorchScript archive" in str(error):
        return (
            "it is a TorchScript archive, which contains code; expected a state dict: save model.state_dict() with "
            "torch.save, or open the archive as package.module:function, a function that returns torch.jit.load(…)"
        )
    refused = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error))
    if not refused:
        return ""
    names = list(dict.fromkeys([refused[1], *types]))
    if calls := [name for name in names if _is_call(name)]:
        return (
            f"it calls {brief(calls[0])}, which could run any code and was not executed; expected tensors only. Get "
            "the weights from another source"
        )
    shown = ", ".join(map(brief, names[:3])) + ("" if len(names) <= 3 else f" and {len(names) - 3} more types")
    allowed = ", ".join(map(brief, names[:3])) + (", …" if len(names) > 3 else "")
    return (
        f"it contains {shown}, and only tensors, numbers, strings and containers are read, so that nothing in the file "
        "is executed. Save the state dict alone: torch.save(model.state_dict(), …). Or, if you trust the file and "
        f"these types, call torch.serialization.add_safe_globals([{allowed}]) in Python, then load it"
    )


def without_advice(error: BaseException) -> str:
    """The message of an error, without PyTorch's advice to execute a file that ``torch.load`` refused."""
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):
        return why_refused(error) or "truncated, or it contains more than tensors, which is not executed"
    return str(error)


def _is_call(name: str) -> bool:
    """Whether a pickle's global is a function, judged by its name; names of builtins have no module.

    Nothing is imported; in modules that are not imported, lower-case names count as functions.
    """
    if name.startswith((*_REBUILD, *_RUN)):
        return name.startswith(_RUN)
    module, dot, path = name.partition(".")
    value: Any = sys.modules.get(module) if dot else builtins
    for part in (path if dot else name).split("."):
        value = getattr(value, part, None)
    return not isinstance(value, type) if value is not None else name.rpartition(".")[2].islower()


def _types_in(file: BinaryIO) -> list[str]:
    """The names of types in a file of ``torch.save`` that ``torch.load`` would refuse; [] if they are not known."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    with suppress(Exception):  # damaged pickles, and files from before PyTorch 1.6
        file.seek(0)
        names = get_unsafe_globals_in_checkpoint(cast("IO[bytes]", file))
        return sorted(name.removeprefix("builtins.") for name in names)
    return []


def mistaken_for_data(path: str | Path) -> str:
    """Describe a web page or a Git LFS pointer that was saved in place of a file, with the remedy; "" for others."""
    with open_file(path) as file:
        head = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or download it"
    if head.startswith((b"<!doctype html", b"<html", b"<head")) or (head.startswith(b"<") and b"<html" in head):
        return (
            "it is an HTML page, not the file itself: download it again; the link may ask for a login or a confirmation"
        )
    if head.startswith(b"<?xml"):
        return "it is an XML text, such as a server's error, not the file itself: download it again"
    return ""


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError for a damaged file, as ``read_torch``; OSError."""
    import safetensors.torch

    open_file(path).close()
    with damage_named(path, "an intact safetensors file"):
        try:
            return safetensors.torch.load_file(path)
        except Exception as error:
            raise ValueError(mistaken_for_data(path) or str(error)) from error


@contextmanager
def damage_named(path: str | Path, expected: str) -> Iterator[None]:
    """Turn any exception from reading a damaged file into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = brief(str(error)) or type(error).__name__
        raise ValueError(f"{path}: not {expected} ({reason}); {REMEDY}") from error


def _tensors(content: object) -> Iterator[Tensor]:
    """All tensors in dicts and lists."""
    from torch import Tensor

    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | Sequence) and not isinstance(content, str | bytes):
        for item in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(item)
