"""The registry of diagnostics: how each measures a model, what it costs, and how it is shown.

A diagnostic is one file that registers a subclass of ``Diagnostic``. ``freqrob diagnose``, its help and table, and the
report iterate over the registry. The modules of ``freqrob.diagnostics`` are found in their folder; another package
needs one entry point per diagnostic, in the group ``freqrob.diagnostics``, which names the module that registers it::

    [project.entry-points."freqrob.diagnostics"]
    brightness = "my_package.brightness"
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from math import isnan
from pathlib import Path
from pkgutil import iter_modules
from string import Formatter
from typing import Any, ClassVar, Literal, TypeVar

from markupsafe import Markup, escape
from torch import Tensor

from freqrob.diagnostics.conditions import group_by_condition, value_in_words
from freqrob.diagnostics.drawing import Panel, Picture, Section, Styles
from freqrob.diagnostics.measurement import Measurement
from freqrob.runtime.parameters import checked, keyword_hints
from freqrob.runtime.registry import Registry

Preset = Literal["quick", "full"]
D = TypeVar("D", bound="type[Diagnostic]")


@dataclass(frozen=True)
class Column:
    """A number of a measurement, shown in tables.

    Attributes:
        label: name of its row in the table of ``freqrob diagnose``; "" if it is not shown there.
        value: function from a measurement to the number, NaN if there is none; None for a column that has only
            ``text``.
        text: function from a measurement to the text in the table of ``freqrob diagnose``; by default ``value`` with
            ``digits``.
        title: its heading in the report's summary, which may have markup; "" if it is not shown there.
        key: its name in the report.
        group: heading above its group of columns.
        unit: "%" for shares, which are shown times 100.
        digits: number of digits after the decimal point.
        help: its meaning, in a sentence.
        hint: how to read it, in a few words.
        none: the reason why a measurement may have no number.
        part: function from a measurement to the part of the images that the number covers; "" for all.
        is_compared: whether the findings compare it with robust accuracy.
        order: position among the columns, ascending.

    >>> column = Column("ln B_low", lambda measured: measured.log_b_low, digits=1)
    >>> from freqrob.diagnostics import JacobianSpectrum
    >>> import torch
    >>> column.shown(JacobianSpectrum(torch.ones(32, 17), log_b_low=3.53, batch=128, images=10))
    '3.5'
    """

    label: str = ""
    value: Callable[[Any], float] | None = None
    text: Callable[[Any], str] | None = None
    title: str = ""
    key: str = ""
    group: str = "diagnostics"
    unit: str = ""
    digits: int = 2
    help: str = ""
    hint: str = ""
    none: str = "not a number"
    part: Callable[[Any], str] = lambda measured: ""
    is_compared: bool = True
    order: int = 100

    def shown(self, measured: Measurement) -> str:
        """The number in the table of ``freqrob diagnose``."""
        if self.text is not None:
            return self.text(measured)
        value = self.value(measured) if self.value else float("nan")
        return number(value, f".{self.digits}{'%' if self.unit == '%' else 'f'}")


def number(value: float, spec: str) -> str:
    """A number by a format specification; "none" for NaN."""
    return "none" if isnan(value) else f"{value:{spec}}".replace("%", " %")


@dataclass(frozen=True)
class Measurements:
    """The measurements of several models; ``measurements["jacobian"]`` maps models to their measurement.

    Attributes:
        by_diagnostic: the measurements by diagnostic, then by model. Heat maps of a layer are called
            ``"fourier_heatmap_<layer>"``.
        sources: name of the measured images, by diagnostic and model, such as "cifar10 test".
        styles: style of each model in figures.
    """

    by_diagnostic: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, str]]
    styles: Styles

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return self.by_diagnostic.get(name, {})

    def names(self, start: str = "") -> list[str]:
        """The names of diagnostics that start with ``start``, in alphabetical order."""
        return sorted(name for name in self.by_diagnostic if name.startswith(start))

    def styles_of(self, name: str) -> Styles:
        """The styles of the models that have a measurement of that name."""
        return {model: self.styles[model] for model in self[name]}

    def in_words(self, name: str, field: str) -> str:
        """The values of a field: "500", "50 or 500"; the field ``source`` is the name of the measured images."""
        if field == "source":
            values = [*self.sources.get(name, {}).values()]
        else:
            values = [getattr(measured, field) for measured in self[name].values()]
        return " or ".join(dict.fromkeys(value_in_words(value, field) for value in values if value not in ("", [])))

    def conditions(self, name: str, model: str) -> dict[str, Any]:
        """The settings of a measurement and the source of its images."""
        return {"source": self.sources[name][model], **self[name][model].conditions}

    def group_by_condition(self, *names: str) -> dict[str, list[str]]:
        """Models, grouped by the conditions that differ between their measurements ``names`` of one kind."""
        models = [(name, model) for name in names for model in self[name]]
        labels = [model if len(names) == 1 else f"{model} ({name.rpartition('_')[2]})" for name, model in models]
        conditions = [self.conditions(name, model) for name, model in models]
        words = self[models[0][0]][models[0][1]].words if models else {}
        return group_by_condition(dict(zip(labels, conditions, strict=True)), words)

    def caption(self, name: str, text: str) -> Markup:
        """Fill in a text with markup: ``{images}`` and other fields become their ``in_words``."""
        fields = {field for _, field, *_ in Formatter().parse(text) if field}
        return Markup(text).format(**{field: self.in_words(name, field) for field in fields})


class Diagnostic:
    """Base class of diagnostics: how to measure, what it costs, and how it is shown.

    Attributes:
        name: its registered name.
        measure: function of (model, images, labels, **settings) that returns a ``measurement``. Its settings are its
            keyword-only parameters. It also takes ``batch_size``, ``cache``, ``cache_key`` and ``progress``, with the
            meaning that they have in ``per_sample``.
        measurement: the class of the result.
        help: description, in one line.
        presets: the settings of each preset, with ``images`` as the number of images (0 for all); a function of
            (height, width) gives a setting that depends on the images' size.
        columns: the numbers that tables show.
        plot: function of (measurements by model, axes, styles) that draws one panel with all models.
        section: section of the report's page that shows ``plot``.
        needs_gradients: whether it needs the gradient with respect to the images.
        streams: whether ``measure`` takes an ``ImageStream`` and reads it batch by batch; otherwise it gets tensors.
        package: a package that it needs besides freqrob's dependencies.
        order: position among the diagnostics, ascending.
    """

    name: str = ""
    measure: Callable[..., Measurement]
    measurement: type[Measurement]
    help: str = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "full": {}}
    columns: ClassVar[Sequence[Column]] = ()
    plot: Callable[..., Any] | None = None
    section: Section | None = None
    needs_gradients: bool = False
    streams: bool = False
    package: str = ""
    order: int = 100

    def cost(self, settings: Mapping[str, Any], size: tuple[int, int]) -> float:
        """Forward passes for each image of ``size`` (height, width).

        A backward pass counts as two, other work as the number of passes of an rn20 that take as long. ``settings`` has
        all settings and ``images``.
        """
        return 1

    def reads(self, settings: Mapping[str, Any]) -> int:
        """How often each image is read, for estimates of the time to decode images."""
        return 1

    def sees(self, images: Tensor) -> Tensor:
        """The images to measure on, computed from the data set's; not called for a diagnostic that ``streams``."""
        return images

    def figures(self, measurements: Measurements) -> Iterator[Picture]:
        """The report's figures of the measurements; by default one panel drawn by ``plot``, if given."""
        if self.plot is not None and measurements[self.name]:
            styles, about = measurements.styles_of(self.name), f"{self.help[:1].upper()}{self.help[1:]}"
            panel = Panel("", partial(self.plot, measurements[self.name], styles=styles))
            yield Picture(
                self.name, about, [panel], (6.4, 3.8), styles,
                section=self.section or Section(self.name, self.help, self.name),
                caption=escape(f"{about} ") + measurements.caption(self.name, "{images} images of {source}."),
            )  # fmt: skip

    def findings(self, measurements: Measurements) -> Iterator[Markup]:
        """Sentences about the measurements, besides those that compare ``columns`` with robust accuracy."""
        yield from ()

    @property
    def is_possible(self) -> bool:
        """Whether the package that it needs is installed."""
        return not self.package or find_spec(self.package) is not None

    @property
    def hints(self) -> dict[str, Any]:
        """The types of its settings, including ``images``, by name."""
        hints = {"images": int, **keyword_hints(self.measure)}
        return {name: hint for name, hint in hints.items() if name not in ("cache", "cache_key", "progress")}

    @property
    def defaults(self) -> dict[str, Any]:
        """The default values of its settings by name."""
        return {name: parameter.default for name, parameter in signature(self.measure).parameters.items()}


