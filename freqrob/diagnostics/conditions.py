"""Conditions of measurements, described in words, and their differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from freqrob.runtime import parameters

Conditions = Mapping[str, Any]
Words = Mapping[str, Callable[[Any], str]]
pixels = partial(parameters.pixels, digits=3)  # files have distances of six digits


def described(conditions: Conditions, words: Words = MappingProxyType({})) -> str:
    """Describe conditions, such as "500 images of cifar10 test, batch 128"; equal text means equal conditions.

    ``words`` maps a condition's name to a function that formats its value; by default "batch 128".
    """
    remaining = dict(conditions)
    parts = [images_of(remaining.pop("images"), remaining.pop("source", ""))] if "images" in remaining else []
    return ", ".join(parts + [_word(name, value, words) for name, value in remaining.items()])


def group_by_condition(measured: Mapping[str, Conditions], words: Words) -> dict[str, list[str]]:
    """Names of measurements of one kind, grouped by the conditions that differ between them; empty if none differ."""
    first = next(iter(measured.values()), {})
    written = {key: {_word(key, conditions[key], words) for conditions in measured.values()} for key in first}
    differing = [key for key, each in written.items() if len(each) > 1]
    groups: dict[str, list[str]] = {}
    for name, conditions in measured.items() if differing else ():
        groups.setdefault(described({key: conditions[key] for key in differing}, words), []).append(name)
    return groups


def images_of(count: int, source: str) -> str:
    """A number of images and their source, such as "500 images of cifar10 test"."""
    return f"{count:,} images" + (f" of {source}" if source else "")


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


def _word(name: str, value: Any, words: Words) -> str:
    write = words.get(name) or _WORDS.get(name)
    return write(value) if write else f"{name} {value}"


_WORDS = {
    "source": "of {}".format,
    "eps": lambda value: f"ε = {pixels(value)}",
    "norm": lambda value: value.replace("Linf", "L∞") if isinstance(value, str) else f"norm {value:g}",
    "seeds": lambda values: f"seeds {', '.join(map(str, values))}",
}
