"""Models of other packages, by the entry-point group ``freqrob.models``.

The name of an entry point is ``<dataset>.<threat model>.<model name>``. Its object is a function that returns the model
(an ``nn.Module`` for pixels (N, C, H, W) in [0, 1]) and is called with ``num_classes`` if it has that parameter::

    [project.entry-points."freqrob.models"]
    "cifar10.Linf.my_model" = "my_package:my_model"

These models are listed without importing the package, and loaded if freqrob has no model of that name.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from torch import nn

from freqrob.runtime.reading import without_advice
from freqrob.runtime.registry import installed, package_of
from freqrob.runtime.warning import warn

GROUP = "freqrob.models"


@dataclass(frozen=True)
class PluginModel:
    """A model that the package ``package`` offers."""

    name: str
    dataset: str
    threat_model: str
    package: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"model {self.name!r} for {self.dataset}, {self.threat_model} of package {self.package}"

    def open(self, num_classes: int) -> nn.Module:
        """Import the package and build the model.

        Raises ImportError, which names the package; ValueError as ``build`` and ``failures_named``.
        """
        with failures_named(str(self)):
            try:
                builder = self.entry_point.load()
            except (ImportError, AttributeError) as error:
                raise ImportError(f"{self} cannot be imported: {error}") from error
            return build(builder, str(self), num_classes)


def plugin_models() -> list[PluginModel]:
    """The models of the installed packages; malformed names are skipped with a warning."""
    models = []
    for entry_point in installed(GROUP):
        package = package_of(entry_point)
        parts = entry_point.name.split(".", 2)
        if len(parts) == 3:
            dataset, threat_model, name = parts
            models.append(PluginModel(name, dataset, threat_model, package, entry_point))
        else:
            expected = f"package {package}: entry point {entry_point.name!r} of {GROUP} is left out, expected a name"
            warn(f"{expected} <dataset>.<threat model>.<model name>")
    return models


def find_plugin(name: str, dataset: str, threat_model: str) -> PluginModel | None:
    """The plug-in model of this name. Raises ValueError when several packages offer it."""
    key = (name, dataset, threat_model)
    offered = [model for model in plugin_models() if (model.name, model.dataset, model.threat_model) == key]
    if len(offered) > 1:
        packages = " and ".join(sorted(model.package for model in offered))
        raise ValueError(f"model_name: {name!r} for {dataset}, {threat_model} is offered by {packages}: uninstall one")
    return offered[0] if offered else None


@contextmanager
def failures_named(source: str) -> Iterator[None]:
    """Turn any exception of third-party code into a one-line ValueError that names ``source``.

    ValueError, OSError and ImportError pass unchanged: their messages are written for users.
    """
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        message = without_advice(error)
        reason = " ".join(f"{type(error).__name__}: {message}".split()).removesuffix(":")
        raise ValueError(f"{source} failed: {reason}") from (error if message == str(error) else None)


def build(
    builder: Callable[..., nn.Module], source: str, num_classes: int, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """Call ``builder`` with the arguments, and with ``num_classes`` if it takes that and the arguments lack it.

    A ``builder`` that is already a model is returned unchanged. Raises ValueError, which names ``source``, if
    ``builder`` cannot be called with these arguments or does not return an ``nn.Module``.
    """
    if isinstance(builder, nn.Module):
        return builder
    arguments, taken = dict(arguments or {}), ""
    try:
        signature = inspect.signature(builder)
        taken = f"; it takes {', '.join(signature.parameters) or 'no arguments'}"
        if "num_classes" in signature.parameters:
            arguments.setdefault("num_classes", num_classes)
        signature.bind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} cannot be called with {arguments or 'no arguments'}: {error}{taken}") from error
    model = builder(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{source} returns a {type(model).__name__}, expected an nn.Module")
    return model
