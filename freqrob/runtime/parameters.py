"""Parse parameters from a command line, and check types and ranges.

``checked`` checks the types of a function's arguments and converts numbers of NumPy and PyTorch to Python's, so that
``np.float32(0.5)`` and ``0.5`` give the same cards, JSON files and cache keys. ``check_*`` functions check ranges.
"""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache, partial, wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

F = TypeVar("F", bound=Callable[..., Any])
LARGEST = sys.float_info.max

# Number types whose range ``checked`` also checks; each ``Meta`` describes its limit for messages
_INT64 = Meta(le=2**63 - 1, description="an integer below 2^63")  # PyTorch's limit
Count = Annotated[int, Meta(ge=1, description="an integer ≥ 1"), _INT64]
Natural = Annotated[int, Meta(ge=0, description="an integer ≥ 0"), _INT64]
Pixels = Annotated[float, Meta(gt=0, le=1, description="pixels in (0, 1], such as 8/255")]
Positive = Annotated[float, Meta(gt=0, le=LARGEST, description="a positive number")]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST, description="a number ≥ 0")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number in [0, 1]")]
Weight = Annotated[float, Meta(ge=-LARGEST, le=LARGEST, description="a finite number")]


def read_number(text: str) -> float:
    """Parse a number such as 8/255 or 0.03. Raises ValueError."""
    try:
        return float(text) if "/" not in text else float(Fraction(text))
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"expected a number such as 8/255 or 0.03, got {shown(text)}") from error


def pixels(value: float, norm: str = "Linf", digits: int = 6) -> str:
    """Format a distance: 8/255, 0.25/255 or 0.031 in L∞, 0.5 in L2; grey levels are rounded to some digits."""
    levels = round(255 * value, digits)
    is_plain = levels.is_integer() or (levels < 10 and (4 * levels).is_integer())
    return f"{levels:g}/255" if norm == "Linf" and is_plain else f"{value:g}"


def read_setting(text: str) -> tuple[str, Any]:
    """Parse ``"steps=3"`` into ("steps", 3); values are JSON, fractions such as 8/255, or text. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"--set: expected KEY=VALUE, got {text!r}")
    plain = {"none": "null"}.get(value.lower(), value.lower())
    for read in (json.loads, lambda _: json.loads(plain), read_number):
        try:
            return key, read(value)
        except ValueError:
            continue
    return key, value


def keyword_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's keyword-only parameters, by name."""
    parameters, hints = signature(function).parameters.values(), get_type_hints(function)
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def shown_hint(hint: Any) -> str:
    """``Sequence[int]``, ``float | None``, ``int``; ``true or false`` for ``bool``."""
    if get_origin(hint) in (Union, UnionType):  # normalised: for a default of None, Python 3.10 gives Optional
        return " | ".join(shown_hint(part) for part in get_args(hint))
    if get_args(hint):
        return re.sub(r"\b(\w+\.)+(?=\w)", "", str(hint))
    name = getattr(hint, "__name__", str(hint))
    return {"bool": "true or false", "Tensor": "a torch.Tensor", "NoneType": "None"}.get(name, name)


def fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 - a kind of type each
    """Whether a value is of a type such as ``float``, ``int | None``, ``Sequence[int]`` or ``Callable[..., Tensor]``.

    A bool is not a number, a string is a path but not a sequence. For ``nn.Module`` any callable is accepted, such as a
    Foolbox model; ``freqrob.models.sources.as_module`` is stricter.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, tuple({type(argument) for argument in arguments})) and value in arguments
    if origin in (Sequence, list, tuple):
        is_sequence = isinstance(value, origin) and not isinstance(value, str | bytes)
        return is_sequence and all(fits(item, arguments[0]) for item in value)
    if origin in (Mapping, dict):
        is_mapping = isinstance(value, origin)
        return is_mapping and all(fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in value.items())
    if hint in (int, float):
        return is_number(value) and (hint is float or isinstance(value, Integral))
    if hint is Path:
        return isinstance(value, str | os.PathLike)
    if getattr(hint, "__module__", "").startswith("torch.nn."):
        return callable(value) and not isinstance(value, type)
    if origin is Callable:
        return callable(value)
    kind = origin or hint
    return not isinstance(kind, type) or (isinstance(value, kind) and not (kind is Iterable and isinstance(value, str)))


def to_python(value: Any, hint: Any) -> Any:
    """Convert a value to Python's numbers and strings if ``hint`` contains them; return other values unchanged.

    For ``float``, ``np.float32(0.5)``, ``torch.tensor(0.5)``, ``Fraction(1, 2)`` and 0-dimensional arrays become 0.5,
    and the integer 1 becomes 1.0. One-dimensional arrays and tensors become lists for ``Sequence[float]``, lists become
    tuples for ``tuple[int, ...]``.
    """
    if type(value) is hint:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        converted = [to_python(value, argument) for argument in arguments]
        return next((new for new, argument in zip(converted, arguments, strict=True) if fits(new, argument)), value)
    if origin in (Sequence, Iterable, list, tuple) and arguments:
        if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
            value = value.tolist()
        kind = tuple if origin is tuple else type(value)
        return kind(to_python(item, arguments[0]) for item in value) if type(value) in (list, tuple) else value
    if hint in (int, float, bool, str) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        with suppress(RuntimeError, ValueError):  # a tensor on the meta device, which has no values
            value = value.item()
    if hint in (int, float) and fits(value, hint):
        with suppress(OverflowError):
            return hint(value)
    return value


def checked(subject: F) -> F:
    """Decorator: check the arguments of a function, or of a class's ``__init__``, by their annotations.

    Each argument goes through ``to_python``. A call raises errors that name the argument: ValueError if a string, path,
    bool or choice is expected, TypeError if another type is. Types such as ``Count`` and ``Pixels`` also limit a
    number's range; the function itself checks other numbers and sequences of numbers.
    """
    if isinstance(subject, type):
        subject.__init__ = checked(subject.__init__)  # pyright: ignore[reportAttributeAccessIssue]
        return cast(F, subject)
    arguments = signature(subject)
    variadic = {p.name for p in arguments.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    hints = cache(lambda: get_type_hints(subject))  # not before the first call, when all modules are imported
    limits = cache(lambda: get_type_hints(subject, include_extras=True))

    @wraps(subject)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            given = arguments.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in arguments.parameters]
            hint = nearest_names(unknown[0], arguments.parameters) if unknown and not variadic else ""
            raise TypeError(f"{subject.__qualname__.removesuffix('.__init__')}: {error}{hint and '.' + hint}") from None
        for name, value in given.arguments.items():
            if name in hints() and name not in variadic:
                given.arguments[name] = _checked(name, value, hints()[name], limits()[name])
        return subject(*given.args, **given.kwargs)

    return cast(F, checking)


def _checked(name: str, value: Any, hint: Any, limited: Any) -> Any:
    value = to_python(value, hint)
    if limited != hint:
        return _in_limits(name, value, limited)
    if _mentions(hint, int, float) or fits(value, hint):
        return value
    if isinstance(value, str) and (
        literals := [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
    ):
        check_choices([choice for literal in literals for choice in get_args(literal)], **{name: value})
    error = ValueError if _mentions(hint, str, bool, Path, Literal) else TypeError
    remedy = _remedy(name, value, hint)
    got = shown(value) if isinstance(value, str) or not remedy else type(value).__name__
    raise error(f"{name}: expected {shown_hint(hint)}, got {got}{remedy}")


def _remedy(name: str, value: Any, hint: Any) -> str:
    """The call that converts the value to the expected tensor, list or model; "" if there is none."""
    if isinstance(value, str):
        if fits([value], hint):
            return f"; use [{shown(value)}]"
        is_model = getattr(hint, "__module__", "").startswith("torch.nn.")
        return f"; use freqrob.models.open_model({shown(value)})" if is_model else ""
    if "torch.Tensor" not in shown_hint(hint):
        return ""
    from freqrob.runtime.pixels import tensor_remedy  # imports torch

    return tensor_remedy(value, name)


def _in_limits(name: str, value: Any, limited: Any) -> Any:
    """Return a value within limits such as those of ``Pixels | None``. Raises ValueError, which describes the limit."""
    if value is None and type(None) in get_args(limited):
        return None
    annotated = next(hint for hint in (limited, *get_args(limited)) if get_origin(hint) is Annotated)
    for limit in annotated.__metadata__:
        try:
            value = msgspec.convert(value, Annotated[annotated.__origin__, limit])  # also converts Decimals
        except msgspec.ValidationError as error:
            raise ValueError(f"{name}: expected {limit.description}, got {shown(value)}") from error
    return value


def _mentions(hint: Any, *kinds: Any) -> bool:
    """Whether a type hint is or contains one of the given types: ``Sequence[int] | None`` contains ``int``."""
    origin = get_origin(hint)
    parts = () if origin is Callable else get_args(hint)
    return hint in kinds or origin in kinds or any(_mentions(part, *kinds) for part in parts)


def shown(value: object) -> str:
    """Shortened ``repr`` of numbers, strings, lists and classes; for other objects, their type."""
    text = type(value).__name__
    if isinstance(value, str | Real | list | tuple | None | type):
        with suppress(ValueError):  # an integer of more digits than Python prints
            text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def stable_repr(value: object) -> str:
    """``repr`` without memory addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def nearest_names(name: str, known: Iterable[str]) -> str:
    """``" Nearest: a, b."`` from ``known``, ignoring case, or "" if none is similar."""
    by_lower_case = {candidate.lower(): candidate for candidate in sorted(known)}
    nearest = difflib.get_close_matches(name[:100].lower(), by_lower_case, n=3, cutoff=0.5)
    return f" Nearest: {', '.join(by_lower_case[key] for key in nearest)}." if nearest else ""


def check_choices(known: Iterable[str], **values: str) -> None:
    """Raise ValueError, with the nearest names, unless each is one of the ``known`` names."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in known:
            hint = nearest_names(value, known) if isinstance(value, str) else ""
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {shown(value)}{hint and '.' + hint}")


def check_integers(least: int, most: int | None = None, **values: int) -> None:
    """Raise ValueError unless each is an integer from ``least`` to ``most`` that fits into PyTorch's int64."""
    for name, value in values.items():
        if not fits(value, int) or value < least or (most is not None and value > most):
            limits = f"≥ {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name}: expected an integer {limits}, got {shown(value)}")
        if value >= 2**63:
            raise ValueError(f"{name}: expected an integer below 2^63, got {value}")


check_counts = partial(check_integers, 1)
check_seeds = partial(check_integers, 0)


def is_number(value: object) -> bool:
    """Whether a value is a real number, including NumPy's, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)
