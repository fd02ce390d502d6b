"""Per-sample results on disk: a run that was killed goes on, and nothing is measured twice."""

from __future__ import annotations

import hashlib
import inspect
import json
import operator
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from logging import Logger
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from freqrob.files import temporary_beside, write_synced

DONE = "done"


class Samples:
    """Named values of each of ``count`` samples, kept in one file that any number of processes may share.

    The file is ``<prefix>-<hash of key>.safetensors``: each value a tensor (count, …), ``done`` (count,) bool, and
    ``key`` as JSON in its metadata. Each ``put`` replaces it by a whole one. A file that is truncated or is another
    key's is set aside under the ending ``.damaged``, with a warning, and its samples are measured anew.

    Args:
        folder: where the file lies, created if absent; None keeps everything in memory.
        key: all that the values depend on, such as ``model_hash``, ``data_hash`` and an attack's parameters.
        count: of samples.
        prefix: of the file's name, for people.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, Any], count: int, prefix: str = "samples") -> None:
        self.key = json.dumps(key, sort_keys=True, allow_nan=False, default=operator.index)
        self.done = torch.zeros(count, dtype=torch.bool)
        self._values: dict[str, Tensor] = {}
        self.path = None
        if folder is not None:
            digest = hashlib.sha256(self.key.encode()).hexdigest()[:20]
            self.path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', prefix)}-{digest}.safetensors"
            with self._locked():
                self._merge(self._read())

    def __getitem__(self, name: str) -> Tensor:
        """A value of all samples, (count, …); where a sample is not ``done`` it is zero. Raises KeyError."""
        return self._values[name]

    def remaining(self) -> Tensor:
        """The numbers of the samples that are not done, ascending."""
        return (~self.done).nonzero().flatten()

    def put(self, index: Tensor | slice, **values: Tensor) -> None:
        """Keep the values of some samples, in the order of ``index``; what other processes put meanwhile is read.

        The same names every time. Raises ValueError for other names, types or shapes than those before, OSError when
        writing fails (a full disk), with the earlier file intact.
        """
        index = torch.arange(len(self.done))[index.cpu() if isinstance(index, Tensor) else index]
        with self._locked():
            self._merge(self._read())
            self._check(values, len(index))
            for name, value in values.items():
                if name not in self._values:
                    self._values[name] = value.new_zeros((len(self.done), *value.shape[1:]), device="cpu")
                self._values[name][index] = value.detach().cpu()
            self.done[index] = True
            self._write()

    def _check(self, values: Mapping[str, Tensor], count: int) -> None:
        if not values or DONE in values or (self._values and values.keys() != self._values.keys()):
            raise ValueError(f"values: got {', '.join(values)}, expected {', '.join(self._values) or 'some'}")
        for name, value in values.items():
            known = self._values.get(name, value)
            if value.dtype != known.dtype or value.shape != (count, *known.shape[1:]):
                expected = f"{known.dtype} {(count, *known.shape[1:])}"
                raise ValueError(f"{name}: got {value.dtype} {tuple(value.shape)}, expected {expected}")

    def _merge(self, found: Mapping[str, Tensor]) -> None:
        """Take what a file has and this process has not."""
        if not found:
            return
        new = found[DONE] & ~self.done
        for name in found.keys() - {DONE}:
            self._values.setdefault(name, torch.zeros_like(found[name]))[new] = found[name][new]
        self.done |= new

    def _read(self) -> dict[str, Tensor]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                key = (file.metadata() or {}).get("key")
            sizes = {len(tensor) for tensor in tensors.values()}
            if key == self.key and DONE in tensors and sizes == {len(self.done)}:
                return tensors
            reason = "it holds something else"
        except (SafetensorError, TypeError) as error:  # TypeError: a tensor without a length
            reason = str(error)
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        warnings.warn(f"{self.path}: not usable ({reason}); set aside as {aside.name}, measured anew", stacklevel=4)
        return {}

    def _write(self) -> None:
        if self.path is None:
            return
        content = safetensors.torch.save({**self._values, DONE: self.done}, {"key": self.key})
        try:
            with temporary_beside(self.path) as new:
                write_synced(new, content)
                os.replace(new, self.path)
        except OSError as error:
            reason = f"could not write {self.path}: {error.strerror or error}; what was there before is intact"
            raise OSError(error.errno, reason) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that share the folder; what one that was killed left unfinished is removed."""
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.parent / ".lock")
        try:
            lock.acquire()
            for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)
        except NotImplementedError:  # a file system that cannot lock
            pass
        try:
            yield
        finally:
            lock.release()


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model: its modules' classes, their code, how they print, what they hold; on any device.

    What they hold is parameters, buffers and attributes: numbers, texts, tensors, arrays, functions with what they
    close over, other objects with theirs, and containers of them. Of torch's classes it sees the names only, and
    nothing global. Under a caller's autocast, which changes what the model answers, it is another one; so it is after
    calls that change an attribute, such as a count.
    """
    walk = _Walk()
    walk.module(model)
    kinds = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    for kind in sorted(kinds or {"cpu"}):
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            walk.digest.update(f"autocast {torch.get_autocast_dtype(kind)}".encode())
    return walk.digest.hexdigest()


OF_ALL_MODULES = vars(nn.Module()).keys() | {"_compiled_call_impl"}
DEEPEST = 100  # objects in objects, of which the deeper ones give their type alone


class _Walk:
    """A digest of all that is reached from a model, each object once: a second time it is known by its number."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.met: dict[int, tuple[int, object]] = {}  # with the object, whose id is not given to another one then

    def module(self, model: nn.Module, depth: int = 0) -> None:
        self.digest.update(_printed(model))
        for _, module in model.named_modules():
            self.met.setdefault(id(module), (len(self.met), module))
        for name, module in model.named_modules():
            kind = type(module)
            code = module.code if isinstance(module, torch.fx.GraphModule) else "".join(map(_source, kind.__mro__))
            self.digest.update(f"{name} {kind.__module__}.{kind.__qualname__}\n{code}".encode())
            for key in () if _is_of_torch(kind) else sorted(vars(module).keys() - OF_ALL_MODULES):
                self.digest.update(key.encode())
                self.value(vars(module)[key], depth + 1)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.digest.update(name.encode())
            _update(self.digest, tensor)

    def value(self, value: object, depth: int) -> None:
        self.digest.update(type(value).__qualname__.encode())
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
            self.digest.update(repr(value).encode())
        elif isinstance(value, tuple | frozenset | CodeType):  # which the compiler may make one of
            self.parts(value, depth)
        elif id(value) in self.met:
            self.digest.update(f"met {self.met[id(value)][0]}".encode())
        elif depth < DEEPEST and not isinstance(value, ModuleType | torch.device):
            self.met[id(value)] = len(self.met), value
            self.parts(value, depth)

    def parts(self, value: Any, depth: int) -> None:
        """Add what an object is made of."""
        parts: Sequence[Any] = ()
        if isinstance(value, Tensor):
            _update(self.digest, value if value.layout is torch.strided else value.to_dense())
        elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            self.digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, nn.Module):
            self.module(value, depth)
        elif isinstance(value, Logger):
            self.digest.update(value.name.encode())
        elif isinstance(value, Mapping):
            parts = [*chain.from_iterable(value.items())]
        elif isinstance(value, list | tuple):
            parts = value
        elif isinstance(value, set | frozenset):
            parts = sorted(_digest_of(one, depth + 1) for one in value)
        elif isinstance(value, partial):
            parts = value.func, value.args, value.keywords
        elif isinstance(value, MethodType):
            parts = value.__func__, value.__self__
        elif isinstance(value, CodeType):
            parts = value.co_code, value.co_names, value.co_consts
        elif isinstance(value, FunctionType):
            compiled = getattr(value, "_torchdynamo_orig_callable", None)
            parts = [compiled or value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__]
        elif isinstance(value, CellType):
            with suppress(ValueError):  # an empty one
                parts = (value.cell_contents,)
        elif isinstance(value, type):
            self.digest.update("".join([value.__qualname__, *map(_source, value.__mro__)]).encode())
        elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
            self.digest.update("".join(map(_source, type(value).__mro__)).encode())
            parts = [part for name in _attributes(value) for part in (name, getattr(value, name))]
        else:
            self.digest.update(_printed(value))
        self.digest.update(f"({len(parts)})".encode())
        for one in parts:
            self.value(one, depth + 1)


def _digest_of(value: object, depth: int) -> str:
    walk = _Walk()
    walk.value(value, depth)
    return walk.digest.hexdigest()


def _attributes(value: object) -> list[str]:
    """The names of what an object holds, sorted."""
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    names = {name for some in slots for name in ([some] if isinstance(some, str) else some)}
    held = vars(value) if hasattr(value, "__dict__") else {}
    return sorted(held.keys() | {name for name in names if not name.startswith("__") and hasattr(value, name)})


def _printed(value: object) -> bytes:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).encode()  # addresses differ between runs


def _source(kind: type) -> str:
    """The code of a class, where it is to be had and does not come with torch."""
    try:
        return "" if _is_of_torch(kind) else inspect.getsource(kind)
    except (OSError, TypeError):  # typed in, or built in
        return ""


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def data_hash(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of images and labels, their types and shapes; on any device the same."""
    digest = hashlib.sha256()
    for tensor in (images, labels):
        _update(digest, tensor)
    return digest.hexdigest()


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
