"""The result of a diagnostic: a frozen dataclass of tensors and numbers, saved as NPZ and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_origin, get_type_hints

import torch
from torch import Tensor

from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import as_json, expanded, plain, write_npz
from freqrob.runtime.html import html_table
from freqrob.runtime.parameters import fits, shown, shown_hint
from freqrob.runtime.provenance import Provenance
from freqrob.runtime.reading import REMEDY, Label, brief, fitted, read_npz

Self = TypeVar("Self", bound="Measurement")
LARGEST = 1 << 28  # bytes of all arrays; those of real measurements have a few million


class About(Provenance, kw_only=True):
    """The entries of a measurement's file besides its values, where known."""

    model: Label = ""
    model_hash: Label = ""
    source: Label = ""
    from_cache: bool = False


class MeasurementFile(About, kw_only=True):
    """The JSON file of a measurement; ``values`` are the fields of its class that are not tensors."""

    kind: Label
    units: dict[str, str] = {}
    values: dict[str, Any]


MEASUREMENT = FileFormat("measurement", MeasurementFile)


def check_about(about: Mapping[str, Any] | None) -> None:
    """Raise ValueError, which names the argument, for entries that a measurement's file cannot hold."""
    fitted(json.loads(as_json(dict(about or {}), "about")), About, "about")


@dataclass(frozen=True)
class Quantity:
    """A note on a field: ``Annotated[Tensor, Quantity("rings", unit="cycles/pixel")]``.

    Attributes:
        dimensions: names of a tensor's dimensions, such as "seeds frequencies". A dimension named like a field has the
            field's length; any other, such as "rings", has the same length in all tensors.
        unit: "" if there is none.
        dtype: of a tensor; None for any floating-point type.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Profile(Measurement):
    ...     kind = "profile"
    ...     power: Annotated[Tensor, Quantity("rings", unit="pixels²")]
    ...     images: int
    >>> Profile(torch.ones(23), 10).units
    {'power': 'pixels²'}
    """

    dimensions: str = ""
    unit: str = ""
    dtype: torch.dtype | None = None


