"""Measurements of speed, each a module to run: ``python -m benchmarks.spectral``."""
