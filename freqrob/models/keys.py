"""What stands for a model and data in the cache, and when nothing can.

The digest of a model covers its tensors, its ``repr``, and the classes and attributes of its modules. It determines the
model where every class and function is code of an installed release (freqrob's or that of ``PACKAGES``, whose versions
are part of the cache's key), every attribute is a plain value or holds such, and nothing is hooked, replaced, compiled
or scripted. Other models are not cached, unless the caller gives a ``cache_key`` that stands for their code. What a
process replaces in the namespace of an installed module, such as ``torch.nn.functional.relu``, is not seen.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from logging import Logger
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqrob import __version__
from freqrob.runtime.parameters import stable_repr
from freqrob.runtime.tensors import check_values
from freqrob.spectral import native

OWN = ("freqrob", "freqrob_foolbox", "freqrob_robustbench")
PACKAGES = ("torch", "torchvision", "timm", "robustbench", "foolbox", "eagerpy")
PLAIN = {NoneType, bool, int, float, complex, str, bytes, range, torch.dtype, torch.device, torch.memory_format}
OF_ALL_MODULES = vars(nn.Module()).keys() | {"_compiled_call_impl"}
DEEPEST = 60  # values in values


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's tensors, ``repr``, classes and attributes; the same on any device and in any process.

    Models that differ elsewhere, such as in the code of a user's class, may share it: see ``usable_cache``. The
    caller's autocast, which changes what the model answers, is part of it.
    """
    return hash_of(model)


def hash_of(subject: object) -> str:
    """``model_hash`` of models; of other objects, such as attacks, SHA-256 of their class and attributes."""
    return _Walk.of(subject).digest.hexdigest()


