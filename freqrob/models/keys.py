"""Keys of models and data in the result store.

A model's key is the SHA-256 of its tensors, its other attributes, its ``repr``, and the names of its classes and
functions. This determines the model if all classes and functions belong to installed releases (freqrob, Python or
``PACKAGES``, whose versions are part of the key) and nothing is hooked, replaced, compiled or scripted. Results of any
other model are cached only with a ``cache_key`` that identifies its code. Not detected: a function replaced in an
installed module at run time, such as ``torch.nn.functional.relu``.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from itertools import chain
from operator import attrgetter
from pathlib import Path
from platform import python_version
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqrob import __version__
from freqrob.models.state import hooks_of
from freqrob.runtime.files import expanded
from freqrob.runtime.parameters import stable_repr
from freqrob.runtime.tensors import update_digest
from freqrob.runtime.warning import warn
from freqrob.spectral import native

OWN = ("freqrob", "freqrob_foolbox", "freqrob_robustbench")
PACKAGES = ("torch", "torchvision", "numpy", "timm", "robustbench", "foolbox", "eagerpy")
PLAIN = {NoneType, bool, int, float, complex, str, bytes, range, torch.dtype, torch.device, torch.memory_format}
OF_ALL_MODULES = vars(nn.Module()).keys() | {"_compiled_call_impl"}
RANDOM = (random.Random, torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState)
DEEPEST = 60  # nested values


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's tensors, ``repr``, classes and attributes; the same on any device and in any process.

    Models that differ only in something else, such as the code of a user's class, may have the same hash: see
    ``usable_cache``. The caller's autocast is included because it changes the logits.
    """
    return hash_of(model)


def hash_of(subject: object) -> str:
    """``model_hash`` of models; for other objects, such as attacks, the SHA-256 of their class and attributes."""
    return _Description(subject).digest.hexdigest()


def unseen(*subjects: object) -> str:
    """The first part of models and attacks that the hash cannot identify, such as a user's class; "" if none."""
    return _Description(*subjects, tensors=False).unseen


def usable_cache(cache: str | Path | None, cache_key: str | None, *subjects: object) -> Path | None:
    """The folder ``cache`` if the key identifies the ``subjects`` (models and attacks); else None, with a warning.

    Raises ValueError for a ``cache_key`` that is empty or not a string.
    """
    if cache_key is not None and not (isinstance(cache_key, str) and cache_key):
        raise ValueError(f"cache_key: expected a non-empty string, got {cache_key!r}")
    if cache is None:
        return None
    if cache_key is None and (reason := unseen(*subjects)):
        warn(
            f"cache: nothing is cached, because a change of the code could not be detected ({reason}). To cache, pass "
            "a string that you change along with the code: cache_key=, or --cache-key"
        )
        return None
    return expanded(cache, "cache")


def shared_cache(cache: str | Path | None, cache_key: str | None, processes: int, *subjects: object) -> Path | None:
    """``usable_cache``; raises ValueError if several processes have no cache through which to share results."""
    folder = usable_cache(cache, cache_key, *subjects)
    if folder is None and processes > 1:
        name, expected = ("cache", "a folder that all processes share") if cache is None else ("cache_key", "a string")
        raise ValueError(f"{name}: {processes} processes share results in the cache; expected {expected}, got None")
    return folder


def subject_key(model: nn.Module, cache_key: str | None = None) -> dict[str, Any]:
    """The part of a cache key that identifies a model, its code and the code that measures it."""
    described = _Description(model)
    key = {"code": code_version(), "packages": sorted(described.releases), "model": described.digest.hexdigest()}
    return key if cache_key is None else {**key, "cache_key": cache_key}


@functools.cache
def code_version() -> str:
    """freqrob's version and a digest of its sources (with plug-ins and kernels) at the time of their import."""
    digest = hashlib.sha256()
    for folder in filter(None, map(_folder, OWN)):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    with suppress(native.NativeError):  # an installation without the kernels' sources
        digest.update(native.source_digest().encode())
    return f"{__version__} {digest.hexdigest()[:16]}"


