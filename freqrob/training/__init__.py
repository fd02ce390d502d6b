"""Training of checkpoints from recipes."""

from freqrob.training.presets import parse_settings, preset, recipe_for
from freqrob.training.recipe import Recipe
from freqrob.training.trainer import train

__all__ = ["Recipe", "parse_settings", "preset", "recipe_for", "train"]
