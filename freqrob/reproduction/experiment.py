"""A table or figure of a paper as a runnable experiment: its rows, measurements, printed numbers and claims.

An experiment is a subclass of ``Experiment``, registered with ``@experiment("lin2023:table1")``. ``freqrob reproduce``,
its list and the summary of all results iterate over the registry. The modules of ``freqrob.reproduction`` are found in
their folder; another package needs one entry point per experiment, in the group ``freqrob.experiments``, which names
the module that registers it::

    [project.entry-points."freqrob.experiments"]
    "doe2026:table1" = "my_package.doe2026"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from math import hypot, isfinite, isnan, nan
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import checked
from freqrob.runtime.registry import Registry
from freqrob.training import Recipe, parse_settings, recipe_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from freqrob.reproduction.lab import Lab

Verdict = Literal["holds", "does not hold", "within noise", "not measured"]
E = TypeVar("E", bound="type[Experiment]")


@dataclass(frozen=True)
class Paper:
    """A paper: its key in the names of experiments, and how it is cited."""

    key: str
    short: str
    citation: str


@dataclass(frozen=True)
class Number:
    """A value and its standard error (for printed numbers the paper's standard deviation); NaN if unknown.

    The error is over images. Each model is trained once, so it does not include the variation between training runs.
    """

    value: float = nan
    error: float = nan

    @classmethod
    def percentage(cls, share: float, count: int) -> Number:
        """A share of ``count`` images in percent, with the binomial standard error.

        The error is computed with two more successes and two more failures (Agresti & Coull 1998), so that it is not 0
        for 0 % of a few images.

        >>> Number.percentage(0.5, 96)
        Number(value=50.0, error=5.0)
        """
        moderate = (share * count + 2) / (count + 4)
        return cls(100 * share, 100 * (moderate * (1 - moderate) / (count + 4)) ** 0.5)

    @property
    def known_error(self) -> float:
        """The error, 0 if it is unknown."""
        return 0.0 if isnan(self.error) else self.error

    def __str__(self) -> str:
        """The value to two digits of its error, or four digits of a value without one; integers without decimals.

        >>> print(Number(35.912, 0.48), Number(0.22574))
        35.91±0.48 0.2257
        """
        if isnan(self.value):
            return "–"
        if isnan(self.error) or self.error == 0:
            is_whole = isfinite(self.value) and self.value == int(self.value) and abs(self.value) < 1e6
            return f"{self.value:,.0f}" if is_whole else f"{self.value:.4g}"
        digits = max(0, 1 - int(f"{self.error:e}".partition("e")[2]))
        return f"{self.value:.{digits}f}±{self.error:.{digits}f}"

    def __sub__(self, other: Number) -> Number:
        """The difference. Unknown errors count as 0."""
        return Number(self.value - other.value, hypot(self.known_error, other.known_error))


@dataclass(frozen=True)
class Numbers:
    """Numbers by row and column; ``numbers["row", "column"]`` is ``Number()``, NaN, if it is missing."""

    by_row: Mapping[str, Mapping[str, Number]]

    def __getitem__(self, cell: tuple[str, str]) -> Number:
        row, column = cell
        return self.by_row.get(row, {}).get(column, Number())

    def column(self, column: str) -> dict[str, Number]:
        """The rows that have a number in this column."""
        return {row: self[row, column] for row in self.by_row if not isnan(self[row, column].value)}


@dataclass(frozen=True)
class Judgement:
    """A verdict, and as text the numbers that it is based on."""

    verdict: Verdict
    evidence: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and its criterion.

    Attributes:
        text: the statement, in the paper's words.
        where: its place, such as "Section 4.1".
        criterion: when the statement holds, in words; the paper's own criterion if it gives one.
        judge: function from the measured numbers to a ``Judgement``; see ``freqrob.reproduction.criteria``.
    """

    text: str
    where: str
    criterion: str
    judge: Callable[[Numbers], Judgement]


@dataclass(frozen=True)
class Column:
    """A measured quantity: its name, unit ("%", "cycles/pixel"), and how it is measured, in a sentence."""

    name: str
    unit: str = ""
    help: str = ""


@dataclass(frozen=True)
class Scale:
    """The size of networks, schedules and measurements.

    Attributes:
        name: "paper" for the paper's scale, "rn20" for one that two CPU cores can do.
        small: replacements of the paper's architectures; empty at the paper's scale. Rows with an architecture without
            replacement are left out.
        images: the number of images of each kind of measurement; 0 for the whole test set.
    """

    name: str
    small: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)

    def architecture(self, name: str) -> str | None:
        """The replacement of the paper's architecture; None if there is none."""
        return self.small.get(name) if self.small else name

    def count(self, kind: str) -> int | None:
        """The number of images of a kind of measurement; None for all."""
        return self.images.get(kind, 0) or None


