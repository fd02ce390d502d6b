"""Settings of a recipe from a command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from freqrob.defenses import DEFENSES
from freqrob.models.registry import ModelName
from freqrob.runtime.parameters import checked, nearest_names, read_setting
from freqrob.training.recipe import Recipe


@checked
def parse_settings(recipe: str, texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``["lr=0.3", "steps=3"]`` into ``{"lr": 0.3, "defense": {"steps": 3}}``, for ``recipe_for``.

    Raises ValueError for text that is not KEY=VALUE, and, with the nearest names, for an unknown setting.

    >>> parse_settings("pgd_at_rn20", ["lr=0.3", "steps=3"])
    {'lr': 0.3, 'defense': {'steps': 3}}
    """
    values, elsewhere = dict(map(read_setting, texts)), ("name", "dataset", "threat_model")
    of_defense = [field.name for field in fields(DEFENSES[ModelName.parse(recipe).defense])]
    of_recipe = [field.name for field in fields(Recipe) if field.name not in (*elsewhere, "defense")]
    for key, value in values.items():
        if key in elsewhere:
            raise ValueError(f"--set: {key} has its own argument or option, got {key}={value}")
        if key not in of_recipe + of_defense:
            raise ValueError(
                f"--set: {recipe} has no setting {key}, expected any of {', '.join(of_recipe + of_defense)}."
                + nearest_names(key, of_recipe + of_defense)
            )
    return {key: values[key] for key in values if key in of_recipe} | {
        "defense": {key: values[key] for key in values if key in of_defense}
    }
