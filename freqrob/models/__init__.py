"""Architectures, front ends, checkpoints, sources, and ``load_model``."""

from freqrob.models import architectures as architectures
from freqrob.models.checkpoints import load_weights
from freqrob.models.loading import list_models, load_model
from freqrob.models.registry import create_network, list_architectures, register_architecture
from freqrob.models.sources import list_sources, open_model, register_source
from freqrob.models.twins import fast_gradients

__all__ = [
    "create_network",
    "fast_gradients",
    "list_architectures",
    "list_models",
    "list_sources",
    "load_model",
    "load_weights",
    "open_model",
    "register_architecture",
    "register_source",
]
