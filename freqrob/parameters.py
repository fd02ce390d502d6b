"""Parameters: as people write them on a command line, and what they have to be."""

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from inspect import signature
from math import inf, isfinite
from numbers import Integral
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def read_setting(text: str) -> tuple[str, Any]:
    """``"steps=3"`` as ("steps", 3); values are JSON, fractions such as 8/255, or text. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"--set: expected KEY=VALUE, got {text!r}")
    plain = {"none": "null"}.get(value.lower(), value.lower())
    for read in (json.loads, lambda _: json.loads(plain), lambda number: float(Fraction(number))):
        try:
            return key, read(value)
        except (ValueError, ZeroDivisionError):
            continue
    return key, value


def keyword_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's keyword-only parameters, by name."""
    parameters, hints = signature(function).parameters.values(), get_type_hints(function)
    return {one.name: hints[one.name] for one in parameters if one.kind is one.KEYWORD_ONLY}


def shown_hint(hint: Any) -> str:
    """``Sequence[int]``, ``float | None``, ``int``."""
    if get_origin(hint) in (Union, UnionType):  # spelled alike: for a default of None, Python 3.10 gives Optional
        return " | ".join(shown_hint(one) for one in get_args(hint))
    if hint is NoneType:
        return "None"
    return re.sub(r"\b(collections\.abc|typing)\.", "", str(hint)) if get_args(hint) else hint.__name__


def fits(value: object, hint: Any) -> bool:
    """Whether a value that JSON may hold is of a type such as ``float``, ``int | None`` or ``Sequence[int]``."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in of)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(one, of[0]) for one in value)
    if origin is list:
        return isinstance(value, list) and all(fits(one, of[0]) for one in value)
    if origin is Literal:
        return value in of
    if hint in (int, float):
        return is_number(value) and (hint is float or isinstance(value, Integral))
    return isinstance(value, hint)


def check_pixels(**values: float) -> None:
    """Raise ValueError unless each is a distance in pixels of [0, 1]."""
    for name, value in values.items():
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f"{name}: expected pixels in (0, 1], such as 8/255, got {value!r}")


def check_positive(**values: float) -> None:
    """Raise ValueError unless each is a finite number above 0."""
    for name, value in values.items():
        if not is_number(value) or not 0 < value < inf:
            raise ValueError(f"{name}: expected a positive number, got {value!r}")


def check_integers(least: int, **values: int) -> None:
    """Raise ValueError unless each is an integer from ``least`` on."""
    for name, value in values.items():
        if not fits(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer from {least} on, got {value!r}")


def check_counts(**values: int) -> None:
    """Raise ValueError unless each is an integer from 1 on."""
    check_integers(1, **values)


def check_seeds(**values: int) -> None:
    """Raise ValueError unless each is an integer from 0 on, and less than 2⁶³."""
    check_integers(0, **values)
    for name, value in values.items():
        if value >= 2**63:
            raise ValueError(f"{name}: expected an integer below 2^63, got {value}")


def check_weights(**values: float) -> None:
    """Raise ValueError unless each is a finite number."""
    for name, value in values.items():
        if not is_number(value) or not isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value!r}")


def is_number(value: object) -> bool:
    """Whether it is an integer, NumPy's too, or a float, and no bool."""
    return isinstance(value, Integral | float) and not isinstance(value, bool)