class Measurement:
    """Base class of the diagnostics' frozen dataclasses; fields are tensors or JSON values.

    Attributes:
        kind: name under which it is saved.
        settings: names of the fields that must be equal for measurements to be comparable.
        words: functions that format the values of ``settings`` in the report; by default "batch 128".
        images: a field of every subclass, the number of images.

    >>> import tempfile
    >>> import freqrob
    >>> from freqrob.data.samples import sample_images
    >>> from freqrob.diagnostics import JacobianSpectrum
    >>> samples, model = sample_images(), freqrob.load_model("standard_rn20")
    >>> measured = freqrob.diagnose(model, samples.images, samples.labels, only=["jacobian"])["jacobian"]
    >>> path = measured.save(tempfile.mkdtemp())
    >>> JacobianSpectrum.load(path.parent).amplitude.shape
    torch.Size([32, 17])
    """

    # Subclasses assign these without annotations: get_type_hints of Python 3.10 fails on a plain ClassVar.
    kind: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ("images",)
    words: ClassVar[Mapping[str, Callable[[Any], str]]] = {}
    images: int

    @property
    def suffix(self) -> str:
        """Part of the file name that distinguishes measurements of one kind, such as a layer's name."""
        return ""

    @property
    def file_name(self) -> str:
        """Kind, and suffix if there is one."""
        return "_".join(filter(None, (self.kind, self.suffix)))

    @property
    def conditions(self) -> dict[str, Any]:
        """The settings by name, as JSON values; 1 and 1.0 are equal."""
        hints, values = get_type_hints(type(self)), {name: getattr(self, name) for name in self.settings}
        plain: dict[str, Any] = {
            name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()
        }
        return {name: float(value) if hints.get(name) is float else value for name, value in plain.items()}

    @classmethod
    @cache
    def quantities(cls) -> dict[str, Quantity]:
        """``Quantity`` of each field that has one."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}

    @property
    def units(self) -> dict[str, str]:
        """Unit of each field that has one."""
        return {name: quantity.unit for name, quantity in self.quantities().items() if quantity.unit}

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Measurement.__repr__  # otherwise the dataclass would generate one that prints all numbers

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in self._texts().items())})"

    def _repr_html_(self) -> str:
        rounded = {name: f"{value:.6g}" for name, value in self.scalars().items() if isinstance(value, float)}
        rows = [[name, text, self.units.get(name, "")] for name, text in {**self._texts(), **rounded}.items()]
        return html_table(["field", "value", "unit"], rows, type(self).__name__)

    def _texts(self) -> dict[str, str]:
        """Each field in a few words: a tensor by its dtype and shape."""
        texts = {name: shown(value) for name, value in self.scalars().items()}
        tensors = self.tensors().items()
        return texts | {
            name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for name, tensor in tensors
        }

    def scalars(self) -> dict[str, Any]:
        """The fields that are not tensors."""
        return {name: value for name, value in self._values() if not isinstance(value, Tensor)}

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors."""
        return {name: value for name, value in self._values() if isinstance(value, Tensor)}

    def _values(self) -> list[tuple[str, Any]]:
        declared = fields(self)  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
        return [(field.name, getattr(self, field.name)) for field in declared]

    def save(self, folder: str | Path, name: str = "", about: Mapping[str, Any] | None = None) -> Path:
        """Write ``<name>.npz`` with the tensors, then ``<name>.json`` with the rest, units and ``about``.

        ``name`` is the kind by default, followed by ``_<suffix>`` if there is one; ``about`` describes the model, the
        data and the provenance. Returns the JSON's path. Both files are complete before they replace earlier ones;
        a number that is not finite is null in the JSON, and NaN when it is read. Raises OSError, or ValueError for an
        ``about`` that JSON cannot hold or that does not match ``About``.
        """
        name = "_".join(filter(None, (name, self.suffix))) if name else self.file_name
        path = expanded(folder, "folder") / f"{name}.json"
        values = {name: plain(value) for name, value in self.scalars().items()}
        content = {**(about or {}), "kind": self.kind, "units": self.units, "values": values}
        check_about(about)  # so that no NPZ is left without its JSON
        write_npz(path.with_suffix(".npz"), self.tensors())
        MEASUREMENT.write(path, content)
        return path

    @classmethod
    def load(cls: type[Self], folder: str | Path, name: str = "") -> Self:
        """Read what ``save`` wrote under that name.

        Raises FileNotFoundError, or ValueError, which names the file, if it is damaged or from another diagnostic.
        """
        path = expanded(folder, "folder") / f"{name or cls.kind}.json"
        try:
            values = MEASUREMENT.read(path).values
            values = {name: math.nan if value is None else value for name, value in values.items()}
            arrays = read_npz(path.with_suffix(".npz"), at_most=LARGEST)
            measurement = cls(**values, **{name: torch.from_numpy(array) for name, array in arrays.items()})
            measurement._check()
            return measurement
        except (ValueError, TypeError) as error:
            reason = brief(str(error).removeprefix(f"{path}: ").removesuffix(f"; {REMEDY}"))
            raise ValueError(f"{path}: not a measurement of {cls.kind} ({reason}); {REMEDY}") from error

    def _check(self) -> None:
        """Raise ValueError for a field of the wrong type or shape."""
        hints = get_type_hints(type(self))
        for name, value in self._values():
            if not fits(value, hints[name]):
                raise ValueError(f"{name}: expected {shown_hint(hints[name])}, got {value!r}")
            if isinstance(value, str):
                fitted(value, Label, name)  # pyright: ignore[reportArgumentType]  # an Annotated str is not a type[T]
        lengths = {name: len(value) if isinstance(value, list) else value for name, value in self.scalars().items()}
        tensors = self.tensors()
        for name, quantity in self.quantities().items():
            if (values := tensors.get(name)) is None:
                continue
            shape = tuple(values.shape)
            if values.dtype != quantity.dtype if quantity.dtype else not values.is_floating_point():
                raise ValueError(f"{name}: expected {quantity.dtype or 'floats'}, got {values.dtype}")
            dimensions = quantity.dimensions.split()
            lengths = dict(zip(dimensions, shape, strict=False)) | lengths
            expected = tuple(lengths.get(dimension, "any") for dimension in dimensions)
            if shape != expected:
                raise ValueError(f"{name}: expected shape ({', '.join(dimensions)}) = {expected}, got {shape}")