DIAGNOSTICS: Registry[Diagnostic] = Registry(
    "diagnostic",
    "freqrob.diagnostics",
    lambda value: isinstance(value, Diagnostic),
    "a module that registers a subclass of Diagnostic",
)


@checked
def register_diagnostic(name: str) -> Callable[[D], D]:
    """Decorator: register a subclass of ``Diagnostic`` under a name.

    Raises ValueError for an invalid or taken name; TypeError for a class without ``measure`` or ``measurement``, or if
    ``measure`` lacks ``batch_size``, ``cache``, ``cache_key``, ``progress`` or the type of a setting.
    """

    def make(kind: Any) -> Diagnostic:
        if not issubclass(kind, Diagnostic) or not hasattr(kind, "measure") or not hasattr(kind, "measurement"):
            raise TypeError(f"{name}: expected a subclass of Diagnostic with measure and measurement, got {kind!r}")
        diagnostic = kind()
        diagnostic.name = name
        _check_parameters(diagnostic)
        return diagnostic

    return DIAGNOSTICS.register(name, make)


def _check_parameters(diagnostic: Diagnostic) -> None:
    """Raise TypeError unless ``measure`` has the parameters of every diagnostic, and types for its settings."""
    parameters = signature(diagnostic.measure).parameters
    for name in ("batch_size", "cache", "cache_key", "progress"):
        if name not in parameters:
            raise TypeError(f"{diagnostic.name}: measure has no parameter {name!r}; pass it on to per_sample")
    for name, parameter in parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is parameter.empty:
            remedy = f"because --set {diagnostic.name}.{name}=… is checked against it"
            raise TypeError(f"{diagnostic.name}: measure: the setting {name!r} has no type; annotate it, {remedy}")


