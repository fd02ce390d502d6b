"""Registries: objects of one kind by name, from freqrob and from packages that extend it.

Another package registers an object by an entry point with the object's name::

    [project.entry-points."freqrob.defenses"]
    my_defense = "my_package.my_defense:MyDefense"

The name is known without importing the package; looking up the object imports it. The entry point may name only the
module if the module uses the decorator.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from freqrob.runtime.parameters import nearest_names, shown

T = TypeVar("T")
Decorated = TypeVar("Decorated")
_NAME = re.compile(r"[A-Za-z]\w*")
_FORM = "letters, digits and '_', a letter first"


class Registry(MutableMapping[str, T]):
    """Objects of one kind by name: freqrob's, in the order of their registration, then those of other packages.

    Args:
        kind: name of the kind in messages and arguments, such as ``"defense"``.
        group: the entry-point group of other packages.
        accepts: function that tells whether an object is of this kind.
        expected: description of the objects that ``accepts`` accepts.
        names: freqrob's names, if they must be known before their modules are imported.
        pattern, form: allowed names, as a regular expression and in words.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        accepts: Callable[[Any], bool] = callable,
        expected: str = "a callable",
        names: Sequence[str] = (),
        pattern: re.Pattern[str] = _NAME,
        form: str = _FORM,
    ) -> None:
        self.kind, self.group = kind, group
        self._pattern, self._form = pattern, form
        self._accepts, self._expected = accepts, expected
        self._own: dict[str, T | None] = dict.fromkeys(names)
        self._homes: dict[str, tuple[str, str]] = {}  # module and qualified name of the decorated object

    def register(self, name: str, make: Callable[[Any], T] = lambda value: value) -> Callable[[Decorated], Decorated]:
        """Decorator: add the decorated object, converted by ``make``, under a name.

        A repeated definition, as when a notebook cell is run again, replaces the earlier one. Raises ValueError when
        the name is taken or invalid, TypeError for an object of another kind.
        """
        if not isinstance(name, str) or not self._pattern.fullmatch(name):
            raise ValueError(f"name: got {shown(name)}, expected {self._form}")

        def add(value: Decorated) -> Decorated:
            home = getattr(value, "__module__", ""), getattr(value, "__qualname__", "<lambda>")
            made, before = make(value), self._homes.get(name)
            if self._own.get(name) is not None and (home != before or "<lambda>" in home[1]):
                by = f" by {before[0]}" if before else ""
                raise ValueError(f"name: {self.kind} {name!r} is already registered{by}; choose another name")
            self[name] = made
            self._homes[name] = home
            return value

        return add

    def matching(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a shell-style pattern (``"wrn*"``), without importing other packages."""
        return sorted(name for name in self if fnmatchcase(name, pattern))

    def find(self, name: str) -> T:
        """``registry[name]``, but an unknown name raises ValueError with the nearest names."""
        self.check(name)
        return self[name]

    def check(self, name: str) -> None:
        """Raise ValueError, with the nearest names, for an unknown name."""
        if name not in self:
            known = f"expected one of {', '.join(self.matching())}.{nearest_names(name, self)}"
            raise ValueError(f"{self.kind}: got {name!r}, {known}")

    def foreign(self) -> list[str]:
        """Sorted names that other packages registered."""
        return [name for name in self.matching() if self._package(name) != _top(__name__)]

    def offered(self) -> dict[str, EntryPoint]:
        """Entry points of other packages by name. Warns about unusable ones, and skips them."""
        offered: dict[str, EntryPoint] = {}
        for entry_point in installed(self.group):
            if not self._pattern.fullmatch(entry_point.name):
                reason = f"expected {self._form}"
            elif entry_point.name in self._own and self._package(entry_point.name) != _top(entry_point.value):
                reason = f"freqrob has a {self.kind} of this name"
            elif entry_point.name in offered:
                other = package_of(offered[entry_point.name])
                reason = f"package {other} offers one of this name; uninstall one of the two"
            else:
                offered[entry_point.name] = entry_point
                continue
            left_out = f"{self.kind} {entry_point.name!r} of package {package_of(entry_point)}: left out, {reason}"
            warnings.warn(left_out, stacklevel=1)  # always from this line, so that it is shown once
        return offered

    def __getitem__(self, name: str) -> T:
        """The object of that name; KeyError for an unknown one.

        Raises ImportError, which names the package, if it cannot be imported, its module does not register the object,
        or the object is of another kind.
        """
        if (value := self._own.get(name)) is not None:
            return value
        entry_point = self.offered()[name]
        source = f"{self.kind} {name!r} of package {package_of(entry_point)}"
        try:
            value = entry_point.load()
        except Exception as error:  # third-party code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}{_extra_for(entry_point, error)}".split())
            raise ImportError(f"{source} cannot be imported: {reason}") from error
        if (registered := self._own.get(name)) is not None:  # the module used the decorator
            return registered
        if isinstance(value, ModuleType):
            raise ImportError(f"{source} cannot be imported: {entry_point.value} does not register {name!r}")
        if not self._accepts(value):
            raise ImportError(f"{source}: got {shown(value)}, expected {self._expected}")
        return value

    def __setitem__(self, name: str, value: T) -> None:
        if not self._accepts(value):
            raise TypeError(f"{self.kind} {name!r}: got {shown(value)}, expected {self._expected}")
        self._own[name] = value

    def __delitem__(self, name: str) -> None:
        del self._own[name]
        self._homes.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self.offered()

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._own, *sorted(self.offered())])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _package(self, name: str) -> str:
        """The import name of the package that registered the name by the decorator; "" if none did."""
        return _top(self._homes.get(name, ("", ""))[0])


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group in the packages that can be imported now."""
    return _installed(group, tuple(map(str, sys.path)))


def package_of(entry_point: EntryPoint) -> str:
    """The name, for pip, of the package that an entry point belongs to."""
    return entry_point.dist.name if entry_point.dist else "unknown"


def _extra_for(entry_point: EntryPoint, error: Exception) -> str:
    """Installation hint for a missing module, if the package has an extra of the object's name."""
    extras = entry_point.dist.metadata.get_all("Provides-Extra") if entry_point.dist else None
    if not isinstance(error, ModuleNotFoundError) or entry_point.name not in (extras or ()):
        return ""
    return f"; pip install '{package_of(entry_point)}[{entry_point.name}]'"


@lru_cache(maxsize=64)
def _installed(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _top(module: str) -> str:
    return module.partition(":")[0].partition(".")[0]
