"""``package.module:function``: models returned by a user's function."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import PurePath

from torch import nn

from freqrob.models.plugins import build
from freqrob.models.registry import Target, list_sources
from freqrob.models.sources.common import grammar, read_arguments
from freqrob.runtime.parameters import nearest_names


def open_function(spec: str, target: Target) -> nn.Module:
    """The function's model; the working directory is searched too. Raises ImportError if there is no such module."""
    path, arguments = read_arguments(spec)
    module_name, _, function_name = path.partition(":")
    with _importable_from(os.getcwd()):
        try:
            module = import_module(module_name)
        except (ImportError, TypeError, ValueError) as error:
            wrong = f"got {spec!r}, expected {grammar()}. Cannot import {path!r}: {error}."
            if module_name.endswith(".py"):
                wrong = f"got {spec!r}; write {_module_of(module_name)}:{function_name}"
            raise ImportError(f"model: {wrong}{nearest_names(module_name, list_sources())}") from error
        if not hasattr(module, function_name):
            hint = nearest_names(function_name, (name for name in vars(module) if not name.startswith("_")))
            if "=" in function_name:
                hint = f" Arguments are written {function_name.partition('=')[0]}?name=value."
            raise ValueError(f"model: {module_name} has no {function_name!r}.{hint}")
        return build(getattr(module, function_name), spec, target.num_classes, arguments)


def _module_of(file: str) -> str:
    """``"mine/nets.py"`` as a module: ``"mine.nets"``."""
    return ".".join(PurePath(file).with_suffix("").parts)


@contextmanager
def _importable_from(folder: str) -> Iterator[None]:
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
