"""Architectures, front ends, checkpoints, and ``load_model``."""

from freqrob.models import architectures as architectures
from freqrob.models.loading import list_models, load_model
from freqrob.models.registry import create_network, list_architectures

__all__ = ["create_network", "list_architectures", "list_models", "load_model"]
