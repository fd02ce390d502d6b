"""Versioned JSON files: one definition per kind of file, for writing, for checks when reading, and for its schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from freqrob.runtime.files import write_json
from freqrob.runtime.reading import REMEDY, brief, decode_json, fitted, read_bytes

VERSION = "format"  # the key of a file's version number
_PYTHON_ANCHORS = re.compile(r"\\A(.*)\\Z", re.DOTALL)  # JSON Schema's ECMAScript patterns have only ^ and $


class _Head(Struct):
    format: Any = 1  # files of freqrob 0.1 have none


@dataclass(frozen=True, eq=False)
class FileFormat:
    """A kind of JSON file.

    A new key does not change ``version``, because readers ignore unknown keys; removing a key or changing its meaning
    does.

    Attributes:
        name: name of the schema.
        content: the type that the content is read as.
        version: the number in ``"format"``; a file without it has version 1.
        parts: stricter types of entries for which ``content`` allows any value, such as ``{"results": list[Result]}``.

    Example:
        >>> from msgspec import Struct
        >>> class Shelf(Struct):
        ...     books: list[str]
        >>> shelf = FileFormat("shelf", Shelf)
        >>> shelf.decode(b'{"format": 1, "books": ["Optics"]}', "shelf.json")
        Shelf(books=['Optics'])
        >>> shelf.decode(b'{"format": 2}', "shelf.json")
        Traceback (most recent call last):
        ...
        ValueError: shelf.json: has format 2, expected at most 1: it is of a newer freqrob; update freqrob
    """

    name: str
    content: Any
    version: int = 1
    parts: Mapping[str, Any] = field(default_factory=dict)

    def versioned(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content after the version number."""
        return {VERSION: self.version, **content}

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write the content with the version number. Raises OSError, or ValueError for what JSON cannot hold."""
        write_json(path, self.versioned(content))

    def read(self, path: str | Path) -> Any:
        """The content of a file. Raises ValueError, which names the file, as ``decode``; OSError."""
        return self.decode(read_bytes(path), path)

    def decode(self, content: bytes, source: str | Path) -> Any:
        """Read JSON as ``content``.

        Raises ValueError, which names ``source``, for invalid JSON, a newer version, and values of wrong types.
        """
        self._check_version(decode_json(content, source, _Head).format, source)
        return self._check_parts(decode_json(content, source, self.content), source)

    def fit(self, content: Mapping[str, Any], source: str | Path) -> Any:
        """``decode`` for a JSON object that was already parsed."""
        self._check_version(content.get(VERSION, 1), source)
        return self._check_parts(fitted(content, self.content, source), source)

    def _check_version(self, version: object, source: str | Path) -> None:
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            shown = brief(repr(version), 40)
            raise ValueError(f"{source}: has {VERSION} {shown}, expected a number from 1 to {self.version}; {REMEDY}")
        if version > self.version:
            expected = f"expected at most {self.version}"
            raise ValueError(f"{source}: has {VERSION} {version}, {expected}: it is of a newer freqrob; update freqrob")

    def _check_parts(self, content: Any, source: str | Path) -> Any:
        for name, kind in self.parts.items():
            fitted(getattr(content, name), kind, f"{source}: {name}")
        return content

    def schema(self) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of the files of this version."""
        kinds = [self.content, *self.parts.values()]
        (root, *parts), components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
        body = components.pop(root["$ref"].rpartition("/")[2])
        properties = {VERSION: {"const": self.version}, **body["properties"], **dict(zip(self.parts, parts))}  # noqa: B905
        return _portable({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "type": "object",
            "properties": properties,
            "required": [VERSION, *body.get("required", ())],
            **({"$defs": components} if components else {}),
        })  # fmt: skip


def _portable(schema: Any) -> Any:
    """A schema without class names and docstrings, and with patterns that every validator knows."""
    if isinstance(schema, Mapping):
        docstring = "description" if isinstance(schema.get("description"), str) else None  # not a property's name
        inner = {key: _portable(value) for key, value in schema.items() if key != docstring}
        if isinstance(inner.get("pattern"), str):
            inner["pattern"] = _PYTHON_ANCHORS.sub(r"^\1$", inner["pattern"])
        return inner
    return [_portable(value) for value in schema] if isinstance(schema, list | tuple) else schema
