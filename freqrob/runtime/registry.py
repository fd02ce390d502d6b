"""Things that are found by name: freqrob's own, which register themselves, and those of other packages.

A package offers one by an entry point of the registry's group, whose name is the name and whose object is the thing::

    [project.entry-points."freqrob.attacks"]
    my_attack = "my_package:MyAttack"

It is listed without importing the package, and imported when it is asked for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from freqrob.parameters import checked, nearest_names, shown

T = TypeVar("T")
Given = TypeVar("Given")


class Registry(Generic[T]):
    """A mapping from names to things of one kind, in the order in which they were registered.

    Args:
        kind: what they are, which is also the argument that messages name: "attack".
        home: the package that registers freqrob's own when it is imported.
        group: of entry points.
    """

    def __init__(self, kind: str, home: str, group: str) -> None:
        self.kind, self.home, self.group = kind, home, group
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Given], Given]:
        """A decorator that registers what it is put on, under a name of lower-case letters, digits and "_".

        Raises ValueError for another name, or one that is taken.
        """
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"name: expected lower-case letters, digits and _, got {shown(name)}")

        def add(thing: Given) -> Given:
            if name in self._known:
                raise ValueError(f"name: the {self.kind} {name!r} is registered already; choose another name")
            self._known[name] = thing
            return thing

        return add

    @checked
    def names(self, pattern: str = "*") -> list[str]:
        """The names that match a pattern such as ``"*pgd*"``: freqrob's own, then those of other packages."""
        return [name for name in self if fnmatchcase(name, pattern)]

    @property
    def own(self) -> dict[str, T]:
        """freqrob's own, and what this process has registered."""
        import_module(self.home)
        return self._known

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *self._offered]))

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __getitem__(self, name: str) -> T:
        """Raises ValueError, with the nearest names, for an unknown one, and ImportError as ``_load``."""
        names = list(self)
        if name not in names:
            near = nearest_names(name, names) if isinstance(name, str) else ""
            raise ValueError(f"{self.kind}: expected one of {', '.join(names)}, got {shown(name)}{near and '.' + near}")
        return self._known[name] if name in self._known else self._load(name)

    def items(self) -> list[tuple[str, T]]:
        """All of them; those that cannot be imported are left out, with a warning."""
        found = []
        for name in self:
            try:
                found.append((name, self[name]))
            except ImportError as error:
                warnings.warn(str(error), stacklevel=2)
        return found

    @property
    def _offered(self) -> dict[str, EntryPoint]:
        """What other packages offer; a name that several packages have, or freqrob, is the first one's."""
        offered: dict[str, EntryPoint] = {}
        for entry_point in entry_points(group=self.group):
            offered.setdefault(entry_point.name, entry_point)
        return offered

    def _load(self, name: str) -> T:
        entry_point = self._offered[name]
        try:
            return entry_point.load()
        except Exception as error:  # whatever another package's code raises
            package = entry_point.dist.name if entry_point.dist else "unknown"
            said = " ".join(f"{type(error).__name__}: {error}".split())
            about = f"{self.kind}: {name!r} of package {package} cannot be imported ({said})"
            raise ImportError(f"{about}; install what it needs") from error
