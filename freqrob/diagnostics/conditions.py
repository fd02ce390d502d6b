"""Conditions of measurements, in words, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from freqrob.data.hybrid import MIXING_FREQUENCIES

Conditions = Mapping[str, Any]


def described(conditions: Conditions) -> str:
    """Conditions in words, such as "500 images of cifar10 test, batch 128": what reads alike is alike."""
    left = dict(conditions)
    words = [images_of(left.pop("images"), left.pop("source", ""))] if "images" in left else []
    return ", ".join(words + [_word(name, value) for name, value in left.items()])


def unlike(measured: Mapping[str, Conditions]) -> dict[str, list[str]]:
    """The names of measurements of a kind by the conditions in which some differ; nothing where none do."""
    every = next(iter(measured.values()), {})
    differing = [key for key in every if len({_word(key, conditions[key]) for conditions in measured.values()}) > 1]
    groups: dict[str, list[str]] = {}
    for name, conditions in measured.items() if differing else ():
        groups.setdefault(described({key: conditions[key] for key in differing}), []).append(name)
    return groups


def images_of(count: int, source: str) -> str:
    """How many images of what, such as "500 images of cifar10 test"."""
    return f"{count:,} images" + (f" of {source}" if source else "")


def pixels(value: float) -> str:
    """As people write them: 8/255, 0.031."""
    levels = round(255.0 * value, 3)
    return f"{levels:g}/255" if levels.is_integer() else f"{value:g}"


def ball(norm: str, eps: float) -> str:
    """A ball in words, such as "L∞, ε = 8/255"."""
    return f"L∞, ε = {pixels(eps)}" if norm == "Linf" else f"{norm}, ε = {eps:g}"


def value_in_words(value: Any, name: str) -> str:
    """A setting's value: "10,000", "0, 1", "8/255"."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "eps":
        return pixels(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _word(name: str, value: Any) -> str:
    return _WORDS[name](value) if name in _WORDS else f"{name} {value}"


def _norm(value: str | float) -> str:
    return {"Linf": "L∞"}.get(value, value) if isinstance(value, str) else f"norm {value:g}"


def _frequencies(values: Sequence[float]) -> str:
    if list(values) == list(MIXING_FREQUENCIES):
        return "Li et al.’s frequencies"
    return f"frequencies {', '.join(f'{value:g}' for value in values)}"


_WORDS = {
    "source": "of {}".format,
    "eps": lambda value: f"ε = {pixels(value)}",
    "norm": _norm,
    "boundary": "HFC from {:.4g} cycles/pixel on".format,
    "seeds": lambda values: f"seeds {', '.join(map(str, values))}",
    "frequencies": _frequencies,
}