def data_hash(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of images and labels, their types and shapes; the same on any device."""
    digest = hashlib.sha256()
    for tensor in (images, labels):
        _update(digest, tensor)
    return digest.hexdigest()


def unseen(*subjects: object) -> str:
    """The first thing that no hash of models and attacks determines, such as a user's class; "" if there is none."""
    return _Walk.of(*subjects, tensors=False).unseen


def usable_cache(cache: str | Path | None, cache_key: str | None, *subjects: object) -> Path | None:
    """The folder ``cache`` where a key stands for the ``subjects``, models and attacks; else None, with a warning.

    Raises ValueError for a ``cache_key`` that is not a string, or empty.
    """
    if cache_key is not None and not (isinstance(cache_key, str) and cache_key):
        raise ValueError(f"cache_key: expected a string, not empty, got {cache_key!r}")
    if cache is None:
        return None
    if cache_key is None and (reason := unseen(*subjects)):
        warnings.warn(
            f"cache: nothing is cached, because a change of the code could not be noticed ({reason}). To cache, give a "
            "string that you change along with the code: cache_key=, or --cache-key",
            stacklevel=3,
        )
        return None
    return Path(cache)


def shared_cache(cache: str | Path | None, cache_key: str | None, processes: int, *subjects: object) -> Path | None:
    """As ``usable_cache``; raises ValueError where several processes would have no cache to share results in."""
    folder = usable_cache(cache, cache_key, *subjects)
    if folder is None and processes > 1:
        name, expected = ("cache", "a folder that all processes share") if cache is None else ("cache_key", "a string")
        raise ValueError(f"{name}: {processes} processes share results in the cache; expected {expected}, got None")
    return folder


def subject_key(model: nn.Module, cache_key: str | None = None) -> dict[str, Any]:
    """What stands in a cache's key for a model and for the code that it runs and is measured by."""
    walk = _Walk.of(model)
    key = {"code": code_version(), "packages": sorted(walk.releases), "model": walk.digest.hexdigest()}
    return key if cache_key is None else {**key, "cache_key": cache_key}


@functools.cache
def code_version() -> str:
    """freqrob's version and a digest of its sources as this process found them, its plug-ins' and kernels' included."""
    digest = hashlib.sha256()
    for folder in filter(None, map(_folder, OWN)):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    with suppress(native.NativeError):  # an installation without the kernels' sources
        digest.update(native.source_digest().encode())
    return f"{__version__} {digest.hexdigest()[:16]}"


class _Walk:
    """Feeds a digest with what there is in models and attacks.

    Attributes:
        unseen: the first thing found that the digest does not determine, in a few words; "" if there is none.
        releases: the packages, with their versions, that classes and functions belong to.
    """

    def __init__(self, tensors: bool) -> None:
        self.tensors, self.digest, self.unseen = tensors, hashlib.sha256(), ""
        self.releases: set[str] = set()
        self.classes: dict[type, bool] = {}  # whether they are known code
        self.where: list[str] = []
        self.met: dict[int, tuple[int, object]] = {}  # with the object, so that its id is given to no other

    @classmethod
    def of(cls, *subjects: object, tensors: bool = True) -> _Walk:
        """A walk through everything; without ``tensors`` their values are not read, and the digest means nothing."""
        walk = cls(tensors)
        for subject in subjects:
            walk.see(type(subject).__name__, subject)
            if isinstance(subject, nn.Module):
                walk.add(stable_repr(subject), *_autocast(subject))
        if any(value for name, value in vars(nn.modules.module).items() if re.fullmatch("_global_.*_hooks", name)):
            walk.note("there are hooks for all modules")
        return walk

    def add(self, *texts: str) -> None:
        self.digest.update("\0".join((*texts, "")).encode())

    def note(self, unseen: str) -> None:
        self.unseen = self.unseen or unseen

    @property
    def here(self) -> str:
        return ".".join(self.where)

    def see(self, name: str, value: object) -> None:
        """Add a value, under the name that it has where it was found."""
        self.where.append(name)
        self.add(name, _name(type(value)))
        if type(value) in PLAIN:
            self.add(repr(value))
        elif id(value) in self.met:
            self.add(f"met {self.met[id(value)][0]}")
        elif len(self.where) > DEEPEST:
            self.note(f"{self.here} is nested too deep")
        else:
            if not isinstance(value, tuple | frozenset):  # equal ones may or may not be the same object
                self.met[id(value)] = len(self.met), value
            self._see_new(value)
        self.add("end")
        self.where.pop()

    def _see_new(self, value: Any) -> None:
        if isinstance(value, Tensor | np.ndarray | np.generic):
            self._see_array(value)
        elif isinstance(value, type | BuiltinFunctionType):
            self.add(_name(value))
            self._see_named(value)
        elif isinstance(value, FunctionType):
            self._see_function(value)
        elif isinstance(value, ModuleType):
            self.add(value.__name__)
            self._check_release(value.__name__, value.__name__)
        elif isinstance(value, nn.Module):
            self._see_class(type(value))
            self._see_module(value)
        elif isinstance(value, MethodType) or self._see_class(type(value)):
            for name, part in self._parts(value):
                self.see(name, part)

    def _see_array(self, value: Any) -> None:
        if isinstance(value, Tensor) and _has_values(value):
            if self.tensors:
                _update(self.digest, value)
        elif (type(value) is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
            self.add(str(value.dtype), str(value.shape))
            self.digest.update(value.tobytes())
        else:
            self.note(f"{self.here} is {_article(type(value))} without plain values")

    def _see_module(self, module: nn.Module) -> None:
        held = vars(module)
        if isinstance(module, torch.jit.ScriptModule):
            self.note(f"{self.here} is scripted or traced")
        if held.get("_compiled_call_impl") or type(module).__name__ == "OptimizedModule":
            self.note(f"{self.here} is compiled")
        if any(name.endswith("_hooks") and "state_dict" not in name and value for name, value in held.items()):
            self.note(f"{self.here} has hooks")
        for name in sorted(held.keys() - OF_ALL_MODULES):
            self.see(name, held[name])
        for holder in (module._parameters, module._buffers, module._modules):
            for name, value in holder.items():
                self.see(name, value)

    def _parts(self, value: Any) -> Iterable[tuple[str, object]]:
        """What an object of a known class consists of."""
        if isinstance(value, dict):
            made_by = [("default_factory", value.default_factory)] if isinstance(value, defaultdict) else []
            return made_by + [(str(number), part) for number, item in enumerate(value.items()) for part in item]
        if isinstance(value, list | tuple):
            return [(str(number), part) for number, part in enumerate(value)]
        if isinstance(value, set | frozenset):  # in an order that is the same in every process
            return [(str(number), part) for number, part in enumerate(sorted(value, key=hash_of))]
        if isinstance(value, partial):
            return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        if isinstance(value, MethodType):
            return [("func", value.__func__), ("self", value.__self__)]
        if isinstance(value, Logger):  # what it is connected with differs between processes
            return [("name", value.name)]
        if not (hasattr(value, "__dict__") or hasattr(value, "__slots__")) or _hides_state(type(value)):
            self.note(f"{self.here} is {_article(type(value))}")
        return sorted(_attributes(value).items())

    def _see_class(self, kind: type) -> bool:
        """Add a class and those that it inherits from, once; whether all of them are known code."""
        if kind not in self.classes:
            self.classes[kind] = all(self._see_named(one) for one in kind.__mro__)
            for one in kind.__mro__ if self.classes[kind] else ():
                self._see_members(one)
        return self.classes[kind]

    def _see_members(self, kind: type) -> None:
        """Add the plain attributes of a known class; its methods are known unless they were replaced."""
        for name, value in vars(kind).items():
            if type(value) in PLAIN and not name.startswith("__"):
                self.add(name, repr(value))
            wrapped = (getattr(value, inner, None) for inner in ("fget", "__func__", "func"))  # of properties, …
            code = inspect.unwrap(next(filter(None, wrapped), value))
            module = code.__globals__.get("__name__") if isinstance(code, FunctionType) else type(code).__module__
            if not _release(module) and module != f"namedtuple_{kind.__name__}":
                self.note(f"{_name(kind)}.{name} was replaced")

    def _see_named(self, value: Any) -> bool:
        """Whether a class or built-in function is what an installed release has under its name."""
        found = any(_found(value.__module__, name) is value for name in (value.__qualname__, value.__name__))
        return self._check_release(value.__module__ if found else None, _article(value))

    def _see_function(self, function: FunctionType) -> None:
        """Add where a function stands, and what it is given by its defaults and closes over."""
        self.add(_name(function), str(function.__code__.co_firstlineno))
        if not self._check_release(function.__globals__.get("__name__"), _name(function)):
            return
        self.see("defaults", function.__defaults__)
        self.see("kwdefaults", function.__kwdefaults__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty one
                self.see(name, cell.cell_contents)

    def _check_release(self, module: str | None, what: str) -> bool:
        """Whether a module, where something is defined, belongs to an installed release."""
        if release := _release(module):
            self.releases.add(release)
        else:
            self.note(f"{self.here} is {what}")
        return bool(release)


def _autocast(model: nn.Module) -> list[str]:
    """The caller's autocast on the model's devices."""
    kinds = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} or {"cpu"}
    return [
        f"autocast {torch.get_autocast_dtype(kind)}"
        for kind in sorted(kinds)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    ]


@functools.cache
def _release(module: str | None) -> str:
    """The installed release that a module belongs to, "" for one of no known package or in an editable installation.

    freqrob's own modules are known wherever they lie: ``code_version`` covers them.
    """
    package = (module or "").partition(".")[0]
    if package in sys.stdlib_module_names:
        return f"python {sys.version.partition(' ')[0]}" if _is_standard(package) else ""
    if package in OWN:
        return f"freqrob {__version__}"
    try:
        found = distribution(package) if package in PACKAGES else None
    except PackageNotFoundError:
        found = None
    if found is None or _folder(package) != Path(str(found.locate_file(package))).resolve():
        return ""
    record = hashlib.sha256((found.read_text("RECORD") or "").encode()).hexdigest()
    return f"{package} {found.version} {record[:16]}"


def _is_standard(package: str) -> bool:
    """Whether a module with a name of the standard library's is that one, and not a file of the user's."""
    path, standard = getattr(sys.modules.get(package), "__file__", None), Path(sysconfig.get_path("stdlib")).resolve()
    return path is None or Path(path).resolve().is_relative_to(standard)


def _folder(package: str) -> Path | None:
    """Where an importable package lies."""
    spec = find_spec(package)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def _found(module: str | None, name: str) -> object:
    """What a module has under a dotted name."""
    owner = sys.modules.get(module or "")
    return functools.reduce(lambda owner, part: getattr(owner, part, None), name.split("."), owner)


def _hides_state(kind: type) -> bool:
    """Whether a class, or one that it inherits from, is made in C, and so may hold more than its attributes."""
    if issubclass(kind, Enum):  # whose value is one of them
        return False
    made = (vars(one).get("__new__") for one in kind.__mro__ if one not in (object, SimpleNamespace))
    return any(isinstance(new, BuiltinFunctionType) for new in made)


def _attributes(value: object) -> dict[str, object]:
    """What an object holds in its ``__dict__`` and its slots."""
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    names = {name for some in slots for name in ([some] if isinstance(some, str) else some)}
    held = {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}
    return held | getattr(value, "__dict__", {})


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _article(value: Any) -> str:
    """ "a nets.Net" of a class's object, "nets.prepare" of a function."""
    name = _name(value).removeprefix("builtins.")
    return f"a {name}" if isinstance(value, type) else name


def _has_values(tensor: Tensor) -> bool:
    """Whether it is a plain dense tensor: no subclass, not sparse, nested, quantised or on the meta device."""
    try:
        check_values(tensor, "")
    except TypeError:
        return False
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_quantized


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten().view(torch.uint8).numpy())


code_version()  # before any source is edited while this process runs
