"""Settings of a recipe as people write them on a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from fractions import Fraction
from typing import Any

from freqrob.defenses import DEFENSES
from freqrob.models.registry import ModelName, nearest_names
from freqrob.training.recipe import Recipe


def parse_settings(recipe: str, texts: Iterable[str]) -> dict[str, Any]:
    """``["lr=0.3", "steps=3"]`` as ``{"lr": 0.3, "defense": {"steps": 3}}``, for ``recipe_for``.

    Values are JSON, fractions such as 8/255, or text. Raises ValueError for what is no KEY=VALUE and for settings that
    neither the recipe nor its defence has, with the nearest names.
    """
    values, elsewhere = dict(_setting(text) for text in texts), ("name", "dataset", "threat_model")
    of_defense = [field.name for field in fields(DEFENSES[ModelName.parse(recipe).defense])]
    of_recipe = [field.name for field in fields(Recipe) if field.name not in (*elsewhere, "defense")]
    for key in values:
        if key in elsewhere:
            raise ValueError(f"--set: {key} is an argument or option of its own, got {key}={values[key]}")
        if key not in of_recipe + of_defense:
            raise ValueError(
                f"--set: {recipe} has no setting {key}, expected any of {', '.join(of_recipe + of_defense)}."
                + nearest_names(key, of_recipe + of_defense)
            )
    return {key: values[key] for key in values if key in of_recipe} | {
        "defense": {key: values[key] for key in values if key in of_defense}
    }


def _setting(text: str) -> tuple[str, Any]:
    """``steps=3`` as ("steps", 3); values are JSON, fractions such as 8/255, or text."""
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