_SMALL = {"rn18": "rn20", "prn18_jafr": "rn20", "wrn40_2": "rn20"}
_FEW = {
    "autoattack": 200, "corruptions": 1000, "sensitivity": 1000, "hybrid": 1000, "minimal_perturbation": 100,
    "loss_landscape": 200, "pgd-50-10": 1000,
}  # fmt: skip
SCALES = {
    scale.name: scale for scale in (Scale("rn20", _SMALL, _FEW), Scale("paper", images={"minimal_perturbation": 1000}))
}
"""The scales by name. At ``rn20``, a ResNet-20 replaces ResNet-18 and WRN-40-2; at most 10,000 test images are used."""
IMAGE_KINDS = ("accuracy", "jacobian", "spectrum", *_FEW)  # kinds of measurement with their own number of images


@dataclass(frozen=True)
class Subject:
    """A row of a table, or a point or curve of a figure: what is measured.

    Attributes:
        row: its name, the same at every scale.
        recipe: name of the recipe that trains its model; "" if no recipe does.
        dataset: data set of training and measurement.
        settings: changes of the recipe, as for ``freqrob train --set``: ``("gamma=0.25",)``.
        model: the model's name as for ``freqrob evaluate``, if it is not trained by a recipe: "robustbench:NAME".
        threat_model: the threat model of ``model``.
        front_end: a front end that is put before ``model`` without training, as on a card; None for none.
        options: further settings for the experiment's ``measure``, such as the protocol.
    """

    row: str
    recipe: str = ""
    dataset: str = "cifar10"
    settings: tuple[str, ...] = ()
    model: str = ""
    threat_model: str = "Linf"
    front_end: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The name under which its model is saved and loaded: the recipe's name with the changed settings."""
        changed = (re.sub(r"[^\w.+-]+", "_", text.replace("=", "-")) for text in self.settings)
        return self.model or "-".join([self.recipe, *changed])

    def full_recipe(self) -> Recipe:
        """The recipe with all its settings. Raises ValueError for settings that it does not have."""
        return recipe_for(self.recipe, self.dataset, **parse_settings(self.recipe, self.settings))

    def at_scale(self, scale: Scale) -> Subject | None:
        """The subject with the scale's architecture; None if the recipe's has no replacement."""
        if not self.recipe:
            return self
        parsed = ModelName.parse(self.recipe)
        architecture = scale.architecture(parsed.architecture)
        if architecture is None:
            return None
        name = self.recipe.removesuffix(parsed.architecture) + architecture
        return Subject(self.row, name, self.dataset, self.settings, options=self.options)