class _Description:
    """A digest of models and attacks and of all values in them.

    Attributes:
        digest: SHA-256 of everything; meaningless with ``tensors=False``, which skips the tensors' values.
        unseen: a short description of the first part that the digest cannot identify; "" if there is none.
        releases: the packages, with versions, that classes and functions belong to.
    """

    def __init__(self, *subjects: object, tensors: bool = True) -> None:
        self.digest, self.unseen, self.releases = hashlib.sha256(), "", set[str]()
        self._tensors = tensors
        self._classes: dict[type, bool] = {}  # whether they are installed code
        self._met: dict[int, tuple[int, object]] = {}  # with the object, so that its id is not reused
        for subject in subjects:
            self._see(type(subject).__name__, subject)
            if isinstance(subject, nn.Module):
                self._add(stable_repr(subject), *_autocast(subject))
        if any(value for name, value in vars(nn.modules.module).items() if re.fullmatch("_global_.*_hooks", name)):
            self._note("there are hooks for all modules")

    def _add(self, *texts: str) -> None:
        self.digest.update("\0".join((*texts, "")).encode())

    def _note(self, unseen: str) -> None:
        self.unseen = self.unseen or unseen

    def _see(self, place: str, value: object) -> None:
        """Add a value and everything in it; ``place`` is its path, as in ``Sequential.0.weight``."""
        self._add(place, _name(type(value)))
        if type(value) in PLAIN or isinstance(value, np.dtype):
            self._add(repr(value))
        elif id(value) in self._met:
            self._add(f"met {self._met[id(value)][0]}")
        elif place.count(".") > DEEPEST:
            self._note(f"{place} is nested too deep")
        else:
            if not isinstance(value, tuple | frozenset):  # equal ones may or may not be the same object
                self._met[id(value)] = len(self._met), value
            self._see_new(place, value)

    def _see_new(self, place: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._see_tensor(place, value)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType | ModuleType):
            self._see_code(place, value)
        elif isinstance(value, RANDOM):
            self._note(f"{place} is {_article(type(value))}, whose state changes with its use")
        else:
            is_known = isinstance(value, MethodType) or self._see_class(place, type(value))
            if isinstance(value, nn.Module):
                self._check_module(place, value)
            if is_known or isinstance(value, nn.Module):
                self._see_parts(place, value)

    def _see_tensor(self, place: str, value: Tensor) -> None:
        is_plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
        if not is_plain or value.is_nested or value.is_meta or value.is_quantized:
            self._note(f"{place} is {_article(type(value))} without plain values")
        elif self._tensors:
            update_digest(self.digest, value)

    def _see_code(self, place: str, value: Any) -> None:
        """Add a class, function or module by name, and the defaults and closure of a function."""
        self._add(_name(value))
        if isinstance(value, FunctionType):
            self._add(str(value.__code__.co_firstlineno))
        if self._is_installed(place, value) and isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            self._see(f"{place}.closure", [value.__defaults__, value.__kwdefaults__, cells])

    def _see_class(self, place: str, kind: type) -> bool:
        """Add a class and its base classes; return whether all of them are installed code."""
        if kind not in self._classes:
            self._classes[kind] = all(self._is_installed(place, base) for base in kind.__mro__)
            for base in kind.__mro__ if self._classes[kind] else ():
                self._see_members(base)
        return self._classes[kind]

    def _see_members(self, kind: type) -> None:
        """Add the plain attributes of an installed class; its methods are known unless they were replaced."""
        for name, value in vars(kind).items():
            if type(value) in PLAIN and not name.startswith("__"):
                self._add(name, repr(value))
            wrapped = (getattr(value, inner, None) for inner in ("fget", "__func__", "func"))  # of properties, …
            code = inspect.unwrap(next(filter(None, wrapped), value))
            module = _module_of(code if isinstance(code, FunctionType) else type(code))
            if not _release(module) and module != f"namedtuple_{kind.__name__}":
                self._note(f"{_name(kind)}.{name} was replaced")

    def _see_parts(self, place: str, value: Any) -> None:
        try:
            parts = list(_parts(value))
        except Exception:  # third-party code may raise anything
            self._note(f"{place} is {_article(type(value))}, whose content is not known")
        else:
            for name, part in parts:
                self._see(f"{place}.{name}", part)

    def _check_module(self, place: str, module: nn.Module) -> None:
        attributes = vars(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._note(f"{place} is scripted or traced")
        if attributes.get("_compiled_call_impl") or type(module).__name__ == "OptimizedModule":
            self._note(f"{place} is compiled")
        if hooks_of(module):
            self._note(f"{place} has hooks")

    def _is_installed(self, place: str, value: Any) -> bool:
        """Whether a class, function or module belongs to an installed release, a class by its name there."""
        release = _release(_module_of(value))
        if not release or (isinstance(value, type) and _attribute(value.__module__, value.__qualname__) is not value):
            self._note(f"{place} is {_article(value)}")
            return False
        self.releases.add(release)
        return True


def _parts(value: Any) -> Iterator[tuple[object, object]]:
    """Names and values of the parts of an object, mostly as in a pickle, in the same order in every process."""
    if isinstance(value, nn.Module):
        yield from sorted((name, part) for name, part in vars(value).items() if name not in OF_ALL_MODULES)
        for held in (value._parameters, value._buffers, value._modules):
            yield from held.items()
    elif type(value) is dict:
        yield from enumerate(chain.from_iterable(value.items()))
    elif type(value) in (list, tuple):
        yield from enumerate(value)
    elif isinstance(value, set | frozenset):
        yield from enumerate(sorted(value, key=hash_of))
    else:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            raise TypeError(f"{reduced} is pickled by name, as a cached function is")
        for number, part in enumerate(reduced):
            if number == 2 and isinstance(part, dict):
                yield from part.items()
            else:
                yield number, [*part] if isinstance(part, Iterator) else part


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
    """The installed release that a module belongs to; "" for other packages and editable installations.

    freqrob's own modules are accepted in any folder: ``code_version`` covers them.
    """
    package = (module or "").partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    if package in OWN:
        return f"freqrob {__version__}"
    if package in sys.stdlib_module_names:
        standard = Path(sysconfig.get_path("stdlib")).resolve()
        return f"python {python_version()}" if not file or Path(file).resolve().is_relative_to(standard) else ""
    try:
        installed = distribution(package) if file and package in PACKAGES else None
    except PackageNotFoundError:
        installed = None
    if installed is None or Path(file).resolve().parent != Path(str(installed.locate_file(package))).resolve():
        return ""
    record = hashlib.sha256((installed.read_text("RECORD") or "").encode()).hexdigest()
    return f"{package} {installed.version} {record[:16]}"


def _folder(package: str) -> Path | None:
    """The folder of an importable package."""
    spec = find_spec(package)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def _module_of(value: Any) -> str | None:
    """The name of a module, or of the module of a class or (possibly wrapped) function."""
    if isinstance(value, ModuleType):
        return value.__name__
    return value.__globals__.get("__name__") if isinstance(value, FunctionType) else value.__module__


def _attribute(module: str, name: str) -> object:
    """The attribute of a module under a dotted name; None if there is none."""
    try:
        return attrgetter(name)(sys.modules.get(module))
    except AttributeError:
        return None


def _name(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{value.__qualname__}"


def _article(value: Any) -> str:
    """Name a value for messages: "a nets.Net" for a class (of an object), "nets.prepare" for a function."""
    name = _name(value).removeprefix("builtins.")
    return f"a {name}" if isinstance(value, type) else name


code_version()  # before any source is edited while this process runs