@checked
def list_diagnostics(pattern: str = "*") -> list[str]:
    """The names that match a shell-style pattern (``"loss*"``): freqrob's in their order, then those of other packages.

    Other packages are not imported. Warns of entry points that cannot be used.

    >>> list_diagnostics()[:3]
    ['jacobian', 'sensitivity', 'hybrid']
    """
    _import_builtin()
    offered = DIAGNOSTICS.offered()
    builtin = sorted(set(DIAGNOSTICS) - offered.keys(), key=lambda name: (DIAGNOSTICS[name].order, name))
    return [name for name in (*builtin, *sorted(offered)) if fnmatchcase(name, pattern)]


@checked
def get_diagnostic(name: str) -> Diagnostic:
    """Get the diagnostic of this name, and import it if it is another package's.

    Raises ValueError for an unknown name, with the nearest ones; ImportError or TypeError for a diagnostic of another
    package that cannot be imported or is not a ``Diagnostic``.

    >>> get_diagnostic("hybrid").presets["full"]
    {'images': 0}
    """
    _import_builtin()
    return DIAGNOSTICS.find(name)


def all_diagnostics() -> dict[str, Diagnostic]:
    """All diagnostics by name. Leaves out those of other packages that cannot be used, with a warning."""
    diagnostics = {}
    for name in list_diagnostics():
        try:
            diagnostics[name] = get_diagnostic(name)
        except (ImportError, TypeError) as error:
            warnings.warn(str(error), stacklevel=1)  # always from this line, so that it is shown once
    return diagnostics


@cache
def _import_builtin() -> None:
    for module in iter_modules([str(Path(__file__).parent)]):
        import_module(f"freqrob.diagnostics.{module.name}")