@dataclass(frozen=True)
class Measured:
    """What an experiment measured for a subject: numbers by column, and arrays for the figure."""

    numbers: Mapping[str, Number]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Everything that an experiment measured, for its figure.

    Attributes:
        numbers: the numbers by row and column.
        arrays: the arrays by row and name.
        subjects: the subjects by row.
    """

    numbers: Numbers
    arrays: Mapping[str, Mapping[str, Tensor]]
    subjects: Mapping[str, Subject]


class Experiment:
    """Base class of experiments.

    Attributes:
        name: its registered name, ``"<paper>:<table or figure>"``.
        paper: the paper.
        where: the table, figure or section.
        title: what it shows; the paper's caption, shortened.
        needs: what the user must provide besides the data sets of its recipes, in words; "" for nothing.
        question: False for the paper's claims, True for an additional question about the same models.
        subjects: its rows, with the paper's recipes.
        columns: its measured quantities.
        printed: the paper's numbers by row and column.
        claims: the paper's statements about it.
        takes_models: whether other models may be measured instead, each as a new row.
        transposed: whether the paper prints its rows as columns.
    """

    name: str = ""
    paper: Paper
    where: str = ""
    title: str = ""
    needs: str = ""
    question: bool = False
    subjects: Sequence[Subject] = ()
    columns: Sequence[Column] = ()
    printed: Mapping[str, Mapping[str, Number]] = {}
    claims: Sequence[Claim] = ()
    takes_models: bool = False
    transposed: bool = False

    def subjects_at(self, scale: Scale) -> list[Subject]:
        """The subjects that can be measured at a scale."""
        return [small for subject in self.subjects if (small := subject.at_scale(scale)) is not None]

    def conditions(self, scale: Scale) -> Mapping[str, Any]:
        """The settings of the measurement to record, as JSON values: numbers of images, attacks, protocols."""
        raise NotImplementedError

    def measure(self, subject: Subject, model: nn.Module | None, lab: Lab) -> Measured:
        """Measure a subject, with its model on the lab's device, under ``conditions(lab.scale)``.

        ``model`` is None for subjects without a recipe or model. Raises FileNotFoundError or ImportError if data or a
        package is missing, which the row then records.
        """
        raise NotImplementedError

    def plot(self, outcome: Outcome, figure: Figure) -> None:
        """Draw the figure in the paper's form. Tables need none."""
        raise NotImplementedError

    @property
    def is_drawn(self) -> bool:
        return type(self).plot is not Experiment.plot


EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment",
    "freqrob.experiments",
    lambda value: isinstance(value, Experiment),
    "a module that registers a subclass of Experiment",
    pattern=re.compile(r"[A-Za-z]\w*:\w+"),
    form="PAPER:TABLE, of letters, digits and '_'",
)


@checked
def experiment(name: str) -> Callable[[E], E]:
    """Decorator: register a subclass of ``Experiment`` as ``"<paper>:<table or figure>"``.

    Raises ValueError for an invalid or taken name, TypeError for a class that measures nothing or has no paper.
    """

    def make(kind: Any) -> Experiment:
        complete = isinstance(kind, type) and issubclass(kind, Experiment) and kind.measure is not Experiment.measure
        if not complete or not hasattr(kind, "paper"):
            raise TypeError(f"{name}: expected a subclass of Experiment with paper and measure, got {kind!r}")
        made = kind()
        made.name = name
        return made

    return EXPERIMENTS.register(name, make)


@checked
def list_experiments(pattern: str = "*") -> list[str]:
    """The names that match a shell-style pattern (``"lin2023:*"``): freqrob's, then those of other packages.

    >>> list_experiments("chan2022:table[12]")
    ['chan2022:table1', 'chan2022:table2']
    """
    place = {module: number for number, module in enumerate(_import_builtin())}
    names = sorted(EXPERIMENTS, key=lambda name: place.get(name.partition(":")[0], len(place)))
    return [name for name in names if fnmatchcase(name, pattern)]


@checked
def get_experiment(name: str) -> Experiment:
    """Get the experiment of this name. Raises ValueError, with the nearest names, for an unknown one.

    >>> get_experiment("lin2023:theorem1").title
    'Limits of the spectral entropy of a power law'
    """
    _import_builtin()
    return EXPERIMENTS.find(name)


def all_experiments() -> Iterator[Experiment]:
    """All experiments, in the order of ``list_experiments``."""
    return map(get_experiment, list_experiments())


@cache
def _import_builtin() -> list[str]:
    """Import the modules of the papers, and the others here; their names in a fixed order."""
    names = [module.name for module in iter_modules([str(Path(__file__).parent)])]
    for name in names:
        import_module(f"freqrob.reproduction.{name}")
    return names
